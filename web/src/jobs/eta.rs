//! When a job will be done: its place in the line, over how fast the line moves.
//!
//! The queue is first in, first out, with a number of servers. Those that serve get free when what
//! they do now is done, and take one after another; so a job's end follows from when it and those
//! before it began. What is measured is how many jobs end in a time while there are some to do, in
//! the present stretch of work and weighed against what was known before it: the reports of the
//! fleet, or an earlier stretch.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// How many ends tell how fast the line moves. Not too many, for the fleet grows and shrinks.
const ENDS: usize = 96;
/// Ends that are so near each other are of jobs that began together.
const TOGETHER: Duration = Duration::from_millis(5);
/// How many ends what was known before is worth at least.
const BEFORE: f64 = 2.0;
/// Where an earlier stretch is known, it is worth as much as this time, and nothing after twice this time: what ends in the first
/// second says more of who had the processor than of how fast the line moves.
const STEADY_S: f64 = 1.0;
/// A job that takes longer than others is not over at once: it takes this part of their time, again and again.
const OVERDUE: f64 = 0.1;
/// Before anything is known of how long a job takes, it takes a second, and so does the start of the
/// worker that does it. No guess goes far: when it is over, something is known.
const GUESS_S: f64 = 1.0;
const LONGEST_GUESS_S: f64 = 10.0;
/// With more servers than these, which of them gets free when makes no difference.
const MOST_SERVERS: usize = 64;

/// Where a job stands in the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    number: u64,
    /// Jobs of other hosts that were before it.
    others: u64,
}

/// What the controller tells of those that serve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Fleet {
    /// Jobs that are worked on at once, as soon as what starts has started.
    pub(crate) servers: f64,
    /// How long one takes.
    pub(crate) service_s: Option<f64>,
    /// When the first of them serves, where none does now.
    pub(crate) opens_at: Option<Instant>,
    /// What the controller will make of a long line.
    pub(crate) growth: Option<Growth>,
}

/// How a fleet grows with its line. What the policies say is the controller's; this is what is seen of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Growth {
    /// The most jobs at once that there may be.
    pub(crate) most: f64,
    /// How long an instance takes to start.
    pub(crate) delay_s: f64,
    /// How many jobs of the line bring one more.
    pub(crate) jobs_each: f64,
}

impl Fleet {
    /// Jobs at once when what such a line brings has started.
    fn grown(&self, backlog: u64) -> f64 {
        let brings = |growth: Growth| (backlog as f64 / growth.jobs_each).ceil().min(growth.most);
        self.servers.max(self.growth.map_or(0.0, brings))
    }

    /// Jobs at once as soon as any are done: where nobody serves now, what the line brings comes together.
    fn at_once(&self, backlog: u64) -> f64 {
        if self.opens_at.is_some() { self.grown(backlog) } else { self.servers }
    }
}

/// How fast a line moved.
#[derive(Debug, Clone, Copy)]
struct Before {
    /// Ends a second.
    rate: f64,
    /// Jobs that were worked on at once, as the controller said.
    servers: Option<f64>,
}

/// The line of one model's jobs, as this host sees it.
#[derive(Debug, Default)]
pub(crate) struct Line {
    /// Jobs that this host has sent, ...
    sent: u64,
    /// ... and those of them that have ended. Which they were does not matter: the line is in order, or nearly so.
    ended: u64,
    /// When each was sent that has not ended.
    sent_at: VecDeque<Instant>,
    /// When the last ones ended.
    ended_at: VecDeque<Instant>,
    /// From when to when a worker had each of the last ones.
    served: VecDeque<(Instant, Instant)>,
    /// How many others were with workers at the same time, of the last that ended while more waited.
    at_once: VecDeque<usize>,
    /// Jobs of other hosts, when the queue was last counted.
    others: u64,
    /// Since when all that serve have had something to do, and how many ends were noted since. Before that, it is the arrivals
    /// that say how many end.
    busy: Option<(Instant, usize)>,
    /// How fast it moved in the stretch before, or until lately in a long one.
    before: Option<Before>,
    /// Ends since that was noted.
    ends_since: usize,
    fleet: Option<Fleet>,
    /// Since when as many serve as do now.
    same_since: Option<Instant>,
    /// The mean time of a job with a worker, lately.
    service_s: Option<f64>,
}

