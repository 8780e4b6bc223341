//! A plan: what to do, and why, as a value that explains itself.

mod words;

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use eirs_platform::{queue::Depth, settings::units};
use serde::{Serialize, Serializer};

use super::demand::Load;
use crate::{operator::Operator, refusals::Verb};

/// What starts is looked at as often as this, and so is what waits for it.
const SOON: Duration = Duration::from_secs(2);

/// What to do now for every pool.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// When the observation was made that it follows from.
    pub at: DateTime<Utc>,
    /// Each pool's part: of every pool with a policy, and of every other one that still has
    /// instances.
    pub pools: BTreeMap<String, PoolPlan>,
}

/// What to do now for one pool, with every stage of the decision.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PoolPlan {
    /// The backlog, where it could be read.
    pub depth: Option<Depth>,
    /// What the rules went by, where the backlog could be read.
    pub load: Option<Load>,
    /// Instances that serve.
    pub ready: u32,
    /// Instances that were started and do not serve yet. They count as capacity.
    pub starting: u32,
    /// Instances that were started, should have been ready by now and are not. They do not count as
    /// capacity, so that another is tried.
    #[serde(skip_serializing_if = "is_zero")]
    pub late: u32,
    /// Instances that drain or stop, or will as this plan says because they are of no use any more.
    pub leaving: u32,
    /// What each rule wishes.
    pub wishes: Vec<Wish>,
    /// The largest wish; without a backlog to judge by, what there is.
    pub wished: u32,
    /// The largest wish and the spare instances, within the policy's `min` and `max`.
    pub clamped: u32,
    /// The most that the rest of the day's budget allows; absent without a budget.
    pub affordable: Option<u32>,
    /// The pool's share of that under the limit on all instances.
    pub share: u32,
    /// How many instances it shall have now, after everything that holds it back.
    pub desired: u32,
    /// What holds it back.
    pub holds: Vec<Hold>,
    /// The one of the starts that is no answer to a demand: it shall show that the instance still
    /// works.
    pub canary: Option<String>,
    /// How many of the starts make a new instance, because no parked one is left that could be
    /// started.
    #[serde(skip_serializing_if = "is_zero")]
    pub launches: u32,
    /// What to do.
    pub actions: Vec<Action>,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// How many instances a rule wants.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Wish {
    /// The rule's kind.
    pub rule: &'static str,
    /// How many.
    pub instances: u32,
    /// How many of them for the work that keeps coming; the others are for what waits now, and are
    /// done with it.
    pub steady: u32,
    /// Why, in a few words.
    pub because: Because,
}

/// Why a rule wants what it wants. It is put into words only where somebody reads it.
#[derive(Debug, Clone, PartialEq)]
pub enum Because {
    /// This number of jobs for each instance.
    PerInstance(u64),
    /// What a `latency` rule computed.
    Latency {
        /// Jobs that arrive each second, ...
        arrivals_per_s: f64,
        /// ... and how long they take, in seconds.
        service_s: f64,
        /// Instances that are busy, ...
        busy: f64,
        /// ... that answer in time, ...
        in_time: f64,
        /// ... and that clear what waits, a number of jobs.
        clearing: f64,
        /// The jobs.
        waiting: f64,
    },
    /// In words.
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

/// One thing to do with one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// Start it.
    Start {
        /// The instance.
        id: String,
    },
    /// Let it finish what it holds and leave.
    Drain {
        /// The instance.
        id: String,
        /// How long it may take.
        #[serde(with = "units::duration")]
        deadline: Duration,
        /// Why it, and why now.
        cause: Cause,
    },
    /// Stop it: it is drained, or its drain is overdue.
    Stop {
        /// The instance.
        id: String,
    },
}

/// Why an instance is drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It is not needed and has been idle long enough.
    Idle,
    /// It is not needed, and the policy does not ask whether it is idle: it finishes what it holds.
    NotNeeded,
    /// It is not needed and does not serve yet.
    StartNotNeeded,
    /// There are more than the pool's `max`.
    OverMax,
    /// There are more than the rest of the day's budget allows.
    OverBudget,
    /// There are above the pool's share of the instance limit, and the limit is exceeded or another
    /// pool waits.
    OverShare,
    /// It should have been ready long ago.
    NeverReady,
    /// It has said nothing for long, though reports are received.
    Silent,
    /// It says that it is ready, and has completed nothing for long though jobs wait.
    Hung,
    /// The pool serves another model now.
    OtherModel,
    /// It has loaded an earlier version of the model than the one in force.
    OtherVersion,
    /// An update has another one for it, which serves.
    Updated,
    /// The pool has no policy any more.
    NoPolicy,
    /// An operator cordoned it and wants it to go now.
    Cordoned,
}

