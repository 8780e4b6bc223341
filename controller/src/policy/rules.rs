//! Reads a `[[rule]]`: each kind has its own keys.

use std::time::Duration;

use super::{
    Rule, Schedule, Step,
    document::Section,
    load::{DAY, MOST_INSTANCES},
    schedule,
};

const KINDS: [&str; 5] = ["backlog", "latency", "step", "schedule", "forecast"];
const MOST_JOBS: u64 = 1_000_000_000;

/// Reads a rule; `None` if it has complaints.
pub(super) fn rule(section: Section<'_>) -> Option<Rule> {
    if !section.has("kind") {
        section.complain("kind", "is missing; a rule needs a kind, like `kind = \"backlog\"`".to_owned());
        return None;
    }
    // The other keys of an unknown kind cannot be checked.
    let rule = match section.word("kind", &KINDS)? {
        "latency" => latency(&section),
        "step" => step(&section),
        "schedule" => schedule(&section),
        "forecast" => Some(forecast(&section)),
        _ => Some(Rule::Backlog { per_instance: section.whole("per_instance", 1..=MOST_JOBS).unwrap_or(10) }),
    };
    section.finish();
    rule
}

fn latency(section: &Section<'_>) -> Option<Rule> {
    section.needs("p95", "how long 95 of 100 jobs may take, like `p95 = \"30s\"`")?;
    let p95 = section.duration("p95", Duration::from_millis(10)..=DAY)?;
    Some(Rule::Latency { p95 })
}

fn step(section: &Section<'_>) -> Option<Rule> {
    section.needs("steps", "a list of thresholds, like `steps = [{ backlog = 1, instances = 1 }]`")?;
    let read = |step: Section<'_>| {
        let (backlog, instances) = ("backlog", "instances");
        step.needs(backlog, "from how many jobs on the step counts, like `backlog = 50`");
        step.needs(instances, "how many instances the rule wants then, like `instances = 5`");
        let read = (step.whole(backlog, 1..=MOST_JOBS), step.instances(instances, 0..=MOST_INSTANCES));
        step.finish();
        Some(Step { backlog: read.0?, instances: read.1? })
    };
    let tables = section.sections("steps");
    let count = tables.len();
    let steps: Vec<_> = tables.into_iter().filter_map(read).collect();
    if count == 0 {
        section.complain("steps", "is empty; add a step".to_owned());
    }
    if let Some(pair) = steps.windows(2).find(|pair| pair[0].backlog >= pair[1].backlog) {
        let problem =
            format!("has the backlog {} after {}; steps must rise", pair[1].backlog, pair[0].backlog);
        section.complain("steps", problem);
    }
    Some(Rule::Step { steps })
}

fn schedule(section: &Section<'_>) -> Option<Rule> {
    section.needs("cron", "when the hours begin, like `cron = \"0 8 * * MON-FRI\"`");
    section.needs("duration", "how long they last, like `duration = \"10h\"`");
    section.needs("instances", "how many instances, like `instances = 2`");
    let cron = section.text("cron").and_then(|text| {
        let parsed = schedule::parse_cron(text);
        parsed.map_err(|why| section.complain("cron", format!("is {text:?}; {why}"))).ok()
    });
    let duration = section.duration("duration", Duration::from_secs(60)..=7 * DAY);
    let timezone = section.timezone("timezone").unwrap_or(chrono_tz::UTC);
    let instances = section.instances("instances", 0..=MOST_INSTANCES);
    let when = Schedule { cron: cron?, duration: duration?, timezone };
    Some(Rule::Schedule { when, instances: instances? })
}