impl Line {
    /// A job was sent.
    pub(crate) fn join(&mut self, now: Instant) -> Place {
        if self.sent == self.ended {
            self.note_rate();
            self.busy = None;
        }
        self.sent += 1;
        if self.busy.is_none() && (self.sent - self.ended) as f64 >= self.servers_known() {
            self.busy = Some((now, 0));
        }
        self.sent_at.push_back(now);
        Place { number: self.sent, others: self.others }
    }

    /// A job is over, with an answer or without. `service_s` is how long a worker had it, and `late` how long ago that was.
    pub(crate) fn end(&mut self, now: Instant, service_s: Option<f64>, late: Duration) {
        if self.sent == self.ended {
            return;
        }
        self.leave();
        if let Some((_, ends)) = &mut self.busy {
            *ends += 1;
        }
        self.ended_at.push_back(now);
        if self.ended_at.len() > ENDS.max(MOST_SERVERS) + 1 {
            self.ended_at.pop_front();
        }
        if let Some(service_s) = service_s {
            let before = self.service_s.unwrap_or(service_s);
            self.service_s = Some(before + (service_s - before) * 0.2);
            self.was_served(now.checked_sub(late).unwrap_or(now), service_s);
        }
        self.ends_since += 1;
        if self.ends_since >= ENDS {
            self.note_rate();
        }
    }

    /// How many served in all of the time that is measured. Of few ends for each of them, it counts for too much that not all were
    /// busy to the last.
    fn steady_servers(&self) -> Option<f64> {
        let servers = self.fleet?.servers;
        let ((busy_since, ends), same_since) = (self.busy?, self.same_since?);
        let window = ends.min(ENDS).min(self.ended_at.len());
        let since =
            if ends > window { *self.ended_at.get(self.ended_at.len() - window)? } else { busy_since };
        (since >= same_since && window as f64 >= 8.0 * servers).then_some(servers)
    }

    /// Jobs whose times with their workers overlap have a server each.
    fn was_served(&mut self, until: Instant, service_s: f64) {
        let service = Duration::try_from_secs_f64(service_s).unwrap_or_default();
        let Some(since) = until.checked_sub(service) else { return };
        if self.served.len() == ENDS {
            self.served.pop_front();
        }
        self.served.push_back((since, until));
        if self.sent == self.ended {
            return;
        }
        // Soon after it began: what was served then has ended by now, as far as one takes as long as another.
        let then = since + service / 20;
        let at_once = self.served.iter().filter(|(since, until)| *since <= then && then < *until).count();
        self.at_once.push_back(at_once);
        // Those that begin together are seen one after another.
        let seen = 8.max(2 * self.most_at_once());
        while self.at_once.len() > seen {
            self.at_once.pop_front();
        }
    }

    fn most_at_once(&self) -> usize {
        self.at_once.iter().copied().max().unwrap_or(1)
    }

    /// What is measured now is what was known before, from here on. It must not be so at each end, or a few of them would outweigh
    /// all that was known.
    fn note_rate(&mut self) {
        if let Some(rate) = self.measured() {
            self.before = Some(Before { rate, servers: self.steady_servers() });
        }
        self.ends_since = 0;
    }

    /// A job was not sent after all, or is not waited for any more; how fast the line moves is not seen in that.
    pub(crate) fn leave(&mut self) {
        if self.sent > self.ended {
            self.ended += 1;
            self.sent_at.pop_front();
        }
    }

    /// How many jobs the queue holds, of all hosts.
    pub(crate) fn count(&mut self, backlog: u64) {
        self.others = backlog.saturating_sub(self.sent - self.ended);
    }

    /// The controller says this of the fleet now.
    pub(crate) fn served_by(&mut self, now: Instant, fleet: Option<Fleet>) {
        let serve =
            |fleet: Option<Fleet>| fleet.filter(|fleet| fleet.opens_at.is_none()).map(|fleet| fleet.servers);
        if serve(fleet) != serve(self.fleet) {
            self.same_since = serve(fleet).map(|_| now);
        }
        self.fleet = fleet;
    }

    /// All jobs that are not done.
    pub(crate) fn backlog(&self) -> u64 {
        self.sent - self.ended + self.others
    }

    /// How many jobs have still to be done until the one at this place is; without one, until one that comes now would be.
    pub(crate) fn position(&self, place: Option<Place>) -> u64 {
        match place {
            Some(place) => place.number.saturating_sub(self.ended).max(1) + place.others.min(self.others),
            None => self.backlog().max(1),
        }
    }

