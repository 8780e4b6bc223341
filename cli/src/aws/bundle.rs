//! Builds an archive with everything that a worker or a web host needs, to be unpacked over the
//! root of a machine. Equal contents give equal archives, so the digest shows whether a machine is
//! up to date.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use eirs_platform::{
    aws::{self, Service},
    lifecycle,
    settings::{Classifier, Model, Settings},
    version,
};
use eirs_worker::classify;
use flate2::{Compression, GzBuilder};
use serde_json::Value;
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use super::{
    Account,
    iam::{Role, policies::Scope},
};

const WORKER_UNIT: &str = include_str!("../../../systemd/eirs-worker.service");
const GUARD: &str = include_str!("../../../systemd/eirs-guard");
const GUARD_UNITS: [(&str, &str); 2] = [
    ("eirs-guard.service", include_str!("../../../systemd/eirs-guard.service")),
    ("eirs-guard.timer", include_str!("../../../systemd/eirs-guard.timer")),
];
const SCRIPT_UNITS: [(&str, &str); 2] = [
    ("eirs-script.service", include_str!("../../../systemd/eirs-script.service")),
    ("eirs-script.socket", include_str!("../../../systemd/eirs-script.socket")),
];
const SCRIPT_SYSUSERS: &str = include_str!("../../../systemd/eirs-script.sysusers");
const SCRIPT_TMPFILES: &str = include_str!("../../../systemd/eirs-script.tmpfiles");
/// The socket, as in that unit.
const SCRIPT_SOCKET: &str = "/run/eirs-script/socket";
const SHIP_LOGS: &str = include_str!("../../../systemd/eirs-logs");
const LOGS_UNITS: [(&str, &str); 3] = [
    ("eirs-logs.service", include_str!("../../../systemd/eirs-logs.service")),
    ("eirs-logs.timer", include_str!("../../../systemd/eirs-logs.timer")),
    ("eirs-logs-last.service", include_str!("../../../systemd/eirs-logs-last.service")),
];
const WEB_UNIT: &str = include_str!("../../../systemd/eirs-web.service");
const CONTROLLER_UNIT: &str = include_str!("../../../systemd/eirs-controller.service");
const POLICIES_PATH: &str = include_str!("../../../systemd/eirs-policies.path");
const TARGET: &str = include_str!("../../../systemd/eirs.target");
const SYSUSERS: &str = include_str!("../../../systemd/eirs.sysusers");
const TMPFILES: &str = include_str!("../../../systemd/eirs.tmpfiles");

/// The places of programs, units and files of EIRS on a machine.
pub(crate) const BIN: &str = "usr/bin";
const UNITS: &str = "usr/lib/systemd/system";
const MODELS: &str = "usr/share/eirs/models";
const LIB: &str = "usr/lib/eirs";
pub(crate) const ETC: &str = "etc/eirs";
/// The settings and policies of a web host as setup wrote them, with which an upgrade finds later
/// changes.
pub(crate) const AS_SET_UP: &str = "usr/share/eirs/as-set-up";

/// The prefix of log keys in the bucket of the results.
pub(crate) const LOGS: &str = "logs";

const BUILT_IN_POLICY: &str = include_str!("../../../policies/default.toml");

/// The operator's script that prepares the machine from which an image is baked.
pub(crate) const PREPARE: &str = "usr/lib/eirs/prepare";

/// An archive on the disk of this machine.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub(crate) file: tempfile::NamedTempFile,
    /// SHA-256, in hexadecimal.
    pub(crate) digest: String,
    pub(crate) bytes: u64,
    pub(crate) has_prepare: bool,
}

/// The contents, by the path at which they are unpacked.
type Entries = BTreeMap<String, Entry>;

#[derive(Debug)]
enum Entry {
    Text(String),
    File(PathBuf),
    Program(PathBuf),
    /// A symlink with its target; Python's virtual environments contain many.
    Link(PathBuf),
}

