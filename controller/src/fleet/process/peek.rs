//! A read-only view of the fleet of processes, for programs that run beside a controller or without
//! one.

use std::{io::ErrorKind, path::PathBuf, time::Duration};

use async_trait::async_trait;
use eirs_platform::{
    clock::SharedClock,
    error::{Error, Result},
    settings::Settings,
    state_folder,
};

use super::{
    State,
    record::{self, Record},
};
use crate::fleet::{Fleet, Instance, PoolSpec, Refusal};

/// Lists what [`ProcessFleet`](super::ProcessFleet) would list. All other operations are refused.
#[derive(Debug)]
pub struct Peek {
    records: PathBuf,
    clock: SharedClock,
}

impl Peek {
    /// Opens the fleet of this installation.
    pub fn new(settings: &Settings, clock: SharedClock) -> Self {
        Self { records: settings.local.state.join(state_folder::INSTANCES), clock }
    }
}

#[async_trait]
impl Fleet for Peek {
    async fn list(&self, pools: &[PoolSpec]) -> Result<Vec<Instance>> {
        let now = self.clock.now();
        let (mut records, _others) = match record::read_all(&self.records) {
            Err(error) if error.kind() == ErrorKind::NotFound => Default::default(),
            read => {
                read.map_err(|error| Error::from_io(format!("reading {}", self.records.display()), &error))?
            }
        };
        for record in &mut records {
            match record.find() {
                Some(process) => record.process = Some(process.mark.clone()),
                None if record.boot.is_some() || record.state == State::Stopped => {}
                None => record.stopped(now),
            }
        }
        let mut wanted = record::wanted(pools);
        records.retain(|record| record.state != State::Stopped || wanted.contains_key(&record.id));
        for record in &mut records {
            let pool = wanted.remove(&record.id);
            if let Some(pool) = pool.filter(|_| record.state == State::Stopped) {
                record.model.clone_from(&pool.model);
            }
        }
        records.extend(wanted.into_iter().map(|(id, pool)| Record::new(&id, pool, now)));
        Ok(records.iter().map(Record::instance).collect())
    }

    async fn start(&self, ids: &[String]) -> Vec<Refusal> {
        ids.iter().map(|id| Refusal { id: id.clone(), error: read_only("starting", id) }).collect()
    }

    async fn drain(&self, id: &str, _deadline: Duration) -> Result<()> {
        Err(read_only("draining", id))
    }

    async fn stop(&self, id: &str) -> Result<()> {
        Err(read_only("stopping", id))
    }
}

fn read_only(doing: &str, id: &str) -> Error {
    Error::broken(format!("{doing} {id}"), "this fleet is read-only")
}
