//! A worker whose stores and queues fail as scripted: in every case, a job ends with one stored
//! result, a reply with the same result, and an empty queue.

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

/// A worker with stores and queues that can be made to fail.
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

    /// Stores an image and sends its job, as web does.
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

    /// Runs one job through a worker until there is a reply and the queue is empty.
    async fn ends(&self) -> Reply {
        let id = self.sent().await;
        self.done(id).await
    }

    /// The same for a job that was sent already.
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
        assert_eq!(job::decode::<Reply>(&stored).unwrap(), reply, "the reply equals the stored result");
        for left in [self.images.left(), self.results.left(), self.requests.left(), self.responses.left()] {
            assert_eq!(left, 0, "every scripted fault must happen");
        }
        reply
    }
}

fn is_classified(reply: &Reply) -> bool {
    matches!(reply.outcome, Outcome::Classified { .. })
}

#[tokio::test]
async fn a_briefly_unavailable_store_is_retried() {
    let rig = Rig::new().await;
    rig.images.next("get", Fault::Fail(away()));
    rig.results.next("put_new", Fault::Fail(away()));
    rig.results.next("put_new", Fault::Delay(Duration::from_millis(300)));
    assert!(is_classified(&rig.ends().await));
}

#[tokio::test]
async fn a_longer_outage_of_a_store_requeues_the_job() {
    let rig = Rig::new().await;
    for _ in 0..4 {
        rig.images.next("get", Fault::Fail(away()));
    }
    assert!(is_classified(&rig.ends().await));
}

#[tokio::test]
async fn a_job_that_fails_for_retry_for_is_given_up_with_the_last_cause() {
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
async fn deliveries_without_an_attempt_do_not_count_against_a_job() {
    let rig = Rig::new().await;
    let id = rig.sent().await;
    let requests = rig.backend.requests("default").await.unwrap();
    for _ in 0..20 {
        let held = requests.receive(1, Duration::from_secs(20)).await.unwrap().remove(0);
        requests.release(&[held.receipt]).await.unwrap();
    }
    assert!(is_classified(&rig.done(id).await));
    let notes = rig.backend.results().list("attempts/", None, 10).await.unwrap();
    assert_eq!(notes, [], "the note is deleted at the end");
}

#[tokio::test]
async fn a_job_that_was_started_too_often_and_never_ended_is_given_up() {
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
    assert_eq!(notes, [], "a redriven job starts without notes");
}

#[tokio::test]
async fn a_result_stored_despite_an_error_is_the_result() {
    let rig = Rig::new().await;
    rig.results.next("put_new", Fault::LoseAnswer(away()));
    assert!(is_classified(&rig.ends().await));
}

#[tokio::test]
async fn an_unavailable_response_queue_does_not_lose_the_reply() {
    let rig = Rig::new().await;
    for _ in 0..4 {
        rig.responses.next("send", Fault::Fail(away()));
    }
    assert!(is_classified(&rig.ends().await), "the second delivery replies with the stored result");
}

#[tokio::test]
async fn a_lost_ack_causes_a_second_delivery_but_no_second_result() {
    let rig = Rig::new().await;
    for _ in 0..4 {
        rig.requests.next("ack", Fault::Fail(away()));
    }
    assert!(is_classified(&rig.ends().await));
}

#[tokio::test]
async fn failed_receives_are_retried() {
    let rig = Rig::new().await;
    for _ in 0..5 {
        rig.requests.next("receive", Fault::Fail(away()));
    }
    assert!(is_classified(&rig.ends().await));
}

#[tokio::test]
async fn a_job_without_image_is_given_up_and_the_next_upload_tries_again() {
    let rig = Rig::new().await;
    let id = rig.sent().await;
    rig.backend.images().delete(&id.image_key()).await.unwrap();
    let reply = rig.done(id).await;
    let reason = "the image is no longer stored; upload it again".to_owned();
    assert_eq!(reply.outcome, Outcome::GaveUp { reason });
    assert!(is_classified(&rig.ends().await), "the image is stored again");
}
