//! The worker's process.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::Parser;
use eirs_platform::{
    backend::Backend,
    clock::SystemClock,
    lifecycle::{self, Lifecycle},
    settings::{EXIT_BAD_SETTINGS, Layers, Model, Settings},
    telemetry,
};
use eirs_worker::{Identity, Worker, consume};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Takes jobs from the request queue, classifies their images and answers.
#[derive(Debug, Parser)]
#[command(name = "eirs-worker", version)]
struct Arguments {
    /// The settings file [default: /etc/eirs/eirs.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The state folder of the local backend
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// The instance this worker runs on, as the controller knows it [default: worker-PID]
    #[arg(long, value_name = "ID")]
    instance: Option<String>,
    /// Which boot of the instance this is
    #[arg(long, value_name = "TEXT", default_value = "0")]
    generation: String,
    /// The model to serve
    #[arg(long, value_name = "NAME", default_value = Model::DEFAULT)]
    model: String,
    /// Check the settings and exit
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    lifecycle::keep_memory_small();
    let arguments = Arguments::parse();
    let layers = Layers::of_process(arguments.config.as_deref())
        .flag("local.state", arguments.state.as_ref().map(|path| path.display()));
    let settings = match layers.load() {
        Ok(settings) => settings,
        Err(complaints) => return bad_settings(&complaints),
    };
    if !settings.models.contains_key(&arguments.model) {
        return bad_settings(&format!("models: there is none called `{}`", arguments.model));
    }
    if arguments.check {
        return ExitCode::SUCCESS;
    }
    if let Err(complaint) = telemetry::init(&settings.telemetry, "eirs-worker") {
        return bad_settings(&complaint);
    }
    let identity = Identity {
        instance: arguments.instance.unwrap_or_else(|| format!("worker-{}", std::process::id())),
        generation: arguments.generation,
        model: arguments.model,
    };
    // One thread for all the waiting; the work is done by the pool's.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("starting the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run(identity, settings));
    // A classification that outlasts the drain deadline must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(200));
    code
}

#[expect(clippy::print_stderr, reason = "logging is one of the things that the settings decide")]
fn bad_settings(complaints: &impl std::fmt::Display) -> ExitCode {
    eprintln!("{complaints}");
    ExitCode::from(EXIT_BAD_SETTINGS)
}

async fn run(identity: Identity, settings: Settings) -> ExitCode {
    let lifecycle = match Lifecycle::install() {
        Ok(lifecycle) => lifecycle,
        Err(error) => {
            tracing::error!("listening to signals: {error}");
            return ExitCode::FAILURE;
        }
    };
    let clock = Arc::new(SystemClock);
    let backend = match Backend::open(&settings, clock.clone()) {
        Ok(backend) => backend,
        Err(error) => {
            tracing::error!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let worker = match Worker::new(identity, settings, backend, clock).await {
        Ok(worker) => worker,
        // A model that cannot be loaded now cannot be loaded by a restart, either.
        Err(error) => {
            tracing::error!("{error:#}");
            return ExitCode::from(EXIT_BAD_SETTINGS);
        }
    };
    tracing::info!(engine = worker.engine(), "taking jobs");
    lifecycle.ready(&worker.summary());
    lifecycle.keep_status(worker.longest_drain(), {
        let worker = worker.clone();
        move || worker.summary()
    });
    let finished = consume::serve(worker, lifecycle.drain()).await;
    tracing::info!("{}", if finished { "drained" } else { "gave back what it could not finish" });
    ExitCode::SUCCESS
}
