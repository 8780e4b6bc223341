//! Inspects an installation in an AWS account: instances directly from EC2, queues and buckets, and
//! differences from what `eirs setup` makes. On the web host, it also reads what the controller
//! wrote.

mod drift;
mod instances;
mod queues;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use chrono::{DateTime, Utc};
use console::style;
use eirs_controller::{
    policy::{Policies, load},
    status::Status,
};
use eirs_platform::{
    blobs::{SharedBlobs, s3::S3Blobs},
    settings::Settings,
};
use serde::Serialize;

use self::{drift::Drift, instances::Machine};
use super::{
    controller::{self, Controller},
    queues as common,
    report::Report,
    stores::{Store, Stores},
    units,
};
use crate::{aws::Account, commands::status, state};

/// Minimum interval between two counts of buckets, which must be listed for that, and between two
/// checks for drift, which is rare.
const PAUSE: Duration = Duration::from_secs(60);

/// The inspection of an account.
pub(super) struct Look {
    settings: Settings,
    /// `None` until the account has been reached.
    place: Option<Place>,
}

struct Place {
    account: Account,
    stores: Stores,
    drift: Option<(Instant, Drift)>,
}

/// The part of a report that only exists for an account.
#[derive(Debug, Serialize)]
pub(super) struct Cloud {
    /// The prefix of all names.
    installation: String,
    /// Null if the account of the credentials could not be determined.
    account: Option<String>,
    region: Option<String>,
    /// Null if the instances could not be listed.
    instances: Option<Vec<Machine>>,
}

impl Look {
    /// Creates the inspection without any request; failures become problems in the report.
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, place: None }
    }

    pub(super) async fn look(&mut self, now: DateTime<Utc>) -> Report {
        let (mut controller, seen) = controller::look(&self.settings);
        let folder = &self.settings.local.state;
        controller.elsewhere = !state::had_controller(folder);
        let (units, unit_problems) = units::look().await;
        let mut report = Report {
            at: now,
            state: self.settings.local.state.display().to_string(),
            units,
            problems: unit_problems,
            ..Report::default()
        };
        if state::is_closed(folder) {
            report.problems.push(state::foreign(folder));
        }
        let opened = match &mut self.place {
            Some(place) => Ok(place),
            none => {
                Account::open(self.settings.clone()).await.map(|account| none.insert(Place::new(account)))
            }
        };
        match opened {
            Ok(place) => place.look(&mut report, &mut controller, seen.as_ref(), now).await,
            Err(error) => {
                report.problems.push(format!("the account cannot be inspected: {error:#}"));
                report.cloud = Some(Cloud {
                    installation: self.settings.aws.prefix.clone(),
                    account: None,
                    region: self.settings.aws.region.clone(),
                    instances: None,
                });
            }
        }
        report.problems.extend(controller::problems(&controller, seen.as_ref(), &report.queues, now));
        report.problems.extend(eirs_web::tls::aged(&self.settings.web.tls, now));
        report.pools = seen.filter(|_| controller.running).map(|seen| seen.pools).unwrap_or_default();
        report.controller = controller;
        report
    }
}

impl Place {
    fn new(account: Account) -> Self {
        let store = |bucket: &str| {
            let blobs: SharedBlobs = Arc::new(S3Blobs::new(account.s3.clone(), bucket));
            Store { blobs, bucket: Some(bucket.to_owned()) }
        };
        let stores = Stores::new(store(account.input_bucket()), store(account.output_bucket()), PAUSE);
        Self { account, stores, drift: None }
    }

    /// Inspects everything concurrently; each failed part becomes a sentence.
    async fn look(
        &mut self,
        report: &mut Report,
        controller: &mut Controller,
        status: Option<&Status>,
        now: DateTime<Utc>,
    ) {
        let Self { account, stores, drift } = self;
        let policies = policies(&account.settings, status);
        let known = policies.as_ref().ok();
        let around = async {
            let machines = instances::list(account).await;
            let is_due = drift.as_ref().is_none_or(|(until, _)| Instant::now() >= *until);
            if is_due {
                let listed = machines.as_ref().ok().map(Vec::as_slice);
                let differences = drift::look(account, listed, known, now).await;
                *drift = Some((Instant::now() + PAUSE, differences));
            }
            (machines, drift.as_ref().map(|(_, drift)| drift.clone()).unwrap_or_default())
        };
        let ((machines, drift), queues, counted) =
            tokio::join!(around, queues::look(account, now), stores.look());

        let machines = machines
            .inspect_err(|error| {
                report.problems.push(format!("the instances cannot be listed: {}", drift::short(error)))
            })
            .ok();
        // A web host runs a controller, unless this machine is that host. If the hosts are unknown,
        // no problem is reported.
        let has_host = |machines: &Vec<Machine>| machines.iter().any(Machine::is_web_host);
        let may_be = queues.hosts > 0 || machines.as_ref().is_none_or(has_host);
        controller.elsewhere &= may_be || state::is_closed(&account.settings.local.state);
        if !controller.running && !controller.elsewhere {
            report.problems.extend(instances::unwatched(machines.as_deref().unwrap_or_default()));
        }
        report.problems.extend(queues.problems);
        report.problems.extend(common::problems(&queues.queues));
        report.problems.extend(counted.problems);
        report.problems.extend(drift.unseen);
        report.drift = drift.differences;
        report.notes.extend(drift.notes);
        report.queues = queues.queues;
        (report.images, report.results, report.newest) = (counted.images, counted.results, counted.newest);
        if let Err(why) = policies {
            report.notes.push(format!("{why:#}: the pools are not compared with their policies"));
        }
        report.cloud = Some(Cloud {
            installation: account.prefix().to_owned(),
            account: Some(account.id.clone()),
            region: Some(account.region.clone()),
            instances: machines,
        });
    }
}

/// Returns the policies in force here, as far as their files are valid.
fn policies(settings: &Settings, status: Option<&Status>) -> anyhow::Result<Policies> {
    let folder = status::policy_folder(settings, status);
    let read = load::read_folder(&folder)
        .map_err(|complaint| anyhow::anyhow!("{complaint}"))
        .with_context(|| format!("no policies are seen in {}", folder.display()))?;
    let mut policies = Policies::default();
    for (name, read) in read.files {
        match read {
            Ok(policy) => _ = policies.pools.insert(name, policy),
            Err(_) => _ = policies.unreadable.insert(name),
        }
    }
    Ok(policies)
}

impl Cloud {
    pub(super) fn head(&self) -> String {
        let (account, region) =
            (self.account.as_deref().unwrap_or("?"), self.region.as_deref().unwrap_or("?"));
        let name = style(&self.installation).bold();
        format!("The installation {name} in the account {account}, {region}.\n")
    }

    pub(super) fn instances_text(&self, now: DateTime<Utc>) -> String {
        let Some(machines) = &self.instances else { return String::new() };
        format!("\n{}", instances::text(machines, self.region.as_deref().unwrap_or_default(), now))
    }
}

#[cfg(test)]
mod tests;
