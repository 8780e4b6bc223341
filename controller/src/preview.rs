//! What the controller would do now, found out without doing it: for `eirs plan`.
//!
//! After each pass the controller writes down what it decided from, `inputs.json` in the state
//! folder. A preview looks again at queues and processes, takes from there what only the controller
//! can know (the reports that it received, the past), and decides as the next pass would. Without a
//! controller it decides as the first pass of a new one would.

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

/// What a decision was made from.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Inputs {
    /// What was seen.
    pub observation: Observation,
    /// The past, that observation included.
    pub history: History,
}

/// What would be done.
#[derive(Debug, Clone, PartialEq)]
pub struct Preview {
    /// The plan. What it would do for a paused pool is in it as well.
    pub plan: Plan,
    /// What it was made from.
    pub seen: Observation,
    /// The controller's last look, whose reports and past were used; `None` where there was none,
    /// and no window is known.
    pub controller_at: Option<DateTime<Utc>>,
}

/// Written by the same program version only: what is in it changes with every version.
#[derive(Serialize)]
struct Written<'a> {
    version: &'a str,
    observation: &'a Observation,
    history: &'a History,
}

fn file(settings: &Settings) -> PathBuf {
    settings.local.state.join(state_folder::INPUTS)
}

/// Writes down what was decided from.
pub(crate) fn write(settings: &Settings, observation: &Observation, history: &History) -> io::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    state_file::write_compact(&file(settings), &Written { version, observation, history })
}

/// What the last pass decided from; `None` where there was none, or its controller was of another
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

/// What would be done now under these policies. `inputs` are a running controller's.
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

/// Adds what was reported to the controller, and what the controller remembers of its instances.
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
            // The records leave out since when a stopped instance has been so.
            view.instance.since = instance.since;
        }
    }
}
