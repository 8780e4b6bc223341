//! Finds the library of ONNX Runtime and opens it.

use std::{
    path::{Path, PathBuf},
    sync::Mutex,
};

use anyhow::anyhow;
use ort::{LoadDynamicError, environment::Environment, logging::LogLevel};

/// The oldest supported version, as required by the `api-24` feature of `ort`. Later versions with
/// the same major version are compatible.
const OLDEST: &str = "1.24";
const MAJOR: &str = "1.";

/// The library with its environment and its path. A process can have only one.
static RUNTIME: Mutex<Option<Runtime>> = Mutex::new(None);

/// The opened ONNX Runtime library.
#[derive(Clone)]
pub(in super::super) struct Runtime {
    environment: Environment,
    library: PathBuf,
    name: String,
}

impl Runtime {
    pub(in super::super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Returns the path of the library.
    pub(super) fn path(&self) -> &Path {
        &self.library
    }
}

/// The reason why ONNX Runtime cannot be used.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum Missing {
    /// None of the usual places has the library.
    #[error("no ONNX Runtime library (libonnxruntime.so, version {OLDEST} or a later {MAJOR}x) in {0}")]
    NotFound(String),
    /// The library exists, but cannot be used.
    #[error("{library}: cannot be used as the ONNX Runtime library: {why}", library = .0.display(), why = .1)]
    Unusable(PathBuf, String),
}

/// Returns the library that would be opened: the configured one, or the first in the usual places.
pub(in super::super) fn library(set: Option<&Path>) -> Option<PathBuf> {
    set.map(Path::to_owned).or_else(|| found_in(&usual_places()).into_iter().next())
}

/// Opens the library once per process: the configured one, or the first in the usual places.
pub(in super::super) fn runtime(set: Option<&Path>) -> Result<Runtime, Missing> {
    let mut runtime = RUNTIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(open) = &*runtime {
        // The first library stays, since a process cannot replace it.
        if let Some(other) = set.filter(|set| std::fs::canonicalize(set).ok().as_ref() != Some(&open.library))
        {
            let why = format!("this process already uses {}", open.library.display());
            return Err(Missing::Unusable(other.to_owned(), why));
        }
        return Ok(open.clone());
    }
    let candidates = match set {
        Some(set) => vec![set.to_owned()],
        None => found_in(&usual_places()),
    };
    let mut first_problem = None;
    for library in candidates {
        match open(&library) {
            Ok(opened) => return Ok(runtime.insert(opened).clone()),
            Err(problem) => first_problem.get_or_insert(problem),
        };
    }
    Err(first_problem.unwrap_or_else(|| {
        let places: Vec<_> = usual_places().iter().map(|place| place.display().to_string()).collect();
        Missing::NotFound(places.join(", "))
    }))
}

fn open(library: &Path) -> Result<Runtime, Missing> {
    let unusable = |why: String| Missing::Unusable(library.to_owned(), why);
    let library = std::fs::canonicalize(library).map_err(|error| unusable(error.to_string()))?;
    // Opening another kind of library may fail in any way, including an assertion in `ort`.
    let opened = std::panic::catch_unwind(|| -> anyhow::Result<Environment> {
        let builder = ort::init_from(&library).map_err(unfit)?;
        // Warnings concern its own optimisations; errors are also returned as results.
        let logger = |level: LogLevel, _: &str, _: &str, place: &str, text: &str| match level {
            LogLevel::Fatal | LogLevel::Error => tracing::debug!(place, "ONNX Runtime: {text}"),
            LogLevel::Verbose | LogLevel::Info | LogLevel::Warning => {
                tracing::trace!(place, "ONNX Runtime: {text}")
            }
        };
        Ok(builder
            .with_name("eirs")
            .with_telemetry(false)
            .with_logger(std::sync::Arc::new(logger))
            .build()?)
    });
    let environment = match opened {
        Ok(Ok(environment)) => environment,
        Ok(Err(error)) => return Err(unusable(error.to_string())),
        Err(panic) => return Err(unusable(crate::classify::panic_text(&*panic).to_owned())),
    };
    let version = version(ort::info(), &library);
    if let Some(version) = version.as_deref().filter(|version| !version.starts_with(MAJOR)) {
        return Err(unusable(format!("it is version {version}, and {OLDEST} or a later {MAJOR}x is needed")));
    }
    let name = version.map_or("onnxruntime".to_owned(), |version| format!("onnxruntime {version}"));
    Ok(Runtime { environment, library, name })
}

