//! Reads the layers, collects all errors and merges them.

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

use config::{Config, ConfigError, File, FileFormat, Map, Source, Value, ValueKind};

use super::{
    Settings,
    environment::{self, Variable},
    mistyped, paths, secrets,
};

/// The default settings file.
const DEFAULT_FILE: &str = "/etc/eirs/eirs.toml";

/// The environment variable with the path of the settings file.
const FILE_VARIABLE: &str = "EIRS_CONFIG";

/// The sources of settings, in rising order of precedence.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    file: Option<PathBuf>,
    environment: Vec<(String, String)>,
    flags: Vec<(String, String)>,
}

/// All errors in the settings, one per line.
#[derive(Debug, PartialEq, Eq)]
pub struct BadSettings(pub Vec<String>);

impl fmt::Display for BadSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for BadSettings {}

impl Layers {
    /// The layers of this process: `file`, or else `$EIRS_CONFIG`, or else `/etc/eirs/eirs.toml` if
    /// it exists; then the environment.
    pub fn of_process(file: Option<&Path>) -> Self {
        let named = file
            .map(Path::to_owned)
            .or_else(|| std::env::var_os(FILE_VARIABLE).filter(|name| !name.is_empty()).map(PathBuf::from));
        let usual = Path::new(DEFAULT_FILE).exists().then(|| PathBuf::from(DEFAULT_FILE));
        // A variable that is not UTF-8 is not a setting.
        let text =
            |(key, value): (OsString, OsString)| Some((key.into_string().ok()?, value.into_string().ok()?));
        let environment = std::env::vars_os().filter_map(text).collect();
        Self { file: named.or(usual), environment, flags: Vec::new() }
    }

    /// Exactly these layers, for tests, and for tools that check a file before it is used.
    pub fn of(file: Option<&Path>, environment: &[(&str, &str)]) -> Self {
        let environment = environment.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        Self { file: file.map(Path::to_owned), environment, flags: Vec::new() }
    }

    /// Adds a flag of the command line that sets `key`, such as `web.listen`.
    pub fn flag(mut self, key: &str, value: Option<impl ToString>) -> Self {
        self.flags.extend(value.map(|value| (key.to_owned(), value.to_string())));
        self
    }

    /// Returns the settings file, so that a process can pass it to its children.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Returns whether any layer sets `key`, even to its default.
    pub fn sets(&self, key: &str) -> bool {
        let layers = self.read().unwrap_or_default();
        layers.iter().any(|layer| layer.0.iter().any(|(_, set, _)| set == key))
    }

    /// Returns a sentence for each ignored environment variable that may have been meant as a
    /// setting.
    pub fn strays(&self) -> Vec<String> {
        let stray = |(name, value): &(String, String)| match environment::judge(name, value) {
            Variable::Stray(sentence) => Some(sentence),
            Variable::Setting(_) | Variable::Foreign => None,
        };
        self.environment.iter().filter_map(stray).collect()
    }

    /// Returns the merged settings, or all errors.
    pub fn load(&self) -> Result<Settings, BadSettings> {
        let layers = self.read()?;

        let mut complaints: Vec<_> = layers.iter().flat_map(Layer::complaints).collect();
        // Each key of a model with an invalid name repeats that error.
        complaints.dedup();
        if !complaints.is_empty() {
            return Err(BadSettings(complaints));
        }
        let merged = layers.into_iter().fold(Config::builder(), |builder, layer| builder.add_source(layer));
        let settings: Settings = merged
            .build()
            .and_then(Config::try_deserialize)
            .map_err(|error| BadSettings(vec![sentence(&error)]))?;
        let settings = with_default_model(settings);
        match settings.complaints() {
            none if none.is_empty() => Ok(settings),
            complaints => Err(BadSettings(complaints)),
        }
    }
}

