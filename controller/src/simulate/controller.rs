//! Runs the real controller on simulated sites, with the reports, history, decision and order of
//! actions of [`reconcile`](crate::reconcile).

use std::{collections::BTreeMap, path::Path, time::Duration};

use chrono::{DateTime, Utc};
use eirs_platform::{error::Error, job};

use super::{
    load::Load,
    run::{Again, Driver},
    setup::{Setup, micros},
    site::Site,
};
use crate::{
    decide::{Action, History, Plan, check::check, decide, history::Learnt},
    fleet::Refusal,
    observe::{InstanceView, Observation, Reports},
    operator::Operator,
    policy::{Policies, Policy, parse},
    refusals::Refusals,
};

/// The controller: observes, decides and acts.
#[derive(Debug)]
pub(super) struct Controller<'a> {
    setup: &'a Setup,
    /// Names of the pools, in the order of the sites.
    names: Vec<String>,
    policies: Policies,
    /// Whether the current text of the first policy's file is valid.
    is_good: bool,
    reports: Reports,
    history: History,
    refusals: Refusals,
    /// The last list of instances, which is updated in place: building it takes longer than
    /// deciding.
    listed: Vec<InstanceView>,
    /// The last wanted number for each site: with at most this many instances and no jobs, the run
    /// may end.
    settles_with: Vec<usize>,
}

