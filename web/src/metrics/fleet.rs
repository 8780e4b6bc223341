//! Samples from the controller's status. Values that the controller could not observe or does not
//! know yet are left out.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;

use super::{Label, Metric, Sample};

/// Minimum age in seconds of the last pass of a controller that is down; it must also be older than
/// three ticks.
const SILENT_AFTER_S: f64 = 30.0;

/// The parts of `status.json` that are shown (see `controller/src/status.rs` for all).
#[derive(Debug, Deserialize)]
struct Status {
    at: DateTime<Utc>,
    started_at: DateTime<Utc>,
    #[serde(with = "eirs_platform::settings::units::duration")]
    tick: std::time::Duration,
    policy_errors: Vec<String>,
    problems: Vec<String>,
    pools: Vec<Pool>,
}

#[derive(Debug, Deserialize)]
struct Pool {
    name: String,
    min: u32,
    max: u32,
    visible: Option<u64>,
    in_flight: Option<u64>,
    arrivals_per_s: f64,
    done_per_s: f64,
    desired: u32,
    #[serde(default)]
    paused: Value,
    service_s: Option<f64>,
    #[serde(default)]
    learnt: Learnt,
    #[serde(default)]
    today: Today,
    instances: Vec<Instance>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Learnt {
    start_delay_s: Option<f64>,
    start_delay_p95_s: Option<f64>,
    expected_per_s: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Today {
    instance_hours: Option<f64>,
    budget_hours: Option<f64>,
    cost_usd: Option<f64>,
    images: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Instance {
    state: String,
    service_mean_ms: Option<f64>,
    service_p95_ms: Option<f64>,
    #[serde(default)]
    crashes: u32,
    #[serde(default)]
    cordoned: Value,
    #[serde(default)]
    refused: Option<Refused>,
}

#[derive(Debug, Deserialize)]
struct Refused {
    capacity: bool,
}

/// Converts the controller's status at the Unix time `now`; empty if there is no controller, or its
/// status cannot be parsed.
pub(super) fn samples(now: f64, controller: &Value) -> Vec<Sample> {
    let Ok(status) = Status::deserialize(controller) else { return Vec::new() };
    let mut seen = Vec::new();
    let last_pass = status.at.timestamp_micros() as f64 / 1e6;
    let silent_after = (3.0 * status.tick.as_secs_f64()).max(SILENT_AFTER_S);
    let mut add = |metric, value| seen.push(Sample::of(metric, &[], value));
    add(Metric::ControllerUp, f64::from(now - last_pass <= silent_after));
    add(Metric::ControllerLastPass, last_pass);
    add(Metric::ControllerStart, status.started_at.timestamp_micros() as f64 / 1e6);
    add(Metric::PolicyErrors, status.policy_errors.len() as f64);
    add(Metric::Problems, status.problems.len() as f64);
    for pool in &status.pools {
        add_pool(pool, &mut seen);
    }
    seen
}

fn add_pool(pool: &Pool, seen: &mut Vec<Sample>) {
    let name = (Label::Pool, pool.name.as_str());
    let mut add = |metric, more: &[(Label, &str)], value: Option<f64>| {
        let labels: Vec<_> = [name].iter().chain(more).copied().collect();
        seen.extend(value.map(|value| Sample::of(metric, &labels, value)));
    };
    if let (Some(visible), Some(in_flight)) = (pool.visible, pool.in_flight) {
        add(Metric::Backlog, &[], Some((visible + in_flight) as f64));
        add(Metric::QueueJobs, &[(Label::Phase, "visible")], Some(visible as f64));
        add(Metric::QueueJobs, &[(Label::Phase, "in_flight")], Some(in_flight as f64));
    }
    let Learnt { start_delay_s, start_delay_p95_s, expected_per_s } = pool.learnt;
    add(Metric::ArrivalsPerSecond, &[], Some(pool.arrivals_per_s));
    add(Metric::ArrivalsExpected, &[], expected_per_s);
    add(Metric::DonePerSecond, &[], Some(pool.done_per_s));
    add(Metric::StartDelaySeconds, &[(Label::Percentile, "p50")], start_delay_s);
    add(Metric::StartDelaySeconds, &[(Label::Percentile, "p95")], start_delay_p95_s);

    let count =
        |is: &dyn Fn(&Instance) -> bool| Some(pool.instances.iter().filter(|one| is(one)).count() as f64);
    add(Metric::InstancesDesired, &[], Some(f64::from(pool.desired)));
    add(Metric::InstancesMin, &[], Some(f64::from(pool.min)));
    add(Metric::InstancesMax, &[], Some(f64::from(pool.max)));
    for state in Label::State.values() {
        add(Metric::Instances, &[(Label::State, state)], count(&|one| one.state == *state));
    }
    for (cause, capacity) in [("capacity", true), ("broken", false)] {
        let refused = count(&|one| one.refused.as_ref().is_some_and(|refused| refused.capacity == capacity));
        add(Metric::InstancesRefused, &[(Label::Fault, cause)], refused);
    }
    add(Metric::InstancesCordoned, &[], count(&|one| !one.cordoned.is_null()));
    add(Metric::InstancesCrashed, &[], count(&|one| one.crashes > 0));
    add(Metric::PoolPaused, &[], Some(f64::from(!pool.paused.is_null())));

    let slowest = |of: &dyn Fn(&Instance) -> Option<f64>| {
        pool.instances.iter().filter_map(of).reduce(f64::max).map(|milliseconds| milliseconds / 1e3)
    };
    add(Metric::ServiceSeconds, &[], pool.service_s);
    add(Metric::WorkerSeconds, &[(Label::Percentile, "mean")], slowest(&|one| one.service_mean_ms));
    add(Metric::WorkerSeconds, &[(Label::Percentile, "p95")], slowest(&|one| one.service_p95_ms));

    let Today { instance_hours, budget_hours, cost_usd, images } = pool.today;
    add(Metric::TodayInstanceSeconds, &[], instance_hours.map(|hours| hours * 3600.0));
    add(Metric::TodayBudgetSeconds, &[], budget_hours.map(|hours| hours * 3600.0));
    add(Metric::TodayCost, &[], cost_usd);
    add(Metric::TodayImages, &[], images.map(|images| images as f64));
}