impl Layers {
    fn read(&self) -> Result<Vec<Layer>, BadSettings> {
        let mut layers = Vec::new();
        if let Some(path) = &self.file {
            layers.push(read_file(path).map_err(BadSettings)?);
        }
        layers.push(Layer::of_texts(self.environment.iter().filter_map(|(name, value)| {
            match environment::judge(name, value) {
                Variable::Setting(key) => Some((name.clone(), key, value.as_str())),
                Variable::Stray(_) | Variable::Foreign => None,
            }
        })));
        layers.push(Layer::of_texts(
            self.flags
                .iter()
                .map(|(key, value)| (format!("the flag for {key}"), key.clone(), value.as_str())),
        ));
        Ok(layers)
    }
}

/// A file with other models need not repeat the default one.
fn with_default_model(mut settings: Settings) -> Settings {
    settings.models.entry(super::Model::DEFAULT.to_owned()).or_default();
    settings
}

/// The values of one layer, each with its source and key.
#[derive(Debug, Clone)]
struct Layer(Vec<(String, String, Value)>);

fn read_file(path: &Path) -> Result<Layer, Vec<String>> {
    let shown = path.display();
    let text =
        std::fs::read_to_string(path).map_err(|error| vec![format!("{shown}: cannot be read: {error}")])?;
    // First of all, because other errors would quote the line.
    let secrets = secrets::in_text(&shown.to_string(), &text);
    if !secrets.is_empty() {
        return Err(secrets);
    }
    let table = File::from_str(&text, FileFormat::Toml)
        .collect()
        .map_err(|error| vec![not_toml(&shown.to_string(), &error.to_string(), &text)])?;
    let mut leaves = Vec::new();
    flatten(&shown.to_string(), "", table, &mut leaves);
    Ok(Layer(leaves))
}

/// An error of the TOML, with the line where the library names none.
fn unreadable(error_text: &str, text: &str) -> String {
    if error_text != "number too large to fit in target type" {
        return error_text.to_owned();
    }
    let is_huge = |line: &str| {
        line.split(|c: char| !(c.is_ascii_digit() || c == '_'))
            .any(|digits| digits.replace('_', "").len() > 18)
    };
    match text.lines().enumerate().find(|(_, line)| is_huge(line)) {
        Some((number, line)) => {
            format!("line {}: `{}`: a number beyond what a setting can have", number + 1, line.trim())
        }
        None => "it has a number beyond what a setting can have".to_owned(),
    }
}

/// The error of the parser, which is a small picture, as one sentence with file and line.
fn not_toml(shown: &str, error: &str, text: &str) -> String {
    let line = error.strip_prefix("TOML parse error at line ").and_then(|rest| rest.split(',').next());
    let (Some(line), Some(why)) =
        (line.and_then(|line| line.parse::<usize>().ok()), error.trim_end().lines().last())
    else {
        return format!("{shown}: {}", unreadable(error, text));
    };
    let quoted = text.lines().nth(line.saturating_sub(1)).unwrap_or_default().trim();
    let hint = if why == "duplicate key" { "; a section or key may occur only once" } else { "" };
    format!("{shown}:{line}: is not TOML: {why}: `{quoted}`{hint}")
}

fn flatten(origin: &str, prefix: &str, table: Map<String, Value>, leaves: &mut Vec<(String, String, Value)>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match value.kind {
            ValueKind::Table(inner) if !inner.is_empty() => flatten(origin, &key, inner, leaves),
            _ => leaves.push((origin.to_owned(), key, value)),
        }
    }
    leaves.sort_by(|a, b| a.1.cmp(&b.1));
}

