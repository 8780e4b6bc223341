//! Compares the simulator with results of queueing theory, and checks what must hold of any run.

use std::{path::Path, time::Duration};

use super::{setup::Chance, *};
use crate::policy::{Price, parse};

fn policy(text: &str) -> Policy {
    parse(Path::new("p.toml"), text).unwrap()
}

fn trace(text: &str) -> Trace {
    Trace::of(text, "p", 1).unwrap()
}

fn jittery() -> Setup {
    Setup {
        service_time: "2s~exp".parse().unwrap(),
        start_delay: "25s~uniform:0.5".parse().unwrap(),
        ..Setup::default()
    }
}

fn some_runs() -> Vec<(Outcome, Setup)> {
    let ours =
        policy("[pool]\nmax = 6\n[[rule]]\nkind = 'backlog'\nper_instance = 5\n[scale_in]\nidle = '20s'");
    let (trace, setup) = (trace("onoff:2/s,on=2m,off=4m@30m"), jittery());
    let mut runs = vec![(simulate(&ours, &trace, &setup, 0), setup.clone())];
    for reference in Reference::ALL {
        runs.push((simulate_reference(reference, 6, &trace, &setup), setup.clone()));
    }
    runs
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let policy = policy("[pool]\nmax = 6\n[[rule]]\nkind = 'latency'\np95 = '20s'");
    let trace = trace("burst:60/10m@1h");
    let faults = Faults {
        boot_failure: 0.1,
        capacity_errors: 0.1,
        depth_noise: 0.3,
        lost_reports: 0.1,
        restart_in_plan: 0.1,
        vanish_after: Some(Duration::from_secs(600)),
        ..Faults::default()
    };
    let run = |seed: u64| simulate(&policy, &trace, &Setup { seed, faults: faults.clone(), ..jittery() }, 60);
    let (once, again) = (run(7), run(7));
    assert_eq!((once.figures, &once.spans, &once.samples), (again.figures, &again.spans, &again.samples));
    let bits = |outcome: &Outcome| outcome.latencies_s.iter().map(|s| s.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&once), bits(&again));
    assert_ne!(bits(&once), bits(&run(8)));
}

/// The integral of the number of jobs in the system equals the sum of their times in it (Little,
/// 1961).
#[test]
fn littles_law_holds_for_every_run() {
    for (outcome, _) in some_runs() {
        assert_eq!(outcome.figures.unfinished, 0);
        let sum: f64 = outcome.latencies_s.iter().map(|latency| f64::from(*latency)).sum();
        assert!((outcome.job_seconds - sum).abs() < 1e-3 * sum, "{} {sum}", outcome.job_seconds);
    }
}

#[test]
fn the_billed_time_is_the_sum_of_all_runs_with_their_minimum() {
    for (outcome, setup) in some_runs() {
        assert_eq!(outcome.spans.len() as u64, outcome.figures.starts);
        let minimum = setup.price.billing_minimum.as_secs_f64();
        let ran = outcome.spans.iter().map(|(from, to)| (to - from) as f64 / 1e6);
        let billed_h = ran.clone().map(|ran| ran.max(minimum)).sum::<f64>() / 3600.0;
        assert!((outcome.figures.instance_hours - billed_h).abs() < 1e-9);
        assert!((outcome.ran_s - ran.sum::<f64>()).abs() < 1e-6);
        let cost = billed_h * setup.price.usd_per_hour;
        assert!((outcome.figures.cost_usd - cost).abs() < 1e-9);
    }
}

/// Two pools with opposite changes of load, under a limit that is too small for both.
#[test]
fn pools_under_one_limit_do_not_flap() {
    let one = "[pool]\nmodel = '{}'\nmax = 8\n[[rule]]\nkind = 'latency'\np95 = '12s'\n[scale_in]\n\
        idle = '0s'\nwindow = '20s'\nmax_step = 8";
    let pools = ["a", "b"].map(|name| (name.to_owned(), policy(&one.replace("{}", name))));
    let policies = Policies { pools: pools.into(), instance_limit: Some(9), ..Policies::default() };
    let setup = Setup { checks: true, ..jittery() };
    let loads = ["a", "b"].map(|name| (name.to_owned(), (trace("poisson:2/s@2h"), setup.clone())));
    let outcomes = simulate_together(&policies, &loads.into(), 0);
    let starts: u64 = outcomes.values().map(|outcome| outcome.figures.starts).sum();
    assert!(outcomes.values().all(|outcome| outcome.wrong.is_empty()), "{:?}", outcomes["a"].wrong);
    assert!(outcomes.values().all(|outcome| outcome.figures.unfinished == 0));
    assert!(starts <= 2 * 30, "{starts} starts in two hours");
}

