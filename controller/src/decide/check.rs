//! States what must hold of any plan, independently of how the plan was made.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Action, Cause, History, Known, Plan, budget,
    draft::BUSY_WINDOW,
    history::Career,
    trust::{SILENT, Trust},
};
use crate::{
    fleet::State,
    observe::{InstanceView, Observation, Stage, age},
    policy::{Policies, Policy, Pool},
    refusals::Refused,
};

/// Returns every rule that a plan breaks, one sentence each. The rules:
/// - An action fits its instance: start only one that is stopped, not left alone and not cordoned;
///   stop only one that is drained or whose drain is overdue; drain only one that runs, for a cause
///   that is true.
/// - A pool stays within `min..max`, and all pools within the limit on all pools, counting
///   instances that start and drain.
/// - A pool stays within its daily budget, counting instances that keep running.
/// - No instance is drained for lack of work before its billing minimum.
/// - A pool with an incomplete observation loses no instance.
/// - The last instance is drained only after the backlog, waiting and in flight, was empty for the
///   whole window, unless `max`, the budget or the limit force it.
pub fn check(policies: &Policies, seen: &Observation, history: &History, plan: &Plan) -> Vec<String> {
    // Most plans have no action, and then no instance is looked up.
    let listed = seen.instances.iter().flatten().filter(|_| plan.actions().next().is_some());
    let views: BTreeMap<_, _> = listed.map(|view| (view.instance.id.as_str(), view)).collect();
    let limit = policies.instance_limit.map(|limit| limit as usize);
    let serving = |name: &String| Counted::new(name, policies.pools.get(name), seen, history, false).running;
    let is_over = limit.is_some_and(|limit| plan.pools.keys().map(serving).sum::<usize>() > limit);
    let mut broken = Vec::new();
    let mut touched = BTreeSet::new();
    for (name, part) in &plan.pools {
        let mut pool = Counted::new(name, policies.pools.get(name), seen, history, is_over);
        for action in &part.actions {
            let Some(view) = views.get(action.id()).filter(|view| view.instance.pool == *name) else {
                broken.push(format!("{action}: {name} has no such instance"));
                continue;
            };
            if !touched.insert(action.id()) {
                broken.push(format!("{action}: the second action for one instance"));
            }
            let wrong = pool.apply(action, view);
            broken.extend(wrong.map(|wrong| format!("{name}: {action}: {wrong}")));
        }
        broken.extend(pool.complaints().into_iter().map(|complaint| format!("{name}: {complaint}")));
        if policies.unreadable.contains(name)
            && !policies.pools.contains_key(name)
            && !part.actions.is_empty()
        {
            broken.push(format!("{name}: acted without a readable policy"));
        }
    }
    let alive = views.values().filter(|view| view.instance.is_alive()).count();
    let starts = plan.actions().filter(|action| matches!(action, Action::Start { .. })).count();
    if let Some(limit) = limit
        && starts > 0
        && alive + starts > limit
    {
        broken.push(format!("{alive} live and {starts} more start, above the limit of {limit}"));
    }
    broken
}

/// The counts of one pool, updated action by action.
struct Counted<'a> {
    name: &'a str,
    policy: Option<&'a Policy>,
    seen: &'a Observation,
    history: &'a History,
    /// Instances that run, are not ordered to stop, and serve the policy's model.
    running: usize,
    running_before: usize,
    alive: usize,
    started: usize,
    /// Instances drained because there are too many, not because they are of no use.
    dismissed: usize,
    gives_up: bool,
    is_unpaid: bool,
    /// Whether all pools together have more serving instances than the limit allows.
    is_over: bool,
    loses: bool,
    /// Whether a running instance is being replaced by an update.
    retiring: bool,
}