impl Bundle {
    /// Builds the archive for a machine of this role.
    pub(crate) fn of(account: &Account, role: Role) -> anyhow::Result<Self> {
        let entries = match role {
            Role::Worker => worker(account)?,
            Role::Web => web(account)?,
        };
        let mut file =
            tempfile::NamedTempFile::new_in(scratch()).context("there is no room for the archive")?;
        let mut hashing = Hashing { file: file.as_file_mut(), digest: Sha256::new(), bytes: 0 };
        // Without date and name, so that the digest is reproducible.
        let mut archive =
            tar::Builder::new(GzBuilder::new().mtime(0).write(&mut hashing, Compression::fast()));
        for (path, entry) in &entries {
            entry.append(&mut archive, path).with_context(|| format!("{path} of the archive"))?;
        }
        archive.into_inner().and_then(flate2::write::GzEncoder::finish).context("writing the archive")?;
        let (digest, bytes) = (hex(&hashing.digest.finalize()), hashing.bytes);
        Ok(Self { file, digest, bytes, has_prepare: entries.contains_key(PREPARE) })
    }
}

fn common(units: &[(&str, &str)], programs: &[&str]) -> anyhow::Result<Entries> {
    let mut entries = Entries::new();
    for program in programs {
        let path = lifecycle::sibling(program).context("setup uses the programs in its own folder")?;
        entries.insert(format!("{BIN}/{program}"), Entry::Program(path));
    }
    for (name, unit) in units {
        entries.insert(format!("{UNITS}/{name}"), Entry::Text((*unit).to_owned()));
    }
    entries.insert("usr/lib/sysusers.d/eirs.conf".into(), Entry::Text(SYSUSERS.to_owned()));
    entries.insert("usr/lib/tmpfiles.d/eirs.conf".into(), Entry::Text(TMPFILES.to_owned()));
    Ok(entries)
}

/// Returns whether the command of this model runs as another user than the worker.
fn isolates(settings: &Settings, model: &Model) -> bool {
    settings.setup.isolate_scripts && model.classifier == Classifier::Script
}

/// Returns the units that copy a machine's logs, if that is enabled.
fn logs(account: &Account) -> Entries {
    if !account.settings.setup.ship_logs {
        return Entries::new();
    }
    let scope = Scope::of(&account.settings, &account.id, &account.region);
    let bucket = account.output_bucket();
    // An emulator does not resolve bucket names.
    let to = match aws::endpoint(&account.settings.aws, Service::S3) {
        Some(endpoint) => format!("{}/{bucket}", endpoint.trim_end_matches('/')),
        None => scope.bucket_address(bucket),
    };
    let settings =
        format!("LOGS_TO={to}/{LOGS}\nLOGS_REGION={}\nLOGS_OWNER={}\n", account.region, account.id);
    let units = LOGS_UNITS.map(|(name, unit)| (format!("{UNITS}/{name}"), Entry::Text(unit.to_owned())));
    let more = [(format!("{LIB}/logs"), SHIP_LOGS.to_owned()), (format!("{ETC}/logs.env"), settings)];
    units.into_iter().chain(more.map(|(path, text)| (path, Entry::Text(text)))).collect()
}

fn worker(account: &Account) -> anyhow::Result<Entries> {
    let units = [&[("eirs-worker.service", WORKER_UNIT)], &GUARD_UNITS[..]].concat();
    let mut entries = common(&units, &["eirs-worker"])?;
    entries.insert(format!("{LIB}/guard"), Entry::Text(GUARD.to_owned()));
    entries.extend(logs(account));
    if account.settings.models.values().any(|model| isolates(&account.settings, model)) {
        let units = SCRIPT_UNITS.map(|(name, unit)| (format!("{UNITS}/{name}"), unit));
        let own = [("sysusers", SCRIPT_SYSUSERS), ("tmpfiles", SCRIPT_TMPFILES)];
        let own = own.map(|(kind, text)| (format!("usr/lib/{kind}.d/eirs-script.conf"), text));
        entries.extend(units.into_iter().chain(own).map(|(path, text)| (path, Entry::Text(text.to_owned()))));
    }
    let (settings, files) = worker_settings(&account.settings)?;
    entries.insert(format!("{ETC}/eirs.toml"), Entry::Text(settings));
    entries.extend(files.into_iter().map(|(path, file)| (path, Entry::File(file))));
    for path in &account.settings.setup.include {
        include(path, &mut entries)?;
    }
    if let Some(script) = &account.settings.setup.prepare {
        entries.insert(PREPARE.to_owned(), Entry::Program(script.clone()));
    }
    Ok(entries)
}