#[test]
fn each_of_several_pools_has_its_own_prices_and_times() {
    let pools = ["a", "b"].map(|name| {
        let text = format!("[pool]\nmodel = '{name}'\n[[rule]]\nkind = 'backlog'");
        (name.to_owned(), policy(&text))
    });
    let policies = Policies { pools: pools.into(), ..Policies::default() };
    let dear = Setup {
        price: Price { usd_per_hour: 1.0, billing_minimum: Duration::from_secs(3600), ..Price::default() },
        service_time: "9s".parse().unwrap(),
        concurrency: 2,
        ..Setup::default()
    };
    let loads = [("a", Setup::default()), ("b", dear)]
        .map(|(name, setup)| (name.to_owned(), (trace("burst:3@1m"), setup)));
    let outcomes = simulate_together(&policies, &loads.into(), 0);
    let [a, b] = ["a", "b"].map(|name| &outcomes[name].figures);
    assert!((b.cost_usd - b.starts as f64).abs() < 1e-9, "an hour at one dollar for each start: {b:?}");
    assert!(a.cost_usd < 0.01, "{a:?}");
    assert!(b.mean_s > a.mean_s + 5.0, "{} {}", a.mean_s, b.mean_s);
}

/// The controller is repeatedly away for two minutes while five jobs arrive each second.
#[test]
fn reports_from_a_time_without_a_controller_do_not_look_like_a_burst() {
    let policy = policy("[pool]\nmax = 40\n[[rule]]\nkind = 'latency'\np95 = '60s'");
    let run = |faults: Faults| {
        let setup = Setup { checks: true, faults, ..Setup::default() };
        simulate(&policy, &trace("poisson:5/s@1h"), &setup, 3600)
    };
    let most = |outcome: &Outcome| {
        let later = outcome.samples.iter().filter(|sample| sample.at > 400_000_000);
        later.map(|sample| sample.ready + sample.starting).max().unwrap()
    };
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let away = Faults { restart_every: Some(minutes(10)), downtime: minutes(2), ..Faults::default() };
    let skewed = Faults { clock_skew: minutes(2), ..Faults::default() };
    let (here, away, skewed) = (run(Faults::default()), run(away), run(skewed));
    assert!(away.wrong.is_empty() && skewed.wrong.is_empty(), "{:?} {:?}", away.wrong, skewed.wrong);
    assert!(most(&away) <= most(&here) + 3, "{} {}", most(&away), most(&here));
    assert!(most(&skewed) <= most(&here) + 3, "{} {}", most(&skewed), most(&here));
}

#[test]
fn no_schedule_is_cheaper_than_the_relaxation() {
    for words in ["burst:40/5m@30m", "poisson:1/s@20m", "constant:1/m@1h"] {
        let (trace, setup) = (trace(words), jittery());
        let load = Load::new(&trace, &setup, "default");
        for other in Reference::ALL {
            let figures = simulate_reference(other, 6, &trace, &setup).figures;
            let least = clairvoyant::least_cost(&load, figures.p95_s, 0.95);
            assert!(least <= figures.cost_usd, "{words} {other}: {least} {}", figures.cost_usd);
            assert!(least > 0.0);
        }
    }
}

/// The mean wait in M/M/k, by the definition of Erlang's C.
fn erlang_wait_s(servers: u32, arrivals_per_s: f64, service_s: f64) -> f64 {
    let offered = arrivals_per_s * service_s;
    let term = |i: u32| (1..=i).fold(1.0, |product, j| product * offered / f64::from(j));
    let k = f64::from(servers);
    let all_busy = term(servers) * k / (k - offered);
    let waits = all_busy / ((0..servers).map(term).sum::<f64>() + all_busy);
    waits * service_s / (k - offered)
}

#[test]
fn a_fixed_fleet_with_poisson_arrivals_has_the_wait_of_erlangs_formula() {
    for (servers, rate) in [(1, "poisson:6/10s@12h"), (4, "poisson:3/s@8h")] {
        let policy = policy(&format!("[pool]\nmin = {servers}\nmax = {servers}"));
        let setup = Setup {
            service_time: "1s~exp".parse().unwrap(),
            start_delay: "1ms".parse().unwrap(),
            checks: false,
            ..Setup::default()
        };
        let trace = trace(rate);
        let per_s = trace.arrivals.len() as f64 / trace.seconds();
        let outcome = simulate(&policy, &trace, &setup, 0);
        let (waited, expected) = (outcome.figures.mean_s - 1.0, erlang_wait_s(servers, per_s, 1.0));
        assert!((waited - expected).abs() < 0.08 * expected, "{servers}: {waited} is not {expected}");
    }
}

