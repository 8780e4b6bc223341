//! Several controllers with one claim, in simulated time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use async_trait::async_trait;
use bytes::Bytes;
use proptest::prelude::*;
use tokio::time::sleep;

use super::*;
use crate::clock::TokioClock;

/// A claim in memory, and the number of writes: no version is used twice.
#[derive(Debug, Default)]
struct Paper(Mutex<Option<(Bytes, u64)>>, AtomicU64);

/// One machine's connection to the claim.
#[derive(Debug)]
struct Connection {
    paper: Arc<Paper>,
    is_cut: AtomicBool,
    /// True if writes succeed but their answers are lost.
    loses_answers: AtomicBool,
}

#[async_trait]
impl Slot for Connection {
    async fn read(&self) -> Result<Option<(Bytes, String)>> {
        self.pass().await?;
        Ok(lock(&self.paper.0).as_ref().map(|(body, version)| (body.clone(), version.to_string())))
    }

    async fn write(&self, body: Bytes, was: Option<&str>) -> Result<Option<String>> {
        self.pass().await?;
        let answer = {
            let mut paper = lock(&self.paper.0);
            let is = paper.as_ref().map(|(_, version)| *version);
            if is.map(|version| version.to_string()).as_deref() == was {
                let next = self.paper.1.fetch_add(1, SeqCst);
                *paper = Some((body, next));
                Some(next.to_string())
            } else {
                None
            }
        };
        if self.loses_answers.load(SeqCst) {
            Err(Error::unavailable("writing", "no answer"))
        } else {
            Ok(answer)
        }
    }
}

impl Connection {
    async fn pass(&self) -> Result<()> {
        sleep(Duration::from_millis(50)).await;
        if self.is_cut.load(SeqCst) { Err(Error::unavailable("asking", "cut off")) } else { Ok(()) }
    }
}

/// The machine of a controller.
struct Machine {
    connection: Arc<Connection>,
    claim: Claim,
}

fn machine(paper: &Arc<Paper>, host: &str, session: &str) -> Machine {
    let connection =
        Arc::new(Connection { paper: paper.clone(), is_cut: false.into(), loses_answers: false.into() });
    let own = Own { host: host.into(), place: format!("{host}:/var/lib/eirs"), session: session.into() };
    let clock = Arc::new(TokioClock::starting_at(DateTime::UNIX_EPOCH));
    Machine { claim: Claim::new(connection.clone(), own, clock), connection }
}

impl Machine {
    /// Does what a controller does with its claim, without end.
    async fn live(&self) {
        let mut standby = Standby::default();
        loop {
            while !matches!(self.claim.stand_by(&mut standby).await, Ok(None)) {
                sleep(Claim::LOOK).await;
            }
            loop {
                match self.claim.renew().await {
                    Ok(None) => sleep(Claim::RENEW).await,
                    Ok(Some(_)) => break,
                    Err(_) => sleep(Claim::LOOK).await,
                }
            }
        }
    }
}

