//! The state that survives a restart, and its reconstruction from the recording if it is lost.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use eirs_platform::settings::Settings;
use serde::{Deserialize, Serialize};

use crate::{alerts::Ledger, decide::history::Learnt, record, refusals::Refusals, status};

/// Time that is read from the recording: a day of any time zone.
const READ_BACK: TimeDelta = TimeDelta::hours(26);
/// Longest time between two writes of the memory, with room for late passes.
const LONGEST_LOSS: TimeDelta = TimeDelta::minutes(5);
/// Longest time between two lines of a pool that is observed every pass. A line is written every
/// minute.
const LONGEST_LINE: TimeDelta = TimeDelta::seconds(75);

/// The state that survives a restart. Losing it does no harm. Missing fields take their defaults,
/// so fields may be added and removed.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Remembered {
    pub(super) refused: Refusals,
    pub(super) learnt: Learnt,
    /// The alerts that were sent to the webhook.
    pub(super) alerts: Ledger,
}

/// Charges what ran from the last write of the memory to the last pass of a controller that was
/// killed: instances that ended with it are no longer there to be charged. The status file has
/// their numbers, because each pass writes it.
pub(super) fn recall_last_pass(learnt: &mut Learnt, settings: &Settings, now: DateTime<Utc>) {
    let (Some(status), Some(from)) = (status::read(&settings.status_file()), learnt.charged_at()) else {
        return;
    };
    if status.at <= from || status.at > now || status.at - from > LONGEST_LOSS {
        return;
    }
    for pool in &status.pools {
        let alive = pool.ready + pool.starting + pool.leaving;
        learnt.recall_use(&pool.name, from, status.at, alive as usize, 0);
    }
}

/// Reads from the recording which instances ran in the last day, so that the daily budget is known
/// even if the memory is lost. Longer gaps between two lines of a pool do not count.
pub(super) fn recall_use(learnt: &mut Learnt, settings: &Settings, now: DateTime<Utc>) {
    let folder = settings.local.state.join(record::FOLDER);
    if !folder.is_dir() {
        return;
    }
    let mut last = BTreeMap::<String, (DateTime<Utc>, u32)>::new();
    for line in record::read(&folder).flatten().filter(|line| now - line.at < READ_BACK && line.at <= now) {
        let alive = line.ready + line.starting + line.leaving;
        if let Some((then, before)) = last.insert(line.pool.clone(), (line.at, alive)) {
            let to = line.at.min(then + LONGEST_LINE);
            learnt.recall_use(&line.pool, then, to, before as usize, line.arrived);
        }
    }
}
