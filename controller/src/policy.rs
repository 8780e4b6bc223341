//! What an operator wants of a pool: each `*.toml` directly in the policy folder is one, named by
//! its file.
//!
//! Here are the checked types; [`load`] reads files and collects every complaint about them,
//! [`watch`] keeps the last good version of each file in force while the files change.

mod document;
#[cfg(test)]
mod documented;
pub mod load;
mod rules;
pub mod schedule;
mod tier;
pub mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
    time::Duration,
};

use eirs_platform::settings::{BackendKind, Settings, units};
use serde::Serialize;

pub use load::{Complaint, load_dir, load_file, parse};
pub use schedule::Schedule;
pub use tier::Tier;
pub use watch::Store;

/// The policies that a decision follows.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Policies {
    /// Each pool's policy, by the pool's name.
    pub pools: BTreeMap<String, Policy>,
    /// Pools whose file is there but was never good since the controller started. Nobody knows what
    /// is wanted of them, so that their instances are left as they are.
    pub unreadable: BTreeSet<String>,
    /// A cap on the instances of all pools together.
    pub instance_limit: Option<u32>,
}

/// The policy of one pool.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Policy {
    /// `[pool]`
    pub pool: Pool,
    /// Every `[[rule]]`; the largest wish wins.
    pub rules: Vec<Rule>,
    /// `[scale_out]`
    pub scale_out: ScaleOut,
    /// `[scale_in]`
    pub scale_in: ScaleIn,
    /// `[budget]`
    pub budget: Budget,
    /// `[instance]`
    pub instance: Price,
    /// `[launch]`
    pub launch: Launch,
}

/// `[launch]`: instances that are made when the parked ones do not suffice, and are gone when they
/// are not needed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Launch {
    /// No more of them at once; none without the section.
    pub most: u32,
    /// Their types, those first that are preferred; without any, the type of the parked ones.
    pub types: Vec<String>,
    /// How they are bought.
    pub market: Market,
    /// How long one takes from its order to its first job, until that has been measured.
    #[serde(with = "units::duration")]
    pub start_delay: Duration,
    /// US dollars for an hour; as the parked ones, if it is not set.
    pub usd_per_hour: Option<f64>,
}

/// How instances are bought that are launched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Market {
    /// For as long as they are wanted.
    #[default]
    OnDemand,
    /// Cheaper, and taken back with two minutes' notice.
    Spot,
}

/// `[pool]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pool {
    /// The model that the pool serves, from that model's own request queue.
    pub model: String,
    /// Instances kept running.
    pub min: u32,
    /// Never more than this, counting what starts and drains, but for those that are launched.
    pub max: u32,
    /// Instances beyond the demand.
    pub spare: u32,
    /// How much an instance counts beside one of another pool, where the limit on all pools is
    /// shared.
    pub weight: f64,
    /// How long an instance takes from its start to its first job, until that has been measured.
    /// One that is not ready after [`OVERDUE`](Self::OVERDUE) times this is drained, and another
    /// started.
    #[serde(with = "units::duration")]
    pub start_delay: Duration,
    /// How long a worker needs for one job, until that has been measured.
    #[serde(with = "units::duration")]
    pub service_time: Duration,
    /// Whether the file is on trial: what it would do is decided and explained, and what it said
    /// before goes on being done.
    pub observe: bool,
    /// How long an instance may lie stopped before it is started once to see whether it still
    /// works; `None` for ever.
    #[serde(with = "units::optional_duration")]
    pub canary: Option<Duration>,
}

