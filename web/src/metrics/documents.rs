//! Checks that documentation, dashboard and alerts match the catalogue, and that the catalogue
//! follows the conventions.

mod alerts;
mod dashboard;
mod queries;

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::json;

use super::*;

/// Reads a file of `docs/`.
pub(super) fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn kind(metric: Metric) -> &'static str {
    match metric.kind() {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    }
}

/// The name in a query, without the suffixes of a histogram.
fn shown(metric: Metric) -> String {
    let total = if metric.kind() == Kind::Counter { "_total" } else { "" };
    format!("{}{total}", metric.name())
}

#[test]
fn the_tables_of_the_documentation_are_the_catalogue() {
    let row = |metric: &Metric| {
        let labels: Vec<_> = metric.labels().iter().map(|label| format!("`{}`", label.name())).collect();
        let labels = if labels.is_empty() { String::new() } else { format!(" {}", labels.join(", ")) };
        format!("| `{}` | {} |{labels} | {} |\n", shown(*metric), kind(*metric), metric.help())
    };
    let metrics: String = Metric::ALL.iter().map(row).collect();
    let head = "| name | kind | labels | what it is |\n| --- | --- | --- | --- |\n";
    let table = format!("{head}{metrics}\n");
    assert!(page("METRICS.md").contains(&table), "docs/METRICS.md should hold this table:\n\n{table}");

    let used: BTreeSet<_> =
        Metric::ALL.iter().flat_map(|metric| metric.labels()).map(|label| label.name()).collect();
    let row = |name: &&str| {
        let label = Metric::ALL.iter().flat_map(|metric| metric.labels()).find(|label| label.name() == *name);
        let values: Vec<_> = label.unwrap().values().iter().map(|value| format!("`{value}`")).collect();
        let values =
            if values.is_empty() { "names of the installation".to_owned() } else { values.join(", ") };
        format!("| `{name}` | {values} |\n")
    };
    let labels: String = used.iter().map(row).collect();
    let table = format!("| label | values |\n| --- | --- |\n{labels}");
    assert!(page("METRICS.md").contains(&table), "docs/METRICS.md should hold this table:\n\n{table}");
}

#[test]
fn names_follow_the_conventions_of_prometheus() {
    let mut names = BTreeSet::new();
    for metric in Metric::ALL {
        let name = metric.name();
        assert!(names.insert(name), "{name} occurs twice");
        assert!(name.starts_with("eirs_") || name.starts_with("process_"), "{name}");
        assert!(name.bytes().all(|b| b == b'_' || b.is_ascii_lowercase()), "{name}");
        for wrong in ["_total", "_count", "_sum", "_bucket", "_ms", "_millis", "_hours", "_kb"] {
            assert!(
                !name.ends_with(wrong),
                "{name}: the suffix `{wrong}` belongs to the library or is no base unit"
            );
        }
        assert!(
            metric.kind() != Kind::Histogram || metric.unit().is_some(),
            "{name}: a histogram needs a unit"
        );
        let help = metric.help();
        assert!(!help.ends_with('.') && !help.contains('\n') && help.len() > 10, "{name}: {help}");
    }
}

/// A status as the controller writes it, with every field set.
fn status(pools: &[&str]) -> Value {
    let instance = |state: &str| {
        json!({
            "state": state, "service_mean_ms": 250.0, "service_p95_ms": 500.0, "crashes": 1,
            "cordoned": { "by": "me" },
            "refused": { "capacity": true }, "unheard_of": 1
        })
    };
    let pool = |name: &&str| {
        json!({
            "name": name, "min": 0, "max": 3, "visible": 5, "in_flight": 2, "arrivals_per_s": 1.5,
            "done_per_s": 1.0,
            "desired": 2, "paused": null, "service_s": 0.25,
            "learnt": { "start_delay_s": 20.0, "start_delay_p95_s": 30.0, "expected_per_s": 2.0 },
            "today": { "instance_hours": 0.5, "budget_hours": 8.0, "cost_usd": 0.1, "images": 77 },
            "instances": [instance("ready"), instance("ready"), instance("starting")]
        })
    };
    json!({
        "at": "2026-01-01T00:00:00Z", "started_at": "2025-12-31T00:00:00Z", "tick": "5s",
        "policy_errors": ["one"], "problems": [], "pools": pools.iter().map(pool).collect::<Vec<_>>()
    })
}

/// The time of that status, as Unix seconds.
const AT: f64 = 1_767_225_600.0;

/// A full disk.
const ROOM: RoomSeen = RoomSeen { free: 500, floor: 1000, below: true };

/// The expiry of a certificate.
const EXPIRES: DateTime<Utc> = DateTime::from_timestamp(1_800_000_000, 0).expect("a time");

/// Names and values of labels.
type Labels = Vec<(String, String)>;

/// Parses the name, the labels and the value of every series.
fn series(text: &str) -> Vec<(String, Labels, f64)> {
    let line = |line: &str| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
        let label = |label: &str| {
            let (name, value) = label.split_once('=').unwrap();
            (name.to_owned(), value.trim_matches('"').to_owned())
        };
        (name.to_owned(), labels.map(label).collect(), value.parse().unwrap())
    };
    text.lines().filter(|line| !line.starts_with('#')).map(line).collect()
}

fn value(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let fits = |found: &[(String, String)]| {
        labels.iter().all(|(name, value)| found.contains(&((*name).to_owned(), (*value).to_owned())))
    };
    series(text).into_iter().find(|(found, with, _)| found == name && fits(with)).map(|(_, _, value)| value)
}

