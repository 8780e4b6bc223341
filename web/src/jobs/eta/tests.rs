use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    fleet::{Growth, Instance},
    *,
};

/// A simulated service in virtual time. Jobs are estimated when they arrive and at every poll, and
/// the estimates are compared with the real ends.
struct World {
    servers: usize,
    service_s: fn(u64) -> f64,
    fleet: Option<Fleet>,
}

const NAMES: [&str; 16] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"];

/// Instances that have served since `serves_at`.
fn instances(servers: usize, serves_at: Instant) -> BTreeMap<String, Instance> {
    let instance = Instance { at_once: 1, serves_at: Some(serves_at) };
    NAMES[..servers].iter().map(|name| ((*name).to_owned(), instance)).collect()
}

fn known(servers: usize, service_s: f64) -> Option<Fleet> {
    let since = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
    Some(Fleet { instances: instances(servers, since), service_s: Some(service_s), growth: None })
}

impl World {
    /// Runs jobs that arrive at these seconds; returns the fraction of estimates that were right.
    fn right(&self, arrivals: &[f64], line: &mut Line) -> f64 {
        self.right_from(Instant::now() + Duration::from_secs(60 * line.sent), arrivals, line)
    }

    fn right_from(&self, start: Instant, arrivals: &[f64], line: &mut Line) -> f64 {
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        // Each job goes to the server that is free first.
        let mut free = vec![0.0_f64; self.servers];
        let mut ends = Vec::new();
        for (number, arrival) in (0..).zip(arrivals) {
            let server = (0..self.servers).min_by(|a, b| free[*a].total_cmp(&free[*b])).unwrap();
            let service = (self.service_s)(number);
            free[server] = free[server].max(*arrival) + service;
            ends.push((free[server], service, NAMES[server]));
        }
        let last = ends.iter().map(|(end, ..)| *end).fold(0.0, f64::max);
        line.served_by(start, self.fleet.clone());
        let (mut places, mut right, mut all) = (Vec::new(), 0_u32, 0_u32);
        let mut ended = vec![false; ends.len()];
        let done = |number: usize| {
            let (_, busy_s, worker) = ends[number];
            Some(Done { worker, took_s: busy_s, busy_s, ago_s: 0.0 })
        };
        let (mut now, step) = (0.0, (last / 150.0).max(0.02));
        while now < last {
            let mut over: Vec<_> = (0..ends.len()).filter(|n| !ended[*n] && ends[*n].0 <= now).collect();
            over.sort_by(|a, b| ends[*a].0.total_cmp(&ends[*b].0));
            for number in over {
                ended[number] = true;
                line.end(at(ends[number].0), done(number));
            }
            while places.len() < arrivals.len() && arrivals[places.len()] <= now {
                places.push(line.join(at(arrivals[places.len()])));
            }
            for (number, place) in places.iter().enumerate().filter(|(number, _)| !ended[*number]) {
                let remaining = ends[number].0 - now;
                let announced = line.remaining(at(now), Some(*place)).map_or(5, in_seconds) as f64;
                // The header is exact to a second.
                let is_right =
                    (0.8..=1.5).contains(&(announced / remaining)) || (announced - remaining).abs() <= 1.0;
                all += 1;
                right += u32::from(is_right);
            }
            now += step;
        }
        for number in (0..ends.len()).filter(|number| !ended[*number]) {
            assert!(number < places.len(), "all jobs have arrived");
            line.end(at(ends[number].0), done(number));
        }
        f64::from(right) / f64::from(all)
    }
}

fn check(right: f64, what: &str) {
    assert!(right >= 0.9, "{what}: only {right:.3} of the estimates were right");
}

fn at_second(start: Instant) -> impl Fn(f64) -> Instant {
    move |seconds| start + Duration::from_secs_f64(seconds)
}

fn by(worker: &str, busy_s: f64) -> Option<Done<'_>> {
    Some(Done { worker, took_s: busy_s, busy_s, ago_s: 0.0 })
}

