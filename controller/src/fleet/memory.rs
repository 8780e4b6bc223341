//! A fleet in memory: a reference implementation for tests and simulations, held to the same
//! contract as the others.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use eirs_platform::{
    clock::SharedClock,
    error::{Error, Result},
};

use super::{Fleet, Instance, PoolSpec, Refusal, State, unknown};

/// Instances that exist only as a table. Clones share it.
#[derive(Debug, Clone)]
pub struct MemoryFleet {
    clock: SharedClock,
    instances: Arc<Mutex<BTreeMap<String, Instance>>>,
    broken: Arc<Mutex<Option<Error>>>,
    refuses_starts: Arc<Mutex<Option<Error>>>,
}

impl MemoryFleet {
    /// Makes an empty fleet. The instances of a pool appear when it is first listed.
    pub fn new(clock: SharedClock) -> Self {
        Self { clock, instances: Arc::default(), broken: Arc::default(), refuses_starts: Arc::default() }
    }

    /// Makes every operation fail with this error, until it is called with `None`.
    pub fn break_with(&self, error: Option<Error>) {
        *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    /// Makes every start fail with this error, until it is called with `None`.
    pub fn refuse_starts(&self, error: Option<Error>) {
        *self.refuses_starts.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    /// Ends an instance that drains or stops.
    pub fn leave(&self, id: &str) {
        let now = self.clock.now();
        if let Some(instance) = self.lock().get_mut(id) {
            let generation = instance.generation.take();
            let (pool, model) = (instance.pool.clone(), instance.model.clone());
            *instance = Instance { generation, ..Instance::stopped(id, pool, model, now) };
        }
    }

    /// Crashes an instance.
    pub fn crash(&self, id: &str) {
        self.leave(id);
        if let Some(instance) = self.lock().get_mut(id) {
            instance.crashes += 1;
            instance.last_error = Some("crashed".to_owned());
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Instance>> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self) -> Result<()> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone().map_or(Ok(()), Err)
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Instance)) -> Result<()> {
        self.check()?;
        self.lock().get_mut(id).map(change).ok_or_else(|| unknown(id))
    }
}

#[async_trait]
impl Fleet for MemoryFleet {
    async fn list(&self, pools: &[PoolSpec]) -> Result<Vec<Instance>> {
        self.check()?;
        let now = self.clock.now();
        let mut instances = self.lock();
        let mut wanted = BTreeMap::new();
        for pool in pools {
            wanted.extend((1..=pool.max).map(|number| (format!("{}-{number}", pool.name), pool)));
        }
        instances.retain(|id, instance| instance.is_alive() || wanted.contains_key(id));
        for (id, pool) in wanted {
            let instance = instances
                .entry(id.clone())
                .or_insert_with(|| Instance::stopped(&id, &pool.name, &pool.model, now));
            if !instance.is_alive() {
                instance.model.clone_from(&pool.model);
            }
        }
        Ok(instances.values().cloned().collect())
    }

    async fn start(&self, ids: &[String]) -> Vec<Refusal> {
        let now = self.clock.now();
        let start = |instance: &mut Instance| {
            if instance.is_alive() {
                return;
            }
            let before = instance.generation.as_ref().and_then(|generation| generation.parse::<u64>().ok());
            instance.generation = Some((before.unwrap_or(0) + 1).to_string());
            (instance.state, instance.since) = (State::Running, now);
        };
        let refusal = self.refuses_starts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let refused = ids.iter().filter_map(|id| {
            let refused = refusal.clone().or_else(|| self.change(id, start).err());
            Some((id, refused?))
        });
        refused.map(|(id, error)| Refusal { id: id.clone(), error }).collect()
    }

    async fn drain(&self, id: &str, deadline: Duration) -> Result<()> {
        let now = self.clock.now();
        self.change(id, |instance| {
            if instance.state == State::Running {
                (instance.state, instance.since) = (State::Draining, now);
                instance.drain_until = Some(now + deadline);
            }
        })
    }

    async fn stop(&self, id: &str) -> Result<()> {
        self.change(id, |_| {})?;
        self.leave(id);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use eirs_platform::clock::SystemClock;

    use super::*;
    use crate::fleet::{SharedFleet, contract};

    #[derive(Debug)]
    struct Rig(MemoryFleet);

    #[async_trait]
    impl contract::Rig for Rig {
        fn fleet(&self) -> SharedFleet {
            Arc::new(self.0.clone())
        }

        async fn reopen(&mut self) {}

        async fn ready(&self, _instance: &Instance) {}

        async fn kill(&self, instance: &Instance) {
            self.0.crash(&instance.id);
        }

        async fn leave(&self, instance: &Instance) {
            self.0.leave(&instance.id);
        }
    }

    #[tokio::test]
    async fn the_memory_fleet_keeps_the_contract() {
        contract::suite(&async || Rig(MemoryFleet::new(Arc::new(SystemClock)))).await;
    }
}
