//! A pool's part of the plan in the making: what it wants, who starts, and who may go.

mod surplus;

use std::{collections::BTreeSet, time::Duration};

use super::{
    Known, budget,
    demand::{self, Load, Want},
    plan::{
        Action, Cause,
        Hold::{
            self, BackOff, Budget, Cordoned, Deaf, Incomplete, Limit, MaxStarting, NoCapacity, NoPlace,
            NoneStopped, Unheard,
        },
        PoolPlan,
    },
    rank::{name, worth},
    roster::{Roster, drain, is_canary, is_outdated, last_proof, left_alone_until, spare},
    size,
};
use crate::{
    fleet::Tier,
    observe::{InstanceView, age},
    policy::Policy,
};

/// An instance that works is sent away only when it was one too many for this long: what is busy
/// may be needed in a moment.
pub(super) const BUSY_WINDOW: Duration = Duration::from_secs(300);

/// A pool's part of the plan in the making.
pub(super) struct Draft<'a> {
    name: &'a str,
    policy: &'a Policy,
    known: Known<'a>,
    roster: Roster<'a>,
    /// Whether everything about this pool could be seen.
    is_complete: bool,
    /// What it may keep under the limit on all pools: its share of what it wants now or needed
    /// within its window.
    claim: u32,
    /// Starts in the plan, ...
    starts: u32,
    /// ... drains in it of those that it counted on, ...
    lost: u32,
    /// ... and all that it drains because of what the pool needs.
    gone: BTreeSet<&'a str>,
    plan: PoolPlan,
}

/// Why some are to go, from what asks nobody to what waits for everything.
#[derive(Debug, Clone, Copy)]
pub(super) enum Why {
    /// There are too many, whatever they do.
    TooMany(Cause),
    /// Another one is, or will be, in its place.
    Replaced(Cause),
    /// Another pool needs the place, or, where the limit is exceeded, nobody may have it.
    Ceding { is_over: bool },
    /// They are not needed; those that work are among them only where `busy`.
    Surplus { busy: bool },
}

impl<'a> Draft<'a> {
    /// What there is and what is wished.
    pub(super) fn new(name: &'a str, policy: &'a Policy, known: Known<'a>) -> Self {
        let Known { seen, history } = known;
        let roster = Roster::of(name, Some(policy), known);
        let mut plan = roster.count();
        plan.depth = seen.pools.get(name).and_then(|pool| pool.depth);
        plan.affordable = policy.budget.instance_hours_per_day.and_then(|_| {
            budget::affordable(policy, history.used_today(name, policy, seen.at).time(), seen.at)
        });
        let is_complete = plan.depth.is_some() && seen.instances.is_some();
        for (instances, hold) in [
            (roster.silent, Deaf { instances: roster.silent }),
            (roster.unheard, Unheard { instances: roster.unheard }),
            (u32::from(!is_complete), Incomplete),
        ] {
            plan.holds.extend((instances > 0).then_some(hold));
        }
        let mut draft = Self {
            name,
            policy,
            known,
            roster,
            is_complete,
            claim: 0,
            starts: 0,
            lost: 0,
            gone: BTreeSet::new(),
            plan,
        };
        match draft.load() {
            Some(load) => {
                draft.plan.wishes = demand::wishes(policy, &load, history.minutes(name), seen.at);
                draft.plan.load = Some(load);
                draft.plan.wished = demand::largest(&draft.plan.wishes);
                draft.plan.clamped = demand::clamp(policy, draft.plan.wished);
            }
            // What is there is not judged; only what is kept in any case is certain.
            None => {
                draft.plan.wished = draft.plan.running() + draft.plan.late;
                draft.plan.clamped = draft.plan.wished.max(policy.pool.min);
            }
        }
        draft
    }

    /// What the rules go by; none where the backlog could not be read.
    fn load(&self) -> Option<Load> {
        let Known { seen, history } = self.known;
        let (depth, ready) = (self.plan.depth?, self.plan.ready);
        let mut facts = history.facts(self.name, self.policy);
        if let Some(growth) = history.growth(self.name) {
            // While nobody works, what waits tells what arrives.
            let most = if ready == 0 { growth.most } else { f64::INFINITY };
            facts.arrivals_per_s = facts.arrivals_per_s.clamp(growth.least, most);
        }
        // By what comes next: while parked ones are left, nobody waits for a launch.
        if self.roster.next_tier(self.known) == Some(Tier::Launched) {
            facts.start_delay_s = history.start_delay_of(self.name, self.policy, Tier::Launched);
        }
        let starting_s = self.roster.starting_s(facts.start_delay_s, seen.at);
        Some(Load { depth, facts, ready, starting_s })
    }

    /// What it wants of the limit on all pools. What it needed a moment ago it will not give away
    /// and ask for again.
    pub(super) fn want(&self) -> Want {
        let pool = &self.policy.pool;
        let lately = self.most_wished(self.policy.scale_in.window).unwrap_or(0).min(self.plan.running());
        let instances = self.plan.granted().max(lately.min(self.plan.affordable.unwrap_or(u32::MAX)));
        Want { min: pool.min, instances, weight: pool.weight }
    }