fn web(account: &Account) -> anyhow::Result<Entries> {
    let units = [
        ("eirs-web.service", WEB_UNIT),
        ("eirs-controller.service", CONTROLLER_UNIT),
        ("eirs-policies.path", POLICIES_PATH),
        ("eirs.target", TARGET),
    ];
    let mut entries = common(&units, &["eirs", "eirs-controller", "eirs-web"])?;
    entries.extend(logs(account));
    let settings = web_settings(&account.settings)?;
    for folder in [ETC, AS_SET_UP] {
        entries.insert(format!("{folder}/eirs.toml"), Entry::Text(settings.clone()));
        for (name, text) in policies(&account.settings)? {
            entries.insert(format!("{folder}/policies/{name}"), Entry::Text(text));
        }
    }
    Ok(entries)
}

/// Returns the policy files by name: the configured ones, or else the built-in one.
pub(crate) fn policies(settings: &Settings) -> anyhow::Result<Vec<(String, String)>> {
    let folder = &settings.controller.policies;
    if *folder == Settings::default().controller.policies && !folder.is_dir() {
        return Ok(vec![("default.toml".to_owned(), BUILT_IN_POLICY.to_owned())]);
    }
    let named = || format!("the policies {}", folder.display());
    let mut policies = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(named)? {
        let path = entry.with_context(named)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).filter(|name| name.ends_with(".toml"));
        if let Some(name) = name.filter(|_| path.is_file()) {
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            policies.push((name.to_owned(), text));
        }
    }
    policies.sort();
    Ok(policies)
}

/// Adds a file or all files in a folder, at the same path as here.
fn include(path: &Path, entries: &mut Entries) -> anyhow::Result<()> {
    let named = || format!("setup.include: {}", path.display());
    let path = std::fs::canonicalize(path).with_context(named)?;
    for found in WalkDir::new(&path).sort_by_file_name() {
        let found = found.with_context(named)?;
        let place = found.path().strip_prefix("/").ok().and_then(Path::to_str).with_context(named)?;
        if found.path_is_symlink() {
            let target = std::fs::read_link(found.path()).with_context(named)?;
            entries.insert(place.to_owned(), Entry::Link(target));
            continue;
        }
        if !found.file_type().is_file() {
            continue;
        }
        let is_program = is_executable(found.path());
        let file = found.path().to_owned();
        entries.insert(place.to_owned(), if is_program { Entry::Program(file) } else { Entry::File(file) });
    }
    Ok(())
}

/// Returns a folder for temporary files on disk: `/tmp` is often in memory, and too small for
/// models.
fn scratch() -> PathBuf {
    let disk = Path::new("/var/tmp");
    let is_set = std::env::var_os("TMPDIR").is_some();
    if is_set || !disk.is_dir() { std::env::temp_dir() } else { disk.to_owned() }
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|data| data.permissions().mode() & 0o111 != 0)
}

/// Returns the settings of the workers, and the files that they name, each with its path on the
/// machine.
pub(crate) fn worker_settings(settings: &Settings) -> anyhow::Result<(String, Vec<(String, PathBuf)>)> {
    let mut written = json(settings, &["aws", "queue", "worker", "models", "telemetry"])?;
    let mut files = Vec::new();
    for (name, model) in &settings.models {
        for (key, file) in classify::files(model) {
            let file_name = file.file_name().and_then(|name| name.to_str()).unwrap_or(key);
            let (place, is_library) = match key {
                // Every model finds it there without a setting.
                "onnxruntime" => (format!("{LIB}/{file_name}"), true),
                _ => (place_of(&files, &format!("{MODELS}/{name}"), key, file_name, &file), false),
            };
            let value = if is_library { Value::Null } else { Value::from(format!("/{place}")) };
            written["models"][name][key] = value;
            if key == "path" {
                files.extend(weights_of(&file, &format!("{MODELS}/{name}")));
            }
            files.push((place, file));
        }
        if isolates(settings, model) {
            written["models"][name]["script_socket"] = SCRIPT_SOCKET.into();
        }
        written["models"][name]["digest"] = version(model).map_or(Value::Null, Value::from);
    }
    Ok((toml(written, "The settings of the workers")?, files))
}

/// Returns the path for a file of a model: under its own name, unless another file has that name.
fn place_of(files: &[(String, PathBuf)], folder: &str, key: &str, name: &str, file: &Path) -> String {
    let place = format!("{folder}/{name}");
    let is_taken = files.iter().any(|(taken, other)| *taken == place && other != file);
    if is_taken { format!("{folder}/{key}/{name}") } else { place }
}

