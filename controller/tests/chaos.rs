//! Chaos tests: random policies with random arrivals and all faults that the simulator has, which
//! end at some time. They check what must hold in any case.
//!
//! A failure prints its seed. `EIRS_CHAOS_SEED=n` replays it and prints the whole case;
//! `EIRS_CHAOS_SEEDS=n` tries n seeds.

#![expect(clippy::unwrap_used, reason = "what a test's helpers cannot do, the test cannot do")]

mod chaos {
    pub(crate) mod case;
    pub(crate) mod verdict;
}

use std::{
    env,
    sync::atomic::{AtomicU64, Ordering},
};

use chaos::{case::Case, verdict::verdict};

/// Number of seeds in an ordinary run.
const SEEDS: u64 = 120;

#[test]
fn no_fault_breaks_a_rule_and_all_jobs_end_after_the_faults() {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    if let Some(seed) = number("EIRS_CHAOS_SEED") {
        let case = Case::of(seed);
        eprintln!("{case}");
        let complaints = verdict(&case);
        assert!(complaints.is_empty(), "seed {seed}:\n  {}", complaints.join("\n  "));
        return;
    }
    let seeds = number("EIRS_CHAOS_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(1);
    let search = || {
        let mut found = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed > seeds || found.len() > 20 {
                return found;
            }
            let complaints = verdict(&Case::of(seed));
            if !complaints.is_empty() {
                found.push((seed, complaints));
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let mut found = std::thread::scope(|scope| {
        let searches: Vec<_> = (0..threads).map(|_| scope.spawn(search)).collect();
        searches.into_iter().flat_map(|search| search.join().unwrap()).collect::<Vec<_>>()
    });
    found.sort_unstable();
    for (seed, complaints) in &found {
        let few: Vec<_> = complaints.iter().take(6).map(String::as_str).collect();
        eprintln!(
            "seed {seed}: {} complaints; replay with EIRS_CHAOS_SEED={seed} cargo test -p eirs-controller \
             --test chaos\n  {}",
            complaints.len(),
            few.join("\n  ")
        );
    }
    assert!(found.is_empty(), "{} of {seeds} seeds failed", found.len());
}
