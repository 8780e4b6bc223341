//! The case of a seed: a policy, arrivals and faults.

use std::{fmt, path::Path, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use eirs_controller::{
    policy::{Policy, parse},
    simulate::{
        Distribution, Faults, Setup, Shape, Trace,
        setup::{Chance, Micros},
    },
};

/// Texts that are not valid policies.
const NONSENSE: [&str; 4] =
    ["[pool\nmax = 3", "[pool]\nmax = 'many'", "[[rule]]\nkind = 'colour'", "[pool]\nmin = 5\nmax = 2"];

pub(crate) struct Case {
    pub(crate) text: String,
    pub(crate) trace: Trace,
    pub(crate) setup: Setup,
    /// The policy at the beginning.
    pub(crate) first: Policy,
    /// The policy in force at the end.
    pub(crate) last: Policy,
}

impl Case {
    pub(crate) fn of(seed: u64) -> Self {
        let mut dice = Dice(Chance::new(seed));
        let text = policy(&mut dice);
        let first = good(&text);
        let arrivals = arrivals(&mut dice);
        let last_arrival = arrivals.last().copied().unwrap_or(0);
        let mut setup = workers(&mut dice, seed, arrivals.len());
        let calm = last_arrival / 1_000_000 + dice.whole(0, 600);
        setup.faults = faults(&mut dice);
        setup.faults.until = Some(Duration::from_secs(calm));
        let mut last = first.clone();
        if dice.one_in(3) {
            let restarts = setup.faults.restart_every.is_some() || setup.faults.restart_in_plan > 0.0;
            setup.faults.edits = edits(&mut dice, calm, restarts);
            last = setup.faults.edits.iter().rev().find_map(|(_, text)| read(text)).unwrap_or(last);
        }
        // Long enough for the longest time that an instance is left alone, for all work on one
        // instance, and for every window.
        let work = setup.service_time.mean.as_secs() * arrivals.len() as u64;
        let jumps = if setup.faults.clock_jump_every.is_some() { 3600 } else { 0 };
        let settles = 3600 + 2400 + work + jumps + if last.pool.canary.is_some() { 3600 } else { 0 };
        let starts_at = "2026-07-03T00:00:00Z".parse::<DateTime<Utc>>().unwrap();
        let starts_at = starts_at + TimeDelta::minutes(dice.whole(0, 24 * 60) as i64);
        let trace = Trace::new(format!("seed {seed}"), arrivals, (calm + settles) * 1_000_000, starts_at);
        Self { text, trace: trace.unwrap(), setup, first, last }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, trace, setup, .. } = self;
        let last = trace.arrivals.last().map_or(0.0, |at| *at as f64 / 1e6);
        writeln!(
            f,
            "{}, from {}: {} arrivals up to {last:.0} s, {:.0} s in all\n{text}\n{setup:#?}",
            trace.name,
            trace.starts_at,
            trace.arrivals.len(),
            trace.seconds(),
        )
    }
}

fn read(text: &str) -> Option<Policy> {
    parse(Path::new("pool.toml"), text).ok()
}

fn good(text: &str) -> Policy {
    parse(Path::new("pool.toml"), text).unwrap_or_else(|complaints| panic!("{text}\n{complaints:?}"))
}

struct Dice(Chance);

impl Dice {
    fn one_in(&mut self, sides: usize) -> bool {
        self.0.below(sides) == 0
    }

    /// An integer from `from` to `to`, inclusive.
    fn whole(&mut self, from: u64, to: u64) -> u64 {
        from + self.0.below((to - from + 1) as usize) as u64
    }

    fn any<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.0.below(of.len())]
    }

    fn seconds(&mut self, of: &[u64]) -> Duration {
        Duration::from_secs(self.any(of))
    }

    /// Mostly 0, sometimes a small share, and rarely a large one.
    fn share(&mut self) -> f64 {
        match self.0.below(10) {
            0..=5 => 0.0,
            6..=8 => 0.2 * self.0.unit(),
            _ => 0.7 * self.0.unit(),
        }
    }
}

fn policy(dice: &mut Dice) -> String {
    let max = if dice.one_in(30) { 0 } else { dice.whole(1, 8) };
    let min = if dice.one_in(3) { dice.whole(0, max) } else { 0 };
    let spare = if dice.one_in(4) { dice.whole(0, max.min(2)) } else { 0 };
    let mut text = format!(
        "[pool]\nmax = {max}\nmin = {min}\nspare = {spare}\nstart_delay = '{}s'\nservice_time = '{}s'\n",
        dice.any(&[1, 5, 25]),
        dice.any(&[1, 2, 20])
    );
    if dice.one_in(8) {
        text += "canary = '1h'\n";
    }
    let fewest = u64::from(!dice.one_in(12));
    for _ in 0..dice.whole(fewest, 3) {
        text += &rule(dice);
    }
    if dice.one_in(3) {
        text += &format!("[scale_out]\nmax_step = {}\n", dice.whole(1, 4));
    }
    text += &format!(
        "[scale_in]\nidle = '{}s'\nwindow = '{}s'\ndrain_deadline = '{}s'\nmax_step = {}\n",
        dice.any(&[0, 10, 30, 120]),
        dice.any(&[0, 20, 90, 300]),
        dice.any(&[1, 30, 65, 90]),
        dice.whole(1, 5)
    );
    if dice.one_in(4) {
        let hours = dice.any(&[0.0, 0.05, 0.2, 0.5, 1.5, 6.0, 40.0]);
        let zone = dice.any(&["UTC", "Europe/Berlin", "Asia/Kolkata"]);
        text += &format!("[budget]\ninstance_hours_per_day = {hours}\ntimezone = '{zone}'\n");
    }
    if dice.one_in(2) {
        text += &format!("[instance]\nbilling_minimum = '{}s'\n", dice.any(&[0, 60, 600]));
    }
    text
}

