//! The policies of the operator: each `*.toml` directly in the policy folder describes the pool of
//! the same name.
//!
//! This module has the checked types. [`load`] reads files and collects all complaints about them;
//! [`watch`] keeps the last valid version of each file in force while the files change.

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

/// The policies that decisions follow.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Policies {
    /// The policies by pool name.
    pub pools: BTreeMap<String, Policy>,
    /// Pools whose file exists but has never been valid since the controller started. Their
    /// instances are left as they are.
    pub unreadable: BTreeSet<String>,
    /// Limit on the instances of all pools together; `None` for no limit.
    pub instance_limit: Option<u32>,
}

/// The policy of one pool.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Policy {
    /// `[pool]`
    pub pool: Pool,
    /// Every `[[rule]]`. The one that wants most instances applies.
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

/// `[launch]`: instances that are created when the parked ones do not suffice, and terminated when
/// they are not needed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Launch {
    /// Maximum number of launched instances at the same time; 0 without the section.
    pub most: u32,
    /// Instance types in order of preference. If empty, the type of the parked instances.
    pub types: Vec<String>,
    /// Purchasing option.
    pub market: Market,
    /// Expected time from a launch to the first job, until it has been measured.
    #[serde(with = "units::duration")]
    pub start_delay: Duration,
    /// Price in US dollars per hour; `None` for the price of the parked instances.
    pub usd_per_hour: Option<f64>,
}

/// The purchasing option of launched instances.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Market {
    /// Runs until it is terminated.
    #[default]
    OnDemand,
    /// Cheaper, and may be interrupted with two minutes' notice.
    Spot,
}

/// `[pool]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pool {
    /// Model that the pool serves, from the job queue of that model.
    pub model: String,
    /// Minimum number of instances that run, even when idle.
    pub min: u32,
    /// Maximum number of parked instances that are not stopped, including starting and draining
    /// ones.
    pub max: u32,
    /// Number of instances in addition to the demand.
    pub spare: u32,
    /// Weight of an instance relative to one of another pool when the limit on all pools is shared.
    pub weight: f64,
    /// Expected time from the start of an instance to its first job, until it has been measured. An
    /// instance that is not ready after [`OVERDUE`](Self::OVERDUE) times this is drained and
    /// replaced.
    #[serde(with = "units::duration")]
    pub start_delay: Duration,
    /// Expected time that a worker takes for one job, until it has been measured.
    #[serde(with = "units::duration")]
    pub service_time: Duration,
    /// Whether the policy is on trial: its decisions are computed and explained, while the previous
    /// version stays in force.
    pub observe: bool,
    /// Time for which an instance may be stopped before it is started once to test that it still
    /// works; `None` for no test.
    #[serde(with = "units::optional_duration")]
    pub canary: Option<Duration>,
}

/// `[[rule]]`: how the number of instances is computed.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "a policy has a handful of them")]
pub enum Rule {
    /// A fixed number of jobs, waiting and in flight, per instance.
    Backlog {
        /// Jobs per instance.
        per_instance: u64,
    },
    /// A target latency, from which the number of instances is computed.
    Latency {
        /// Time within which 95 of 100 jobs must be completed.
        #[serde(with = "units::duration")]
        p95: Duration,
    },
    /// Thresholds: the highest one that the backlog reaches applies.
    Step {
        /// The thresholds, by increasing backlog.
        steps: Vec<Step>,
    },
    /// A fixed number of instances during certain hours, whatever the backlog.
    Schedule {
        /// The hours.
        #[serde(flatten)]
        when: Schedule,
        /// Number of instances.
        instances: u32,
    },
    /// The number of instances for the arrivals that are forecast for one start delay from now.
    Forecast {
        /// Period with which the load repeats.
        #[serde(with = "units::duration")]
        season: Duration,
        /// Probability with which no more than the forecast arrives, above 0 and below 1.
        quantile: f64,
        /// Time zone of the days.
        timezone: chrono_tz::Tz,
        /// Minimum number of seasons observed before the forecast is used.
        after: u32,
    },
}

/// A threshold of [`Rule::Step`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Backlog from which the threshold applies, waiting and in flight.
    pub backlog: u64,
    /// Number of instances from this threshold on.
    pub instances: u32,
}

/// `[scale_out]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScaleOut {
    /// Maximum number of instances of the pool that start at the same time.
    pub max_step: u32,
}

/// `[budget]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Budget {
    /// Maximum hours that all instances of the pool together run from one midnight to the next;
    /// `None` for no budget.
    pub instance_hours_per_day: Option<f64>,
    /// Whether the hours are spread over the day: at any time, no more is used than the elapsed
    /// part of the day plus a tenth of the budget.
    pub pace: bool,
    /// Time zone in which the budget day starts.
    pub timezone: chrono_tz::Tz,
}

