//! The contract of [`Queue`](super::Queue), checked on any implementation. Each promise is one
//! function. All of them wait on values with a deadline, in real time, because some implementations
//! are in other processes.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{DeadLetters, Delivery, Depth, QueueOptions, SharedQueue};

/// Opens a queue by a name that no other check uses.
pub type Open<'a> = &'a (dyn Fn(&str, QueueOptions) -> SharedQueue + Sync);

const NO_WAIT: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_secs(20);
/// The shortest visibility timeout of SQS.
const SHORT: Duration = Duration::from_secs(1);

/// Checks every promise of the contract.
pub async fn suite(open: Open<'_>) {
    suite_but_for_bytes_of_any_kind(open).await;
    bodies_are_bytes_of_any_kind(open).await;
}

/// Checks what the queues of one machine promise in addition: the order of messages, and what
/// happens to old ones.
pub async fn suite_of_order_and_age(open: Open<'_>) {
    released_messages_are_delivered_before_later_ones(open).await;
    messages_with_an_expired_lease_are_delivered_before_later_ones(open).await;
    old_messages_are_deleted_without_a_dead_letter_queue(open).await;
    old_messages_become_dead_letters(open).await;
}

/// Checks every promise except those about stale receipts, which some emulators accept.
pub async fn suite_but_for_stale_receipts(open: Open<'_>) {
    leases_and_waits(open).await;
    bodies_are_bytes_of_any_kind(open).await;
}

/// Checks every promise except the one about bodies: some emulators refuse characters that SQS
/// accepts.
pub async fn suite_but_for_bytes_of_any_kind(open: Open<'_>) {
    leases_and_waits(open).await;
    a_stale_receipt_deletes_and_releases_nothing(open).await;
    extending_a_lost_lease_returns_its_receipt(open).await;
}

async fn leases_and_waits(open: Open<'_>) {
    a_leased_message_is_received_once(open).await;
    a_message_is_delivered_again_after_its_lease(open).await;
    a_message_with_an_extended_lease_is_not_delivered_again(open).await;
    a_released_message_is_visible_at_once(open).await;
    acking_twice_is_fine(open).await;
    depth_counts_visible_and_in_flight(open).await;
    a_waiting_receive_wakes_when_a_message_comes(open).await;
    a_waiting_receive_ends_empty_after_its_wait(open).await;
    a_batch_wakes_one_receiver_per_message(open).await;
    a_stopped_receive_ends_within_its_wait_and_leases_nothing(open).await;
    a_single_receiver_gets_each_message_once_and_acked_ones_are_gone(open).await;
    a_message_received_too_often_becomes_a_dead_letter(open).await;
    purge_leaves_nothing(open).await;
}

fn visible_for(visibility: Duration) -> QueueOptions {
    QueueOptions { visibility, ..QueueOptions::default() }
}

async fn one(queue: &SharedQueue, wait: Duration) -> Option<Delivery> {
    queue.receive(1, wait).await.expect("receive").pop()
}

async fn send(queue: &SharedQueue, bodies: &[&str]) {
    let bodies = bodies.iter().map(|body| Bytes::copy_from_slice(body.as_bytes())).collect();
    queue.send(bodies).await.expect("send");
}

