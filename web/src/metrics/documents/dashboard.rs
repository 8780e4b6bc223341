//! Checks of the dashboard that Grafana itself does not make.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{page, queries};

/// Fills in Grafana's own variables.
fn filled_in(query: &str) -> String {
    query.replace("$__rate_interval", "5m").replace("$pool", ".*")
}

/// Returns the names in `{{NAME}}`.
fn labels_of(legend: &str) -> impl Iterator<Item = &str> {
    legend.split("{{").skip(1).map(|rest| rest.split("}}").next().unwrap_or_default().trim())
}

#[test]
fn every_panel_uses_existing_metrics_and_no_two_overlap() {
    let dashboard: Value = serde_json::from_str(&page("grafana-dashboard.json")).unwrap();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<_> = variables.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["datasource", "pool"]);
    assert_eq!(variables[0]["type"], "datasource");
    let of_pools = variables[1]["query"].as_str().unwrap();
    let metric = of_pools.trim_start_matches("label_values(").trim_end_matches(", pool)");
    assert!(queries::check("the variable pool", metric).contains("pool"));

    let (mut ids, mut titles, mut taken) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id occurs twice");
        assert!(titles.insert((title, panel["type"].as_str().unwrap())), "{title} occurs twice");
        assert!(!panel["description"].as_str().unwrap().is_empty(), "{title}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        let side = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        for x in side("x")..side("x") + side("w") {
            assert!(x < 24, "{title}: reaches over the edge");
            for y in side("y")..side("y") + side("h") {
                assert!(taken.insert((x, y)), "{title}: overlaps another panel");
            }
        }
        let mut refs = BTreeSet::new();
        for target in panel["targets"].as_array().unwrap() {
            assert!(refs.insert(target["refId"].as_str().unwrap()), "{title}");
            let labels = queries::check(title, &filled_in(target["expr"].as_str().unwrap()));
            for label in labels_of(target["legendFormat"].as_str().unwrap()) {
                assert!(labels.contains(label), "{title}: its series have no label `{label}`");
            }
        }
        assert!(!refs.is_empty(), "{title}: has no query");
    }
}
