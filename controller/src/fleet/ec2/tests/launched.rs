//! Machines that are launched on demand, and their places.

use chrono::{DateTime, Utc};
use eirs_platform::clock::Clock;

use super::*;
use crate::policy::Market;

/// A clock that always shows the same time.
#[derive(Debug)]
struct Still(DateTime<Utc>);

impl Clock for Still {
    fn now(&self) -> DateTime<Utc> {
        self.0
    }
}

/// A pool of three parked machines that may launch thirty.
fn launching(types: &[&str], market: Market) -> [PoolSpec; 1] {
    let types = types.iter().map(|kind| (*kind).to_owned()).collect();
    let launch = Launch { most: 30, types, market, ..Launch::default() };
    [PoolSpec { name: "p".into(), model: "default".into(), max: 3, launch }]
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_machines_are_launched_in_one_call_and_terminated_when_stopped() {
    let emulator = Emulator::start(&QUICK);
    let Some(rig) = rig(&emulator).await else { return };
    let pools = launching(&["t3.small", "t3a.small"], Market::OnDemand);
    let listed = rig.fleet.list(&pools).await.unwrap();
    let places = listed.iter().filter(|instance| instance.tier == Tier::Launched);
    let places: Vec<_> = places.map(|place| place.id.clone()).collect();
    assert_eq!((listed.len(), places.len()), (33, 30));
    let before = rig.emulator.calls("RunInstances");
    assert!(rig.fleet.start(&places).await.is_empty());
    assert_eq!(rig.emulator.calls("RunInstances") - before, 1);

    let listed = rig.fleet.list(&pools).await.unwrap();
    let launched: Vec<_> = listed.iter().filter(|instance| instance.tier == Tier::Launched).collect();
    assert!(launched.len() == 30 && launched.iter().all(|i| i.state == State::Running), "{launched:#?}");
    let machines: Vec<_> = launched.iter().filter_map(|i| i.machine.clone()).collect();
    rig.until(&machines, "running").await;
    let call = rig.fleet.client.describe_instances().set_instance_ids(Some(machines.clone()));
    let described = call.send().await.unwrap();
    for instance in described.reservations().iter().flat_map(|reservation| reservation.instances()) {
        let tag =
            |key: &str| instance.tags().iter().find(|tag| tag.key() == Some(key)).and_then(|tag| tag.value());
        let (pool, tier) = (tag(tag::POOL), tag(tag::TIER));
        assert_eq!((tag(tag::HANDED_OVER), pool, tier), (Some(tag::YES), Some("p"), Some(tag::LAUNCHED)));
        assert_eq!(tag(tag::GENERATION), launched[0].generation.as_deref(), "it is tagged at launch");
        assert_eq!(instance.instance_type().map(|kind| kind.as_str()), Some("t3.small"));
    }

    // Another controller finds them, possibly in other places.
    let another = Ec2Fleet::of(&rig.config, &rig.settings, Arc::new(SystemClock));
    let found = another.list(&pools).await.unwrap();
    let names = |listed: &[Instance]| {
        let launched = listed.iter().filter(|i| i.machine.is_some());
        launched.map(|i| i.id.clone()).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(names(&found), names(&listed));
    for id in names(&found) {
        another.stop(&id).await.unwrap();
    }
    rig.until(&machines, "terminated").await;
    let poll = Poll::new();
    while another.list(&pools).await.unwrap().iter().any(|i| i.machine.is_some()) {
        poll.retry("the places are empty").await;
    }
    assert!(another.start(&places[..1]).await.is_empty(), "the places can be filled again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_without_capacity_is_followed_by_the_next_and_then_left_alone() {
    let emulator = Emulator::start(&QUICK);
    let Some(mut rig) = rig(&emulator).await else { return };
    // The clock stands still, so that the time in which the type is left alone does not end.
    rig.fleet = Ec2Fleet::of(&rig.config, &rig.settings, Arc::new(Still(Utc::now())));
    let pools = launching(&["t3.small", "t3a.small"], Market::Spot);
    let fault = |kind: &str| {
        let code = "InsufficientInstanceCapacity";
        rig.emulator
            .fault(&json!({ "op": "RunInstances", "code": code, "times": 1000, "instance_type": kind }));
    };
    fault("t3.small");
    let listed = rig.fleet.list(&pools).await.unwrap();
    let places: Vec<_> = listed.iter().filter(|i| i.tier == Tier::Launched).map(|i| i.id.clone()).collect();
    assert!(rig.fleet.start(&places[..2]).await.is_empty());
    let listed = rig.fleet.list(&pools).await.unwrap();
    let machines: Vec<_> = listed.iter().filter_map(|i| i.machine.clone()).collect();
    let described =
        rig.fleet.client.describe_instances().set_instance_ids(Some(machines)).send().await.unwrap();
    let kinds = described.reservations().iter().flat_map(|reservation| reservation.instances());
    assert!(
        kinds.clone().count() == 2
            && kinds.clone().all(|i| i.instance_type().unwrap().as_str() == "t3a.small")
    );
    fault("t3a.small");
    let refused = rig.fleet.start(&places[2..4]).await;
    assert!(
        refused.len() == 2 && refused.iter().all(|r| matches!(r.error, Error::NoCapacity { .. })),
        "{refused:?}"
    );
    let before = rig.emulator.calls("RunInstances");
    assert_eq!(rig.fleet.start(&places[2..4]).await.len(), 2);
    assert_eq!(rig.emulator.calls("RunInstances"), before, "both are left alone, and no call is made");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_whose_machine_is_interrupted_counts_a_crash() {
    let emulator = Emulator::start(&QUICK);
    let Some(rig) = rig(&emulator).await else { return };
    let pools = launching(&[], Market::Spot);
    rig.fleet.list(&pools).await.unwrap();
    let place = "p-launched-1".to_owned();
    assert!(rig.fleet.start(std::slice::from_ref(&place)).await.is_empty());
    let machine = async || {
        let listed = rig.fleet.list(&pools).await.unwrap();
        listed.into_iter().find(|i| i.id == place).expect("its place")
    };
    let id = machine().await.machine.expect("a machine");
    rig.until(std::slice::from_ref(&id), "running").await;
    machine().await;
    let died = json!({ "code": "Server.SpotInstanceTermination", "terminate": true }).to_string();
    rig.emulator.harness("POST", &format!("instance/{id}/die"), &died);
    let (poll, mut empty) = (Poll::new(), machine().await);
    while empty.machine.is_some() {
        poll.retry(&empty).await;
        empty = machine().await;
    }
    assert_eq!((empty.state, empty.crashes), (State::Stopped, 1));
    assert!(empty.last_error.is_some(), "{empty:?}");
}
