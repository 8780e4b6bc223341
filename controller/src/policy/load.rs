//! Reads policy files and collects all complaints: file, line, key, value, and what would be right.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use eirs_platform::settings::{Model, is_name};

use super::{
    Budget, Launch, Market, Policies, Policy, Pool, Price, ScaleIn, ScaleOut,
    document::{Document, Section},
    rules,
};

/// A problem of a policy file or of the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// The file, or the folder if the problem is not in one file.
    pub file: PathBuf,
    /// Line of the problem, counted from 1, if known.
    pub line: Option<usize>,
    /// The key, such as `pool.max`, if the problem is about one.
    pub key: Option<String>,
    /// What is wrong and what would be right: a sentence that follows the key, or that contains it
    /// if the key is unknown.
    pub problem: String,
}

/// The policies of a folder, each read by itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Folder {
    /// By pool name, each pool's policy or all complaints about its file.
    pub files: BTreeMap<String, Result<Policy, Vec<Complaint>>>,
    /// Complaints about files whose name cannot be that of a pool.
    pub misnamed: Vec<Complaint>,
}

/// Largest number of instances in a policy. A larger number is assumed to be a typing error.
pub(super) const MOST_INSTANCES: u32 = 10_000;
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);
/// Longest time for which the controller remembers the demand.
pub(crate) const LONGEST_WINDOW: Duration = Duration::from_secs(3600);

/// Loads the policies of a folder. The error has all complaints.
pub fn load_dir(folder: &Path) -> Result<Policies, Vec<Complaint>> {
    let Folder { files, mut misnamed } = read_folder(folder).map_err(|complaint| vec![complaint])?;
    let mut pools = BTreeMap::new();
    for (name, read) in files {
        let taken = read.and_then(|policy| match same_model(&pools, &name, &policy) {
            None => Ok(policy),
            Some(other) => Err(vec![shared_model(&folder.join(format!("{name}.toml")), &policy, &other)]),
        });
        match taken {
            Ok(policy) => drop(pools.insert(name, policy)),
            Err(complaints) => misnamed.extend(complaints),
        }
    }
    if misnamed.is_empty() { Ok(Policies { pools, ..Policies::default() }) } else { Err(misnamed) }
}

/// Reads every `*.toml` directly in a folder. The error is about the folder itself.
pub fn read_folder(folder: &Path) -> Result<Folder, Complaint> {
    let unreadable = |error: io::Error| Complaint {
        file: folder.to_owned(),
        line: None,
        key: None,
        problem: if folder.is_file() {
            "is a file; the policies are a folder, in which each *.toml is a pool".to_owned()
        } else {
            format!("the policy folder cannot be read: {error}")
        },
    };
    let mut read = Folder::default();
    for path in policy_files(folder).map_err(unreadable)? {
        read.add(path);
    }
    Ok(read)
}

/// Loads one policy file as [`load_dir`] loads those of a folder.
pub fn load_file(path: &Path) -> Result<Policies, Vec<Complaint>> {
    let mut read = Folder::default();
    read.add(path.to_owned());
    let mut pools = BTreeMap::new();
    for (name, policy) in read.files {
        pools.insert(name, policy?);
    }
    if read.misnamed.is_empty() { Ok(Policies { pools, ..Policies::default() }) } else { Err(read.misnamed) }
}

impl Folder {
    /// Reads a file and adds its policy or complaints.
    fn add(&mut self, path: PathBuf) {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if !is_name(&name) {
            let problem =
                "a pool is named by its file, with letters, digits and dashes, at most 60; rename the file";
            self.misnamed.push(Complaint { file: path, line: None, key: None, problem: problem.to_owned() });
            return;
        }
        let policy = match text(&path) {
            Ok(text) => parse(&path, &text),
            Err(problem) => Err(vec![Complaint { file: path, line: None, key: None, problem }]),
        };
        self.files.insert(name, policy);
    }
}

/// Reads the text of a policy file. Anything other than a file is not opened: a named pipe would
/// block, and a container that mounts a missing file creates a folder of its name.
fn text(path: &Path) -> Result<String, String> {
    match fs::metadata(path) {
        Ok(there) if there.is_dir() => {
            return Err("is a folder; put the pool's file there, or remove it".to_owned());
        }
        Ok(there) if !there.is_file() => {
            return Err("is not a file; put the pool's file there, or remove it".to_owned());
        }
        Ok(_) | Err(_) => {}
    }
    fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => "is not UTF-8; save it as UTF-8".to_owned(),
        _ => format!("cannot be read: {error}"),
    })
}

/// The policy files of a folder, by name. Temporary files of editors begin with a dot or end
/// otherwise.
pub(super) fn policy_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Parses the text of one policy. `file` is used only in complaints.
pub fn parse(file: &Path, text: &str) -> Result<Policy, Vec<Complaint>> {
    let document = Document::new(file, text);
    let root = document.parse();
    let top = Section::top(&document, root.get_ref());
    let policy = Policy {
        pool: pool(top.section("pool")),
        rules: top.sections("rule").into_iter().filter_map(rules::rule).collect(),
        scale_out: scale_out(top.section("scale_out")),
        scale_in: scale_in(top.section("scale_in")),
        budget: budget(top.section("budget")),
        instance: price(top.section("instance")),
        launch: launch(top.section("launch")),
    };
    top.finish();
    let complaints = document.into_complaints();
    if complaints.is_empty() { Ok(policy) } else { Err(complaints) }
}

