//! The controller's process.

use std::{io::Write, path::PathBuf, process::ExitCode, sync::Arc};

use clap::Parser;
#[cfg(feature = "aws")]
use eirs_controller::fleet::ec2::Ec2Fleet;
use eirs_controller::{
    Arguments, drain,
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
    lifecycle::{self, Lifecycle},
    settings::{BackendKind, EXIT_BAD_SETTINGS, Layers, Settings},
    telemetry,
    version::watch::Versions,
};
use tokio::sync::Notify;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.drain_processes && never_ran() {
        return ExitCode::SUCCESS;
    }
    let shown = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let layers = Layers::of_process(arguments.config.as_deref())
        .flag("local.state", shown(&arguments.state))
        .flag("controller.policies", shown(&arguments.policies))
        .flag("controller.instance_limit", arguments.instance_limit)
        .flag("controller.on_exit", arguments.on_exit.clone());
    let settings = match layers.load() {
        Ok(settings) => Arc::new(settings),
        Err(complaints) => return bad_settings(&[complaints]),
    };
    if arguments.check {
        layers.strays().iter().for_each(say);
        return check(&settings);
    }
    if arguments.reload {
        return ask_to_reload(&settings).await;
    }
    let _traces = match telemetry::init(&settings.telemetry, "eirs-controller") {
        Ok(traces) => traces,
        Err(complaint) => return bad_settings(&[complaint]),
    };
    // The parent has said it.
    if arguments.with_parent.is_none() {
        layers.strays().iter().for_each(|stray| tracing::warn!("{stray}"));
    }
    // First of all, so that a second controller says just that.
    let _lock = match lock::take(&settings.local.state) {
        Ok(lock) => lock,
        Err(error) => {
            say(&error);
            return ExitCode::FAILURE;
        }
    };
    if arguments.drain_processes {
        return ended(drain_processes(&settings).await);
    }
    let store = match Store::open(settings.clone()) {
        Ok(store) => store,
        Err(complaints) => return bad_settings(&complaints),
    };
    let misfits = store.policies().complaints(store.folder(), &settings);
    if !misfits.is_empty() {
        return bad_settings(&misfits);
    }
    ended(serve(settings, store, layers, arguments.with_parent).await)
}

fn ended(how: Result<(), Box<dyn std::error::Error>>) -> ExitCode {
    match how {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error);
            ExitCode::FAILURE
        }
    }
}

/// The same validation as at a start, and nothing else: a running controller does not notice.
fn check(settings: &Settings) -> ExitCode {
    let folder = &settings.controller.policies;
    let complaints = match policy::load_dir(folder) {
        Ok(policies) => policies.complaints(folder, settings),
        Err(complaints) => complaints,
    };
    if complaints.is_empty() { ExitCode::SUCCESS } else { bad_settings(&complaints) }
}

/// Ends when the policies are in force as they are on disk; a file that is wrong is a failure,
/// although the last good one stays.
async fn ask_to_reload(settings: &Settings) -> ExitCode {
    match reload::reload(settings, &SystemClock, reload::DEADLINE).await {
        Ok(complaints) if complaints.is_empty() => ExitCode::SUCCESS,
        Ok(complaints) => bad_settings(&complaints),
        Err(error) => {
            say(&error);
            ExitCode::FAILURE
        }
    }
}

/// Whether systemd cleans up behind a start that failed before the controller ran: it reports how
/// that one ended, if it ran.
fn never_ran() -> bool {
    std::env::var_os("SERVICE_RESULT").is_some() && std::env::var_os("EXIT_CODE").is_none()
}

/// What systemd would otherwise kill with the controller's unit finishes its work first, however
/// the controller ended.
async fn drain_processes(settings: &Settings) -> Result<(), Box<dyn std::error::Error>> {
    if settings.backend != BackendKind::Local {
        return Ok(());
    }
    let lifecycle = Lifecycle::install_for_loop()?;
    // Policies that are bad now have nobody drained at another time than usual.
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
    let mut controller =
        Controller::new(settings.clone(), store, backend, fleet, clock.clone(), poke).with_claim(claim);
    if settings.backend == BackendKind::Local {
        // Large model files take a while to hash.
        let versions =
            tokio::task::spawn_blocking(move || Versions::new(&settings, Some(layers), clock)).await?;
        controller = controller.with_versions(versions);
    }
    controller.run(&lifecycle).await?;
    Ok(())
}

/// Waits until this is the controller that acts; returns whether it is, and was not asked to end.
/// One that stands by is ready, for it does all that it is for.
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

fn bad_settings(complaints: &[impl ToString]) -> ExitCode {
    complaints.iter().for_each(|complaint| say(&complaint.to_string()));
    ExitCode::from(EXIT_BAD_SETTINGS)
}

/// Notifies the parent process. A closed stderr is nobody, and that is fine.
fn say(sentence: &impl ToString) {
    let _nobody = writeln!(std::io::stderr(), "{}", sentence.to_string());
}