impl<'a> Counted<'a> {
    fn new(
        name: &'a str,
        policy: Option<&'a Policy>,
        seen: &'a Observation,
        history: &'a History,
        is_over: bool,
    ) -> Self {
        let (mut running, mut alive, mut retiring) = (0, 0, false);
        for view in seen.instances.iter().flatten().filter(|view| view.instance.pool == name) {
            let right_model = policy.is_some_and(|policy| policy.pool.model == view.instance.model);
            let runs = matches!(view.stage(), Stage::Starting | Stage::Ready) && right_model;
            running += usize::from(runs);
            alive += usize::from(view.instance.is_alive());
            retiring |= runs && view.instance.retires;
        }
        Self {
            name,
            policy,
            seen,
            history,
            running,
            running_before: running,
            alive,
            started: 0,
            dismissed: 0,
            gives_up: false,
            is_unpaid: false,
            is_over,
            loses: false,
            retiring,
        }
    }

    /// Counts an action, and returns what is wrong with the action itself.
    fn apply(&mut self, action: &Action, view: &InstanceView) -> Option<&'static str> {
        let (now, instance) = (self.seen.at, &view.instance);
        self.loses |= matches!(action, Action::Drain { .. } | Action::Stop { .. });
        match action {
            Action::Start { .. } => {
                self.started += 1;
                self.running += 1;
                let failed = Career::retry_at(self.history.career(&instance.id), instance);
                let refused = self.seen.refused.get(&instance.id).and_then(Refused::retry_at);
                let is_left_alone = failed.max(refused).is_some_and(|until| until > now);
                let serves = self.policy.is_some_and(|policy| policy.pool.model == instance.model);
                match instance.state {
                    _ if self.seen.operator.is_cordoned(&instance.id) => Some("it is cordoned"),
                    State::Stopped if instance.retires => Some("another one replaces it"),
                    State::Stopped if is_left_alone => Some("it crashed and must be left alone"),
                    State::Stopped if !serves => Some("it would serve another model"),
                    State::Stopped => None,
                    State::Running | State::Draining | State::Stopping => Some("it is not stopped"),
                }
            }
            Action::Stop { .. } => {
                let overdue = instance.drain_until.is_some_and(|until| until <= now);
                (!(overdue || view.stage() == Stage::Drained)).then_some("it is neither drained nor overdue")
            }
            Action::Drain { cause, .. } => {
                let served = matches!(view.stage(), Stage::Starting | Stage::Ready);
                self.running -= usize::from(served && *cause != Cause::OtherModel && self.policy.is_some());
                self.dismissed += usize::from(matches!(
                    cause,
                    Cause::Idle | Cause::StartNotNeeded | Cause::OverMax | Cause::OverBudget
                ));
                self.is_unpaid |= matches!(cause, Cause::Idle | Cause::NotNeeded | Cause::StartNotNeeded)
                    && self.policy.is_some_and(|p| age(instance.since, now) < p.instance.billing_minimum);
                self.gives_up |= *cause == Cause::OverShare;
                if instance.state != State::Running {
                    return Some("it does not run");
                }
                (!self.is_true(*cause, view)).then_some("the cause does not hold")
            }
        }
    }

    fn is_true(&self, cause: Cause, view: &InstanceView) -> bool {
        let (now, instance) = (self.seen.at, &view.instance);
        let looked_for = self.history.since().map_or_else(Default::default, |since| age(since, now));
        if cause == Cause::Silent {
            let was_heard = view.heard.as_ref().map(|heard| age(heard.at, now));
            return self.seen.hears && looked_for > SILENT && was_heard.is_some_and(|ago| ago > SILENT);
        }
        if cause == Cause::Hung {
            let idles = self.history.career(&instance.id).and_then(Career::idles_since);
            let waits = self.history.waits_since(self.name);
            let long = |since: Option<chrono::DateTime<chrono::Utc>>| {
                since.is_some_and(|since| age(since, now) > SILENT)
            };
            return view.stage() == Stage::Ready && long(idles) && long(waits);
        }
        let Some(Policy { pool, scale_in, .. }) = self.policy else { return cause == Cause::NoPolicy };
        match cause {
            Cause::Cordoned => self.seen.operator.drains(&instance.id),
            Cause::Idle => {
                let heard = view.heard.as_ref();
                view.stage() == Stage::Ready
                    && view.idle_for(now).is_some_and(|idle| idle >= scale_in.idle)
                    && heard.is_some_and(|heard| heard.report.idle_since.is_some())
            }
            Cause::NotNeeded => {
                let service = view.heard.as_ref().and_then(|heard| heard.service);
                let in_time =
                    service.is_some_and(|s| 4.0 * s.p95_ms / 1e3 <= scale_in.drain_deadline.as_secs_f64());
                let lately = self.history.most_wished(self.name, BUSY_WINDOW.max(scale_in.window), now);
                let fewer = lately.is_some_and(|wished| (wished as usize) < self.running_before);
                view.stage() == Stage::Ready && scale_in.idle.is_zero() && in_time && fewer
            }
            Cause::StartNotNeeded => {
                view.stage() == Stage::Starting && age(instance.since, now) <= looked_for
            }
            Cause::OverMax => self.policy.is_some_and(|policy| self.running_before > policy.most() as usize),
            Cause::OverBudget => self.affordable().is_some_and(|most| self.running_before > most),
            Cause::OverShare => true,
            Cause::NeverReady => {
                let delay = self.policy.map_or(pool.start_delay, |policy| policy.start_delay(instance.tier));
                let patience = delay * Pool::OVERDUE;
                view.stage() == Stage::Starting
                    && age(instance.since, now) > patience
                    && looked_for > patience
                    && !self.works_unheard(view)
            }
            Cause::OtherModel => instance.model != pool.model,
            Cause::OtherVersion => {
                let said = view.heard.as_ref().map(|heard| heard.report.version.as_str());
                let in_force = self.seen.versions.get(&pool.model);
                let is_other = in_force.is_some_and(|now| said.is_some_and(|said| said != now.version));
                is_other && in_force.is_some_and(|now| instance.since < now.since)
            }
            Cause::Updated => instance.retires,
            Cause::NoPolicy | Cause::Silent | Cause::Hung => false,
        }
    }

    fn works_unheard(&self, view: &InstanceView) -> bool {
        let known = Known { seen: self.seen, history: self.history };
        Trust::new(self.name, self.policy, known).works_unheard(view)
    }

    fn affordable(&self) -> Option<usize> {
        let policy = self.policy?;
        let used = self.history.used_today(self.name, policy, self.seen.at);
        budget::affordable(policy, used.time(), self.seen.at).map(|most| most as usize)
    }

    fn complaints(&self) -> Vec<&'static str> {
        let mut broken = Vec::new();
        let is_whole = self.seen.instances.is_some()
            && (self.policy.is_none()
                || self.seen.pools.get(self.name).is_some_and(|pool| pool.depth.is_some()));
        if self.loses && !is_whole {
            broken.push("instances are drained with an incomplete observation");
        }
        let Some(policy) = self.policy else { return broken };
        let Policy { pool, scale_in, .. } = policy;
        // One more may run while one retires.
        let most = policy.most() as usize + usize::from(self.retiring);
        if self.started > 0 && self.alive + self.started > most {
            broken.push("more than max exist at once");
        }
        if is_whole && self.running > most {
            broken.push("more than max continue");
        }
        if self.is_unpaid {
            broken.push("an instance is drained before its billing minimum");
        }
        let affordable = self.affordable().unwrap_or(usize::MAX);
        if is_whole && self.running > affordable {
            broken.push("more continue than the budget allows");
        }
        let kept = (pool.min as usize).min(affordable);
        if self.dismissed > 0 && self.running < kept && !self.gives_up {
            broken.push("fewer than min are left");
        }
        let is_forced = pool.max == 0 || affordable == 0 || (self.gives_up && self.is_over);
        let none_left = self.running == 0 && (self.dismissed > 0 || self.gives_up) && !is_forced;
        let no_work = self.history.peak_over(self.name, scale_in.window, self.seen.at) == Some(0);
        let is_empty = self
            .seen
            .pools
            .get(self.name)
            .and_then(|pool| pool.depth)
            .is_some_and(|depth| depth.backlog() == 0);
        // Jobs that come at regular times are not expected at any moment.
        let is_quiet = no_work || self.history.next_onset(self.name, policy).is_some();
        if none_left && !(is_quiet && is_empty) && !never_any_work(policy) {
            broken.push("the last one is drained although there were jobs within the window");
        }
        broken
    }
}

