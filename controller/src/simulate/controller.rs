//! The controller as it is, on a simulated site: the same reports, history, decision and order of actions as in
//! [`reconcile`](crate::reconcile).

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use eirs_platform::job;

use super::{
    run::{Again, Driver},
    setup::{Setup, micros},
    site::{Load, Site},
};
use crate::{
    decide::{Action, History, Plan, check::check, decide},
    observe::{Arrivals, Observation, PoolView, Reports},
    operator::Operator,
    policy::{Policies, Policy},
};

/// Observes, decides and acts.
#[derive(Debug)]
pub(super) struct Controller<'a> {
    setup: &'a Setup,
    policies: Policies,
    reports: Reports,
    history: Option<History>,
    /// Holds every plan to the rules that any plan must keep.
    checks: bool,
}

impl<'a> Controller<'a> {
    pub(super) fn new(setup: &'a Setup, policy: Policy, checks: bool) -> Self {
        let pools = BTreeMap::from([(Load::POOL.to_owned(), policy)]);
        let policies = Policies { pools, ..Policies::default() };
        Self { setup, policies, reports: Reports::default(), history: None, checks }
    }

    fn policy(&self) -> &Policy {
        &self.policies.pools[Load::POOL]
    }

    /// Looks at everything, as the real observer does.
    fn observe(&self, site: &mut Site<'_>) -> Observation {
        let pool = &self.policy().pool;
        site.furnish(pool.max, &pool.model);
        let now = site.wall();
        let mut missing = Vec::new();
        let depth = site.read_depth().inspect_err(|error| missing.push(error.clone())).ok();
        let Arrivals { per_second, last, total } = self.reports.arrivals(&pool.model, now);
        let view = PoolView { depth, arrivals_per_s: per_second, last_arrival: last, arrived: total };
        let instances = site.list(pool.max).inspect_err(|error| missing.push(error.clone())).ok();
        Observation {
            at: now,
            pools: BTreeMap::from([(Load::POOL.to_owned(), view)]),
            instances: instances.map(|instances| self.reports.assign(instances, now)),
            can_undrain: self.setup.can_undrain,
            hears: self.reports.are_received(),
            missing,
            operator: Operator::default(),
            refused: BTreeMap::new(),
        }
    }

    /// Carries out a plan, the starts first and all in one call; answers whether all went well. In bad luck it is killed on the way.
    fn act(&self, plan: &Plan, site: &mut Site<'_>) -> bool {
        let dies_after = if site.faults.happens(self.setup.faults.restart_in_plan) {
            site.restarts = true;
            site.faults.below(1 + plan.actions().count())
        } else {
            usize::MAX
        };
        let faults = &self.setup.faults;
        let is_start = |action: &&Action| matches!(action, Action::Start { .. });
        let starts: Vec<_> = plan.actions().filter(is_start).filter_map(number).take(dies_after).collect();
        let mut went_well = site.start(&starts).is_empty();
        let others = plan.actions().filter(|action| !is_start(action));
        for action in others.take(dies_after.saturating_sub(starts.len())) {
            let Some(machine) = number(action) else { continue };
            if site.faults.happens(faults.call_errors) {
                went_well = false;
                continue;
            }
            match action {
                Action::Start { .. } => {}
                Action::Undrain { .. } => site.undrain(machine),
                Action::Drain { deadline, .. } => site.drain(machine, *deadline),
                Action::Stop { .. } => site.stop(machine),
            }
            went_well &= !site.faults.happens(faults.lost_answers);
        }
        went_well
    }
}

impl Driver for Controller<'_> {
    fn pass(&mut self, site: &mut Site<'_>) -> Again {
        let seen = self.observe(site);
        let new = || History::new(3 * self.setup.tick + Duration::from_secs(60));
        let history = self.history.take().unwrap_or_else(new).observe(&seen);
        let plan = decide(&self.policies, &seen, &history);
        if self.checks {
            let broken = check(&self.policies, &seen, &history, &plan);
            site.wrong.extend(broken.into_iter().map(|rule| format!("at {}: {rule}", seen.at)));
        }
        self.history = Some(history.remember(&plan));
        site.limit = self.policy().pool.max as usize;
        let acts = plan.actions().next().is_some();
        if acts && self.act(&plan, site) {
            return Again::Now;
        }
        let next = plan.look_again().map_or(self.setup.tick, |soon| soon.min(self.setup.tick));
        Again::At(site.now + micros(next))
    }

    fn listens(&self) -> bool {
        true
    }

    fn hear(&mut self, event: job::Event, sent_at: DateTime<Utc>) -> bool {
        self.reports.take(event, sent_at)
    }

    fn restart(&mut self) {
        self.reports = Reports::default();
        self.history = None;
    }

    fn rests_with(&self) -> usize {
        self.policy().pool.min as usize
    }
}

/// The number of the instance that an action is about, from zero.
fn number(action: &Action) -> Option<usize> {
    let (_pool, number) = action.id().rsplit_once('-')?;
    number.parse::<usize>().ok()?.checked_sub(1)
}
