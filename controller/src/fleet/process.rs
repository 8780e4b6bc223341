//! A fleet of processes: every instance is an `eirs-worker` on this machine, in its own process
//! group, so that Ctrl-C in a terminal reaches only the controller.
//!
//! State that must survive the controller is in `instances/ID.json` of the state folder: a new
//! controller adopts the running processes that are recorded there. The file is written before the
//! process starts (with the generation, by which the process can be found) and again when its pid
//! is known. `process/child.rs` tells a process from another one with the same pid.

mod child;
mod faults;
mod peek;
mod record;

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
use eirs_platform::{
    clock::SharedClock,
    error::{Error, Result},
    lifecycle,
    settings::Settings,
    state_folder,
};
use rustix::process::Signal;
use tokio::sync::Notify;

pub use self::peek::Peek;
use self::{
    child::{End, Process},
    faults::{Boot, BootEnd, Faults},
    record::Record,
};
use super::{Fleet, Instance, PoolSpec, Refusal, State, unknown};
use crate::state_file;

/// Time that a drained worker has to end after it was ordered to stop. After it, it is killed.
const STOP_GENTLY: Duration = Duration::from_secs(10);

/// The workers of this machine. Clones share their state.
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
    faults: Faults,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    slots: BTreeMap<String, Slot>,
}

#[derive(Debug)]
struct Slot {
    record: Record,
    process: Option<Arc<Process>>,
}

impl ProcessFleet {
    /// Opens the fleet and adopts the processes of an earlier controller. `config` is the settings
    /// file that the workers use. `changed` is notified when a process ends.
    pub fn open(
        settings: &Settings,
        config: Option<&Path>,
        clock: SharedClock,
        changed: Arc<Notify>,
    ) -> Result<Self> {
        let state = settings.local.state.clone();
        let records = state.join(state_folder::INSTANCES);
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
                faults: Faults::new(settings.controller.simulate.clone()),
                table: Mutex::default(),
            }),
        };
        fleet.adopt()?;
        Ok(fleet)
    }

    fn adopt(&self) -> Result<()> {
        let shared = &self.shared;
        let (records, others) = record::read_all(&shared.records)
            .map_err(|error| Error::from_io(format!("reading {}", shared.records.display()), &error))?;
        for file in others {
            tracing::warn!(file = %file.display(), "not a record of an instance; deleted");
            let _gone = fs::remove_file(&file);
        }
        let mut table = shared.table();
        for mut record in records {
            let id = record.id.clone();
            if let Some(process) = record.find() {
                let pid = process.mark.pid;
                tracing::info!(instance = id, pid, "adopted {id}, which is running as process {pid}");
                record.process = Some(process.mark.clone());
                shared.hold(&mut table, record, process);
                continue;
            }
            if let Some(boot) = record.boot {
                tracing::info!(
                    instance = id,
                    "{id} was started by an earlier controller, and is \
                    still starting"
                );
                shared.wait_for(boot, &record);
            } else if record.state != State::Stopped {
                tracing::info!(instance = id, "{id} ended while no controller ran");
                record.stopped(shared.clock.now());
            }
            shared.save(&record);
            table.slots.insert(id, Slot { record, process: None });
        }
        Ok(())
    }
}

#[async_trait]
impl Fleet for ProcessFleet {
    async fn list(&self, pools: &[PoolSpec]) -> Result<Vec<Instance>> {
        let now = self.shared.clock.now();
        let mut table = self.shared.table();
        let slots = &mut table.slots;
        let wanted = record::wanted(pools);
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
        Ok(slots.values().map(|slot| slot.record.instance()).collect())
    }

    async fn start(&self, ids: &[String]) -> Vec<Refusal> {
        let start = |id: &String| Some(Refusal { id: id.clone(), error: self.shared.start(id).err()? });
        ids.iter().filter_map(start).collect()
    }

