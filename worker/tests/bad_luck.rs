//! A worker whose stores and queues fail by a script: whatever happens, a job ends with one stored
//! result, an answer that says the same, and an empty queue.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, and says where")]

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::DateTime;
use eirs_platform::{
    Error,
    backend::{Backend, requests_name, responses_name},
    clock::SystemClock,
    fault::{Fault, Faulty},
    job::{self, Job, JobId, Outcome, Reply},
    queue::SharedQueue,
    settings::{Classifier, Settings},
    testing,
};
use eirs_worker::{Identity, Worker, consume};
use tokio_util::sync::CancellationToken;

const IMAGE: &[u8] = b"BM\x1a\0\0\0\0\0\0\0\x1a\0\0\0\x0c\0\0\0 an image";

fn away() -> Error {
    Error::unavailable("the test", "is away")
}

/// A worker on stores and queues that can be made to fail.
struct Rig {
    images: Arc<Faulty<eirs_platform::blobs::SharedBlobs>>,
    results: Arc<Faulty<eirs_platform::blobs::SharedBlobs>>,
    requests: Arc<Faulty<SharedQueue>>,
    responses: Arc<Faulty<SharedQueue>>,
    backend: Backend,
    settings: Settings,
}

impl Rig {
    async fn new() -> Self {
        let mut settings = Settings::default();
        settings.worker.threads = 1;
        if let Some(model) = settings.models.get_mut("default") {
            model.classifier = Classifier::Noop;
        }
        let clock = Arc::new(SystemClock);
        let plain = Backend::in_memory(&settings, clock);
        let images = Arc::new(Faulty::new(plain.images().clone()));
        let results = Arc::new(Faulty::new(plain.results().clone()));
        let requests = Arc::new(Faulty::new(plain.requests("default").await.unwrap()));
        let responses = Arc::new(Faulty::new(plain.responses("web").await.unwrap().queue));
        let backend = plain
            .with_blobs(images.clone(), results.clone())
            .with_queue(&requests_name("default"), requests.clone())
            .with_queue(&responses_name("web"), responses.clone());
        Self { images, results, requests, responses, backend, settings }
    }

    /// The image and its job, as web sends it.
    async fn sent(&self) -> JobId {
        let id = JobId::of(IMAGE);
        self.backend.images().put(&id.image_key(), Bytes::from_static(IMAGE)).await.unwrap();
        let job = Job {
            id,
            name: "dog.bmp".into(),
            reply_to: responses_name("web"),
            sent_at: DateTime::UNIX_EPOCH,
            ..testing::job("")
        };
        self.backend.requests("default").await.unwrap().send(vec![job::encode(&job)]).await.unwrap();
        id
    }

    /// Runs one job through a worker until its answer is there and the queue is empty.
    async fn ends(&self) -> Reply {
        let id = self.sent().await;
        self.done(id).await
    }

    /// The same for a job that was sent.
    async fn done(&self, id: JobId) -> Reply {
        let clock = Arc::new(SystemClock);
        let who = Identity {
            instance: "i-1".into(),
            generation: "0".into(),
            model: "default".into(),
            is_tried: false,
        };
        let worker = Worker::new(who, self.settings.clone(), self.backend.clone(), clock).await.unwrap();
        let drain = CancellationToken::new();
        let serving = tokio::spawn({
            let drain = drain.clone();
            async move { consume::serve(worker, &drain).await }
        });
        let answers = self.backend.responses("web").await.unwrap().queue;
        let answer = answers.receive(1, Duration::from_secs(60)).await.unwrap().pop().expect("an answer");
        let empty = async {
            while self.backend.requests("default").await.unwrap().depth().await.unwrap().backlog() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), empty).await.expect("the job is acked");
        drain.cancel();
        assert!(serving.await.unwrap(), "it drains");

        let reply: Reply = job::decode(&answer.body).unwrap();
        let key = id.result_key("default", &reply.version);
        let stored = self.backend.results().get(&key).await.unwrap().expect("a stored result");
        assert_eq!(job::decode::<Reply>(&stored).unwrap(), reply, "the answer says what is stored");
        for left in [self.images.left(), self.results.left(), self.requests.left(), self.responses.left()] {
            assert_eq!(left, 0, "every scripted fault happened");
        }
        reply
    }
}

fn is_classified(reply: &Reply) -> bool {
    matches!(reply.outcome, Outcome::Classified { .. })
}

