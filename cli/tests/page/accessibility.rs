//! Accessibility: keyboards, screen readers and phones.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::visit::{Visit, sample_file};
use eirs_harness::{POLICY, Site, eventually};

/// The Tab key in WebDriver.
const TAB: &str = "\u{e004}";

/// A page with every control: a controller, an image with a label, one with an error, and a choice
/// of models.
fn with_every_control(site: &Site, check: impl FnOnce(&Visit)) {
    let web = site.web();
    let _controller = site.controller(POLICY);
    let Some(visit) = Visit::to(&web) else { return };
    let long = site.folder.path().join(format!("{}.txt", "a-long-name-without-a-space".repeat(6)));
    std::fs::write(&long, "no image").expect("a file");
    visit.pick(&[sample_file("star_0.jpg"), long]);
    visit.settled(2);
    eventually("a decision is shown", || visit.text("#decisions").contains("start").then_some(()));
    check(&visit);
}

fn site() -> Site {
    Site::with_model().set("EIRS_MODELS__BIRDS__CLASSIFIER", "noop")
}

#[test]
fn every_control_is_reachable_by_tab_and_has_an_accessible_name() {
    with_every_control(&site(), |visit| {
        let controls = visit.script(
            "return [...document.querySelectorAll('a[href], button, input, select, textarea, [tabindex=\"0\"]')]
               .filter((one) => one.checkVisibility()).map((one, number) => (one.dataset.number = String(number)))",
        );
        let all: BTreeSet<_> = controls.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        assert!(all.len() >= 5, "{controls}");
        let mut reached = BTreeSet::new();
        for _ in 0..=all.len() {
            visit.browser.press(TAB).expect("a key");
            let focus = visit.script("return document.activeElement.dataset.number || ''");
            let focus = focus.as_str().unwrap_or_default().to_owned();
            if focus.is_empty() {
                // After the last control comes the browser itself.
                continue;
            }
            let name = visit.browser.name_of_focus().expect("a name");
            assert!(!name.trim().is_empty(), "control {focus} has no name: {}", focused_element(visit));
            let outline = visit.script(
                "const at = document.activeElement; const seen = at.type === 'file' ? at.labels[0] : at;
                 return getComputedStyle(seen).outlineStyle",
            );
            assert_ne!(outline, "none", "where the focus is cannot be seen: {}", focused_element(visit));
            reached.insert(focus);
        }
        let reached: BTreeSet<_> = reached.iter().map(String::as_str).collect();
        assert_eq!(reached, all);
    });
}

fn focused_element(visit: &Visit) -> String {
    visit.script("return document.activeElement.outerHTML.slice(0, 200)").to_string()
}

#[test]
fn on_a_phone_nothing_exceeds_the_width_of_the_screen() {
    with_every_control(&site(), |visit| {
        visit.narrow(360);
        let widths = visit.script("return [document.documentElement.scrollWidth, innerWidth]");
        assert_eq!(widths[1], 360);
        assert!(widths[0].as_u64().is_some_and(|width| width <= 360), "{widths}");
    });
}

#[test]
fn with_a_restricted_live_state_each_listener_shows_its_part_of_the_page() {
    let site = Site::with_model()
        .set("EIRS_WEB__LIVE", "operator")
        .set("EIRS_WEB__MAX_IMAGE", "2MiB")
        .set("EIRS_MODELS__DOGS__CLASSIFIER", "noop");
    let (web, _worker) = (site.web(), site.worker());
    let _controller = site.controller(POLICY);
    let Some(visit) = Visit::without_looking(&web) else { return };
    visit.pick(&[sample_file("heart_0.jpg")]);
    assert_eq!(visit.settled(1).remove(0).label.as_deref(), Some("heart"));
    assert_eq!(visit.text("#limits"), ", up to 2 MiB each");
    let models = "return [...document.getElementById('model').options].map((option) => option.value).join()";
    assert_eq!((visit.script(models), visit.text("#models").is_empty()), ("default,dogs".into(), false));
    assert_eq!((visit.text("#live"), visit.text("#connection")), (String::new(), String::new()));
    assert_eq!(visit.complaints(), [""; 0]);

    let admin = web.admin.as_deref().expect("it has a listener of its own");
    let Some(visit) = Visit::at(admin) else { return };
    visit.connected();
    eventually("the backlog is seen", || visit.text("#backlog").starts_with('0').then_some(()));
    assert_eq!((visit.text("#drop"), visit.text("#results-title")), (String::new(), String::new()));
    assert_eq!(visit.complaints(), [""; 0]);
}