/// Returns the weight files of a large model: `model.onnx.data`, `model.onnx_data`, and others that
/// the model names.
fn weights_of(model: &Path, place: &str) -> BTreeMap<String, PathBuf> {
    let name = model.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let usual = [format!("{name}.data"), format!("{name}_data")];
    let usual = usual.into_iter().map(|name| (name.clone(), model.with_file_name(name)));
    let there = usual.filter(|(_, file)| file.is_file()).chain(version::weights(model).files());
    there.map(|(name, file)| (format!("{place}/{}", name.trim_start_matches("./")), file)).collect()
}

/// Computes the version of a model here, where its files are, so that workers and web hosts agree
/// on it. The parts of a script may only exist on the workers; then they compute it, and web hosts
/// learn it from their replies.
fn version(model: &Model) -> Option<String> {
    version::of(model).ok()
}

/// Returns the settings of a web host: it listens on all addresses, and has its policies where the
/// package puts them.
pub(crate) fn web_settings(settings: &Settings) -> anyhow::Result<String> {
    let web = &settings.web;
    // Without these, the host would be open; with them, it would not start.
    anyhow::ensure!(
        web.tokens.is_none() && web.tls.certificate.is_none() && web.webhook.key.is_none(),
        "web.tokens, web.tls, web.webhook: setup copies no such files to a web host; remove them here and \
        set them there (docs/ACCESS.md), or set the host up yourself and use --web-host none"
    );
    let mut written = json(settings, &["aws", "queue", "web", "worker", "controller", "telemetry", "setup"])?;
    // Another address was set on purpose.
    if settings.web.listen == Settings::default().web.listen {
        written["web"]["listen"] = format!("0.0.0.0:{}", settings.web.listen.port()).into();
    }
    written["web"]["address_file"] = Value::Null;
    written["web"]["admin_address_file"] = Value::Null;
    written["controller"]["policies"] = format!("/{ETC}/policies").into();
    // A folder that the units may write, and in which `eirs status` looks on that host.
    written["local"] = serde_json::json!({ "state": "/var/lib/eirs" });
    for key in ["status_file", "worker_program", "simulate"] {
        written["controller"][key] = Value::Null;
    }
    // These paths only exist where setup runs.
    for key in ["include", "prepare"] {
        written["setup"][key] = Value::Null;
    }
    // A web host needs names and versions of the models, but none of their files.
    for (name, model) in &settings.models {
        let digest = version(model).unwrap_or_else(|| version::ASK_WORKERS.to_owned());
        written["models"][name] = serde_json::json!({ "classifier": "noop", "digest": digest });
    }
    toml(written, "The settings of this web host")
}

/// Returns the settings with which the operator finds this installation.
pub(crate) fn operator_settings(settings: &Settings) -> anyhow::Result<String> {
    toml(json(settings, &["aws", "setup"])?, "The settings with which eirs finds this installation")
}

fn json(settings: &Settings, sections: &[&str]) -> anyhow::Result<Value> {
    let all = serde_json::to_value(settings).context("writing the settings")?;
    let mut chosen = serde_json::json!({ "backend": "aws" });
    for section in sections {
        chosen[*section] = all[*section].clone();
    }
    Ok(chosen)
}

fn toml(mut settings: Value, title: &str) -> anyhow::Result<String> {
    remove_nulls(&mut settings);
    let text = toml::to_string(&settings).context("writing the settings")?;
    Ok(format!("# {title}, written by `eirs setup`; docs/SETTINGS.md explains each.\n\n{text}"))
}

fn remove_nulls(value: &mut Value) {
    if let Value::Object(table) = value {
        table.retain(|_, value| !value.is_null());
        table.values_mut().for_each(remove_nulls);
    }
}

impl Entry {
    fn append(&self, archive: &mut tar::Builder<impl Write>, path: &str) -> anyhow::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_mode(if matches!(self, Self::Program(_)) { 0o755 } else { 0o644 });
        header.set_mtime(0);
        match self {
            Self::Text(text) => {
                header.set_size(text.len() as u64);
                archive.append_data(&mut header, path, text.as_bytes())?;
            }
            Self::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                archive.append_link(&mut header, path, target)?;
            }
            Self::File(file) | Self::Program(file) => {
                let open = File::open(file).with_context(|| format!("{} cannot be read", file.display()))?;
                let size = open.metadata()?.len();
                header.set_size(size);
                archive.append_data(&mut header, path, open.take(size))?;
            }
        }
        Ok(())
    }
}

/// Counts and hashes the written bytes.
struct Hashing<'a> {
    file: &'a mut File,
    digest: Sha256,
    bytes: u64,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.digest.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
