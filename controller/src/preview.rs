//! Computes what the controller would do now, without doing it, for `eirs plan`.
//!
//! After each pass the controller writes the inputs of its decision to `inputs.json` in the state
//! folder. A preview reads queues and processes again, takes from that file what only the
//! controller knows (the received reports and the history), and decides as the next pass would.
//! Without a controller it decides like the first pass of a new one.

use std::{collections::BTreeMap, fs, io, path::PathBuf, sync::Arc};

use chrono::{DateTime, Utc};
use eirs_platform::{backend::Backend, clock::SharedClock, error::Result, settings::Settings, state_folder};
use serde::{Deserialize, Serialize};

use crate::{
    decide::{History, Plan, decide},
    fleet,
    observe::{InstanceView, Observation, Observer, Reports},
    operator::Operator,
    policy::Policies,
    state_file,
};

/// The inputs of a decision.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Inputs {
    /// The observation.
    pub observation: Observation,
    /// The history, including that observation.
    pub history: History,
}

/// The result of a preview.
#[derive(Debug, Clone, PartialEq)]
pub struct Preview {
    /// The plan, including actions for paused pools.
    pub plan: Plan,
    /// The observation that the plan is based on.
    pub seen: Observation,
    /// Time of the controller's last observation, whose reports and history were used; `None` if
    /// there was none, so that no window is known.
    pub controller_at: Option<DateTime<Utc>>,
}

/// The content of the file. Only the same version of the program reads it, as the format may change
/// with every version.
#[derive(Serialize)]
struct Written<'a> {
    version: &'a str,
    observation: &'a Observation,
    history: &'a History,
}

fn file(settings: &Settings) -> PathBuf {
    settings.local.state.join(state_folder::INPUTS)
}

/// Writes the inputs of a decision.
pub(crate) fn write(settings: &Settings, observation: &Observation, history: &History) -> io::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    state_file::write_compact(&file(settings), &Written { version, observation, history })
}

/// Reads the inputs of the last pass; `None` if there are none, or if they were written by another
/// version.
pub fn inputs(settings: &Settings) -> Option<Inputs> {
    #[derive(Deserialize)]
    struct Versioned {
        version: String,
    }
    let text = fs::read(file(settings)).ok()?;
    let written = serde_json::from_slice::<Versioned>(&text).ok()?;
    (written.version == env!("CARGO_PKG_VERSION")).then(|| serde_json::from_slice(&text).ok()).flatten()
}

/// Computes what would be done now under these policies. `inputs` are those of a running
/// controller, if any.
pub async fn preview(
    settings: &Settings,
    backend: Backend,
    clock: SharedClock,
    policies: &Policies,
    operator: Operator,
    inputs: Option<Inputs>,
) -> Result<Preview> {
    let fleet = fleet::peek(settings, clock.clone()).await;
    let mut observer = Observer::new(backend, clock, Arc::<Reports>::default());
    let mut seen = observer.observe(policies, &*fleet).await;
    seen.operator = operator;
    let controller_at = inputs.as_ref().map(|inputs| inputs.observation.at);
    let history = match inputs {
        Some(Inputs { observation, history }) => {
            complete(&mut seen, observation);
            history
        }
        None => History::first(settings.controller.tick),
    };
    let history = history.observe(&seen);
    let plan = decide(policies, &seen, &history);
    Ok(Preview { plan, seen, controller_at })
}

/// Adds the reports, refusals and arrivals that the controller knows.
fn complete(seen: &mut Observation, last: Observation) {
    seen.hears = last.hears;
    seen.refused = last.refused;
    for (name, pool) in &mut seen.pools {
        if let Some(known) = last.pools.get(name) {
            *pool = crate::observe::PoolView { depth: pool.depth, ..known.clone() };
        }
    }
    let mut known: BTreeMap<_, _> =
        last.instances.into_iter().flatten().map(|view| (view.instance.id.clone(), view)).collect();
    for view in seen.instances.iter_mut().flatten() {
        let Some(InstanceView { instance, heard }) = known.remove(&view.instance.id) else { continue };
        if instance.generation != view.instance.generation {
            continue;
        }
        view.heard = heard;
        if instance.state == view.instance.state {
            // The records do not contain the time since which an instance is stopped.
            view.instance.since = instance.since;
        }
    }
}
