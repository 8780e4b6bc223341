//! The version of a model: a short digest of everything that determines its results. Results are
//! stored under it, so that a result of the model as it was is never taken for one of the model as
//! it is.
//!
//! Web hosts, workers and the controller of one machine compute it from the same settings and
//! files, and so agree without communication. For machines without the files, the setting `digest`
//! has it; `eirs setup` writes that. `version/watch.rs` detects changes while a program runs.
//!
//! The way in which the model is run (`engine`, `provider`, `batch`, `timeout`) is not part of it:
//! the engines agree except for rounding.

pub mod watch;
mod weights;

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{LazyLock, Mutex, PoisonError},
};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{
    program,
    settings::{Classifier, Model},
    state_folder::{Stamp, Stamps},
};

pub use self::weights::{lfs_pointer, weights};
pub use crate::names::is_version;

/// Increase this with every change of the worker that changes any model's scores for the same image
/// and settings: in decoding, scaling or the softmax.
pub const DECODER: u32 = 10;

/// The SHA-256 of the built-in model of drawn shapes, and of its labels. A test of the worker
/// compares them with what is built in.
pub const BUILT_IN: [&str; 2] = [
    "98fab98b3bc761dcfba02b5ec18ff697545a97f2afec6bedd2bea575c37ed4fd",
    "9d7d7b956f7ef954aecdd936fd197a60a3e2283517b374c67fa6a4f3bac2ad58",
];

/// Settings of a model that do not change results, or whose file's content is included instead.
const CHANGES_NOTHING: [&str; 14] = [
    "path",
    "labels",
    "preset_file",
    "engine",
    "onnxruntime",
    "provider",
    "engine_threads",
    "memory_arena",
    "batch",
    "check_image",
    "check_label",
    "script_socket",
    "timeout",
    "digest",
];
/// Settings that apply to scripts only, ...
const OF_SCRIPTS: [&str; 3] = ["command", "env", "protocol"];
/// ... and settings that apply to scripts and to other classifiers.
const OF_ALL: [&str; 4] = ["classifier", "top", "max_pixels", "version"];

/// The value of `digest` if only the workers know it: the version is the one in their replies.
pub const ASK_WORKERS: &str = "unknown";

/// Number of bytes of the SHA-256 that are kept: enough for all versions that anyone trains.
const BYTES: usize = 8;

/// The reason why the version of a model is not known here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unknown(String);

/// Returns the version of a model from its current settings and files. Hashes are cached as long as
/// a file does not change.
///
/// # Errors
///
/// A sentence if a file cannot be read.
pub fn of(model: &Model) -> Result<String, Unknown> {
    match model.digest.as_deref() {
        Some(ASK_WORKERS) => return Err(Unknown("the workers report it".to_owned())),
        Some(digest) => return Ok(digest.to_owned()),
        None => {}
    }
    let mut hashing = Fields(Sha256::new());
    hashing.add("decoder", DECODER.to_string().as_bytes());
    for (key, value) in deciding_settings(model) {
        hashing.add(&key, value.to_string().as_bytes());
    }
    for source in sources(model)? {
        match source {
            Source::BuiltIn(name, digest) => hashing.add(name, digest.as_bytes()),
            Source::File(name, file) => hashing.add(name, content(&file)?.as_bytes()),
        }
    }
    Ok(hex(&hashing.0.finalize()[..BYTES]))
}

/// Returns the stamps of a model's files, to detect changes.
pub fn stamps(model: &Model) -> Stamps {
    let sources = sources(model).unwrap_or_default();
    let files = sources.into_iter().filter_map(Source::file);
    // Missing files may be created later.
    let named = [model.path.clone(), model.labels.clone(), model.preset_reads()];
    Stamps::now(files.chain(named.into_iter().flatten()))
}

