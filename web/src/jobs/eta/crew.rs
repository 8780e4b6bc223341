//! The servers, as inferred from replies: which worker had a job from when to when. Jobs that a
//! worker has at the same time are on different slots.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use super::fleet::Fleet;

/// Maximum time between two jobs of a slot, in seconds, to which half of the job's time is added. A
/// longer gap was a pause.
const PAUSE_S: f64 = 0.1;
/// Times this close may be equal, in seconds; so may times a third of a job apart.
const JITTER_S: f64 = 0.01;
/// A slot is gone if it has ended nothing for this time plus three times the longest job, while
/// jobs wait. In seconds.
const GONE_S: f64 = 1.0;
/// A worker is gone as well after this time without a reply if the controller does not list it, ...
const UNLISTED_S: f64 = 60.0;
/// ... and after this time if there is no controller. In seconds.
const UNHEARD_S: f64 = 86_400.0;

/// A job done by a worker, from its reply.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Done<'a> {
    pub(crate) worker: &'a str,
    /// Seconds for which the worker had it, ...
    pub(crate) took_s: f64,
    /// ... and for which one of its threads did.
    pub(crate) busy_s: f64,
    /// Seconds since its end by the worker's clock, which may be wrong.
    pub(crate) ago_s: f64,
}

#[derive(Debug, Default)]
pub(super) struct Crew {
    workers: BTreeMap<String, Worker>,
    /// Servers that the queue's depth shows but no slot explains, with the time since when.
    unseen: VecDeque<Instant>,
}

#[derive(Debug)]
struct Worker {
    /// The end of each slot's last job.
    slots: Vec<Instant>,
    /// Number of jobs that it has done.
    jobs: usize,
    /// Upper bound on how far its clock lags behind, in seconds: assumes that its fastest reply
    /// took no time.
    lag_s: f64,
}

fn before(moment: Instant, seconds: f64) -> Instant {
    moment.checked_sub(Duration::try_from_secs_f64(seconds).unwrap_or_default()).unwrap_or(moment)
}

impl Crew {
    /// Records a reply. Returns the seconds for which its slot was busy with the job, including the
    /// gap before it if other jobs have waited since `waited_since`.
    pub(super) fn done(&mut self, now: Instant, done: &Done<'_>, waited_since: Option<Instant>) -> f64 {
        let new = || Worker { slots: Vec::new(), jobs: 0, lag_s: done.ago_s };
        let worker = self.workers.entry(done.worker.to_owned()).or_insert_with(new);
        worker.jobs += 1;
        worker.lag_s = worker.lag_s.min(done.ago_s);
        let ended = before(now, done.ago_s - worker.lag_s);
        let began = before(ended, done.busy_s);
        let near_s = JITTER_S + done.busy_s / 3.0;
        let distance_s = |slot: Instant| {
            let after = began.saturating_duration_since(slot).as_secs_f64();
            after.max(slot.saturating_duration_since(began).as_secs_f64())
        };
        let is_free = |slot: &&mut Instant| **slot <= began || distance_s(**slot) <= near_s;
        let free = worker.slots.iter_mut().filter(is_free);
        let Some(slot) = free.min_by(|a, b| distance_s(**a).total_cmp(&distance_s(**b))) else {
            worker.slots.push(ended);
            self.unseen.pop_front();
            return done.took_s;
        };
        let freed = std::mem::replace(slot, ended.max(*slot));
        let is_next = waited_since.is_some_and(|since| since <= freed)
            && distance_s(freed) <= PAUSE_S + done.busy_s / 2.0;
        if is_next { ended.saturating_duration_since(freed).as_secs_f64() } else { done.took_s }
    }

    /// Records that workers hold this number of jobs, each no more than it classifies.
    pub(super) fn held(&mut self, now: Instant, held: usize, fleet: Option<&Fleet>) {
        let known = self.free_at(fleet).filter(|free_at| *free_at <= now).count() - self.unseen.len();
        self.unseen.resize(held.saturating_sub(known), now);
    }

    /// Removes workers that no longer serve according to the controller, or that have been silent
    /// for long.
    pub(super) fn forget_left(&mut self, now: Instant, fleet: Option<&Fleet>) {
        let is_heard = |worker: &Worker, within_s: f64| {
            worker.slots.iter().any(|slot| now.saturating_duration_since(*slot).as_secs_f64() < within_s)
        };
        self.workers.retain(|id, worker| match fleet.map(|fleet| fleet.instances.get(id)) {
            Some(Some(instance)) => instance.serves_at.is_some(),
            Some(None) => is_heard(worker, UNLISTED_S),
            None => is_heard(worker, UNHEARD_S),
        });
    }

    /// Removes slots that have ended nothing for long while jobs have waited since `waited_since`.
    pub(super) fn forget_gone(&mut self, now: Instant, waited_since: Instant, longest_s: f64) {
        let gone_before = before(now, GONE_S + 3.0 * longest_s);
        if waited_since > gone_before {
            return;
        }
        for worker in self.workers.values_mut() {
            worker.slots.retain(|slot| *slot >= gone_before);
        }
        self.workers.retain(|_, worker| !worker.slots.is_empty());
    }