/// `[[rule]]`: what one instance more or less depends on.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "a policy has a handful of them")]
pub enum Rule {
    /// A number of jobs, visible and in flight, for each instance.
    Backlog {
        /// Jobs for each instance.
        per_instance: u64,
    },
    /// The service level itself: how many instances it takes is worked out.
    Latency {
        /// 95 of 100 jobs shall be answered within this time.
        #[serde(with = "units::duration")]
        p95: Duration,
    },
    /// Thresholds: the highest one that the backlog reaches counts.
    Step {
        /// By rising backlog.
        steps: Vec<Step>,
    },
    /// A number of instances in certain hours, whatever the backlog.
    Schedule {
        /// When.
        #[serde(flatten)]
        when: Schedule,
        /// How many.
        instances: u32,
    },
    /// As many as are needed for what will probably arrive one start delay from now.
    Forecast {
        /// After this time the load repeats itself.
        #[serde(with = "units::duration")]
        season: Duration,
        /// How sure it is to be: the part of all cases in which no more than foreseen arrives,
        /// above 0 and below 1.
        quantile: f64,
        /// Whose wall clock a day goes by.
        timezone: chrono_tz::Tz,
        /// The number of seasons that are seen before it wishes anything.
        after: u32,
    },
}

/// A threshold of [`Rule::Step`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Step {
    /// From this number of jobs on, visible and in flight, ...
    pub backlog: u64,
    /// ... this number of instances is wanted.
    pub instances: u32,
}

/// `[scale_out]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScaleOut {
    /// The most instances of the pool that are starting at the same time.
    pub max_step: u32,
}

/// `[budget]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Budget {
    /// The instances of the pool together run for no more hours than this from one midnight to the
    /// next.
    pub instance_hours_per_day: Option<f64>,
    /// Whether the hours are spread over the day: what is used up to a moment is no more than the
    /// part of the day that has passed, and a tenth of it ahead.
    pub pace: bool,
    /// Time zone in which the budget day starts.
    pub timezone: chrono_tz::Tz,
}

/// `[instance]`: what an instance costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Price {
    /// US dollars for an hour, from its start to its stop.
    pub usd_per_hour: f64,
    /// US dollars for the disk of an instance in a month, parked or not.
    pub disk_usd_per_month: f64,
    /// A start is charged for at least this time. Until then a started instance costs nothing more,
    /// and is kept.
    #[serde(with = "units::duration")]
    pub billing_minimum: Duration,
}

/// `[scale_in]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScaleIn {
    /// An instance must have been idle this long before it is drained, ...
    #[serde(with = "units::duration")]
    pub idle: Duration,
    /// ... and the demand must have been lower for all of this time.
    #[serde(with = "units::duration")]
    pub window: Duration,
    /// As long as it is cheaper than a start to come, one that is not needed stays, but no longer
    /// than this.
    #[serde(with = "units::duration")]
    pub keep: Duration,
    /// How long a draining instance may finish what it holds; then it is stopped.
    #[serde(with = "units::duration")]
    pub drain_deadline: Duration,
    /// The most instances of the pool that drain at the same time because they are not needed.
    pub max_step: u32,
}

impl Policy {
    /// The most instances at once, parked and launched ones together. A pool that is switched off
    /// launches none.
    pub fn most(&self) -> u32 {
        if self.pool.max == 0 { 0 } else { self.pool.max.saturating_add(self.launch.most) }
    }

    /// How long an instance of this tier takes to start, until that has been measured.
    pub fn start_delay(&self, tier: Tier) -> Duration {
        match tier {
            Tier::Parked => self.pool.start_delay,
            Tier::Launched => self.launch.start_delay,
        }
    }
}

impl Pool {
    /// This number of start delays without a word from an instance means that it will never be
    /// ready.
    pub const OVERDUE: u32 = 10;
}

impl Rule {
    /// The word after `kind =`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Backlog { .. } => "backlog",
            Self::Latency { .. } => "latency",
            Self::Step { .. } => "step",
            Self::Schedule { .. } => "schedule",
            Self::Forecast { .. } => "forecast",
        }
    }
}

impl fmt::Display for Rule {
    /// In a few words, as in a table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |time: &Duration| humantime::format_duration(*time).to_string();
        match self {
            Self::Backlog { per_instance } => write!(f, "backlog: {per_instance} an instance"),
            Self::Latency { p95 } => write!(f, "latency: p95 {}", time(p95)),
            Self::Step { steps } => {
                let steps: Vec<_> =
                    steps.iter().map(|step| format!("{} from {}", step.instances, step.backlog)).collect();
                write!(f, "step: {}", steps.join(", "))
            }
            Self::Schedule { when, instances } => {
                write!(f, "schedule: {instances} for {} from {}", time(&when.duration), when.cron)
            }
            Self::Forecast { season, quantile, .. } => {
                write!(f, "forecast: season {}, quantile {quantile}", time(season))
            }
        }
    }
}