/// A pool without rules never asks for instances, whatever its backlog.
fn never_any_work(policy: &Policy) -> bool {
    policy.rules.is_empty()
}

#[cfg(test)]
mod tests {
    use eirs_platform::job::Phase;

    use super::*;
    use crate::{
        decide::{
            decide,
            tests::{NOW, at, busy, draining, history, idle, in_state, policies, says, seen, stopped},
        },
        operator::Cordon,
    };

    /// Checks a plan whose only action is `action`, and expects a sentence that contains
    /// `expected`.
    #[track_caller]
    fn check_one(
        text: &str,
        backlog: Option<u64>,
        instances: Vec<InstanceView>,
        action: Action,
        expected: &str,
    ) {
        let policies = policies(&[("p", text)]);
        let seen = seen(&[("p", backlog)], instances);
        let history = history(&[(2000, backlog.unwrap_or(0))], &seen);
        let mut plan = decide(&policies, &seen, &history);
        plan.pools.get_mut("p").expect("its plan").actions = vec![action];
        let broken = check(&policies, &seen, &history, &plan);
        assert!(broken.iter().any(|sentence| sentence.contains(expected)), "{expected}: {broken:#?}");
    }

    fn start(id: &str) -> Action {
        Action::Start { id: id.to_owned() }
    }

