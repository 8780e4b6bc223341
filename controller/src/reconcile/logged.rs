//! The log of the control loop: changes only, and each only once.

use std::collections::BTreeMap;

use crate::{
    alerts::budget_step,
    decide::{History, Plan, PoolPlan, decide},
    fleet::Refusal,
    journal,
    observe::Observation,
    policy::{Policies, Store},
    status::{Decision, Recorder},
};

/// The last logged state.
#[derive(Debug, Default)]
pub(super) struct Logged {
    pub(super) summary: String,
    /// The last plan of each pool, and whether the pool was paused.
    pools: BTreeMap<String, (PoolPlan, bool)>,
    missing: Vec<String>,
    refusals: Vec<String>,
    is_cut_off: bool,
    /// The last logged percentage of each pool's budget.
    budgets: BTreeMap<String, u32>,
    /// The last logged decision of each policy on trial.
    trials: BTreeMap<String, String>,
}

impl Logged {
    /// Logs the changes of a plan, one line per pool, and adds them to the status.
    pub(super) fn plan(&mut self, seen: &Observation, plan: &Plan, history: &History, status: &mut Recorder) {
        for (pool, now) in &plan.pools {
            let paused = seen.operator.paused(pool);
            let before = self.pools.insert(pool.clone(), (now.clone(), paused.is_some()));
            if before.is_some_and(|(before, was_paused)| {
                was_paused == paused.is_some() && is_old_news(&before, now)
            }) {
                continue;
            }
            let decision = Decision::of(plan.at, pool, now, paused.is_some());
            let actions = journal::actions(now);
            let then = match paused {
                _ if actions.is_empty() => "nothing to do".to_owned(),
                Some(order) => format!("would {actions}, but is paused {order}"),
                None => actions.clone(),
            };
            tracing::info!(
                pool,
                backlog = decision.backlog,
                in_flight = now.depth.map(|depth| depth.in_flight),
                arrivals_per_s = history.arrivals_per_s(pool),
                service_time_s = seen.service_s(pool),
                wishes = journal::wishes(now),
                clamps = journal::clamps(now),
                desired = decision.desired,
                running = decision.running,
                holds = journal::holds(now),
                actions,
                paused = paused.is_some(),
                reason = decision.reason,
                "{pool}: {} desired, {} running: {then} ({})",
                decision.desired,
                decision.running,
                decision.reason,
            );
            status.decided(decision);
        }
        self.pools.retain(|pool, _| plan.pools.contains_key(pool));
    }

    /// Warns when half, four fifths and all of a daily budget are used.
    pub(super) fn budgets(&mut self, policies: &Policies, plan: &Plan, history: &History) {
        for (pool, policy) in &policies.pools {
            let used_s = history.used_today(pool, policy, plan.at).instance_s;
            let affordable = plan.pools.get(pool).and_then(|part| part.affordable);
            let reached = budget_step(used_s, policy, affordable);
            let before = self.budgets.insert(pool.clone(), reached).unwrap_or(0);
            if let Some(hours) = policy.budget.instance_hours_per_day.filter(|_| reached > before) {
                tracing::warn!(
                    pool,
                    used_hours = used_s / 3600.0,
                    budget_hours = hours,
                    "{pool}: {reached} % of the day's budget of {hours} instance hours are used"
                );
            }
        }
    }

    /// Logs the decisions of the policies on trial when they change.
    pub(super) fn trials(&mut self, store: &Store, seen: &Observation, history: &History) {
        let Some(policies) = store.on_trial() else {
            self.trials.clear();
            return;
        };
        let plan = decide(&policies, seen, history);
        for pool in store.trials() {
            let Some(part) = plan.pools.get(pool) else { continue };
            let actions = journal::actions(part);
            let would = if actions.is_empty() { "do nothing".to_owned() } else { actions };
            let known = format!("{} {would}", part.desired);
            if self.trials.insert(pool.clone(), known.clone()).as_ref() != Some(&known) {
                let (desired, reason) = (part.desired, part.reason());
                tracing::info!(
                    pool,
                    desired,
                    reason,
                    "{pool} on trial would have {desired} and {would} ({reason})"
                );
            }
        }
    }

    pub(super) fn missing(&mut self, missing: &[String]) {
        for sentence in missing.iter().filter(|sentence| !self.missing.contains(sentence)) {
            tracing::warn!("cannot observe {sentence}; nothing is drained meanwhile");
        }
        if missing.is_empty() && !self.missing.is_empty() {
            tracing::info!("everything can be observed again");
        }
        missing.clone_into(&mut self.missing);
    }

    pub(super) fn refusals(&mut self, refusals: &[Refusal]) {
        let sentence = |Refusal { id, error }: &Refusal| format!("{id}: {error}");
        for refusal in refusals {
            let sentence = sentence(refusal);
            if !self.refusals.contains(&sentence) {
                let error = &refusal.error;
                tracing::warn!(instance = refusal.id, %error, "{sentence}; the next pass tries again");
            }
        }
        self.refusals = refusals.iter().map(sentence).collect();
    }

    pub(super) fn cut_off(&mut self, is_cut_off: bool) {
        match (std::mem::replace(&mut self.is_cut_off, is_cut_off), is_cut_off) {
            (false, true) => {
                tracing::warn!("the claim could not be renewed for too long: nothing is started or drained")
            }
            (true, false) => tracing::info!("the claim is renewed, and this controller acts again"),
            _ => {}
        }
    }
}

/// Whether the log already says this: the same number of instances, no new actions, no new trouble.
fn is_old_news(before: &PoolPlan, now: &PoolPlan) -> bool {
    let trouble =
        |plan: &PoolPlan| plan.holds.iter().filter(|hold| !hold.is_ordinary()).cloned().collect::<Vec<_>>();
    let nothing_new = now.actions.is_empty() || now.actions == before.actions;
    before.desired == now.desired && nothing_new && trouble(before) == trouble(now)
}
