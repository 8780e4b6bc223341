//! Makes the decision: a pure function of policies, an observation and a history that returns a
//! plan. It uses no clock, no randomness, no log and no I/O.
//!
//! The stages, in order: the instances that each rule wants, the largest of these, the spare
//! instances, `min` and `max`, the budget, the limit on all pools, and then the holds. The plan
//! keeps the result of every stage. Starts and drains come from one ordered list of instances
//! ([`rank`]) and one rule for which of them may stop ([`draft`]). [`check`] states independently
//! what must hold of any plan.

mod budget;
mod demand;
mod draft;
mod forecast;
mod queueing;
mod rank;
mod roster;
mod trust;

pub mod check;
pub mod history;
pub mod plan;

use std::collections::{BTreeMap, BTreeSet};

pub(crate) use self::roster::left_alone_until;
pub use self::{
    demand::Load,
    history::{Facts, History},
    plan::{Action, Because, Cause, Hold, Plan, PoolPlan, Wish},
};
use self::{
    draft::{Draft, Why},
    plan::Hold::NoGoodPolicy,
    roster::Roster,
};
use crate::{
    observe::Observation,
    policy::{Policies, ScaleIn},
};

/// The input of a decision besides the policies.
#[derive(Debug, Clone, Copy)]
struct Known<'a> {
    seen: &'a Observation,
    history: &'a History,
}

/// Returns what to do now. `history` must already include `seen`.
pub fn decide(policies: &Policies, seen: &Observation, history: &History) -> Plan {
    let known = Known { seen, history };
    let pools = policies.pools.iter();
    let mut drafts: Vec<_> = pools.map(|(name, policy)| Draft::new(name, policy, known)).collect();
    let wants: Vec<_> = drafts.iter().map(Draft::want).collect();
    for (draft, share) in drafts.iter_mut().zip(demand::shares(policies.instance_limit, &wants)) {
        draft.get(share);
    }
    scale_out(&mut drafts, policies, seen);
    drafts.iter_mut().for_each(Draft::scale_in);
    rebalance(&mut drafts, policies);
    let mut pools: BTreeMap<_, _> = drafts.into_iter().map(Draft::into_plan).collect();
    pools.extend(without_policy(policies, known));
    Plan { at: seen.at, pools }
}

/// Starts instances one at a time, each for the pool that has the fewest, until the limit is
/// reached. Canaries use the places that are left.
fn scale_out(drafts: &mut [Draft<'_>], policies: &Policies, seen: &Observation) {
    let Some(instances) = &seen.instances else { return };
    let alive = size(instances.iter().filter(|view| view.instance.is_alive()).count());
    let mut room = policies.instance_limit.map_or(u32::MAX, |limit| limit.saturating_sub(alive));
    let mut startable: Vec<_> = drafts.iter().map(|draft| draft.startable().into_iter()).collect();
    while room > 0 {
        let may_start = |index: &usize| startable[*index].len() > 0 && drafts[*index].wants_one();
        let next = (0..drafts.len()).filter(may_start).min_by_key(|index| drafts[*index].running_after());
        let Some((next, view)) = next.and_then(|next| Some((next, startable[next].next()?))) else { break };
        drafts[next].start(view);
        room -= 1;
    }
    for draft in drafts.iter_mut() {
        draft.hold_missing(room > 0);
    }
    for draft in drafts {
        if let Some(canary) = draft.canary().filter(|_| room > 0) {
            draft.send(canary);
            room -= 1;
        }
    }
}

/// Under the limit on all pools, drains instances of pools above their share to make room for pools
/// below it. As in any scale-in, `max_step` and the billing minimum apply, except where more
/// instances run than the limit allows.
fn rebalance(drafts: &mut [Draft<'_>], policies: &Policies) {
    let Some(limit) = policies.instance_limit else { return };
    let running: u32 = drafts.iter().map(Draft::running_after).sum();
    let lacking: u32 = drafts.iter().map(Draft::lacks).sum();
    // Places that become free anyway count first.
    let leaving: u32 = drafts.iter().map(Draft::leaving).sum();
    let is_over = running > limit;
    let excess = (running + lacking).saturating_sub(limit);
    for _ in 0..if is_over { excess } else { excess.min(lacking.saturating_sub(leaving)) } {
        let mut richest: Vec<_> =
            (0..drafts.len()).filter(|index| drafts[*index].may_give_up(is_over) > 0).collect();
        richest.sort_by_key(|index| std::cmp::Reverse(drafts[*index].may_give_up(is_over)));
        if !richest.into_iter().any(|index| drafts[index].dismiss(1, Why::Rebalance { is_over }) > 0) {
            return;
        }
    }
}

/// Plans for instances of pools without a policy: drains them if the policy was removed, and leaves
/// them alone if it cannot be read.
fn without_policy(policies: &Policies, known: Known<'_>) -> Vec<(String, PoolPlan)> {
    let alive = known.seen.instances.iter().flatten().filter(|view| view.instance.is_alive());
    let mut names: BTreeSet<_> = alive.map(|view| &view.instance.pool).collect();
    names.extend(&policies.unreadable);
    names.retain(|name| !policies.pools.contains_key(*name));
    let plan = |name: &String| {
        let roster = Roster::of(name, None, known);
        let mut plan = roster.count();
        if policies.unreadable.contains(name) {
            plan.desired = size(roster.useless.len());
            plan.holds.push(NoGoodPolicy);
        } else {
            plan.actions.extend(roster.departures(&ScaleIn::default(), known.seen.at));
        }
        (name.clone(), plan)
    };
    names.into_iter().map(plan).collect()
}

fn size(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
pub(crate) mod tests;
