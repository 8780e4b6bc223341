//! The live view: what the service does, while it does it.

use serde_json::Value;

use crate::{
    harness::{POLICY, Site, eventually},
    visit::{Visit, sample_file},
};

/// Notes every state that an image of the list was said to be in.
const NOTE_STATES: &str = "
window.states = [];
new MutationObserver(() => {
  for (const state of document.querySelectorAll('#results .state')) {
    if (!window.states.includes(state.textContent)) window.states.push(state.textContent);
  }
}).observe(document.getElementById('results'), { childList: true, subtree: true, characterData: true });";

#[test]
fn a_worker_that_the_controller_starts_is_seen_to_come_and_to_go_and_the_image_tells_what_it_waits_for() {
    let site = Site::with_script("sleep 2; echo heron")
        .set("EIRS_CONTROLLER__SIMULATE__START_DELAY", "2s")
        .set("EIRS_CONTROLLER__TICK", "200ms");
    let web = site.web();
    let _controller = site.controller(POLICY);
    let Some(visit) = Visit::to(&web) else { return };
    eventually("the page knows of the controller", || visit.text("#workers").starts_with('0').then_some(()));
    visit.script(NOTE_STATES);
    visit.pick(&[sample_file("star_0.jpg")]);
    eventually("an instance is starting", || visit.text("#fleet").contains("starting").then_some(()));
    let entry = visit.settled(1).remove(0);
    assert_eq!(entry.label.as_deref(), Some("heron"));
    assert!(!entry.cached, "it was waited for, and asked for later: {entry:?}");

    let states: Vec<String> = serde_json::from_value(visit.script("return window.states")).expect("texts");
    let place = |hint: &str| states.iter().position(|state| state.starts_with(hint));
    let told = [place("starting a worker"), place("classifying")];
    assert!(told[0].is_some() && told[0] < told[1], "{states:?}");

    let decisions = eventually("the decision and its end are told", || {
        let told = visit.text("#decisions");
        (told.contains("start") && told.contains("drain")).then_some(told)
    });
    assert!(decisions.contains("default: "), "{decisions}");
    eventually("nobody is left", || (!visit.text("#fleet").contains("default-1")).then_some(()));
    let charts = visit.script(
        "return ['rates', 'backlogs', 'instances'].map((id) => document.getElementById(id).getAttribute('aria-label'))",
    );
    let texts: Vec<_> = charts.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    assert!(
        texts.len() == 3 && texts.iter().all(|text| text.starts_with("Over the last hour: ")),
        "{charts}"
    );
    assert_eq!(visit.complaints(), [""; 0]);
}
