//! The seam to the machines: a fixed inventory of instances that exist and are mostly stopped.
//!
//! The fleet knows what it was told to do and whether an instance runs. Whether an instance
//! *serves* is known from its own reports, and [`observe`](crate::observe) puts the two together.
//! The contract below is what `contract::suite` checks on every implementation.

#[cfg(test)]
pub(crate) mod contract;
#[cfg(feature = "aws")]
pub mod ec2;
pub mod memory;
pub mod process;
#[cfg(feature = "aws")]
pub mod ssm;

use std::{fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use eirs_platform::{
    clock::SharedClock,
    error::{Error, Result},
    settings::{BackendKind, Settings},
};
use serde::{Deserialize, Serialize};

pub use crate::policy::Tier;
use crate::policy::{Launch, Policy};

/// A fleet that can be handed around.
pub type SharedFleet = Arc<dyn Fleet>;

/// What the controller asks of a fleet. `controller/examples/own_fleet.rs` is one of your own, from
/// its beginning. Every verb returns as soon as the fleet took the order; how it went is seen in
/// the next [`list`](Fleet::list). Every verb may be repeated: the second time changes nothing.
///
/// ```
/// use std::{sync::Arc, time::Duration};
///
/// use eirs_controller::{
///     fleet::{Fleet, PoolSpec, State, memory::MemoryFleet},
///     policy::Launch,
/// };
/// use eirs_platform::clock::SystemClock;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> eirs_platform::Result<()> {
/// let fleet = MemoryFleet::new(Arc::new(SystemClock));
/// let (name, model) = ("default".to_owned(), "default".to_owned());
/// let pools = [PoolSpec { name, model, max: 1, launch: Launch::default() }];
/// assert_eq!(fleet.list(&pools).await?[0].state, State::Stopped);
/// assert!(fleet.start(&["default-1".into()]).await.is_empty(), "nothing was refused");
/// fleet.drain("default-1", Duration::from_secs(60)).await?;
/// assert_eq!(fleet.list(&pools).await?[0].state, State::Draining);
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait Fleet: Debug + Send + Sync {
    /// Every instance of these pools, and every instance of another pool that is not stopped, in no
    /// particular order. An instance that is in the list at all is there whatever its state: a
    /// missing one does not exist.
    async fn list(&self, pools: &[PoolSpec]) -> Result<Vec<Instance>>;

    /// Starts stopped instances that the last list named, all in one order. Each start is a new
    /// generation of the instance. The answer names those that could not be started; the others
    /// were. Starting what runs changes nothing.
    async fn start(&self, ids: &[String]) -> Vec<Refusal>;

    /// Tells an instance to finish what it holds and to leave; it is `Draining` from now on, and
    /// `Stopped` when it has left. Its drain is due `deadline` from now; telling it again does not
    /// move that, and draining what is stopped or stopping changes nothing.
    async fn drain(&self, id: &str, deadline: Duration) -> Result<()>;

    /// Stops an instance that is drained or whose drain is overdue: gently before the drain is due,
    /// by force after it. After the force nothing is due any more (`drain_until` is `None`), so
    /// that nobody tells it again. Stopping what is stopped changes nothing.
    async fn stop(&self, id: &str) -> Result<()>;
}

/// What a fleet must know of a pool.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolSpec {
    /// The pool.
    pub name: String,
    /// The model that an instance of it serves when it is started from now on.
    pub model: String,
    /// How many instances it may have, ...
    pub max: u32,
    /// ... beside those that are launched when they are needed. A fleet that launches none passes
    /// over it.
    pub launch: Launch,
}

/// One instance as the fleet sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// The name of the token, unlike that of any other.
    pub id: String,
    /// The pool it belongs to.
    pub pool: String,
    /// The model it serves, or would serve if it were started now.
    pub model: String,
    /// What it was told to do.
    pub state: State,
    /// Since when.
    pub since: DateTime<Utc>,
    /// Which start of the instance this is; unlike any other of the same instance. `None` before
    /// the first.
    pub generation: Option<String>,
    /// Its process, where it is one of this machine.
    pub pid: Option<u32>,
    /// When its drain is due; then it can be stopped by force.
    pub drain_until: Option<DateTime<Utc>>,
    /// It died before its time so often in a row, ...
    pub crashes: u32,
    /// ... for this reason. How long it is left alone the controller decides.
    pub last_error: Option<String>,
    /// Another one is there in its place: it is started no more, and leaves when that one serves.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retires: bool,
    /// Where it comes from.
    #[serde(default, skip_serializing_if = "Tier::is_parked")]
    pub tier: Tier,
    /// What its worker calls it, where that is not its name: the machine that stands in its place
    /// just now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
}

/// What an instance was told to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It exists and does not run.
    #[default]
    Stopped,
    /// It was started. Whether it is ready its reports tell.
    Running,
    /// It was told to finish what it holds and to leave.
    Draining,
    /// It was told to stop and is not gone yet.
    Stopping,
}

/// An instance that did not do as told.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The instance.
    pub id: String,
    /// Why.
    pub error: Error,
}

impl PoolSpec {
    /// Of a policy.
    pub fn of(name: &str, policy: &Policy) -> Self {
        let Policy { pool, launch, .. } = policy;
        // A pool that is switched off launches none.
        let launch = Launch { most: policy.most() - pool.max, ..launch.clone() };
        Self { name: name.to_owned(), model: pool.model.clone(), max: pool.max, launch }
    }
}

impl Instance {
    /// One that does not run and of which nothing else is known.
    pub fn stopped(
        id: impl Into<String>,
        pool: impl Into<String>,
        model: impl Into<String>,
        since: DateTime<Utc>,
    ) -> Self {
        let (id, pool, model) = (id.into(), pool.into(), model.into());
        Self { id, pool, model, since, ..Self::default() }
    }

    /// What its worker calls it.
    pub fn worker_name(&self) -> &str {
        self.machine.as_deref().unwrap_or(&self.id)
    }

    /// Whether it exists as more than an entry in the inventory: it uses up a place in its pool.
    pub fn is_alive(&self) -> bool {
        self.state != State::Stopped
    }
}

/// The fleet of these settings, to be looked at only: for programs that ask what there is while a
/// controller runs or none does.
pub async fn peek(settings: &Settings, clock: SharedClock) -> SharedFleet {
    match settings.backend {
        BackendKind::Local => Arc::new(process::Peek::new(settings, clock)),
        #[cfg(feature = "aws")]
        BackendKind::Aws => Arc::new(ec2::Ec2Fleet::peek(settings, clock).await),
        // Nobody comes here: the queues were opened before, or not.
        #[cfg(not(feature = "aws"))]
        BackendKind::Aws => Arc::new(process::Peek::new(settings, clock)),
    }
}

fn unknown(id: &str) -> Error {
    Error::broken(format!("finding the instance {id}"), "it was never listed")
}
