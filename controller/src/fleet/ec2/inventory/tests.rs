use super::*;
use crate::{fleet::ec2::machine::tests::machine, policy::Launch};

fn at(second: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(1_767_225_600 + second)
}

fn pools() -> [PoolSpec; 1] {
    [PoolSpec { name: "p".into(), model: "dogs".into(), max: 1, launch: Launch::default() }]
}

/// One stopped machine.
fn inventory() -> Inventory {
    let mut inventory = Inventory::default();
    inventory.listed(vec![machine("i-1", Ec2State::Stopped)], at(0));
    inventory
}

fn started(inventory: &mut Inventory, second: i64) -> String {
    let generation = machine::new_generation(at(second));
    inventory.start_ordered("i-1", &generation, "dogs", at(second));
    inventory.start_taken("i-1", at(second));
    generation
}

fn only(inventory: &Inventory) -> Instance {
    let [instance] = inventory.view(&pools()).try_into().expect("one");
    instance
}

#[test]
fn a_description_that_does_not_reflect_an_order_yet_does_not_count() {
    let mut inventory = inventory();
    started(&mut inventory, 10);
    inventory.described(vec![machine("i-1", Ec2State::Stopped)], at(20));
    assert_eq!(only(&inventory).state, State::Running, "EC2 is eventually consistent");
    inventory.described(vec![machine("i-1", Ec2State::Stopped)], at(26));
    let instance = only(&inventory);
    assert_eq!(
        (instance.state, instance.crashes),
        (State::Stopped, 1),
        "after the lag the start counts as failed"
    );
    assert_eq!(instance.since, at(26));

    let mut inventory = self::inventory();
    started(&mut inventory, 10);
    let launched =
        Machine { launched: at(11), reason: Some("no room".into()), ..machine("i-1", Ec2State::Stopped) };
    inventory.described(vec![launched], at(12));
    assert_eq!(only(&inventory).state, State::Stopped, "it was launched since the order, and has ended");
    assert_eq!(only(&inventory).last_error.as_deref(), Some("stopped unexpectedly: no room"));

    let mut inventory = self::inventory();
    let generation = started(&mut inventory, 10);
    inventory.stop_ordered("i-1", false, at(20));
    inventory.described(vec![machine("i-1", Ec2State::Running)], at(21));
    assert_eq!(only(&inventory).state, State::Stopping);
    assert_eq!(only(&inventory).generation, Some(generation));
}

#[test]
fn late_tags_do_not_undo_an_order() {
    let mut inventory = inventory();
    let generation = started(&mut inventory, 10);
    inventory.described(vec![machine("i-1", Ec2State::Running)], at(12));
    assert_eq!(only(&inventory).generation.as_ref(), Some(&generation));
    let drain = Drain { generation: generation.clone(), since: at(40), until: at(100) };
    inventory.drain_ordered("i-1", drain);
    inventory.described(
        vec![Machine { generation: Some(generation), ..machine("i-1", Ec2State::Running) }],
        at(41),
    );
    let instance = only(&inventory);
    assert_eq!((instance.state, instance.drain_until), (State::Draining, Some(at(100))));
}

#[test]
fn a_machine_that_stops_by_an_order_has_left_and_one_that_stops_without_has_crashed() {
    for (ordered, crashes) in [(true, 0), (false, 1)] {
        let mut inventory = inventory();
        let generation = started(&mut inventory, 10);
        let seen = |state| Machine { generation: Some(generation.clone()), ..machine("i-1", state) };
        inventory.described(vec![seen(Ec2State::Running)], at(40));
        if ordered {
            inventory.drain_ordered(
                "i-1",
                Drain { generation: generation.clone(), since: at(50), until: at(100) },
            );
        }
        inventory.described(vec![seen(Ec2State::Stopping)], at(60));
        assert_eq!(only(&inventory).state, State::Stopping);
        inventory.described(vec![seen(Ec2State::Stopped)], at(70));
        let instance = only(&inventory);
        assert_eq!((instance.state, instance.crashes, instance.drain_until), (State::Stopped, crashes, None));
        assert_eq!(instance.last_error.is_some(), !ordered, "{instance:?}");
    }
}

