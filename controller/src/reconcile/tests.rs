//! Tests the control loop with a fleet and queues in memory, in paused time.

use std::{collections::BTreeMap, fs, path::Path};

use bytes::Bytes;
use eirs_platform::{
    clock::TokioClock,
    error::Error,
    job::{self, Event, Phase, ServiceTimes, VERSION, WebReport, WorkerReport},
    queue::SharedQueue,
};

use tokio::time::{Instant, timeout};

use super::*;
use crate::{
    fleet::{Fleet, Instance, PoolSpec, Refusal, State, memory::MemoryFleet},
    operator::Order,
    policy::Launch,
    status::Status,
};

const DEFAULT: &str = "[[rule]]\nkind = 'backlog'\n[instance]\nbilling_minimum = '0s'\n[scale_in]\n\
    idle = '30s'\nwindow = '30s'\ndrain_deadline = '20s'";

struct Rig {
    folder: tempfile::TempDir,
    settings: Settings,
    clock: SharedClock,
    backend: Backend,
    fleet: MemoryFleet,
}

/// Timeout in paused time, which takes no real time.
const LONG: Duration = Duration::from_secs(3600);

/// Waits in paused time until `look` returns true.
async fn until(look: impl AsyncFn() -> bool) {
    let looks = async {
        while !look().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LONG, looks).await.expect("it returns true before the deadline");
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
        self.send(Event::Web(WebReport {
            v: VERSION,
            host: "w".into(),
            arrivals,
            doorbell: true,
            since: None,
            at,
        }))
        .await;
    }

    async fn states(&self) -> Vec<State> {
        self.fleet.list(&[]).await.unwrap().into_iter().map(|instance| instance.state).collect()
    }

    /// Starts an instance without the controller.
    async fn idle_instance(&self, id: &str) {
        self.fleet
            .list(&[PoolSpec {
                name: "p".into(),
                model: "default".into(),
                max: 10,
                launch: Launch::default(),
            }])
            .await
            .unwrap();
        assert!(self.fleet.start(&[id.to_owned()]).await.is_empty());
    }

    async fn report_idle(&self, id: &str, since: chrono::DateTime<chrono::Utc>) {
        let report = WorkerReport {
            v: VERSION,
            instance: id.into(),
            generation: "1".into(),
            model: "default".into(),
            version: String::new(),
            engine: "test".into(),
            phase: Phase::Ready,
            in_flight: 0,
            slots: 1,
            at_once: 1,
            done: 0,
            idle_since: Some(since),
            failing: None,
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
        // The first pass is over, and the next tick is far away.
        until(async || rig.folder.path().join("status.json").exists()).await;
        rig.requests().await.send(vec![Bytes::new()]).await.unwrap();
        rig.ring().await;
        let rung = Instant::now();
        until(async || rig.states().await.contains(&State::Running)).await;
        let took = rung.elapsed();
        lifecycle.drain().cancel();
        took
    };
    let (took, ran) = tokio::join!(watched, controller.run(&lifecycle));
    ran.unwrap();
    assert!(took < Duration::from_millis(20), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn the_life_of_one_instance_is_exactly_three_logged_decisions() {
    let rig = Rig::new();
    let lifecycle = Lifecycle::detached(Default::default());
    let mut controller = rig.controller();
    let life = async {
        let requests = rig.requests().await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        requests.send(vec![Bytes::new()]).await.unwrap();
        rig.ring().await;
        until(async || rig.states().await.contains(&State::Running)).await;
        let held = requests.receive(1, Duration::ZERO).await.unwrap();
        requests.ack(&[held[0].receipt.clone()]).await.unwrap();
        let idle_since = rig.clock.now();
        let drained = async {
            while rig.states().await[0] != State::Draining {
                rig.report_idle("p-1", idle_since).await;
                tokio::time::sleep(Duration::from_secs(10)).await;
            }
        };
        timeout(LONG, drained).await.expect("it is drained");
        rig.fleet.leave("p-1");
        tokio::time::sleep(Duration::from_secs(60)).await;
        lifecycle.drain().cancel();
    };
    let (_, ran) = tokio::join!(life, controller.run(&lifecycle));
    ran.unwrap();
    let decisions: Vec<_> = rig.status().decisions.into_iter().map(|decision| decision.actions).collect();
    assert_eq!(
        decisions,
        [vec![], vec!["start p-1".to_owned()], vec!["drain p-1: idle and not needed".into()]]
    );
}

#[tokio::test(start_paused = true)]
async fn a_fleet_that_cannot_be_listed_is_a_problem_and_no_instance_is_drained() {
    let rig = Rig::new();
    rig.idle_instance("p-1").await;
    let mut controller = rig.controller();
    controller.pass().await;
    rig.fleet.break_with(Some(Error::unavailable("listing", "throttled")));
    tokio::time::advance(Duration::from_secs(60)).await;
    controller.pass().await;
    let status = rig.status();
    assert_eq!(status.problems, ["the fleet: listing: throttled"]);
    assert!(status.pools[0].reason.ends_with("held: the observation is incomplete"), "{status:#?}");
    rig.fleet.break_with(None);
    assert_eq!(rig.states().await, [State::Running]);
}

#[tokio::test(start_paused = true)]
async fn a_changed_policy_is_in_force_after_a_tick_at_the_latest() {
    let rig = Rig::new();
    let lifecycle = Lifecycle::detached(Default::default());
    let mut controller = rig.controller();
    let changes = async {
        until(async || rig.folder.path().join("status.json").exists()).await;
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
async fn a_killed_controller_loses_no_instance_time_beyond_its_last_pass() {
    let rig = Rig::new();
    rig.write_policy(&format!("[pool]\nmin = 1\n{DEFAULT}"));
    rig.idle_instance("p-1").await;
    let mut controller = rig.controller();
    controller.pass().await;
    for _ in 0..5 {
        tokio::time::advance(Duration::from_secs(5)).await;
        controller.pass().await;
    }
    let used_s = || rig.status().pools[0].today.instance_hours.unwrap_or_default() * 3600.0;
    assert_eq!(used_s().round(), 25.0);
    // Both are killed. The memory is 25 s old.
    drop(controller);
    rig.fleet.leave("p-1");
    tokio::time::advance(Duration::from_secs(3)).await;
    let mut controller = rig.controller();
    controller.pass().await;
    assert_eq!(used_s().round(), 25.0);
    // Nothing is charged twice.
    drop(controller);
    rig.controller().pass().await;
    assert_eq!(used_s().round(), 25.0);
}

fn order(rig: &Rig, change: impl FnOnce(&mut Operator)) {
    operator::change(rig.folder.path(), change).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_paused_pool_gets_decisions_but_no_actions_until_it_is_resumed() {
    let rig = Rig::new();
    let mut controller = rig.controller();
    let by = Order::new(Some("alice".into()), chrono::DateTime::UNIX_EPOCH);
    order(&rig, |orders| _ = orders.paused.insert("p".into(), by.clone()));
    rig.requests().await.send(vec![Bytes::new()]).await.unwrap();
    assert!(controller.pass().await.ends_with("0 of 1 running (paused)"));
    let status = rig.status();
    let pool = &status.pools[0];
    assert_eq!((pool.paused.as_ref(), pool.would.as_slice()), (Some(&by), &["start p-1".to_owned()][..]));
    assert!(status.decisions[0].paused);
    assert!(rig.states().await.is_empty());
    // Nothing was done, so no further pass is needed.
    assert!(tokio::time::timeout(Duration::ZERO, controller.poke.notified()).await.is_err());

    order(&rig, |orders| orders.paused.clear());
    controller.pass().await;
    assert_eq!(rig.states().await, [State::Running]);
    assert_eq!(rig.status().decisions.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_invalid_orders_file_leaves_the_last_orders_in_force_even_after_a_restart() {
    let rig = Rig::new();
    let by = Order::new(None, chrono::DateTime::UNIX_EPOCH);
    order(&rig, |orders| orders.all_paused = Some(by));
    rig.controller().pass().await;
    fs::write(rig.folder.path().join(operator::FILE), "{").unwrap();
    rig.requests().await.send(vec![Bytes::new()]).await.unwrap();
    rig.controller().pass().await;
    assert!(rig.states().await.is_empty());
    assert!(rig.status().operator_error.unwrap().contains("operator.json: was not written by"));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_shown_and_survives_a_restart_until_the_instance_starts() {
    let rig = Rig::new();
    rig.requests().await.send(vec![Bytes::new()]).await.unwrap();
    let lifecycle = Lifecycle::detached(Default::default());
    lifecycle.drain().cancel();
    let mut first = rig.controller();
    rig.fleet.refuse_starts(Some(Error::no_capacity("starting p-1", "none left")));
    for _ in 0..2 {
        first.pass().await;
        tokio::time::advance(Duration::from_secs(5)).await;
    }
    first.run(&lifecycle).await.unwrap();
    drop(first);

    let mut second = rig.controller();
    second.pass().await;
    let refused = rig.status().pools[0].instances[0].refused.clone().unwrap();
    assert_eq!((refused.count, refused.capacity), (2, true), "as it was before this pass");
    rig.fleet.refuse_starts(None);
    tokio::time::advance(Duration::from_secs(60)).await;
    second.pass().await;
    second.pass().await;
    assert_eq!(rig.states().await, [State::Running]);
    assert_eq!(rig.status().pools[0].instances[0].refused, None);
}

/// A fleet whose list takes a second, and that panics if two lists run at the same time.
#[derive(Debug)]
struct Slow {
    inner: MemoryFleet,
    at_once: std::sync::atomic::AtomicU32,
    lists: std::sync::atomic::AtomicU32,
}

#[async_trait::async_trait]
impl Fleet for Slow {
    async fn list(&self, pools: &[PoolSpec]) -> Result<Vec<Instance>> {
        use std::sync::atomic::Ordering::Relaxed;
        assert_eq!(self.at_once.fetch_add(1, Relaxed), 0, "two passes at once");
        self.lists.fetch_add(1, Relaxed);
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.at_once.fetch_sub(1, Relaxed);
        self.inner.list(pools).await
    }

    async fn start(&self, ids: &[String]) -> Vec<Refusal> {
        self.inner.start(ids).await
    }

    async fn drain(&self, id: &str, deadline: Duration) -> Result<()> {
        self.inner.drain(id, deadline).await
    }

    async fn stop(&self, id: &str) -> Result<()> {
        self.inner.stop(id).await
    }
}

#[tokio::test(start_paused = true)]
async fn two_passes_never_run_at_once_however_often_the_controller_is_poked() {
    let rig = Rig::new();
    let slow = Arc::new(Slow { inner: rig.fleet.clone(), at_once: 0.into(), lists: 0.into() });
    let settings = Arc::new(rig.settings.clone());
    let store = Store::open(settings.clone()).unwrap();
    let poke = Arc::<Notify>::default();
    let (backend, clock) = (rig.backend.clone(), rig.clock.clone());
    let mut controller = Controller::new(settings, store, backend, slow.clone(), clock, poke.clone());
    let lifecycle = Lifecycle::detached(Default::default());
    let rings = async {
        for _ in 0..100 {
            poke.notify_one();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        lifecycle.drain().cancel();
    };
    let (_, ran) = tokio::join!(rings, controller.run(&lifecycle));
    ran.unwrap();
    let lists = slow.lists.load(std::sync::atomic::Ordering::Relaxed);
    assert!((10..=11).contains(&lists), "one after the other for ten seconds: {lists}");
}

#[tokio::test(start_paused = true)]
async fn at_the_end_the_workers_are_left_running_or_drained_and_then_stopped() {
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

#[tokio::test(start_paused = true)]
async fn the_webhook_receives_each_step_of_a_used_budget() {
    use std::io::{BufRead, BufReader, Read, Write};
    let mut rig = Rig::new();
    rig.write_policy(&format!("{DEFAULT}\n[pool]\nmin = 1\n[budget]\ninstance_hours_per_day = 1"));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let key = rig.folder.path().join("key");
    fs::write(&key, "whsec_a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=").unwrap();
    let url = Some(format!("http://{}/", listener.local_addr().unwrap()));
    rig.settings.controller.webhook = eirs_platform::settings::AlertWebhook { url, key: Some(key) };
    let receiver = std::thread::spawn(move || {
        let alerts = listener.incoming().map(|stream| {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut length = 0;
            for line in reader.by_ref().lines().map(Result::unwrap).take_while(|line| !line.is_empty()) {
                if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
                    length = value.parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            stream.write_all(b"HTTP/1.1 204 x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").unwrap();
            let message: serde_json::Value = serde_json::from_slice(&body).unwrap();
            message["data"][0]["alert"].as_str().unwrap().to_owned()
        });
        alerts.take(3).collect::<Vec<_>>()
    });
    let mut controller =
        rig.controller().with_alerts(Sender::open(&rig.settings.controller.webhook).unwrap());
    while !receiver.is_finished() {
        controller.pass().await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(rig.clock.now().timestamp() < 4 * 3600, "not all alerts came");
    }
    assert_eq!(receiver.join().unwrap(), ["budget_50", "budget_80", "budget_100"]);
}
