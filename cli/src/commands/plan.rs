//! `eirs plan`

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use chrono::{DateTime, Utc};
use console::style;
use eirs_controller::{
    decide::PoolPlan,
    operator::{self, Operator, Order},
    policy::{Complaint, Policies, load},
    preview::{Preview, inputs, preview},
    status::Status,
};
use eirs_platform::{
    clock::SystemClock,
    settings::Settings,
    state_folder::{self, CONTROLLER_LOCK},
};
use serde::Serialize;

use crate::{
    Exit, Global, Stop,
    commands::status,
    show::{self, Voice, ago, paragraph},
    state,
};

/// Show what the controller would do now and why, without doing it
///
/// Reads queues and workers itself; reports and history come from the running controller. Without
/// one it shows the first pass of a new controller, which has no history and drains nothing.
#[derive(Debug, clap::Args)]
#[command(
    name = "plan",
    after_help = "Examples:\n  eirs plan\n  eirs plan --policies new-policies    what other policies \
        would do with the current queue"
)]
pub(crate) struct PlanCommand {
    /// A folder of policies to use instead of those in force
    #[arg(long, value_name = "FOLDER")]
    policies: Option<PathBuf>,
    #[command(flatten)]
    voice: Voice,
}

/// The output of `--json`.
#[derive(Debug, Serialize)]
struct Report {
    /// The time when queues and workers were inspected.
    at: DateTime<Utc>,
    /// The folder of the policies.
    policies: String,
    /// The time of the last pass of the controller whose history is used; null if none runs.
    controller_at: Option<DateTime<Utc>>,
    /// The plan of each pool.
    pools: BTreeMap<String, Pool>,
    /// The parts that could not be inspected.
    missing: Vec<String>,
    /// Errors in policies and orders on disk.
    complaints: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Pool {
    #[serde(flatten)]
    plan: PoolPlan,
    /// The whole decision in a sentence.
    reason: String,
    /// Each action in words.
    would: Vec<String>,
    paused: Option<Order>,
    /// Whether the pool has a valid policy; otherwise its queue is not inspected.
    #[serde(skip)]
    has_policy: bool,
}

impl PlanCommand {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Stop> {
        let mut settings = global.settings()?;
        state::expect_ours(&settings)?;
        let is_running = state_folder::holder(&settings.local.state, CONTROLLER_LOCK).is_some();
        let status = status::read(&settings.status_file()).filter(|_| is_running);
        if let Some(status) = &status {
            settings.controller.instance_limit = status.instance_limit;
            settings.controller.tick = status.tick;
        }
        let folder =
            self.policies.clone().unwrap_or_else(|| status::policy_folder(&settings, status.as_ref()));
        let read = match &self.policies {
            Some(folder) => strict(folder, &settings),
            None => in_force(&folder, &settings),
        };
        let (policies, mut complaints) = match read {
            Ok(read) => read,
            Err(complaints) => {
                complaints.iter().for_each(show::aside);
                return Ok(Exit::BadSettings);
            }
        };
        let orders = orders(&settings, status.as_ref(), &mut complaints);
        let backend = state::open(&settings).await?;
        let known = status.as_ref().and_then(|_| inputs(&settings));
        let Preview { plan, seen, controller_at } =
            preview(&settings, backend, Arc::new(SystemClock), &policies, orders, known).await?;
        let pool = |(name, plan): (String, PoolPlan)| {
            let paused = seen.operator.paused(&name).cloned();
            let would = plan.actions.iter().map(ToString::to_string).collect();
            let has_policy = policies.pools.contains_key(&name);
            (name, Pool { reason: plan.reason(), would, paused, has_policy, plan })
        };
        let report = Report {
            at: seen.at,
            policies: folder.display().to_string(),
            controller_at,
            pools: plan.pools.into_iter().map(pool).collect(),
            missing: seen.missing,
            complaints,
        };
        self.voice.show(&report, || report.text(is_running, show::width()).trim_end().to_owned());
        Ok(Exit::Ok)
    }
}

/// Policies, and the errors of some of them.
type Read = Result<(Policies, Vec<String>), Vec<Complaint>>;

/// Returns the policies that a controller would accept at its start: all must be valid.
fn strict(folder: &std::path::Path, settings: &Settings) -> Read {
    let policies = load::load_dir(folder)?.limited_by(settings);
    match policies.complaints(folder, settings) {
        none if none.is_empty() => Ok((policies, Vec::new())),
        complaints => Err(complaints),
    }
}

/// Returns the policies of the running controller, as far as their files are valid now.
fn in_force(folder: &std::path::Path, settings: &Settings) -> Read {
    let read = load::read_folder(folder).map_err(|complaint| vec![complaint])?;
    let (mut policies, mut complaints) = (Policies::default().limited_by(settings), Vec::new());
    for (name, read) in read.files {
        match read {
            Ok(policy) => _ = policies.pools.insert(name, policy),
            Err(found) => {
                let known = "the running controller uses the last good version, which is not known \
                    here";
                complaints.extend(found.iter().map(|complaint| format!("{complaint}; {known}")));
                policies.unreadable.insert(name);
            }
        }
    }
    Ok((policies, complaints))
}

fn orders(settings: &Settings, status: Option<&Status>, complaints: &mut Vec<String>) -> Operator {
    operator::read(&settings.local.state).unwrap_or_else(|error| {
        complaints.push(format!("{error}; the last good orders are in force"));
        status.map(|status| status.operator.clone()).unwrap_or_default()
    })
}

impl Report {
    fn text(&self, is_running: bool, width: usize) -> String {
        let mut text = match (self.controller_at, is_running) {
            (Some(at), _) => format!(
                "What the controller would do now with {} (last pass {}):\n",
                self.policies,
                ago(at, self.at)
            ),
            (None, true) => {
                format!("The controller has made no pass yet; its first one with {}:\n", self.policies)
            }
            (None, false) => format!(
                "No controller is running. The first pass of a new one with {}, without history:\n",
                self.policies
            ),
        };
        for complaint in &self.complaints {
            text += &paragraph("wrong", complaint, width);
        }
        for missing in &self.missing {
            text += &paragraph("unseen", missing, width);
        }
        for (name, pool) in &self.pools {
            text.push('\n');
            text += &pool.text(name, width);
        }
        if self.pools.is_empty() {
            text += "\nNo pools.\n";
        }
        text
    }
}

impl Pool {
    fn text(&self, name: &str, width: usize) -> String {
        let plan = &self.plan;
        let (desired, running) = (plan.desired, plan.running());
        let mut text = format!("{}  {desired} wanted, {running} running\n", style(name).bold());
        let mut say = |word: &str, sentence: &str| text += &paragraph(word, sentence, width);
        let jobs = plan.depth.map_or_else(
            || {
                let why = if self.has_policy {
                    "unknown: the queue could not be read"
                } else {
                    "not counted: no policy of the pool can be read"
                };
                why.to_owned()
            },
            |depth| format!("{} waiting, {} in flight", depth.visible, depth.in_flight),
        );
        say("jobs", &jobs);
        say(
            "workers",
            &format!("{} ready, {} starting, {} leaving", plan.ready, plan.starting, plan.leaving),
        );
        for wish in &plan.wishes {
            say("rule", &format!("{} wants {} ({})", wish.rule, wish.instances, wish.because));
        }
        if plan.clamped != plan.wished {
            say("limits", &format!("spare, min and max make it {}", plan.clamped));
        }
        if plan.share != plan.clamped {
            say("limits", &format!("the instance limit makes it {}", plan.share));
        }
        for hold in &plan.holds {
            let sentence = hold.to_string();
            // The sentence starts with the name of its row: `held: ...` or `waiting: ...`.
            let (word, rest) = sentence.split_once(": ").unwrap_or(("held", &sentence));
            say(word, rest);
        }
        if let Some(order) = &self.paused {
            say("paused", &format!("{order}: none of this is done"));
        }
        let mut word = "would";
        for action in &plan.actions {
            say(word, &action.to_string());
            word = "";
        }
        if plan.actions.is_empty() {
            say(word, "do nothing");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use bytes::Bytes;

    use super::*;

    fn rig() -> (tempfile::TempDir, Global, Settings) {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.local.state = folder.path().join("state");
        let global = Global { config: None, state: Some(settings.local.state.clone()) };
        (folder, global, settings)
    }

    #[tokio::test]
    async fn without_a_controller_the_queue_is_inspected_and_nothing_changes() {
        let (folder, global, settings) = rig();
        let backend = state::open(&settings).await.unwrap();
        let jobs = vec![Bytes::from("job"); 25];
        backend.requests("default").await.unwrap().send(jobs).await.unwrap();
        let policies = folder.path().join("policies");
        fs::create_dir(&policies).unwrap();
        fs::write(policies.join("default.toml"), "[pool]\nmax = 2\n[[rule]]\nkind = 'backlog'").unwrap();
        let (read, _) = strict(&policies, &settings).unwrap();
        let Preview { plan, controller_at, .. } =
            preview(&settings, backend, Arc::new(SystemClock), &read, Operator::default(), None)
                .await
                .unwrap();
        assert_eq!(controller_at, None);
        let actions: Vec<_> = plan.actions().map(ToString::to_string).collect();
        assert_eq!(actions, ["start default-1", "start default-2"]);
        assert!(!settings.local.state.join("instances").exists() && !settings.status_file().exists());

        let command = |policies| PlanCommand { policies: Some(policies), voice: Voice { json: true } };
        assert_eq!(command(policies.clone()).run(&global).await.unwrap(), Exit::Ok);
        fs::write(policies.join("default.toml"), "[pool]\nmaximum = 2").unwrap();
        assert_eq!(command(policies).run(&global).await.unwrap(), Exit::BadSettings);
    }

    #[test]
    fn a_pool_without_a_policy_does_not_report_a_queue_error() {
        let pool = |has_policy| Pool {
            reason: String::new(),
            would: Vec::new(),
            paused: None,
            has_policy,
            plan: PoolPlan::default(),
        };
        assert!(pool(true).text("default", 80).contains("unknown: the queue could not be read"));
        let text = pool(false).text("default", 80);
        assert!(text.contains("not counted: no policy of the pool can be read"), "{text}");
    }

    #[test]
    fn a_plan_fits_in_eighty_columns() {
        use eirs_controller::decide::{Action, Hold, Wish};
        let because = "10 for each instance".to_owned();
        let plan = PoolPlan {
            depth: Some(eirs_platform::queue::Depth { visible: 45, in_flight: 2 }),
            ready: 1,
            wishes: vec![Wish { rule: "backlog", instances: 12, steady: 12, because: because.into() }],
            wished: 12,
            clamped: 10,
            share: 4,
            desired: 4,
            holds: vec![Hold::Limit],
            actions: vec![Action::Start { id: "default-2".into() }, Action::Start { id: "default-3".into() }],
            ..PoolPlan::default()
        };
        let paused = Some(Order::new(Some("alice".into()), DateTime::UNIX_EPOCH));
        let pool = Pool { reason: plan.reason(), would: Vec::new(), paused, has_policy: true, plan };
        let report = Report {
            at: DateTime::UNIX_EPOCH,
            policies: "policies".into(),
            controller_at: Some(DateTime::UNIX_EPOCH),
            pools: BTreeMap::from([("default".to_owned(), pool)]),
            missing: Vec::new(),
            complaints: Vec::new(),
        };
        let text = report.text(true, 80);
        let text = console::strip_ansi_codes(&text);
        insta::assert_snapshot!(text);
    }
}
