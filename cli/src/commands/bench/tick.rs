//! Measures a complete tick of the controller without the network: observe, decide, act and write,
//! with a fleet and queues in memory.

use std::{fs, sync::Arc, time::Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use chrono::Utc;
use eirs_controller::{
    fleet::{Fleet, PoolSpec, State, memory::MemoryFleet},
    policy::{Launch, Store},
    reconcile::Controller,
};
use eirs_platform::{
    backend::Backend,
    clock::SystemClock,
    job::{Event, Phase, ServiceTimes, VERSION, WorkerReport},
    settings::{Model, Settings},
};

use super::board::{Bar, Board};

const INSTANCES: u32 = 1_000;
const MOST_MS: f64 = 100.0;

/// Measures ticks with a large, busy fleet: each has another backlog, and a report of every
/// instance.
pub(super) async fn tick(board: &mut Board, less: u64) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut settings = Settings::default();
    settings.local.state = folder.path().join("state");
    settings.controller.policies = folder.path().join("policies");
    fs::create_dir(&settings.local.state)?;
    fs::create_dir(&settings.controller.policies)?;
    let policy = format!(
        "[pool]\nmax = {INSTANCES}\n[[rule]]\nkind = 'latency'\np95 = '30s'\n[[rule]]\nkind = 'backlog'\n"
    );
    fs::write(settings.controller.policies.join("default.toml"), policy)?;

    let clock = Arc::new(SystemClock);
    let (backend, fleet) = (Backend::in_memory(&settings, clock.clone()), MemoryFleet::new(clock.clone()));
    let settings = Arc::new(settings);
    let store = Store::open(settings.clone()).map_err(|bad| anyhow::anyhow!("{bad:?}"))?;
    let mut controller =
        Controller::new(settings, store, backend.clone(), Arc::new(fleet.clone()), clock, Arc::default());
    let pool = PoolSpec {
        name: "default".into(),
        model: Model::DEFAULT.into(),
        max: INSTANCES,
        launch: Launch::default(),
    };
    let all: Vec<_> = fleet.list(&[pool]).await?.into_iter().map(|instance| instance.id).collect();
    ensure!(fleet.start(&all).await.is_empty(), "every instance starts");

    let requests = backend.requests(Model::DEFAULT).await?;
    let mut times = Vec::new();
    for round in 0..(200 / less).max(5) {
        requests.send(vec![Bytes::from_static(b"job"); 20]).await?;
        for instance in fleet.list(&[]).await?.into_iter().filter(|instance| instance.state == State::Running)
        {
            let report =
                report(&instance.id, instance.generation.context("a start has a generation")?, round);
            controller.reports().take(Event::Worker(report), Utc::now());
        }
        let start = Instant::now();
        controller.pass().await;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_unstable_by(f64::total_cmp);
    board.table(format!("One tick of {INSTANCES} instances, without the network"));
    board.row("median", times[times.len() / 2], "ms", Bar::AtMost(MOST_MS));
    board.row("slowest", times[times.len() - 1], "ms", Bar::None);
    Ok(())
}

fn report(instance: &str, generation: String, round: u64) -> WorkerReport {
    WorkerReport {
        v: VERSION,
        instance: instance.to_owned(),
        generation,
        model: Model::DEFAULT.to_owned(),
        version: String::new(),
        engine: "none".to_owned(),
        phase: Phase::Ready,
        in_flight: 1,
        slots: 2,
        at_once: 1,
        done: round * 10,
        idle_since: None,
        failing: None,
        service: ServiceTimes { count: 10, mean_ms: 800.0, p95_ms: 1500.0 },
        at: Utc::now(),
    }
}
