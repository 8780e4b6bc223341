//! The fleet of a model, from the controller's status file.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use tokio::time::Instant;

/// Maximum age of a status.
const STATUS_AGE: TimeDelta = TimeDelta::seconds(60);
/// If an instance starts later than usual, it is assumed to need this fraction of the usual time
/// more.
const OVERDUE: f64 = 0.1;

/// The controller's view of a model's fleet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fleet {
    /// Instances by the names in their replies: the running and draining ones, and those yet to be
    /// started.
    pub(crate) instances: BTreeMap<String, Instance>,
    /// Seconds per job.
    pub(crate) service_s: Option<f64>,
    /// How the fleet grows with its line.
    pub(crate) growth: Option<Growth>,
}

/// One instance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Instance {
    /// Number of jobs that it classifies at once.
    pub(crate) at_once: usize,
    /// When it began or will begin to take jobs; `None` if it takes no more.
    pub(crate) serves_at: Option<Instant>,
}

/// How a fleet grows with its line, as observed; the policies themselves are the controller's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Growth {
    /// Maximum number of instances.
    pub(crate) most: f64,
    /// Seconds that an instance takes to start.
    pub(crate) delay_s: f64,
    /// Jobs in line per additional instance.
    pub(crate) jobs_each: f64,
}

impl Fleet {
    /// Returns the number of instances that serve now.
    pub(crate) fn serving(&self, now: Instant) -> usize {
        let serves = |instance: &&Instance| instance.serves_at.is_some_and(|at| at <= now);
        self.instances.values().filter(serves).count()
    }

    /// Reads the fleet of a model from the controller's status. `None` if the status is missing or
    /// old, or if no instance serves or will.
    pub(crate) fn of_status(status: &Value, model: &str, now: DateTime<Utc>) -> Option<Self> {
        if now - time(&status["at"])? > STATUS_AGE {
            return None;
        }
        let mut fleet = Self { instances: BTreeMap::new(), service_s: None, growth: None };
        let (mut most, mut slowest_s) = (0.0, None::<f64>);
        for pool in status["pools"].as_array()?.iter().filter(|pool| pool["model"] == model) {
            let learnt = &pool["learnt"];
            let service_s = pool["service_s"].as_f64().or_else(|| learnt["service_s"].as_f64());
            fleet.service_s = service_s.or(fleet.service_s);
            if let Some(delay_s) = learnt["start_delay_s"].as_f64() {
                most += pool["max"].as_f64().unwrap_or(0.0);
                slowest_s = Some(slowest_s.unwrap_or(0.0).max(delay_s));
            }
            fleet.instances.extend(instances(pool, now));
        }
        fleet.growth = slowest_s.map(|delay_s| Growth { most, delay_s, jobs_each: f64::INFINITY });
        fleet.instances.values().any(|instance| instance.serves_at.is_some()).then_some(fleet)
    }
}

fn time(value: &Value) -> Option<DateTime<Utc>> {
    value.as_str().and_then(|text| text.parse().ok())
}

fn at_once(pool: &Value) -> usize {
    pool["learnt"]["concurrency"].as_f64().map_or(1, |jobs| jobs.round().max(1.0) as usize)
}