    /// Its share of the limit on all pools.
    pub(super) fn get(&mut self, share: u32) {
        self.claim = share;
        self.plan.share = share.min(self.plan.granted());
        self.plan.desired = self.plan.share;
    }

    pub(super) fn into_plan(self) -> (String, PoolPlan) {
        (self.name.to_owned(), self.plan)
    }

    /// Instances that it will count on once the actions so far are done.
    pub(super) fn running_then(&self) -> u32 {
        self.plan.running() + self.starts - self.lost
    }

    pub(super) fn lacks(&self) -> u32 {
        self.plan.share.saturating_sub(self.running_then())
    }

    pub(super) fn leaving(&self) -> u32 {
        size(self.roster.leaving.len())
    }

    /// One more than is needed, as long as one serves that retires: the other one comes before it
    /// goes, also where the pool may have no more than it has.
    fn relief(&self) -> u32 {
        let retires = |view: &&InstanceView| view.instance.retires && !self.is_gone(view);
        let has_retiring = || self.roster.has_retiring && self.roster.serving.iter().any(retires);
        // Where not everything could be seen nobody goes, and one more would come in each pass.
        u32::from(self.is_complete && self.plan.share > 0 && has_retiring())
    }

    /// Whether one more is wanted, and may start beside those that start already, within `max`.
    pub(super) fn wants_one(&self) -> bool {
        self.plan.share + self.relief() > self.running_then() && self.may_start()
    }

    fn may_start(&self) -> bool {
        // What drains and stops keeps its place, and one that is late is paid for all the same.
        let alive = size(self.roster.alive()) + self.starts;
        let paid = self.running_then() + self.plan.late;
        self.plan.starting + self.starts < self.policy.scale_out.max_step
            && alive < self.policy.most() + self.relief()
            && self.plan.affordable.is_none_or(|affordable| paid < affordable)
    }