impl Default for Launch {
    /// Of launches nobody knows more than that they take longer: the disk comes from the snapshot
    /// block by block.
    fn default() -> Self {
        Self {
            most: 0,
            types: Vec::new(),
            market: Market::OnDemand,
            start_delay: Duration::from_secs(60),
            usd_per_hour: None,
        }
    }
}

impl Default for ScaleOut {
    fn default() -> Self {
        Self { max_step: load::MOST_INSTANCES }
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self { instance_hours_per_day: None, pace: false, timezone: chrono_tz::UTC }
    }
}

impl Default for Price {
    /// A t3.small with Linux on demand and a gp3 disk of 8 GB in us-east-1; EC2 charges by the
    /// second and for at least a minute (<https://aws.amazon.com/ec2/pricing/on-demand/>).
    fn default() -> Self {
        Self { usd_per_hour: 0.0208, disk_usd_per_month: 0.64, billing_minimum: Duration::from_secs(60) }
    }
}

impl Default for ScaleIn {
    /// As `scaling.md` has them for EC2, where a start takes half a minute; a local pool can afford
    /// shorter ones.
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(120),
            window: Duration::from_secs(90),
            keep: Duration::from_secs(600),
            drain_deadline: Duration::from_secs(90),
            max_step: 5,
        }
    }
}

impl Policy {
    /// The time within which 95 of 100 jobs are to be done, where a rule says one.
    pub fn p95(&self) -> Option<Duration> {
        let times = self.rules.iter().filter_map(|rule| match rule {
            Rule::Latency { p95 } => Some(*p95),
            _ => None,
        });
        times.min()
    }
}

impl Policies {
    /// The same policies under the settings' cap on all instances.
    pub fn limited_by(mut self, settings: &Settings) -> Self {
        self.instance_limit =
            (settings.controller.instance_limit > 0).then_some(settings.controller.instance_limit);
        self
    }

    /// What does not fit together with the settings: a model that they do not have, and more `min`
    /// than their limit allows.
    pub fn complaints(&self, folder: &Path, settings: &Settings) -> Vec<Complaint> {
        let file = |name: &str| folder.join(format!("{name}.toml"));
        let mut complaints: Vec<_> = self
            .pools
            .iter()
            .filter_map(|(name, policy)| unknown_model(&file(name), policy, settings))
            .collect();
        // What nobody launches is not there when it is needed. With other instances than processes
        // it may be simulated.
        for (name, _) in self.pools.iter().filter(|(_, policy)| policy.launch.most > 0) {
            if settings.backend == BackendKind::Local && !settings.controller.simulate.is_on() {
                let problem =
                    "only machines of a cloud are launched (backend = \"aws\"); remove the section, and \
                               raise pool.max"
                        .to_owned();
                complaints.push(Complaint::about(&file(name), "launch.most", problem));
            }
        }
        let kept: u64 = self.pools.values().map(|policy| u64::from(policy.pool.min)).sum();
        let limit = settings.controller.instance_limit;
        if limit > 0 && kept > u64::from(limit) {
            let problem = format!(
                "the `min` of all pools is {kept} together, but controller.instance_limit is \
                {limit}; lower a `min` or raise the limit"
            );
            complaints.push(Complaint::about(folder, "pool.min", problem));
        }
        complaints
    }

    /// What the controller would refuse if this policy, of this file, were the one of that pool of
    /// this folder.
    pub fn complaints_with(
        &self,
        (pool, policy, file): (&str, &Policy, &Path),
        folder: &Path,
        settings: &Settings,
    ) -> Vec<Complaint> {
        let mut with = self.clone();
        with.pools.insert(pool.to_owned(), policy.clone());
        let mut complaints = with.complaints(folder, settings);
        let its_own = folder.join(format!("{pool}.toml"));
        // What is wrong with the others is wrong without it, too.
        complaints.retain(|complaint| complaint.file == its_own || complaint.file == folder);
        complaints
            .iter_mut()
            .filter(|about| about.file == its_own)
            .for_each(|about| about.file = file.to_owned());
        let other = load::same_model(&with.pools, pool, policy);
        complaints.extend(other.map(|other| load::shared_model(file, policy, &other)));
        complaints
    }
}