fn pool(section: Section<'_>) -> Pool {
    let model = section.text("model").unwrap_or(Model::DEFAULT).to_owned();
    if !is_name(&model) {
        section.complain(
            "model",
            format!("is {model:?}; a model's name is letters, digits and dashes, at most 60"),
        );
    }
    let max = section.instances("max", 0..=MOST_INSTANCES).unwrap_or(10);
    let min = section.instances("min", 0..=MOST_INSTANCES).unwrap_or(0);
    let spare = section.instances("spare", 0..=MOST_INSTANCES).unwrap_or(0);
    for (key, value) in [("min", min), ("spare", spare)] {
        if value > max {
            section.complain(key, format!("is {value}, more than `max` ({max}); lower it or raise `max`"));
        }
    }
    let weight = section.number("weight", 0.01..=1000.0).unwrap_or(1.0);
    let hour = DAY / 24;
    let start_delay = section.duration("start_delay", Duration::from_millis(100)..=hour);
    let start_delay = start_delay.unwrap_or(Duration::from_secs(25));
    let service_time = section.duration("service_time", Duration::from_millis(1)..=hour);
    let service_time = service_time.unwrap_or(Duration::from_secs(1));
    let observe = section.flag("observe").unwrap_or(false);
    let canary = section.duration("canary", hour..=30 * DAY);
    section.finish();
    Pool { model, min, max, spare, weight, start_delay, service_time, observe, canary }
}

fn scale_out(section: Section<'_>) -> ScaleOut {
    let default = ScaleOut::default();
    let max_step = section.instances("max_step", 1..=MOST_INSTANCES).unwrap_or(default.max_step);
    section.finish();
    ScaleOut { max_step }
}

fn budget(section: Section<'_>) -> Budget {
    let default = Budget::default();
    let most = f64::from(MOST_INSTANCES) * 24.0;
    let read = Budget {
        instance_hours_per_day: section.number("instance_hours_per_day", 0.0..=most),
        pace: section.flag("pace").unwrap_or(false),
        timezone: section.timezone("timezone").unwrap_or(default.timezone),
    };
    section.finish();
    read
}

fn price(section: Section<'_>) -> Price {
    let default = Price::default();
    let read = Price {
        usd_per_hour: section.number("usd_per_hour", 0.0..=10_000.0).unwrap_or(default.usd_per_hour),
        disk_usd_per_month: section
            .number("disk_usd_per_month", 0.0..=10_000.0)
            .unwrap_or(default.disk_usd_per_month),
        billing_minimum: section
            .duration("billing_minimum", Duration::ZERO..=DAY / 24)
            .unwrap_or(default.billing_minimum),
    };
    section.finish();
    read
}

fn launch(section: Section<'_>) -> Launch {
    let default = Launch::default();
    let types = section.texts("types").unwrap_or_default();
    let is_type = |kind: &str| {
        let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-');
        kind.contains('.') && kind.chars().all(known)
    };
    if let Some(wrong) = types.iter().find(|kind| !is_type(kind)) {
        section.complain("types", format!("has {wrong:?}; an instance type is written like \"t3.small\""));
    }
    let market = section.word("market", &["on-demand", "spot"]);
    let read = Launch {
        most: section.instances("most", 0..=MOST_INSTANCES).unwrap_or(default.most),
        types,
        market: if market == Some("spot") { Market::Spot } else { Market::OnDemand },
        start_delay: section
            .duration("start_delay", Duration::from_millis(100)..=DAY / 24)
            .unwrap_or(default.start_delay),
        usd_per_hour: section.number("usd_per_hour", 0.0..=10_000.0),
    };
    section.finish();
    read
}

fn scale_in(section: Section<'_>) -> ScaleIn {
    let default = ScaleIn::default();
    let read = ScaleIn {
        idle: section.duration("idle", Duration::ZERO..=DAY).unwrap_or(default.idle),
        window: section.duration("window", Duration::ZERO..=LONGEST_WINDOW).unwrap_or(default.window),
        keep: section.duration("keep", Duration::ZERO..=LONGEST_WINDOW).unwrap_or(default.keep),
        drain_deadline: section
            .duration("drain_deadline", Duration::from_secs(1)..=DAY)
            .unwrap_or(default.drain_deadline),
        max_step: section.instances("max_step", 1..=MOST_INSTANCES).unwrap_or(default.max_step),
    };
    section.finish();
    read
}

/// The other pool with the same model, if any. Two pools with one queue would each start workers
/// for the whole backlog.
pub(super) fn same_model(pools: &BTreeMap<String, Policy>, name: &str, policy: &Policy) -> Option<String> {
    let mut others = pools.iter().filter(|(other, _)| *other != name);
    others.find(|(_, other)| other.pool.model == policy.pool.model).map(|(other, _)| other.clone())
}

pub(super) fn shared_model(file: &Path, policy: &Policy, other: &str) -> Complaint {
    let problem = format!(
        "is {:?}, which the pool {other:?} serves already; choose another model, or merge the files",
        policy.pool.model
    );
    Complaint::about(file, "pool.model", problem)
}

impl Complaint {
    /// Makes a complaint about a value whose line is not known.
    pub(super) fn about(file: &Path, key: &str, problem: String) -> Self {
        Self { file: file.to_owned(), line: None, key: Some(key.to_owned()), problem }
    }

    /// A complaint about a folder without a single policy file.
    pub(super) fn no_policy(folder: &Path) -> Self {
        let problem = "no policy file is in this folder; each *.toml in it is a pool".to_owned();
        Self { file: folder.to_owned(), line: None, key: None, problem }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        // A complaint about an unknown key contains the key.
        if let Some(key) = self.key.as_ref().filter(|_| !self.problem.starts_with("unknown key")) {
            write!(f, ": {key}")?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl serde::Serialize for Complaint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests;
