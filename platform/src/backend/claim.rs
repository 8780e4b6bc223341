//! Which of several controllers acts: two would start and drain against each other. The one that
//! acts has a claim, a small blob that is only ever replaced by who knows what it says now (S3 user
//! guide, "Conditional writes"), and renews it. Another one stands by, and takes the claim over
//! when it has not changed for a while.
//!
//! No clock is compared with another machine's: who stands by measures how long *it* has seen the
//! same claim, and who has the claim measures from the moment at which its last good renewal
//! *began*. It stops acting well before anybody may take over:
//!
//! ```text
//! holder   renews ─ 20 s ─ renews ✗        30 s: acts no more; what it had begun ends within 10 s
//! standby            sees the last renewal ──────────────── 45 s: takes over, and acts
//! ```

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};

use super::Control;
use crate::{
    blobs::Slot,
    clock::{Clock, SharedClock},
    error::{Error, Result},
    settings::Settings,
};

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
    /// What it has for itself as long as it lives, by a lock: its machine and its state folder. The
    /// one that died there before may be followed at once.
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
    /// For how long after the beginning of a renewal its holder acts. What it does is over ten
    /// seconds later.
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
            // Of a version one knows later whether it is still the same; "none" may be another
            // none.
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
            // Where one looks for the first time there never was one. One that was there was
            // deleted, and its holder may not know.
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

    /// Says again that this one has the claim. Answers with who has taken it over, where somebody
    /// has: then it acts no more.
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
                // The answer to an earlier write was lost: the claim is ours, of a version that was
                // not known here.
                Some((said, version)) if said.session == self.own.session => Some(version),
                // Somebody deleted it, as a cleanup of the bucket does; and nobody can have had it
                // in between.
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
        // What cannot be read was written by a stranger, or by a later version: it is somebody's
        // until it is silent.
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
mod tests;
