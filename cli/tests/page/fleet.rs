//! The live view of the running service.

use std::collections::{BTreeMap, BTreeSet};

use crate::visit::{Visit, sample_file};
use eirs_harness::{POLICY, Site, eventually, image};

/// Records every state of an image in the list.
const NOTE_STATES: &str = "
window.states = [];
new MutationObserver(() => {
  for (const state of document.querySelectorAll('#results .state')) {
    if (!window.states.includes(state.textContent)) window.states.push(state.textContent);
  }
}).observe(document.getElementById('results'), { childList: true, subtree: true, characterData: true });";

#[test]
fn the_page_shows_workers_start_and_stop_and_what_an_image_waits_for() {
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
    assert!(!entry.cached, "the page waited for it, and polled: {entry:?}");

    let states: Vec<String> = serde_json::from_value(visit.script("return window.states")).expect("texts");
    let place = |hint: &str| states.iter().position(|state| state.starts_with(hint));
    let found = [place("starting a worker"), place("classifying")];
    assert!(found[0].is_some() && found[0] < found[1], "{states:?}");

    let decisions = eventually("the decision and its end are shown", || {
        let found = visit.text("#decisions");
        (found.contains("start") && found.contains("drain")).then_some(found)
    });
    assert!(decisions.contains("default: "), "{decisions}");
    eventually("no worker is left", || (!visit.text("#fleet").contains("default-1")).then_some(()));
    for name in visit.plots() {
        assert!(name.starts_with("Over the last 10 minutes: "), "{name}");
    }
    assert_eq!(visit.complaints(), [""; 0]);
}

/// Records the sequence of states of each image in the list.
const NOTE_STATES_OF_EACH: &str = "
window.states = {};
new MutationObserver(() => {
  for (const entry of document.querySelectorAll('#results > li')) {
    const all = (window.states[entry.querySelector('.name').textContent] ??= []);
    const state = entry.querySelector('.state');
    if (state && all.at(-1) !== state.textContent) all.push(state.textContent);
  }
}).observe(document.getElementById('results'), { childList: true, subtree: true, characterData: true });";

#[test]
fn in_a_long_queue_each_image_shows_a_decreasing_place() {
    let site = Site::with_script("sleep 1; echo heron").set("EIRS_CONTROLLER__TICK", "200ms");
    let web = site.web();
    let others = |numbers: std::ops::Range<u32>| {
        for number in numbers {
            assert_eq!(web.upload("?wait=0", "theirs.bmp", &image(number)).status, 202);
        }
    };
    let _controller = site.controller(&POLICY.replace("max = 3", "max = 1"));
    let Some(visit) = Visit::to(&web) else { return };
    eventually("the page knows of the controller", || visit.text("#workers").starts_with('0').then_some(()));
    visit.script(NOTE_STATES_OF_EACH);
    let names = ["arrow_0.jpg", "bolt_0.jpg", "circle_0.jpg", "cross_0.jpg"];
    others(0..10);
    visit.pick(&names.map(sample_file));
    eventually("all are shown", || {
        let found = visit.text("#results").matches("waiting behind about").count();
        (found == names.len()).then_some(())
    });
    others(10..16);
    visit.settled(names.len());
    let states: BTreeMap<String, Vec<String>> =
        serde_json::from_value(visit.script("return window.states")).expect("texts");
    let before = |state: &String| {
        let number = state.strip_prefix("waiting behind about ")?.split_once(' ')?.0;
        number.parse::<u32>().ok()
    };
    let found: Vec<Vec<u32>> = states.values().map(|all| all.iter().filter_map(before).collect()).collect();
    let is_counting_down = |numbers: &Vec<u32>| numbers.is_sorted_by(|one, next| one > next);
    assert!(found.iter().all(is_counting_down), "{states:?}");
    let places: BTreeSet<_> = found.iter().filter_map(|numbers| numbers.first()).collect();
    assert!(places.len() >= 2, "the places must differ: {states:?}");
    assert!(places.iter().all(|place| **place < 14), "later images must not be ahead: {states:?}");
}