/// Waits until `look` returns `wanted`, because depths may be delayed.
async fn eventually<T: PartialEq + std::fmt::Debug, F: Future<Output = T>>(wanted: T, look: impl Fn() -> F) {
    let deadline = Instant::now() + LONG;
    loop {
        let seen = look().await;
        if seen == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "wanted {wanted:?}, still see {seen:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn a_leased_message_is_received_once(open: Open<'_>) {
    let queue = open("received-once", visible_for(LONG));
    send(&queue, &["a", "b", "c"]).await;
    let mut bodies = Vec::new();
    while bodies.len() < 3 {
        bodies.extend(
            queue.receive(10, LONG).await.expect("receive").into_iter().map(|d| (d.body, d.receives)),
        );
    }
    bodies.sort();
    assert_eq!(
        bodies,
        [("a".into(), 1), ("b".into(), 1), ("c".into(), 1)],
        "each once, as the first delivery"
    );
    assert!(one(&queue, NO_WAIT).await.is_none(), "leased messages are not delivered again");
}

async fn a_message_is_delivered_again_after_its_lease(open: Open<'_>) {
    let queue = open("expires", visible_for(SHORT));
    send(&queue, &["x"]).await;
    let first = one(&queue, LONG).await.expect("first delivery");
    let second = one(&queue, LONG).await.expect("second delivery, after the lease of the first expired");
    assert_eq!((second.receives, &second.body), (2, &first.body));
    assert_eq!(second.sent_at, first.sent_at, "the first sending counts");
}

async fn a_stale_receipt_deletes_and_releases_nothing(open: Open<'_>) {
    let queue = open("stale", visible_for(SHORT));
    send(&queue, &["x"]).await;
    let first = one(&queue, LONG).await.expect("first delivery");
    one(&queue, LONG).await.expect("second delivery, after the lease of the first expired");
    queue.ack(std::slice::from_ref(&first.receipt)).await.expect("a stale ack is no error");
    queue.release(&[first.receipt]).await.expect("a stale release is no error");
    let third = one(&queue, LONG).await.expect("the stale ack deleted nothing");
    assert_eq!(third.receives, 3);
}

async fn a_message_with_an_extended_lease_is_not_delivered_again(open: Open<'_>) {
    let queue = open("extended", visible_for(SHORT));
    send(&queue, &["x"]).await;
    let held = one(&queue, LONG).await.expect("delivery");
    let end = Instant::now() + 3 * SHORT;
    while Instant::now() < end {
        let lost = queue.extend(std::slice::from_ref(&held.receipt)).await.expect("extend");
        assert!(lost.is_empty(), "the lease is ours");
        assert!(one(&queue, SHORT / 4).await.is_none(), "an extended lease is not delivered again");
    }
    queue.ack(&[held.receipt]).await.expect("ack");
    assert!(one(&queue, SHORT * 3 / 2).await.is_none(), "acked means gone");
}

async fn extending_a_lost_lease_returns_its_receipt(open: Open<'_>) {
    let queue = open("lost", visible_for(SHORT));
    send(&queue, &["x"]).await;
    let first = one(&queue, LONG).await.expect("first delivery");
    let second = one(&queue, LONG).await.expect("second delivery");
    let lost = queue.extend(&[first.receipt.clone(), second.receipt]).await.expect("extend");
    assert_eq!(lost, [first.receipt]);
}

async fn a_released_message_is_visible_at_once(open: Open<'_>) {
    let queue = open("released", visible_for(LONG));
    send(&queue, &["x"]).await;
    let held = one(&queue, LONG).await.expect("delivery");
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { one(&queue, LONG).await }
    });
    queue.release(&[held.receipt]).await.expect("release");
    let again = waiting.await.expect("no panic").expect("a waiting receive gets what is released");
    assert_eq!(again.receives, 2, "the count rises with every delivery");
}

async fn acking_twice_is_fine(open: Open<'_>) {
    let queue = open("acked-twice", visible_for(LONG));
    send(&queue, &["x"]).await;
    let held = one(&queue, LONG).await.expect("delivery");
    for _ in 0..2 {
        queue.ack(std::slice::from_ref(&held.receipt)).await.expect("ack");
    }
    eventually(Depth::default(), || async { queue.depth().await.expect("depth") }).await;
}

async fn depth_counts_visible_and_in_flight(open: Open<'_>) {
    let queue = open("depth", visible_for(LONG));
    send(&queue, &["a", "b", "c"]).await;
    let held = one(&queue, LONG).await.expect("delivery");
    let look = || async { queue.depth().await.expect("depth") };
    eventually(Depth { visible: 2, in_flight: 1 }, look).await;
    queue.ack(&[held.receipt]).await.expect("ack");
    eventually(Depth { visible: 2, in_flight: 0 }, look).await;
}