    /// Ends a second in this stretch of work, weighed against what was known before.
    fn measured(&self) -> Option<f64> {
        let (since, ends) = self.busy?;
        let noted = self.ended_at.len();
        let window = ends.min(ENDS).min(noted);
        let last = *self.ended_at.back().filter(|_| window > 0)?;
        // The time in which they ended began with the end before them, or with the work.
        let opened = self.fleet.and_then(|fleet| fleet.opens_at).map_or(since, |at| since.max(at.min(last)));
        let before = noted.checked_sub(window + 1).map_or(opened, |at| self.ended_at[at].max(opened));
        // What ended together with the end before them belongs to the time before.
        let later = |end: &&Instant| **end > before + TOGETHER;
        let seen = self.ended_at.range(noted - window..).filter(later).count().max(1);
        let (ends, seconds) = (seen as f64, (last - before).as_secs_f64());
        // Jobs of others end between ours, unseen.
        let own = (self.sent - self.ended).max(1) as f64;
        let all = (own + self.others as f64) / own;
        Some(match self.known() {
            Some(known) => {
                // What they work on at once began with the work, and says as much as what was known.
                let worked_s = last.saturating_duration_since(since).as_secs_f64();
                let steady = self.before.map_or(0.0, |_| known * (STEADY_S - worked_s / 2.0).max(0.0));
                let before = BEFORE.max(self.servers_known()).max(steady);
                (ends * all + before) / (seconds + before / known)
            }
            None => ends * all / seconds.max(1e-3),
        })
    }

    /// How many serve at once, by what was known before this stretch.
    fn servers_known(&self) -> f64 {
        let service_s = self.fleet.and_then(|fleet| fleet.service_s).or(self.service_s);
        self.known().zip(service_s).map_or(1.0, |(rate, service_s)| (rate * service_s).round().max(1.0))
    }

    /// Ends a second by what was known before this stretch.
    fn known(&self) -> Option<f64> {
        let reported = self.fleet.and_then(|fleet| {
            let service_s = fleet.service_s.or(self.service_s)?.max(1e-3);
            let servers = fleet.at_once(self.backlog());
            // Between two jobs a server has a little to do. How much was seen where as many served as were said to.
            let seen = self.before.and_then(|before| Some(before.servers? / before.rate));
            let each_s = seen.map_or(service_s, |seen| seen.clamp(service_s, service_s * 1.5));
            (servers > 0.0).then_some(servers / each_s)
        });
        let before = self.before.map(|before| before.rate);
        reported.or(before).or_else(|| Some(self.most_at_once() as f64 / self.service_s?.max(1e-3)))
    }

    /// The seconds until a job at this position is done, where nothing is known. What takes long already may well take as long again.
    pub(crate) fn guess_s(&self, now: Instant, position: u64) -> f64 {
        let taken =
            self.sent_at.front().map_or(0.0, |sent| now.saturating_duration_since(*sent).as_secs_f64());
        let all = GUESS_S + position as f64 * GUESS_S.max(taken);
        all.min(LONGEST_GUESS_S.max(taken))
    }

    /// How long it will be until the job at this place is done, or one that would come now; `None` if nothing is known.
    pub(crate) fn remaining(&self, now: Instant, place: Option<Place>) -> Option<Duration> {
        let rate = self.measured().or_else(|| self.known())?;
        let service_s = self.fleet.and_then(|fleet| fleet.service_s).or(self.service_s);
        let servers = service_s.map_or(1.0, |service_s| rate * service_s).round().max(1.0);
        let position = self.position(place);
        let opens_in = self
            .fleet
            .and_then(|fleet| fleet.opens_at)
            .map_or(0.0, |at| at.saturating_duration_since(now).as_secs_f64());
        let seconds = if servers > MOST_SERVERS as f64 {
            opens_in + position as f64 / rate
        } else {
            let servers = servers as usize;
            // As fast as was measured, however long a single one takes.
            let each = servers as f64 / rate;
            let frees = self.frees(now, servers, each, opens_in);
            let turn = (position - 1) as usize;
            frees[turn % servers] + (turn / servers) as f64 * each
        };
        let seconds = self.with_growth(seconds);
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }

    /// The same time where more will serve when they have started.
    fn with_growth(&self, seconds: f64) -> f64 {
        let Some((fleet, growth)) = self.fleet.and_then(|fleet| Some((fleet, fleet.growth?))) else {
            return seconds;
        };
        let (now, then) = (fleet.at_once(self.backlog()), fleet.grown(self.backlog()));
        if now <= 0.0 || then <= now || seconds <= growth.delay_s {
            return seconds;
        }
        growth.delay_s + (seconds - growth.delay_s) * now / then
    }