    async fn drain(&self, id: &str, deadline: Duration) -> Result<()> {
        let now = self.shared.clock.now();
        self.shared.with(id, |slot| {
            if slot.record.boot.is_some() {
                slot.record.left(now);
                return Ok(());
            }
            let Some(process) = slot.process.as_ref().filter(|_| slot.record.state == State::Running) else {
                return Ok(());
            };
            // The signal comes before the record: in the other order, a controller that ends in
            // between would leave a worker that is recorded as draining but never got the signal,
            // and a second signal would make it drop its jobs.
            process.signal(Signal::TERM)?;
            (slot.record.state, slot.record.since) = (State::Draining, now);
            slot.record.drain_until = Some(now + deadline);
            Ok(())
        })
    }

    async fn stop(&self, id: &str) -> Result<()> {
        let now = self.shared.clock.now();
        self.shared.with(id, |slot| {
            if slot.record.boot.is_some() {
                slot.record.left(now);
            }
            let Some(process) = &slot.process else { return Ok(()) };
            let due = slot.record.drain_until.is_some_and(|due| due <= now);
            if due {
                process.kill()?;
            } else if slot.record.state == State::Running {
                process.signal(Signal::TERM)?;
            }
            // A draining worker is already ending; a second signal would make it drop its jobs.
            let soon = now + STOP_GENTLY;
            let until = slot.record.drain_until.map_or(soon, |until| until.min(soon));
            if slot.record.state != State::Stopping {
                (slot.record.state, slot.record.since) = (State::Stopping, now);
            }
            // After a kill there is nothing more to do.
            slot.record.drain_until = (!due).then_some(until);
            Ok(())
        })
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes an instance, and writes its record if that has changed.
    fn with(&self, id: &str, change: impl FnOnce(&mut Slot) -> io::Result<()>) -> Result<()> {
        let mut table = self.table();
        let slot = table.slots.get_mut(id).ok_or_else(|| unknown(id))?;
        let before = slot.record.clone();
        change(slot).map_err(|error| Error::from_io(format!("sending a signal to {id}"), &error))?;
        if slot.record != before {
            self.save(&slot.record);
        }
        if before.boot.is_some() && slot.record.boot.is_none() {
            // It ended at once, as it had no process yet.
            self.changed.notify_one();
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
        self.faults.check_capacity(id)?;
        let generation = now.format("%Y%m%dT%H%M%S%.6fZ").to_string();
        let mut record = slot.record.clone();
        (record.state, record.since, record.generation) = (State::Running, now, Some(generation));
        record.boot = self.faults.boot(now);
        state_file::write(&self.record_of(id), &record)
            .map_err(|error| Error::from_io(format!("noting the start of {id}"), &error))?;
        match record.boot {
            None => self.launch(&mut table, record),
            Some(boot) => {
                self.wait_for(boot, &record);
                slot.record = record;
                Ok(())
            }
        }
    }

    /// Starts the process of an instance that is recorded as started.
    fn launch(self: &Arc<Self>, table: &mut Table, mut record: Record) -> Result<()> {
        match self.spawn(&record) {
            Ok(process) => {
                record.process = Some(process.mark.clone());
                self.save(&record);
                self.hold(table, record, process);
                Ok(())
            }
            Err(error) => {
                let failed = Error::from_io(format!("starting {}", record.id), &error);
                record.stopped(self.clock.now());
                self.count_crash(table, record, error.to_string(), Duration::ZERO);
                Err(failed)
            }
        }
    }

    /// Completes a simulated start when its delay is over.
    fn wait_for(self: &Arc<Self>, boot: Boot, record: &Record) {
        if boot.end == BootEnd::Hangs {
            return;
        }
        let delay = (boot.due - self.clock.now()).to_std().unwrap_or_default();
        let (id, generation) = (record.id.clone(), record.generation.clone());
        let shared = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            if let Some(shared) = shared.upgrade() {
                shared.finish_boot(&id, &generation, boot.end);
            }
        });
    }

