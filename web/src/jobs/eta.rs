//! When a job will be done: the line that it stands in, run forward.
//!
//! The queue is first in, first out, with a number of servers. So the end of a job follows from
//! four things: its place in the line ([`Line`]), how long a server is busy with one job
//! ([`service`]), since when each server has had the job that it has ([`crew`], as replies show it,
//! and [`fleet`], as the controller says it), and the arithmetic of a queue with these
//! ([`servers`]).

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

/// Before anything is known of how long a job takes, it takes a second, and so does the start of
/// the worker that does it. No guess goes far: when it is over, something is known.
const GUESS_S: f64 = 1.0;
const LONGEST_GUESS_S: f64 = 10.0;
/// With more servers than these, which of them gets free when makes no difference.
const MOST_SERVERS: usize = 64;
/// Where jobs take less, a worker may hold one more than it works on.
const SHORT_S: f64 = 0.3;
/// An instance that needs longer than others to start needs this part of their time more.
const OVERDUE: f64 = 0.1;

/// Where a job stands in the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    number: u64,
    /// Jobs of other hosts that were before it.
    others: u64,
}

/// The line of one model's jobs, as this host sees it.
#[derive(Debug, Default)]
pub(crate) struct Line {
    /// Jobs that this host has sent, ...
    sent: u64,
    /// ... and those of them that have ended. Which they were does not matter: the line is in
    /// order, or nearly so.
    ended: u64,
    /// When each was sent that has not ended.
    sent_at: VecDeque<Instant>,
    /// Jobs of other hosts, when the queue was last counted.
    others: u64,
    /// Since when more jobs have been there than servers.
    waited_since: Option<Instant>,
    /// Since when there has been a line.
    began: Option<Instant>,
    crew: Crew,
    service: Service,
    fleet: Option<Fleet>,
    /// Servers that there were when that was last counted.
    at_once: u64,
}

impl Line {
    /// A job was sent.
    pub(crate) fn join(&mut self, now: Instant) -> Place {
        self.sent += 1;
        self.sent_at.push_back(now);
        self.note_length(now);
        Place { number: self.sent, others: self.others }
    }

    /// A job is over, and a worker has done it.
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

    /// A job was not sent after all, or is not waited for any more.
    pub(crate) fn leave(&mut self, now: Instant) {
        if self.sent > self.ended {
            self.ended += 1;
            self.sent_at.pop_front();
            self.note_length(now);
        }
    }

    /// How many jobs the queue holds, of all hosts, and how many of them workers hold; of this host
    /// there were so many when that was asked.
    pub(crate) fn count(&mut self, now: Instant, backlog: u64, held: u64, own: u64) {
        // Some of them may have ended while the queue was counted, and are no others.
        self.others = backlog.saturating_sub(own.max(self.own()));
        // Before it is known how long jobs take, it is better to know of all workers.
        let is_told = self.each_s().is_none_or(|each_s| each_s >= SHORT_S);
        let held = usize::try_from(held).unwrap_or(usize::MAX).min(MOST_SERVERS);
        self.crew.held(now, if is_told { held } else { 0 }, self.fleet.as_ref());
        self.forget_gone(now);
        self.note_length(now);
    }

    /// The controller says this of the fleet now.
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

    /// Jobs of this host that are not done.
    pub(crate) fn own(&self) -> u64 {
        self.sent - self.ended
    }

    /// All jobs that are not done.
    pub(crate) fn backlog(&self) -> u64 {
        self.own() + self.others
    }

    /// How many jobs have still to be done until the one at this place is; without one, until one
    /// that comes now would be.
    pub(crate) fn position(&self, place: Option<Place>) -> u64 {
        match place {
            Some(place) => place.number.saturating_sub(self.ended).max(1) + place.others.min(self.others),
            None => self.backlog().max(1),
        }
    }

    /// How long a server is busy with a job, as was seen, or else as the controller says.
    fn each_s(&self) -> Option<f64> {
        let reported = || self.fleet.as_ref().and_then(|fleet| fleet.service_s);
        self.service.mean_s().or_else(reported).map(|seconds| seconds.max(1e-3))
    }