    /// Those that may be started, as far as any are wanted, the best first.
    pub(super) fn startable(&self) -> Vec<&'a InstanceView> {
        if self.wants_one() { self.roster.startable(self.known) } else { Vec::new() }
    }

    pub(super) fn start(&mut self, view: &InstanceView) {
        self.starts += 1;
        self.plan.launches += u32::from(view.instance.tier == Tier::Launched);
        self.plan.actions.push(Action::Start { id: view.instance.id.clone() });
    }

    /// The instance that has not been seen ready for longest, where the policy asks for that and
    /// there is room beside the demand: one that does not work any more is found before it is
    /// needed. When it is ready it is idle, and goes.
    pub(super) fn canary(&self) -> Option<&'a InstanceView> {
        self.policy.pool.canary?;
        let is_room = self.is_complete
            && self.plan.starting + self.starts == 0
            && self.plan.running() == self.plan.share
            && self.plan.affordable.is_none_or(|affordable| self.running_then() < affordable)
            && self.may_start();
        let parked = if is_room { self.roster.startable(self.known) } else { Vec::new() };
        let silent = parked.into_iter().filter(|view| is_canary(view, self.policy, self.known));
        silent.min_by_key(|view| last_proof(view, self.known))
    }

    pub(super) fn send(&mut self, canary: &InstanceView) {
        self.plan.canary = Some(canary.instance.id.clone());
        self.start(canary);
    }

    fn hold(&mut self, hold: Hold) {
        if !self.plan.holds.contains(&hold) {
            self.plan.holds.push(hold);
        }
    }

    /// Says why it does not get what it lacks or wishes.
    pub(super) fn hold_what_lacks(&mut self, is_room: bool) {
        if self.lacks() > 0 {
            self.hold(self.what_lacks(is_room));
        } else if self.plan.share < self.plan.granted() {
            self.hold(Limit);
        }
        if self.plan.granted() < self.plan.clamped {
            self.hold(Budget);
        }
    }

    fn what_lacks(&self, is_room: bool) -> Hold {
        let Known { seen, .. } = self.known;
        if size(self.roster.alive()) + self.starts >= self.policy.most() {
            return NoPlace;
        } else if !self.may_start() {
            return MaxStarting;
        } else if !is_room {
            return Limit;
        }
        // When one is tried again of those for which there was no capacity, whichever comes first.
        let dry = [Tier::Parked, Tier::Launched].into_iter();
        if let Some(until) = dry.filter_map(|tier| self.roster.dry_until(tier, seen)).min() {
            return NoCapacity { until };
        }
        let is_cordoned = |view: &&&InstanceView| seen.operator.is_cordoned(&view.instance.id);
        let others = self.roster.stopped.iter().filter(|view| !is_cordoned(view));
        let until = others.filter_map(|view| left_alone_until(view, seen, self.known.history));
        match until.filter(|until| *until > seen.at).min() {
            Some(until) => BackOff { until },
            None => match size(self.roster.stopped.iter().filter(is_cordoned).count()) {
                0 => NoneStopped,
                instances => Cordoned { instances },
            },
        }
    }

    /// The one rule of who may go, and what is said of it.
    fn may_go(&self, view: &InstanceView, why: Why) -> Option<Cause> {
        match why {
            Why::TooMany(cause) => Some(cause),
            Why::Replaced(Cause::Updated) => view.instance.retires.then_some(Cause::Updated),
            Why::Replaced(cause) => is_outdated(view, self.known.seen).then_some(cause),
            // One that is late is waited for.
            Why::Ceding { .. } if self.roster.is_late(view) => None,
            Why::Ceding { is_over } => (is_over || self.is_paid_off(view)).then_some(Cause::OverShare),
            Why::Surplus { busy } => {
                let cause = spare(view, self.policy, self.known)?;
                ((busy || cause != Cause::NotNeeded) && self.is_paid_off(view)).then_some(cause)
            }
        }
    }

    /// Whether it has run for as long as is charged in any case.
    fn is_paid_off(&self, view: &InstanceView) -> bool {
        age(view.instance.since, self.known.seen.at) >= self.policy.instance.billing_minimum
    }

    /// Those that serve, may go and do not yet, with what is said of them.
    fn candidates(&self, why: Why) -> impl Iterator<Item = (&'a InstanceView, Cause)> {
        let stay = self.roster.serving.iter().copied().filter(|view| !self.is_gone(view));
        stay.filter_map(move |view| Some((view, self.may_go(view, why)?)))
    }

    /// Sends away as many of those that may go, those first that are worth least; returns how many
    /// went.
    pub(super) fn dismiss(&mut self, count: u32, why: Why) -> u32 {
        if count == 0 {
            return 0;
        }
        let worth = |view| worth(view, self.roster.is_late(view), self.known);
        let candidates = self.candidates(why);
        let mut ranked: Vec<_> =
            candidates.map(|(view, cause)| ((worth(view), name(view)), view, cause)).collect();
        // Of thousands only a few are wanted: the others need no order.
        if let Some(last) = (count as usize).checked_sub(1).filter(|last| *last < ranked.len()) {
            ranked.select_nth_unstable_by(last, |(a, ..), (b, ..)| a.cmp(b));
            ranked.truncate(count as usize);
        }
        ranked.sort_unstable_by(|(a, ..), (b, ..)| a.cmp(b));
        let went: Vec<_> = ranked.into_iter().map(|(_, view, cause)| (view, cause)).collect();
        for (view, cause) in &went {
            self.lost += u32::from(!self.roster.is_late(view));
            self.gone.insert(&view.instance.id);
            self.plan.actions.push(drain(view, &self.policy.scale_in, *cause));
        }
        if let Why::Ceding { .. } = why {
            self.plan.desired = self.plan.desired.min(self.running_then());
        }
        size(went.len())
    }

    /// How many it may lose to other pools at once. The last one of a pool goes when the window is
    /// over, like any last one.
    pub(super) fn may_cede(&self, is_over: bool) -> u32 {
        let keeps = if is_over { self.plan.share } else { self.claim.max(self.plan.share).max(1) };
        let may_leave = is_over || self.leaving() + self.lost < self.policy.scale_in.max_step;
        if self.is_complete && may_leave { self.running_then().saturating_sub(keeps) } else { 0 }
    }

    /// Sends away what is of no use, too much, replaced or not needed, as far as everything could
    /// be seen.
    pub(super) fn scale_in(&mut self) {
        if !self.is_complete {
            self.plan.desired = self.plan.desired.max(self.plan.running());
            return;
        }
        self.plan.actions.extend(self.roster.departures(&self.policy.scale_in, self.known.seen.at));
        let (max, relief) = (self.policy.most(), self.relief());
        let affordable = self.plan.affordable.unwrap_or(u32::MAX);
        let running = self.plan.running() + self.plan.late;
        if running > affordable || running > max + relief {
            let over_max = running.saturating_sub(max);
            self.dismiss(over_max, Why::TooMany(Cause::OverMax));
            let over_budget = running.saturating_sub(affordable).saturating_sub(over_max);
            self.dismiss(over_budget, Why::TooMany(Cause::OverBudget));
        }
        // Those that are replaced go one after the other: nobody goes while another one leaves or
        // starts.
        if self.roster.is_quiet() && self.starts == 0 && self.gone.is_empty() {
            let outdated = u32::from(!self.roster.new_version_died(self.known));
            let retiring = u32::from(relief > 0 && self.running_then() > self.plan.share);
            if self.dismiss(outdated, Why::Replaced(Cause::OtherVersion)) == 0 {
                self.dismiss(retiring, Why::Replaced(Cause::Updated));
            }
        }
        let relief = self.relief();
        self.shed_surplus();
        if self.relief() < relief {
            // Where the one that retires was too much, the other one in its place is, too.
            self.shed_surplus();
        }
    }

    fn is_gone(&self, view: &InstanceView) -> bool {
        !self.gone.is_empty() && self.gone.contains(view.instance.id.as_str())
    }
}
