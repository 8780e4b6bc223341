use std::collections::BTreeMap;

use bytes::Bytes;
use eirs_platform::{
    clock::{Clock, TokioClock},
    error::Error,
    fault::{Fault, Faulty},
    job::{self, Event, ServiceTimes, VERSION, WebReport},
    queue::Queue,
    settings::Settings,
};
use tokio::{sync::Notify, time::advance};

use super::*;
use crate::fleet::memory::MemoryFleet;

struct Rig {
    clock: Arc<TokioClock>,
    backend: Backend,
    fleet: MemoryFleet,
    reports: Arc<Reports>,
    observer: Observer,
    policies: Policies,
}

impl Rig {
    fn new() -> Self {
        let clock = Arc::new(TokioClock::starting_at(DateTime::UNIX_EPOCH + Duration::from_secs(1000)));
        let backend = Backend::in_memory(&Settings::default(), clock.clone());
        let reports = Arc::<Reports>::default();
        let policy = crate::policy::parse("p".as_ref(), "[pool]\nmax = 2").unwrap();
        Self {
            fleet: MemoryFleet::new(clock.clone()),
            observer: Observer::new(backend.clone(), clock.clone(), reports.clone()),
            policies: Policies { pools: BTreeMap::from([("p".to_owned(), policy)]), ..Policies::default() },
            clock,
            backend,
            reports,
        }
    }

    async fn observe(&mut self) -> Observation {
        self.observer.observe(&self.policies, &self.fleet).await
    }

    fn says(&self, generation: &str, phase: Phase, done: u64) -> bool {
        let now = self.clock.now();
        let report = WorkerReport {
            v: VERSION,
            instance: "p-1".into(),
            generation: generation.into(),
            model: "default".into(),
            version: String::new(),
            engine: "test".into(),
            phase,
            in_flight: 0,
            slots: 1,
            at_once: 1,
            done,
            // The worker's clock is an hour ahead.
            idle_since: Some(now + Duration::from_secs(3590)),
            failing: None,
            service: ServiceTimes::default(),
            at: now + Duration::from_secs(3600),
        };
        self.reports.take(Event::Worker(report), now)
    }