/// An input of the version in addition to the settings.
enum Source {
    BuiltIn(&'static str, &'static str),
    File(&'static str, PathBuf),
}

impl Source {
    fn file(self) -> Option<PathBuf> {
        match self {
            Self::BuiltIn(..) => None,
            Self::File(_, file) => Some(file),
        }
    }
}

fn sources(model: &Model) -> Result<Vec<Source>, Unknown> {
    match model.classifier {
        Classifier::Onnx => Ok(of_onnx(model)),
        Classifier::Script => of_script(&model.command),
        Classifier::Noop => Ok(Vec::new()),
    }
}

fn of_onnx(model: &Model) -> Vec<Source> {
    let mut sources = match &model.path {
        Some(path) => vec![Source::File("model", path.clone())],
        None => vec![Source::BuiltIn("model", BUILT_IN[0])],
    };
    let weights = model.path.iter().flat_map(|path| weights(path).files());
    sources.extend(weights.map(|(_, file)| Source::File("weights", file)));
    match model.labels_file() {
        Some(labels) => sources.push(Source::File("labels", labels)),
        None if model.path.is_none() => sources.push(Source::BuiltIn("labels", BUILT_IN[1])),
        None => {}
    }
    sources.extend(model.preset_reads().map(|file| Source::File("preset", file)));
    sources
}

/// Returns the program, and every file that an argument names: the script of an interpreter, the
/// weights passed to it.
fn of_script(command: &[String]) -> Result<Vec<Source>, Unknown> {
    let Some((program, arguments)) = command.split_first() else { return Ok(Vec::new()) };
    let found = program::find(program).map_err(|why| Unknown(format!("command: {why}")))?;
    let named = arguments.iter().flat_map(|argument| named_files(argument));
    Ok(std::iter::once(Source::File("program", found))
        .chain(named.map(|file| Source::File("argument", file)))
        .collect())
}

/// Returns the files that an argument names: itself, the `FILE` of `--weights=FILE`, the words of
/// `sh -c 'python3 classify.py'`. Excludes targets of a shell's redirections.
fn named_files(argument: &str) -> Vec<PathBuf> {
    let whole = PathBuf::from(argument);
    if whole.is_file() {
        return vec![whole];
    }
    let mut files = Vec::new();
    let mut is_written = false;
    for word in argument.split_whitespace() {
        if let Some((_, target)) = word.rsplit_once('>') {
            is_written = target.is_empty();
            continue;
        }
        if std::mem::take(&mut is_written) {
            continue;
        }
        let value = word.rsplit('=').next().unwrap_or(word);
        let file = PathBuf::from(value.trim_matches(['"', '\'', ';', '(', ')', '|', '&', '<', '`', '$']));
        if file.is_file() {
            files.push(file);
        }
    }
    files
}

/// Returns the settings that change results, sorted by name. Leaves out unset keys, so that a key
/// added in a later version changes nothing while it is not set.
fn deciding_settings(model: &Model) -> Vec<(String, Value)> {
    let decides = |key: &str| match model.classifier {
        Classifier::Onnx => !CHANGES_NOTHING.contains(&key) && !OF_SCRIPTS.contains(&key),
        Classifier::Script => OF_SCRIPTS.contains(&key) || OF_ALL.contains(&key),
        Classifier::Noop => ["classifier", "version"].contains(&key),
    };
    let Ok(Value::Object(all)) = serde_json::to_value(model) else { return Vec::new() };
    let mut deciding: Vec<_> =
        all.into_iter().filter(|(key, value)| decides(key) && !value.is_null()).collect();
    deciding.sort_by(|(a, _), (b, _)| a.cmp(b));
    deciding
}

/// A hash of fields, each with its name and length, so that different lists of fields differ.
struct Fields(Sha256);

impl Fields {
    fn add(&mut self, name: &str, value: &[u8]) {
        for part in [name.as_bytes(), value] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
    }
}

/// A cache per file, valid as long as the file's stamp does not change.
type Known<T> = LazyLock<Mutex<HashMap<PathBuf, (Stamp, T)>>>;

/// The cache of hashes: hashing a gigabyte takes a second.
static HASHED: Known<String> = Known::new(Mutex::default);

/// Returns the SHA-256 of a file's content.
fn content(file: &Path) -> Result<String, Unknown> {
    let unreadable = |error: io::Error| Unknown(format!("{}: cannot be read: {error}", file.display()));
    let hashed = || HASHED.lock().unwrap_or_else(PoisonError::into_inner);
    let stamp = Stamp::now(file);
    if let Some((_, digest)) = hashed().get(file).filter(|(known, _)| *known == stamp) {
        return Ok(digest.clone());
    }
    let digest = hash(file).map_err(unreadable)?;
    // If the file has changed meanwhile, the next call hashes it again.
    if Stamp::now(file) == stamp {
        hashed().insert(file.to_owned(), (stamp, digest.clone()));
    }
    Ok(digest)
}

fn hash(file: &Path) -> io::Result<String> {
    let (mut file, mut hasher) = (File::open(file)?, Sha256::new());
    let mut part = vec![0; 256 * 1024];
    loop {
        match file.read(&mut part)? {
            0 => return Ok(hex(&hasher.finalize())),
            read => hasher.update(&part[..read]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
