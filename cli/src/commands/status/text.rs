//! Formats the status as text: the controller, each pool with its instances, the last decisions.

use chrono::{DateTime, Utc};
use console::style;
use eirs_controller::{
    observe::Stage,
    operator::Order,
    status::{Decision, InstanceStatus, Learnt, PoolStatus, Status, Usage},
};
use eirs_platform::settings::{Settings, Simulate};

use crate::show::{ago, count, milliseconds, paragraph, since, span, table};

/// Number of decisions to show.
const DECISIONS: usize = 6;
/// Number of ticks without a pass after which the controller counts as hanging.
const MISSED_TICKS: u32 = 5;

/// Formats the status for a terminal of this width.
pub fn text(
    settings: &Settings,
    status: Option<&Status>,
    is_running: bool,
    width: usize,
    now: DateTime<Utc>,
) -> String {
    let folder = settings.local.state.display();
    let Some(status) = status else {
        return if is_running {
            format!("A controller is starting on {folder}; it has made no pass yet.\n")
        } else {
            format!("No controller has run on {folder} yet.\n")
        };
    };
    let mut text = head(status, is_running, width, now);
    for pool in &status.pools {
        text.push('\n');
        text += &of_pool(pool, status.instance_limit, is_running, width, now);
    }
    if status.pools.is_empty() {
        text += "\nNo pools.\n";
    }
    if !status.decisions.is_empty() {
        text += &format!("\n{}\n", style("Last decisions").bold());
        let first = status.decisions.len().saturating_sub(DECISIONS);
        status.decisions[first..].iter().for_each(|decision| text += &of_decision(decision, width, now));
    }
    text
}

fn head(status: &Status, is_running: bool, width: usize, now: DateTime<Utc>) -> String {
    let looked = ago(status.at, now);
    let mut text = if is_running {
        let (pid, since) = (status.pid, since(status.started_at, now));
        format!(
            "The controller is {} as process {pid} for {since}; last pass {looked}.\n",
            style("running").green()
        )
    } else {
        let none = style("No controller is running").red();
        format!("{none}; this is from the last pass, {looked}.\n")
    };
    let mut say = |word: &str, sentence: &str| text += &paragraph(word, sentence, width);
    if is_running && (now - status.at).to_std().unwrap_or_default() > status.tick * MISSED_TICKS {
        say("hangs?", "its last pass is late; see its log");
    }
    if let Some(order) = &status.operator.all_paused {
        say("paused", &format!("{}; nothing is started, drained or stopped", by(order, now)));
    }
    status
        .policy_errors
        .iter()
        .for_each(|error| say("policy", &format!("{error}; the last good version is in force")));
    status
        .operator_error
        .iter()
        .for_each(|error| say("orders", &format!("{error}; the last good ones are in force")));
    status
        .problems
        .iter()
        .for_each(|problem| say("unseen", &format!("{problem}; nothing is drained meanwhile")));
    if let Some(simulated) = &status.simulated {
        say("simulated", &made_up(simulated));
    }
    text
}

fn made_up(simulate: &Simulate) -> String {
    let percent = |share: f64| (share * 1e3).round() / 10.0;
    format!(
        "start delay {}, {}% of the starts fail, {}% are refused",
        simulate.start_delay,
        percent(simulate.boot_failure),
        percent(simulate.capacity_error)
    )
}