#[tokio::test]
async fn a_store_that_is_away_for_a_moment_is_asked_again() {
    let rig = Rig::new().await;
    rig.images.next("get", Fault::Fail(away()));
    rig.results.next("put_new", Fault::Fail(away()));
    rig.results.next("put_new", Fault::Delay(Duration::from_millis(300)));
    assert!(is_classified(&rig.ends().await));
}

#[tokio::test]
async fn a_store_that_stays_away_longer_gets_the_job_back_into_the_queue_and_it_is_tried_again() {
    let rig = Rig::new().await;
    for _ in 0..4 {
        rig.images.next("get", Fault::Fail(away()));
    }
    assert!(is_classified(&rig.ends().await));
}

#[tokio::test]
async fn a_job_that_fails_for_as_long_as_retries_may_go_on_is_given_up_with_the_last_cause() {
    let mut rig = Rig::new().await;
    rig.settings.queue.retry_for = Duration::ZERO;
    for _ in 0..4 {
        rig.images.next("get", Fault::Fail(away()));
    }
    let reply = rig.ends().await;
    assert!(matches!(&reply.outcome, Outcome::GaveUp { reason } if reason.contains("is away")), "{reply:?}");
    let letters = rig.backend.dead_letters("default").await.unwrap();
    assert_eq!(letters.depth().await.unwrap().backlog(), 1);
}

#[tokio::test]
async fn deliveries_that_came_to_nothing_are_not_held_against_a_job() {
    let rig = Rig::new().await;
    let id = rig.sent().await;
    let requests = rig.backend.requests("default").await.unwrap();
    for _ in 0..20 {
        let held = requests.receive(1, Duration::from_secs(20)).await.unwrap().remove(0);
        requests.release(&[held.receipt]).await.unwrap();
    }
    assert!(is_classified(&rig.done(id).await));
    let notes = rig.backend.results().list("attempts/", None, 10).await.unwrap();
    assert_eq!(notes, [], "what has ended is no longer noted");
}

#[tokio::test]
async fn a_job_that_was_begun_too_often_and_never_ended_is_given_up() {
    let rig = Rig::new().await;
    let id = rig.sent().await;
    let requests = rig.backend.requests("default").await.unwrap();
    let held = requests.receive(1, Duration::from_secs(20)).await.unwrap().remove(0);
    requests.release(&[held.receipt]).await.unwrap();
    let sent_at = DateTime::UNIX_EPOCH;
    let note = serde_json::json!({ "sent_at": sent_at, "count": 4, "worker": "i-7", "at": sent_at });
    let key = format!("attempts/default/{id}.json");
    rig.backend.results().put(&key, note.to_string().into()).await.unwrap();
    let reply = rig.done(id).await;
    assert!(
        matches!(&reply.outcome, Outcome::GaveUp { reason } if reason.contains("begun 5 \
            times") && reason.contains("i-7")),
        "{reply:?}"
    );
    let notes = rig.backend.results().list("attempts/", None, 10).await.unwrap();
    assert_eq!(notes, [], "a redriven job starts at nothing");
}

#[tokio::test]
async fn a_result_that_was_stored_without_our_knowing_is_the_result() {
    let rig = Rig::new().await;
    rig.results.next("put_new", Fault::LoseAnswer(away()));
    assert!(is_classified(&rig.ends().await));
}

#[tokio::test]
async fn a_response_queue_that_is_away_does_not_cost_the_answer() {
    let rig = Rig::new().await;
    for _ in 0..4 {
        rig.responses.next("send", Fault::Fail(away()));
    }
    assert!(is_classified(&rig.ends().await), "the second delivery says the stored result again");
}

#[tokio::test]
async fn an_ack_that_is_lost_makes_a_second_delivery_and_no_second_result() {
    let rig = Rig::new().await;
    for _ in 0..4 {
        rig.requests.next("ack", Fault::Fail(away()));
    }
    assert!(is_classified(&rig.ends().await));
}

#[tokio::test]
async fn receives_that_fail_are_tried_again() {
    let rig = Rig::new().await;
    for _ in 0..5 {
        rig.requests.next("receive", Fault::Fail(away()));
    }
    assert!(is_classified(&rig.ends().await));
}

#[tokio::test]
async fn an_image_that_is_gone_is_given_up_with_a_reason_and_its_next_upload_is_another_try() {
    let rig = Rig::new().await;
    let id = rig.sent().await;
    rig.backend.images().delete(&id.image_key()).await.unwrap();
    let reply = rig.done(id).await;
    let reason = "the image is no longer stored; upload it again".to_owned();
    assert_eq!(reply.outcome, Outcome::GaveUp { reason });
    assert!(is_classified(&rig.ends().await), "now that it is stored again");
}