impl<'a> Controller<'a> {
    pub(super) fn new(setup: &'a Setup, loads: &[Load<'_>], policies: Policies) -> Self {
        let names: Vec<_> = loads.iter().map(|load| load.pool.clone()).collect();
        Self {
            setup,
            settles_with: vec![0; names.len()],
            names,
            policies,
            is_good: true,
            reports: Reports::default(),
            history: new_history(setup),
            refusals: Refusals::default(),
            listed: Vec::new(),
        }
    }

    pub(super) fn alone(load: &Load<'a>, policy: Policy) -> Self {
        let pools = BTreeMap::from([(load.pool.clone(), policy)]);
        let policies = Policies { pools, ..Policies::default() };
        Self::new(load.setup, std::slice::from_ref(load), policies)
    }

    /// Maximum number of instances of a pool.
    fn max(&self, site: usize) -> u32 {
        self.policies.pools.get(&self.names[site]).map_or(0, Policy::most)
    }

    /// Makes an observation like the real observer.
    fn observe(&mut self, sites: &mut [Site<'_>]) -> Observation {
        let now = sites[0].wall();
        let (mut missing, mut pools, mut listed) = (Vec::new(), BTreeMap::new(), true);
        let mut place = 0;
        for (number, site) in sites.iter_mut().enumerate() {
            let name = &self.names[number];
            if let Some(policy) = self.policies.pools.get(name) {
                site.furnish_tiers(policy);
                let depth = site.read_depth().inspect_err(|error| missing.push(error.clone())).ok();
                pools.insert(name.clone(), self.reports.arrivals(&policy.pool.model).view(depth));
            }
            let max = self.max(number);
            match site.list(max, &mut self.listed, place) {
                Ok(end) => place = end,
                Err(error) => {
                    listed = false;
                    missing.push(error);
                }
            }
        }
        let instances = listed.then(|| {
            self.listed.truncate(place);
            self.reports.assign_to(&mut self.listed, now);
            std::mem::take(&mut self.listed)
        });
        Observation {
            at: now,
            pools,
            instances,
            hears: self.reports.are_received(),
            missing,
            operator: Operator::default(),
            refused: self.refusals.now(now),
            versions: BTreeMap::new(),
        }
    }

    /// Carries out a plan, starts first and all of a site in one call, and records the refusals. A
    /// fault may kill the controller in between. Returns whether all actions succeeded.
    fn act(&mut self, plan: &Plan, sites: &mut [Site<'_>]) -> bool {
        let dies_after = if sites[0].goes_wrong(self.setup.faults.restart_in_plan) {
            sites[0].restarts = true;
            sites[0].any_below(1 + plan.actions().count())
        } else {
            usize::MAX
        };
        let mut refusals = Vec::new();
        let mut done = 0;
        for is_start in [true, false] {
            for (number, site) in sites.iter_mut().enumerate() {
                let Some(part) = plan.pools.get(&self.names[number]) else { continue };
                let kind = |action: &&Action| matches!(action, Action::Start { .. }) == is_start;
                let actions: Vec<_> =
                    part.actions.iter().filter(kind).take(dies_after.saturating_sub(done)).collect();
                done += actions.len();
                if is_start {
                    let starts: Vec<_> = actions.into_iter().filter_map(instance_number).collect();
                    let refused = site.start(&starts);
                    let error = || Error::no_capacity("starting", "no capacity (simulated)");
                    refusals.extend(
                        refused
                            .into_iter()
                            .map(|machine| Refusal { id: site.load.id(machine), error: error() }),
                    );
                } else {
                    actions.into_iter().for_each(|action| send_order(action, site, &mut refusals));
                }
            }
        }
        self.refusals.note(&plan.verbs(), &refusals, sites[0].wall());
        refusals.is_empty()
    }
}

fn send_order(action: &Action, site: &mut Site<'_>, refusals: &mut Vec<Refusal>) {
    let Some(machine) = instance_number(action) else { return };
    let faults = &site.setup.faults;
    let failed = || Refusal {
        id: action.id().to_owned(),
        error: Error::unavailable("sending the order", "simulated fault"),
    };
    if site.goes_wrong(faults.call_errors) {
        refusals.push(failed());
        return;
    }
    match action {
        Action::Start { .. } => {}
        Action::Drain { deadline, .. } => site.drain(machine, *deadline),
        Action::Stop { .. } => site.stop(machine),
    }
    if site.goes_wrong(faults.lost_answers) {
        refusals.push(failed());
    }
}

impl Driver for Controller<'_> {
    fn pass(&mut self, sites: &mut [Site<'_>]) -> Again {
        let seen = self.observe(sites);
        let history = std::mem::replace(&mut self.history, History::new(Duration::ZERO)).observe(&seen);
        let plan = decide(&self.policies, &seen, &history);
        if self.setup.checks {
            let broken = check(&self.policies, &seen, &history, &plan);
            let second = sites[0].now / 1_000_000;
            sites[0].wrong.extend(broken.into_iter().map(|rule| format!("at {second} s: {rule}")));
        }
        self.history = history.remember(&plan);
        for (number, site) in sites.iter_mut().enumerate() {
            site.limit = self.max(number) as usize;
            self.settles_with[number] =
                plan.pools.get(&self.names[number]).map_or(0, |pool| pool.clamped as usize);
        }
        self.listed = seen.instances.unwrap_or_default();
        let acts = plan.actions().next().is_some();
        if acts && self.act(&plan, sites) {
            return Again::Now;
        }
        let next = plan.look_again(|_| false).map_or(self.setup.tick, |soon| soon.min(self.setup.tick));
        Again::At(sites[0].now + micros(next))
    }

    fn listens(&self) -> bool {
        true
    }

    fn hear(&mut self, mail: Vec<(job::Event, DateTime<Utc>)>, now: DateTime<Utc>) -> bool {
        self.reports.note_skew(mail.iter().map(|(_, sent_at)| *sent_at).max(), now);
        mail.into_iter().fold(false, |news, (event, sent_at)| {
            let sent_at = self.reports.corrected(sent_at);
            self.reports.take(event, sent_at) || news
        })
    }

    /// Does what [`Store`](crate::policy::Store) does: the last valid text stays in force.
    fn edit(&mut self, text: &str) {
        let policy = parse(Path::new("pool.toml"), text);
        self.is_good = policy.is_ok();
        if let Ok(policy) = policy {
            self.policies.pools.insert(self.names[0].clone(), policy);
            self.policies.unreadable.clear();
        }
    }

    /// Reads the memory, unless it is lost, and the policy file, which may have become invalid.
    fn restart(&mut self, sites: &mut [Site<'_>]) {
        self.reports = Reports::default();
        let is_lost = sites[0].goes_wrong(self.setup.faults.lost_learnt);
        let learnt = if is_lost { Learnt::default() } else { self.history.learnt().clone() };
        self.history = new_history(self.setup).with_learnt(learnt);
        if !self.is_good {
            self.policies.pools.remove(&self.names[0]);
            self.policies.unreadable.insert(self.names[0].clone());
        }
    }

    fn settles_with(&self, site: usize) -> usize {
        self.settles_with[site]
    }
}

fn new_history(setup: &Setup) -> History {
    History::new(3 * setup.tick + Duration::from_secs(60))
}

/// Index of the instance that an action is about.
fn instance_number(action: &Action) -> Option<usize> {
    let (_pool, number) = action.id().rsplit_once('-')?;
    number.parse::<usize>().ok()?.checked_sub(1)
}
