//! Which of several controllers acts: two would start and drain against each other. The one that acts has a claim, a small blob
//! that is only ever replaced by who knows what it says now (S3 user guide, "Conditional writes"), and renews it. Another one
//! stands by, and takes the claim over when it has not changed for a while.
//!
//! No clock is compared with another machine's: who stands by measures how long *it* has seen the same claim, and who has the
//! claim measures from the moment at which its last good renewal *began*. It stops acting well before anybody may take over:
//!
//! ```text
//! holder   renews ─ 20 s ─ renews ✗        30 s: acts no more; what it had begun ends within 10 s
//! standby            sees the last renewal ──────────────── 45 s: takes over, and acts
//! ```

use std::{
    fmt::Debug,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};

use super::Control;
use crate::{
    clock::{Clock, SharedClock},
    error::{Error, Result},
    settings::Settings,
};

/// A small blob that is only replaced by who knows what it says now.
#[async_trait]
pub trait Slot: Debug + Send + Sync {
    /// What it says, and the version of that; nothing where it does not exist.
    async fn read(&self) -> Result<Option<(Bytes, String)>>;

    /// Has it say something else, if it is of this version still, or does not exist still where that is `None`. Answers the
    /// new version, or nothing where somebody else was first.
    async fn write(&self, body: Bytes, was: Option<&str>) -> Result<Option<String>>;
}

/// One controller's side of the claim.
#[derive(Debug)]
pub struct Claim {
    slot: Arc<dyn Slot>,
    clock: SharedClock,
    own: Own,
    held: Mutex<Option<Held>>,
}

/// Who a controller is.
#[derive(Debug, Clone)]
pub struct Own {
    /// The name of its machine, for people.
    pub host: String,
    /// What it has for itself as long as it lives, by a lock: its machine and its state folder. The one that died there before may
    /// be followed at once.
    pub place: String,
    /// Unlike that of any other start.
    pub session: String,
}

/// What one that stands by has seen.
#[derive(Debug, Default)]
pub struct Standby(Option<Seen>);

#[derive(Debug)]
struct Seen {
    /// `None` where there was none.
    version: Option<String>,
    since: Instant,
}

#[derive(Debug)]
struct Held {
    version: String,
    /// When the last good renewal began.
    renewed: Moment,
}

/// On two clocks: the steady one stands still while a machine sleeps, and the other one may be set.
#[derive(Debug, Clone, Copy)]
struct Moment {
    steady: Instant,
    of_day: DateTime<Utc>,
}

/// What the claim says. Fields may come and go.
#[derive(Debug, Serialize, Deserialize)]
struct Said {
    host: String,
    #[serde(default)]
    place: String,
    #[serde(default)]
    session: String,
    at: DateTime<Utc>,
    /// Whether it has left, and anybody may follow.
    #[serde(default)]
    left: bool,
}

impl Own {
    /// Of the process that asks.
    pub fn of(settings: &Settings, clock: &dyn Clock) -> Self {
        // Copies of a machine have an id of their own each, made at the first boot.
        let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
        let state = &settings.local.state;
        let state = state.canonicalize().unwrap_or_else(|_| state.clone());
        let session = format!("{} {}", std::process::id(), clock.now().to_rfc3339());
        // Where nobody knows which machine this is, nobody died here before.
        let machine = Some(machine.trim()).filter(|id| !id.is_empty()).unwrap_or(&session);
        Self { host: settings.web_host(), place: format!("{machine} {}", state.display()), session }
    }
}

impl Claim {
    /// How often [`renew`](Self::renew) is to be called, ...
    pub const RENEW: Duration = Duration::from_secs(20);
    /// ... how soon again where it failed, and how often one that stands by is to look.
    pub const LOOK: Duration = Duration::from_secs(5);
    /// For how long after the beginning of a renewal its holder acts. What it does is over ten seconds later.
    const ACTS: Duration = Duration::from_secs(30);
    /// For how long a claim must not have changed before another one takes it over.
    const SILENT: Duration = Duration::from_secs(45);
    /// One call: a renewal that hangs must not keep the next one from being tried.
    const CALL: Duration = Duration::from_secs(8);

    /// The claim that lies there, seen by this controller.
    pub fn new(slot: Arc<dyn Slot>, own: Own, clock: SharedClock) -> Self {
        Self { slot, clock, own, held: Mutex::default() }
    }