async fn a_waiting_receive_wakes_when_a_message_comes(open: Open<'_>) {
    let queue = open("wakes", visible_for(LONG));
    let start = Instant::now();
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { one(&queue, LONG).await }
    });
    tokio::task::yield_now().await;
    send(&queue, &["x"]).await;
    assert!(waiting.await.expect("no panic").is_some());
    assert!(start.elapsed() < LONG / 2, "woken by the message, not by the end of its wait");
}

async fn a_waiting_receive_ends_empty_after_its_wait(open: Open<'_>) {
    let queue = open("ends-empty", visible_for(LONG));
    let start = Instant::now();
    assert!(one(&queue, SHORT).await.is_none());
    assert!(start.elapsed() >= SHORT, "a long poll waits");
    assert!(start.elapsed() < LONG, "and ends");
}

async fn a_batch_wakes_one_receiver_per_message(open: Open<'_>) {
    let queue = open("batch", visible_for(LONG));
    let receivers = [(); 3].map(|()| {
        let queue = queue.clone();
        tokio::spawn(async move { one(&queue, LONG).await })
    });
    tokio::task::yield_now().await;
    let start = Instant::now();
    send(&queue, &["a", "b", "c"]).await;
    for receiver in receivers {
        assert!(receiver.await.expect("no panic").is_some(), "one message each");
    }
    assert!(start.elapsed() < LONG / 2, "woken by the batch, not by the end of a wait");
}

async fn a_stopped_receive_ends_within_its_wait_and_leases_nothing(open: Open<'_>) {
    let queue = open("stopped", visible_for(LONG));
    let stop = CancellationToken::new();
    let waiting = tokio::spawn({
        let (queue, stop) = (queue.clone(), stop.clone());
        async move { queue.receive_unless(&stop, 1, LONG / 4).await.expect("receive") }
    });
    tokio::task::yield_now().await;
    stop.cancel();
    assert_eq!(waiting.await.expect("no panic").len(), 0);
    send(&queue, &["x"]).await;
    assert!(one(&queue, LONG).await.is_some(), "a message sent after the stop is visible");
}

async fn a_single_receiver_gets_each_message_once_and_acked_ones_are_gone(open: Open<'_>) {
    let queue = open("alone", visible_for(LONG));
    let never = CancellationToken::new();
    let waiting = tokio::spawn({
        let (queue, never) = (queue.clone(), never.clone());
        async move { queue.receive_alone(&never, 10, LONG).await.expect("receive") }
    });
    tokio::task::yield_now().await;
    send(&queue, &["a", "b", "c"]).await;
    let mut received = waiting.await.expect("no panic");
    while received.len() < 3 {
        received.extend(queue.receive_alone(&never, 10, LONG).await.expect("receive"));
    }
    let mut bodies: Vec<_> = received.iter().map(|delivery| delivery.body.clone()).collect();
    bodies.sort();
    assert_eq!(bodies, ["a", "b", "c"], "each once");
    assert!(queue.receive_alone(&never, 10, NO_WAIT).await.expect("receive").is_empty());
    let receipts: Vec<_> = received.into_iter().map(|delivery| delivery.receipt).collect();
    queue.ack(&receipts).await.expect("ack");
    eventually(Depth::default(), || async { queue.depth().await.expect("depth") }).await;
}

async fn a_message_received_too_often_becomes_a_dead_letter(open: Open<'_>) {
    let dead_letters = Some(DeadLetters { queue: "poison-dead".into(), max_receives: 2 });
    let dead = open("poison-dead", visible_for(LONG));
    let queue = open("poison", QueueOptions { dead_letters, ..visible_for(LONG) });
    send(&queue, &["x"]).await;
    for _ in 0..2 {
        let held = one(&queue, LONG).await.expect("delivery");
        queue.release(&[held.receipt]).await.expect("release");
    }
    assert!(one(&queue, SHORT).await.is_none(), "the third delivery does not happen");
    assert_eq!(one(&dead, LONG).await.expect("the dead letter").body, "x");
}