fn rule(dice: &mut Dice) -> String {
    let rule = match dice.whole(0, 7) {
        0..=2 => format!("kind = 'backlog'\nper_instance = {}", dice.whole(1, 12)),
        3 | 4 => format!("kind = 'latency'\np95 = '{}s'", dice.any(&[1, 10, 30, 120])),
        5 => {
            let first = dice.any(&[1, 1, 5]);
            let (few, many) = (dice.whole(0, 3), dice.whole(1, 9));
            format!(
                "kind = 'step'\n\
                 steps = [{{ backlog = {first}, instances = {few} }}, {{ backlog = 30, instances = {many} }}]"
            )
        }
        6 => format!(
            "kind = 'schedule'\ncron = '0 {} * * *'\nduration = '{}h'\ntimezone = 'Europe/Berlin'\n\
             instances = {}",
            dice.whole(0, 23),
            dice.whole(1, 12),
            dice.whole(0, 4)
        ),
        _ => format!(
            "kind = 'forecast'\nseason = '{}m'\nquantile = {}",
            dice.any(&[5, 30, 60]),
            dice.any(&[0.5, 0.9, 0.99])
        ),
    };
    format!("[[rule]]\n{rule}\n")
}

/// Bursts and slow arrivals; up to 300 within half an hour.
fn arrivals(dice: &mut Dice) -> Vec<Micros> {
    let mut times = Vec::new();
    for _ in 0..dice.whole(1, 4) {
        let begins = dice.whole(0, 1500) * 1_000_000;
        let lasts = if dice.one_in(2) { 1 } else { dice.whole(10, 300) * 1_000_000 };
        let most = dice.any(&[1, 3, 20, 70]);
        for _ in 0..dice.whole(1, most) {
            times.push(begins + dice.0.below(lasts as usize) as u64);
        }
    }
    times.sort_unstable();
    times
}

fn workers(dice: &mut Dice, seed: u64, jobs: usize) -> Setup {
    let shape = match dice.whole(0, 2) {
        0 => Shape::Constant,
        1 => Shape::Exponential,
        _ => Shape::LogNormal(0.8),
    };
    let slow = if jobs > 100 { 5 } else { 15 };
    let mean = Duration::from_millis(dice.any(&[50, 1000, 2000, slow * 1000]));
    let start = Distribution {
        mean: dice.seconds(&[1, 5, 25]),
        shape: dice.any(&[Shape::Constant, Shape::Uniform(0.8), Shape::Exponential]),
    };
    Setup {
        service_time: Distribution { mean, shape },
        concurrency: dice.any(&[1, 1, 2, 4]),
        start_delay: start,
        seed,
        tick: dice.seconds(&[10, 10, 15, 30]),
        stop_delay: dice.seconds(&[0, 10, 40]),
        pending: Duration::from_secs(0),
        checks: true,
        ..Setup::default()
    }
}

fn faults(dice: &mut Dice) -> Faults {
    // Some cases have no fault, and some only one, as faults may hide each other.
    let kinds = match dice.whole(0, 5) {
        0 => 0,
        1 | 2 => 1,
        _ => 17,
    };
    let only = dice.whole(0, 16);
    let mut number = 0;
    let mut has = |dice: &mut Dice| {
        number += 1;
        kinds > 1 && dice.one_in(3) || kinds == 1 && number - 1 == only
    };
    let mut share = |dice: &mut Dice| if has(dice) { dice.share().max(0.05) } else { 0.0 };
    let mut faults = Faults {
        boot_failure: share(dice),
        boot_crash: share(dice),
        capacity_errors: share(dice),
        half_failed: share(dice),
        call_errors: share(dice),
        lost_answers: share(dice),
        list_errors: share(dice),
        depth_errors: share(dice),
        depth_noise: share(dice),
        depth_zero: share(dice),
        depth_wild: share(dice) / 10.0,
        lost_reports: share(dice),
        slow_stop: share(dice),
        restart_in_plan: share(dice),
        ..Faults::default()
    };
    faults.depth_lag = if has(dice) { dice.seconds(&[5, 30, 60]) } else { Duration::ZERO };
    faults.vanish_after = has(dice).then(|| dice.seconds(&[60, 300, 1800]));
    faults.restart_every = has(dice).then(|| dice.seconds(&[7, 61, 600]));
    if kinds > 1 && dice.one_in(5) {
        faults.clock_jump_every = Some(dice.seconds(&[300, 900]));
        faults.clock_jump = dice.seconds(&[5, 60, 400]);
    }
    if kinds > 1 && dice.one_in(5) {
        faults.lost_learnt = 0.5;
    }
    if faults.restart_every.is_some() && dice.one_in(3) {
        faults.downtime = dice.seconds(&[5, 20, 120]);
    }
    if kinds > 1 && dice.one_in(5) {
        faults.clock_skew = dice.seconds(&[3, 90]);
    }
    faults
}

/// Edits of the policy file while faults occur. The last edit may be invalid only if the controller
/// is not restarted with it.
fn edits(dice: &mut Dice, calm: u64, restarts: bool) -> Vec<(Duration, String)> {
    let mut edits: Vec<_> = (0..dice.whole(1, 4))
        .map(|_| {
            let at = Duration::from_secs(dice.whole(0, calm));
            (at, if dice.one_in(2) { dice.any(&NONSENSE).to_owned() } else { policy(dice) })
        })
        .collect();
    edits.sort();
    if restarts && edits.last().is_some_and(|(_, text)| read(text).is_none()) {
        edits.push((Duration::from_secs(calm), policy(dice)));
    }
    edits
}