    fn arrivals(&self, count: u64, doorbell: bool) -> bool {
        let arrivals = BTreeMap::from([("default".to_owned(), count)]);
        let report =
            WebReport { v: VERSION, host: "w".into(), arrivals, doorbell, since: None, at: self.clock.now() };
        self.reports.take(Event::Web(report), self.clock.now())
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_listed_as_missing_and_never_zero() {
    let mut rig = Rig::new();
    let queue = Arc::new(Faulty::new(rig.backend.requests("default").await.unwrap()));
    queue.send(vec![Bytes::new(); 3]).await.unwrap();
    rig.observer.queues.insert("default".into(), queue.clone());
    assert_eq!(rig.observe().await.pools["p"].depth, Some(Depth { visible: 3, in_flight: 0 }));

    queue.next("depth", Fault::Fail(Error::unavailable("counting", "no network")));
    rig.fleet.break_with(Some(Error::unavailable("listing", "throttled")));
    let seen = rig.observe().await;
    assert_eq!((seen.pools["p"].depth, &seen.instances), (None, &None));
    assert_eq!(seen.missing, ["the backlog of p: counting: no network", "the fleet: listing: throttled"]);

    rig.fleet.break_with(None);
    queue.next("depth", Fault::Delay(2 * LOOK_TIMEOUT));
    assert_eq!(rig.observe().await.missing, ["the backlog of p: no response within 10s"]);
    assert!(rig.observe().await.missing.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_instance_is_ready_when_it_reports_so_and_reports_of_earlier_starts_do_not_count() {
    let mut rig = Rig::new();
    let stage =
        |seen: Observation| seen.instances.unwrap().into_iter().map(|view| view.stage()).collect::<Vec<_>>();
    assert_eq!(stage(rig.observe().await), [Stage::Stopped, Stage::Stopped]);
    rig.fleet.start(&["p-1".into()]).await;
    assert_eq!(stage(rig.observe().await), [Stage::Starting, Stage::Stopped]);
    rig.says("0", Phase::Ready, 0);
    assert_eq!(stage(rig.observe().await), [Stage::Starting, Stage::Stopped]);
    rig.says("1", Phase::Ready, 0);
    assert_eq!(stage(rig.observe().await), [Stage::Ready, Stage::Stopped]);
    rig.fleet.drain("p-1", Duration::from_secs(1)).await.unwrap();
    assert_eq!(stage(rig.observe().await), [Stage::Draining, Stage::Stopped]);
    advance(Duration::from_secs(1)).await;
    rig.says("1", Phase::Drained, 0);
    assert_eq!(stage(rig.observe().await), [Stage::Drained, Stage::Stopped]);
}

#[tokio::test(start_paused = true)]
async fn idle_time_is_measured_on_one_clock_and_known_until_the_report_expires() {
    let mut rig = Rig::new();
    rig.observe().await;
    rig.fleet.start(&["p-1".into()]).await;
    rig.says("1", Phase::Ready, 0);
    let idle = |seen: Observation| seen.instances.unwrap()[0].idle_for(seen.at);
    assert_eq!(idle(rig.observe().await), Some(Duration::from_secs(10)));
    advance(REPORT_EXPIRES).await;
    assert_eq!(idle(rig.observe().await), Some(Duration::from_secs(40)));
    advance(Duration::from_millis(1)).await;
    assert_eq!(idle(rig.observe().await), None);
}

#[tokio::test(start_paused = true)]
async fn rates_are_means_over_about_ten_seconds_and_end_with_the_reports() {
    let mut rig = Rig::new();
    rig.observe().await;
    rig.fleet.start(&["p-1".into()]).await;
    for step in 0..4 {
        rig.says("1", Phase::Ready, step * 50);
        rig.arrivals(if step == 0 { 7 } else { 30 }, false);
        advance(Duration::from_secs(10)).await;
    }
    let seen = rig.observe().await;
    let heard = seen.instances.unwrap()[0].heard.clone().unwrap();
    assert_eq!(heard.done_per_s, 5.0);
    assert_eq!(seen.pools["p"].last_arrival, Some(seen.at - Duration::from_secs(10)));
    advance(REPORT_EXPIRES).await;
    let seen = rig.observe().await;
    let heard = seen.instances.unwrap()[0].heard.clone().unwrap();
    assert_eq!(heard.done_per_s, 0.0);
}

#[tokio::test(start_paused = true)]
async fn arrivals_add_up_and_a_report_that_is_delivered_twice_counts_once() {
    let mut rig = Rig::new();
    let mut counts = Vec::new();
    for (count, seconds) in [(7, 0), (7, 10), (5, 1000), (3, 0)] {
        advance(Duration::from_secs(seconds)).await;
        rig.arrivals(count, false);
        counts.push(rig.observe().await.pools["p"].arrived);
    }
    // The last report has the same host and time as the one before, so it is the same.
    assert_eq!(counts, [7, 14, 19, 19]);
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_was_away_reads_the_missed_reports_before_it_observes() {
    let mut rig = Rig::new();
    let events = rig.backend.events().await.unwrap();
    for _ in 0..12 {
        let since = rig.clock.now();
        advance(Duration::from_secs(10)).await;
        let (at, arrivals) = (rig.clock.now(), BTreeMap::from([("default".to_owned(), 50)]));
        let report =
            WebReport { v: VERSION, host: "w".into(), arrivals, doorbell: false, since: Some(since), at };
        events.send(vec![job::encode(&Event::Web(report))]).await.unwrap();
    }
    let receiver =
        tokio::spawn(reports::receive(events, rig.reports.clone(), rig.clock.clone(), Default::default()));
    rig.reports.catch_up().await;
    let seen = rig.observe().await;
    let history = crate::decide::History::new(Duration::from_secs(60)).observe(&seen);
    let facts = history.facts("p", &rig.policies.pools["p"]);
    assert!((facts.arrivals_per_s - 5.0).abs() < 0.01, "{facts:?}");
    assert_eq!(rig.observe().await.pools["p"].counts, [], "each count is returned once");
    receiver.abort();
}

#[tokio::test(start_paused = true)]
async fn a_doorbell_and_a_new_phase_are_news_and_the_rest_is_not() {
    let rig = Rig::new();
    let mut news = vec![
        rig.says("1", Phase::Starting, 0),
        rig.says("1", Phase::Ready, 0),
        rig.says("1", Phase::Ready, 1),
        rig.says("1", Phase::Drained, 1),
        rig.arrivals(1, false),
    ];
    advance(Duration::from_millis(1)).await;
    news.push(rig.arrivals(1, true));
    assert_eq!(news, [false, true, false, true, false, true]);
}

#[tokio::test(start_paused = true)]
async fn reports_are_acked_even_if_unreadable_and_a_failing_queue_is_detected() {
    let rig = Rig::new();
    let events = Arc::new(Faulty::new(rig.backend.events().await.unwrap()));
    events.next("receive", Fault::Fail(Error::unavailable("receiving", "no network")));
    let news = Arc::<Notify>::default();
    let receiver =
        tokio::spawn(reports::receive(events.clone(), rig.reports.clone(), rig.clock.clone(), news.clone()));
    while rig.reports.are_received() {
        tokio::task::yield_now().await;
    }
    let arrivals = BTreeMap::from([("default".to_owned(), 1)]);
    let doorbell = Event::Web(WebReport {
        v: VERSION,
        host: "w".into(),
        arrivals,
        doorbell: true,
        since: None,
        at: rig.clock.now(),
    });
    let too_new = Bytes::from_static(br#"{"kind":"shout","v":9}"#);
    events.send(vec![Bytes::from_static(b"nonsense"), too_new, job::encode(&doorbell)]).await.unwrap();
    news.notified().await;
    assert!(rig.reports.are_received());
    while events.depth().await.unwrap().backlog() > 0 {
        tokio::task::yield_now().await;
    }
    receiver.abort();
}
