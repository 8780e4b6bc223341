//! The interface to the machines: a fixed inventory of instances that exist and are mostly stopped.
//!
//! The fleet knows the orders that it received and whether an instance runs. Whether an instance
//! *serves* is known from its own reports; [`observe`](crate::observe) combines the two.
//! `contract::suite` checks the contract below for every implementation.

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

/// A fleet that can be shared between tasks.
pub type SharedFleet = Arc<dyn Fleet>;

/// The operations that the controller needs from a fleet. `controller/examples/own_fleet.rs` is a
/// complete example of your own fleet. Every operation returns as soon as the fleet has accepted
/// the order; the next [`list`](Fleet::list) shows its effect. Every operation is idempotent.
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
    /// Lists every instance of these pools, and every instance of another pool that is not stopped,
    /// in no particular order. An instance keeps its place in the list in every state; one that is
    /// missing does not exist.
    async fn list(&self, pools: &[PoolSpec]) -> Result<Vec<Instance>>;

    /// Starts stopped instances of the last list, all in one order. Each start is a new generation
    /// of the instance. Returns the instances that could not be started; the others were. Starting
    /// a running instance changes nothing.
    async fn start(&self, ids: &[String]) -> Vec<Refusal>;

    /// Orders an instance to finish the jobs in flight and to end. It is `Draining` from now on,
    /// and `Stopped` once it has ended. The drain is due `deadline` from now; repeating the order
    /// does not move that. Draining an instance that is stopped or stopping changes nothing.
    async fn drain(&self, id: &str, deadline: Duration) -> Result<()>;

    /// Stops an instance that is drained or whose drain is overdue: gently before the drain is due,
    /// by force after it. After a forced stop `drain_until` is `None`, so that it is not repeated.
    /// Stopping a stopped instance changes nothing.
    async fn stop(&self, id: &str) -> Result<()>;
}

/// The parts of a policy that a fleet needs.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolSpec {
    /// Name of the pool.
    pub name: String,
    /// Model that its instances serve if they are started from now on.
    pub model: String,
    /// Maximum number of parked instances.
    pub max: u32,
    /// Limits of the instances that are launched on demand. A fleet that cannot launch ignores it.
    pub launch: Launch,
}

/// One instance as the fleet sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Unique name of the instance.
    pub id: String,
    /// Name of its pool.
    pub pool: String,
    /// Model that it serves, or would serve if it were started now.
    pub model: String,
    /// State according to the last order.
    pub state: State,
    /// Time of the last change of state.
    pub since: DateTime<Utc>,
    /// Identifies the current or last start among all starts of this instance. `None` before the
    /// first.
    pub generation: Option<String>,
    /// Process id, if the instance is a process of this machine.
    pub pid: Option<u32>,
    /// Time at which its drain is due. After it, the instance may be stopped by force.
    pub drain_until: Option<DateTime<Utc>>,
    /// Number of crashes in a row.
    pub crashes: u32,
    /// Reason of the last crash. The controller decides how long the instance is left alone.
    pub last_error: Option<String>,
    /// Whether a replacement exists: the instance is not started again, and ends once that serves.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retires: bool,
    /// Whether the instance is parked or launched on demand.
    #[serde(default, skip_serializing_if = "Tier::is_parked")]
    pub tier: Tier,
    /// Name that its worker reports, if it differs from `id`: the machine that currently occupies
    /// the place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
}

/// The state of an instance according to its last order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Exists and does not run.
    #[default]
    Stopped,
    /// Was started. Its reports say whether it is ready.
    Running,
    /// Was ordered to finish the jobs in flight and to end.
    Draining,
    /// Was ordered to stop and has not ended yet.
    Stopping,
}

/// An order that an instance refused.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// Id of the instance.
    pub id: String,
    /// The reason.
    pub error: Error,
}

impl PoolSpec {
    /// Takes the parts of a policy that a fleet needs.
    pub fn of(name: &str, policy: &Policy) -> Self {
        let Policy { pool, launch, .. } = policy;
        // A pool that is switched off launches no instances.
        let launch = Launch { most: policy.most() - pool.max, ..launch.clone() };
        Self { name: name.to_owned(), model: pool.model.clone(), max: pool.max, launch }
    }
}

impl Instance {
    /// A stopped instance of which nothing else is known.
    pub fn stopped(
        id: impl Into<String>,
        pool: impl Into<String>,
        model: impl Into<String>,
        since: DateTime<Utc>,
    ) -> Self {
        let (id, pool, model) = (id.into(), pool.into(), model.into());
        Self { id, pool, model, since, ..Self::default() }
    }

    /// The name under which its worker reports.
    pub fn worker_name(&self) -> &str {
        self.machine.as_deref().unwrap_or(&self.id)
    }

    /// Whether the instance takes up a place in its pool, which all but stopped ones do.
    pub fn is_alive(&self) -> bool {
        self.state != State::Stopped
    }
}

/// Opens the fleet of these settings for reading only, for programs that run beside a controller or
/// without one.
pub async fn peek(settings: &Settings, clock: SharedClock) -> SharedFleet {
    match settings.backend {
        BackendKind::Local => Arc::new(process::Peek::new(settings, clock)),
        #[cfg(feature = "aws")]
        BackendKind::Aws => Arc::new(ec2::Ec2Fleet::peek(settings, clock).await),
        // Unreachable: without the `aws` feature, opening the queues has failed before.
        #[cfg(not(feature = "aws"))]
        BackendKind::Aws => Arc::new(process::Peek::new(settings, clock)),
    }
}

fn unknown(id: &str) -> Error {
    Error::broken(format!("finding the instance {id}"), "it was never listed")
}
