//! Estimates when a job will be done, by running its line forward.
//!
//! The queue is first in, first out, with a number of servers. So the end of a job follows from its
//! place in the line ([`Line`]), the time that a server takes for one job ([`service`]), the time
//! since when each server has had its job ([`crew`] from replies, [`fleet`] from the controller),
//! and the arithmetic of such a queue ([`servers`]).

mod crew;
mod fleet;
mod servers;
mod service;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use self::{
    crew::Crew,
    servers::{Server, end_s},
    service::Service,
};
pub(crate) use self::{crew::Done, fleet::Fleet};

/// Estimate while nothing is known: a job takes a second, and so does starting its worker. Limited
/// to [`LONGEST_GUESS_S`], because by then something is known.
const GUESS_S: f64 = 1.0;
const LONGEST_GUESS_S: f64 = 10.0;
/// Beyond this number of servers, the exact time at which each is free makes no difference.
const MOST_SERVERS: usize = 64;
/// If jobs take less time than this, a worker may hold one more than it classifies.
const SHORT_S: f64 = 0.3;
/// If an instance starts later than usual, it is assumed to need this fraction of the usual time
/// more.
const OVERDUE: f64 = 0.1;

/// A job's place in the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    number: u64,
    /// Number of jobs of other hosts before it.
    others: u64,
}

/// The line of one model's jobs, as this host sees it.
#[derive(Debug, Default)]
pub(crate) struct Line {
    /// Number of jobs that this host has sent, ...
    sent: u64,
    /// ... and number of them that have ended. It does not matter which ones, because the line is
    /// nearly in order.
    ended: u64,
    /// When each job was sent that has not ended.
    sent_at: VecDeque<Instant>,
    /// Number of jobs of other hosts at the last count of the queue.
    others: u64,
    /// Since when there have been more jobs than servers.
    waited_since: Option<Instant>,
    /// Since when the line has not been empty.
    began: Option<Instant>,
    crew: Crew,
    service: Service,
    fleet: Option<Fleet>,
    /// Number of servers at the last count.
    at_once: u64,
}

impl Line {
    /// Adds a job that was sent.
    pub(crate) fn join(&mut self, now: Instant) -> Place {
        self.sent += 1;
        self.sent_at.push_back(now);
        self.note_length(now);
        Place { number: self.sent, others: self.others }
    }

    /// Removes a job that has ended. `done` says how a worker did it.
    pub(crate) fn end(&mut self, now: Instant, done: Option<Done<'_>>) {
        if self.sent == self.ended {
            return;
        }
        if let Some(done) = done {
            let busy_s = self.crew.done(now, &done, self.waited_since);
            self.service.note(now, busy_s);
            self.forget_gone(now);
        }
        self.leave(now);
    }

    /// Removes a job that was not sent after all, or is no longer waited for.
    pub(crate) fn leave(&mut self, now: Instant) {
        if self.sent > self.ended {
            self.ended += 1;
            self.sent_at.pop_front();
            self.note_length(now);
        }
    }

    /// Updates the counts of the queue: all jobs, and those that workers hold. `own` is the number
    /// of this host's jobs when the count began.
    pub(crate) fn count(&mut self, now: Instant, backlog: u64, held: u64, own: u64) {
        // Jobs of this host may have ended during the count; they are not jobs of other hosts.
        self.others = backlog.saturating_sub(own.max(self.own()));
        // Until the time of a job is known, use the number of held jobs as the number of servers.
        let is_usable = self.each_s().is_none_or(|each_s| each_s >= SHORT_S);
        let held = usize::try_from(held).unwrap_or(usize::MAX).min(MOST_SERVERS);
        self.crew.held(now, if is_usable { held } else { 0 }, self.fleet.as_ref());
        self.forget_gone(now);
        self.note_length(now);
    }

    /// Updates the controller's status of the fleet.
    pub(crate) fn served_by(&mut self, now: Instant, fleet: Option<Fleet>) {
        self.fleet = fleet;
        self.crew.forget_left(now, self.fleet.as_ref());
        self.forget_gone(now);
    }

    fn forget_gone(&mut self, now: Instant) {
        if let (Some(since), Some(longest_s)) = (self.waited_since, self.service.longest_s()) {
            self.crew.forget_gone(now, since, longest_s);
        }
        self.at_once = self.crew.free_at(self.fleet.as_ref()).filter(|at| *at <= now).count() as u64;
    }

    fn note_length(&mut self, now: Instant) {
        let since = |is_so: bool, since: Option<Instant>| is_so.then(|| since.unwrap_or(now));
        self.waited_since = since(self.backlog() > self.at_once, self.waited_since);
        self.began = since(self.backlog() > 0, self.began);
    }

    /// Number of this host's jobs that have not ended.
    pub(crate) fn own(&self) -> u64 {
        self.sent - self.ended
    }

    /// Number of all jobs that have not ended.
    pub(crate) fn backlog(&self) -> u64 {
        self.own() + self.others
    }

    /// Returns the number of jobs that must end until the job with this place has ended, or until a
    /// new one would.
    pub(crate) fn position(&self, place: Option<Place>) -> u64 {
        match place {
            Some(place) => place.number.saturating_sub(self.ended).max(1) + place.others.min(self.others),
            None => self.backlog().max(1),
        }
    }