#[test]
fn crashes_in_a_row_are_counted_until_a_machine_stops_as_ordered() {
    let mut inventory = inventory();
    for round in 0..7 {
        let start = round * 1000;
        started(&mut inventory, start);
        inventory.described(vec![machine("i-1", Ec2State::Stopped)], at(start + 100));
        let dead = only(&inventory);
        assert_eq!((i64::from(dead.crashes), dead.since), (round + 1, at(start + 100)));
    }
    started(&mut inventory, 9000);
    inventory.stop_ordered("i-1", false, at(9100));
    inventory.described(vec![machine("i-1", Ec2State::Stopped)], at(9110));
    assert_eq!((only(&inventory).crashes, only(&inventory).last_error), (0, None));
}

#[test]
fn after_a_forced_stop_nothing_is_due() {
    let mut inventory = inventory();
    started(&mut inventory, 10);
    inventory.stop_ordered("i-1", false, at(20));
    assert!(!inventory.is_overdue("i-1", at(21)) && inventory.is_overdue("i-1", at(200)));
    inventory.stop_ordered("i-1", true, at(200));
    assert_eq!(only(&inventory).drain_until, None);
    assert!(!inventory.is_overdue("i-1", at(10_000)));
}

#[test]
fn a_start_whose_answer_was_lost_is_found() {
    let mut inventory = inventory();
    let generation = machine::new_generation(at(10));
    inventory.start_ordered("i-1", &generation, "dogs", at(10));
    assert_eq!(inventory.unsettled(at(20)), ["i-1"]);
    let described =
        Machine { launched: at(11), generation: Some(generation), ..machine("i-1", Ec2State::Pending) };
    inventory.described(vec![described], at(30));
    assert_eq!((only(&inventory).state, only(&inventory).since), (State::Running, at(10)));
    let mut refused = self::inventory();
    refused.start_ordered("i-1", "g", "dogs", at(10));
    refused.start_refused("i-1");
    assert_eq!(refused.unsettled(at(20)), Vec::<String>::new());
}

#[test]
fn a_machine_that_was_started_by_hand_serves_and_can_be_drained() {
    let mut inventory = inventory();
    let described = Machine { launched: at(500), ..machine("i-1", Ec2State::Running) };
    inventory.described(vec![described], at(510));
    let instance = only(&inventory);
    assert_eq!((instance.state, instance.since), (State::Running, at(500)));
    let generation = instance.generation.expect("every running machine has one");
    inventory.drain_ordered("i-1", Drain { generation, since: at(520), until: at(600) });
    assert_eq!(only(&inventory).state, State::Draining);
    assert_eq!(inventory.draining().len(), 1);
}

#[test]
fn a_machine_is_gone_after_two_listings_without_it_or_if_ec2_says_so() {
    let mut inventory = inventory();
    inventory.listed(vec![], at(60));
    assert_eq!(inventory.view(&pools()).len(), 1);
    inventory.listed(vec![], at(120));
    assert!(inventory.view(&pools()).is_empty());
    let mut inventory = self::inventory();
    inventory.described(vec![machine("i-1", Ec2State::Terminated)], at(1));
    assert!(inventory.view(&pools()).is_empty());
}

#[test]
fn all_stopped_machines_of_a_pool_are_listed_and_only_running_ones_of_other_pools() {
    let mut inventory = Inventory::default();
    let of = |id: &str, pool: &str, state| Machine { pool: pool.into(), ..machine(id, state) };
    let (stopped, running) = (Ec2State::Stopped, Ec2State::Running);
    inventory.listed(
        vec![
            of("i-1", "p", stopped.clone()),
            of("i-2", "p", stopped.clone()),
            of("i-3", "old", stopped),
            of("i-4", "old", running),
        ],
        at(0),
    );
    let seen: Vec<_> =
        inventory.view(&pools()).into_iter().map(|instance| (instance.id, instance.model)).collect();
    let text = |text: &str| text.to_owned();
    assert_eq!(
        seen,
        [(text("i-1"), text("dogs")), (text("i-2"), text("dogs")), (text("i-4"), text(""))],
        "more than `max`, as the zones of some may have no capacity"
    );
}