async fn purge_leaves_nothing(open: Open<'_>) {
    let queue = open("purged", visible_for(SHORT));
    send(&queue, &["a", "b"]).await;
    one(&queue, LONG).await.expect("delivery");
    queue.purge().await.expect("purge");
    eventually(Depth::default(), || async { queue.depth().await.expect("depth") }).await;
    assert!(
        one(&queue, SHORT * 3 / 2).await.is_none(),
        "neither the visible one nor the leased one comes back"
    );
}

async fn bodies_are_bytes_of_any_kind(open: Open<'_>) {
    let queue = open("bytes", visible_for(LONG));
    let body = "{\"name\":\"a,b/\\n\u{1F415}\"}";
    send(&queue, &[body]).await;
    assert_eq!(one(&queue, LONG).await.expect("delivery").body, body);
}

async fn bodies(queue: &SharedQueue) -> Vec<Bytes> {
    queue.receive(10, LONG).await.expect("receive").into_iter().map(|delivery| delivery.body).collect()
}

async fn released_messages_are_delivered_before_later_ones(open: Open<'_>) {
    let queue = open("order-released", visible_for(LONG));
    send(&queue, &["a", "b"]).await;
    let held = one(&queue, LONG).await.expect("delivery");
    send(&queue, &["c"]).await;
    queue.release(&[held.receipt]).await.expect("release");
    assert_eq!(bodies(&queue).await, ["a", "b", "c"]);
}

async fn messages_with_an_expired_lease_are_delivered_before_later_ones(open: Open<'_>) {
    let queue = open("order-run-out", visible_for(SHORT));
    send(&queue, &["a", "b"]).await;
    one(&queue, LONG).await.expect("delivery");
    send(&queue, &["c", "d"]).await;
    eventually(Depth { visible: 4, in_flight: 0 }, || async { queue.depth().await.expect("depth") }).await;
    assert_eq!(one(&queue, LONG).await.expect("delivery").body, "a");
    assert_eq!(bodies(&queue).await, ["b", "c", "d"]);
}

async fn old_messages_are_deleted_without_a_dead_letter_queue(open: Open<'_>) {
    let queue = open("old", QueueOptions { retention: Duration::ZERO, ..visible_for(LONG) });
    send(&queue, &["x"; 3]).await;
    eventually(Depth::default(), || async { queue.depth().await.expect("depth") }).await;
    assert!(one(&queue, NO_WAIT).await.is_none());
}

async fn old_messages_become_dead_letters(open: Open<'_>) {
    let dead = open("old-dead", visible_for(LONG));
    let dead_letters = Some(DeadLetters { queue: "old-dead".into(), max_receives: 9 });
    let young = QueueOptions { dead_letters, ..visible_for(LONG) };
    let (young, old) =
        (open("older", young.clone()), open("older", QueueOptions { retention: SHORT, ..young }));
    send(&old, &["held", "a", "b"]).await;
    let held = one(&old, LONG).await.expect("delivery");
    eventually(Depth { visible: 0, in_flight: 1 }, || async { old.depth().await.expect("depth") }).await;
    assert_eq!(bodies(&dead).await, ["a", "b"]);
    assert!(
        old.extend(std::slice::from_ref(&held.receipt)).await.expect("extend").is_empty(),
        "a leased message is kept"
    );
    send(&young, &["c"]).await;
    assert_eq!(young.depth().await.expect("depth"), Depth { visible: 1, in_flight: 1 });
    assert_eq!(
        one(&young, LONG).await.expect("delivery").body,
        "c",
        "it is too old only for the other retention"
    );
}