fn forecast(section: &Section<'_>) -> Rule {
    let season = section.duration("season", Duration::from_secs(60)..=7 * DAY).unwrap_or(DAY);
    let quantile = section.number("quantile", 0.01..=0.999).unwrap_or(0.9);
    let timezone = section.timezone("timezone").unwrap_or(chrono_tz::UTC);
    let after = section.whole("after", 1..=14).unwrap_or(2) as u32;
    Rule::Forecast { season, quantile, timezone, after }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::policy::parse;

    #[track_caller]
    fn check(text: &str, expected: &[Rule]) {
        assert_eq!(parse(Path::new("p.toml"), text).unwrap().rules, expected);
    }

    #[track_caller]
    fn check_bad(text: &str, expected: &[&str]) {
        let complaints = parse(Path::new("p.toml"), text).expect_err("this text is bad");
        let said: Vec<_> = complaints.iter().map(ToString::to_string).collect();
        let expected: Vec<_> = expected.iter().map(|complaint| format!("p.toml:{complaint}")).collect();
        assert_eq!(said, expected);
    }

    #[test]
    fn every_kind_is_read() {
        check("[[rule]]\nkind = 'latency'\np95 = '30s'", &[Rule::Latency { p95: Duration::from_secs(30) }]);
        check(
            "[[rule]]\nkind = 'step'\n\
             steps = [{ backlog = 1, instances = 1 }, { backlog = 50, instances = 5 }]",
            &[Rule::Step {
                steps: vec![Step { backlog: 1, instances: 1 }, Step { backlog: 50, instances: 5 }],
            }],
        );
        check(
            "[[rule]]\nkind = 'schedule'\ncron = '0 8 * * MON-FRI'\nduration = '10h'\n\
             timezone = 'Europe/Berlin'\n\
             instances = 2",
            &[Rule::Schedule {
                when: Schedule {
                    cron: schedule::parse_cron("0 8 * * MON-FRI").unwrap(),
                    duration: Duration::from_secs(36_000),
                    timezone: chrono_tz::Europe::Berlin,
                },
                instances: 2,
            }],
        );
        check(
            "[[rule]]\nkind = 'forecast'",
            &[Rule::Forecast { season: DAY, quantile: 0.9, timezone: chrono_tz::UTC, after: 2 }],
        );
    }

    #[test]
    fn missing_required_keys_are_named() {
        check_bad(
            "[[rule]]\nkind = 'latency'\n[[rule]]\nkind = 'step'\n[[rule]]\nkind = 'schedule'",
            &[
                "2: rule[1].p95: is missing: how long 95 of 100 jobs may take, like `p95 = \"30s\"`",
                "4: rule[2].steps: is missing: a list of thresholds, like `steps = [{ backlog = 1, \
                instances = 1 }]`",
                "6: rule[3].cron: is missing: when the hours begin, like `cron = \"0 8 * * \
                MON-FRI\"`",
                "6: rule[3].duration: is missing: how long they last, like `duration = \"10h\"`",
                "6: rule[3].instances: is missing: how many instances, like `instances = 2`",
            ],
        );
    }

    #[test]
    fn a_key_of_another_kind_is_refused() {
        check_bad(
            "[[rule]]\nkind = 'latency'\np95 = '30s'\nper_instance = 3",
            &["4: unknown key `rule[1].per_instance`; the known ones are kind, p95"],
        );
    }

    #[test]
    fn bad_steps_hours_zones_and_quantiles_are_named() {
        check_bad(
            "[[rule]]\nkind = 'step'\n\
             steps = [{ backlog = 5, instances = 1 }, { backlog = 5, instances = 2 }]\n\
             [[rule]]\nkind = 'step'\nsteps = [{ backlog = 5, instances = -1 }]\n\
             [[rule]]\nkind = 'schedule'\ncron = '61 8 * *'\nduration = '10 h'\ntimezone = 'Europe/Berln'\n\
             instances = 2\n\
             [[rule]]\nkind = 'forecast'\nquantile = 1.5",
            &[
                "3: rule[1].steps: has the backlog 5 after 5; steps must rise",
                "6: steps[1].instances: is -1; must be a whole number from 0 to 10000",
                "9: rule[3].cron: is \"61 8 * *\"; must have five fields (minute, hour, day of the \
                month, month, day of the week), like \"0 8 * * MON-FRI\"",
                "11: rule[3].timezone: is \"Europe/Berln\", which is unknown; did you mean \
                \"Europe/Berlin\"?",
                "15: rule[4].quantile: is 1.5; must be a number from 0.01 to 0.999",
            ],
        );
    }
}
