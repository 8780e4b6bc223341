//! Tests with a state folder of one machine. The service tests do the same with the real programs.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use eirs_platform::{
    backend::Backend,
    clock::SystemClock,
    job::{Guess, Job, JobId, Outcome, Reply, encode},
    queue::Depth,
    results,
    settings::Settings,
    testing::{self, job},
};
use tokio_util::sync::CancellationToken;

use super::*;

struct Rig {
    _folder: tempfile::TempDir,
    global: Global,
    desk: Desk,
}

async fn rig() -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = Settings::default();
    settings.local.state = folder.path().to_owned();
    let global = Global { config: None, state: Some(folder.path().to_owned()) };
    let backend = Backend::open(&settings, Arc::new(SystemClock)).await.unwrap();
    Rig {
        _folder: folder,
        global,
        desk: Desk { settings, backend, stop: CancellationToken::new(), voice: Voice::default() },
    }
}

impl Rig {
    /// An image whose job was given up, as a worker leaves it.
    async fn given_up(&self, content: &str) -> Job {
        let job = job(content);
        self.result(&job, Outcome::GaveUp { reason: "it was tried 5 times without an answer".into() }).await;
        let backend = &self.desk.backend;
        backend.images().put(&job.id.image_key(), Bytes::from(content.to_owned())).await.unwrap();
        self.letter(encode(&job)).await;
        job
    }

    async fn letter(&self, body: Bytes) {
        self.desk.backend.dead_letters("default").await.unwrap().send(vec![body]).await.unwrap();
    }

    async fn result(&self, job: &Job, outcome: Outcome) {
        let reply = Reply { id: job.id, name: job.name.clone(), ..testing::reply("", outcome) };
        let results = self.desk.backend.results();
        results::note_version(&**results, "default", "1").await.unwrap();
        results::put(&**results, &reply, true).await.unwrap();
    }

    async fn has_result(&self, job: &Job) -> bool {
        self.desk.backend.results().exists(&job.id.result_key("default", "1")).await.unwrap()
    }

    async fn letters(&self) -> Depth {
        self.desk.backend.dead_letters("default").await.unwrap().depth().await.unwrap()
    }

    async fn jobs(&self) -> Vec<Job> {
        let requests = self.desk.backend.requests("default").await.unwrap();
        let received = requests.receive(100, Duration::ZERO).await.unwrap();
        received.iter().map(|delivery| eirs_platform::job::decode(&delivery.body).unwrap()).collect()
    }

    async fn shown(&self) -> Vec<Shown> {
        let piles = self.desk.piles(None).await.unwrap();
        let (held, letters) = self.desk.collect(&piles[0], 100).await.unwrap();
        held.give_back().await;
        stream::iter(letters).then(|letter| Shown::of(letter, &self.desk)).collect().await
    }

    async fn run(&self, arguments: &[&str]) -> Result<Exit, Stop> {
        #[derive(clap::Parser)]
        struct Line {
            #[command(subcommand)]
            command: DeadLettersCommand,
        }
        let line = <Line as clap::Parser>::try_parse_from([&["x"], arguments].concat());
        line.map_err(|error| Stop::Usage(error.to_string()))?.command.run(&self.global).await
    }
}

const FREE: fn(u64) -> Depth = |visible| Depth { visible, in_flight: 0 };

#[tokio::test]
async fn list_shows_the_reason_of_each_letter_and_gives_all_back() {
    let rig = rig().await;
    rig.given_up("cat").await;
    let died = job("dog");
    rig.letter(encode(&died)).await;
    let age = rig.desk.settings.queue.retention + Duration::from_secs(9);
    let old = Job { sent_at: died.sent_at - age, ..job("old") };
    rig.letter(encode(&old)).await;
    rig.letter(Bytes::from("no job")).await;
    for number in 0..250 {
        rig.letter(encode(&job(&number.to_string()))).await;
    }
    let shown = rig.shown().await;
    let of = |id: String| shown.iter().find(|letter| letter.id == id).unwrap();
    let cat = of(JobId::of(b"cat").to_string());
    assert_eq!(
        (cat.name.as_deref(), cat.why.as_str()),
        (Some("cat.jpg"), "it was tried 5 times without an answer")
    );
    assert_eq!((cat.image_stored, cat.given_up_at.is_some()), (Some(true), true));
    let dog = of(died.id.to_string());
    assert!(dog.why.starts_with("delivered 100 times without a reported cause"), "{dog:?}");
    let of_old = of(old.id.to_string());
    assert!(of_old.why.starts_with("no worker took it within `queue.retention` ("), "{of_old:?}");
    assert_eq!(dog.image_stored, Some(false));
    let unreadable = of(JobId::of(b"no job").to_string());
    assert!(unreadable.name.is_none() && unreadable.why.starts_with("not a known message"), "{unreadable:?}");
    assert_eq!(shown.len(), 100, "at most the limit");
    assert_eq!(rig.letters().await, FREE(254));
    assert_eq!(rig.run(&["list", "-n", "3"]).await.unwrap(), Exit::Ok);
    assert_eq!(rig.letters().await, FREE(254));
}