fn of_pool(
    pool: &PoolStatus,
    instance_limit: u32,
    is_running: bool,
    width: usize,
    now: DateTime<Utc>,
) -> String {
    let model =
        pool.model.as_deref().map_or_else(|| "no policy".to_owned(), |model| format!("model {model}"));
    let mut text = format!("{}  {}\n", style(&pool.name).bold(), style(model).dim());
    let mut say = |word: &str, sentence: &str| text += &paragraph(word, sentence, width);

    let there = super::counts(pool).unwrap_or_else(|| "none runs".to_owned());
    let max = match instance_limit {
        limit if limit > 0 && limit < pool.max => format!("max {limit} by controller.instance_limit"),
        _ => format!("max {}", pool.max),
    };
    say("workers", &format!("{} wanted (min {}, {max}): {there}", pool.desired, pool.min));
    let jobs = match (pool.visible, pool.in_flight) {
        (Some(visible), Some(in_flight)) => format!("{visible} waiting, {in_flight} in flight"),
        _ if pool.model.is_none() => "not counted: the pool has no policy".to_owned(),
        _ => "unknown: the queue could not be read".to_owned(),
    };
    let rates = format!("{:.1} arrive and {:.1} are done each second", pool.arrivals_per_s, pool.done_per_s);
    say("jobs", &format!("{jobs}; {rates}"));
    say("why", &pool.reason);
    if let Some(order) = &pool.paused {
        let would = if pool.would.is_empty() { "nothing".to_owned() } else { pool.would.join(", ") };
        say("paused", &format!("{}; it would do: {would}", by(order, now)));
    }
    learnt(&pool.learnt, pool.service_s).iter().for_each(|known| say("learnt", known));
    today(&pool.today).iter().for_each(|used| say("today", used));
    if let Some(error) = &pool.policy_error {
        say("policy", error);
    }
    if is_running || pool.instances.iter().any(|instance| instance.state != Stage::Stopped) {
        text += &instances(&pool.instances, width, now);
    }
    text
}

fn learnt(learnt: &Learnt, reported: Option<f64>) -> Option<String> {
    let time = |seconds: f64| milliseconds(seconds * 1e3);
    let delay = learnt.start_delay_s.map(|middle| {
        let late = learnt
            .start_delay_p95_s
            .map_or_else(String::new, |p95| format!(", at most {} in 95 %", time(p95)));
        format!("a start takes {}{late}", time(middle))
    });
    let service = learnt.service_s.or(reported).map(|service| format!("a job takes {}", time(service)));
    let at_once = learnt.concurrency.map(|jobs| format!("{jobs:.1} at once"));
    let expected = learnt.expected_per_s.map(|rate| format!("{rate:.1} are expected each second"));
    let known: Vec<_> = [delay, service, at_once, expected].into_iter().flatten().collect();
    (!known.is_empty()).then(|| known.join("; "))
}

fn today(today: &Usage) -> Option<String> {
    let hours = today.instance_hours.map(|hours| {
        let budget = today.budget_hours.map_or_else(String::new, |budget| format!(" of {budget}"));
        format!("{hours:.2}{budget} instance-hours")
    });
    let cost = today.cost_usd.map(|cost| format!("${cost:.4}"));
    let images = today.images.map(|images| count(images, "image"));
    let each = today.cost_usd_per_1000.map(|cost| format!("${cost:.4} per 1000 images"));
    let known: Vec<_> = [hours, cost, images, each].into_iter().flatten().collect();
    (!known.is_empty()).then(|| known.join(", "))
}

/// Formats instances that run or have something to report as a table, with long remarks below, and
/// summarises the others.
fn instances(instances: &[InstanceStatus], width: usize, now: DateTime<Utc>) -> String {
    if instances.is_empty() {
        return String::new();
    }
    let (shown, quiet): (Vec<_>, Vec<_>) = instances
        .iter()
        .partition(|instance| instance.state != Stage::Stopped || remark(instance, now).is_some());
    let mut text = "\n".to_owned();
    if !shown.is_empty() {
        let rows: Vec<_> = shown.iter().map(|instance| row(instance, now)).collect();
        let head = ["instance", "state", "for", "jobs", "done", ""];
        for line in table(&head, &rows).lines() {
            text += &format!("  {line}\n");
        }
        for instance in shown {
            if let Some(remark) = remark(instance, now) {
                text += &paragraph("", &format!("{}: {remark}", instance.id), width);
            }
        }
    }
    match quiet.as_slice() {
        [] => {}
        [one] => text += &format!("  {} is stopped\n", one.id),
        [first, .., last] => {
            let count = quiet.len();
            text += &format!("  {count} are stopped ({} ... {})\n", first.id, last.id);
        }
    }
    text
}

fn row(instance: &InstanceStatus, now: DateTime<Utc>) -> Vec<String> {
    let is_alive = instance.state != Stage::Stopped;
    let jobs = instance.in_flight.zip(instance.slots).filter(|_| is_alive);
    // A report may be ten seconds old: that the worker was idle then says nothing about now.
    let last = match (instance.idle_since, instance.drain_until, instance.reported_at) {
        _ if !is_alive => String::new(),
        (_, Some(until), _) if until > now => format!("drain deadline in {}", since(now, until)),
        (_, Some(_), _) => "drain overdue".to_owned(),
        (Some(idle), None, Some(at)) => format!("was idle for {}, {}", since(idle, at), ago(at, now)),
        (_, None, Some(at)) => format!("reported {}", ago(at, now)),
        (_, None, None) => "no report yet".to_owned(),
    };
    vec![
        instance.id.clone(),
        state(instance.state),
        since(instance.since, now),
        jobs.map_or_else(String::new, |(held, slots)| format!("{held}/{slots}")),
        instance.done.filter(|_| is_alive).map_or_else(String::new, |done| done.to_string()),
        last,
    ]
}

