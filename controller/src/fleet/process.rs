//! A fleet of processes: every instance is an `eirs-worker` on this machine, in a process group of its own, so that a
//! terminal's Ctrl-C reaches the controller alone.
//!
//! What must survive the controller is in `instances/ID.json` of the state folder: a new controller adopts the processes
//! that it finds alive there. The file is written before the process is started (with the generation, by which a stray can be
//! found) and again when its pid is known. See `process/child.rs` for how a process is told from another one of the same pid.

mod child;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use eirs_platform::{
    clock::SharedClock,
    error::{Error, Result},
    lifecycle,
    settings::Settings,
};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use self::child::{End, Mark, Process};
use super::{Fleet, Instance, PoolSpec, Refusal, State, unknown};
use crate::state_file;

/// A worker that crashes is started again after 1, 2, 4 ... seconds, at most this.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(60);
/// A worker that lived so long did not crash because of its start: the back-off begins anew.
const LIVED: Duration = Duration::from_secs(60);
/// After so long without a crash the back-off begins anew.
const FORGOTTEN: Duration = Duration::from_secs(300);
/// A worker that said it was drained and was told to stop leaves within this, or is killed.
const STOP_GENTLY: Duration = Duration::from_secs(10);

/// The workers of this machine. Clones share them.
#[derive(Debug, Clone)]
pub struct ProcessFleet {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    program: Option<PathBuf>,
    config: Option<PathBuf>,
    state: PathBuf,
    records: PathBuf,
    clock: SharedClock,
    changed: Arc<Notify>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    slots: BTreeMap<String, Slot>,
    crashes: BTreeMap<String, Crashes>,
}

#[derive(Debug)]
struct Slot {
    record: Record,
    process: Option<Arc<Process>>,
}

/// What is written down of an instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Record {
    id: String,
    pool: String,
    model: String,
    state: State,
    since: DateTime<Utc>,
    generation: Option<String>,
    process: Option<Mark>,
    drain_until: Option<DateTime<Utc>>,
    crashes: u32,
    last_error: Option<String>,
}

/// The crashes of a pool in a row. A pool and not an instance backs off, for its workers are all alike.
#[derive(Debug, Clone, Copy)]
struct Crashes {
    count: u32,
    last: DateTime<Utc>,
}

impl Crashes {
    fn not_before(self) -> DateTime<Utc> {
        let wait = Duration::from_secs(1 << (self.count.clamp(1, 10) - 1)).min(LONGEST_BACK_OFF);
        self.last + wait
    }
}

impl ProcessFleet {
    /// Adopts what an earlier controller left in the state folder. `config` is the settings file to hand to the workers;
    /// `changed` is notified whenever a process ends.
    pub fn open(
        settings: &Settings,
        config: Option<&Path>,
        clock: SharedClock,
        changed: Arc<Notify>,
    ) -> Result<Self> {
        let state = settings.local.state.clone();
        let records = state.join("instances");
        fs::create_dir_all(&records)
            .map_err(|error| Error::from_io(format!("making the folder {}", records.display()), &error))?;
        let fleet = Self {
            shared: Arc::new(Shared {
                program: settings.controller.worker_program.clone(),
                config: config.map(Path::to_owned),
                state,
                records,
                clock,
                changed,
                table: Mutex::default(),
            }),
        };
        fleet.adopt()?;
        Ok(fleet)
    }

    fn adopt(&self) -> Result<()> {
        let shared = &self.shared;
        let failed =
            |error: io::Error| Error::from_io(format!("reading {}", shared.records.display()), &error);
        for entry in fs::read_dir(&shared.records).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let read = fs::read(&path).map_err(failed)?;
            let Ok(mut record) = serde_json::from_slice::<Record>(&read) else {
                tracing::warn!(file = %path.display(), "not a record of an instance; put away");
                let _gone = fs::remove_file(&path);
                continue;
            };
            let mut table = shared.table();
            if let Some(process) = record.find() {
                let (id, pid) = (record.id.clone(), process.mark.pid);
                tracing::info!(instance = id, pid, "adopted {id}, which runs as process {pid}");
                record.process = Some(process.mark.clone());
                shared.hold(&mut table, record, process);
                continue;
            }
            if record.state != State::Stopped {
                let id = &record.id;
                tracing::info!(instance = id, "{id} ended while no controller ran");
                record.stopped(shared.clock.now());
            }
            if record.crashes > 0 {
                let crashes = table
                    .crashes
                    .entry(record.pool.clone())
                    .or_insert(Crashes { count: 0, last: record.since });
                crashes.count += record.crashes;
                crashes.last = crashes.last.max(record.since);
            }
            shared.write_down(&record);
            table.slots.insert(record.id.clone(), Slot { record, process: None });
        }
        Ok(())
    }
}