#[test]
fn no_driver_is_cheaper_than_the_clairvoyant_with_as_many_requests_in_time() {
    for seed in 1..=12 {
        let mut chance = Chance::new(seed);
        let mut arrivals = Vec::new();
        for _ in 0..1 + chance.below(4) {
            let begins = chance.below(1_500_000_000) as u64;
            let lasts = [1, 60_000_000, 300_000_000][chance.below(3)];
            arrivals.extend((0..1 + chance.below(60)).map(|_| begins + chance.below(lasts) as u64));
        }
        let trace =
            Trace::new("random".into(), arrivals, 1_800_000_000, chrono::DateTime::UNIX_EPOCH).unwrap();
        let per_instance = 1 + chance.below(20);
        let policy = policy(&format!(
            "[pool]\nmax = {}\n[[rule]]\nkind = 'backlog'\nper_instance = {per_instance}\n[scale_in]\n\
             idle = '{}s'",
            1 + chance.below(6),
            chance.below(60)
        ));
        let setup = Setup { seed, ..jittery() };
        let runs = AtomicUsize::new(0);
        let progress = || _ = runs.fetch_add(1, Ordering::Relaxed);
        let draws = [Draw { trace, setup }];
        let report = compare(&policy, &draws, &Reference::ALL, 0, &progress).report;
        assert_eq!(
            runs.into_inner(),
            Reference::ALL.len() + 2,
            "the policy, the references, the clairvoyant"
        );
        let best = report.clairvoyant;
        assert!(best.within_slo >= report.policy.within_slo, "seed {seed}: {report:#?}");
        for (name, other) in report.rows().filter(|(_, other)| other.within_slo >= best.within_slo) {
            assert!(best.cost_usd <= other.cost_usd + 1e-9, "seed {seed}: {name}: {report:#?}");
        }
    }
}

#[test]
fn a_controller_that_is_down_half_of_the_time_completes_the_work() {
    let policy = policy("[pool]\nmax = 6\n[[rule]]\nkind = 'latency'\np95 = '20s'");
    let trace = trace("poisson:1/s@1h");
    let away = Duration::from_secs(600);
    let faults = Faults { restart_every: Some(away), downtime: away, ..Faults::default() };
    let setup = Setup { faults, ..jittery() };
    let outcome = simulate(&policy, &trace, &setup, 0);
    assert_eq!(outcome.figures.unfinished, 0);
    assert!(outcome.end < 2 * trace.length, "the run ends with the work: {} s", outcome.end / 1_000_000);
}

/// A burst of sixty jobs of two seconds, for two parked and four launchable instances.
#[test]
fn launched_instances_start_later_have_their_own_price_and_no_parked_disk() {
    let text = "[pool]\nmax = 2\n[[rule]]\nkind = 'backlog'\nper_instance = 5\n[scale_in]\nidle = '20s'";
    let launching = format!("{text}\n[launch]\nmost = 4\nstart_delay = '55s'");
    let setup = Setup {
        service_time: "2s".parse().unwrap(),
        start_delay: "25s".parse().unwrap(),
        launched_usd_per_hour: Some(0.01),
        ..Setup::default()
    };
    let trace = trace("burst:60/10m@1h");
    let (parked, both) = (
        simulate(&policy(text), &trace, &setup, 0).figures,
        simulate(&policy(&launching), &trace, &setup, 0).figures,
    );
    assert_eq!((parked.launched_hours, both.unfinished, parked.unfinished), (0.0, 0, 0));
    assert!(both.launched_hours > 0.0 && both.p95_s < parked.p95_s, "{both:?} {parked:?}");
    let parked_hours = both.instance_hours - both.launched_hours;
    let cost = parked_hours * setup.price.usd_per_hour + both.launched_hours * 0.01;
    assert!((both.cost_usd - cost).abs() < 1e-9, "{both:?}");
    assert!((both.disks_usd - parked.disks_usd).abs() < 1e-9, "only parked instances have disks");
    // With six parked instances instead, all are ready sooner.
    let all_at_once = policy(&launching.replace("max = 2", "max = 6").replace("most = 4", "most = 0"));
    let sooner = simulate(&all_at_once, &trace, &setup, 0).figures;
    assert!(sooner.p95_s < both.p95_s, "{sooner:?} {both:?}");
}
