//! The decision: policies, an observation and a history in, a plan out. No clock, no chance, no log, no I/O.
//!
//! In order: each rule's wish, the largest of them, the spare instances, `min` and `max`, the limit on all pools, and
//! then what holds it back. Every stage is kept in the plan. What must hold of any plan is said a second time in [`check`].

mod demand;

mod choose;

pub mod check;
pub mod history;
pub mod plan;

use std::collections::{BTreeMap, BTreeSet};

use self::{
    choose::{Muster, drain},
    plan::Hold::{
        BackOff, Cordoned, Incomplete, Limit, MaxStep, NoGoodPolicy, NoPlace, NoneStopped, NotIdle, TooEarly,
        WasHigher,
    },
};
pub use self::{
    history::History,
    plan::{Action, Cause, Hold, Plan, PoolPlan, Wish},
};
use crate::{
    observe::{InstanceView, Observation, Stage, age},
    policy::{Policies, Policy, ScaleIn},
};

/// What to do now. `history` has seen `seen` already.
pub fn decide(policies: &Policies, seen: &Observation, history: &History) -> Plan {
    let mut drafts: Vec<_> =
        policies.pools.iter().map(|(name, policy)| Draft::new(name, policy, seen, history)).collect();
    let wants: Vec<_> = drafts.iter().map(|draft| (draft.policy.pool.min, draft.plan.clamped)).collect();
    for (draft, share) in drafts.iter_mut().zip(demand::shares(policies.instance_limit, &wants)) {
        draft.plan.share = share;
        draft.plan.desired = share;
    }
    scale_out(&mut drafts, policies, seen, history);
    for draft in &mut drafts {
        draft.scale_in(seen, history);
    }
    cede(&mut drafts, policies, seen, history);
    let mut pools: BTreeMap<_, _> =
        drafts.into_iter().map(|draft| (draft.name.to_owned(), draft.plan)).collect();
    pools.extend(without_policy(policies, seen, history));
    Plan { at: seen.at, pools }
}

/// A pool's part of the plan in the making.
struct Draft<'a> {
    name: &'a str,
    policy: &'a Policy,
    muster: Muster<'a>,
    /// Whether everything about this pool could be seen.
    is_complete: bool,
    plan: PoolPlan,
}

impl<'a> Draft<'a> {
    /// What there is and what is wished.
    fn new(name: &'a str, policy: &'a Policy, seen: &'a Observation, history: &History) -> Self {
        let muster = Muster::of(name, Some(policy), seen, history);
        let depth = seen.pools.get(name).and_then(|pool| pool.depth);
        let mut plan = count(&muster);
        plan.depth = depth;
        match depth {
            Some(depth) => {
                plan.wishes = demand::wishes(policy, depth);
                plan.wished = demand::largest(&plan.wishes);
                plan.clamped = demand::clamp(policy, plan.wished);
            }
            // What is there is not judged; only what is kept in any case is certain.
            None => {
                plan.wished = plan.running();
                plan.clamped = plan.wished.max(policy.pool.min);
            }
        }
        let is_complete = depth.is_some() && seen.instances.is_some();
        if !is_complete {
            plan.holds.push(Incomplete);
        }
        Self { name, policy, muster, is_complete, plan }
    }

    /// Instances that it will count on once the actions so far are done.
    fn running_then(&self) -> u32 {
        let gained =
            self.plan.actions.iter().filter(|a| matches!(a, Action::Start { .. } | Action::Undrain { .. }));
        let of_use = |id: &str| self.muster.serving.iter().any(|view| view.instance.id == id);
        let lost = self.plan.actions.iter().filter(|a| matches!(a, Action::Drain { id, .. } if of_use(id)));
        self.plan.running() + size(gained.count()) - size(lost.count())
    }

    /// Places that will be taken once the actions so far are done: what drains and stops keeps its own.
    fn alive_then(&self) -> u32 {
        let starts = self.plan.actions.iter().filter(|a| matches!(a, Action::Start { .. })).count();
        size(self.muster.alive() + starts)
    }