/// Returns the instances of a pool, including those that will be started.
fn instances(pool: &Value, now: DateTime<Utc>) -> BTreeMap<String, Instance> {
    let (at_once, delay_s) = (at_once(pool), pool["learnt"]["start_delay_s"].as_f64());
    // Times are relative to the present, because the clocks differ.
    let here = Instant::now();
    let before = |seconds: f64| here.checked_sub(duration(seconds)).unwrap_or(here);
    let age_s =
        |instance: &Value| time(&instance["since"]).map_or(0.0, |since| (now - since).as_seconds_f64());
    let listed = pool["instances"].as_array().into_iter().flatten();
    let mut instances: BTreeMap<_, _> = listed
        .filter_map(|instance| {
            let age_s = age_s(instance);
            let serves_at = match instance["state"].as_str()? {
                "ready" => Some(before((age_s - delay_s.unwrap_or(0.0)).max(0.0))),
                "starting" => {
                    let delay_s = delay_s?;
                    Some(here + duration((delay_s - age_s).max(delay_s * OVERDUE)))
                }
                _ => None,
            };
            Some((instance["id"].as_str()?.to_owned(), Instance { at_once, serves_at }))
        })
        .collect();
    let coming = instances.values().filter(|instance| instance.serves_at.is_some()).count() as u64;
    let count = |key: &str| pool[key].as_u64().unwrap_or(0);
    // If there is no instance, a job starts one.
    let wanted = count("desired").max(u64::from(coming == 0)).min(count("max"));
    if let Some(delay_s) = delay_s {
        let next = Instance { at_once, serves_at: Some(here + duration(delay_s)) };
        instances.extend((coming..wanted).map(|number| (format!("{} +{number}", pool["name"]), next)));
    }
    instances
}

fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default().min(Duration::from_secs(86_400))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn serves_in(fleet: &Fleet) -> Vec<Option<f64>> {
        let now = Instant::now();
        let seconds = |at: Instant| {
            let later = at.saturating_duration_since(now).as_secs_f64();
            later - now.saturating_duration_since(at).as_secs_f64()
        };
        fleet.instances.values().map(|instance| instance.serves_at.map(|at| seconds(at).round())).collect()
    }

    #[test]
    fn the_fleet_is_read_from_a_current_status_only() {
        let now = Utc::now();
        let ago = |seconds| now - TimeDelta::seconds(seconds);
        let status = |pool: Value| json!({"at": now, "pools": [{"model": "other", "ready": 9}, pool]});
        let serving = json!({
            "model": "m", "max": 4, "desired": 2, "service_s": 0.5,
            "learnt": {"concurrency": 2.0, "service_s": 9.0, "start_delay_s": 30.0},
            "instances": [
                {"id": "a", "state": "ready", "since": ago(100)},
                {"id": "b", "state": "starting", "since": ago(10)},
                {"id": "c", "state": "draining", "since": ago(3)},
            ],
        });
        let fleet = Fleet::of_status(&status(serving.clone()), "m", now).unwrap();
        assert_eq!(serves_in(&fleet), [Some(-70.0), Some(20.0), None]);
        assert_eq!((fleet.service_s, fleet.serving(Instant::now())), (Some(0.5), 1));
        assert_eq!(fleet.growth.map(|growth| (growth.most, growth.delay_s)), Some((4.0, 30.0)));
        assert_eq!(Fleet::of_status(&status(serving), "m", now + TimeDelta::seconds(90)), None);
    }

    #[test]
    fn instances_that_start_or_will_start_count_if_none_serves() {
        let now = Utc::now();
        let of = |pool: Value| Fleet::of_status(&json!({"at": now, "pools": [pool]}), "m", now);
        let learnt = json!({"start_delay_s": 30.0});
        let starting = json!({
            "model": "m", "desired": 2, "max": 4, "learnt": learnt,
            "instances": [{"id": "a", "state": "starting", "since": now - TimeDelta::seconds(40)}],
        });
        assert_eq!(
            serves_in(&of(starting).unwrap()),
            [Some(3.0), Some(30.0)],
            "one is late, one has not begun"
        );
        let stopped = json!({"model": "m", "desired": 0, "max": 4, "learnt": learnt, "instances": []});
        assert_eq!(serves_in(&of(stopped).unwrap()), [Some(30.0)], "the next job starts one");
        for unserved in [json!({"model": "m", "max": 0, "learnt": learnt}), json!({"model": "m", "max": 3})] {
            assert_eq!(of(unserved), None);
        }
        assert_eq!(Fleet::of_status(&Value::Null, "m", now), None);
    }
}