/// The policies of a folder, or the one of a file, if nothing is wrong with them and they fit the
/// settings.
pub fn load_checked(path: &Path, settings: &Settings) -> Result<Policies, Vec<Complaint>> {
    let (policies, folder) = if path.is_file() {
        (load_file(path)?, path.parent().unwrap_or(path))
    } else {
        (load_dir(path)?, path)
    };
    if policies.pools.is_empty() {
        return Err(vec![Complaint::no_policy(folder)]);
    }
    match policies.complaints(folder, settings) {
        none if none.is_empty() => Ok(policies),
        complaints => Err(complaints),
    }
}

/// A pool of a model that nobody described could never start a worker.
fn unknown_model(file: &Path, policy: &Policy, settings: &Settings) -> Option<Complaint> {
    let model = &policy.pool.model;
    if settings.models.contains_key(model) {
        return None;
    }
    let known: Vec<_> = settings.models.keys().map(String::as_str).collect();
    let problem = format!("unknown model {model:?}; the settings have {}", known.join(", "));
    Some(Complaint::about(file, "pool.model", problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_of_a_model_that_the_settings_lack_is_a_complaint() {
        let policy = parse(Path::new("dogs.toml"), "[pool]\nmodel = \"dogs\"").unwrap();
        let policies = Policies { pools: BTreeMap::from([("dogs".into(), policy)]), ..Policies::default() };
        let complaints = policies.complaints(Path::new("policies"), &Settings::default());
        assert_eq!(complaints.len(), 1);
        assert_eq!(
            complaints[0].to_string(),
            "policies/dogs.toml: pool.model: unknown model \"dogs\"; the settings have default"
        );
    }

    #[test]
    fn a_new_policy_is_refused_for_what_the_controller_would_refuse_in_its_place() {
        let mut settings = Settings::default();
        settings.controller.instance_limit = 4;
        settings.models.insert("dogs".into(), settings.models["default"].clone());
        let read = |text: &str| parse(Path::new("p.toml"), text).unwrap();
        let (a, b) = (read("[pool]\nmin = 2"), read("[pool]\nmodel = 'dogs'\nmin = 2"));
        let policies = Policies {
            pools: BTreeMap::from([("a".into(), a.clone()), ("b".into(), b)]),
            ..Policies::default()
        };
        let said = |policy: &Policy| {
            let new = ("a", policy, Path::new("new.toml"));
            let found = policies.complaints_with(new, Path::new("policies"), &settings);
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(said(&a), [""; 0]);
        for (text, expected) in [
            ("[pool]\nmodel = 'cats'", "new.toml: pool.model: unknown model \"cats\""),
            ("[pool]\nmodel = 'dogs'", "new.toml: pool.model: is \"dogs\", which the pool \"b\" serves"),
            ("[launch]\nmost = 3", "new.toml: launch.most: only machines of a cloud"),
            ("[pool]\nmin = 3", "policies: pool.min: the `min` of all pools is 5 together"),
        ] {
            let said = said(&read(text));
            assert!(said.len() == 1 && said[0].starts_with(expected), "{text}: {said:?}");
        }
    }

    #[test]
    fn more_instances_kept_than_the_limit_allows_are_a_complaint() {
        let mut settings = Settings::default();
        settings.controller.instance_limit = 2;
        let policy = parse(Path::new("a.toml"), "[pool]\nmin = 3").unwrap();
        let policies = Policies { pools: BTreeMap::from([("a".into(), policy)]), ..Policies::default() };
        let complaints = policies.complaints(Path::new("policies"), &settings);
        assert!(complaints[0].to_string().contains("the `min` of all pools is 3 together"), "{complaints:?}");
    }
}
