//! The record of an update: target and previous image, phase, and requests of the operator. It is a
//! blob in the bucket of the images, and replaced only with a precondition on its content.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context;
use chrono::{DateTime, Utc};
use eirs_platform::{backend::Backend, blobs::SharedBlobs};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::verdict::Verdict;

const KEY: &str = "control/update.json";
const VERSION: u8 = 1;
/// The interval of heartbeats of the process that carries out an update.
const BEAT: Duration = Duration::from_secs(4);
/// Number of missed heartbeats after which that process counts as gone.
const GONE: u32 = 4;
/// Maximum number of attempts to change the record while others change it.
const ROUNDS: u32 = 20;

/// An update.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Update {
    v: u8,
    /// The target image of the machines.
    pub(crate) to: String,
    /// The previous image, if there was one.
    pub(crate) from: Option<String>,
    pub(crate) phase: Phase,
    /// Whether the update is paused.
    pub(crate) is_paused: bool,
    /// A request to the process that carries out the update.
    pub(crate) request: Option<Request>,
    /// The reason for a rollback.
    pub(crate) why: Option<String>,
    /// The verdicts about the first machines, by model.
    pub(crate) verdicts: BTreeMap<String, Verdict>,
    pub(crate) began: DateTime<Utc>,
    pub(crate) ended: Option<DateTime<Utc>>,
    driver: Option<Driver>,
}

/// The phase of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// One machine is being tried.
    Canary,
    /// The other machines are being replaced.
    Rolling,
    RollingBack,
    Done,
    RolledBack,
}

/// A request of the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    Pause,
    RollBack,
}

/// The process that carries out the update. Its heartbeats are counted instead of timed, because
/// the clocks of two machines differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Driver {
    who: String,
    beat: u64,
}

impl Phase {
    pub(crate) fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::RolledBack)
    }
}

impl Update {
    pub(crate) fn new(to: &str, from: Option<&str>, now: DateTime<Utc>) -> Self {
        Self {
            v: VERSION,
            to: to.to_owned(),
            from: from.map(str::to_owned),
            phase: Phase::Canary,
            is_paused: false,
            request: None,
            why: None,
            verdicts: BTreeMap::new(),
            began: now,
            ended: None,
            driver: None,
        }
    }

    /// Starts the rollback.
    pub(crate) fn roll_back(&mut self, why: &str) {
        (self.phase, self.request, self.is_paused) = (Phase::RollingBack, None, false);
        self.why = Some(why.to_owned());
        self.ended = None;
    }
}

/// The location of the record.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    blobs: SharedBlobs,
    who: Arc<str>,
    every: Duration,
}

impl Record {
    pub(crate) fn of(backend: &Backend) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let who = format!("process {} on {host}", std::process::id());
        Self { blobs: backend.images().clone(), who: who.into(), every: BEAT }
    }

    /// Returns the last update, if there was one.
    pub(crate) async fn read(&self) -> anyhow::Result<Option<Update>> {
        self.blobs.get(KEY).await?.map(|body| decode(&body)).transpose()
    }

    /// Records a new update, which replaces the last one if that is over.
    pub(crate) async fn begin(&self, update: &Update) -> anyhow::Result<()> {
        let body = serde_json::to_vec_pretty(update)?;
        let is_written = match self.blobs.get(KEY).await? {
            None => self.blobs.put_new(KEY, body.into()).await?,
            Some(last) => {
                let is_over = decode(&last)?.phase.is_over();
                is_over && self.blobs.replace(KEY, &last, body.into()).await?
            }
        };
        anyhow::ensure!(is_written, "another update has just begun; `eirs update --status` shows it");
        Ok(())
    }

    /// Changes the record; concurrent changes are not lost.
    pub(crate) async fn change(&self, change: impl Fn(&mut Update)) -> anyhow::Result<Update> {
        for _ in 0..ROUNDS {
            let before = self.blobs.get(KEY).await?.context("there is no update")?;
            let mut update = decode(&before)?;
            change(&mut update);
            let after = serde_json::to_vec_pretty(&update)?;
            if *after == *before || self.blobs.replace(KEY, &before, after.into()).await? {
                return Ok(update);
            }
        }
        anyhow::bail!("the record of the update, {KEY}, is changed by others all the time")
    }

    /// Becomes the driver, the process that carries out the update, if no other one is alive, and
    /// sends heartbeats until the returned value is dropped.
    pub(crate) async fn drive(&self, say: &dyn Fn(&str)) -> anyhow::Result<Driving> {
        let driver = self.read().await?.context("there is no update")?.driver;
        if let Some(other) = driver.filter(|other| *other.who != *self.who) {
            say(&format!("checking whether {} still carries out the update", other.who));
            let deadline = Instant::now() + GONE * self.every;
            while Instant::now() < deadline {
                tokio::time::sleep(self.every / 4).await;
                match self.read().await?.and_then(|update| update.driver) {
                    Some(now) if now == other => {}
                    Some(now) => anyhow::bail!(
                        "the update is being carried out by {}; `eirs update --pause` makes it rest",
                        now.who
                    ),
                    None => break,
                }
            }
        }
        self.beat().await?;
        let record = self.clone();
        let beats = tokio::spawn(async move {
            loop {
                tokio::time::sleep(record.every).await;
                // The next heartbeat makes up for a failed one; a process that cannot write at all
                // fails at the next step.
                let _missed = record.beat().await;
            }
        });
        Ok(Driving { beats })
    }

    /// Returns whether a process carries out the update: its heartbeat changes.
    pub(crate) async fn is_driven(&self) -> anyhow::Result<bool> {
        let driver = async || anyhow::Ok(self.read().await?.and_then(|update| update.driver));
        let Some(before) = driver().await? else { return Ok(false) };
        let deadline = Instant::now() + GONE * self.every;
        while Instant::now() < deadline {
            tokio::time::sleep(self.every / 4).await;
            match driver().await? {
                Some(now) if now == before => {}
                Some(_) => return Ok(true),
                None => return Ok(false),
            }
        }
        Ok(false)
    }

    async fn beat(&self) -> anyhow::Result<()> {
        let beat = |update: &mut Update| {
            let beat = update.driver.as_ref().map_or(0, |driver| driver.beat + 1);
            update.driver = Some(Driver { who: self.who.to_string(), beat });
        };
        self.change(beat).await.map(|_| ())
    }

    /// Removes this process as the driver.
    pub(crate) async fn leave(&self, driving: Driving) -> anyhow::Result<()> {
        drop(driving);
        let own = |driver: &Driver| *driver.who == *self.who;
        let leave = |update: &mut Update| {
            if update.driver.as_ref().is_some_and(own) {
                update.driver = None;
            }
        };
        self.change(leave).await.map(|_| ())
    }
}