/// Describes the problem of a library, without its path.
fn unfit(error: LoadDynamicError) -> anyhow::Error {
    match error {
        LoadDynamicError::BadVersion { version_str, .. } => {
            anyhow!("it is version {version_str}, and {OLDEST} or a later {MAJOR}x is needed")
        }
        LoadDynamicError::MissingApi { .. } => anyhow!("it is another library"),
        LoadDynamicError::Dlopen { error, .. } => anyhow!("{error}"),
        LoadDynamicError::InvalidVersionString => anyhow!("its version cannot be read"),
    }
}

/// Returns the version, from the name of the file or from the build information.
fn version(build: &str, library: &Path) -> Option<String> {
    let branch = build.split("git-branch=rel-").nth(1).and_then(|rest| rest.split(',').next());
    let file = library.file_name().and_then(|name| name.to_str());
    let suffix = file.and_then(|name| name.split(".so.").nth(1)).filter(|suffix| suffix.contains('.'));
    suffix.or(branch).map(str::to_owned)
}

/// Returns the places to search for the library, in order.
fn usual_places() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let executable = std::env::current_exe().ok();
    let beside = executable.as_deref().and_then(Path::parent);
    let cache = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
    [
        variable("ORT_DYLIB_PATH"),
        beside.map(Path::to_owned),
        beside.and_then(Path::parent).map(|prefix| prefix.join("lib/eirs")),
        cache.map(|cache| cache.join("eirs/onnxruntime")),
    ]
    .into_iter()
    .flatten()
    .chain(["/usr/lib/eirs", "/usr/local/lib", "/usr/lib", "/usr/lib/x86_64-linux-gnu"].map(PathBuf::from))
    .collect()
}

/// Returns the libraries in these places, each of which is a folder or a file. Within a folder, the
/// newest comes first.
fn found_in(places: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for place in places {
        if place.is_file() {
            found.push(place.clone());
            continue;
        }
        let names = std::fs::read_dir(place).into_iter().flatten().flatten().map(|entry| entry.path());
        let is_library = |path: &PathBuf| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with("libonnxruntime.so"))
        };
        let mut here: Vec<_> = names.filter(is_library).collect();
        // Numbers must be compared as numbers: 1.9 is older than 1.10.
        here.sort_by_key(|path| {
            let name = path.to_string_lossy().into_owned();
            std::cmp::Reverse(name.split('.').filter_map(|part| part.parse::<u32>().ok()).collect::<Vec<_>>())
        });
        found.append(&mut here);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_library_in_a_folder_is_first_and_a_file_is_used_directly() {
        let folder = tempfile::tempdir().unwrap();
        for name in
            ["libonnxruntime.so.1.9.0", "libonnxruntime.so.1.24.1", "libonnxruntime_providers_shared.so"]
        {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let named = folder.path().join("libonnxruntime_providers_shared.so");
        let found = found_in(&[folder.path().join("nowhere"), folder.path().to_owned(), named.clone()]);
        let expected =
            ["libonnxruntime.so.1.24.1", "libonnxruntime.so.1.9.0"].map(|name| folder.path().join(name));
        assert_eq!(found[..2], expected);
        assert_eq!(found[2..], [named]);
    }

    #[test]
    fn the_version_is_that_of_the_file_name_or_else_of_the_build() {
        let build = "ORT Build Info: git-branch=rel-1.24.2, git-commit-id=26250ae, build type=Release";
        assert_eq!(version(build, Path::new("/x/libonnxruntime.so.1.24.1")).unwrap(), "1.24.1");
        assert_eq!(version(build, Path::new("/x/libonnxruntime.so.1")).unwrap(), "1.24.2");
        assert_eq!(version("", Path::new("/x/libonnxruntime.so")), None);
    }

    #[test]
    fn the_error_names_a_file_that_is_not_a_library() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = open(file.path()).err().unwrap().to_string();
        assert!(error.contains(&file.path().display().to_string()), "{error}");
    }
}
