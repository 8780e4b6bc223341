//! What the controller wrote down last, in words.

use std::{fs, path::Path};

use eirs_controller::status::{PoolStatus, Status};

/// Reads the status file; `None` where there is none or it is of another version.
pub fn read(file: &Path) -> Option<Status> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

/// The fleet: `2 ready, 1 starting`, pool by pool where there are several.
pub fn fleet(status: &Status) -> String {
    let of_pool = |pool: &PoolStatus| {
        let counts = [(pool.ready, "ready"), (pool.starting, "starting"), (pool.leaving, "leaving")];
        let told: Vec<_> = counts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, state)| format!("{count} {state}"))
            .collect();
        if told.is_empty() { "none".to_owned() } else { told.join(", ") }
    };
    match status.pools.as_slice() {
        [] => "no pool".into(),
        [pool] => format!("workers: {}", of_pool(pool)),
        pools => {
            let told: Vec<_> = pools.iter().map(|pool| format!("{}: {}", pool.name, of_pool(pool))).collect();
            format!("workers: {}", told.join("; "))
        }
    }
}

/// The work: `17 waiting, 3 in work, 12.3 images/s`.
pub fn work(status: &Status) -> String {
    let sum = |count: fn(&PoolStatus) -> Option<u64>| status.pools.iter().filter_map(count).sum::<u64>();
    let (waiting, in_work) = (sum(|pool| pool.visible), sum(|pool| pool.in_flight));
    format!("{waiting} waiting, {in_work} in work, {:.1} images/s", status.throughput_per_s)
}