#[async_trait]
impl Fleet for ProcessFleet {
    async fn list(&self, pools: &[PoolSpec]) -> Result<Vec<Instance>> {
        let now = self.shared.clock.now();
        let mut table = self.shared.table();
        let Table { slots, crashes } = &mut *table;
        let mut wanted = BTreeMap::new();
        for pool in pools {
            wanted.extend((1..=pool.max).map(|number| (format!("{}-{number}", pool.name), pool)));
        }
        slots.retain(|id, slot| {
            let stays = slot.record.state != State::Stopped || wanted.contains_key(id);
            if !stays {
                self.shared.forget(id);
            }
            stays
        });
        for (id, pool) in wanted {
            let slot = slots
                .entry(id)
                .or_insert_with_key(|id| Slot { record: Record::new(id, pool, now), process: None });
            if slot.record.state == State::Stopped {
                slot.record.model.clone_from(&pool.model);
            }
        }
        crashes.retain(|_, crashes| now - crashes.last < chrono_duration(FORGOTTEN));
        Ok(slots.values().map(|slot| slot.instance(crashes.get(&slot.record.pool))).collect())
    }

    async fn start(&self, ids: &[String]) -> Vec<Refusal> {
        let start = |id: &String| Some(Refusal { id: id.clone(), error: self.shared.start(id).err()? });
        ids.iter().filter_map(start).collect()
    }

    async fn drain(&self, id: &str, deadline: Duration) -> Result<()> {
        let now = self.shared.clock.now();
        self.shared.with(id, |slot| {
            let Some(process) = slot.process.as_ref().filter(|_| slot.record.state == State::Running) else {
                return Ok(());
            };
            // Told first and noted then: the other way round, a controller that dies in between would leave a worker
            // that nobody tells, and telling it twice makes it drop its work.
            process.signal(Signal::TERM)?;
            (slot.record.state, slot.record.since) = (State::Draining, now);
            slot.record.drain_until = Some(now + deadline);
            Ok(())
        })
    }

    fn can_undrain(&self) -> bool {
        false
    }

    async fn undrain(&self, id: &str) -> Result<()> {
        self.shared.with(id, |_| Ok(()))?;
        Err(Error::broken(
            format!("taking back the drain of {id}"),
            "a process cannot be told to forget a signal",
        ))
    }