async fn takes(machine: &Machine) -> Duration {
    let (began, mut standby) = (Instant::now(), Standby::default());
    while machine.claim.stand_by(&mut standby).await.unwrap().is_some() {
        sleep(Claim::LOOK).await;
    }
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_standby_waits_while_the_holder_renews_and_takes_over_within_a_minute_otherwise() {
    let paper = Arc::default();
    let (one, two) = (machine(&paper, "web-1", "a"), machine(&paper, "web-2", "b"));
    assert_eq!(one.claim.stand_by(&mut Standby::default()).await.unwrap(), None);
    let mut standby = Standby::default();
    for _ in 0..100 {
        assert_eq!(one.claim.renew().await.unwrap(), None);
        assert_eq!(two.claim.stand_by(&mut standby).await.unwrap().unwrap().host, "web-1");
        assert!(one.claim.may_act() && !two.claim.may_act());
        sleep(Claim::RENEW).await;
    }
    let silent = Instant::now();
    while two.claim.stand_by(&mut standby).await.unwrap().is_some() {
        assert!(!two.claim.may_act());
        sleep(Claim::LOOK).await;
    }
    assert!(silent.elapsed() <= Duration::from_secs(60), "{:?}", silent.elapsed());
    assert!(two.claim.may_act() && !one.claim.may_act());
    assert_eq!(
        one.claim.renew().await.unwrap().unwrap().host,
        "web-2",
        "the former holder learns of its successor"
    );
    assert!(!one.claim.may_act());
}

#[tokio::test(start_paused = true)]
async fn a_released_claim_or_one_of_the_same_place_is_taken_over_at_once() {
    let paper = Arc::default();
    let (one, two) = (machine(&paper, "web-1", "a"), machine(&paper, "web-2", "b"));
    takes(&one).await;
    one.claim.leave().await.unwrap();
    assert!(takes(&two).await < Duration::from_secs(1));
    let again = machine(&paper, "web-2", "c");
    assert!(
        takes(&again).await < Duration::from_secs(1),
        "the lock of its folder shows that the former holder is dead"
    );
    two.claim.leave().await.unwrap();
    assert_eq!(again.claim.renew().await.unwrap(), None, "the former holder could not release it");
}

#[tokio::test(start_paused = true)]
async fn of_several_controllers_that_start_together_one_acts() {
    let paper = Arc::default();
    let all: Vec<_> =
        (0..8).map(|n| Arc::new(machine(&paper, &format!("web-{n}"), &n.to_string()))).collect();
    let look = |machine: &Arc<Machine>| {
        let machine = machine.clone();
        tokio::spawn(async move { machine.claim.stand_by(&mut Standby::default()).await })
    };
    for look in all.iter().map(look).collect::<Vec<_>>() {
        look.await.unwrap().unwrap();
    }
    assert_eq!(all.iter().filter(|machine| machine.claim.may_act()).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_cannot_renew_stops_acting_until_it_can() {
    let one = machine(&Arc::default(), "web-1", "a");
    takes(&one).await;
    one.connection.is_cut.store(true, SeqCst);
    sleep(Duration::from_secs(29)).await;
    assert!(one.claim.renew().await.is_err() && one.claim.may_act());
    sleep(Duration::from_secs(2)).await;
    assert!(one.claim.renew().await.is_err() && !one.claim.may_act());
    one.connection.is_cut.store(false, SeqCst);
    assert_eq!(one.claim.renew().await.unwrap(), None);
    assert!(one.claim.may_act());
}

#[tokio::test(start_paused = true)]
async fn a_renewal_whose_answer_was_lost_is_recognized_as_our_own() {
    let one = machine(&Arc::default(), "web-1", "a");
    takes(&one).await;
    one.connection.loses_answers.store(true, SeqCst);
    assert!(one.claim.renew().await.is_err());
    one.connection.loses_answers.store(false, SeqCst);
    assert_eq!(one.claim.renew().await.unwrap(), None);
    assert!(one.claim.may_act());
}

/// A wall clock that can be set, as after a suspend.
#[derive(Debug)]
struct Set(Mutex<DateTime<Utc>>);

impl Clock for Set {
    fn now(&self) -> DateTime<Utc> {
        *lock(&self.0)
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_does_not_act_after_a_suspend() {
    let clock = Arc::new(Set(Mutex::new(DateTime::UNIX_EPOCH)));
    let slot = machine(&Arc::default(), "web-1", "a").connection;
    let own = Own { host: "web-1".into(), place: "p".into(), session: "a".into() };
    let claim = Claim::new(slot, own, clock.clone());
    assert_eq!(claim.stand_by(&mut Standby::default()).await.unwrap(), None);
    assert!(claim.may_act());
    *lock(&clock.0) += chrono::TimeDelta::minutes(10);
    assert!(!claim.may_act());
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_claim_is_respected_until_it_is_silent() {
    let paper = Arc::new(Paper(Mutex::new(Some(("later: version".into(), 7))), 8.into()));
    let one = machine(&paper, "web-1", "a");
    let took = takes(&one).await;
    assert!((Claim::SILENT..Duration::from_secs(60)).contains(&took), "{took:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Regardless of failures, a controller starts to act only after any action of another
    /// controller has ended.
    #[test]
    fn two_controllers_never_act_within_ten_seconds_of_each_other(
        troubles in prop::collection::vec((0_usize..3, any::<bool>(), any::<bool>(), 1_u64..90), 1..30),
        deleted in prop::option::of(0_usize..30),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(async {
            let paper: Arc<Paper> = Arc::default();
            let all: Vec<_> =
                (0..3).map(|n| Arc::new(machine(&paper, &format!("web-{n}"), &n.to_string()))).collect();
            for machine in &all {
                let machine = machine.clone();
                tokio::spawn(async move { machine.live().await });
            }
            let mut acted = [None::<Instant>; 3];
            let look = async |seconds: u64, acted: &mut [Option<Instant>; 3]| {
                for _ in 0..seconds {
                    sleep(Duration::from_secs(1)).await;
                    for (n, machine) in all.iter().enumerate() {
                        if machine.claim.may_act() {
                            acted[n] = Some(Instant::now());
                            let others = acted.iter().enumerate().filter(|(other, _)| *other != n);
                            let latest = others.filter_map(|(_, at)| *at).max();
                            assert!(latest.is_none_or(|at| at.elapsed() >= Duration::from_secs(10)));
                        }
                    }
                }
            };
            // A new installation without a claim does not wait.
            look(6, &mut acted).await;
            for (round, (n, is_cut, loses, seconds)) in troubles.into_iter().enumerate() {
                if deleted == Some(round) {
                    *lock(&paper.0) = None;
                }
                all[n].connection.is_cut.store(is_cut, SeqCst);
                all[n].connection.loses_answers.store(loses, SeqCst);
                look(seconds, &mut acted).await;
            }
            for machine in &all {
                machine.connection.is_cut.store(false, SeqCst);
                machine.connection.loses_answers.store(false, SeqCst);
            }
            look(60, &mut acted).await;
            let acting = acted.iter().flatten().filter(|at| at.elapsed() < Duration::from_secs(2)).count();
            assert_eq!(acting, 1, "once everything works again, one acts within a minute");
        });
    }
}
