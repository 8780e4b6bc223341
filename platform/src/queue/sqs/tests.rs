use std::{
    sync::atomic::{AtomicU32, Ordering},
    task::{Context, Poll},
};

use chrono::Utc;
use futures::task::{ArcWake, waker};
use serde_json::{Value, json};

use super::*;
use crate::{
    backend::Backend,
    queue::contract::{self, Open},
    settings::{BackendKind, Settings},
    testing::{
        emulator::Emulator,
        fauxqs::Fauxqs,
        replay::{Answer, Replay, Request},
    },
};

/// Runs a suite of the contract on an emulator. Opening a queue in the suite creates it.
async fn run(config: SdkConfig, settings: Aws, suite: impl AsyncFnOnce(Open<'_>)) {
    let queues = SqsQueues::new(client(&config, &settings), "t");
    let open = |name: &str, options: QueueOptions| {
        let create = async { queues.create(name, options, &[]).await.expect("a new queue") };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(create))
    };
    suite(&open).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqs_fulfils_the_contract_on_a_third_party_emulator() {
    let Some(emulator) = Emulator::start(&["--plain"]) else { return };
    // This emulator deletes a message with any receipt that it ever had, unlike SQS (API reference,
    // DeleteMessage).
    run(emulator.config().await, emulator.settings(), contract::suite_but_for_stale_receipts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqs_fulfils_the_whole_contract_if_the_emulator_refuses_stale_receipts() {
    let Some(emulator) = Emulator::start(&[]) else { return };
    run(emulator.config().await, emulator.settings(), contract::suite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqs_fulfils_the_contract_on_a_second_emulator() {
    let Some(second) = Fauxqs::start() else { return };
    // This emulator refuses characters beyond U+FFFF (testing/fauxqs).
    run(second.config().await, second.settings(), contract::suite_but_for_bytes_of_any_kind).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_difference_names_the_attribute_and_its_value() {
    let Some(emulator) = Emulator::start(&[]) else { return };
    let queues = SqsQueues::new(client(&emulator.config().await, &emulator.settings()), "t");
    let dead = QueueOptions { retention: Duration::from_secs(3600), ..QueueOptions::default() };
    queues.create("dead", dead.clone(), &[]).await.unwrap();
    queues.create("jobs", QueueOptions::default(), &[]).await.unwrap();
    assert_eq!(queues.differences("dead", &dead).await.unwrap(), []);
    let rule = crate::queue::DeadLetters { queue: "dead".into(), max_receives: 5 };
    let wanted = QueueOptions { dead_letters: Some(rule), ..dead };
    let differences = queues.differences("jobs", &wanted).await.unwrap();
    let differences: Vec<_> =
        differences.iter().map(|found| (found.attribute.as_str(), found.is.as_deref())).collect();
    assert_eq!(differences, [("MessageRetentionPeriod", Some("345600")), ("RedrivePolicy", None)]);
    queues.ensure("jobs", wanted.clone()).await.unwrap();
    assert_eq!(queues.differences("jobs", &wanted).await.unwrap(), []);
    assert!(queues.differences("none", &wanted).await.unwrap_err().is_missing());
}

/// Creates a queue whose calls get these responses, and the server that gives them.
async fn replayed(answers: impl IntoIterator<Item = Value>) -> (SqsQueue, Replay) {
    let replay = Replay::new(answers.into_iter().map(|answer| Answer::new(200, answer.to_string())));
    let client = client(&replay.config().await, &Aws::default());
    let options = QueueOptions { visibility: Duration::from_secs(30), ..QueueOptions::default() };
    (SqsQueue::new(&SqsQueues::new(client, "t"), "requests-default", "http://q".into(), options), replay)
}

fn body(request: &Request) -> Value {
    serde_json::from_str(&request.body).unwrap()
}

fn operation(request: &Request) -> &str {
    let header = request.headers.iter().find_map(|header| header.strip_prefix("x-amz-target: AmazonSQS."));
    header.unwrap()
}

fn failed(id: &str, sender_fault: bool, code: &str) -> Value {
    json!({ "Id": id, "SenderFault": sender_fault, "Code": code, "Message": "no" })
}

#[tokio::test]
async fn concurrent_sends_share_calls_of_ten_and_each_body_is_sent_once() {
    let taken = |ids: std::ops::Range<u32>| {
        let entry = |id: u32| json!({ "Id": id.to_string(), "MessageId": "m", "MD5OfMessageBody": "" });
        json!({ "Successful": ids.map(entry).collect::<Vec<_>>(), "Failed": [] })
    };
    let (queue, replay) = replayed([taken(0..10), taken(0..10), taken(0..5)]).await;
    let sends = (0..25).map(|number| queue.send(vec![Bytes::from(format!("{number}"))]));
    futures::future::try_join_all(sends).await.unwrap();
    let requests = replay.requests();
    let mut sizes: Vec<_> = requests.iter().map(|r| body(r)["Entries"].as_array().unwrap().len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [5, 10, 10]);
    let mut bodies: Vec<u32> = Vec::new();
    for request in &requests {
        assert_eq!(operation(request), "SendMessageBatch");
        for entry in body(request)["Entries"].as_array().unwrap() {
            bodies.push(entry["MessageBody"].as_str().unwrap().parse().unwrap());
        }
    }
    bodies.sort_unstable();
    assert_eq!(bodies, (0..25).collect::<Vec<_>>());
}

#[tokio::test]
async fn only_the_failed_entries_of_a_batch_are_sent_again() {
    let (queue, replay) = replayed([
        json!({ "Successful": [{ "Id": "0", "MessageId": "m", "MD5OfMessageBody": "" }],
                "Failed": [failed("1", false, "InternalError")] }),
        json!({ "Successful": [{ "Id": "0", "MessageId": "m", "MD5OfMessageBody": "" }], "Failed": [] }),
    ])
    .await;
    queue.send(vec!["a".into(), "b".into()]).await.unwrap();
    let second = body(&replay.requests()[1]);
    let bodies: Vec<_> =
        second["Entries"].as_array().unwrap().iter().map(|entry| &entry["MessageBody"]).collect();
    assert_eq!(bodies, ["b"]);
}

#[tokio::test]
async fn the_error_of_an_invalid_entry_reaches_only_its_sender() {
    let (queue, _replay) = replayed([json!({
        "Successful": [{ "Id": "1", "MessageId": "m", "MD5OfMessageBody": "" }],
        "Failed": [failed("0", true, "InvalidMessageContents")],
    })])
    .await;
    let (one, other) = tokio::join!(queue.send(vec!["a".into()]), queue.send(vec!["b".into()]));
    let error = one.unwrap_err();
    assert!(matches!(error, Error::Broken { .. }), "{error:?}");
    assert_eq!(error.to_string(), "sending to requests-default: InvalidMessageContents: no");
    other.unwrap();
}

#[tokio::test]
async fn an_ack_with_a_stale_receipt_succeeds_and_an_extension_returns_it() {
    let lost = json!({ "Successful": [], "Failed": [failed("0", true, "ReceiptHandleIsInvalid")] });
    let (queue, replay) = replayed([lost.clone(), lost]).await;
    let receipt = Receipt("r".into());
    queue.ack(std::slice::from_ref(&receipt)).await.unwrap();
    assert_eq!(queue.extend(std::slice::from_ref(&receipt)).await.unwrap(), [receipt]);
    let extension = body(&replay.requests()[1]);
    assert_eq!(extension["Entries"][0]["VisibilityTimeout"], 30);
}

#[tokio::test]
async fn an_extension_that_failed_on_the_side_of_sqs_loses_no_lease() {
    let failed = json!({ "Successful": [], "Failed": [failed("0", false, "InternalError")] });
    let (queue, _replay) = replayed([failed]).await;
    let error = queue.extend(&[Receipt("r".into())]).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
}

#[tokio::test]
async fn a_receive_sets_its_visibility_and_polls_again_only_after_a_full_response() {
    let message = |id: u32| {
        json!({ "MessageId": "m", "ReceiptHandle": id.to_string(), "Body": "x",
                "Attributes": { "ApproximateReceiveCount": "3", "SentTimestamp": "1767225600123" } })
    };
    let ten: Vec<_> = (0..10).map(message).collect();
    let (queue, replay) =
        replayed([json!({ "Messages": ten }), json!({ "Messages": [message(10)] }), json!({}), json!({})])
            .await;
    let received = queue.receive(30, Duration::from_secs(5)).await.unwrap();
    assert_eq!(received.len(), 11);
    assert_eq!(received[0].receives, 3);
    assert_eq!(received[0].sent_at.timestamp_millis(), 1_767_225_600_123);
    let requests = replay.requests();
    let first = body(&requests[0]);
    assert_eq!(
        (&first["MaxNumberOfMessages"], &first["WaitTimeSeconds"], &first["VisibilityTimeout"]),
        (&json!(10), &json!(5), &json!(30))
    );
    assert_eq!(requests.len(), 2, "the second response was not full");
    assert!(requests[1..].iter().all(|request| body(request)["WaitTimeSeconds"] == 0));
    queue.receive(1, Duration::ZERO).await.unwrap();
    assert_eq!(replay.requests().len(), 3);
}

/// A waker that counts how often it was woken.
#[derive(Default)]
struct Wakes(AtomicU32);

impl ArcWake for Wakes {
    fn wake_by_ref(wakes: &Arc<Self>) {
        wakes.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Polls `receive` until it was woken `wakes` times, and drops it without another poll. Returns the
/// messages if it was ready before.
async fn dropped_after<T>(wakes: u32, receive: impl Future<Output = T>) -> Option<T> {
    let woken = Arc::new(Wakes::default());
    let mut receive = std::pin::pin!(receive);
    for seen in 0..=wakes {
        eventually(|| woken.0.load(Ordering::SeqCst) >= seen).await;
        if seen < wakes || wakes == 0 {
            let waker = waker(woken.clone());
            if let Poll::Ready(value) = receive.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Some(value);
            }
        }
    }
    None
}

async fn eventually(is: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !is() {
        assert!(tokio::time::Instant::now() < deadline, "within 20 s");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn messages_of_a_receive_that_is_dropped_at_any_await_are_released_once() {
    let message = json!({ "MessageId": "m", "ReceiptHandle": "r", "Body": "x", "Attributes": {} });
    // Woken 0 times: dropped during the call. Woken once: dropped with the messages delivered, and
    // not yet taken.
    for wakes in 0..=1 {
        let (queue, replay) = replayed([
            json!({ "Messages": [message] }),
            json!({ "Successful": [{ "Id": "0" }], "Failed": [] }),
            json!({}),
        ])
        .await;
        let dropped = dropped_after(wakes, queue.receive(1, Duration::from_secs(5))).await;
        assert!(dropped.is_none(), "woken {wakes} times");
        eventually(|| replay.requests().len() == 2).await;
        let release = replay.requests().remove(1);
        assert_eq!(operation(&release), "ChangeMessageVisibilityBatch");
        let entries = body(&release)["Entries"].clone();
        assert_eq!(entries.as_array().map(Vec::len), Some(1));
        assert_eq!(
            (&entries[0]["ReceiptHandle"], &entries[0]["VisibilityTimeout"]),
            (&json!("r"), &json!(0))
        );
        assert!(queue.receive(1, Duration::ZERO).await.unwrap().is_empty());
        assert_eq!(replay.requests().len(), 3, "released once");
    }
}

#[tokio::test]
async fn messages_that_were_taken_are_not_released() {
    let message = json!({ "MessageId": "m", "ReceiptHandle": "r", "Body": "x", "Attributes": {} });
    let (queue, replay) = replayed([json!({ "Messages": [message] }), json!({})]).await;
    let received = queue.receive(1, Duration::from_secs(5)).await.unwrap();
    assert_eq!(received.len(), 1);
    drop(received);
    // Whatever a drop had begun would come before this call's response.
    queue.receive(1, Duration::ZERO).await.unwrap();
    let operations: Vec<_> = replay.requests().iter().map(|it| operation(it).to_owned()).collect();
    assert_eq!(operations, ["ReceiveMessage", "ReceiveMessage"]);
}

#[tokio::test]
async fn a_receive_that_is_dropped_while_it_lingers_leases_nothing() {
    let (mut queue, replay) = replayed([json!({})]).await;
    queue.linger.polls = Duration::from_secs(3600);
    assert!(dropped_after(0, queue.receive(10, Duration::from_secs(5))).await.is_none());
    // Its task ends, and with it the last clone but this one.
    eventually(|| Arc::strong_count(&queue.answered) == 1).await;
    assert!(replay.requests().is_empty());
}

#[tokio::test]
async fn a_lease_at_its_maximum_is_still_held_and_an_expired_one_is_lost() {
    let refused = |id: &str, why: &str| json!({ "Id": id, "SenderFault": true, "Code": "InvalidParameterValue", "Message": why });
    let too_long = "Value 43200 for parameter VisibilityTimeout is invalid. Reason: Total VisibilityTimeout \
        for the message is beyond the limit [43200 seconds]";
    let over = "Value AQEB for parameter ReceiptHandle is invalid. Reason: Message does not exist or is not \
        available for visibility timeout change.";
    let (queue, _replay) =
        replayed([json!({ "Successful": [], "Failed": [refused("0", too_long), refused("1", over)] })]).await;
    let lost = queue.extend(&[Receipt("held".into()), Receipt("over".into())]).await.unwrap();
    assert_eq!(lost, [Receipt("over".into())]);
}

#[tokio::test]
async fn an_incomplete_depth_is_an_error() {
    let (queue, _replay) = replayed([json!({ "Attributes": { "ApproximateNumberOfMessages": "7" } })]).await;
    let error = queue.depth().await.unwrap_err();
    assert!(error.is_transient(), "a missing number is not zero: {error:?}");
}

#[tokio::test]
async fn a_listing_of_queues_has_all_pages_and_no_queues_of_other_prefixes() {
    let page = |urls: &[&str], next: Option<&str>| json!({ "QueueUrls": urls, "NextToken": next });
    let replay = Replay::new([
        Answer::new(200, page(&["http://q/1/t-requests-b", "http://q/1/t-events"], Some("more")).to_string()),
        Answer::new(200, page(&["http://q/1/t-requests-a"], None).to_string()),
    ]);
    let queues = SqsQueues::new(client(&replay.config().await, &Aws::default()), "t");
    assert_eq!(queues.names("").await.unwrap(), ["events", "requests-a", "requests-b"]);
    assert_eq!(body(&replay.requests()[1])["NextToken"], "more");
}

/// Returns settings for the emulator.
fn settings(emulator: &Emulator) -> Settings {
    let mut aws = emulator.settings();
    (aws.input_bucket, aws.output_bucket) = (Some("in".into()), Some("out".into()));
    Settings { backend: BackendKind::Aws, aws, ..Settings::default() }
}

#[tokio::test]
async fn response_queues_of_dead_hosts_are_deleted() {
    let Some(emulator) = Emulator::start(&[]) else { return };
    let backend = Backend::of_config(&settings(&emulator), &emulator.config().await);
    let queues = SqsQueues::new(client(&emulator.config().await, &emulator.settings()), "eirs");
    let (one, two) = (backend.responses("web-1").await.unwrap(), backend.responses("web-1").await.unwrap());
    assert_ne!(
        one.name, two.name,
        "each start has its own name, because a deleted name is blocked for a minute"
    );
    let long_ago = (Utc::now() - chrono::TimeDelta::hours(1)).to_rfc3339();
    queues.tag(&one.name, aws::tag::ALIVE_AT, &long_ago).await.unwrap();
    assert_eq!(backend.sweep_responses().await.unwrap(), std::slice::from_ref(&one.name));
    backend.renew_responses(&two).await.unwrap();
    assert!(backend.sweep_responses().await.unwrap().is_empty());
    assert!(backend.reply_queue(&one.name).await.unwrap_err().is_missing());
    backend.close_responses(&two).await.unwrap();
    assert!(queues.names("responses-").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_controller_is_known_until_it_signs_off_or_falls_silent() {
    let Some(emulator) = Emulator::start(&[]) else { return };
    let backend = Backend::of_config(&settings(&emulator), &emulator.config().await);
    let queues = SqsQueues::new(client(&emulator.config().await, &emulator.settings()), "eirs");
    queues.create("events", QueueOptions::default(), &[]).await.unwrap();
    let now = Utc::now();
    assert_eq!(backend.controller(now).await.unwrap(), None);
    backend.announce_control(Some("web-1"), now).await.unwrap();
    assert_eq!(backend.controller(now).await.unwrap().unwrap().host, "web-1");
    assert_eq!(backend.controller(now + chrono::TimeDelta::minutes(3)).await.unwrap(), None);
    backend.announce_control(None, now).await.unwrap();
    assert_eq!(backend.controller(now).await.unwrap(), None);
}

#[tokio::test]
async fn the_error_of_a_missing_queue_names_the_command_that_creates_it() {
    let Some(emulator) = Emulator::start(&[]) else { return };
    let backend = Backend::of_config(&settings(&emulator), &emulator.config().await);
    let error = backend.requests("default").await.unwrap_err();
    assert!(error.is_missing(), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("eirs-requests-default") && text.ends_with("`eirs setup` makes it)"), "{text}");
}
