//! The worked examples and messages in `policies/README.md` match what the code computes and
//! writes.

use super::*;
use crate::{
    decide::{
        demand::wishes,
        history::{Facts, Minutes},
    },
    observe::Count,
};

const README: &str = include_str!("../../../../policies/README.md");

/// The text under a heading, up to the next heading.
#[track_caller]
fn section(heading: &str) -> &'static str {
    let (_, after) = README.split_once(&format!("\n{heading}\n")).expect(heading);
    after.split("\n#").next().unwrap()
}

/// The policy that a section shows.
#[track_caller]
fn example(heading: &str) -> Policy {
    let (_, after) = section(heading).split_once("```toml\n").expect(heading);
    parse(Path::new(heading), after.split("```").next().unwrap()).unwrap()
}

/// Asserts that a section contains the sentence, wherever its lines are broken.
#[track_caller]
fn check_says(heading: &str, sentence: &str) {
    let words = section(heading).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains(sentence), "{heading} does not say: {sentence}");
}

#[track_caller]
fn check_example(kind: &str, load: &Load, minutes: Option<&Minutes>, now: &str) {
    let heading = format!("### `kind = \"{kind}\"`");
    let wishes = wishes(&example(&heading), load, minutes, now.parse().unwrap());
    let [Wish { rule, instances, because, .. }] = &wishes[..] else { panic!("{wishes:?}") };
    check_says(&heading, &format!("{rule} wants {instances} ({because})"));
}

/// A load with 5 arrivals per second and a service time of 2 s.
fn load(visible: u64, in_flight: u64, ready: u32) -> Load {
    let facts = Facts {
        arrivals_per_s: 5.0,
        service_s: 2.0,
        is_measured: true,
        variability: 1.0,
        service_scv: 0.0,
        at_once: 1.0,
        start_delay_s: 25.0,
    };
    Load { depth: Depth { visible, in_flight }, facts, ready, starting_s: 0.0, due: None }
}

#[test]
fn every_rule_wants_what_its_worked_example_says() {
    let friday = "2026-07-03T12:00:00Z";
    check_example("backlog", &load(35, 12, 1), None, friday);
    check_example("latency", &load(300, 0, 11), None, friday);
    check_example("latency", &load(30, 0, 0), None, friday);
    let mut due = Load { due: Some(30), ..load(0, 0, 0) };
    due.facts.arrivals_per_s = 0.0;
    let soon = parse(Path::new("p.toml"), "[[rule]]\nkind = 'latency'\np95 = '8s'").unwrap();
    let ahead = &wishes(&soon, &due, None, friday.parse().unwrap())[0];
    let sentence = format!("{} wants {} ({})", ahead.rule, ahead.instances, ahead.because);
    check_says("### `kind = \"latency\"`", &sentence);
    check_example("step", &load(47, 0, 1), None, friday);
    check_example("schedule", &load(0, 0, 1), None, friday);

    let (first, now) = ("2026-07-03T12:00:00Z", "2026-07-03T14:59:50Z");
    let mut minutes = Minutes::default();
    for minute in 0..180 {
        let from = first.parse::<DateTime<Utc>>().unwrap() + chrono::TimeDelta::minutes(minute);
        let jobs = if minute % 60 < 10 { 300 } else { 0 };
        minutes.add(&Count { from, to: from + chrono::TimeDelta::minutes(1), jobs });
    }
    check_example("forecast", &load(0, 0, 1), Some(&minutes), now);
}

#[test]
fn a_decision_goes_through_the_stages_of_its_worked_example() {
    let heading = "## How a count comes about";
    let mut policy = example(heading);
    policy.pool.model = "default".to_owned();
    let policies = Policies {
        pools: [("default".to_owned(), policy)].into(),
        instance_limit: Some(8),
        ..Policies::default()
    };
    let mut instances = vec![busy("default-1")];
    instances.extend((2..=12).map(|number| stopped(&format!("default-{number}"))));
    let now = seen(&[("default", Some(127))], instances);
    let history = history(&[(200, 127), (100, 127)], &now);
    let plan = decide_checked(&policies, &now, &history);
    assert_eq!(plan.pools["default"].affordable, Some(10));
    for line in plan.to_string().lines() {
        check_says(heading, line.trim());
    }
}

#[test]
fn every_hold_and_every_cause_is_explained() {
    let holds = [
        Incomplete,
        NoGoodPolicy,
        TooEarly,
        WasHigher { instances: 4 },
        WorthKeeping { instances: 4 },
        SuddenDrop,
        Deaf { instances: 6 },
        Unheard { instances: 2 },
        NotIdle,
        PaidFor,
        MaxStep,
        NoPlace,
        MaxStarting,
        Budget,
        Limit,
        NoneStopped,
        BackOff { until: at(NOW + 8) },
        NoCapacity { until: at(NOW + 8) },
        Cordoned { instances: 1 },
        Cordoned { instances: 2 },
    ];
    for hold in holds {
        // The compiler asks for new holds here: add them to the list above.
        match hold {
            Incomplete | NoGoodPolicy | TooEarly | SuddenDrop | NotIdle | PaidFor | MaxStep | NoPlace => {}
            MaxStarting | Budget | Limit | NoneStopped => {}
            WasHigher { .. } | WorthKeeping { .. } | Deaf { .. } | Unheard { .. } => {}
            BackOff { .. } | NoCapacity { .. } | Cordoned { .. } => {}
        }
        check_says("### What holds it back", &format!("`{hold}`"));
    }
    let causes = [
        Cause::Idle,
        Cause::NotNeeded,
        Cause::StartNotNeeded,
        Cause::OverMax,
        Cause::OverBudget,
        Cause::OverShare,
        Cause::NeverReady,
        Cause::Silent,
        Cause::Hung,
        Cause::OtherModel,
        Cause::OtherVersion,
        Cause::Updated,
        Cause::NoPolicy,
        Cause::Cordoned,
    ];
    for cause in causes {
        match cause {
            Cause::Idle | Cause::NotNeeded | Cause::StartNotNeeded | Cause::OverMax => {}
            Cause::OverBudget | Cause::OverShare | Cause::NeverReady | Cause::Silent | Cause::Hung => {}
            Cause::OtherModel | Cause::OtherVersion | Cause::Updated | Cause::NoPolicy | Cause::Cordoned => {}
        }
        check_says("### Why an instance is drained", &format!("| `{cause}` |"));
    }
}