    fn finish_boot(self: &Arc<Self>, id: &str, generation: &Option<String>, end: BootEnd) {
        let mut table = self.table();
        let still_waits = |slot: &&Slot| slot.record.boot.is_some() && slot.record.generation == *generation;
        let Some(slot) = table.slots.get(id).filter(still_waits) else { return };
        let mut record = slot.record.clone();
        record.boot = None;
        if end == BootEnd::Runs {
            // A controller that ends now leaves a worker that is found by its arguments.
            self.save(&record);
            if let Err(error) = self.launch(&mut table, record) {
                tracing::warn!(instance = id, %error, "{error}");
            }
        } else {
            let error = "did not start (simulated, controller.simulate.boot_failure)".to_owned();
            tracing::warn!(instance = id, pool = record.pool, "{id} {error}");
            record.stopped(self.clock.now());
            self.count_crash(&mut table, record, error, Duration::ZERO);
        }
        drop(table);
        self.changed.notify_one();
    }

    fn spawn(&self, record: &Record) -> io::Result<Process> {
        let program = match &self.program {
            Some(program) => program.clone(),
            // Looked up at each start, as an upgrade may have replaced it.
            None => lifecycle::sibling("eirs-worker")?,
        };
        let mut command = Command::new(&program);
        command.args(record.arguments());
        command.args(self.config.iter().flat_map(|file| [Path::new("--config"), file]));
        // The state folder may come from a flag of this controller, which workers do not inherit.
        command.env("EIRS_LOCAL__STATE", &self.state);
        // Only the controller itself may talk to systemd.
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        Process::spawn(&mut command).map_err(|error| {
            io::Error::new(error.kind(), format!("{} cannot be run: {error}", program.display()))
        })
    }

    /// Adds a running process to the table, and a task that waits for its end.
    fn hold(self: &Arc<Self>, table: &mut Table, record: Record, process: Process) {
        let process = Arc::new(process);
        let (id, generation) = (record.id.clone(), record.generation.clone());
        table.slots.insert(id.clone(), Slot { record, process: Some(process.clone()) });
        // The task holds a weak reference: dropping the fleet leaves its processes running.
        let shared = Arc::downgrade(self);
        tokio::spawn(async move {
            let end = process.ended().await;
            if let Some(shared) = shared.upgrade() {
                shared.record_end(&id, &generation, end);
            }
        });
    }

    fn record_end(&self, id: &str, generation: &Option<String>, end: End) {
        let now = self.clock.now();
        let mut table = self.table();
        let Some(slot) = table.slots.get(id).filter(|slot| slot.record.generation == *generation) else {
            return;
        };
        let mut record = slot.record.clone();
        let was_ordered = record.state != State::Running;
        let lived = (now - record.since).to_std().unwrap_or_default();
        if was_ordered {
            record.left(now);
            self.save(&record);
            table.slots.insert(id.to_owned(), Slot { record, process: None });
        } else {
            let after = humantime::format_duration(Duration::from_millis(lived.as_millis() as u64));
            let error = format!("{end} ({after} after its start)");
            tracing::warn!(instance = id, pool = record.pool, "{id} {error}");
            record.stopped(now);
            self.count_crash(&mut table, record, error, lived);
        }
        drop(table);
        self.changed.notify_one();
    }

    fn count_crash(&self, table: &mut Table, mut record: Record, error: String, lived: Duration) {
        record.crashed(error, lived);
        self.save(&record);
        table.slots.insert(record.id.clone(), Slot { record, process: None });
    }

    /// Writes the record, or deletes it if the instance is stopped and has no error. If writing
    /// fails, the next controller may not find the instance, but this one keeps serving it.
    fn save(&self, record: &Record) {
        if record.state == State::Stopped && record.last_error.is_none() {
            return self.forget(&record.id);
        }
        if let Err(error) = state_file::write(&self.record_of(&record.id), record) {
            let id = &record.id;
            tracing::warn!(instance = id, %error, "the state of {id} cannot be written");
        }
    }

    fn forget(&self, id: &str) {
        let _was_not_there = fs::remove_file(self.record_of(id));
    }

    fn record_of(&self, id: &str) -> PathBuf {
        self.records.join(format!("{id}.json"))
    }
}

#[cfg(test)]
mod tests;