    /// Returns the seconds that a server takes for a job: as observed, or else as reported by the
    /// controller.
    fn each_s(&self) -> Option<f64> {
        let reported = || self.fleet.as_ref().and_then(|fleet| fleet.service_s);
        self.service.mean_s().or_else(reported).map(|seconds| seconds.max(1e-3))
    }

    /// Returns a rough estimate of the seconds until the job at this position is done. If a job has
    /// already taken long, it may take as long again.
    pub(crate) fn guess_s(&self, now: Instant, position: u64) -> f64 {
        let taken =
            self.sent_at.front().map_or(0.0, |sent| now.saturating_duration_since(*sent).as_secs_f64());
        let all = GUESS_S + position as f64 * GUESS_S.max(taken);
        all.min(LONGEST_GUESS_S.max(taken))
    }

    /// Returns the estimated time until the job with this place is done, or until a new one would
    /// be. `None` if nothing is known.
    pub(crate) fn remaining(&self, now: Instant, place: Option<Place>) -> Option<Duration> {
        let (servers, position) = (self.servers(now, self.each_s()?), self.position(place));
        let held = usize::try_from(self.at_once.min(self.backlog())).unwrap_or(usize::MAX);
        let seconds = match usize::try_from(position) {
            // A server has the job already; jobs that are taken later do not end before it.
            Ok(position) if position <= held && held <= servers.len() => {
                let mut ends: Vec<_> = servers[..held].iter().map(|server| server.next_end_s).collect();
                ends.sort_by(f64::total_cmp);
                ends[position - 1]
            }
            _ => end_s(&servers, position),
        };
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }

    /// Returns the current servers, those with the oldest job first, and the expected ones.
    fn servers(&self, now: Instant, each_s: f64) -> Vec<Server> {
        let fleet = self.fleet.as_ref();
        let count = self.crew.free_at(fleet).count();
        let group = count.div_ceil(MOST_SERVERS).max(1);
        let mut free_at: Vec<_> = self.crew.free_at(fleet).step_by(group).collect();
        free_at.sort();
        let mut servers: Vec<_> = (0..)
            .zip(free_at)
            .map(|(index, free_at)| Server {
                next_end_s: self.next_end_s(now, each_s, index * group, free_at),
                each_s: each_s / group as f64,
            })
            .collect();
        if let Some((more, starts_s)) = self.growth(now) {
            let next_end_s = starts_s + each_s;
            servers.extend((0..more).map(|_| Server { next_end_s, each_s }));
        }
        if servers.is_empty() {
            // Assume one server.
            servers.push(Server { next_end_s: each_s, each_s });
        }
        servers
    }

    /// Returns the seconds until a server ends its current job, or else its first one.
    fn next_end_s(&self, now: Instant, each_s: f64, index: usize, free_at: Instant) -> f64 {
        if free_at > now {
            return (free_at - now).as_secs_f64() + each_s;
        }
        // The jobs sent first are with the servers that became free first.
        let sent_at = self.sent_at.get(index).copied();
        let began = match sent_at {
            Some(sent_at) if self.others == 0 => sent_at.max(free_at),
            _ if index as u64 >= self.backlog() => return each_s,
            // It may have done jobs of other hosts in between.
            _ => free_at,
        };
        let age_s = now.saturating_duration_since(began).as_secs_f64();
        if self.others > 0 && age_s > each_s {
            each_s - age_s % each_s
        } else {
            self.service.left_s(age_s, each_s)
        }
    }

    /// Returns the number of servers that the line will add, and the seconds until they start.
    fn growth(&self, now: Instant) -> Option<(usize, f64)> {
        let fleet = self.fleet.as_ref()?;
        let growth = fleet.growth?;
        let wanted = (self.backlog() as f64 / growth.jobs_each).ceil().min(growth.most) as usize;
        let present = fleet.instances.values().filter(|instance| instance.serves_at.is_some()).count();
        let more = wanted.checked_sub(present).filter(|more| *more > 0)?;
        let waited_s = now.saturating_duration_since(self.began?).as_secs_f64();
        let starts_s = (growth.delay_s - waited_s).max(growth.delay_s * OVERDUE);
        Some(((more * self.crew.slots_each().unwrap_or(1)).min(MOST_SERVERS), starts_s))
    }
}

/// Rounds a duration as for [`whole_seconds`].
pub(crate) fn in_seconds(remaining: Duration) -> u64 {
    whole_seconds(remaining.as_secs_f64())
}

/// Returns the value of `Retry-After` in whole seconds, from 1 to 86,400. Rounded up, because a
/// client that comes too early must come again; but small values only partly, because a second is a
/// large part of them, and estimates made during uploads are too long: uploads take processor time
/// from workers.
pub(crate) fn whole_seconds(seconds: f64) -> u64 {
    match seconds {
        ..1.4 => 1,
        ..2.4 => 2,
        ..6.0 => (seconds + 0.7) as u64,
        _ => (seconds + 0.98).floor().min(86_400.0) as u64,
    }
}
