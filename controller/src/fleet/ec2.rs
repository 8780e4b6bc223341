//! A fleet of EC2: machines that `eirs setup` has baked, launched and parked, started and stopped by this controller.
//!
//! What is known of them is kept in memory (`ec2/inventory.rs`). A listing by tags costs seconds and is made once a minute;
//! in between, only the machines that are not at rest are described, by their ids. What must survive the controller is
//! tagged on the machines (`ec2/machine.rs`): the generation before each start, the drain before it is told. Orders to start
//! go out together (`ec2/start.rs`); a drain is told over SSM (`ssm.rs`), and by a stop where SSM does not reach the machine.

mod describe;
mod dry;
mod inventory;
mod machine;
mod start;

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
    settings::{Aws, Settings},
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

/// How often everything is listed by its tags.
const LIST_EVERY: TimeDelta = TimeDelta::seconds(60);
/// The loop gives an order ten seconds; a call that is tried three times shall be answered by then.
const ATTEMPT: Duration = Duration::from_secs(4);
const ALL_ATTEMPTS: Duration = Duration::from_secs(9);

/// The machines of an installation. Clones share what is known of them.
#[derive(Debug, Clone)]
pub struct Ec2Fleet {
    client: Client,
    /// Tells drains; `None` where the fleet is only looked at.
    drains: Option<Drains>,
    prefix: String,
    clock: SharedClock,
    shared: Arc<Mutex<Shared>>,
    /// Held while drains are looked after: by one task at a time.
    pursuit: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    inventory: Inventory,
    dry: Dry,
    listed_at: Option<DateTime<Utc>>,
    /// The model of each pool, as it was listed last.
    models: BTreeMap<String, String>,
}

/// The client of EC2 that the settings describe.
pub fn client(config: &SdkConfig, settings: &Aws) -> Client {
    let mut builder = aws_sdk_ec2::config::Builder::from(config);
    if let Some(endpoint) = aws::endpoint(settings, Service::Ec2) {
        builder = builder.endpoint_url(endpoint);
    }
    let time_out = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(2))
        .operation_attempt_timeout(ATTEMPT)
        .operation_timeout(ALL_ATTEMPTS)
        .build();
    Client::from_conf(builder.timeout_config(time_out).build())
}

impl Ec2Fleet {
    /// The fleet of the installation that the settings describe.
    pub async fn open(settings: &Settings, clock: SharedClock) -> Self {
        Self::of(&aws::sdk_config(&settings.aws).await, &settings.aws, clock)
    }

    /// The same, to be looked at only: it tells nobody anything, not even again.
    pub async fn peek(settings: &Settings, clock: SharedClock) -> Self {
        Self { drains: None, ..Self::open(settings, clock).await }
    }

    /// The fleet that clients of this configuration see.
    pub fn of(config: &SdkConfig, settings: &Aws, clock: SharedClock) -> Self {
        Self {
            client: client(config, settings),
            drains: Some(Drains::new(config, settings)),
            prefix: settings.prefix.clone(),
            clock,
            shared: Arc::default(),
            pursuit: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings what is known up to date, as cheaply as it goes.
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
        let restless = self.lock().inventory.restless(now);
        let described = describe::some(&self.client, restless).await?;
        let mut shared = self.lock();
        shared.inventory.gone(&described.gone);
        shared.inventory.described(described.machines, self.clock.now());
        Ok(())
    }

    /// Tells the machines that drain once more, where it is not known that they heard; where SSM does not reach one, its
    /// operating system is told to stop, which drains it too.
    async fn pursue_drains(&self) {
        let (Some(drains), Ok(_only_one)) = (&self.drains, self.pursuit.try_lock()) else { return };
        let draining = self.lock().inventory.draining();
        drains.forget_all_but(&draining);
        let unreachable = drains.pursue(&draining, self.clock.now()).await;
        for id in unreachable {
            tracing::warn!(instance = id, "{id} cannot be drained over SSM; stopping it");
            if let Err(error) = self.stop_machine(&id, false).await {
                tracing::warn!(instance = id, %error, "{id}: {error}");
            }
        }
    }

    async fn stop_machine(&self, id: &str, by_force: bool) -> Result<()> {
        self.lock().inventory.stop_ordered(id, by_force, self.clock.now());
        let stopped = self.client.stop_instances().instance_ids(id).force(by_force).send().await;
        stopped.map(|_| ()).map_err(|error| aws::error(format!("stopping {id}"), &error))
    }

    /// Writes a tag that must be there before what it is about happens.
    async fn tag(&self, what: String, ids: &[String], tags: &[(&str, &str)]) -> Result<()> {
        let tag = |(key, value): &(&str, &str)| Tag::builder().key(*key).value(*value).build();
        let tags = tags.iter().map(tag).collect();
        let call = self.client.create_tags().set_resources(Some(ids.to_vec())).set_tags(Some(tags));
        call.send().await.map(|_| ()).map_err(|error| aws::error(what, &error))
    }

    /// Starts machines of one model. The generation is tagged first: a machine that runs finds it in its metadata.
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
        // Of one whose order was never answered nobody knows: it is looked at until that is clear.
        let surely = refused.iter().filter(|refusal| !is_unanswered(&refusal.error));
        surely.for_each(|refusal| shared.inventory.start_refused(&refusal.id));
        refused
    }

