//! The loop on a fleet and queues in memory, in paused time.

use std::{collections::BTreeMap, fs, path::Path};

use bytes::Bytes;
use eirs_platform::{
    clock::TokioClock,
    error::Error,
    job::{self, Event, Phase, ServiceTimes, VERSION, WebReport, WorkerReport},
    queue::SharedQueue,
};

use super::*;
use crate::{
    fleet::{Fleet, State, memory::MemoryFleet},
    status::Status,
};

const DEFAULT: &str = "[[rule]]\nkind = 'backlog'\n[instance]\nbilling_minimum = '0s'\n[scale_in]\nidle = '30s'\nwindow = '30s'\ndrain_deadline = '20s'";

struct Rig {
    folder: tempfile::TempDir,
    settings: Settings,
    clock: SharedClock,
    backend: Backend,
    fleet: MemoryFleet,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.local.state = folder.path().to_owned();
        settings.controller.policies = folder.path().join("policies");
        fs::create_dir(&settings.controller.policies).unwrap();
        let clock: SharedClock = Arc::new(TokioClock::starting_at(chrono::DateTime::UNIX_EPOCH));
        let rig = Self {
            backend: Backend::in_memory(&settings, clock.clone()),
            fleet: MemoryFleet::new(clock.clone()),
            folder,
            settings,
            clock,
        };
        rig.write_policy(DEFAULT);
        rig
    }

    fn write_policy(&self, text: &str) {
        fs::write(self.settings.controller.policies.join("p.toml"), text).unwrap();
    }

    fn controller(&self) -> Controller {
        let settings = Arc::new(self.settings.clone());
        let store = Store::open(settings.clone()).unwrap();
        let fleet = Arc::new(self.fleet.clone());
        Controller::new(settings, store, self.backend.clone(), fleet, self.clock.clone(), Arc::default())
    }

    fn status(&self) -> Status {
        let text = fs::read(Path::new(&self.folder.path().join("status.json"))).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    async fn requests(&self) -> SharedQueue {
        self.backend.requests("default").await.unwrap()
    }

    async fn send(&self, event: Event) {
        self.backend.events().await.unwrap().send(vec![job::encode(&event)]).await.unwrap();
    }

    async fn ring(&self) {
        let arrivals = BTreeMap::from([("default".to_owned(), 1)]);
        let at = self.clock.now();
        self.send(Event::Web(WebReport { v: VERSION, host: "w".into(), arrivals, doorbell: true, at })).await;
    }

    async fn states(&self) -> Vec<State> {
        self.fleet.list(&[]).await.unwrap().into_iter().map(|instance| instance.state).collect()
    }

    /// Starts an instance behind the controller's back; it is ready and idle.
    async fn idle_instance(&self, id: &str) {
        self.fleet.list(&[PoolSpec { name: "p".into(), model: "default".into(), max: 10 }]).await.unwrap();
        assert!(self.fleet.start(&[id.to_owned()]).await.is_empty());
    }

    async fn report_idle(&self, id: &str, since: chrono::DateTime<chrono::Utc>) {
        let report = WorkerReport {
            v: VERSION,
            instance: id.into(),
            generation: "1".into(),
            model: "default".into(),
            engine: "test".into(),
            phase: Phase::Ready,
            in_flight: 0,
            slots: 1,
            at_once: 1,
            done: 0,
            idle_since: Some(since),
            service: ServiceTimes::default(),
            at: self.clock.now(),
        };
        self.send(Event::Worker(report)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_doorbell_starts_a_worker_long_before_the_next_tick() {
    let rig = Rig::new();
    let lifecycle = Lifecycle::detached(Default::default());
    let mut controller = rig.controller();
    let watched = async {
        // The first pass is over, and the next tick is far.
        tokio::time::sleep(Duration::from_millis(2000)).await;
        rig.requests().await.send(vec![Bytes::new()]).await.unwrap();
        rig.ring().await;
        let rung = Instant::now();
        while rig.states().await.iter().all(|state| *state != State::Running) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let took = rung.elapsed();
        lifecycle.drain().cancel();
        took
    };
    let (took, ran) = tokio::join!(watched, controller.run(&lifecycle));
    ran.unwrap();
    assert!(took < Duration::from_millis(20), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_life_of_one_instance_is_three_decisions_and_silence_between_them() {
    let rig = Rig::new();
    let lifecycle = Lifecycle::detached(Default::default());
    let mut controller = rig.controller();
    let life = async {
        let requests = rig.requests().await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        requests.send(vec![Bytes::new()]).await.unwrap();
        rig.ring().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let held = requests.receive(1, Duration::ZERO).await.unwrap();
        requests.ack(&[held[0].receipt.clone()]).await.unwrap();
        let idle_since = rig.clock.now();
        while rig.states().await[0] != State::Draining {
            rig.report_idle("p-1", idle_since).await;
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
        rig.fleet.leave("p-1");
        tokio::time::sleep(Duration::from_secs(60)).await;
        lifecycle.drain().cancel();
    };
    let (_, ran) = tokio::join!(life, controller.run(&lifecycle));
    ran.unwrap();
    let decisions: Vec<_> = rig.status().decisions.into_iter().map(|decision| decision.actions).collect();
    assert_eq!(
        decisions,
        [vec![], vec!["start p-1".to_owned()], vec!["drain p-1: idle long enough and not needed".into()]]
    );
}

#[tokio::test(start_paused = true)]
async fn a_fleet_that_cannot_be_listed_is_a_problem_and_nobody_is_drained() {
    let rig = Rig::new();
    rig.idle_instance("p-1").await;
    let mut controller = rig.controller();
    controller.pass().await;
    rig.fleet.break_with(Some(Error::unavailable("listing", "throttled")));
    tokio::time::advance(Duration::from_secs(60)).await;
    controller.pass().await;
    let status = rig.status();
    assert_eq!(status.problems, ["the fleet: listing: throttled"]);
    assert!(status.pools[0].reason.ends_with("held: not everything could be seen"), "{status:#?}");
    rig.fleet.break_with(None);
    assert_eq!(rig.states().await, [State::Running]);
}

#[tokio::test(start_paused = true)]
async fn a_changed_policy_is_in_force_after_a_tick_at_the_latest() {
    let rig = Rig::new();
    let lifecycle = Lifecycle::detached(Default::default());
    let mut controller = rig.controller();
    let changes = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        rig.write_policy(&format!("[pool]\nmin = 2\n{DEFAULT}"));
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(rig.states().await, [State::Running, State::Running]);
        rig.write_policy("[pool]\nmin = 'two'");
        tokio::time::sleep(Duration::from_secs(6)).await;
        lifecycle.drain().cancel();
    };
    let (_, ran) = tokio::join!(changes, controller.run(&lifecycle));
    ran.unwrap();
    assert_eq!(rig.states().await, [State::Running, State::Running]);
    let status = rig.status();
    assert!(status.policy_errors[0].contains("p.toml:2: pool.min: is 'two'"), "{status:#?}");
    assert_eq!(
        (status.pools[0].min, status.pools[0].policy_error.as_ref()),
        (2, Some(&status.policy_errors[0]))
    );
}

#[tokio::test(start_paused = true)]
async fn at_the_end_the_workers_go_on_or_are_drained_and_stopped_when_that_is_overdue() {
    for (on_exit, expected, seconds) in
        [(OnExit::Leave, vec![State::Running], 0), (OnExit::Drain, vec![], 20)]
    {
        let mut rig = Rig::new();
        rig.settings.controller.on_exit = on_exit;
        rig.idle_instance("p-1").await;
        let lifecycle = Lifecycle::detached(Default::default());
        lifecycle.drain().cancel();
        let start = Instant::now();
        rig.controller().run(&lifecycle).await.unwrap();
        assert_eq!((rig.states().await, start.elapsed().as_secs()), (expected, seconds));
    }
}