    fn lacks(&self) -> u32 {
        self.plan.share.saturating_sub(self.running_then())
    }

    fn hold(&mut self, hold: Hold) {
        if !self.plan.holds.contains(&hold) {
            self.plan.holds.push(hold);
        }
    }

    fn drain(&mut self, view: &InstanceView, cause: Cause) {
        self.plan.actions.push(drain(view, &self.policy.scale_in, cause));
    }

    /// Sends away what is too much, of no use or overdue, as far as everything could be seen.
    fn scale_in(&mut self, seen: &Observation, history: &History) {
        if !self.is_complete {
            self.plan.desired = self.plan.desired.max(self.plan.running());
            return;
        }
        let useless = self.muster.useless.iter();
        let scale_in = &self.policy.scale_in;
        self.plan.actions.extend(useless.map(|(view, cause)| drain(view, scale_in, *cause)));
        self.plan.actions.extend(self.muster.stops(seen.at));

        let running = self.plan.running();
        let over_max = running.saturating_sub(self.policy.pool.max) as usize;
        for view in self.muster.cheapest(seen, history).into_iter().take(over_max) {
            self.drain(view, Cause::OverMax);
        }
        let running = self.running_then();
        if running <= self.plan.share {
            return;
        }
        self.plan.desired = self.floor(running, seen, history).clamp(self.plan.share, running);
        let surplus = (running - self.plan.desired) as usize;
        if surplus == 0 {
            return;
        }
        let gone = self.drained();
        let leaving = self.muster.leaving.len() + gone.len();
        let step = (self.policy.scale_in.max_step as usize).saturating_sub(leaving);
        let mut dispensable = self.muster.dispensable(self.policy, seen, history);
        dispensable.retain(|(view, _)| !gone.contains(&view.instance.id));
        if dispensable.len() < surplus {
            self.hold(NotIdle);
        }
        if step < surplus.min(dispensable.len()) {
            self.hold(MaxStep);
        }
        for (view, cause) in dispensable.into_iter().take(surplus.min(step)) {
            self.drain(view, cause);
        }
    }

    /// How many the demand of the whole window calls for.
    fn floor(&mut self, running: u32, seen: &Observation, history: &History) -> u32 {
        let window = self.policy.scale_in.window;
        let Some(peak) = history.peak_over(self.name, window, seen.at) else {
            self.hold(TooEarly);
            return running;
        };
        let arrived_in_window =
            history.last_arrival(self.name).is_some_and(|last| age(last, seen.at) < window);
        // A job that came and was done between two looks is demand as well.
        let peak = peak.max(u64::from(arrived_in_window));
        let floor = demand::for_backlog(self.policy, peak);
        if floor > self.plan.share {
            self.hold(WasHigher { instances: floor });
        }
        floor
    }

    fn drained(&self) -> BTreeSet<String> {
        let drains = self.plan.actions.iter().filter(|action| matches!(action, Action::Drain { .. }));
        drains.map(|action| action.id().to_owned()).collect()
    }
}

