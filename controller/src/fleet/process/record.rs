//! The record of an instance for the next controller, in `instances/ID.json` of the state folder.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{
    child::{Mark, Process},
    faults::Boot,
};
use crate::fleet::{Instance, PoolSpec, State};

/// A worker that ran at least this long did not crash because of its start, so the count of crashes
/// in a row restarts.
const LIVED: Duration = Duration::from_secs(60);

/// The record of an instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) pool: String,
    pub(super) model: String,
    pub(super) state: State,
    pub(super) since: DateTime<Utc>,
    pub(super) generation: Option<String>,
    pub(super) process: Option<Mark>,
    pub(super) drain_until: Option<DateTime<Utc>>,
    pub(super) crashes: u32,
    pub(super) last_error: Option<String>,
    /// The pending simulated start, whose process comes later or never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) boot: Option<Boot>,
}

/// Reads the records in a folder. Also returns the `.json` files that are not records.
pub(super) fn read_all(folder: &Path) -> io::Result<(Vec<Record>, Vec<PathBuf>)> {
    let (mut records, mut others) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        match serde_json::from_slice(&fs::read(&path)?) {
            Ok(record) => records.push(record),
            Err(_) => others.push(path),
        }
    }
    Ok((records, others))
}

/// The instances of the pools, by id.
pub(super) fn wanted(pools: &[PoolSpec]) -> BTreeMap<String, &PoolSpec> {
    let of_pool = |pool: &'_ PoolSpec| {
        (1..=pool.max).map(|number| format!("{}-{number}", pool.name)).collect::<Vec<_>>()
    };
    pools.iter().flat_map(|pool| of_pool(pool).into_iter().map(move |id| (id, pool))).collect()
}

impl Record {
    pub(super) fn new(id: &str, pool: &PoolSpec, since: DateTime<Utc>) -> Self {
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
            boot: None,
        }
    }

    pub(super) fn arguments(&self) -> [&str; 6] {
        let generation = self.generation.as_deref().unwrap_or_default();
        ["--instance", &self.id, "--generation", generation, "--model", &self.model]
    }

    /// The process of this record, if it runs. If its pid was not recorded, the process is found by
    /// its arguments.
    pub(super) fn find(&self) -> Option<Process> {
        match &self.process {
            Some(mark) => Process::find(mark),
            None if self.state == State::Stopped || self.boot.is_some() => None,
            None => Process::find_by_arguments(&self.arguments()),
        }
    }

    pub(super) fn stopped(&mut self, now: DateTime<Utc>) {
        (self.state, self.since, self.process, self.drain_until) = (State::Stopped, now, None, None);
        self.boot = None;
    }

    /// Records that it ended as ordered.
    pub(super) fn left(&mut self, now: DateTime<Utc>) {
        self.stopped(now);
        (self.crashes, self.last_error) = (0, None);
    }

    /// Records a crash after it ran for `lived`.
    pub(super) fn crashed(&mut self, error: String, lived: Duration) {
        self.crashes = if lived >= LIVED { 1 } else { self.crashes.saturating_add(1) };
        self.last_error = Some(error);
    }

    pub(super) fn instance(&self) -> Instance {
        let record = self.clone();
        Instance {
            state: record.state,
            generation: record.generation,
            pid: record.process.map(|mark| mark.pid),
            drain_until: record.drain_until,
            crashes: record.crashes,
            last_error: record.last_error,
            ..Instance::stopped(record.id, record.pool, record.model, record.since)
        }
    }
}
