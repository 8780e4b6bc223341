use super::*;
use crate::{
    queue::contract::{self, Open},
    testing::emulator::Emulator,
};

/// Runs a suite of the contract on the emulator. The suite opens queues as if they were there.
async fn run(emulator: &Emulator, suite: impl AsyncFnOnce(Open<'_>)) {
    let queues = SqsQueues::new(client(&emulator.config().await, &emulator.settings()), "t");
    let open = |name: &str, options: QueueOptions| {
        let create = async { queues.create(name, options, &[]).await.expect("a new queue") };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(create))
    };
    suite(&open).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqs_keeps_the_contract_on_an_emulator_that_others_wrote() {
    let Some(emulator) = Emulator::start(&["--plain"]) else { return };
    // There a message is deleted with any receipt that it ever had, and SQS says otherwise (API reference, DeleteMessage).
    run(&emulator, contract::suite_but_for_stale_receipts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqs_keeps_the_whole_contract_where_stale_receipts_are_stale() {
    let Some(emulator) = Emulator::start(&[]) else { return };
    run(&emulator, contract::suite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_queue_is_set_to_otherwise_is_told_by_its_attribute() {
    let Some(emulator) = Emulator::start(&[]) else { return };
    let queues = SqsQueues::new(client(&emulator.config().await, &emulator.settings()), "t");
    let dead = QueueOptions { retention: Duration::from_secs(3600), ..QueueOptions::default() };
    queues.create("dead", dead.clone(), &[]).await.unwrap();
    queues.create("jobs", QueueOptions::default(), &[]).await.unwrap();
    assert_eq!(queues.differences("dead", &dead).await.unwrap(), []);
    let rule = crate::queue::DeadLetters { queue: "dead".into(), max_receives: 5 };
    let wanted = QueueOptions { dead_letters: Some(rule), ..dead };
    let told = queues.differences("jobs", &wanted).await.unwrap();
    let told: Vec<_> = told.iter().map(|told| (told.attribute.as_str(), told.is.as_deref())).collect();
    assert_eq!(told, [("MessageRetentionPeriod", Some("345600")), ("RedrivePolicy", None)]);
    queues.ensure("jobs", wanted.clone()).await.unwrap();
    assert_eq!(queues.differences("jobs", &wanted).await.unwrap(), []);
    assert!(queues.differences("none", &wanted).await.unwrap_err().is_missing());
}
