//! The controller as it is, on a simulated site: the same reports, history, decision and order of actions as in
//! [`reconcile`](crate::reconcile).

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
    observe::{Observation, Reports},
    operator::Operator,
    policy::{Policies, Policy, parse},
    refusals::Refusals,
};

/// Observes, decides and acts.
#[derive(Debug)]
pub(super) struct Controller<'a> {
    setup: &'a Setup,
    policies: Policies,
    /// Whether the policy's file is good as it is now.
    is_good: bool,
    reports: Reports,
    history: History,
    refusals: Refusals,
    /// What it wished at last: with so many instances and no work it is at rest.
    rests_with: usize,
}

impl<'a> Controller<'a> {
    pub(super) fn new(setup: &'a Setup, policy: Policy) -> Self {
        let pools = BTreeMap::from([(Load::POOL.to_owned(), policy)]);
        let policies = Policies { pools, ..Policies::default() };
        let (reports, history) = (Reports::default(), new_history(setup));
        Self {
            setup,
            policies,
            is_good: true,
            reports,
            history,
            refusals: Refusals::default(),
            rests_with: 0,
        }
    }

    fn policy(&self) -> Option<&Policy> {
        self.policies.pools.get(Load::POOL)
    }

    /// No more instances than this may be alive by what it does.
    fn max(&self) -> u32 {
        self.policy().map_or(0, |policy| policy.pool.max)
    }

    /// Looks at everything, as the real observer does.
    fn observe(&self, site: &mut Site<'_>) -> Observation {
        let now = site.wall();
        let (mut missing, mut pools) = (Vec::new(), BTreeMap::new());
        if let Some(Policy { pool, .. }) = self.policy() {
            site.furnish(pool.max, &pool.model);
            let depth = site.read_depth().inspect_err(|error| missing.push(error.clone())).ok();
            pools.insert(Load::POOL.to_owned(), self.reports.arrivals(&pool.model, now).view(depth));
        }
        let instances = site.list(self.max()).inspect_err(|error| missing.push(error.clone())).ok();
        Observation {
            at: now,
            pools,
            instances: instances.map(|instances| self.reports.assign(instances, now)),
            can_undrain: self.setup.can_undrain,
            hears: self.reports.are_received(),
            missing,
            operator: Operator::default(),
            refused: self.refusals.now(now),
            versions: BTreeMap::new(),
        }
    }

    /// Carries out a plan, the starts first and all in one call; notes who did not do as told. In bad
    /// luck it is killed on the way. Answers whether all went well.
    fn act(&mut self, plan: &Plan, site: &mut Site<'_>) -> bool {
        let dies_after = if site.goes_wrong(self.setup.faults.restart_in_plan) {
            site.restarts = true;
            site.any_below(1 + plan.actions().count())
        } else {
            usize::MAX
        };
        let faults = &self.setup.faults;
        let is_start = |action: &&Action| matches!(action, Action::Start { .. });
        let starts: Vec<_> = plan.actions().filter(is_start).filter_map(number).take(dies_after).collect();
        let refused = site.start(&starts);
        let no_capacity = || Error::no_capacity("starting it", "there is none just now");
        let refusal = |machine: usize| Refusal { id: site.load.id(machine), error: no_capacity() };
        let mut refusals: Vec<_> = refused.into_iter().map(refusal).collect();
        let others = plan.actions().filter(|action| !is_start(action));
        for action in others.take(dies_after.saturating_sub(starts.len())) {
            let Some(machine) = number(action) else { continue };
            let failed = || Refusal {
                id: action.id().to_owned(),
                error: Error::unavailable("telling it", "bad luck"),
            };
            if site.goes_wrong(faults.call_errors) {
                refusals.push(failed());
                continue;
            }
            match action {
                Action::Start { .. } => {}
                Action::Undrain { .. } if !site.undrain(machine) => refusals.push(failed()),
                Action::Undrain { .. } => {}
                Action::Drain { deadline, .. } => site.drain(machine, *deadline),
                Action::Stop { .. } => site.stop(machine),
            }
            if site.goes_wrong(faults.lost_answers) {
                refusals.push(failed());
            }
        }
        self.refusals.note(plan, &refusals, site.wall());
        refusals.is_empty()
    }
}

impl Driver for Controller<'_> {
    fn pass(&mut self, site: &mut Site<'_>) -> Again {
        let seen = self.observe(site);
        let history = std::mem::replace(&mut self.history, History::new(Duration::ZERO)).observe(&seen);
        let plan = decide(&self.policies, &seen, &history);
        if self.setup.checks {
            let broken = check(&self.policies, &seen, &history, &plan);
            let second = site.now / 1_000_000;
            site.wrong.extend(broken.into_iter().map(|rule| format!("at {second} s: {rule}")));
        }
        self.history = history.remember(&plan);
        site.limit = self.max() as usize;
        self.rests_with = plan.pools.get(Load::POOL).map_or(0, |pool| pool.clamped as usize);
        let acts = plan.actions().next().is_some();
        if acts && self.act(&plan, site) {
            return Again::Now;
        }
        let next = plan.look_again(|_| false).map_or(self.setup.tick, |soon| soon.min(self.setup.tick));
        Again::At(site.now + micros(next))
    }

    fn listens(&self) -> bool {
        true
    }

    fn hear(&mut self, event: job::Event, sent_at: DateTime<Utc>) -> bool {
        self.reports.take(event, sent_at)
    }

    /// As [`Store`](crate::policy::Store) does: the last good text stays in force.
    fn edit(&mut self, text: &str) {
        let policy = parse(Path::new("pool.toml"), text);
        self.is_good = policy.is_ok();
        if let Ok(policy) = policy {
            self.policies.pools.insert(Load::POOL.to_owned(), policy);
            self.policies.unreadable.clear();
        }
    }

    /// What it learnt is read from its file, and the policy from the other one, which may have become bad meanwhile.
    fn restart(&mut self, site: &mut Site<'_>) {
        self.reports = Reports::default();
        let is_lost = site.goes_wrong(self.setup.faults.lost_learnt);
        let learnt = if is_lost { Learnt::default() } else { self.history.learnt().clone() };
        self.history = new_history(self.setup).with_learnt(learnt);
        if !self.is_good {
            self.policies.pools.clear();
            self.policies.unreadable.insert(Load::POOL.to_owned());
        }
    }

    fn rests_with(&self) -> usize {
        self.rests_with
    }
}

fn new_history(setup: &Setup) -> History {
    History::new(3 * setup.tick + Duration::from_secs(60))
}

/// The number of the instance that an action is about, from zero.
fn number(action: &Action) -> Option<usize> {
    let (_pool, number) = action.id().rsplit_once('-')?;
    number.parse::<usize>().ok()?.checked_sub(1)
}
