//! `eirs check`

use std::{path::Path, time::Duration};

use bytesize::ByteSize;
use chrono::{DateTime, Utc};
use console::style;
use eirs_controller::status::{PoolStatus, Status};
use eirs_platform::{
    backend::Backend,
    blobs::BlobInfo,
    job::{Outcome, Reply, decode},
    queue::Depth,
    settings::Settings,
};
use serde::Serialize;

use crate::{
    Exit, Global, Stop,
    show::{self, count},
    state::{self, CONTROLLER_LOCK, Kind, Stored, stored},
    status,
};

/// Show instances, queues, images and results, and say what is wrong
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  eirs check && echo healthy")]
pub struct Check {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// So many of the newest results are shown.
const NEWEST: usize = 5;
/// A controller that has not looked for so many ticks hangs.
const MISSED_TICKS: u32 = 5;

/// All that is shown.
#[derive(Debug, Serialize)]
struct Report {
    state: String,
    controller: Controller,
    pools: Vec<PoolStatus>,
    queues: Vec<Queue>,
    images: Stored,
    results: Stored,
    newest: Vec<Newest>,
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Controller {
    running: bool,
    pid: Option<u32>,
    /// When it last looked.
    at: Option<DateTime<Utc>>,
}

#[derive(Debug, Serialize)]
struct Queue {
    name: String,
    #[serde(flatten)]
    depth: Depth,
}

/// A result.
#[derive(Debug, Serialize)]
struct Newest {
    name: String,
    /// The label, or why there is none.
    label: String,
    model: String,
    at: DateTime<Utc>,
}

impl Check {
    /// Runs it; it fails when something is wrong.
    pub async fn run(self, global: &Global) -> Result<Exit, Stop> {
        let settings = global.settings()?;
        let folder = settings.local.state.as_path();
        match state::kind(folder) {
            Kind::Nothing if self.json => show::json(&serde_json::json!({ "state": folder, "problems": [] })),
            Kind::Nothing => show::out(format_args!(
                "Nothing has run on the state folder {} yet. `eirs local` starts a service.",
                folder.display()
            )),
            Kind::Foreign => {
                return Err(Stop::Failed(anyhow::anyhow!(state::foreign(folder))));
            }
            Kind::Ours => {
                let report = Report::of(&settings, Utc::now()).await?;
                if self.json {
                    show::json(&report);
                } else {
                    show::out(report.text(Utc::now()).trim_end());
                }
                if !report.problems.is_empty() {
                    return Ok(Exit::Failed);
                }
            }
        }
        Ok(Exit::Ok)
    }
}

impl Report {
    async fn of(settings: &Settings, now: DateTime<Utc>) -> anyhow::Result<Self> {
        let folder = settings.local.state.as_path();
        let backend = state::open(settings).await?;
        let holder = state::holder_of(folder, CONTROLLER_LOCK);
        let seen = status::read(&settings.status_file());
        let mut queues = Vec::new();
        for name in backend.queue_names().await? {
            let depth = backend.any_queue(&name).await?.depth().await?;
            queues.push(Queue { name, depth });
        }
        let images = stored(backend.images(), "images/", |_| {}).await?;
        let mut newest = Vec::new();
        let results = stored(backend.results(), "results/", |blob| keep_newest(&mut newest, blob)).await?;
        let controller = Controller {
            running: holder.is_some(),
            pid: holder.and_then(|holder| holder.by),
            at: seen.as_ref().map(|seen| seen.at),
        };
        let problems = problems(&controller, seen.as_ref(), &queues, now);
        Ok(Self {
            state: folder.display().to_string(),
            // The instances of a controller that does not run are history.
            pools: seen.filter(|_| controller.running).map(|seen| seen.pools).unwrap_or_default(),
            controller,
            queues,
            images,
            results,
            newest: read(&backend, newest).await?,
            problems,
        })
    }