    /// Takes the claim, where nobody has it any more; answers who has it otherwise.
    pub async fn stand_by(&self, standby: &mut Standby) -> Result<Option<Control>> {
        let found = self.read().await.inspect_err(|_| {
            // Of a version one knows later whether it is still the same; "none" may be another none.
            if let Some(seen) = standby.0.as_mut().filter(|seen| seen.version.is_none()) {
                seen.since = Instant::now();
            }
        })?;
        let version = found.as_ref().map(|(_, version)| version.clone());
        let is_first = standby.0.is_none();
        let seen = standby.0.get_or_insert_with(|| Seen { version: version.clone(), since: Instant::now() });
        if seen.version != version {
            *seen = Seen { version: version.clone(), since: Instant::now() };
        }
        let is_over = match &found {
            Some((said, _)) => said.left || said.place == self.own.place,
            // Where one looks for the first time there never was one. One that was there was deleted, and its holder may not know.
            None => is_first,
        };
        if is_over || seen.since.elapsed() >= Self::SILENT {
            let began = self.now();
            if let Some(version) = self.write(false, version.as_deref()).await? {
                standby.0 = Some(Seen { version: Some(version.clone()), since: Instant::now() });
                *lock(&self.held) = Some(Held { version, renewed: began });
                return Ok(None);
            }
            // Another one was faster, or is under way: the next look tells.
        }
        Ok(Some(self.has(found)))
    }

    /// Says again that this one has the claim. Answers with who has taken it over, where somebody has: then it acts no more.
    pub async fn renew(&self) -> Result<Option<Control>> {
        let Some(mut was) = lock(&self.held).as_ref().map(|held| Some(held.version.clone())) else {
            return Ok(Some(self.has(self.read().await?)));
        };
        for _ in 0..3 {
            let began = self.now();
            if let Some(version) = self.write(false, was.as_deref()).await? {
                *lock(&self.held) = Some(Held { version, renewed: began });
                return Ok(None);
            }
            was = match self.read().await? {
                // The answer to an earlier write was lost: the claim is ours, of a version that was not known here.
                Some((said, version)) if said.session == self.own.session => Some(version),
                // Somebody deleted it, as a cleanup of the bucket does; and nobody can have had it in between.
                None if self.may_act() => None,
                found => {
                    *lock(&self.held) = None;
                    return Ok(Some(self.has(found)));
                }
            };
        }
        Err(Error::unavailable("renewing the claim of the controller", "the store takes and forgets it"))
    }

    /// Whether this one may act now.
    pub fn may_act(&self) -> bool {
        let now = self.now();
        lock(&self.held).as_ref().is_some_and(|held| now.since(held.renewed) < Self::ACTS)
    }

    /// Lets go of the claim, so that another one need not wait.
    pub async fn leave(&self) -> Result<()> {
        let Some(held) = lock(&self.held).take() else { return Ok(()) };
        self.write(true, Some(&held.version)).await.map(|_| ())
    }

    async fn read(&self) -> Result<Option<(Said, String)>> {
        let Some((body, version)) = in_time(self.slot.read()).await? else { return Ok(None) };
        // What cannot be read was written by a stranger, or by a later version: it is somebody's until it is silent.
        let said = serde_json::from_slice(&body).unwrap_or_else(|_| Said {
            host: "an unknown machine".into(),
            place: String::new(),
            session: String::new(),
            at: self.clock.now(),
            left: false,
        });
        Ok(Some((said, version)))
    }

    async fn write(&self, left: bool, was: Option<&str>) -> Result<Option<String>> {
        let Own { host, place, session } = self.own.clone();
        let said = Said { host, place, session, at: self.clock.now(), left };
        let body = serde_json::to_vec(&said).map_err(|error| Error::broken("writing the claim", error))?;
        in_time(self.slot.write(body.into(), was)).await
    }

    fn now(&self) -> Moment {
        Moment { steady: Instant::now(), of_day: self.clock.now() }
    }

    fn has(&self, found: Option<(Said, String)>) -> Control {
        match found {
            Some((said, _)) => Control { host: said.host, at: said.at },
            None => Control { host: "another machine".into(), at: self.clock.now() },
        }
    }
}

impl Moment {
    /// The longer of what the two clocks say.
    fn since(self, then: Self) -> Duration {
        let of_day = (self.of_day - then.of_day).to_std().unwrap_or_default();
        (self.steady - then.steady).max(of_day)
    }
}

async fn in_time<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Err(Error::unavailable("asking for the claim of the controller", "no answer within 8s"));
    timeout(Claim::CALL, call).await.unwrap_or_else(late)
}

