//! The resources of the process, under the names that all Prometheus clients use.

use super::{Metric, Sample};

/// Reads what the system reports.
#[cfg(target_os = "linux")]
pub(super) fn samples() -> Vec<Sample> {
    let Ok(process) = procfs::process::Process::myself() else { return Vec::new() };
    let ticks = procfs::ticks_per_second() as f64;
    let mut seen = Vec::new();
    let mut add = |metric, value| seen.push(Sample::of(metric, &[], value));
    if let Ok(stat) = process.stat() {
        if let Ok(boot) = procfs::boot_time_secs() {
            add(Metric::ProcessStart, boot as f64 + stat.starttime as f64 / ticks);
        }
        add(Metric::ProcessCpu, (stat.utime + stat.stime) as f64 / ticks);
        add(Metric::ProcessMemory, (stat.rss * procfs::page_size()) as f64);
    }
    if let Ok(fds) = process.fd_count() {
        add(Metric::ProcessFds, fds as f64);
    }
    if let Some(most) = process.limits().ok().map(|limits| limits.max_open_files.soft_limit) {
        let most = match most {
            procfs::process::LimitValue::Value(most) => most as f64,
            procfs::process::LimitValue::Unlimited => f64::INFINITY,
        };
        add(Metric::ProcessMaxFds, most);
    }
    seen
}

/// Not available on other systems.
#[cfg(not(target_os = "linux"))]
pub(super) fn samples() -> Vec<Sample> {
    Vec::new()
}
