//! Checks the alert rules as strictly as `promtool check rules`.

use std::collections::{BTreeMap, BTreeSet};

use promql_parser::util::parse_duration;
use serde::Deserialize;

use super::{page, queries};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    groups: Vec<Group>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    name: String,
    interval: Option<String>,
    rules: Vec<Alert>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Alert {
    alert: String,
    expr: String,
    #[serde(rename = "for")]
    hold: Option<String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

/// Returns the names in `{{ $labels.NAME }}`.
fn labels_of(template: &str) -> Vec<&str> {
    let after = template.split("$labels.").skip(1);
    after
        .map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default())
        .collect()
}

#[test]
fn every_alert_is_valid_uses_existing_metrics_and_has_a_section_in_the_handbook() {
    let file: RuleFile = serde_saphyr::from_str(&page("alerts.yml")).unwrap();
    let handbook = page("OPERATIONS.md");
    let (mut groups, mut alerts) = (BTreeSet::new(), BTreeSet::new());
    for group in &file.groups {
        assert!(groups.insert(&group.name), "the group {} occurs twice", group.name);
        group.interval.iter().for_each(|interval| _ = parse_duration(interval).unwrap());
        for alert in &group.rules {
            let name = &alert.alert;
            assert!(alerts.insert(name.clone()), "{name} occurs twice");
            let labels = queries::check(name, &alert.expr);
            alert
                .hold
                .iter()
                .for_each(|hold| _ = parse_duration(hold).unwrap_or_else(|why| panic!("{name}: {why}")));
            let keys: Vec<_> = alert.annotations.keys().map(String::as_str).collect();
            assert_eq!(keys, ["description", "runbook_url", "summary"], "{name}");
            assert!(matches!(alert.labels["severity"].as_str(), "critical" | "warning"), "{name}");
            for text in alert.annotations.values() {
                assert_eq!(text.matches("{{").count(), text.matches("}}").count(), "{name}: {text}");
                for label in labels_of(text) {
                    assert!(labels.contains(label), "{name}: its series have no label `{label}`");
                }
            }
            let section = format!("\n### {name}\n");
            assert!(handbook.contains(&section), "docs/OPERATIONS.md has no section {name}");
            let link = format!("/docs/OPERATIONS.md#{}", name.to_lowercase());
            assert!(alert.annotations["runbook_url"].ends_with(&link), "{name}");
        }
    }
    let (_, section) = handbook.split_once("\n## Alerts\n").unwrap();
    let section = section.split("\n## ").next().unwrap_or_default();
    let documented: BTreeSet<_> =
        section.lines().filter_map(|line| line.strip_prefix("### ")).map(str::to_owned).collect();
    assert_eq!(documented, alerts, "the handbook has exactly these alerts");
}