fn lock<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

    use proptest::prelude::*;
    use tokio::time::sleep;

    use super::*;
    use crate::clock::TokioClock;

    /// The claim of these tests, in memory, and how often it was written: no version comes twice.
    #[derive(Debug, Default)]
    struct Paper(Mutex<Option<(Bytes, u64)>>, AtomicU64);

    /// One machine's way to it.
    #[derive(Debug)]
    struct Way {
        paper: Arc<Paper>,
        is_cut: AtomicBool,
        /// Whether writes arrive and their answers do not.
        loses_answers: AtomicBool,
    }

    #[async_trait]
    impl Slot for Way {
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

    impl Way {
        async fn pass(&self) -> Result<()> {
            sleep(Duration::from_millis(50)).await;
            if self.is_cut.load(SeqCst) { Err(Error::unavailable("asking", "cut off")) } else { Ok(()) }
        }
    }

    /// A controller's machine.
    struct Machine {
        way: Arc<Way>,
        claim: Claim,
    }

    fn machine(paper: &Arc<Paper>, host: &str, session: &str) -> Machine {
        let way = Arc::new(Way { paper: paper.clone(), is_cut: false.into(), loses_answers: false.into() });
        let own = Own { host: host.into(), place: format!("{host}:/var/lib/eirs"), session: session.into() };
        let clock = Arc::new(TokioClock::starting_at(DateTime::UNIX_EPOCH));
        Machine { claim: Claim::new(way.clone(), own, clock), way }
    }

    impl Machine {
        /// Does what a controller does with its claim, for ever.
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
    async fn the_second_stands_by_as_long_as_the_first_renews_and_follows_within_a_minute_when_it_does_not() {
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
        assert_eq!(one.claim.renew().await.unwrap().unwrap().host, "web-2", "it hears who came in its place");
        assert!(!one.claim.may_act());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_left_is_followed_at_once_and_so_is_one_that_died_in_the_same_place() {
        let paper = Arc::default();
        let (one, two) = (machine(&paper, "web-1", "a"), machine(&paper, "web-2", "b"));
        takes(&one).await;
        one.claim.leave().await.unwrap();
        assert!(takes(&two).await < Duration::from_secs(1));
        let again = machine(&paper, "web-2", "c");
        assert!(
            takes(&again).await < Duration::from_secs(1),
            "the lock of its folder says that the other is dead"
        );
        two.claim.leave().await.unwrap();
        assert_eq!(again.claim.renew().await.unwrap(), None, "it was not that one's to leave");
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_that_start_together_one_acts() {
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
    async fn a_holder_that_cannot_renew_acts_no_more_and_goes_on_when_it_can() {
        let one = machine(&Arc::default(), "web-1", "a");
        takes(&one).await;
        one.way.is_cut.store(true, SeqCst);
        sleep(Duration::from_secs(29)).await;
        assert!(one.claim.renew().await.is_err() && one.claim.may_act());
        sleep(Duration::from_secs(2)).await;
        assert!(one.claim.renew().await.is_err() && !one.claim.may_act());
        one.way.is_cut.store(false, SeqCst);
        assert_eq!(one.claim.renew().await.unwrap(), None);
        assert!(one.claim.may_act());
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_whose_answer_was_lost_is_not_taken_for_somebody_elses() {
        let one = machine(&Arc::default(), "web-1", "a");
        takes(&one).await;
        one.way.loses_answers.store(true, SeqCst);
        assert!(one.claim.renew().await.is_err());
        one.way.loses_answers.store(false, SeqCst);
        assert_eq!(one.claim.renew().await.unwrap(), None);
        assert!(one.claim.may_act());
    }

    /// A clock of day that somebody sets: by it a machine that slept sees that time has passed.
    #[derive(Debug)]
    struct Set(Mutex<DateTime<Utc>>);

    impl Clock for Set {
        fn now(&self) -> DateTime<Utc> {
            *lock(&self.0)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_slept_does_not_act_when_it_wakes() {
        let clock = Arc::new(Set(Mutex::new(DateTime::UNIX_EPOCH)));
        let slot = machine(&Arc::default(), "web-1", "a").way;
        let own = Own { host: "web-1".into(), place: "p".into(), session: "a".into() };
        let claim = Claim::new(slot, own, clock.clone());
        assert_eq!(claim.stand_by(&mut Standby::default()).await.unwrap(), None);
        assert!(claim.may_act());
        *lock(&clock.0) += chrono::TimeDelta::minutes(10);
        assert!(!claim.may_act());
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_that_nobody_can_read_is_somebodys_until_it_is_silent() {
        let paper = Arc::new(Paper(Mutex::new(Some(("later: version".into(), 7))), 8.into()));
        let one = machine(&paper, "web-1", "a");
        let took = takes(&one).await;
        assert!((Claim::SILENT..Duration::from_secs(60)).contains(&took), "{took:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Whatever is cut off or lost, and when: the second one begins to act only when what the first one may have begun is over.
        #[test]
        fn no_two_ever_act_within_ten_seconds_of_each_other(
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
                // One that has just started and finds no claim takes it at once: a new installation does not wait.
                look(6, &mut acted).await;
                for (round, (n, is_cut, loses, seconds)) in troubles.into_iter().enumerate() {
                    if deleted == Some(round) {
                        *lock(&paper.0) = None;
                    }
                    all[n].way.is_cut.store(is_cut, SeqCst);
                    all[n].way.loses_answers.store(loses, SeqCst);
                    look(seconds, &mut acted).await;
                }
                for machine in &all {
                    machine.way.is_cut.store(false, SeqCst);
                    machine.way.loses_answers.store(false, SeqCst);
                }
                look(60, &mut acted).await;
                let acting = acted.iter().flatten().filter(|at| at.elapsed() < Duration::from_secs(2)).count();
                assert_eq!(acting, 1, "when all is well again, one acts within a minute");
            });
        }
    }
}