#[tokio::test]
async fn messages_about_the_same_image_are_one_letter_with_the_newest_name() {
    let rig = rig().await;
    let first = rig.given_up("cat").await;
    let again = Job { name: "tiger.jpg".into(), sent_at: first.sent_at + Duration::from_secs(9), ..first };
    rig.letter(encode(&again)).await;
    let shown = rig.shown().await;
    assert_eq!(shown.len(), 1, "{shown:?}");
    assert_eq!((shown[0].name.as_deref(), shown[0].messages), (Some("tiger.jpg"), 2));
    assert_eq!(rig.run(&["redrive", "--all", "--yes"]).await.unwrap(), Exit::Ok);
    assert_eq!((rig.jobs().await.len(), rig.letters().await), (1, FREE(0)));
}

#[tokio::test]
async fn a_redriven_letter_is_a_job_without_a_result() {
    let rig = rig().await;
    let (cat, dog) = (rig.given_up("cat").await, rig.given_up("dog").await);
    let id = &cat.id.to_string()[..6];
    assert_eq!(rig.run(&["redrive", id, "--yes"]).await.unwrap(), Exit::Ok);
    assert_eq!(rig.jobs().await, std::slice::from_ref(&cat));
    assert!(!rig.has_result(&cat).await && rig.has_result(&dog).await);
    assert_eq!(rig.letters().await, FREE(1));
    let nobody = rig.run(&["redrive", id, "--yes"]).await.unwrap_err();
    assert!(matches!(&nobody, Stop::Usage(why) if why.starts_with("unknown dead letter")), "{nobody}");
    assert_eq!(rig.letters().await, FREE(1));
}

#[tokio::test]
async fn letters_without_image_stay_and_those_with_a_result_are_deleted() {
    let rig = rig().await;
    let (done, gone) = (rig.given_up("done").await, job("gone"));
    let label = Outcome::Classified { top: vec![Guess { label: "tench".into(), confidence: 0.5 }] };
    rig.result(&done, label).await;
    rig.letter(encode(&gone)).await;
    rig.result(&gone, Outcome::GaveUp { reason: "so".into() }).await;
    rig.letter(Bytes::from("no job")).await;
    assert_eq!(rig.run(&["redrive", "--all", "--yes"]).await.unwrap(), Exit::Failed);
    assert_eq!(rig.jobs().await, []);
    assert!(rig.has_result(&done).await && rig.has_result(&gone).await);
    assert_eq!(rig.letters().await, FREE(2));
}

#[tokio::test]
async fn letters_are_purged_by_id_or_all() {
    let rig = rig().await;
    let cat = rig.given_up("cat").await;
    rig.letter(Bytes::from("no job")).await;
    let unreadable = JobId::of(b"no job").to_string();
    assert_eq!(rig.run(&["purge", &unreadable, "--yes"]).await.unwrap(), Exit::Ok);
    assert_eq!(rig.letters().await, FREE(1));
    assert_eq!(rig.run(&["purge", "--all", "--yes"]).await.unwrap(), Exit::Ok);
    assert_eq!(rig.letters().await, FREE(0));
    assert!(rig.has_result(&cat).await);
}

#[tokio::test]
async fn nothing_is_done_without_confirmation_or_selection() {
    let rig = rig().await;
    let cat = rig.given_up("cat").await;
    // Tests have no terminal on which to ask.
    for arguments in [&["redrive", "--all"][..], &["purge", "--all"], &["redrive", &cat.id.to_string()]] {
        let refused = rig.run(arguments).await.unwrap_err();
        assert!(matches!(&refused, Stop::Usage(why) if why.contains("use --yes")), "{refused}");
    }
    for arguments in [&["redrive"][..], &["purge"], &["redrive", "--all", "7d"], &["list", "--model", "dogs"]]
    {
        assert!(matches!(rig.run(arguments).await, Err(Stop::Usage(_))), "{arguments:?}");
    }
    assert_eq!(rig.jobs().await, []);
    assert!(rig.has_result(&cat).await);
    assert_eq!(rig.letters().await, FREE(1));
}

#[tokio::test]
async fn letters_of_a_removed_model_are_listed_but_not_redriven() {
    let rig = rig().await;
    rig.desk.backend.dead_letters("old").await.unwrap().send(vec![encode(&job("cat"))]).await.unwrap();
    let others = rig.desk.others().await.unwrap();
    assert_eq!((others[0].model.as_str(), others[0].messages), ("old", 1));
    assert_eq!(rig.run(&["list", "--model", "old"]).await.unwrap(), Exit::Ok);
    let refused = rig.run(&["redrive", "--model", "old", "--all", "--yes"]).await.unwrap_err();
    assert!(refused.to_string().starts_with("unknown model `old`"), "{refused}");
    assert_eq!(rig.run(&["purge", "--model", "old", "--all", "--yes"]).await.unwrap(), Exit::Ok);
    assert!(rig.desk.others().await.unwrap().is_empty());
}

#[tokio::test]
async fn list_creates_neither_a_state_folder_nor_a_queue() {
    let rig = rig().await;
    assert_eq!(rig.run(&["list"]).await.unwrap(), Exit::Ok);
    assert_eq!(rig.desk.backend.queue_names().await.unwrap(), Vec::<String>::new());
    let none = rig.global.state.as_ref().unwrap().join("none");
    let global = Global { config: None, state: Some(none.clone()) };
    let list = List { model: None, limit: 1, voice: Voice::default() };
    DeadLettersCommand::List(list).run(&global).await.unwrap_err();
    assert!(!none.exists());
}