/// Takes back drains first, then starts, one at a time for the pool that has the fewest, while there is room.
fn scale_out(drafts: &mut [Draft<'_>], policies: &Policies, seen: &Observation, history: &History) {
    let Some(instances) = &seen.instances else { return };
    for draft in drafts.iter_mut() {
        let undrainable = draft.muster.undrainable(draft.policy, seen, history);
        for view in undrainable.into_iter().take(draft.lacks() as usize) {
            draft.plan.actions.push(Action::Undrain { id: view.instance.id.clone() });
        }
    }
    let alive = size(instances.iter().filter(|view| view.instance.is_alive()).count());
    let mut room = policies.instance_limit.map_or(u32::MAX, |limit| limit.saturating_sub(alive));
    let mut startable: Vec<_> = drafts.iter().map(|draft| draft.muster.startable(seen).into_iter()).collect();
    while room > 0 {
        let wants = |index: &usize| {
            let draft = &drafts[*index];
            startable[*index].len() > 0 && draft.lacks() > 0 && draft.alive_then() < draft.policy.pool.max
        };
        let next = (0..drafts.len()).filter(wants).min_by_key(|index| drafts[*index].running_then());
        let Some((next, view)) = next.and_then(|next| Some((next, startable[next].next()?))) else { break };
        drafts[next].plan.actions.push(Action::Start { id: view.instance.id.clone() });
        room -= 1;
    }
    for draft in drafts {
        let is_limited = draft.plan.share < draft.plan.clamped;
        if draft.lacks() > 0 {
            draft.hold(if draft.alive_then() >= draft.policy.pool.max {
                NoPlace
            } else if room == 0 {
                Limit
            } else {
                let (cordoned, others): (Vec<&InstanceView>, Vec<_>) = draft
                    .muster
                    .stopped
                    .iter()
                    .copied()
                    .partition(|view| seen.operator.is_cordoned(&view.instance.id));
                let until = others.iter().filter_map(|view| view.instance.not_before);
                let instances = size(cordoned.len());
                match until.filter(|until| *until > seen.at).min() {
                    Some(until) => BackOff { until },
                    None if instances > 0 => Cordoned { instances },
                    None => NoneStopped,
                }
            });
        } else if is_limited {
            draft.hold(Limit);
        }
    }
}

/// Under the limit on all pools, who has more than its share makes place for who has less.
fn cede(drafts: &mut [Draft<'_>], policies: &Policies, seen: &Observation, history: &History) {
    let Some(limit) = policies.instance_limit else { return };
    let running: u32 = drafts.iter().map(Draft::running_then).sum();
    let lacking: u32 = drafts.iter().map(Draft::lacks).sum();
    let mut too_many = (running + lacking).saturating_sub(limit);
    // Whether the limit itself was lowered below what runs.
    let is_over = running > limit;
    while too_many > 0 {
        // The last one of a pool goes when the window is over, like any last one.
        let excess = |draft: &Draft<'_>| {
            let keeps = draft.plan.share.max(u32::from(!is_over));
            if draft.is_complete { draft.running_then().saturating_sub(keeps) } else { 0 }
        };
        let richest = drafts.iter_mut().max_by_key(|draft| excess(draft)).filter(|draft| excess(draft) > 0);
        let Some(draft) = richest else { return };
        let gone = draft.drained();
        let cheapest =
            draft.muster.cheapest(seen, history).into_iter().find(|view| !gone.contains(&view.instance.id));
        let Some(view) = cheapest else { return };
        draft.drain(view, Cause::OverShare);
        draft.plan.desired = draft.plan.desired.min(draft.running_then());
        too_many -= 1;
    }
}

/// Instances of pools without a policy: drained where the policy was taken away, left alone where it cannot be read.
fn without_policy(policies: &Policies, seen: &Observation, history: &History) -> Vec<(String, PoolPlan)> {
    let alive = seen.instances.iter().flatten().filter(|view| view.instance.is_alive());
    let mut names: BTreeSet<_> = alive.map(|view| &view.instance.pool).collect();
    names.extend(&policies.unreadable);
    names.retain(|name| !policies.pools.contains_key(*name));
    let plan = |name: &String| {
        let muster = Muster::of(name, None, seen, history);
        let mut plan = count(&muster);
        if policies.unreadable.contains(name) {
            plan.desired = size(muster.useless.len());
            plan.holds.push(NoGoodPolicy);
        } else {
            let drains = muster.useless.iter().map(|(view, cause)| drain(view, &ScaleIn::default(), *cause));
            plan.actions.extend(drains.chain(muster.stops(seen.at)));
        }
        (name.clone(), plan)
    };
    names.into_iter().map(plan).collect()
}

fn count(muster: &Muster<'_>) -> PoolPlan {
    let ready = size(muster.serving.iter().filter(|view| view.stage() == Stage::Ready).count());
    let starting = size(muster.serving.len()) - ready;
    let leaving = size(muster.leaving.len() + muster.useless.len());
    PoolPlan { ready, starting, leaving, ..PoolPlan::default() }
}

fn size(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
pub(crate) mod tests;
