use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
};

use eirs_platform::{
    clock::SystemClock,
    queue::{QueueOptions, memory::MemoryQueues},
};

use super::{event::tests::reply, *};

const KEY: &str = "whsec_a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=";

/// A webhook whose receiver answers with these statuses in turn, then with 200.
struct Rig {
    webhook: Webhook,
    list: SharedQueue,
    asked: std::sync::mpsc::Receiver<(String, Vec<String>)>,
    _folder: tempfile::TempDir,
}

impl Rig {
    fn new(most: u64, statuses: Vec<u16>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let (says, asked) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut statuses = statuses.into_iter();
            for mut stream in listener.incoming().flatten() {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut length, mut id) = (0, String::new());
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    match line.trim().split_once(": ") {
                        Some(("content-length", value)) => length = value.parse().unwrap(),
                        Some(("webhook-id", value)) => value.clone_into(&mut id),
                        _ if line.trim().is_empty() => break,
                        _ => {}
                    }
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let message: serde_json::Value = serde_json::from_slice(&body).unwrap();
                let name = |event: &serde_json::Value| event["name"].as_str().unwrap().to_owned();
                let names = message["data"].as_array().unwrap().iter().map(name).collect();
                let status = statuses.next().unwrap_or(200);
                let answer = format!("HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
                // Before the response, after which the test expects it.
                if says.send((id, names)).is_err() {
                    return;
                }
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let clock = Arc::new(SystemClock);
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        std::fs::write(&key, KEY).unwrap();
        let list = MemoryQueues::new(clock.clone()).open("webhook", QueueOptions::default());
        let webhook = Webhook {
            list: list.clone(),
            most,
            poster: Poster::to(&url).unwrap(),
            keys: keys(&key).unwrap(),
            metrics: Arc::new(Metrics::new(["default"].into_iter())),
            clock,
            counted: Mutex::default(),
            is_failing: AtomicBool::new(false),
        };
        Self { webhook, list, asked, _folder: folder }
    }

    async fn deliver(&self, images: &[&str]) {
        let replies: Vec<_> = images.iter().map(|image| reply(image)).collect();
        self.webhook.note(&replies).await.unwrap();
        let batch = self.list.receive(BATCH, Duration::ZERO).await.unwrap();
        self.webhook.deliver(batch, &CancellationToken::new()).await;
    }

    async fn left(&self) -> u64 {
        self.list.depth().await.unwrap().backlog()
    }
}

#[tokio::test]
async fn a_batch_that_is_not_taken_is_sent_again_as_the_same_message() {
    let rig = Rig::new(100, vec![500]);
    rig.deliver(&["a", "b"]).await;
    let (first, again) = (rig.asked.recv().unwrap(), rig.asked.recv().unwrap());
    assert_eq!(first, again);
    assert_eq!(first.1, ["a.jpg", "b.jpg"]);
    assert_eq!(rig.left().await, 0);
}

#[tokio::test]
async fn a_batch_that_is_refused_is_halved_until_only_the_bad_event_is_left() {
    // The four, the first two, the first (which is bad), the second, the other two.
    let rig = Rig::new(100, vec![422, 422, 422, 200, 200]);
    rig.deliver(&["a", "b", "c", "d"]).await;
    let asked: Vec<_> = rig.asked.try_iter().map(|(_, names)| names.concat()).collect();
    assert_eq!(asked, ["a.jpgb.jpgc.jpgd.jpg", "a.jpgb.jpg", "a.jpg", "b.jpg", "c.jpgd.jpg"]);
    assert_eq!(rig.left().await, 1, "the bad one is received again when its lease expires");
}

#[tokio::test]
async fn events_beyond_the_maximum_are_dropped_until_some_are_accepted() {
    let rig = Rig::new(3, Vec::new());
    let replies: Vec<_> = ["a", "b"].map(reply).into();
    rig.webhook.note(&replies).await.unwrap();
    rig.webhook.note(&replies).await.unwrap();
    assert_eq!((rig.left().await, rig.webhook.waiting().await), (3, 3));
    let batch = rig.list.receive(BATCH, Duration::ZERO).await.unwrap();
    rig.webhook.deliver(batch, &CancellationToken::new()).await;
    assert_eq!(rig.webhook.waiting().await, 0);
    rig.webhook.note(&replies).await.unwrap();
    assert_eq!(rig.left().await, 2);
}

#[tokio::test]
async fn a_stopped_webhook_releases_the_events_that_were_not_accepted() {
    let rig = Rig::new(100, vec![503; 100]);
    rig.webhook.note(&[reply("a")]).await.unwrap();
    let batch = rig.list.receive(BATCH, Duration::ZERO).await.unwrap();
    let stop = CancellationToken::new();
    let (asked, stopped) = (&rig.asked, stop.clone());
    tokio::join!(rig.webhook.deliver(batch, &stop), async move {
        while asked.try_recv().is_err() {
            tokio::task::yield_now().await;
        }
        stopped.cancel();
    });
    assert_eq!(rig.list.depth().await.unwrap().visible, 1);
}
