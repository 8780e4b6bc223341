//! The contract of [`Fleet`](super::Fleet), checked for any implementation. Each promise is one
//! function with its own rig; all wait for values with a deadline.

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Instance, PoolSpec, SharedFleet, State};
use crate::policy::Launch;

/// A fleet under test, with control over the behaviour of its instances.
#[async_trait]
pub(crate) trait Rig: Send + Sync {
    /// The fleet under test.
    fn fleet(&self) -> SharedFleet;
    /// Simulates a restart of the controller.
    async fn reopen(&mut self);
    /// Waits until the instance behaves as its model requires.
    async fn ready(&self, instance: &Instance);
    /// Kills the instance at once.
    async fn kill(&self, instance: &Instance);
    /// An instance that was ordered to drain ends, unless its model is [`STUBBORN`].
    async fn leave(&self, instance: &Instance);
}

/// Name of a model whose instances ignore drains.
pub(crate) const STUBBORN: &str = "stubborn";

const LONG: Duration = Duration::from_secs(20);
const A_MINUTE: Duration = Duration::from_secs(60);

/// Checks every promise of the contract.
pub(crate) async fn suite<R: Rig>(new: &impl AsyncFn() -> R) {
    a_pool_has_max_stopped_instances(&new().await).await;
    a_started_instance_runs_in_a_new_generation_and_the_others_stay_stopped(&new().await).await;
    starting_a_running_instance_changes_nothing(&new().await).await;
    an_unknown_instance_is_refused_and_the_others_start(&new().await).await;
    a_drained_instance_leaves_and_can_be_started_again(&new().await).await;
    repeating_a_drain_does_not_move_its_deadline(&new().await).await;
    draining_or_stopping_a_stopped_instance_changes_nothing(&new().await).await;
    an_instance_that_ignores_its_drain_is_stopped_by_force_when_it_is_due(&new().await).await;
    a_crashed_instance_is_stopped_with_time_and_reason(&new().await).await;
    running_instances_are_listed_even_if_their_pool_shrinks_or_is_removed(&new().await).await;
    a_stopped_instance_takes_the_new_model_of_its_pool_and_a_running_one_does_not(&new().await).await;
    a_new_controller_finds_running_and_draining_instances(&mut new().await).await;
}

fn pool(model: &str, max: u32) -> [PoolSpec; 1] {
    [PoolSpec { name: "p".to_owned(), model: model.to_owned(), max, launch: Launch::default() }]
}

async fn list(fleet: &SharedFleet, pools: &[PoolSpec]) -> Vec<Instance> {
    let mut instances = fleet.list(pools).await.expect("list");
    instances.sort_by(|a, b| a.id.cmp(&b.id));
    instances
}

async fn find(fleet: &SharedFleet, pools: &[PoolSpec], id: &str) -> Option<Instance> {
    list(fleet, pools).await.into_iter().find(|instance| instance.id == id)
}

/// Starts the first instance of the pool and returns it.
async fn started(rig: &impl Rig, pools: &[PoolSpec]) -> Instance {
    let fleet = &rig.fleet();
    let id = list(fleet, pools).await[0].id.clone();
    let refused = fleet.start(std::slice::from_ref(&id)).await;
    assert!(refused.is_empty(), "{refused:?}");
    let instance = find(fleet, pools, &id).await.expect("it was listed before");
    rig.ready(&instance).await;
    instance
}

