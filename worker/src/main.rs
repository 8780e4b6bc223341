//! The worker process.

use std::{process::ExitCode, sync::Arc, time::Duration};

use clap::Parser;
use eirs_platform::{
    backend::Backend,
    clock::SystemClock,
    daemon,
    lifecycle::{self, Lifecycle},
    settings::{BackendKind, EXIT_BAD_SETTINGS, Model, Settings},
};
#[cfg(feature = "aws")]
use eirs_worker::identity::Instance;
use eirs_worker::{
    Arguments, Identity, Worker, abandoned,
    classify::{guardian, host},
    consume, replace,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The exit code if an order to drain is for another generation of the instance (`EX_TEMPFAIL` of
/// sysexits.h).
const OTHER_GENERATION: u8 = 75;

fn main() -> ExitCode {
    guardian::enter();
    lifecycle::keep_memory_small();
    start(Arguments::parse()).unwrap_or_else(|code| code)
}

fn start(arguments: Arguments) -> Result<ExitCode, ExitCode> {
    if arguments.run_scripts {
        let served = host::serve().map(|()| ExitCode::SUCCESS);
        return served.map_err(|error| daemon::failed(&format!("the socket for scripts: {error}")));
    }
    let layers = arguments.daemon.layers();
    let settings = daemon::settings(&layers)?;
    if let Some(model) = &arguments.model
        && !settings.models.contains_key(model)
    {
        return Err(daemon::bad_settings([format!("models: unknown model `{model}`")]));
    }
    if arguments.daemon.check {
        return Ok(daemon::checked(&layers));
    }
    // The controller, which passed on its environment, has reported what is wrong with it.
    let is_child = arguments.instance.is_some() || arguments.daemon.with_parent.is_some();
    let _traces = daemon::log(&settings, "eirs-worker", &layers, is_child)?;
    // One thread for all waiting; the pool's threads do the work.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| daemon::failed(&format!("starting the runtime: {error}")))?;
    let code = if let Some(generation) = &arguments.expect_generation {
        runtime.block_on(expect_generation(generation))
    } else if arguments.self_test {
        runtime.block_on(test_itself(&settings))
    } else {
        runtime.block_on(run(arguments, settings)).unwrap_or_else(|code| code)
    };
    // A classification that outlasts the drain deadline must not keep the process alive.
    runtime.shutdown_timeout(Duration::from_millis(200));
    // A script must not outlive the process.
    guardian::end_scripts();
    Ok(code)
}

/// Runs the self-test; its output is for people and for the log of setup.
#[expect(clippy::print_stdout, reason = "this is the output of --self-test")]
async fn test_itself(settings: &Settings) -> ExitCode {
    match eirs_worker::self_test(settings).await {
        Ok(sentences) => {
            sentences.iter().for_each(|sentence| println!("{sentence}"));
            ExitCode::SUCCESS
        }
        Err(error) => daemon::bad_settings([format!("{error:#}")]),
    }
}

#[cfg(feature = "aws")]
async fn expect_generation(expected: &str) -> ExitCode {
    match eirs_worker::identity::generation().await {
        Ok(generation) if generation == expected => ExitCode::SUCCESS,
        Ok(generation) => {
            daemon::say(&format!(
                "this is generation {generation} of the instance, the order is for {expected}"
            ));
            ExitCode::from(OTHER_GENERATION)
        }
        Err(error) => {
            daemon::say(&error);
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(feature = "aws"))]
async fn expect_generation(_expected: &str) -> ExitCode {
    daemon::say(&"this program was built without AWS");
    ExitCode::from(OTHER_GENERATION)
}

/// Returns the identity of this worker; `None` if it must not take jobs.
async fn identity(arguments: Arguments, settings: &Settings) -> eirs_platform::Result<Option<Identity>> {
    let own = match arguments.instance {
        Some(instance) => Some(Identity {
            instance,
            generation: arguments.generation.unwrap_or_else(|| "0".to_owned()),
            model: Model::DEFAULT.to_owned(),
            is_tried: false,
        }),
        None => own_identity(settings).await?,
    };
    Ok(own.map(|own| Identity { model: arguments.model.unwrap_or(own.model), ..own }))
}

/// Returns the identity of a worker that was started without `--instance`.
async fn own_identity(settings: &Settings) -> eirs_platform::Result<Option<Identity>> {
    match settings.backend {
        #[cfg(feature = "aws")]
        BackendKind::Aws => match eirs_worker::identity::of_instance().await? {
            Instance::HandedOver(identity) => Ok(Some(identity)),
            Instance::NotHandedOver { id } => {
                tracing::info!(
                    instance = id,
                    "{id} is not handed over to the controller, and \
                    takes no jobs"
                );
                Ok(None)
            }
        },
        #[cfg(not(feature = "aws"))]
        BackendKind::Aws => {
            Err(eirs_platform::Error::broken("backend = \"aws\"", "this program was built without it"))
        }
        BackendKind::Local => Ok(Some(Identity {
            instance: format!("worker-{}", std::process::id()),
            generation: "0".to_owned(),
            model: Model::DEFAULT.to_owned(),
            is_tried: false,
        })),
    }
}

async fn run(arguments: Arguments, settings: Settings) -> Result<ExitCode, ExitCode> {
    let lifecycle =
        Lifecycle::install().map_err(|error| daemon::failed(&format!("listening to signals: {error}")))?;
    lifecycle.at_a_second_signal(guardian::end_scripts);
    if let Some(parent) = arguments.daemon.with_parent {
        lifecycle::drain_with_parent(parent).map_err(|error| daemon::failed(&error))?;
    }
    let Some(identity) = identity(arguments, &settings).await.map_err(|error| daemon::failed(&error))? else {
        lifecycle.ready("not handed over to the controller; takes no jobs");
        return Ok(ExitCode::SUCCESS);
    };
    let clock = Arc::new(SystemClock);
    let backend = Backend::open(&settings, clock.clone()).await.map_err(|error| daemon::failed(&error))?;
    let worker = Worker::new(identity, settings, backend, clock).await.map_err(|error| {
        daemon::failed(&error);
        // A model that cannot be loaded now cannot be loaded after a restart, either.
        ExitCode::from(EXIT_BAD_SETTINGS)
    })?;
    tracing::info!(engine = worker.engine(), version = worker.version(), "taking jobs");
    lifecycle.ready(&worker.summary());
    lifecycle.keep_status(worker.longest_drain(), {
        let worker = worker.clone();
        move || worker.summary()
    });
    // These watches cancel the drain, so a finished one is the reason for the end.
    let abandoned = tokio::spawn(abandoned::watch(worker.clone(), lifecycle.drain().clone()));
    let replaced = tokio::spawn(replace::watch(worker.clone(), lifecycle.drain().clone()));
    let finished = consume::serve(worker.clone(), lifecycle.drain()).await;
    tracing::info!("{}", if finished { "drained" } else { "gave back unfinished jobs" });
    if finished {
        worker.close();
    }
    if replaced.is_finished() {
        return Ok(ExitCode::from(replace::EXIT_REPLACE));
    }
    let code = if abandoned.is_finished() { abandoned::EXIT_ABANDONED } else { 0 };
    Ok(ExitCode::from(code))
}