/// Why a pool does not have what it should have, or keeps what it does not need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "hold", rename_all = "snake_case")]
pub enum Hold {
    /// Something could not be seen: nothing is drained, and only what is certain is started.
    Incomplete,
    /// The policy file is bad and was never good: nothing is done at all.
    NoGoodPolicy,
    /// The controller has not looked for a whole window yet.
    TooEarly,
    /// The demand was higher within the window, not counting what waited.
    WasHigher {
        /// The number that would have been needed then.
        instances: u32,
    },
    /// It is cheaper to keep some than to start them again, by the gaps after which they were
    /// needed before.
    WorthKeeping {
        /// How many.
        instances: u32,
    },
    /// So much less arrives than a moment ago that it may be an outage, after which all come back
    /// at once.
    SuddenDrop,
    /// Many instances fell silent or hang at the same time, so that something else may be wrong:
    /// reports that are lost, or a store that does not answer.
    Deaf {
        /// How many.
        instances: u32,
    },
    /// No instance reports though jobs are done, so that nobody is judged by a report.
    Unheard {
        /// How many should have reported that they are ready.
        instances: u32,
    },
    /// Not enough instances have been idle long enough.
    NotIdle,
    /// Instances that were just started are paid for until the end of the billing minimum.
    PaidFor,
    /// As many drain as may at the same time.
    MaxStep,
    /// Those that leave still take up places under `max`.
    NoPlace,
    /// As many start as may at the same time.
    MaxStarting,
    /// The rest of the day's budget allows no more.
    Budget,
    /// All pools together are at the limit.
    Limit,
    /// No instance is stopped: the fleet has no more.
    NoneStopped,
    /// The fleet has no capacity for those that are left; one of them is tried then.
    NoCapacity {
        /// When.
        until: DateTime<Utc>,
    },
    /// Those that are left failed lately and are left alone until then.
    BackOff {
        /// When the first of them may be started again.
        until: DateTime<Utc>,
    },
    /// An operator cordoned the instances that are stopped.
    Cordoned {
        /// How many of them.
        instances: u32,
    },
}

impl Plan {
    /// When to look again at the latest, where the tick is too late: something is about to be
    /// ready, or may soon go. Pools in which nothing is done anyway do not count.
    pub fn look_again(&self, is_paused: impl Fn(&str) -> bool) -> Option<Duration> {
        let changes = |(name, pool): (&String, &PoolPlan)| {
            let moves = pool.starting > 0 || pool.running() > pool.share || !pool.actions.is_empty();
            moves && !is_paused(name)
        };
        self.pools.iter().any(changes).then_some(SOON)
    }

    /// The part that may be carried out: nothing is done for a paused pool.
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

    /// What each instance is told to do.
    pub fn verbs(&self) -> BTreeMap<&str, Verb> {
        self.actions().map(|action| (action.id(), action.verb())).collect()
    }

    /// What to do in all pools, in order.
    pub fn actions(&self) -> impl Iterator<Item = &Action> {
        self.pools.values().flat_map(|pool| &pool.actions)
    }
}

impl Action {
    /// What it tells an instance.
    pub fn verb(&self) -> Verb {
        match self {
            Self::Start { .. } => Verb::Start,
            Self::Drain { .. } => Verb::Drain,
            Self::Stop { .. } => Verb::Stop,
        }
    }

    /// The instance that it is about.
    pub fn id(&self) -> &str {
        match self {
            Self::Start { id } | Self::Drain { id, .. } | Self::Stop { id } => id,
        }
    }
}

impl Hold {
    /// Whether it is part of an ordinary day. The others mean trouble.
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
    /// What the pool counts on: ready and starting.
    pub fn running(&self) -> u32 {
        self.ready + self.starting
    }

    /// What is wished, as far as the budget allows it.
    pub(crate) fn granted(&self) -> u32 {
        self.affordable.map_or(self.clamped, |affordable| self.clamped.min(affordable))
    }
}
