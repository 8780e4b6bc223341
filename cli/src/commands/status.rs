//! Formats the last status of the controller.

pub mod command;
mod text;

use std::path::PathBuf;

pub use eirs_controller::status::read;
use eirs_controller::status::{PoolStatus, Status};
use eirs_platform::settings::Settings;

pub use self::text::text;

/// Returns the folder of the policies: a flag of the controller, else the settings.
pub fn policy_folder(settings: &Settings, status: Option<&Status>) -> PathBuf {
    let folder = status.map(|status| PathBuf::from(&status.policies)).filter(|folder| folder.is_dir());
    folder.unwrap_or_else(|| settings.controller.policies.clone())
}

/// Formats the running instances of a pool, as in `2 ready, 1 starting`; `None` without any.
fn counts(pool: &PoolStatus) -> Option<String> {
    let counts = [(pool.ready, "ready"), (pool.starting, "starting"), (pool.leaving, "leaving")];
    let parts: Vec<_> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, state)| format!("{count} {state}"))
        .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Formats the fleet, as in `2 ready, 1 starting`, pool by pool if there are several.
pub fn fleet(status: &Status) -> String {
    let of_pool = |pool: &PoolStatus| counts(pool).unwrap_or_else(|| "none".to_owned());
    match status.pools.as_slice() {
        [] => "no pool".into(),
        [pool] => format!("workers: {}", of_pool(pool)),
        pools => {
            let parts: Vec<_> =
                pools.iter().map(|pool| format!("{}: {}", pool.name, of_pool(pool))).collect();
            format!("workers: {}", parts.join("; "))
        }
    }
}

/// Formats the work, as in `17 waiting, 3 in flight, 12.3 images/s`.
pub fn work(status: &Status) -> String {
    let sum = |count: fn(&PoolStatus) -> Option<u64>| status.pools.iter().filter_map(count).sum::<u64>();
    let (waiting, in_flight) = (sum(|pool| pool.visible), sum(|pool| pool.in_flight));
    format!("{waiting} waiting, {in_flight} in flight, {:.1} images/s", status.throughput_per_s)
}