    /// The seconds until a job at this position is done, where nothing is known. What takes long
    /// already may well take as long again.
    pub(crate) fn guess_s(&self, now: Instant, position: u64) -> f64 {
        let taken =
            self.sent_at.front().map_or(0.0, |sent| now.saturating_duration_since(*sent).as_secs_f64());
        let all = GUESS_S + position as f64 * GUESS_S.max(taken);
        all.min(LONGEST_GUESS_S.max(taken))
    }

    /// How long it will be until the job at this place is done, or one that would come now; `None`
    /// if nothing is known.
    pub(crate) fn remaining(&self, now: Instant, place: Option<Place>) -> Option<Duration> {
        let (servers, position) = (self.servers(now, self.each_s()?), self.position(place));
        let held = usize::try_from(self.at_once.min(self.backlog())).unwrap_or(usize::MAX);
        let seconds = match usize::try_from(position) {
            // A server has it already, and nothing that others take later comes before it.
            Ok(position) if position <= held && held <= servers.len() => {
                let mut ends: Vec<_> = servers[..held].iter().map(|server| server.next_end_s).collect();
                ends.sort_by(f64::total_cmp);
                ends[position - 1]
            }
            _ => end_s(&servers, position),
        };
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }

    /// Those that serve now, those that have served longest without an end first, and those that
    /// will.
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
            // Somebody will.
            servers.push(Server { next_end_s: each_s, each_s });
        }
        servers
    }

    /// In how many seconds a server ends the job that it took when it became free, if there was one
    /// then, or that it takes first.
    fn next_end_s(&self, now: Instant, each_s: f64, index: usize, free_at: Instant) -> f64 {
        if free_at > now {
            return (free_at - now).as_secs_f64() + each_s;
        }
        // The jobs that were sent first are with those that became free first.
        let sent_at = self.sent_at.get(index).copied();
        let began = match sent_at {
            Some(sent_at) if self.others == 0 => sent_at.max(free_at),
            _ if index as u64 >= self.backlog() => return each_s,
            // It has ended others of other hosts, unseen.
            _ => free_at,
        };
        let age_s = now.saturating_duration_since(began).as_secs_f64();
        if self.others > 0 && age_s > each_s {
            each_s - age_s % each_s
        } else {
            self.service.left_s(age_s, each_s)
        }
    }

    /// How many more servers there will be, where the line brings some, and in how many seconds.
    fn growth(&self, now: Instant) -> Option<(usize, f64)> {
        let fleet = self.fleet.as_ref()?;
        let growth = fleet.growth?;
        let brings = (self.backlog() as f64 / growth.jobs_each).ceil().min(growth.most) as usize;
        let there = fleet.instances.values().filter(|instance| instance.serves_at.is_some()).count();
        let more = brings.checked_sub(there).filter(|more| *more > 0)?;
        let waited_s = now.saturating_duration_since(self.began?).as_secs_f64();
        let starts_s = (growth.delay_s - waited_s).max(growth.delay_s * OVERDUE);
        Some(((more * self.crew.slots_each().unwrap_or(1)).min(MOST_SERVERS), starts_s))
    }
}

/// What `Retry-After` says of so much time.
pub(crate) fn in_seconds(remaining: Duration) -> u64 {
    whole_seconds(remaining.as_secs_f64())
}

/// `Retry-After` is whole seconds, and who comes a moment too early has to come again. But of few
/// seconds, one more is a large part, and what is estimated while clients still upload is rather
/// too long, for their uploads take from the workers' processors: so of these a part is let go.
pub(crate) fn whole_seconds(seconds: f64) -> u64 {
    match seconds {
        ..1.4 => 1,
        ..2.4 => 2,
        ..6.0 => (seconds + 0.7) as u64,
        _ => (seconds + 0.98).floor().min(86_400.0) as u64,
    }
}
