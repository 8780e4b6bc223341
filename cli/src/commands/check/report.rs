//! The result of an inspection, as JSON and as text.

use bytesize::ByteSize;
use chrono::{DateTime, Utc};
use console::style;
use eirs_controller::status::PoolStatus;
use serde::Serialize;

#[cfg(feature = "aws")]
use super::aws::Cloud;
use super::{
    controller::Controller,
    queues::{self, Queue},
    stores::{Contents, Newest},
    units::{self, Unit},
};
use crate::show::{self, ago, count, cut, plain};

/// The report.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// The time of the inspection.
    pub(super) at: DateTime<Utc>,
    /// The parts that only exist for an AWS account; `None` on one machine.
    #[cfg(feature = "aws")]
    #[serde(flatten)]
    pub(super) cloud: Option<Cloud>,
    /// The state folder.
    pub(super) state: String,
    pub(super) controller: Controller,
    /// The pools, as the controller sees them; empty if no controller runs here.
    pub(super) pools: Vec<PoolStatus>,
    /// The systemd units that are installed here.
    pub(super) units: Vec<Unit>,
    pub(super) queues: Vec<Queue>,
    /// Null if they could not be counted, like the results.
    pub(super) images: Option<Contents>,
    pub(super) results: Option<Contents>,
    pub(super) newest: Vec<Newest>,
    /// Differences between the account and what setup makes.
    pub(super) drift: Vec<String>,
    /// Problems that need the operator, including parts that could not be inspected.
    pub(super) problems: Vec<String>,
    /// Omitted parts, with reasons.
    pub(super) notes: Vec<String>,
}

impl Report {
    /// Returns whether there are no problems.
    pub(super) fn is_well(&self) -> bool {
        self.problems.is_empty() && self.drift.is_empty()
    }

    /// Formats the report for a terminal of this width.
    pub(super) fn text(&self, now: DateTime<Utc>, width: usize) -> String {
        let mut text = String::new();
        #[cfg(feature = "aws")]
        self.cloud.iter().for_each(|cloud| text += &cloud.head());
        text += &self.controller.text(&self.state, now);
        if !self.pools.is_empty() {
            let head = [
                "pool",
                "wanted",
                "ready",
                "starting",
                "leaving",
                "stopped",
                "waiting",
                "in flight",
                "reason",
            ];
            let rows: Vec<_> = self.pools.iter().map(pool_row).collect();
            text += &format!("\n{}", show::table(&head, &rows));
        }
        if !self.units.is_empty() {
            text += &format!("\n{}", units::text(&self.units, width));
        }
        #[cfg(feature = "aws")]
        self.cloud.iter().for_each(|cloud| text += &cloud.instances_text(now));
        text.push('\n');
        if !self.queues.is_empty() {
            text += &format!("{}\n", queues::text(&self.queues));
        }
        for (contents, thing) in [(&self.images, "image"), (&self.results, "result")] {
            match contents {
                Some(contents) => text += &contents.text(thing, now),
                None => text += &format!("? {thing}s\n"),
            }
        }
        for Newest { name, label, at, .. } in &self.newest {
            let age = ago(*at, now);
            let room = width.saturating_sub("  (, )  ".len() + label.chars().count() + age.len()).max(20);
            text += &format!("  ({}, {})  {age}\n", cut(&plain(name), room), plain(label));
        }
        text.push('\n');
        for note in &self.notes {
            text += &format!("{} {note}\n", style("Note:").dim());
        }
        for drift in &self.drift {
            text += &format!("{} {}\n", style("Drift:").yellow(), plain(drift));
        }
        for problem in &self.problems {
            text += &format!("{} {}\n", style("Wrong:").red(), plain(problem));
        }
        if self.is_well() {
            text += &format!("{}\n", style("All is well.").green());
        }
        text
    }
}

impl Contents {
    fn text(&self, thing: &str, now: DateTime<Utc>) -> String {
        let place =
            self.bucket.as_ref().map_or_else(String::new, |bucket| format!(" in the bucket {bucket}"));
        // A fresh count needs no date.
        let age = ago(self.at, now);
        let age = if (now - self.at).num_seconds() < 10 { String::new() } else { format!(", counted {age}") };
        format!("{} ({}){place}{age}\n", count(self.stored.count, thing), ByteSize(self.stored.bytes))
    }
}

fn pool_row(pool: &PoolStatus) -> Vec<String> {
    let number = |number: Option<u64>| number.map_or_else(|| "?".into(), |number| number.to_string());
    let alive = pool.ready + pool.starting + pool.leaving;
    let stopped = pool.instances.len().saturating_sub(alive as usize);
    vec![
        pool.name.clone(),
        pool.desired.to_string(),
        pool.ready.to_string(),
        pool.starting.to_string(),
        pool.leaving.to_string(),
        stopped.to_string(),
        number(pool.visible),
        number(pool.in_flight),
        pool.reason.clone(),
    ]
}