    fn text(&self, now: DateTime<Utc>) -> String {
        let mut text = match &self.controller {
            Controller { running: true, pid, at } => {
                let pid = pid.map_or_else(String::new, |pid| format!(", process {pid}"));
                let at =
                    at.map_or_else(|| "not looked yet".to_owned(), |at| format!("looked {}", ago(now, at)));
                format!("The controller of {} is running{pid}; it {at}.\n", self.state)
            }
            Controller { at: Some(at), .. } => {
                format!(
                    "No controller is running on {}; the last one looked {}.\n",
                    self.state,
                    ago(now, *at)
                )
            }
            Controller { .. } => format!("No controller is running on {}.\n", self.state),
        };
        if !self.pools.is_empty() {
            let head =
                ["pool", "wanted", "ready", "starting", "leaving", "stopped", "waiting", "in work", "reason"];
            text +=
                &format!("\n{}", show::table(&head, &self.pools.iter().map(pool_row).collect::<Vec<_>>()));
        }
        let row = |queue: &Queue| {
            vec![queue.name.clone(), queue.depth.visible.to_string(), queue.depth.in_flight.to_string()]
        };
        let rows: Vec<_> = self.queues.iter().map(row).collect();
        text += &format!("\n{}\n", show::table(&["queue", "visible", "in flight"], &rows));
        for (stored, thing) in [(self.images, "image"), (self.results, "result")] {
            text += &format!("{} ({})\n", count(stored.count, thing), ByteSize(stored.bytes));
        }
        for Newest { name, label, at, .. } in &self.newest {
            text += &format!("  ({name}, {label})  {}\n", ago(now, *at));
        }
        match self.problems.as_slice() {
            [] => text += &format!("\n{}\n", style("All is well.").green()),
            problems => {
                text.push('\n');
                problems.iter().for_each(|problem| text += &format!("{} {problem}\n", style("Wrong:").red()));
            }
        }
        text
    }
}

/// Everything that an operator should look at, a sentence each.
fn problems(
    controller: &Controller,
    seen: Option<&Status>,
    queues: &[Queue],
    now: DateTime<Utc>,
) -> Vec<String> {
    let mut problems = Vec::new();
    if !controller.running {
        let waiting =
            queues.iter().filter(|queue| queue.name.starts_with("requests-") && queue.depth.backlog() > 0);
        problems.extend(waiting.map(|queue| {
            let jobs = count(queue.depth.backlog(), "job");
            format!("{jobs} in {} and no controller that would start a worker", queue.name)
        }));
        return problems;
    }
    let Some(seen) = seen else { return problems };
    let silent = (now - seen.at).to_std().unwrap_or_default();
    if silent > seen.tick * MISSED_TICKS {
        let silent = humantime::format_duration(Duration::from_secs(silent.as_secs()));
        problems.push(format!("the controller runs and has not looked for {silent}; its log may say why"));
    }
    problems.extend(
        seen.policy_errors.iter().map(|error| format!("policy {error}; the last good version is in force")),
    );
    problems.extend(seen.problems.iter().cloned());
    problems.extend(
        seen.operator_error.iter().map(|error| format!("orders {error}; the last good ones are in force")),
    );
    // A pause is an order and no trouble, until it makes somebody wait.
    problems.extend(seen.pools.iter().filter(|pool| !pool.would.is_empty()).filter_map(|pool| {
        let order = pool.paused.as_ref()?;
        let jobs = count(pool.visible.unwrap_or(0), "job");
        Some(format!(
            "the pool {} is paused {order}, with {jobs} waiting; it would {}",
            pool.name,
            pool.would.join(", ")
        ))
    }));
    // Both figures are of the same pass: this is not work that has just arrived.
    let unwanted = seen.pools.iter().filter(|pool| pool.desired == 0 && pool.visible.unwrap_or(0) > 0);
    problems.extend(unwanted.map(|pool| {
        let jobs = count(pool.visible.unwrap_or(0), "job");
        format!(
            "{jobs} waiting in the pool {} and its policy wants no worker for them ({})",
            pool.name, pool.reason
        )
    }));
    let crashed = seen.pools.iter().flat_map(|pool| &pool.instances).filter(|instance| instance.crashes > 0);
    problems.extend(crashed.map(|instance| {
        let error = instance.last_error.as_deref().unwrap_or("died before its time");
        format!("{} {error}, {} in a row", instance.id, count(instance.crashes.into(), "time"))
    }));
    let refused = seen.pools.iter().flat_map(|pool| &pool.instances).filter_map(|instance| {
        let refused = instance.refused.as_ref()?;
        let why = if refused.capacity { "there is no capacity" } else { "something is wrong with it" };
        let (word, times) = (refused.verb.word(), count(refused.count.into(), "time"));
        Some(format!("{} refused to {word} {times} in a row, {why}: {}", instance.id, refused.error))
    });
    problems.extend(refused);
    problems
}

fn pool_row(pool: &PoolStatus) -> Vec<String> {
    let number = |number: Option<u64>| number.map_or_else(|| "?".into(), |number| number.to_string());
    let alive = pool.ready + pool.starting + pool.leaving;
    let stopped = pool.instances.len().saturating_sub(alive as usize);
    vec![
        pool.name.clone(),
        pool.desired.to_string(),
        pool.ready.to_string(),
        pool.starting.to_string(),
        pool.leaving.to_string(),
        stopped.to_string(),
        number(pool.visible),
        number(pool.in_flight),
        pool.reason.clone(),
    ]
}

fn keep_newest(newest: &mut Vec<BlobInfo>, blob: &BlobInfo) {
    newest.push(blob.clone());
    newest.sort_by(|a, b| b.modified.cmp(&a.modified).then_with(|| a.key.cmp(&b.key)));
    newest.truncate(NEWEST);
}

async fn read(backend: &Backend, blobs: Vec<BlobInfo>) -> anyhow::Result<Vec<Newest>> {
    let mut newest = Vec::new();
    for blob in blobs {
        let Some(body) = backend.results().get(&blob.key).await? else { continue };
        newest.push(match decode::<Reply>(&body) {
            Ok(reply) => Newest { label: end(&reply), name: reply.name, model: reply.model, at: reply.at },
            Err(error) => Newest {
                name: Path::new(&blob.key).file_stem().unwrap_or_default().to_string_lossy().into_owned(),
                label: format!("unreadable: {error}"),
                model: String::new(),
                at: blob.modified,
            },
        });
    }
    Ok(newest)
}

fn end(reply: &Reply) -> String {
    match &reply.outcome {
        Outcome::Classified { .. } => reply.label().unwrap_or("no label").to_owned(),
        Outcome::Rejected { reason } => format!("rejected: {reason}"),
        Outcome::GaveUp { reason } => format!("given up: {reason}"),
    }
}

fn ago(now: DateTime<Utc>, then: DateTime<Utc>) -> String {
    let seconds = (now - then).num_seconds().max(0).unsigned_abs();
    match seconds {
        0 => "just now".into(),
        // Old things are not dated to the second.
        3600.. => format!("{} ago", humantime::format_duration(Duration::from_secs(seconds / 60 * 60))),
        _ => format!("{} ago", humantime::format_duration(Duration::from_secs(seconds))),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use eirs_platform::job::{Guess, JobId, VERSION, encode};

    use super::*;
    use crate::state::Lock;

    fn settings(folder: &Path) -> Settings {
        let mut settings = Settings::default();
        settings.local.state = folder.to_owned();
        settings
    }

    fn reply(name: &str, outcome: Outcome) -> Reply {
        Reply {
            v: VERSION,
            id: JobId::of(name.as_bytes()),
            name: name.into(),
            model: "default".into(),
            outcome,
            worker: "default-1".into(),
            at: Utc::now(),
            queued_ms: 1.0,
            classify_ms: 1.0,
        }
    }

    fn pool() -> PoolStatus {
        serde_json::from_value(serde_json::json!({
            "name": "default", "model": "default", "policy_file": "policies/default.toml", "policy_error": null,
            "min": 0, "max": 2, "visible": 7, "in_flight": 1, "arrivals_per_s": 0.0, "done_per_s": 0.0,
            "desired": 1, "ready": 1, "starting": 0, "leaving": 0, "reason": "backlog 8",
            "instances": [],
        }))
        .unwrap()
    }

    fn controller_status(at: DateTime<Utc>) -> Status {
        serde_json::from_value(serde_json::json!({
            "version": "0", "pid": 1, "started_at": at, "at": at, "tick": "5s", "reloads": 0, "pools": [pool()],
            "policy_errors": ["x.toml:1: pool.max: is no number"], "problems": [], "decisions": [], "throughput_per_s": 1.5,
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn what_is_stored_is_counted_and_the_newest_results_are_shown() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path());
        let backend = state::open(&settings).await.unwrap();
        backend.images().put("images/1", Bytes::from("image")).await.unwrap();
        let classified = Outcome::Classified { top: vec![Guess { label: "tench".into(), confidence: 0.5 }] };
        for (name, outcome) in
            [("fish.jpg", classified), ("text.jpg", Outcome::Rejected { reason: "not an image".into() })]
        {
            let reply = reply(name, outcome);
            backend.results().put(&reply.id.result_key("default"), encode(&reply)).await.unwrap();
        }
        let report = Report::of(&settings, Utc::now()).await.unwrap();
        let text = report.text(Utc::now());
        assert!(text.starts_with("No controller is running on "), "{text}");
        assert!(text.contains("1 image (5 B)\n2 results ("), "{text}");
        assert!(
            text.contains("(fish.jpg, tench)") && text.contains("(text.jpg, rejected: not an image)"),
            "{text}"
        );
        assert!(report.problems.is_empty() && text.ends_with("All is well.\n"), "{text}");
    }

    #[tokio::test]
    async fn work_without_a_controller_is_wrong_and_with_one_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path());
        let global = Global { config: None, state: Some(folder.path().to_owned()) };
        let backend = state::open(&settings).await.unwrap();
        backend.requests("default").await.unwrap().send(vec![Bytes::from("job")]).await.unwrap();
        let report = Report::of(&settings, Utc::now()).await.unwrap();
        assert_eq!(
            report.problems,
            ["1 job in requests-default and no controller that would start a worker"]
        );
        assert_eq!(Check { json: true }.run(&global).await.unwrap(), Exit::Failed);

        let _controller = Lock::take(folder.path(), CONTROLLER_LOCK).unwrap().unwrap();
        assert_eq!(Check { json: false }.run(&global).await.unwrap(), Exit::Ok);
    }

    #[test]
    fn what_the_controller_complains_of_and_its_silence_are_wrong() {
        let now = Utc::now();
        let running = Controller { running: true, pid: Some(1), at: Some(now) };
        let told = problems(&running, Some(&controller_status(now)), &[], now);
        assert_eq!(told, ["policy x.toml:1: pool.max: is no number; the last good version is in force"]);
        let told =
            problems(&running, Some(&controller_status(now - chrono::Duration::seconds(60))), &[], now);
        assert_eq!(told[0], "the controller runs and has not looked for 1m; its log may say why");
    }

    #[test]
    fn a_pause_that_makes_somebody_wait_and_an_instance_that_refuses_are_wrong() {
        let now = DateTime::UNIX_EPOCH;
        let mut seen = controller_status(now);
        seen.policy_errors.clear();
        let running = Controller { running: true, pid: Some(1), at: Some(now) };
        let order = serde_json::json!({ "since": now, "by": "alice" });
        seen.pools[0].paused = serde_json::from_value(order).unwrap();
        assert_eq!(problems(&running, Some(&seen), &[], now), Vec::<String>::new());
        seen.pools[0].would = vec!["start default-2".into()];
        seen.pools[0].instances = serde_json::from_value(serde_json::json!([{
            "id": "default-2", "state": "stopped", "since": now, "done_per_s": 0.0, "crashes": 0,
            "refused": { "verb": "start", "count": 3, "since": now, "at": now, "capacity": true, "error": "no more" },
        }]))
        .unwrap();
        assert_eq!(
            problems(&running, Some(&seen), &[], now),
            [
                "the pool default is paused by alice, since 1970-01-01 00:00:00 UTC, with 7 jobs waiting; it would \
                 start default-2",
                "default-2 refused to start 3 times in a row, there is no capacity: no more"
            ]
        );
    }

    #[test]
    fn jobs_that_no_policy_wants_a_worker_for_are_wrong() {
        let now = Utc::now();
        let mut seen = controller_status(now);
        seen.policy_errors.clear();
        let running = Controller { running: true, pid: Some(1), at: Some(now) };
        assert!(problems(&running, Some(&seen), &[], now).is_empty());
        seen.pools[0].desired = 0;
        let told = problems(&running, Some(&seen), &[], now);
        assert_eq!(
            told,
            ["7 jobs waiting in the pool default and its policy wants no worker for them (backlog 8)"]
        );
    }

    #[tokio::test]
    async fn the_pools_of_a_running_controller_are_a_table() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path());
        drop(state::open(&settings).await.unwrap());
        std::fs::write(settings.status_file(), serde_json::to_vec(&controller_status(Utc::now())).unwrap())
            .unwrap();
        let report = Report::of(&settings, Utc::now()).await.unwrap();
        assert!(report.pools.is_empty(), "nobody holds the lock: that controller is gone");
        let _controller = Lock::take(folder.path(), CONTROLLER_LOCK).unwrap().unwrap();
        let text = Report::of(&settings, Utc::now()).await.unwrap().text(Utc::now());
        assert!(
            text.contains(
                "default       1      1         0        0        0        7        1  backlog 8\n"
            ),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_look_makes_no_state_folder() {
        let folder = tempfile::tempdir().unwrap();
        let global = Global { config: None, state: Some(folder.path().join("none")) };
        assert_eq!(Check { json: false }.run(&global).await.unwrap(), Exit::Ok);
        assert!(!folder.path().join("none").exists());
    }
}
