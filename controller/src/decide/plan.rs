//! The plan: the actions for every pool and the reasons for them, as a value.

mod words;

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use eirs_platform::{queue::Depth, settings::units};
use serde::{Serialize, Serializer};

use super::demand::Load;
use crate::{operator::Operator, refusals::Verb};

/// Interval of the next pass while instances start or leave.
const SOON: Duration = Duration::from_secs(2);

/// The actions for all pools.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// Time of the observation that the plan is based on.
    pub at: DateTime<Utc>,
    /// The plans by pool name: of every pool with a policy, and of every other pool that still has
    /// instances.
    pub pools: BTreeMap<String, PoolPlan>,
}

/// The actions for one pool, with the result of every stage of the decision.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PoolPlan {
    /// The backlog; `None` if it could not be read.
    pub depth: Option<Depth>,
    /// The input of the rules; `None` if the backlog could not be read.
    pub load: Option<Load>,
    /// Number of instances that serve.
    pub ready: u32,
    /// Number of instances that were started and do not serve yet. They count as capacity.
    pub starting: u32,
    /// Number of instances that should be ready by now and are not. They do not count as capacity,
    /// so that others are started in their place.
    #[serde(skip_serializing_if = "is_zero")]
    pub late: u32,
    /// Number of instances that drain or stop, including those that this plan drains because they
    /// are of no use.
    pub leaving: u32,
    /// The number of instances that each rule wants.
    pub wishes: Vec<Wish>,
    /// The largest number that a rule wants; if the backlog is unknown, the number of instances
    /// that run.
    pub wished: u32,
    /// `wished` plus the spare instances, within the policy's `min` and `max`.
    pub clamped: u32,
    /// Largest number that the rest of the daily budget allows; `None` without a budget.
    pub affordable: Option<u32>,
    /// The pool's share under the limit on all pools.
    pub share: u32,
    /// Number of instances that the pool should have now, after all holds.
    pub desired: u32,
    /// The reasons why the pool has not what it wants, or keeps what it does not need.
    pub holds: Vec<Hold>,
    /// Time at which the next start for expected jobs is due; `None` if none are expected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prepares_at: Option<DateTime<Utc>>,
    /// Id of the instance that is started only to test that it still works, not to meet demand.
    pub canary: Option<String>,
    /// Number of starts that launch a new instance because no parked one can be started.
    #[serde(skip_serializing_if = "is_zero")]
    pub launches: u32,
    /// The actions, in order.
    pub actions: Vec<Action>,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// The number of instances that a rule wants.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Wish {
    /// Kind of the rule.
    pub rule: &'static str,
    /// Number of instances.
    pub instances: u32,
    /// Part of `instances` that the arriving work needs. The others only clear the jobs that wait
    /// now.
    pub steady: u32,
    /// The reason, in a few words.
    pub because: Because,
}

/// Why a rule wants a number of instances. It is formatted only when it is read.
#[derive(Debug, Clone, PartialEq)]
pub enum Because {
    /// Jobs per instance.
    PerInstance(u64),
    /// The result of a `latency` rule.
    Latency {
        /// Arrival rate, in jobs per second.
        arrivals_per_s: f64,
        /// Mean service time of a job, in seconds.
        service_s: f64,
        /// Number of instances that are busy on average.
        busy: f64,
        /// Number of instances that keep the p95 latency.
        in_time: f64,
        /// Number of instances that clear the waiting jobs.
        clearing: f64,
        /// Number of waiting jobs.
        waiting: f64,
    },
    /// A sentence.
    Words(String),
}

impl Serialize for Because {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl From<String> for Because {
    fn from(words: String) -> Self {
        Self::Words(words)
    }
}

/// One action on one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// Start the instance.
    Start {
        /// Id of the instance.
        id: String,
    },
    /// Let the instance finish the jobs in flight and end.
    Drain {
        /// Id of the instance.
        id: String,
        /// Time that the drain may take.
        #[serde(with = "units::duration")]
        deadline: Duration,
        /// Why this instance is drained now.
        cause: Cause,
    },
    /// Stop the instance: it is drained, or its drain is overdue.
    Stop {
        /// Id of the instance.
        id: String,
    },
}

/// Why an instance is drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Not needed, and idle for the policy's `idle` time.
    Idle,
    /// Not needed, and the policy does not require it to be idle: it finishes the jobs in flight.
    NotNeeded,
    /// Not needed, and not ready yet.
    StartNotNeeded,
    /// More instances run than the pool's `max`.
    OverMax,
    /// More instances run than the rest of the daily budget allows.
    OverBudget,
    /// More instances run than the pool's share of the limit, and the limit is exceeded or another
    /// pool waits for a place.
    OverShare,
    /// Started long ago and never ready.
    NeverReady,
    /// No report for a long time, although reports from others are received.
    Silent,
    /// Reports ready, but has completed no job for a long time although jobs wait.
    Hung,
    /// The pool serves another model now.
    OtherModel,
    /// Has loaded a model version older than the one in force.
    OtherVersion,
    /// An update started a replacement, which serves.
    Updated,
    /// The pool has no policy any more.
    NoPolicy,
    /// An operator cordoned it and asked for a drain.
    Cordoned,
}

