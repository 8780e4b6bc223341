use std::collections::BTreeSet;

use eirs_harness::{POLICY, Site, Web, eventually, image, request};

/// Returns the value of the first series with this prefix.
pub fn value(web: &Web, series: &str) -> Option<f64> {
    let text = web.get("/metrics").body;
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

/// Returns the names in the table of the documentation.
fn documented() -> BTreeSet<String> {
    let page = include_str!("../../../docs/METRICS.md");
    let names = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    names
        .filter(|name| name.starts_with("eirs_") || name.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_documented_metric_exists_and_series_of_a_deleted_pool_disappear() {
    let site = Site::new().set("EIRS_WORKER__REPORT_EVERY", "500ms").set("EIRS_CONTROLLER__TICK", "200ms");
    let policy = POLICY.replace("min = 0", "min = 1") + "[budget]\ninstance_hours_per_day = 10\n";
    let (web, mut controller) = (site.web(), site.controller(&policy));
    assert_eq!(web.upload("", "x", &image(1)).json()["label"], "noop");
    assert_eq!(request(&web.address, "POST", "/upload", &[], b"no image").expect("an answer").status, 415);
    let mut expected = documented();
    assert!(expected.remove("eirs_tls_certificate_expires_timestamp_seconds"), "tls.rs has that one");
    assert!(expected.remove("eirs_webhook_waiting"), "webhook.rs has that one");
    assert!(expected.len() > 30, "{expected:?}");
    eventually("every metric is shown", || {
        let text = web.get("/metrics").body;
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).map(|line| {
            match line.split_once(' ') {
                Some((name, _)) => name.to_owned(),
                None => panic!("{line}"),
            }
        });
        (types.collect::<BTreeSet<_>>() == expected).then_some(())
    });
    for (series, expected) in [
        ("eirs_images_total{answer=\"classified\"}", 1.0),
        ("eirs_images_total{answer=\"refused\"}", 1.0),
        ("eirs_jobs_sent_total", 1.0),
        ("eirs_job_service_seconds_count{model=\"default\"}", 1.0),
        ("eirs_dead_letters{model=\"default\"}", 0.0),
        ("eirs_controller_up", 1.0),
        ("eirs_instances_max{pool=\"default\"}", 3.0),
        ("eirs_today_budget_seconds{pool=\"default\"}", 36_000.0),
        ("eirs_http_responses_total{class=\"4xx\"}", 1.0),
    ] {
        assert_eq!(value(&web, series), Some(expected), "{series}");
    }
    eventually("the worker is seen", || {
        value(&web, "eirs_instances{pool=\"default\",state=\"ready\"}").filter(|n| *n == 1.0)
    });

    std::fs::remove_file(site.folder.path().join("policies/default.toml")).expect("the policy");
    eventually("a pool that is no more has no series", || {
        (!web.get("/metrics").body.contains("pool=\"default\"")).then_some(())
    });
    assert_eq!(value(&web, "eirs_controller_up"), Some(1.0));
    controller.kill();
}

#[test]
fn an_image_with_a_later_result_counts_by_its_outcome() {
    let site = Site::new();
    let web = site.web();
    assert_eq!(web.upload("?wait=0", "x", &image(1)).status, 202);
    let count = |answer: &str| value(&web, &format!("eirs_images_total{{answer=\"{answer}\"}}"));
    assert_eq!((count("pending"), count("classified")), (Some(0.0), Some(0.0)));
    let _worker = site.worker();
    eventually("it is counted", || (count("classified") == Some(1.0)).then_some(()));
    assert_eq!(count("pending"), Some(0.0));
}