    async fn stop(&self, id: &str) -> Result<()> {
        let now = self.shared.clock.now();
        self.shared.with(id, |slot| {
            let Some(process) = &slot.process else { return Ok(()) };
            let due = slot.record.drain_until.is_some_and(|due| due <= now);
            if due {
                process.signal(Signal::KILL)?;
            } else if slot.record.state == State::Running {
                process.signal(Signal::TERM)?;
            }
            // One that drains is on its way out already; a second signal would make it drop what it still does.
            let soon = now + STOP_GENTLY;
            let until = slot.record.drain_until.map_or(soon, |until| until.min(soon));
            if slot.record.state != State::Stopping {
                (slot.record.state, slot.record.since) = (State::Stopping, now);
            }
            // After a kill there is nothing left to try.
            slot.record.drain_until = (!due).then_some(until);
            Ok(())
        })
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes an instance and writes it down if it has changed.
    fn with(&self, id: &str, change: impl FnOnce(&mut Slot) -> io::Result<()>) -> Result<()> {
        let mut table = self.table();
        let slot = table.slots.get_mut(id).ok_or_else(|| unknown(id))?;
        let before = slot.record.clone();
        change(slot).map_err(|error| Error::from_io(format!("sending a signal to {id}"), &error))?;
        if slot.record != before {
            self.write_down(&slot.record);
        }
        Ok(())
    }

    fn start(self: &Arc<Self>, id: &str) -> Result<()> {
        let now = self.clock.now();
        let mut table = self.table();
        let slot = table.slots.get_mut(id).ok_or_else(|| unknown(id))?;
        if slot.record.state != State::Stopped {
            return Ok(());
        }
        let generation = now.format("%Y%m%dT%H%M%S%.6fZ").to_string();
        let mut record = slot.record.clone();
        (record.state, record.since, record.generation) = (State::Running, now, Some(generation));
        state_file::write(&self.record_of(id), &record)
            .map_err(|error| Error::from_io(format!("writing down that {id} is started"), &error))?;
        match self.spawn(&record) {
            Ok(process) => {
                record.process = Some(process.mark.clone());
                self.write_down(&record);
                self.hold(&mut table, record, process);
                Ok(())
            }
            Err(error) => {
                let failed = Error::from_io(format!("starting {id}"), &error);
                record.stopped(now);
                self.count_crash(&mut table, &mut record, error.to_string(), Duration::ZERO);
                Err(failed)
            }
        }
    }

    fn spawn(&self, record: &Record) -> io::Result<Process> {
        let program = match &self.program {
            Some(program) => program.clone(),
            // Looked up at each start: an upgrade may have brought it since.
            None => lifecycle::sibling("eirs-worker")?,
        };
        let mut command = Command::new(&program);
        command.args(record.arguments());
        command.args(self.config.iter().flat_map(|file| [Path::new("--config"), file]));
        // A flag of this controller may have set it, and flags are not inherited; the environment is.
        command.env("EIRS_LOCAL__STATE", &self.state);
        command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        Process::spawn(&mut command).map_err(|error| {
            io::Error::new(error.kind(), format!("{} cannot be run: {error}", program.display()))
        })
    }

    /// Puts a live process into the table and a task beside it that notices its end.
    fn hold(self: &Arc<Self>, table: &mut Table, record: Record, process: Process) {
        let process = Arc::new(process);
        let (id, generation) = (record.id.clone(), record.generation.clone());
        table.slots.insert(id.clone(), Slot { record, process: Some(process.clone()) });
        // The task does not keep the fleet: a fleet that is dropped leaves its processes alone.
        let shared = Arc::downgrade(self);
        tokio::spawn(async move {
            let end = process.ended().await;
            if let Some(shared) = shared.upgrade() {
                shared.bury(&id, &generation, end);
            }
        });
    }

    fn bury(&self, id: &str, generation: &Option<String>, end: End) {
        let now = self.clock.now();
        let mut table = self.table();
        let Some(slot) = table.slots.get(id).filter(|slot| slot.record.generation == *generation) else {
            return;
        };
        let mut record = slot.record.clone();
        let was_told = record.state != State::Running;
        let lived = (now - record.since).to_std().unwrap_or_default();
        record.stopped(now);
        if was_told {
            (record.crashes, record.last_error) = (0, None);
            self.write_down(&record);
            table.slots.insert(id.to_owned(), Slot { record, process: None });
        } else {
            let after = humantime::format_duration(Duration::from_millis(lived.as_millis() as u64));
            let error = format!("{end} ({after} after its start)");
            tracing::warn!(instance = id, pool = record.pool, "{id} {error}");
            self.count_crash(&mut table, &mut record, error, lived);
        }
        drop(table);
        self.changed.notify_one();
    }

    fn count_crash(&self, table: &mut Table, record: &mut Record, error: String, lived: Duration) {
        let last = record.since;
        let crashes = table.crashes.entry(record.pool.clone()).or_insert(Crashes { count: 0, last });
        let forgotten = lived >= LIVED || last - crashes.last >= chrono_duration(FORGOTTEN);
        *crashes = Crashes { count: if forgotten { 1 } else { crashes.count.saturating_add(1) }, last };
        record.crashes = if lived >= LIVED { 1 } else { record.crashes.saturating_add(1) };
        record.last_error = Some(error);
        self.write_down(record);
        table.slots.insert(record.id.clone(), Slot { record: record.clone(), process: None });
    }

    /// A stopped instance with nothing to tell needs no record. A record that cannot be written costs its instance to be found
    /// again by the next controller, but not to be served by this one.
    fn write_down(&self, record: &Record) {
        if record.state == State::Stopped && record.last_error.is_none() {
            return self.forget(&record.id);
        }
        if let Err(error) = state_file::write(&self.record_of(&record.id), record) {
            let id = &record.id;
            tracing::warn!(instance = id, %error, "what {id} does cannot be written down");
        }
    }

    fn forget(&self, id: &str) {
        let _was_not_there = fs::remove_file(self.record_of(id));
    }

    fn record_of(&self, id: &str) -> PathBuf {
        self.records.join(format!("{id}.json"))
    }
}

impl Record {
    fn new(id: &str, pool: &PoolSpec, since: DateTime<Utc>) -> Self {
        Self {
            id: id.to_owned(),
            pool: pool.name.clone(),
            model: pool.model.clone(),
            state: State::Stopped,
            since,
            generation: None,
            process: None,
            drain_until: None,
            crashes: 0,
            last_error: None,
        }
    }

    fn arguments(&self) -> [&str; 6] {
        let generation = self.generation.as_deref().unwrap_or_default();
        ["--instance", &self.id, "--generation", generation, "--model", &self.model]
    }

    /// The process of this record, if it lives. Where its pid was never written down, by its arguments.
    fn find(&self) -> Option<Process> {
        match &self.process {
            Some(mark) => Process::find(mark),
            None if self.state == State::Stopped => None,
            None => Process::find_by_arguments(&self.arguments()),
        }
    }

    fn stopped(&mut self, now: DateTime<Utc>) {
        (self.state, self.since, self.process, self.drain_until) = (State::Stopped, now, None, None);
    }
}

impl Slot {
    fn instance(&self, crashes: Option<&Crashes>) -> Instance {
        let record = self.record.clone();
        let is_stopped = record.state == State::Stopped;
        Instance {
            id: record.id,
            pool: record.pool,
            model: record.model,
            state: record.state,
            since: record.since,
            generation: record.generation,
            pid: record.process.map(|mark| mark.pid),
            drain_until: record.drain_until,
            crashes: record.crashes,
            last_error: record.last_error,
            not_before: crashes.filter(|_| is_stopped).map(|crashes| crashes.not_before()),
        }
    }
}

fn chrono_duration(duration: Duration) -> chrono::TimeDelta {
    chrono::TimeDelta::from_std(duration).unwrap_or(chrono::TimeDelta::MAX)
}

#[cfg(test)]
mod tests;