    fn next_of(&self, order: &mut StartOrder) -> Option<Vec<Candidate>> {
        order.next(&self.lock().dry, self.clock.now())
    }
}

fn is_unanswered(error: &Error) -> bool {
    matches!(error, Error::Unavailable { .. })
}

#[async_trait]
impl Fleet for Ec2Fleet {
    async fn list(&self, pools: &[PoolSpec]) -> Result<Vec<Instance>> {
        self.refresh().await?;
        // Beside the look, which does not depend on how SSM feels today.
        let fleet = self.clone();
        tokio::spawn(async move { fleet.pursue_drains().await });
        let mut shared = self.lock();
        shared.models = pools.iter().map(|pool| (pool.name.clone(), pool.model.clone())).collect();
        Ok(shared.inventory.view(pools))
    }

    async fn start(&self, ids: &[String]) -> Vec<Refusal> {
        let mut refused = Vec::new();
        let mut by_model: BTreeMap<String, Vec<Candidate>> = BTreeMap::new();
        {
            let shared = self.lock();
            for id in ids {
                let Some(machine) = shared.inventory.machine(id) else {
                    refused.push(Refusal { id: id.clone(), error: unknown(id) });
                    continue;
                };
                if shared.inventory.state(id) == Some(State::Stopped) {
                    let model = shared.models.get(&machine.pool).cloned().unwrap_or_default();
                    let candidate = Candidate { id: id.clone(), place: Place::of(machine) };
                    by_model.entry(model).or_default().push(candidate);
                }
            }
        }
        for (model, candidates) in by_model {
            refused.extend(self.start_some(&model, candidates).await);
        }
        refused
    }

    async fn drain(&self, id: &str, deadline: Duration) -> Result<()> {
        let drain = {
            let shared = self.lock();
            let machine = shared.inventory.machine(id).ok_or_else(|| unknown(id))?;
            if shared.inventory.state(id) != Some(State::Running) {
                return Ok(());
            }
            let since = self.clock.now();
            Drain { generation: machine.generation().to_owned(), since, until: since + deadline }
        };
        // Tagged first: a controller that dies in between leaves a drain that the next one tells again.
        let what = format!("tagging {id} before its drain");
        self.tag(what, &[id.to_owned()], &[(tag::DRAIN, &drain.written())]).await?;
        self.lock().inventory.drain_ordered(id, drain.clone());
        if let Some(drains) = &self.drains
            && drains.tell(id, &drain.generation, self.clock.now()).await == Delivery::Failed
        {
            tracing::info!(instance = id, "{id} could not be drained yet; the next passes try again");
        }
        Ok(())
    }

    async fn stop(&self, id: &str) -> Result<()> {
        let by_force = {
            let shared = self.lock();
            match shared.inventory.state(id).ok_or_else(|| unknown(id))? {
                State::Stopped => return Ok(()),
                _ => shared.inventory.is_overdue(id, self.clock.now()),
            }
        };
        self.stop_machine(id, by_force).await
    }
}

#[cfg(test)]
mod tests;
