//! Your own fleet in Rust, for example machines that are started by Wake-on-LAN and shut down over
//! SSH. This example only remembers the orders, which is all that the controller needs of a fleet
//! besides carrying them out.
//!
//!     cargo run -p eirs-controller --no-default-features --example own_fleet
//!
//! Where a comment says "here", a real fleet sends its order: it returns as soon as the order is
//! accepted, and `list` shows the result. To use it, add a kind of backend to
//! `platform/src/settings.rs` and open the fleet in `controller/src/main.rs`. Its tests call the
//! contract suite in `controller/src/fleet/contract.rs`, which every fleet has to pass.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use eirs_controller::{
    fleet::{Fleet, Instance, PoolSpec, Refusal, State},
    policy::Launch,
};
use eirs_platform::{
    clock::{SharedClock, SystemClock},
    error::{Error, Result},
};

/// The machines of one pool.
#[derive(Debug)]
struct Machines {
    clock: SharedClock,
    known: Mutex<BTreeMap<String, Instance>>,
}

impl Machines {
    fn new(pool: &str, names: &[&str], clock: SharedClock) -> Self {
        let machine = |name: &&str| {
            let instance = Instance::stopped(*name, pool, "default", clock.now());
            (instance.id.clone(), instance)
        };
        let known = Mutex::new(names.iter().map(machine).collect());
        Self { clock, known }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Instance>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Instance)) -> Result<()> {
        let unknown = || Error::broken(format!("finding the machine {id}"), "it is unknown");
        self.known().get_mut(id).map(change).ok_or_else(unknown)
    }
}

#[async_trait]
impl Fleet for Machines {
    async fn list(&self, pools: &[PoolSpec]) -> Result<Vec<Instance>> {
        // Here: query which machines run. One that drains or stops and no longer responds is
        // `Stopped`.
        let mut known = self.known();
        for instance in known.values_mut().filter(|instance| instance.state == State::Stopped) {
            if let Some(pool) = pools.iter().find(|pool| pool.name == instance.pool) {
                instance.model.clone_from(&pool.model);
            }
        }
        let is_wanted =
            |instance: &&Instance| instance.is_alive() || pools.iter().any(|pool| pool.name == instance.pool);
        Ok(known.values().filter(is_wanted).cloned().collect())
    }

    async fn start(&self, ids: &[String]) -> Vec<Refusal> {
        let now = self.clock.now();
        let start = |instance: &mut Instance| {
            // Repeating the order changes nothing.
            if instance.state == State::Stopped {
                // Here: start the machine. The worker on it is started with
                // `--instance ID --generation GENERATION`.
                instance.generation = Some(now.timestamp_micros().to_string());
                (instance.state, instance.since) = (State::Running, now);
            }
        };
        let refused = ids.iter().filter_map(|id| {
            let error = self.change(id, start).err()?;
            Some(Refusal { id: id.clone(), error })
        });
        refused.collect()
    }

    async fn drain(&self, id: &str, deadline: Duration) -> Result<()> {
        let now = self.clock.now();
        self.change(id, |instance| {
            if instance.state == State::Running {
                // Here: send the worker SIGTERM. It finishes its jobs in flight and ends.
                (instance.state, instance.since) = (State::Draining, now);
                instance.drain_until = Some(now + deadline);
            }
        })
    }

    async fn stop(&self, id: &str) -> Result<()> {
        let now = self.clock.now();
        self.change(id, |instance| {
            if instance.is_alive() {
                // Here: shut the machine down, by force once its drain is overdue.
                (instance.state, instance.since) = (State::Stopped, now);
                instance.drain_until = None;
            }
        })
    }
}

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "an example shows what it did")]
async fn main() -> Result<()> {
    let fleet = Machines::new("default", &["attic", "cellar"], std::sync::Arc::new(SystemClock));
    let pools =
        [PoolSpec { name: "default".into(), model: "default".into(), max: 2, launch: Launch::default() }];
    let show = async |what: &str| -> Result<()> {
        let states: Vec<_> =
            fleet.list(&pools).await?.iter().map(|one| format!("{} {:?}", one.id, one.state)).collect();
        println!("{what}: {}", states.join(", "));
        Ok(())
    };
    show("at first").await?;
    for refusal in fleet.start(&["attic".into(), "roof".into()]).await {
        println!("refused: {}: {}", refusal.id, refusal.error);
    }
    show("started").await?;
    fleet.drain("attic", Duration::from_secs(60)).await?;
    show("drained").await?;
    fleet.stop("attic").await?;
    show("stopped").await
}