fn scrape(controller: &Value) -> String {
    let metrics = Metrics::new(["default"].into_iter());
    metrics.answered(Answered::Cached);
    metrics.responded(202);
    metrics.replied("default", 1500.0, 250.0);
    metrics.encode(
        AT + 7.0,
        controller,
        BTreeMap::from([("default".to_owned(), 3)]),
        Some(EXPIRES),
        Some(ROOM),
        Some(7),
    )
}

#[test]
fn a_scrape_shows_exactly_the_metrics_and_labels_of_the_catalogue() {
    let text = scrape(&status(&["default"]));
    let mut seen = BTreeSet::new();
    for (name, labels, _) in series(&text) {
        let metric = Metric::ALL.iter().find(|metric| match metric.kind() {
            Kind::Counter | Kind::Gauge => name == shown(**metric),
            Kind::Histogram => {
                ["_bucket", "_sum", "_count"].iter().any(|end| name == format!("{}{end}", metric.name()))
            }
        });
        let metric = *metric.unwrap_or_else(|| panic!("{name} is not in the catalogue"));
        seen.insert(metric);
        let expected: Vec<_> = metric.labels().iter().map(|label| label.name()).collect();
        let found: Vec<_> =
            labels.iter().map(|(name, _)| name.as_str()).filter(|name| *name != "le").collect();
        assert_eq!(found, expected, "{name}");
        for (label, value) in metric.labels().iter().zip(&labels) {
            let closed = label.values();
            assert!(closed.is_empty() || closed.contains(&value.1.as_str()), "{name}: {value:?}");
        }
    }
    let missing: Vec<_> = Metric::ALL.iter().filter(|metric| !seen.contains(metric)).collect();
    assert!(missing.is_empty(), "not shown: {missing:?}");
    assert!(text.ends_with("# EOF\n"));
    for line in [
        "# TYPE eirs_upload_seconds histogram",
        "# UNIT eirs_upload_seconds seconds",
        "# TYPE eirs_images counter",
    ] {
        assert!(text.contains(line), "{line}");
    }
}

#[test]
fn the_values_are_those_of_the_controller_and_of_this_host() {
    let text = scrape(&status(&["default"]));
    for (name, labels, expected) in [
        ("eirs_images_total", &[("answer", "cached")][..], 1.0),
        ("eirs_images_total", &[("answer", "failed")], 0.0),
        ("eirs_http_responses_total", &[("class", "2xx")], 1.0),
        ("eirs_job_queued_seconds_sum", &[("model", "default")], 1.5),
        ("eirs_job_service_seconds_sum", &[("model", "default")], 0.25),
        ("eirs_dead_letters", &[("model", "default")], 3.0),
        ("eirs_tls_certificate_expires_timestamp_seconds", &[], 1.8e9),
        ("eirs_store_free_bytes", &[], 500.0),
        ("eirs_store_floor_bytes", &[], 1000.0),
        ("eirs_store_full", &[], 1.0),
        ("eirs_controller_up", &[], 1.0),
        ("eirs_controller_last_pass_timestamp_seconds", &[], AT),
        ("eirs_policy_errors", &[], 1.0),
        ("eirs_backlog", &[("pool", "default")], 7.0),
        ("eirs_queue_jobs", &[("phase", "in_flight")], 2.0),
        ("eirs_instances", &[("state", "ready")], 2.0),
        ("eirs_instances", &[("state", "stopped")], 0.0),
        ("eirs_instances_refused", &[("cause", "capacity")], 3.0),
        ("eirs_instances_refused", &[("cause", "broken")], 0.0),
        ("eirs_worker_service_seconds", &[("percentile", "p95")], 0.5),
        ("eirs_start_delay_seconds", &[("percentile", "p95")], 30.0),
        ("eirs_today_instance_seconds", &[], 1800.0),
        ("eirs_pool_paused", &[], 0.0),
    ] {
        assert_eq!(value(&text, name, labels), Some(expected), "{name} {labels:?}");
    }
    #[cfg(target_os = "linux")]
    {
        let memory = value(&text, "process_resident_memory_bytes", &[]).unwrap();
        assert!((1e5..1e11).contains(&memory), "{memory}");
        let start = value(&text, "process_start_time_seconds", &[]).unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((0.0..86_400.0).contains(&(now - start)), "{start}");
    }
}

#[test]
fn series_of_removed_pools_and_of_failed_observations_disappear() {
    let metrics = Metrics::new(["default"].into_iter());
    let pools = |text: &str| {
        let pools = series(text).into_iter().flat_map(|(_, labels, _)| labels);
        pools.filter(|(name, _)| name == "pool").map(|(_, pool)| pool).collect::<BTreeSet<_>>()
    };
    let both = metrics.encode(AT, &status(&["a", "b"]), BTreeMap::new(), None, None, None);
    assert_eq!(pools(&both).len(), 2);
    let mut one = status(&["b"]);
    one["pools"][0]["visible"] = Value::Null;
    let text = metrics.encode(AT, &one, BTreeMap::new(), None, None, None);
    assert_eq!(pools(&text), BTreeSet::from(["b".to_owned()]));
    assert_eq!(value(&text, "eirs_backlog", &[]), None, "a queue that cannot be read is not empty");
    let none = metrics.encode(AT, &Value::Null, BTreeMap::new(), None, None, None);
    assert!(pools(&none).is_empty() && !none.contains("eirs_controller_up"), "{none}");
}

#[test]
fn a_controller_whose_last_pass_is_old_is_down() {
    let metrics = Metrics::new(["default"].into_iter());
    let up = |age: f64| {
        value(
            &metrics.encode(AT + age, &status(&[]), BTreeMap::new(), None, None, None),
            "eirs_controller_up",
            &[],
        )
    };
    assert_eq!((up(29.0), up(31.0)), (Some(1.0), Some(0.0)));
}