#[test]
fn estimates_for_thirty_jobs_on_one_worker_are_right() {
    let world = World { servers: 1, service_s: |_| 1.0, fleet: None };
    let mut line = Line::default();
    // A service in use has done jobs before.
    world.right(&[0.0, 3.0], &mut line);
    check(world.right(&[0.0; 30], &mut line), "thirty at once");
}

#[test]
fn estimates_for_long_and_short_jobs_on_one_or_several_servers_are_right() {
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
        let world = World { servers, service_s, fleet: known(servers, service) };
        check(world.right(&[0.0; 200], &mut Line::default()), &format!("{what}, at once"));
        let steady: Vec<_> = (0..200).map(|n| f64::from(n) * service / servers as f64 * 0.8).collect();
        check(world.right(&steady, &mut Line::default()), &format!("{what}, steadily"));
    }
}

#[test]
fn estimates_for_jobs_of_uneven_length_are_right() {
    let world =
        World { servers: 3, service_s: |n| 1.0 + (n * 7919 % 101) as f64 / 100.0, fleet: known(3, 1.5) };
    check(world.right(&[0.0; 300], &mut Line::default()), "from one to two seconds");
}

#[test]
fn a_fleet_twice_as_large_as_reported_is_soon_recognized() {
    let world = World { servers: 2, service_s: |_| 1.0, fleet: known(1, 1.0) };
    check(world.right(&[0.0; 400], &mut Line::default()), "two servers, one was reported");
}

#[test]
fn earlier_samples_outweigh_a_slow_first_second() {
    // All clients upload at once and take the workers' processor time.
    let world = World { servers: 3, service_s: |n| if n < 9 { 0.15 } else { 0.05 }, fleet: None };
    let mut line = Line::default();
    world.right(&[0.0; 200], &mut line);
    check(world.right(&[0.0; 200], &mut line), "known from an earlier line");
    let each_s = line.each_s().expect("samples");
    assert!((0.049..=0.06).contains(&each_s), "{each_s}");
}

#[test]
fn a_growing_fleet_keeps_the_time_per_job_of_each_instance() {
    let start = Instant::now();
    let at = at_second(start);
    let mut line = Line::default();
    let fleet = |servers| Some(Fleet { instances: instances(servers, start), ..known(0, 5.0).unwrap() });
    line.served_by(start, fleet(1));
    (0..30).for_each(|_| _ = line.join(start));
    for n in 0..30 {
        line.end(at(5.0 * f64::from(n + 1)), by("a", 5.0));
    }
    line.served_by(at(200.0), fleet(3));
    let places: Vec<_> = (0..6).map(|_| line.join(at(200.0))).collect();
    let announced = places.iter().map(|place| line.remaining(at(200.0), Some(*place)).map(in_seconds));
    assert_eq!(announced.collect::<Vec<_>>(), [5, 5, 5, 10, 10, 10].map(Some));
}

#[test]
fn without_a_controller_the_first_jobs_show_how_many_workers_there_are() {
    for (servers, service_s, jobs) in
        [(3, (|_| 20.0) as fn(u64) -> f64, 8), (3, |_| 60.0, 8), (16, |_| 5.0, 48)]
    {
        let (world, mut line) = (World { servers, service_s, fleet: None }, Line::default());
        world.right(&vec![0.0; jobs], &mut line);
        assert_eq!(line.crew.free_at(None).count(), servers);
        check(world.right(&vec![0.0; jobs], &mut line), &format!("{servers} workers, {} s", service_s(0)));
    }
}

#[test]
fn without_a_controller_the_loss_of_a_worker_is_noticed_within_seconds() {
    let worlds = [3, 1].map(|servers| World { servers, service_s: |_| 0.05, fleet: None });
    let mut line = Line::default();
    worlds[0].right(&[0.0; 400], &mut line);
    check(worlds[1].right(&[0.0; 1000], &mut line), "one worker instead of three");
}