impl Layer {
    /// Values from text: environment variables and flags. Lists are written as in TOML.
    fn of_texts<'a>(texts: impl Iterator<Item = (String, String, &'a str)>) -> Self {
        let leaf = |(origin, key, text): (String, String, &str)| (origin, key, text_value(text));
        Self(texts.map(leaf).collect())
    }

    /// Tries each value alone on the defaults, so that one error does not hide another.
    fn complaints(&self) -> Vec<String> {
        let complaint = |(origin, key, value): &(String, String, Value)| {
            let text = value.clone().into_string().unwrap_or_default();
            if let Some(secret) = secrets::in_value(origin, key, &text) {
                return Some(secret);
            }
            if let Some(name) = misnamed_model(key) {
                let rule = "a model's name must be letters, digits and dashes, at most 60";
                return Some(format!("{origin}: models.{name}: {rule}"));
            }
            if let Some(why) = paths::complaint(key, value) {
                return Some(format!("{origin}: {key}: {why}"));
            }
            let alone = Self(vec![(origin.clone(), key.clone(), value.clone())]);
            let tried =
                Config::builder().add_source(alone).build().and_then(Config::try_deserialize::<Settings>);
            tried.err().map(|error| match mistyped::unknown_key(key, &sentence(&error)) {
                Some(unknown) => format!("{origin}: {unknown}"),
                None => {
                    let known = known_values(key, &text, &error);
                    format!("{origin}: {key}: {}", known.unwrap_or_else(|| sentence(&error)))
                }
            })
        };
        self.0.iter().filter_map(complaint).collect()
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    /// `config` itself creates the tables of dotted keys.
    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.0.iter().map(|(_, key, value)| (key.clone(), value.clone())).collect())
    }
}

fn text_value(text: &str) -> Value {
    let list = || {
        let table = File::from_str(&format!("list = {text}"), FileFormat::Toml).collect().ok()?;
        table.get("list").cloned()
    };
    text.trim_start().starts_with('[').then(list).flatten().unwrap_or_else(|| Value::from(text))
}

/// Returns the error without the key, which the caller adds.
pub(super) fn sentence(error: &ConfigError) -> String {
    match error {
        ConfigError::At { error, .. } => sentence(error),
        ConfigError::Type { unexpected, expected, .. } => {
            let expected =
                if expected.starts_with("an unsigned") { "a whole number from 0" } else { expected };
            let expected = if expected == "a floating point" { "a number" } else { expected };
            format!("is {unexpected}, must be {expected}")
        }
        other => rewritten(&other.to_string()),
    }
}

/// Rewrites errors of libraries so that they say what would be right.
fn rewritten(error_text: &str) -> String {
    if error_text == "invalid socket address syntax" {
        return "is not a socket address; write an IP address and a port, like \"127.0.0.1:8000\"".to_owned();
    }
    // From the type of sizes.
    if let Some(value) = error_text.strip_suffix(", expected parsable string") {
        let value = value.trim_start_matches("invalid value: string ");
        return format!("{value} is not a size; write a number and a unit, like \"16MiB\"");
    }
    if let Some(value) = error_text.strip_suffix(", expected an integer or string") {
        let value = value.trim_start_matches("invalid type: ");
        return format!(
            "{value} is not a size; write a whole number of bytes, or a number and a unit, like \"16MiB\""
        );
    }
    if let Some(value) = error_text.strip_suffix(", expected integer overflow") {
        let value = value.trim_start_matches("invalid value: ");
        return format!(
            "{value} is not a size; write a whole number of bytes, or a number and a unit, like \"16MiB\""
        );
    }
    if let Some(value) = error_text.strip_suffix(", expected a sequence") {
        let value = value.trim_start_matches("invalid type: ");
        return format!("is {value}, must be a list, like [\"one\", \"two\"]");
    }
    match error_text.split_once(", expected struct ") {
        Some((value, _)) => format!("{value}, expected a table with the keys of this section"),
        None => error_text.to_owned(),
    }
}

/// Returns an error with the known variants. `config` leaves them out, so serde_json is asked.
fn known_values(key: &str, text: &str, error: &ConfigError) -> Option<String> {
    if !error.to_string().contains("does not have variant constructor") {
        return None;
    }
    let nested =
        key.rsplit('.').fold(serde_json::Value::from(text), |inner, part| serde_json::json!({ part: inner }));
    let error_text = serde_json::from_value::<Settings>(nested).err()?.to_string();
    let (_, known) = error_text.strip_prefix("unknown variant `")?.split_once("`, expected ")?;
    Some(format!("is `{text}`, must be {}", known.trim_start_matches("one of ")))
}

/// Returns the name of the model in a key, if no model can have this name.
fn misnamed_model(key: &str) -> Option<&str> {
    let (name, _) = key.strip_prefix("models.")?.rsplit_once('.')?;
    let is_invalid = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    (name.is_empty() || name.contains(is_invalid)).then_some(name)
}

#[cfg(test)]
mod tests;
