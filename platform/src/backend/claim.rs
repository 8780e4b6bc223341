//! Selects the controller that acts, if there are several: two would start and drain against each
//! other. The acting controller has a claim, a small blob that is only replaced conditionally (S3
//! user guide, "Conditional writes"), and renews it. Others stand by, and take over the claim when
//! it has not changed for a while.
//!
//! No clock is compared with another machine's: a standby measures how long *it* has seen the same
//! claim, and the holder measures from the *start* of its last successful renewal. The holder stops
//! acting well before a standby may take over:
//!
//! ```text
//! holder   renews ─ 20 s ─ renews ✗        30 s: stops acting; what it has begun ends within 10 s
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

/// The claim as one controller sees it.
#[derive(Debug)]
pub struct Claim {
    slot: Arc<dyn Slot>,
    clock: SharedClock,
    own: Own,
    held: Mutex<Option<Held>>,
}

/// The identity of a controller.
#[derive(Debug, Clone)]
pub struct Own {
    /// The name of its machine, for operators.
    pub host: String,
    /// Its machine and state folder, which it has for itself by a lock. A claim of the same place
    /// is taken over at once, because its holder must have died.
    pub place: String,
    /// Unique for each start.
    pub session: String,
}

/// The state of a standby.
#[derive(Debug, Default)]
pub struct Standby(Option<Seen>);

#[derive(Debug)]
struct Seen {
    /// `None` if there was no claim.
    version: Option<String>,
    since: Instant,
}

#[derive(Debug)]
struct Held {
    version: String,
    /// When the last successful renewal began.
    renewed: Moment,
}

/// A time on two clocks: the monotonic one stops while the machine is suspended, and the wall clock
/// may be set.
#[derive(Debug, Clone, Copy)]
struct Moment {
    monotonic: Instant,
    wall: DateTime<Utc>,
}

/// The content of the claim. Fields may be added or removed.
#[derive(Debug, Serialize, Deserialize)]
struct Said {
    host: String,
    #[serde(default)]
    place: String,
    #[serde(default)]
    session: String,
    at: DateTime<Utc>,
    /// True if the holder has left, and a standby may take over.
    #[serde(default)]
    left: bool,
}

impl Own {
    /// The identity of this process.
    pub fn of(settings: &Settings, clock: &dyn Clock) -> Self {
        // Cloned machines each have their own id, made at their first boot.
        let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
        let state = &settings.local.state;
        let state = state.canonicalize().unwrap_or_else(|_| state.clone());
        let session = format!("{} {}", std::process::id(), clock.now().to_rfc3339());
        // If the machine is unknown, its place is unique, so no claim is taken over early.
        let machine = Some(machine.trim()).filter(|id| !id.is_empty()).unwrap_or(&session);
        Self { host: settings.web_host(), place: format!("{machine} {}", state.display()), session }
    }
}

impl Claim {
    /// Interval for calls of [`renew`](Self::renew), ...
    pub const RENEW: Duration = Duration::from_secs(20);
    /// ... and for the next call after an error, and for the looks of a standby.
    pub const LOOK: Duration = Duration::from_secs(5);
    /// How long the holder acts after the start of a renewal. What it does then ends within ten
    /// seconds.
    const ACTS: Duration = Duration::from_secs(30);
    /// How long a claim must be unchanged before a standby takes over.
    const SILENT: Duration = Duration::from_secs(45);
    /// Timeout of a call, so that a hanging renewal can be retried.
    const CALL: Duration = Duration::from_secs(8);

    /// Creates this controller's view of a claim.
    pub fn new(slot: Arc<dyn Slot>, own: Own, clock: SharedClock) -> Self {
        Self { slot, clock, own, held: Mutex::default() }
    }

    /// Takes the claim if its holder is gone; otherwise returns the holder.
    pub async fn stand_by(&self, standby: &mut Standby) -> Result<Option<Control>> {
        let found = self.read().await.inspect_err(|_| {
            // Without a reading, a version can be compared later, but a missing claim may have
            // existed in between.
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
            // A missing claim at the first look never existed. One that disappeared later was
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
            // Another controller was faster; the next look shows it.
        }
        Ok(Some(self.has(found)))
    }

    /// Renews the claim. Returns the new holder if another controller has taken over; then this one
    /// stops acting.
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
                // The answer to an earlier write was lost: the claim is ours, with a version not
                // known here.
                Some((said, version)) if said.session == self.own.session => Some(version),
                // The claim was deleted, as by a cleanup of the bucket, and no other can have had
                // it since.
                None if self.may_act() => None,
                found => {
                    *lock(&self.held) = None;
                    return Ok(Some(self.has(found)));
                }
            };
        }
        Err(Error::unavailable("renewing the claim of the controller", "the store takes and forgets it"))
    }

    /// Returns whether this controller may act now.
    pub fn may_act(&self) -> bool {
        let now = self.now();
        lock(&self.held).as_ref().is_some_and(|held| now.since(held.renewed) < Self::ACTS)
    }

    /// Releases the claim, so that a standby need not wait.
    pub async fn leave(&self) -> Result<()> {
        let Some(held) = lock(&self.held).take() else { return Ok(()) };
        self.write(true, Some(&held.version)).await.map(|_| ())
    }

    async fn read(&self) -> Result<Option<(Said, String)>> {
        let Some((body, version)) = in_time(self.slot.read()).await? else { return Ok(None) };
        // An unreadable claim is from a later version or a stranger, and is respected until it is
        // silent.
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
        Moment { monotonic: Instant::now(), wall: self.clock.now() }
    }

    fn has(&self, found: Option<(Said, String)>) -> Control {
        match found {
            Some((said, _)) => Control { host: said.host, at: said.at },
            None => Control { host: "another machine".into(), at: self.clock.now() },
        }
    }
}

impl Moment {
    /// Returns the longer of the times on the two clocks.
    fn since(self, then: Self) -> Duration {
        let wall = (self.wall - then.wall).to_std().unwrap_or_default();
        (self.monotonic - then.monotonic).max(wall)
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