/// Waits until the instance is in this state.
async fn becomes(fleet: &SharedFleet, pools: &[PoolSpec], id: &str, state: State) -> Instance {
    let deadline = Instant::now() + LONG;
    loop {
        let found = find(fleet, pools, id).await.expect("an instance does not vanish");
        if found.state == state {
            return found;
        }
        assert!(Instant::now() < deadline, "{id} should become {state:?}, is still {found:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn a_pool_has_max_stopped_instances(rig: &impl Rig) {
    let instances = list(&rig.fleet(), &pool("default", 3)).await;
    let ids: BTreeSet<_> = instances.iter().map(|instance| &instance.id).collect();
    assert_eq!((instances.len(), ids.len()), (3, 3));
    let is_right = |instance: &Instance| {
        instance.state == State::Stopped && instance.pool == "p" && instance.model == "default"
    };
    assert!(instances.iter().all(is_right), "{instances:?}");
}

async fn a_started_instance_runs_in_a_new_generation_and_the_others_stay_stopped(rig: &impl Rig) {
    let (fleet, pools) = (rig.fleet(), pool("default", 2));
    let first = started(rig, &pools).await;
    assert_eq!(first.state, State::Running);
    assert_eq!(list(&fleet, &pools).await[1].state, State::Stopped);
    fleet.drain(&first.id, A_MINUTE).await.expect("drain");
    rig.leave(&first).await;
    becomes(&fleet, &pools, &first.id, State::Stopped).await;
    let second = started(rig, &pools).await;
    assert!(first.generation.is_some() && first.generation != second.generation, "{first:?} {second:?}");
}

async fn starting_a_running_instance_changes_nothing(rig: &impl Rig) {
    let pools = pool("default", 1);
    let first = started(rig, &pools).await;
    assert_eq!(started(rig, &pools).await, first);
}

async fn an_unknown_instance_is_refused_and_the_others_start(rig: &impl Rig) {
    let (fleet, pools) = (rig.fleet(), pool("default", 1));
    let known = list(&fleet, &pools).await[0].id.clone();
    let refused = fleet.start(&["nobody".to_owned(), known.clone()]).await;
    assert_eq!(refused.iter().map(|refusal| refusal.id.as_str()).collect::<Vec<_>>(), ["nobody"]);
    assert_eq!(find(&fleet, &pools, &known).await.expect("listed").state, State::Running);
    assert!(fleet.drain("nobody", A_MINUTE).await.is_err());
    assert!(fleet.stop("nobody").await.is_err());
}

async fn a_drained_instance_leaves_and_can_be_started_again(rig: &impl Rig) {
    let (fleet, pools) = (rig.fleet(), pool("default", 1));
    let instance = started(rig, &pools).await;
    fleet.drain(&instance.id, A_MINUTE).await.expect("drain");
    rig.leave(&instance).await;
    let gone = becomes(&fleet, &pools, &instance.id, State::Stopped).await;
    assert_eq!((gone.crashes, gone.last_error), (0, None));
    assert_eq!(started(rig, &pools).await.state, State::Running);
}

async fn repeating_a_drain_does_not_move_its_deadline(rig: &impl Rig) {
    let (fleet, pools) = (rig.fleet(), pool(STUBBORN, 1));
    let instance = started(rig, &pools).await;
    fleet.drain(&instance.id, A_MINUTE).await.expect("drain");
    let draining = find(&fleet, &pools, &instance.id).await.expect("listed");
    assert_eq!((draining.state, draining.generation.clone()), (State::Draining, instance.generation));
    fleet.drain(&instance.id, 2 * A_MINUTE).await.expect("drain again");
    assert_eq!(find(&fleet, &pools, &instance.id).await, Some(draining));
}

async fn draining_or_stopping_a_stopped_instance_changes_nothing(rig: &impl Rig) {
    let (fleet, pools) = (rig.fleet(), pool("default", 1));
    let before = list(&fleet, &pools).await;
    fleet.drain(&before[0].id, A_MINUTE).await.expect("drain");
    fleet.stop(&before[0].id).await.expect("stop");
    let after = list(&fleet, &pools).await;
    assert_eq!(
        (after[0].state, after[0].drain_until, &after[0].generation),
        (State::Stopped, None, &before[0].generation)
    );
}

async fn an_instance_that_ignores_its_drain_is_stopped_by_force_when_it_is_due(rig: &impl Rig) {
    let (fleet, pools) = (rig.fleet(), pool(STUBBORN, 1));
    let instance = started(rig, &pools).await;
    fleet.drain(&instance.id, Duration::ZERO).await.expect("drain");
    fleet.stop(&instance.id).await.expect("stop");
    let gone = becomes(&fleet, &pools, &instance.id, State::Stopped).await;
    assert_eq!(gone.crashes, 0, "it was ordered to stop: {gone:?}");
}

async fn a_crashed_instance_is_stopped_with_time_and_reason(rig: &impl Rig) {
    let (fleet, pools) = (rig.fleet(), pool("default", 1));
    let instance = started(rig, &pools).await;
    rig.kill(&instance).await;
    let dead = becomes(&fleet, &pools, &instance.id, State::Stopped).await;
    assert!(dead.crashes == 1 && dead.last_error.is_some(), "{dead:?}");
    assert!(dead.since >= instance.since, "it is left alone from its end on: {dead:?}");
}

async fn running_instances_are_listed_even_if_their_pool_shrinks_or_is_removed(rig: &impl Rig) {
    let (fleet, pools) = (rig.fleet(), pool("default", 2));
    let all: Vec<_> = list(&fleet, &pools).await.into_iter().map(|instance| instance.id).collect();
    assert!(fleet.start(&all).await.is_empty());
    assert_eq!(list(&fleet, &pool("default", 1)).await.len(), all.len());
    let left = list(&fleet, &[]).await;
    assert_eq!(left.iter().map(|instance| instance.id.clone()).collect::<Vec<_>>(), all);
    for instance in &left {
        fleet.drain(&instance.id, A_MINUTE).await.expect("drain");
        rig.leave(instance).await;
    }
    let deadline = Instant::now() + LONG;
    while !list(&fleet, &[]).await.is_empty() {
        assert!(Instant::now() < deadline, "a stopped instance of no pool is forgotten");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn a_stopped_instance_takes_the_new_model_of_its_pool_and_a_running_one_does_not(rig: &impl Rig) {
    let fleet = rig.fleet();
    started(rig, &pool("default", 2)).await;
    let models: Vec<_> =
        list(&fleet, &pool("dogs", 2)).await.into_iter().map(|instance| instance.model).collect();
    // A fleet may list more stopped instances than the pool may run.
    assert_eq!(models[0], "default");
    assert!(models.len() >= 2 && models[1..].iter().all(|model| model == "dogs"), "{models:?}");
}

async fn a_new_controller_finds_running_and_draining_instances(rig: &mut impl Rig) {
    let pools = pool(STUBBORN, 3);
    let ids: Vec<_> = list(&rig.fleet(), &pools).await.into_iter().map(|instance| instance.id).collect();
    assert!(rig.fleet().start(&ids[..2]).await.is_empty());
    for instance in &list(&rig.fleet(), &pools).await[..2] {
        rig.ready(instance).await;
    }
    rig.fleet().drain(&ids[1], A_MINUTE).await.expect("drain");
    let alive = async |fleet: SharedFleet| {
        let mut instances = list(&fleet, &pools).await;
        instances.retain(Instance::is_alive);
        instances
    };
    let before = alive(rig.fleet()).await;
    assert_eq!(before.len(), 2);
    rig.reopen().await;
    assert_eq!(alive(rig.fleet()).await, before);
}