fn state(stage: Stage) -> String {
    match stage {
        Stage::Stopped => style("stopped").dim(),
        Stage::Starting => style("starting").yellow(),
        Stage::Ready => style("ready").green(),
        Stage::Draining => style("draining").cyan(),
        Stage::Drained => style("drained").cyan(),
        Stage::Stopping => style("stopping").cyan(),
    }
    .to_string()
}

/// Returns a remark about anything unusual.
fn remark(instance: &InstanceStatus, now: DateTime<Utc>) -> Option<String> {
    let mut remarks = Vec::new();
    if let Some(cordon) = &instance.cordoned {
        let and = if cordon.drain { " and drained" } else { "" };
        let order = Order::new(cordon.by.clone(), cordon.since);
        remarks.push(format!("cordoned{and} {}", by(&order, now)));
    }
    if let Some(why) = &instance.failing {
        remarks.push(format!("every job fails there: {why}"));
    }
    if instance.crashes > 0 {
        let error = instance.last_error.as_deref().unwrap_or("crashed");
        remarks.push(format!("{error}, {} in a row", count(instance.crashes.into(), "time")));
    }
    if let Some(refused) = &instance.refused {
        let word = refused.verb.word();
        let times = count(refused.count.into(), "time");
        let why = if refused.capacity { "no capacity" } else { refused.error.as_str() };
        remarks.push(format!("refused to {word} {times}, last {}: {why}", ago(refused.at, now)));
    }
    if let Some(until) = instance.not_before.filter(|until| *until > now) {
        let rest = span((until - now).to_std().unwrap_or_default());
        remarks.push(format!("retry in {rest}"));
    }
    (!remarks.is_empty()).then(|| remarks.join("; "))
}

fn of_decision(decision: &Decision, width: usize, now: DateTime<Utc>) -> String {
    let Decision { pool, desired, running, actions, paused, .. } = decision;
    let what = match actions.as_slice() {
        [] => "nothing to do".to_owned(),
        actions if *paused => format!("would {}, but was paused", actions.join(", ")),
        actions => actions.join(", "),
    };
    let jobs = decision.backlog.map_or_else(|| "?".to_owned(), |backlog| count(backlog, "job"));
    let sentence = format!("{pool}: {jobs}, {desired} wanted, {running} running: {what}");
    paragraph(&since(decision.at, now), &sentence, width)
}

/// Formats as `by alice for 5m`.
fn by(order: &Order, now: DateTime<Utc>) -> String {
    format!("by {} for {}", order.by.as_deref().unwrap_or("an unknown user"), since(order.since, now))
}

