//! Computes how many instances are surplus, and drains those that may go now.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{BUSY_WINDOW, Draft, Why};
use crate::{
    decide::{
        Known, demand,
        plan::{
            Cause,
            Hold::{MaxStep, NotIdle, PaidFor, SuddenDrop, TooEarly, WasHigher, WorthKeeping},
        },
        roster::{is_canary, spare},
        size,
    },
    observe::{InstanceView, age},
};

impl Draft<'_> {
    /// Drains instances that were not needed at any time of the window.
    pub(super) fn shed_surplus(&mut self) {
        // A late instance is not surplus: it stops once it is ready or given up. Nor does a canary
        // make another instance surplus.
        let is_sent = |view: &&&InstanceView| is_canary(view, self.policy, self.known);
        let sent = size(self.roster.starting.iter().filter(is_sent).count());
        let sent = sent + u32::from(self.plan.canary.is_some());
        let running = self.running_after().saturating_sub(sent + self.replacement());
        if running <= self.plan.share {
            return;
        }
        self.plan.desired = self.floor(running).clamp(self.plan.share, running);
        let surplus = running - self.plan.desired;
        if surplus == 0 {
            return;
        }
        // A working instance may go only if the rest was enough for all of the last minutes.
        let for_long = self.most_wished(self.policy.scale_in.window.max(BUSY_WINDOW));
        let for_long = for_long.map_or(0, |wished| running.saturating_sub(wished));
        let stay = self.roster.serving.iter().filter(|view| !self.is_gone(view));
        let spare = stay.filter_map(|view| spare(view, self.policy, self.known));
        let (all, at_rest) = spare
            .fold((0, 0), |(all, at_rest), cause| (all + 1, at_rest + u32::from(cause != Cause::NotNeeded)));
        let busy = for_long > at_rest;
        let all = if busy { for_long.min(all) } else { at_rest };
        let why = Why::Surplus { busy };
        let paid_off = size(self.candidates(why).count());
        let leaving = self.leaving() + size(self.roster.useless.len() + self.gone.len());
        let step = self.policy.scale_in.max_step.saturating_sub(leaving);
        if paid_off < surplus.min(all) {
            self.hold(PaidFor);
        }
        if all < surplus {
            self.hold(NotIdle);
        }
        if step < surplus.min(paid_off) {
            self.hold(MaxStep);
        }
        self.dismiss(surplus.min(step).min(all), why);
    }

    /// Largest number of instances that the policy wanted within the window; `None` if the window
    /// is not fully known.
    pub(super) fn most_wished(&self, window: Duration) -> Option<u32> {
        let wished = self.known.history.most_wished(self.name, window, self.known.seen.at)?;
        Some(demand::clamp(self.policy, wished))
    }

    /// Number of instances that the demand of the whole window needs.
    fn floor(&mut self, running: u32) -> u32 {
        let Known { seen, history } = self.known;
        let window = self.policy.scale_in.window;
        let is_recent = |moment: DateTime<Utc>| age(moment, seen.at) < window;
        let peak = history.peak_over(self.name, window, seen.at);
        let (Some(wished), Some(peak)) = (history.most_wished(self.name, window, seen.at), peak) else {
            self.hold(TooEarly);
            return running;
        };
        // If the pool's load has ended and returned before, a drop is no sign of an outage.
        if history.last_drop(self.name).is_some_and(is_recent) && !history.knows_gaps(self.name) {
            self.hold(SuddenDrop);
            return running;
        }
        // Jobs that come at regular times do not return at any moment.
        let may_return = self.plan.prepares_at.is_none();
        // A job that came and was completed between two observations is demand as well.
        let had_work = peak > 0 || history.last_arrival(self.name).is_some_and(is_recent);
        let least = u32::from(had_work && may_return && !self.policy.rules.is_empty());
        let lately = wished.max(least);
        let kept = history.worth_keeping(self.name, running, lately, self.policy, seen.at).max(least);
        let within =
            |wished| demand::clamp(self.policy, wished).min(self.plan.affordable.unwrap_or(u32::MAX));
        let (instances, by_window) = (within(kept), within(lately));
        if instances > self.plan.share {
            let is_kept = instances > by_window;
            self.hold(if is_kept { WorthKeeping { instances } } else { WasHigher { instances } });
        }
        instances
    }
}