/// While this exists, this process is known to carry out the update.
#[derive(Debug)]
pub(crate) struct Driving {
    beats: tokio::task::JoinHandle<()>,
}

impl Drop for Driving {
    fn drop(&mut self) {
        self.beats.abort();
    }
}

fn decode(body: &[u8]) -> anyhow::Result<Update> {
    let update: Update = serde_json::from_slice(body)
        .with_context(|| format!("the record of the update, {KEY}, is broken"))?;
    anyhow::ensure!(
        update.v == VERSION,
        "the record of the update, {KEY}, is of another version of eirs; use that one"
    );
    Ok(update)
}

#[cfg(test)]
mod tests {
    use eirs_platform::{clock::SystemClock, settings::Settings};

    use super::*;

    fn record(who: &str, backend: &Backend) -> Record {
        Record { who: who.into(), every: Duration::from_millis(50), ..Record::of(backend) }
    }

    fn backend() -> Backend {
        Backend::in_memory(&Settings::default(), Arc::new(SystemClock))
    }

    #[tokio::test]
    async fn changes_of_two_at_the_same_moment_are_both_kept_and_a_new_update_waits_for_the_end_of_the_last()
    {
        let backend = backend();
        let (one, two) = (record("one", &backend), record("two", &backend));
        let update = Update::new("ami-2", Some("ami-1"), Utc::now());
        one.begin(&update).await.unwrap();
        assert!(two.begin(&update).await.is_err(), "it is not over");
        let pause = two.change(|update| update.request = Some(Request::Pause));
        let roll = one.change(|update| update.phase = Phase::Rolling);
        let (pause, roll) = tokio::join!(pause, roll);
        pause.unwrap();
        roll.unwrap();
        let now = two.read().await.unwrap().unwrap();
        assert_eq!((now.phase, now.request), (Phase::Rolling, Some(Request::Pause)));
        one.change(|update| update.phase = Phase::Done).await.unwrap();
        two.begin(&Update::new("ami-3", Some("ami-2"), Utc::now())).await.unwrap();
    }

    #[tokio::test]
    async fn one_process_carries_it_out_and_another_one_when_that_is_gone() {
        let backend = backend();
        let (one, two) = (record("one", &backend), record("two", &backend));
        one.begin(&Update::new("ami-2", None, Utc::now())).await.unwrap();
        let driving = one.drive(&|_| ()).await.unwrap();
        assert!(two.is_driven().await.unwrap());
        let refused = two.drive(&|_| ()).await.unwrap_err().to_string();
        assert!(refused.contains("is being carried out by one"), "{refused}");
        // A killed process sends no heartbeats, and its name stays.
        drop(driving);
        assert!(!two.is_driven().await.unwrap());
        let driving = two.drive(&|_| ()).await.unwrap();
        two.leave(driving).await.unwrap();
        let waits = std::cell::Cell::new(false);
        one.drive(&|_| waits.set(true)).await.unwrap();
        assert!(!waits.get(), "who left is not waited for");
    }
}
