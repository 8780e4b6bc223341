//! A fleet of EC2 machines that `eirs setup` created and parked, and that the controller starts and
//! stops.
//!
//! Their state is kept in memory (`ec2/inventory.rs`). Listing machines by tags takes seconds and
//! is done once a minute; in between only machines that change state are described, by their ids.
//! State that must survive the controller is in tags of the machines (`ec2/machine.rs`): the
//! generation is tagged before a start, a drain before it is ordered. Starts are ordered together
//! (`ec2/start.rs`). A drain is ordered over SSM (`ssm.rs`), or by a stop if SSM does not reach the
//! machine.

mod describe;
mod dry;
mod inventory;
mod launch;
mod machine;
mod places;
mod start;

pub use launch::metadata_options;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use aws_config::{SdkConfig, timeout::TimeoutConfig};
use aws_sdk_ec2::{Client, types::Tag};
use chrono::{DateTime, TimeDelta, Utc};
use eirs_platform::{
    aws::{self, Service, tag},
    clock::SharedClock,
    error::{Error, Result},
    settings::{Aws, CpuCredits, Settings},
};

use self::{
    dry::{Dry, Place},
    inventory::Inventory,
    machine::Drain,
    start::{Candidate, StartOrder},
};
use super::{
    Fleet, Instance, PoolSpec, Refusal, State,
    ssm::{Delivery, Drains},
    unknown,
};

/// Interval between two complete listings by tags.
const LIST_EVERY: TimeDelta = TimeDelta::seconds(60);
/// Timeout of one attempt of a call. A pass allows an order ten seconds, so three attempts must end
/// by then.
const ATTEMPT: Duration = Duration::from_secs(4);
const ALL_ATTEMPTS: Duration = Duration::from_secs(9);

/// The machines of an installation. Clones share their state.
#[derive(Debug, Clone)]
pub struct Ec2Fleet {
    client: Client,
    /// Orders drains; `None` in a read-only fleet.
    drains: Option<Drains>,
    prefix: String,
    /// CPU credits of launched machines, if their type has credits.
    credits: CpuCredits,
    clock: SharedClock,
    shared: Arc<Mutex<Shared>>,
    /// Held by the one task that follows up drains.
    following_up: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    inventory: Inventory,
    dry: Dry,
    listed_at: Option<DateTime<Utc>>,
    /// The pools in the last list, by name.
    pools: BTreeMap<String, PoolSpec>,
}

/// Makes the EC2 client that the settings describe. Calls time out after seconds, because the next
/// pass is soon.
pub fn client(config: &SdkConfig, settings: &Aws) -> Client {
    let patience = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(2))
        .operation_attempt_timeout(ATTEMPT)
        .operation_timeout(ALL_ATTEMPTS)
        .build();
    patient_client(config, settings, patience)
}

/// Makes the same client with other timeouts.
pub fn patient_client(config: &SdkConfig, settings: &Aws, patience: TimeoutConfig) -> Client {
    let mut builder = aws_sdk_ec2::config::Builder::from(config);
    if let Some(endpoint) = aws::endpoint(settings, Service::Ec2) {
        builder = builder.endpoint_url(endpoint);
    }
    Client::from_conf(builder.timeout_config(patience).build())
}

impl Ec2Fleet {
    /// Opens the fleet of the installation that the settings describe.
    pub async fn open(settings: &Settings, clock: SharedClock) -> Self {
        let fleet = Self::of(&aws::sdk_config(&settings.aws).await, &settings.aws, clock);
        Self { credits: settings.setup.cpu_credits, ..fleet }
    }

    /// Opens the same fleet for reading only. It also sends no pending drains again.
    pub async fn peek(settings: &Settings, clock: SharedClock) -> Self {
        Self { drains: None, ..Self::open(settings, clock).await }
    }