    /// Returns the average number of slots of a worker, or `None` if there is none.
    pub(super) fn slots_each(&self) -> Option<usize> {
        let slots = self.workers.values().map(|worker| worker.slots.len()).sum::<usize>();
        (slots > 0).then(|| slots.div_ceil(self.workers.len()))
    }

    /// Returns for each slot when it became free for its current job, or will be free for its
    /// first.
    pub(super) fn free_at<'a>(&'a self, fleet: Option<&'a Fleet>) -> impl Iterator<Item = Instant> + 'a {
        let listed = fleet.into_iter().flat_map(|fleet| &fleet.instances);
        let listed = listed.filter_map(|(id, instance)| Some((id, instance.at_once, instance.serves_at?)));
        let listed = listed.flat_map(|(id, at_once, serves_at)| {
            let (slots, jobs) =
                self.workers.get(id).map_or((&[][..], 0), |worker| (&worker.slots[..], worker.jobs));
            // Slots that have not shown in a reply yet.
            let unused = if jobs < 2 * at_once { at_once.saturating_sub(slots.len()) } else { 0 };
            slots.iter().copied().chain(std::iter::repeat_n(serves_at, unused))
        });
        let is_other = move |id: &String| fleet.is_none_or(|fleet| !fleet.instances.contains_key(id));
        let others = self.workers.iter().filter(move |(id, _)| is_other(id));
        let others = others.flat_map(|(_, worker)| worker.slots.iter().copied());
        listed.chain(others).chain(self.unseen.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::fleet::Instance, *};

    /// Sends replies of one worker that was busy in these intervals of seconds; returns the busy
    /// times.
    fn replies(crew: &mut Crew, start: Instant, jobs: &[(f64, f64)]) -> Vec<f64> {
        let reply = |(began, ended): &(f64, f64)| {
            let busy_s = ended - began;
            let done = Done { worker: "w", took_s: busy_s, busy_s, ago_s: 7.0 };
            (crew.done(start + Duration::from_secs_f64(*ended), &done, Some(start)) * 100.0).round() / 100.0
        };
        jobs.iter().map(reply).collect()
    }

    #[test]
    fn overlapping_jobs_of_a_worker_show_its_slots() {
        let start = Instant::now();
        let mut one = Crew::default();
        let busy = replies(&mut one, start, &[(0.0, 1.0), (1.02, 2.0), (1.99, 3.0), (9.0, 9.5)]);
        assert_eq!(one.free_at(None).count(), 1);
        assert_eq!(busy, [1.0, 1.0, 1.0, 0.5], "with the gap between two jobs, but without a pause");
        let mut two = Crew::default();
        replies(&mut two, start, &[(0.0, 1.0), (0.4, 1.4), (1.0, 2.0), (1.4, 2.4), (2.0, 3.0)]);
        let mut free: Vec<_> = two.free_at(None).map(|at| (at - start).as_secs_f64()).collect();
        free.sort_by(f64::total_cmp);
        assert_eq!(free, [2.4, 3.0]);
    }

    #[test]
    fn a_slot_that_ends_nothing_while_jobs_wait_is_removed() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut crew = Crew::default();
        for worker in ["a", "b"] {
            crew.done(at(10), &Done { worker, took_s: 10.0, busy_s: 10.0, ago_s: 0.0 }, None);
        }
        crew.done(at(45), &Done { worker: "a", took_s: 10.0, busy_s: 10.0, ago_s: 0.0 }, None);
        crew.forget_gone(at(45), at(30), 10.0);
        assert_eq!(crew.free_at(None).count(), 2, "no job has waited that long");
        crew.forget_gone(at(45), at(10), 10.0);
        assert_eq!(crew.free_at(None).collect::<Vec<_>>(), [at(45)]);
    }

    #[test]
    fn a_worker_that_the_controller_does_not_list_is_soon_forgotten() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut crew = Crew::default();
        for worker in ["listed", "draining", "gone"] {
            crew.done(start, &Done { worker, took_s: 1.0, busy_s: 1.0, ago_s: 0.0 }, None);
        }
        crew.forget_left(at(7200), None);
        assert_eq!(crew.workers.len(), 3, "there is no controller");
        let instance = |serves_at| Instance { at_once: 1, serves_at };
        let instances = [("listed", Some(start)), ("draining", None)];
        let instances = instances.map(|(id, serves_at)| (id.to_owned(), instance(serves_at))).into();
        let fleet = Fleet { instances, service_s: None, growth: None };
        crew.forget_left(at(30), Some(&fleet));
        assert_eq!(crew.workers.len(), 2, "it may be newer than the status");
        crew.forget_left(at(90), Some(&fleet));
        assert_eq!(crew.workers.keys().collect::<Vec<_>>(), ["listed"]);
    }

    #[test]
    fn held_jobs_count_as_servers_even_without_replies() {
        let start = Instant::now();
        let mut crew = Crew::default();
        crew.held(start, 3, None);
        assert_eq!(crew.free_at(None).collect::<Vec<_>>(), [start; 3]);
        let ended = start + Duration::from_secs(5);
        crew.done(ended, &Done { worker: "a", took_s: 5.0, busy_s: 5.0, ago_s: 0.0 }, None);
        assert_eq!(crew.free_at(None).collect::<Vec<_>>(), [ended, start, start]);
        crew.held(ended, 1, None);
        assert_eq!(crew.free_at(None).collect::<Vec<_>>(), [ended]);
    }
}