#[test]
fn a_worker_that_holds_one_job_more_than_it_classifies_is_one_server() {
    let at = at_second(Instant::now());
    let mut line = Line::default();
    (0..100).for_each(|_| _ = line.join(at(0.0)));
    for n in 1..=20 {
        // It held each job while it did the one before it.
        line.end(at(0.05 * f64::from(n)), Some(Done { worker: "a", took_s: 0.1, busy_s: 0.05, ago_s: 0.0 }));
    }
    line.count(at(1.0), 80, 2, 80);
    assert_eq!(line.at_once, 1);
    assert!((0.05..0.06).contains(&line.each_s().unwrap()), "{:?}", line.each_s());
}

#[test]
fn three_workers_that_have_just_taken_their_first_jobs_are_seen_in_the_queue() {
    let start = Instant::now();
    let at = at_second(start);
    let mut line = Line::default();
    line.join(start);
    line.end(at(20.0), by("a", 20.0));
    // An hour later two more workers serve, and no controller reports them.
    let places: Vec<_> = (0..6).map(|_| line.join(at(3600.0))).collect();
    line.count(at(3600.5), 6, 3, 6);
    let announced = |at: Instant| -> Vec<_> {
        places.iter().map(|place| line.remaining(at, Some(*place)).map(in_seconds).unwrap()).collect()
    };
    assert_eq!(announced(at(3601.0)), [19, 20, 20, 39, 40, 40]);
}

#[test]
fn without_samples_the_estimate_grows_with_the_time_taken() {
    let start = Instant::now();
    let mut line = Line::default();
    line.join(start);
    let guess = |s: u64| line.guess_s(start + Duration::from_secs(s), 1);
    assert_eq!([0, 2, 9, 30].map(guess), [2.0, 3.0, 10.0, 30.0]);
    assert_eq!(line.guess_s(start, 200), 10.0);
}

#[test]
fn the_estimate_for_an_overdue_job_is_never_zero() {
    let start = Instant::now();
    let mut line = Line::default();
    line.served_by(start, known(1, 10.0));
    let place = line.join(start);
    let announced =
        |s: u64| line.remaining(start + Duration::from_secs(s), Some(place)).unwrap().as_secs_f64();
    assert_eq!([9, 12, 60].map(announced), [1.0, 1.0, 1.0]);
}

#[test]
fn a_line_remembers_its_time_per_job() {
    let start = Instant::now();
    let at = at_second(start);
    let mut line = Line::default();
    let first = line.join(start);
    assert_eq!(line.remaining(start, Some(first)), None, "nothing is known");
    line.end(at(60.0), by("a", 60.0));
    // An hour later.
    for _ in 0..3 {
        line.join(at(3600.0));
    }
    let last = line.join(at(3600.0));
    assert_eq!(line.remaining(at(3600.0), Some(last)).map(in_seconds), Some(240));
    assert_eq!(
        line.remaining(at(3650.0), Some(last)).map(in_seconds),
        Some(190),
        "also between two ends of jobs"
    );
}

#[test]
fn the_estimate_includes_the_start_of_the_first_worker() {
    let start = Instant::now();
    let mut line = Line::default();
    let instances = instances(2, start + Duration::from_secs(30));
    line.served_by(start, Some(Fleet { instances, service_s: Some(2.0), growth: None }));
    let places: Vec<_> = (0..4).map(|_| line.join(start)).collect();
    let announced = places.iter().map(|place| line.remaining(start, Some(*place)).map(in_seconds));
    assert_eq!(announced.collect::<Vec<_>>(), [Some(32), Some(32), Some(34), Some(34)]);
}

#[test]
fn a_long_line_adds_servers_up_to_the_maximum() {
    let start = Instant::now();
    let growth = Some(Growth { most: 4.0, delay_s: 10.0, jobs_each: 10.0 });
    let announced = |jobs: usize, serves_in_s: u64| {
        let mut line = Line::default();
        let instances = instances(1, start + Duration::from_secs(serves_in_s));
        line.served_by(start, Some(Fleet { instances, service_s: Some(1.0), growth }));
        let last = (0..jobs).map(|_| line.join(start)).last();
        line.remaining(start, last).map(in_seconds)
    };
    assert_eq!(announced(1, 10), Some(11), "one instance for one job");
    assert_eq!(announced(20, 10), Some(20), "two for twenty");
    assert_eq!(announced(100, 10), Some(35), "at most four");
    assert_eq!(announced(5, 0), Some(5));
    assert_eq!(announced(50, 0), Some(20), "ten by the running one, then by four");
}