    /// In how many seconds what each of the servers does now, or takes next, will be done, in order.
    fn frees(&self, now: Instant, servers: usize, each: f64, opens_in: f64) -> Vec<f64> {
        let end_of = |index: usize| -> f64 {
            let Some(sent) = self.sent_at.get(index) else { return opens_in + each };
            // It began when it came, or when the one ended that left it a server.
            let before = (index + self.ended_at.len()).checked_sub(servers);
            let freed = before.and_then(|at| self.ended_at.get(at)).copied().unwrap_or(*sent);
            let began = (*sent).max(freed);
            if opens_in > 0.0 {
                return opens_in + each;
            }
            let opened =
                self.fleet.and_then(|fleet| fleet.opens_at).map_or(began, |opened| began.max(opened));
            let left = each - now.saturating_duration_since(opened).as_secs_f64();
            if left > 0.0 { left } else { each * OVERDUE }
        };
        let mut frees: Vec<_> = (0..servers).map(end_of).collect();
        frees.sort_by(f64::total_cmp);
        frees
    }
}

/// What `Retry-After` says of so much time.
pub(crate) fn in_seconds(remaining: Duration) -> u64 {
    whole_seconds(remaining.as_secs_f64())
}

/// `Retry-After` is whole seconds, and who comes a moment too early has to come again. Of few seconds, one more would be too
/// many by too large a part.
pub(crate) fn whole_seconds(seconds: f64) -> u64 {
    let later = if seconds < 2.3 { seconds + 0.7 } else { seconds + 0.98 };
    later.floor().clamp(1.0, 86_400.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service with a number of servers, in virtual time: jobs are announced when they come and
    /// at every poll, and what was announced is compared with what came true.
    struct World {
        servers: usize,
        service_s: fn(u64) -> f64,
        fleet: Option<Fleet>,
    }

    impl World {
        /// Jobs come at these seconds. The parts of announcements that were right, of each stretch of a tenth of the jobs.
        fn right(&self, arrivals: &[f64], line: &mut Line) -> f64 {
            // Later than whatever the line saw before.
            let start =
                line.ended_at.back().map_or_else(Instant::now, |last| *last + Duration::from_secs(60));
            let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
            // Who serves when: the first that is free.
            let mut free = vec![0.0_f64; self.servers];
            let mut ends = Vec::new();
            for (number, arrival) in (0..).zip(arrivals) {
                let server = free.iter_mut().min_by(|a, b| a.total_cmp(b)).unwrap();
                let service = (self.service_s)(number);
                *server = server.max(*arrival) + service;
                ends.push((*server, service));
            }
            let last = ends.iter().map(|(end, _)| *end).fold(0.0, f64::max);
            line.served_by(start, self.fleet);
            let (mut places, mut right, mut all) = (Vec::new(), 0_u32, 0_u32);
            let mut ended = vec![false; ends.len()];
            let (mut now, step) = (0.0, (last / 400.0).max(0.02));
            while now < last {
                let mut done: Vec<_> = (0..ends.len()).filter(|n| !ended[*n] && ends[*n].0 <= now).collect();
                done.sort_by(|a, b| ends[*a].0.total_cmp(&ends[*b].0));
                for number in done {
                    ended[number] = true;
                    line.end(at(ends[number].0), Some(ends[number].1), Duration::ZERO);
                }
                while places.len() < arrivals.len() && arrivals[places.len()] <= now {
                    places.push(line.join(at(arrivals[places.len()])));
                }
                for (number, place) in places.iter().enumerate().filter(|(number, _)| !ended[*number]) {
                    let remaining = ends[number].0 - now;
                    let announced = line.remaining(at(now), Some(*place)).map_or(5, in_seconds) as f64;
                    // A second is as exact as the header is.
                    let is_right = (0.8..=1.5).contains(&(announced / remaining))
                        || (announced - remaining).abs() <= 1.0;
                    all += 1;
                    right += u32::from(is_right);
                }
                now += step;
            }
            for (number, (end, service_s)) in ends.iter().enumerate().filter(|(number, _)| !ended[*number]) {
                assert!(number < places.len(), "all have come");
                line.end(at(*end), Some(*service_s), Duration::ZERO);
            }
            f64::from(right) / f64::from(all)
        }
    }

    fn check(right: f64, what: &str) {
        assert!(right >= 0.9, "{what}: only {right:.3} of what was announced came true");
    }

    fn known(servers: f64, service_s: f64) -> Option<Fleet> {
        Some(Fleet { servers, service_s: Some(service_s), opens_at: None, growth: None })
    }

    #[test]
    fn thirty_jobs_of_a_second_and_one_worker_are_announced_as_they_come() {
        let world = World { servers: 1, service_s: |_| 1.0, fleet: None };
        let mut line = Line::default();
        // Something was done before, as in any service that is in use.
        world.right(&[0.0, 3.0], &mut line);
        check(world.right(&[0.0; 30], &mut line), "thirty at once");
    }

    #[test]
    fn long_and_short_jobs_on_one_and_on_several_servers_are_announced_honestly() {
        type Service = fn(u64) -> f64;
        let worlds: [(usize, f64, Service); 5] = [
            (1, 0.05, |_| 0.05),
            (1, 10.0, |_| 10.0),
            (4, 1.0, |_| 1.0),
            (4, 60.0, |_| 60.0),
            (16, 5.0, |_| 5.0),
        ];
        for (servers, service, service_s) in worlds {
            let what = format!("{servers} servers, {service} s");
            let world = World { servers, service_s, fleet: known(servers as f64, service) };
            check(world.right(&[0.0; 200], &mut Line::default()), &format!("{what}, at once"));
            let steady: Vec<_> = (0..200).map(|n| f64::from(n) * service / servers as f64 * 0.8).collect();
            check(world.right(&steady, &mut Line::default()), &format!("{what}, steadily"));
        }
    }

    #[test]
    fn jobs_of_uneven_length_are_announced_honestly() {
        let world = World {
            servers: 3,
            service_s: |n| 1.0 + (n * 7919 % 101) as f64 / 100.0,
            fleet: known(3.0, 1.5),
        };
        check(world.right(&[0.0; 300], &mut Line::default()), "from one to two seconds");
    }

    #[test]
    fn a_fleet_that_is_twice_as_fast_as_it_said_is_soon_known() {
        let world = World { servers: 2, service_s: |_| 1.0, fleet: known(1.0, 1.0) };
        check(world.right(&[0.0; 400], &mut Line::default()), "two where one was reported");
    }

    #[test]
    fn what_was_known_outweighs_a_slow_first_second() {
        // Everybody uploads at once, and the workers do not get the processor meanwhile.
        let world = World { servers: 3, service_s: |n| if n < 9 { 0.15 } else { 0.05 }, fleet: None };
        let mut line = Line::default();
        world.right(&[0.0; 200], &mut line);
        check(world.right(&[0.0; 200], &mut line), "known from an earlier stretch");
        let rate = line.before.expect("a stretch").rate;
        assert!((50.0..=62.0).contains(&rate), "{rate}");
    }

    #[test]
    fn while_the_fleet_starts_nothing_is_learnt_of_how_fast_each_of_it_is() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut line = Line::default();
        line.served_by(start, known(1.0, 5.0));
        (0..30).for_each(|_| _ = line.join(start));
        for n in 0..30 {
            line.end(at(5 * (n + 1)), Some(5.0), Duration::ZERO);
            if n == 20 {
                line.served_by(at(105), known(3.0, 5.0));
            }
        }
        let places: Vec<_> = (0..6).map(|_| line.join(at(200))).collect();
        let announced = places.iter().map(|place| line.remaining(at(200), Some(*place)).map(in_seconds));
        assert_eq!(announced.collect::<Vec<_>>(), [5, 5, 5, 10, 10, 10].map(Some));
    }

    #[test]
    fn without_a_controller_the_first_jobs_show_how_many_workers_there_are() {
        for (servers, service_s, jobs) in
            [(3, (|_| 20.0) as fn(u64) -> f64, 8), (3, |_| 60.0, 8), (16, |_| 5.0, 48)]
        {
            let (world, mut line) = (World { servers, service_s, fleet: None }, Line::default());
            world.right(&vec![0.0; jobs], &mut line);
            let rate = line.measured().expect("ends");
            let servers_seen = (rate * service_s(0)).round();
            assert!((servers_seen - servers as f64).abs() <= 1.0, "{servers_seen} of {servers}");
            check(
                world.right(&vec![0.0; jobs], &mut line),
                &format!("{servers} workers, {} s", service_s(0)),
            );
        }
    }

    #[test]
    fn without_a_controller_a_worker_less_is_known_within_seconds() {
        let worlds = [3, 1].map(|servers| World { servers, service_s: |_| 0.05, fleet: None });
        let mut line = Line::default();
        worlds[0].right(&[0.0; 400], &mut line);
        check(worlds[1].right(&[0.0; 1000], &mut line), "one where there were three");
    }

    #[test]
    fn where_nothing_is_known_a_guess_grows_with_what_it_takes() {
        let start = Instant::now();
        let mut line = Line::default();
        line.join(start);
        let guess = |s: u64| line.guess_s(start + Duration::from_secs(s), 1);
        assert_eq!([0, 2, 9, 30].map(guess), [2.0, 3.0, 10.0, 30.0]);
        assert_eq!(line.guess_s(start, 200), 10.0);
    }

    #[test]
    fn a_job_that_is_overdue_is_never_announced_for_now() {
        let start = Instant::now();
        let mut line = Line::default();
        line.served_by(start, known(1.0, 10.0));
        let place = line.join(start);
        let announced =
            |s: u64| line.remaining(start + Duration::from_secs(s), Some(place)).unwrap().as_secs_f64();
        assert_eq!([9, 12, 60].map(announced), [1.0, 1.0, 1.0]);
    }

    #[test]
    fn the_line_never_forgets_how_fast_it_was() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut line = Line::default();
        let first = line.join(at(0));
        assert_eq!(line.remaining(at(0), Some(first)), None, "nothing is known");
        line.end(at(60), Some(60.0), Duration::ZERO);
        // An hour later.
        for _ in 0..3 {
            line.join(at(3600));
        }
        let last = line.join(at(3600));
        assert_eq!(line.remaining(at(3600), Some(last)).map(in_seconds), Some(240));
        assert_eq!(line.remaining(at(3650), Some(last)).map(in_seconds), Some(190), "also between two ends");
    }

    #[test]
    fn before_the_first_worker_is_there_its_start_is_waited_for() {
        let start = Instant::now();
        let mut line = Line::default();
        line.served_by(
            start,
            Some(Fleet {
                servers: 2.0,
                service_s: Some(2.0),
                opens_at: Some(start + Duration::from_secs(30)),
                growth: None,
            }),
        );
        let places: Vec<_> = (0..4).map(|_| line.join(start)).collect();
        let announced = places.iter().map(|place| line.remaining(start, Some(*place)).map(in_seconds));
        assert_eq!(announced.collect::<Vec<_>>(), [Some(32), Some(32), Some(34), Some(34)]);
    }

    #[test]
    fn a_long_line_brings_more_servers_where_there_may_be_more() {
        let start = Instant::now();
        let growth = Some(Growth { most: 4.0, delay_s: 10.0, jobs_each: 10.0 });
        let announced = |jobs: usize, fleet: Fleet| {
            let mut line = Line::default();
            line.served_by(start, Some(fleet));
            let last = (0..jobs).map(|_| line.join(start)).last();
            line.remaining(start, last).map(in_seconds)
        };
        let opens_at = Some(start + Duration::from_secs(10));
        let nobody = Fleet { servers: 1.0, service_s: Some(1.0), opens_at, growth };
        assert_eq!(announced(1, nobody), Some(11), "one comes for one job");
        assert_eq!(announced(20, nobody), Some(20), "two for twenty");
        assert_eq!(announced(100, nobody), Some(35), "and no more than four");
        let one = Fleet { servers: 1.0, service_s: Some(1.0), opens_at: None, growth };
        assert_eq!(announced(5, one), Some(5));
        assert_eq!(announced(50, one), Some(20), "ten by the one that is there, and then by four");
    }

    #[test]
    fn jobs_of_other_hosts_count_as_well() {
        let start = Instant::now();
        let mut line = Line::default();
        line.served_by(start, known(1.0, 1.0));
        line.count(10);
        let place = line.join(start);
        assert_eq!(line.remaining(start, Some(place)).map(in_seconds), Some(11));
        line.count(3);
        assert_eq!((line.backlog(), line.position(Some(place))), (3, 3), "two of others and this one");
    }

    #[test]
    fn seconds_are_rounded_so_that_hardly_anybody_comes_too_early() {
        let rounded = |s: f64| in_seconds(Duration::from_secs_f64(s));
        assert_eq!([0.0, 0.9, 1.2, 1.4, 2.2, 2.4, 99.5].map(rounded), [1, 1, 1, 2, 2, 3, 100]);
    }
}