#[cfg(test)]
mod tests {
    use eirs_controller::operator::{Cordon, Operator};
    use serde_json::json;

    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
    }

    fn instance(id: &str, state: &str, age: i64) -> serde_json::Value {
        json!({
            "id": id, "state": state, "since": at(-age), "generation": null, "pid": null, "in_flight": null,
            "slots": null, "done": null, "done_per_s": 0.0, "engine": null, "service_mean_ms": null,
            "service_p95_ms": null, "idle_since": null, "reported_at": null, "drain_until": null,
            "crashes": 0,
            "last_error": null, "not_before": null,
        })
    }

    fn status() -> Status {
        let mut busy = instance("default-1", "ready", 7380);
        busy["in_flight"] = 1.into();
        busy["slots"] = 2.into();
        busy["done"] = 8810.into();
        busy["reported_at"] = json!(at(-3));
        let mut draining = instance("default-3", "draining", 20);
        draining["drain_until"] = json!(at(70));
        let mut crashed = instance("default-4", "stopped", 60);
        crashed["crashes"] = 3.into();
        crashed["last_error"] = "exited with code 78: wrong settings or model; see its log".into();
        crashed["not_before"] = json!(at(4));
        let rest = (6..=10).map(|number| instance(&format!("default-{number}"), "stopped", 9000));
        let mut instances = vec![busy, instance("default-2", "starting", 14), draining, crashed];
        instances.push(instance("default-5", "stopped", 9000));
        instances.extend(rest);
        let pool = json!({
            "name": "default", "model": "default", "policy_file": "policies/default.toml",
            "policy_error": null,
            "min": 0, "max": 10, "visible": 45, "in_flight": 2, "arrivals_per_s": 3.2, "done_per_s": 2.94,
            "desired": 5, "ready": 1, "starting": 1, "leaving": 1,
            "reason": "47 jobs (45 waiting, 2 in flight): backlog wants 5 (10 for each instance); 1 ready, 1 \
                       starting, 1 leaving; waiting until 04:05:06: instances died at their start",
            "learnt": { "start_delay_s": 24.8, "start_delay_p95_s": 31.2, "service_s": 0.21 },
            "today": { "instance_hours": 3.4, "budget_hours": 48.0, "cost_usd": 0.0707, "images": 8810,
                       "cost_usd_per_1000": 0.008 },
            "instances": instances,
        });
        let decision = json!({
            "at": at(-134), "pool": "default", "backlog": 47, "desired": 5, "running": 1,
            "actions": ["start default-2", "start default-3"], "reason": "so",
        });
        serde_json::from_value(json!({
            "version": "0", "pid": 4711, "started_at": at(-7385), "at": at(-2), "tick": "5s", "reloads": 0,
            "pools": [pool], "policy_errors": [], "problems": [], "decisions": [decision],
            "throughput_per_s": 1.5,
        }))
        .unwrap()
    }

    fn page(status: &Status) -> String {
        let page = text(&Settings::default(), Some(status), true, 80, at(0));
        console::strip_ansi_codes(&page).into_owned()
    }

    #[test]
    fn the_status_fits_in_eighty_columns_and_is_complete() {
        let page = page(&status());
        assert!(page.lines().all(|line| line.chars().count() <= 80), "{page}");
        insta::assert_snapshot!(page);
    }

    #[test]
    fn a_worker_is_only_idle_as_of_its_last_report() {
        let mut status = status();
        let worker = &mut status.pools[0].instances[0];
        (worker.idle_since, worker.reported_at) = (Some(at(-38)), Some(at(-8)));
        let page = page(&status);
        assert!(page.contains("8810  was idle for 30s, 8s ago\n"), "{page}");
    }

    #[test]
    fn orders_and_problems_are_shown() {
        let mut status = status();
        let order = Order::new(Some("alice".into()), at(-300));
        let cordon = Cordon { since: at(-60), by: None, drain: true };
        status.operator = Operator { all_paused: Some(order.clone()), ..Operator::default() };
        status.problems = vec!["the fleet: listing: throttled".into()];
        status.policy_errors =
            vec!["policies/default.toml:2: pool.max: is 'x'; must be a whole number".into()];
        status.simulated = Some(Simulate {
            start_delay: "25s~lognormal:0.3".parse().unwrap(),
            boot_failure: 0.1,
            ..Simulate::default()
        });
        status.pools[0].paused = Some(order);
        status.pools[0].would = vec!["start default-5".into()];
        status.pools[0].instances[4].cordoned = Some(cordon);
        let page = page(&status);
        assert!(page.lines().all(|line| line.chars().count() <= 80), "{page}");
        insta::assert_snapshot!(page);
    }

    #[test]
    fn a_pool_without_a_policy_does_not_report_a_queue_error() {
        let mut status = status();
        (status.pools[0].visible, status.pools[0].in_flight) = (None, None);
        assert!(page(&status).contains("unknown: the queue could not be read"));
        status.pools[0].model = None;
        let page = page(&status);
        assert!(
            page.contains("not counted: the pool has no policy") && !page.contains("could not"),
            "{page}"
        );
    }

    #[test]
    fn the_status_says_that_no_controller_runs() {
        let settings = Settings::default();
        assert_eq!(text(&settings, None, false, 80, at(0)), "No controller has run on .eirs yet.\n");
        let page = text(&settings, Some(&status()), false, 80, at(0));
        assert!(page.starts_with("No controller is running; this is from the last pass, 2s ago"), "{page}");
    }
}