    fn drain(id: &str, cause: Cause) -> Action {
        Action::Drain { id: id.to_owned(), deadline: std::time::Duration::ZERO, cause }
    }

    fn stop(id: &str) -> Action {
        Action::Stop { id: id.to_owned() }
    }

    #[test]
    fn check_finds_every_kind_of_bad_plan() {
        check_one("", Some(5), vec![busy("p-1")], start("p-1"), "it is not stopped");
        check_one("", Some(5), vec![], start("p-1"), "p has no such instance");
        check_one(
            "max = 1",
            Some(50),
            vec![busy("p-1"), stopped("p-2")],
            start("p-2"),
            "more than max exist at once",
        );
        check_one("", Some(5), vec![draining("p-1", NOW + 1)], stop("p-1"), "neither drained nor overdue");
        check_one("", Some(0), vec![busy("p-1")], drain("p-1", Cause::Idle), "the cause does not hold");
        check_one("", Some(0), vec![idle("p-1", 5)], drain("p-1", Cause::Idle), "the cause does not hold");
        check_one("", Some(0), vec![busy("p-1")], drain("p-1", Cause::OverMax), "the cause does not hold");
        check_one("", Some(0), vec![busy("p-1")], drain("p-1", Cause::Silent), "the cause does not hold");
        check_one("", None, vec![idle("p-1", 500)], drain("p-1", Cause::Idle), "an incomplete observation");
        check_one("min = 1", Some(0), vec![idle("p-1", 500)], drain("p-1", Cause::Idle), "fewer than min");
        check_one("", Some(3), vec![idle("p-1", 500)], drain("p-1", Cause::Idle), "the last one is drained");
        let drained = says(in_state("p-1", State::Draining, NOW - 9), Phase::Drained, NOW, Some(NOW));
        let mut crashed = stopped("p-2");
        (crashed.instance.crashes, crashed.instance.since) = (1, at(NOW));
        check_one("", Some(3), vec![drained, crashed], start("p-2"), "left alone");
        check_one("", Some(3), vec![busy("p-1")], drain("p-1", Cause::Cordoned), "the cause does not hold");
    }

    #[test]
    fn a_plan_that_starts_a_cordoned_instance_is_bad() {
        let policies = policies(&[("p", "")]);
        let mut seen = seen(&[("p", Some(5))], vec![stopped("p-1")]);
        let history = history(&[], &seen);
        let plan = decide(&policies, &seen, &history);
        let cordon = Cordon { since: at(NOW), by: None, drain: false };
        seen.operator.cordoned.insert("p-1".to_owned(), cordon);
        assert_eq!(check(&policies, &seen, &history, &plan), ["p: start p-1: it is cordoned"]);
    }
}
