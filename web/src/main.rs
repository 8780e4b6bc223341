//! The web server's process.

use std::{path::Path, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use chrono::Utc;
use clap::Parser;
use eirs_platform::{
    backend::Backend,
    clock::SystemClock,
    daemon,
    lifecycle::{self, Lifecycle},
    settings::{BackendKind, BadSettings, Layers, Settings},
    state_folder::{Lock, NotLocked, WEB_LOCK},
    version::watch::Versions,
};
use eirs_web::{
    Access, Admin, App, Arguments, Tls, admin_routes, keep_renewed,
    listen::{self, Limits, Server},
    routes, tls, webhook,
};
use tokio_util::sync::CancellationToken;

/// Maximum time after the last request: a poll for replies may take 20 s to end, and the runtime
/// waits 5 s for hanging file writes.
const LAST_ANSWERS: Duration = Duration::from_secs(30);

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    lifecycle::keep_memory_small();
    run(&Arguments::parse()).unwrap_or_else(|code| code)
}

fn run(arguments: &Arguments) -> Result<ExitCode, ExitCode> {
    let layers = arguments.daemon.layers().flag("web.listen", arguments.listen.as_ref());
    let settings = daemon::settings(&layers)?;
    let inputs = Inputs::new(&settings).map_err(|complaints| daemon::bad_settings([complaints]))?;
    if arguments.daemon.check {
        return Ok(daemon::checked(&layers));
    }
    let parent = arguments.daemon.with_parent;
    let _traces = daemon::log(&settings, "eirs-web", &layers, parent.is_some())?;
    let threads = match settings.web.threads {
        0 => std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2)),
        threads => threads,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    let served = runtime.context("starting the runtime").and_then(|runtime| {
        let served = runtime.block_on(serve(settings, layers, inputs, parent));
        // A file write that hangs must not keep the process.
        runtime.shutdown_timeout(Duration::from_secs(5));
        served
    });
    Ok(daemon::ended(served))
}

/// The access checks, certificate and webhook keys, from the files named in the settings.
struct Inputs {
    access: Arc<Access>,
    tls: Option<Arc<Tls>>,
    webhook: Option<webhook::Config>,
}

impl Inputs {
    /// Reads the files, or returns all errors.
    fn new(settings: &Settings) -> Result<Self, BadSettings> {
        let web = &settings.web;
        match (Access::new(web), Tls::new(&web.tls), webhook::check(&web.webhook)) {
            (Ok(access), Ok(tls), Ok(webhook)) => Ok(Self { access, tls, webhook }),
            (access, tls, webhook) => {
                Err(BadSettings([access.err(), tls.err(), webhook.err()].into_iter().flatten().collect()))
            }
        }
    }
}

/// Two web servers on one state folder would take each other's replies.
fn lock(state: &Path) -> anyhow::Result<Lock> {
    Lock::take(state, WEB_LOCK).map_err(|error| match error {
        NotLocked::Taken(taken) => anyhow::anyhow!(
            "another eirs-web runs on the state folder {}{}; stop it, or use another folder \
            (local.state)",
            state.display(),
            taken.who()
        ),
        failed => failed.into(),
    })
}

async fn serve(
    settings: Settings,
    layers: Layers,
    inputs: Inputs,
    parent: Option<u32>,
) -> anyhow::Result<()> {
    // Before anything else, so that a second web server fails with this message.
    let _lock = match settings.backend {
        BackendKind::Local => Some(lock(&settings.local.state)?),
        BackendKind::Aws => None,
    };
    let lifecycle = Lifecycle::install()?;
    if let Some(parent) = parent {
        lifecycle::drain_with_parent(parent)?;
    }
    let web = settings.web.clone();
    let files = lifecycle::raise_file_limit();
    let listener = listen::bind(web.listen)
        .await
        .with_context(|| format!("web.listen: cannot listen on {}", web.listen))?;
    let address = listen::bound(&listener, web.listen);
    let admin = Admin::bind(web.admin_listen, &web.admin_hosts).await?;
    for warning in [tls::careless(&web.tls), tls::aged(&web.tls, Utc::now())].into_iter().flatten() {
        tracing::warn!("{warning}");
    }
    let clock = Arc::new(SystemClock);
    let backend = Backend::open(&settings, clock.clone()).await?;
    let deadline = web.drain_deadline;
    let versions = {
        let (settings, clock) = (settings.clone(), clock.clone());
        // Hashing large model files takes a while.
        tokio::task::spawn_blocking(move || Versions::new(&settings, Some(layers), clock)).await?
    };
    let draining = lifecycle.drain().clone();
    let app =
        App::new(settings, &backend, clock, draining, inputs.tls.clone(), versions, inputs.webhook).await?;
    let background_stop = CancellationToken::new();
    let background = tokio::spawn(app.clone().run_background(background_stop.clone()));
    let expiring = tokio::spawn({
        let stop = background_stop.clone();
        async move { backend.expire(&stop).await }
    });

    let scheme = if inputs.tls.is_some() { "https" } else { "http" };
    let admin_address = admin.as_ref().map(|admin| admin.address().to_owned());
    if let Some(admin_address) = &admin_address {
        listen::write_address(web.admin_address_file.as_deref(), admin_address).await?;
        tracing::info!(
            address = admin_address,
            "operator address: http://{admin_address}/, with /status and /metrics"
        );
    }
    // Written last: a program that waits for this file finds the other one, too.
    listen::write_address(web.address_file.as_deref(), &address).await?;
    tracing::info!(address, "accepting uploads on {scheme}://{address}");
    // Some time after the deadline to send the last answers.
    let cut_off = deadline + Duration::from_secs(5);
    lifecycle.ready(&format!("{address}: {}", app.summary()));
    lifecycle.keep_status(cut_off + LAST_ANSWERS, {
        let (address, app) = (address.clone(), app.clone());
        move || format!("{address}: {}", app.summary())
    });

    let renewed =
        tokio::spawn(keep_renewed(app.clone(), inputs.access.clone(), inputs.tls.clone(), lifecycle.clone()));
    let admin_stop = CancellationToken::new();
    let limits = Limits::of(&web, files);
    let admin = admin.map(|admin| admin.serve(admin_routes(&app), limits.clone(), admin_stop.clone()));
    let routes = routes(&app, inputs.access);
    let counts = app.connections();
    let server =
        Server { name: "the listener for uploads", listener, tls: inputs.tls, limits, counts, routes };
    let stop_accepting = drain(app, lifecycle, deadline);
    server.run(stop_accepting, cut_off).await?;
    renewed.abort();
    background_stop.cancel();
    background.await?;
    expiring.await?;
    admin_stop.cancel();
    if let Some(admin) = admin {
        admin.await??;
    }
    tracing::info!("drained");
    Ok(())
}

/// Completes when the server must stop accepting, shortly after the drain begins, so that load
/// balancers see that it is not ready. Held requests continue; at the deadline they are answered
/// 202.
async fn drain(app: Arc<App>, lifecycle: Lifecycle, deadline: Duration) {
    lifecycle.drain().cancelled().await;
    let held = app.uploads_in_flight();
    tracing::info!(held, "draining: no new uploads; {held} uploads in flight may take {deadline:?}");
    tokio::spawn(async move {
        tokio::time::sleep(deadline).await;
        app.give_up_waiting();
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
}
