//! What survives a restart, and what the recording knows where that is lost.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use eirs_platform::settings::Settings;
use serde::{Deserialize, Serialize};

use crate::{alerts::Ledger, decide::history::Learnt, record, refusals::Refusals};

/// A day of any time zone, as seen from another one.
const RECALLED: TimeDelta = TimeDelta::hours(26);
/// A pool that is looked at has a line every minute.
const LONGEST_LINE: TimeDelta = TimeDelta::seconds(75);

/// What survives a restart and may be lost without harm. Fields may come and go: what is missing
/// starts from its default.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Remembered {
    pub(super) refused: Refusals,
    pub(super) learnt: Learnt,
    /// The alerts that the webhook's receiver knows.
    pub(super) alerts: Ledger,
}

/// What instances ran in the last day, from the recording: where the memory is lost the day's
/// budget is still known. A gap between two lines of a pool is time in which nobody looked.
pub(super) fn recall_use(learnt: &mut Learnt, settings: &Settings, now: DateTime<Utc>) {
    let folder = settings.local.state.join(record::FOLDER);
    if !folder.is_dir() {
        return;
    }
    let mut last = BTreeMap::<String, (DateTime<Utc>, u32)>::new();
    for line in record::read(&folder).flatten().filter(|line| now - line.at < RECALLED && line.at <= now) {
        let alive = line.ready + line.starting + line.leaving;
        if let Some((then, before)) = last.insert(line.pool.clone(), (line.at, alive)) {
            let to = line.at.min(then + LONGEST_LINE);
            learnt.recall_use(&line.pool, then, to, before as usize, line.arrived);
        }
    }
}