/// Why a pool has fewer instances than it wants, or keeps instances that it does not need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "hold", rename_all = "snake_case")]
pub enum Hold {
    /// Something could not be read: nothing is drained, and only instances that are certainly
    /// needed start.
    Incomplete,
    /// The policy file has never been valid since the controller started: nothing is done.
    NoGoodPolicy,
    /// The controller has not observed the pool for a whole window yet.
    TooEarly,
    /// The demand was higher within the window, not counting jobs that only waited.
    WasHigher {
        /// Number of instances that were needed then.
        instances: u32,
    },
    /// Keeping the instances costs less than starting them again, judged by the past times between
    /// two uses.
    WorthKeeping {
        /// Number of instances that are kept.
        instances: u32,
    },
    /// The arrival rate dropped so suddenly that it may be an outage, after which all clients
    /// return at once.
    SuddenDrop,
    /// Many instances became silent or hang at the same time, so the cause may be elsewhere: lost
    /// reports or an unavailable store.
    Deaf {
        /// Number of these instances.
        instances: u32,
    },
    /// No instance reports although jobs are completed, so reports are not used to judge instances.
    Unheard {
        /// Number of instances that should have reported ready.
        instances: u32,
    },
    /// Not enough instances have been idle for the policy's `idle` time.
    NotIdle,
    /// Recently started instances are charged until the end of the billing minimum anyway.
    PaidFor,
    /// The maximum number of concurrent drains is reached.
    MaxStep,
    /// Leaving instances still take up places under `max`.
    NoPlace,
    /// The maximum number of concurrent starts is reached.
    MaxStarting,
    /// The rest of the daily budget allows no more.
    Budget,
    /// All pools together are at the limit.
    Limit,
    /// The fleet has no stopped instance left.
    NoneStopped,
    /// The fleet has no capacity for the remaining instances.
    NoCapacity {
        /// Time of the next attempt to start one.
        until: DateTime<Utc>,
    },
    /// The remaining instances failed recently and are left alone for a time.
    BackOff {
        /// Time at which the first of them may be started again.
        until: DateTime<Utc>,
    },
    /// An operator cordoned the stopped instances.
    Cordoned {
        /// Number of cordoned instances.
        instances: u32,
    },
}

impl Plan {
    /// Time until the next pass if it should come before the tick: an instance is about to be ready
    /// or may soon be drained. Pools for which `is_paused` returns true do not count.
    pub fn look_again(&self, is_paused: impl Fn(&str) -> bool) -> Option<Duration> {
        let changes = |(name, pool): (&String, &PoolPlan)| {
            let moves = pool.starting > 0 || pool.running() > pool.share || !pool.actions.is_empty();
            moves && !is_paused(name)
        };
        let soon = self.pools.iter().any(changes).then_some(SOON);
        let prepares =
            |pool: &PoolPlan| (pool.prepares_at? - self.at).to_std().ok().filter(|left| !left.is_zero());
        self.pools.values().filter_map(prepares).chain(soon).min()
    }

    /// The part of the plan that may be carried out: without the actions of paused pools.
    #[must_use]
    pub fn allowed(&self, operator: &Operator) -> Self {
        let mut allowed = self.clone();
        for (name, pool) in &mut allowed.pools {
            if operator.paused(name).is_some() {
                pool.actions.clear();
            }
        }
        allowed
    }

    /// The order for each instance, by id.
    pub fn verbs(&self) -> BTreeMap<&str, Verb> {
        self.actions().map(|action| (action.id(), action.verb())).collect()
    }

    /// The actions of all pools, in order.
    pub fn actions(&self) -> impl Iterator<Item = &Action> {
        self.pools.values().flat_map(|pool| &pool.actions)
    }
}

impl Action {
    /// The order that the action sends to its instance.
    pub fn verb(&self) -> Verb {
        match self {
            Self::Start { .. } => Verb::Start,
            Self::Drain { .. } => Verb::Drain,
            Self::Stop { .. } => Verb::Stop,
        }
    }

    /// Id of the instance.
    pub fn id(&self) -> &str {
        match self {
            Self::Start { id } | Self::Drain { id, .. } | Self::Stop { id } => id,
        }
    }
}

impl Hold {
    /// Whether the hold is part of normal operation. The others indicate trouble.
    pub fn is_ordinary(&self) -> bool {
        matches!(
            self,
            Self::TooEarly
                | Self::WasHigher { .. }
                | Self::WorthKeeping { .. }
                | Self::NotIdle
                | Self::PaidFor
                | Self::MaxStep
                | Self::MaxStarting
                | Self::NoPlace
        )
    }
}

impl PoolPlan {
    /// Number of instances that count as capacity: ready and starting.
    pub fn running(&self) -> u32 {
        self.ready + self.starting
    }

    /// The wanted number, as far as the budget allows it.
    pub(crate) fn granted(&self) -> u32 {
        self.affordable.map_or(self.clamped, |affordable| self.clamped.min(affordable))
    }
}