#[test]
fn jobs_of_other_hosts_count_as_well() {
    let start = Instant::now();
    let mut line = Line::default();
    line.served_by(start, known(1, 1.0));
    line.count(start, 10, 1, 0);
    let place = line.join(start);
    assert_eq!(line.remaining(start, Some(place)).map(in_seconds), Some(11));
    line.count(start, 3, 1, 1);
    assert_eq!((line.backlog(), line.position(Some(place))), (3, 3), "two of others and this one");
}

#[test]
fn jobs_that_end_during_the_count_do_not_count_as_jobs_of_other_hosts() {
    let start = Instant::now();
    let mut line = Line::default();
    (0..5).for_each(|_| _ = line.join(start));
    let own = line.own();
    line.end(start, by("a", 1.0));
    line.end(start, by("a", 1.0));
    line.count(start, 5, 1, own);
    assert_eq!(line.backlog(), 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Some servers serve at once, others start later; each job takes the same time.
    #[test]
    fn estimates_are_exact_if_all_jobs_take_the_same_time(
        service_s in 0.5..60.0_f64, servers in 1..8_usize, later in 0..8_usize, starts_s in 0.0..100.0_f64,
        jobs in 1..60_usize,
    ) {
        let start = Instant::now();
        let at = at_second(start);
        let mut line = Line::default();
        let mut fleet = known(servers, service_s).unwrap();
        for (name, instance) in instances(servers + later, at(starts_s)) {
            fleet.instances.entry(name).or_insert(instance);
        }
        line.served_by(start, Some(fleet));
        let places: Vec<_> = (0..jobs).map(|_| line.join(start)).collect();
        let mut free: Vec<_> = (0..servers + later).map(|n| if n < servers { 0.0 } else { starts_s }).collect();
        let ends: Vec<_> = places.iter().map(|_| {
            let server = (0..free.len()).min_by(|a, b| free[*a].total_cmp(&free[*b])).unwrap();
            free[server] += service_s;
            (free[server], NAMES[server])
        }).collect();
        let mut said = vec![f64::INFINITY; jobs];
        for (ended, (now, worker)) in ends.iter().enumerate() {
            // Just before each end.
            let moment = at(now - service_s * 0.05);
            for (number, place) in places.iter().enumerate().skip(ended) {
                let announced = line.remaining(moment, Some(*place)).unwrap().as_secs_f64();
                let remaining = ends[number].0 - (now - service_s * 0.05);
                prop_assert!((announced - remaining).abs() < 0.06 * service_s + 1e-3,
                    "job {number} after {ended}: {announced} of {remaining}");
                prop_assert!(announced <= said[number] + 0.06 * service_s + 1e-3, "the estimate never grows");
                said[number] = announced;
            }
            line.end(at(*now), by(worker, service_s));
        }
    }
}

#[test]
fn seconds_are_rounded_so_that_few_clients_come_too_early() {
    let rounded = |s: f64| in_seconds(Duration::from_secs_f64(s));
    assert_eq!([0.0, 0.9, 1.2, 1.4, 2.2, 2.4, 99.5].map(rounded), [1, 1, 1, 2, 2, 3, 100]);
}

#[test]
fn an_estimate_up_to_a_fifth_too_long_is_right_in_whole_seconds() {
    for truth in (140..2000).map(|hundredths| f64::from(hundredths) / 100.0) {
        for part in [1.0, 1.1, 1.2] {
            let ratio = whole_seconds(truth * part) as f64 / truth;
            assert!((0.8..=1.5).contains(&ratio), "{part} of {truth}: {ratio}");
        }
    }
}