/// `[instance]`: the price of an instance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Price {
    /// Price in US dollars per hour, from start to stop.
    pub usd_per_hour: f64,
    /// Price of the disk of an instance in US dollars per month, parked or running.
    pub disk_usd_per_month: f64,
    /// Minimum time that is charged for a start. Until then a running instance costs nothing more,
    /// and is kept.
    #[serde(with = "units::duration")]
    pub billing_minimum: Duration,
}

/// `[scale_in]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScaleIn {
    /// Time for which an instance must have been idle before it is drained.
    #[serde(with = "units::duration")]
    pub idle: Duration,
    /// Time for which the demand must have been lower before an instance is drained.
    #[serde(with = "units::duration")]
    pub window: Duration,
    /// Maximum time for which an instance that is not needed is kept because that is cheaper than a
    /// later start.
    #[serde(with = "units::duration")]
    pub keep: Duration,
    /// Time that a draining instance has to finish its jobs in flight before it is stopped.
    #[serde(with = "units::duration")]
    pub drain_deadline: Duration,
    /// Maximum number of instances of the pool that drain at the same time because they are not
    /// needed.
    pub max_step: u32,
}

impl Policy {
    /// Maximum number of instances at the same time, parked and launched together. A pool with
    /// `max = 0` launches none.
    pub fn most(&self) -> u32 {
        if self.pool.max == 0 { 0 } else { self.pool.max.saturating_add(self.launch.most) }
    }

    /// Expected start delay of an instance of this tier, until it has been measured.
    pub fn start_delay(&self, tier: Tier) -> Duration {
        match tier {
            Tier::Parked => self.pool.start_delay,
            Tier::Launched => self.launch.start_delay,
        }
    }
}

impl Pool {
    /// Number of start delays after which an instance that never reported counts as never ready.
    pub const OVERDUE: u32 = 10;
}

impl Rule {
    /// The value of `kind`.
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
    /// Writes a few words, as for a table.
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
    /// The start delay is a guess: launches take longer than starts, as the disk is loaded from a
    /// snapshot.
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
    /// The price of a t3.small with Linux on demand and a gp3 disk of 8 GB in us-east-1. EC2
    /// charges by the second, and at least a minute
    /// (<https://aws.amazon.com/ec2/pricing/on-demand/>).
    fn default() -> Self {
        Self { usd_per_hour: 0.0208, disk_usd_per_month: 0.64, billing_minimum: Duration::from_secs(60) }
    }
}

impl Default for ScaleIn {
    /// Values for EC2, where a start takes half a minute. Shorter ones suit a local pool.
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
    /// Time within which 95 of 100 jobs must be completed; `None` without a latency rule.
    pub fn p95(&self) -> Option<Duration> {
        let times = self.rules.iter().filter_map(|rule| match rule {
            Rule::Latency { p95 } => Some(*p95),
            _ => None,
        });
        times.min()
    }
}

impl Policies {
    /// Adds the limit on all instances from the settings.
    pub fn limited_by(mut self, settings: &Settings) -> Self {
        self.instance_limit =
            (settings.controller.instance_limit > 0).then_some(settings.controller.instance_limit);
        self
    }

    /// Complaints about policies that do not fit the settings: an unknown model, launches without a
    /// cloud, or more `min` than the limit.
    pub fn complaints(&self, folder: &Path, settings: &Settings) -> Vec<Complaint> {
        let file = |name: &str| folder.join(format!("{name}.toml"));
        let mut complaints: Vec<_> = self
            .pools
            .iter()
            .filter_map(|(name, policy)| unknown_model(&file(name), policy, settings))
            .collect();
        // A local fleet launches no machines, but with simulated faults it may stand for one.
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

    /// Complaints that the controller would have if `policy`, from `file`, were the policy of
    /// `pool` in this folder.
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
        // Complaints about other files would exist without it, too.
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

/// Loads the policies of a folder, or of a single file, and checks them against the settings.
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

/// A complaint about a model that the settings do not have, so that its workers could not start.
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
    fn a_new_policy_gets_the_complaints_that_the_controller_would_have() {
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
    fn a_total_min_above_the_limit_is_a_complaint() {
        let mut settings = Settings::default();
        settings.controller.instance_limit = 2;
        let policy = parse(Path::new("a.toml"), "[pool]\nmin = 3").unwrap();
        let policies = Policies { pools: BTreeMap::from([("a".into(), policy)]), ..Policies::default() };
        let complaints = policies.complaints(Path::new("policies"), &settings);
        assert!(complaints[0].to_string().contains("the `min` of all pools is 3 together"), "{complaints:?}");
    }
}
