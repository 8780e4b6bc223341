//! The program `eirs-controller`.

use std::{process::ExitCode, sync::Arc};

use clap::Parser;
#[cfg(feature = "aws")]
use eirs_controller::fleet::ec2::Ec2Fleet;
use eirs_controller::{
    Arguments,
    alerts::Sender,
    drain,
    fleet::{SharedFleet, process::ProcessFleet},
    lock,
    policy::{self, Store},
    reconcile::{Controller, PATIENCE},
    reload,
};
use eirs_platform::{
    backend::{Backend, Claim, Control, Standby},
    backoff::persist,
    clock::{SharedClock, SystemClock},
    daemon,
    lifecycle::{self, Lifecycle},
    settings::{BackendKind, Layers, Settings},
    version::watch::Versions,
};
use tokio::sync::Notify;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    run(Arguments::parse()).await.unwrap_or_else(|code| code)
}

async fn run(arguments: Arguments) -> Result<ExitCode, ExitCode> {
    if arguments.drain_processes && never_ran() {
        return Ok(ExitCode::SUCCESS);
    }
    let layers = arguments
        .daemon
        .layers()
        .flag("controller.policies", arguments.policies.as_ref().map(|path| path.display()))
        .flag("controller.instance_limit", arguments.instance_limit)
        .flag("controller.on_exit", arguments.on_exit.clone());
    let settings = Arc::new(daemon::settings(&layers)?);
    if arguments.daemon.check {
        policy::load_checked(&settings.controller.policies, &settings).map_err(daemon::bad_settings)?;
        Sender::open(&settings.controller.webhook).map_err(|why| daemon::bad_settings([why]))?;
        return Ok(daemon::checked(&layers));
    }
    if arguments.reload {
        return Ok(ask_to_reload(&settings).await);
    }
    let parent = arguments.daemon.with_parent;
    let _traces = daemon::log(&settings, "eirs-controller", &layers, parent.is_some())?;
    // Taken first, so that a second controller reports exactly this.
    let _lock = lock::take(&settings.local.state).map_err(|error| daemon::failed(&error))?;
    if arguments.drain_processes {
        return Ok(daemon::ended(drain_processes(&settings).await));
    }
    let store = Store::open(settings.clone()).map_err(daemon::bad_settings)?;
    let misfits = store.policies().complaints(store.folder(), &settings);
    if !misfits.is_empty() {
        return Err(daemon::bad_settings(misfits));
    }
    let alerts = Sender::open(&settings.controller.webhook).map_err(|why| daemon::bad_settings([why]))?;
    Ok(daemon::ended(serve(settings, store, layers, parent, alerts).await))
}

/// Makes the running controller reload, and waits until the policies on disk are in force. An
/// invalid file is a failure, although its last valid version stays in force.
async fn ask_to_reload(settings: &Settings) -> ExitCode {
    match reload::reload(settings, &SystemClock, reload::DEADLINE).await {
        Ok(complaints) if complaints.is_empty() => ExitCode::SUCCESS,
        Ok(complaints) => daemon::bad_settings(complaints),
        Err(error) => {
            daemon::say(&error);
            ExitCode::FAILURE
        }
    }
}

/// Whether systemd cleans up after a start that failed before the controller ran. If it ran,
/// systemd sets `EXIT_CODE`.
fn never_ran() -> bool {
    std::env::var_os("SERVICE_RESULT").is_some() && std::env::var_os("EXIT_CODE").is_none()
}

/// Drains the worker processes that a controller left, so that they finish their jobs before
/// systemd kills them.
async fn drain_processes(settings: &Settings) -> Result<(), Box<dyn std::error::Error>> {
    if settings.backend != BackendKind::Local {
        return Ok(());
    }
    let lifecycle = Lifecycle::install_for_loop()?;
    // Without valid policies the default drain deadline applies.
    let policies = policy::load_dir(&settings.controller.policies).unwrap_or_default();
    let (clock, poke): (SharedClock, _) = (Arc::new(SystemClock), Arc::<Notify>::default());
    let fleet = ProcessFleet::open(settings, None, clock.clone(), poke.clone())?;
    Ok(drain::all(&policies, &fleet, &clock, &poke, &lifecycle).await?)
}

async fn serve(
    settings: Arc<Settings>,
    store: Store,
    layers: Layers,
    with_parent: Option<u32>,
    alerts: Option<Sender>,
) -> Result<(), Box<dyn std::error::Error>> {
    let lifecycle = Lifecycle::install_for_loop()?;
    if let Some(parent) = with_parent {
        lifecycle::drain_with_parent(parent)?;
    }
    let clock = Arc::new(SystemClock);
    let backend = Backend::open(&settings, clock.clone()).await?;
    let claim = backend.claim(&settings, clock.clone()).map(Arc::new);
    if let Some(claim) = &claim
        && !stand_by(claim, &lifecycle).await?
    {
        return Ok(());
    }
    let poke = Arc::<Notify>::default();
    let fleet: SharedFleet = match settings.backend {
        #[cfg(feature = "aws")]
        BackendKind::Aws => Arc::new(Ec2Fleet::open(&settings, clock.clone()).await),
        #[cfg(not(feature = "aws"))]
        BackendKind::Aws => return Err("this program was built without AWS".into()),
        BackendKind::Local => {
            Arc::new(ProcessFleet::open(&settings, layers.file(), clock.clone(), poke.clone())?)
        }
    };
    let mut controller = Controller::new(settings.clone(), store, backend, fleet, clock.clone(), poke)
        .with_claim(claim)
        .with_alerts(alerts);
    if settings.backend == BackendKind::Local {
        // Hashing large model files takes a while.
        let versions =
            tokio::task::spawn_blocking(move || Versions::new(&settings, Some(layers), clock)).await?;
        controller = controller.with_versions(versions);
    }
    controller.run(&lifecycle).await?;
    Ok(())
}

/// Waits until this controller may act. Returns false if it was asked to end before. A controller
/// that stands by reports ready, so that systemd does not time out.
async fn stand_by(claim: &Claim, lifecycle: &Lifecycle) -> Result<bool, Box<dyn std::error::Error>> {
    let mut standby = Standby::default();
    let taken = persist(PATIENCE, async || claim.stand_by(&mut standby).await);
    let Some(taken) = lifecycle.drain().run_until_cancelled(taken).await else { return Ok(false) };
    let Some(mut other) = taken? else { return Ok(true) };
    lifecycle.ready(&waits_for(&other));
    tracing::info!(host = other.host, "{}", waits_for(&other));
    loop {
        lifecycle.goes_on();
        let wait = tokio::time::sleep(Claim::LOOK);
        if lifecycle.drain().run_until_cancelled(wait).await.is_none() {
            return Ok(false);
        }
        match claim.stand_by(&mut standby).await {
            Ok(None) => {
                tracing::warn!(
                    host = other.host,
                    "the controller on {} is silent; this one takes over",
                    other.host
                );
                return Ok(true);
            }
            Ok(Some(now)) if now.host != other.host => {
                lifecycle.status(&waits_for(&now));
                other = now;
            }
            Ok(Some(_)) => {}
            Err(error) => tracing::warn!(%error, "whether a controller is running is unknown"),
        }
    }
}

fn waits_for(other: &Control) -> String {
    format!("standing by: the controller of this installation runs on {}", other.host)
}