    /// Opens the fleet with clients of this configuration.
    pub fn of(config: &SdkConfig, settings: &Aws, clock: SharedClock) -> Self {
        Self {
            client: client(config, settings),
            drains: Some(Drains::new(config, settings)),
            prefix: settings.prefix.clone(),
            credits: CpuCredits::Unlimited,
            clock,
            shared: Arc::default(),
            following_up: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Updates the inventory with as few calls as possible.
    async fn refresh(&self) -> Result<()> {
        let now = self.clock.now();
        let is_due = self.lock().listed_at.is_none_or(|at| now - at >= LIST_EVERY);
        if is_due {
            let machines = describe::all(&self.client, &self.prefix).await?;
            let mut shared = self.lock();
            shared.inventory.listed(machines, self.clock.now());
            shared.listed_at = Some(now);
            return Ok(());
        }
        let unsettled = self.lock().inventory.unsettled(now);
        let described = describe::some(&self.client, unsettled).await?;
        let mut shared = self.lock();
        let now = self.clock.now();
        shared.inventory.gone(&described.gone, now);
        shared.inventory.described(described.machines, now);
        Ok(())
    }

    /// Orders drains again unless their machines have received them. If SSM does not reach a
    /// machine, its operating system is ordered to stop, which also drains the worker.
    async fn follow_up_drains(&self) {
        let (Some(drains), Ok(_only_one)) = (&self.drains, self.following_up.try_lock()) else { return };
        let draining = self.lock().inventory.draining();
        drains.forget_all_but(&draining);
        let unreachable = drains.follow_up(&draining, self.clock.now()).await;
        for id in unreachable {
            tracing::warn!(instance = id, "{id} cannot be drained over SSM; stopping it");
            if let Err(error) = self.stop_machine(&id, false).await {
                tracing::warn!(instance = id, %error, "{id}: {error}");
            }
        }
    }

    async fn stop_machine(&self, id: &str, by_force: bool) -> Result<()> {
        let is_launched = {
            let mut shared = self.lock();
            shared.inventory.stop_ordered(id, by_force, self.clock.now());
            shared.inventory.machine(id).is_some_and(|machine| machine.is_launched)
        };
        if is_launched {
            // As with a stop, the operating system shuts down and the worker drains.
            let ended = self.client.terminate_instances().instance_ids(id).send().await;
            return ended.map(|_| ()).map_err(|error| aws::error(format!("terminating {id}"), &error));
        }
        let stopped = self.client.stop_instances().instance_ids(id).force(by_force).send().await;
        stopped.map(|_| ()).map_err(|error| aws::error(format!("stopping {id}"), &error))
    }

    /// Writes tags that must exist before the action that they describe.
    async fn tag(&self, what: String, ids: &[String], tags: &[(&str, &str)]) -> Result<()> {
        let tag = |(key, value): &(&str, &str)| Tag::builder().key(*key).value(*value).build();
        let tags = tags.iter().map(tag).collect();
        let call = self.client.create_tags().set_resources(Some(ids.to_vec())).set_tags(Some(tags));
        call.send().await.map(|_| ()).map_err(|error| aws::error(what, &error))
    }

    /// Launches machines of a pool into these places, from the first target that has capacity, and
    /// then the next.
    async fn launch_some(&self, pool: &str, mut places: Vec<String>) -> Vec<Refusal> {
        let now = self.clock.now();
        let what = || format!("launching for {pool}");
        let generation = machine::new_generation(now);
        let prepared = {
            let shared = self.lock();
            let machines = shared.inventory.machines();
            let like = launch::pattern(&machines, pool).cloned();
            like.zip(shared.pools.get(pool).cloned()).map(|(like, spec)| {
                let targets = launch::targets(&machines, pool, &spec.launch, &like.kind, &shared.dry, now);
                (like, spec, targets)
            })
        };
        let Some((like, spec, targets)) = prepared else {
            let why = "`eirs setup` has parked no machine in this pool to launch a copy of";
            return refuse_all(places, &Error::broken(what(), why));
        };
        let market = spec.launch.market;
        let tags = launch::tags(&self.prefix, pool, &spec.model, &generation, market);
        let mut refused = Error::no_capacity(what(), "no type in any zone had capacity a moment ago");
        for target in targets.into_iter().take(launch::CALLS) {
            if places.is_empty() {
                break;
            }
            let credits = launch::credits(&target.kind, self.credits);
            let call =
                launch::call(&self.client, &like.pattern, &target, places.len(), market, &tags, credits);
            match call.send().await {
                Ok(made) => {
                    let mut shared = self.lock();
                    let ids = made.instances().iter().filter_map(|instance| instance.instance_id());
                    let ids: Vec<_> = ids.take(places.len()).collect();
                    for (id, place) in ids.iter().zip(places.drain(..ids.len())) {
                        let (generation, model) = (Some(generation.clone()), Some(spec.model.clone()));
                        let machine = launch::made(&like, &target, id, generation, model, now);
                        shared.inventory.launched(machine, &place, now);
                    }
                    if places.is_empty() {
                        shared.dry.had_capacity(&target.place());
                    } else {
                        // It has no capacity beyond these.
                        shared.dry.refused(&target.place(), now);
                    }
                }
                Err(error) => {
                    refused = aws::error(format!("{} as {} in {}", what(), target.kind, target.zone), &error);
                    if matches!(refused, Error::NoCapacity { .. }) {
                        self.lock().dry.refused(&target.place(), now);
                        continue;
                    }
                    if is_unanswered(&refused) {
                        // The machines may run all the same: list them in the next pass.
                        self.lock().listed_at = None;
                    }
                    break;
                }
            }
        }
        refuse_all(places, &refused)
    }

    /// Starts machines that will serve one model. The generation is tagged first, as a running
    /// machine reads it from its metadata.
    async fn start_some(&self, model: &str, candidates: Vec<Candidate>) -> Vec<Refusal> {
        let now = self.clock.now();
        let generation = machine::new_generation(now);
        let mut order = {
            let mut shared = self.lock();
            let order = StartOrder::new(candidates, &shared.dry, now);
            order.waiting().for_each(|id| shared.inventory.start_ordered(id, &generation, model, now));
            order
        };
        let waiting: Vec<_> = order.waiting().map(str::to_owned).collect();
        if !waiting.is_empty() {
            let tags = [(tag::GENERATION, generation.as_str()), (tag::MODEL, model)];
            let what = format!("tagging {} before the start", waiting.join(", "));
            if let Err(error) = self.tag(what, &waiting, &tags).await {
                order.give_up(&error);
            }
        }
        while let Some(batch) = self.next_of(&mut order) {
            let ids = batch.iter().map(|candidate| candidate.id.clone()).collect();
            let started = self.client.start_instances().set_instance_ids(Some(ids)).send().await;
            let mut shared = self.lock();
            match started {
                Ok(_) => order.taken(batch, &mut shared.dry),
                Err(error) => {
                    let error = aws::error("starting", &error);
                    order.refused(batch, &error, &mut shared.dry, self.clock.now());
                }
            }
        }
        let (started, refused) = order.end();
        let mut shared = self.lock();
        started.iter().for_each(|candidate| shared.inventory.start_taken(&candidate.id, now));
        // An order without an answer may have been carried out: such a machine is observed until
        // that is clear.
        let surely = refused.iter().filter(|refusal| !is_unanswered(&refusal.error));
        surely.for_each(|refusal| shared.inventory.start_refused(&refusal.id));
        refused
    }

    fn next_of(&self, order: &mut StartOrder) -> Option<Vec<Candidate>> {
        order.next(&self.lock().dry, self.clock.now())
    }
}

fn refuse_all(ids: Vec<String>, error: &Error) -> Vec<Refusal> {
    ids.into_iter().map(|id| Refusal { id, error: error.clone() }).collect()
}

fn is_unanswered(error: &Error) -> bool {
    matches!(error, Error::Unavailable { .. })
}

#[async_trait]
impl Fleet for Ec2Fleet {
    async fn list(&self, pools: &[PoolSpec]) -> Result<Vec<Instance>> {
        self.refresh().await?;
        // In the background: listing must not depend on the response time of SSM.
        let fleet = self.clone();
        tokio::spawn(async move { fleet.follow_up_drains().await });
        let mut shared = self.lock();
        shared.pools = pools.iter().map(|pool| (pool.name.clone(), pool.clone())).collect();
        Ok(shared.inventory.view(pools))
    }

    async fn start(&self, ids: &[String]) -> Vec<Refusal> {
        let mut refused = Vec::new();
        let mut by_model: BTreeMap<String, Vec<Candidate>> = BTreeMap::new();
        let mut launches: BTreeMap<String, Vec<String>> = BTreeMap::new();
        {
            let shared = self.lock();
            for id in ids {
                let Some(machine) = shared.inventory.machine(id) else {
                    match places::pool_of(id) {
                        Some(pool) => launches.entry(pool.to_owned()).or_default().push(id.clone()),
                        None => refused.push(Refusal { id: id.clone(), error: unknown(id) }),
                    }
                    continue;
                };
                if shared.inventory.state(id) == Some(State::Stopped) {
                    let model = shared.pools.get(&machine.pool).map(|pool| pool.model.clone());
                    let candidate = Candidate { id: machine.id.clone(), place: Place::of(machine) };
                    by_model.entry(model.unwrap_or_default()).or_default().push(candidate);
                }
            }
        }
        for (model, candidates) in by_model {
            let some = self.start_some(&model, candidates).await;
            let shared = self.lock();
            refused.extend(
                some.into_iter().map(|refusal| Refusal { id: shared.inventory.name(&refusal.id), ..refusal }),
            );
        }
        for (pool, places) in launches {
            refused.extend(self.launch_some(&pool, places).await);
        }
        refused
    }

    async fn drain(&self, id: &str, deadline: Duration) -> Result<()> {
        let (machine, drain) = {
            let shared = self.lock();
            let machine = shared.inventory.machine(id).ok_or_else(|| unknown(id))?;
            if shared.inventory.state(id) != Some(State::Running) {
                return Ok(());
            }
            let since = self.clock.now();
            let drain = Drain { generation: machine.generation().to_owned(), since, until: since + deadline };
            (machine.id.clone(), drain)
        };
        let id = machine.as_str();
        // Tagged first: if the controller ends in between, the next one finds the drain and orders
        // it.
        let what = format!("tagging {id} before its drain");
        self.tag(what, &[id.to_owned()], &[(tag::DRAIN, &drain.written())]).await?;
        self.lock().inventory.drain_ordered(id, drain.clone());
        if let Some(drains) = &self.drains
            && drains.send(id, &drain.generation, self.clock.now()).await == Delivery::Failed
        {
            tracing::info!(instance = id, "{id} could not be drained yet; the next passes try again");
        }
        Ok(())
    }

    async fn stop(&self, id: &str) -> Result<()> {
        let (machine, by_force) = {
            let shared = self.lock();
            match (shared.inventory.machine(id), shared.inventory.state(id)) {
                (Some(_), Some(State::Stopped)) => return Ok(()),
                (Some(machine), Some(_)) => {
                    (machine.id.clone(), shared.inventory.is_overdue(id, self.clock.now()))
                }
                // An empty place counts as stopped.
                _ if places::pool_of(id).is_some() => return Ok(()),
                _ => return Err(unknown(id)),
            }
        };
        self.stop_machine(&machine, by_force).await
    }
}

#[cfg(test)]
mod tests;
