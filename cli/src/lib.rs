//! `eirs`, the command line of the Elastic Image Recognition Service: starts it on one machine,
//! loads it, looks at it, and tidies up. Each subcommand is a module; what they share is [`http`],
//! [`show`] and [`state`].

mod local;

pub mod browser;
pub mod load;

mod backup;
mod bench;
mod check;
mod classify;
mod cleanup;
mod dead_letters;
mod host_settings;
mod manual;
mod model;
mod operator;
mod plan;
mod policy;
#[cfg(feature = "aws")]
mod setup;
mod simulate;
mod token;
#[cfg(feature = "aws")]
mod update;

#[cfg(feature = "aws")]
mod aws;
mod http;
mod show;
mod state;
mod status;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use eirs_platform::settings::{BadSettings, EXIT_BAD_SETTINGS, Layers, Model, Settings};

pub use http::Url;

/// Elastic Image Recognition Service: upload an image, get its label
#[derive(Debug, Parser)]
#[command(
    name = "eirs",
    version = eirs_platform::VERSION,
    max_term_width = 110,
    after_help = "Start with `eirs local`, then in another terminal:\n  curl -F myfile=@photo.jpg http://127.0.0.1:8000/upload\n\n\
                  Exit codes: 0 done, 1 failed, 2 wrong usage, 78 bad configuration."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every subcommand understands.
#[derive(Debug, clap::Args)]
struct Global {
    /// The settings file [default: $EIRS_CONFIG, or /etc/eirs/eirs.toml if it exists]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Options of every command")]
    config: Option<PathBuf>,
    /// The state folder: local queue, images and results [default: .eirs]
    #[arg(long, global = true, value_name = "FOLDER", help_heading = "Options of every command")]
    state: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Local(local::Local),
    #[cfg(feature = "aws")]
    Setup(setup::Setup),
    #[cfg(not(feature = "aws"))]
    Setup(WithoutAws),
    #[cfg(feature = "aws")]
    Update(update::UpdateCommand),
    #[cfg(not(feature = "aws"))]
    Update(WithoutAws),
    #[command(hide = true)]
    HostSettings(host_settings::HostSettings),
    Load(load::command::Load),
    Bench(bench::BenchCommand),
    Status(status::command::StatusCommand),
    Plan(plan::PlanCommand),
    Pause(operator::Pause),
    Resume(operator::Resume),
    Cordon(operator::CordonCommand),
    Uncordon(operator::Uncordon),
    Check(check::Check),
    #[command(subcommand)]
    DeadLetters(dead_letters::DeadLettersCommand),
    #[command(subcommand)]
    Token(token::TokenCommand),
    Backup(backup::Backup),
    Cleanup(cleanup::Cleanup),
    Classify(classify::Classify),
    #[command(subcommand)]
    Model(model::ModelCommand),
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    Simulate(simulate::Simulate),
    Completions(manual::Completions),
    #[command(name = "man")]
    Man(manual::ManCommand),
}

/// Not in this build, which is without AWS
#[cfg(not(feature = "aws"))]
#[derive(Debug, clap::Args)]
#[command(hide = true, disable_help_flag = true)]
struct WithoutAws {
    /// The arguments, which are ignored
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    _arguments: Vec<OsString>,
}

impl Global {
    /// The layers of settings, with what the flags say.
    fn layers(&self) -> Layers {
        let state = self.state.as_ref().map(|path| path.display());
        let layers = Layers::of_process(self.config.as_deref()).flag("local.state", state);
        layers.strays().iter().for_each(show::aside);
        layers
    }

    /// The settings.
    fn settings(&self) -> Result<Settings, Stop> {
        Ok(self.layers().load()?)
    }

    /// A model of the settings.
    fn model<'a>(&self, settings: &'a Settings, name: &str) -> Result<&'a Model, Stop> {
        let known = || settings.models.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let model = settings.models.get(name);
        model.ok_or_else(|| Stop::Usage(format!("unknown model `{name}`; the settings have {}", known())))
    }
}

/// How a subcommand ended that did what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    /// All is well.
    Ok,
    /// It was done, and something is not as it should be; that was shown.
    Failed,
    /// What was checked is a bad configuration; that was shown.
    BadSettings,
}

/// Why a subcommand stopped, in sentences.
#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    BadSettings(#[from] BadSettings),
}

#[cfg(not(feature = "aws"))]
impl Stop {
    /// Somebody wants what this program was built without.
    fn without_aws(what: &str) -> Self {
        Self::Failed(anyhow::anyhow!(
            "{what}: this program was built without AWS; `cargo build --release` builds it with AWS"
        ))
    }
}

impl From<eirs_platform::Error> for Stop {
    fn from(error: eirs_platform::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// Runs the command line, and returns the exit code.
pub async fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        // Help and version are asked for, and are no mistake.
        Err(answer) => {
            let _reader_gone = answer.print();
            return u8::try_from(answer.exit_code()).unwrap_or(2).into();
        }
    };
    let end = match cli.command {
        Command::Local(local) => local.run(&cli.global).await,
        #[cfg(feature = "aws")]
        Command::Setup(setup) => setup.run(&cli.global).await,
        #[cfg(not(feature = "aws"))]
        Command::Setup(_) => Err(Stop::without_aws("eirs setup")),
        #[cfg(feature = "aws")]
        Command::Update(update) => update.run(&cli.global).await,
        #[cfg(not(feature = "aws"))]
        Command::Update(_) => Err(Stop::without_aws("eirs update")),
        Command::HostSettings(settings) => settings.run(),
        Command::Load(load) => load.run().await,
        Command::Bench(bench) => bench.run(&cli.global).await,
        Command::Status(status) => status.run(&cli.global).await,
        Command::Plan(plan) => plan.run(&cli.global).await,
        Command::Pause(pause) => pause.run(&cli.global),
        Command::Resume(resume) => resume.run(&cli.global),
        Command::Cordon(cordon) => cordon.run(&cli.global).await,
        Command::Uncordon(uncordon) => uncordon.run(&cli.global),
        Command::Check(check) => check.run(&cli.global).await,
        Command::DeadLetters(letters) => letters.run(&cli.global).await,
        Command::Token(token) => token.run(&cli.global),
        Command::Backup(backup) => backup.run(&cli.global).await,
        Command::Cleanup(cleanup) => cleanup.run(&cli.global).await,
        Command::Classify(classify) => classify.run(&cli.global).await,
        Command::Model(model) => model.run(&cli.global),
        Command::Policy(policy) => policy.run(&cli.global),
        Command::Simulate(simulate) => simulate.run(&cli.global),
        Command::Completions(completions) => completions.run(),
        Command::Man(man) => man.run(),
    };
    match end {
        Ok(Exit::Ok) => 0.into(),
        Ok(Exit::Failed) => 1.into(),
        Ok(Exit::BadSettings) => EXIT_BAD_SETTINGS.into(),
        Err(stop) => {
            show::aside(&stop);
            match stop {
                Stop::Failed(_) => 1.into(),
                Stop::Usage(_) => 2.into(),
                Stop::BadSettings(_) => EXIT_BAD_SETTINGS.into(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    // Without `aws` there is no `setup`.
    #[cfg(feature = "aws")]
    #[test]
    fn the_help_is_what_it_was() {
        let help = Cli::command().term_width(110).render_help().to_string();
        insta::assert_snapshot!(help);
    }

    /// All subcommands that do something themselves, each with its whole name.
    fn leaves() -> Vec<(String, clap::Command)> {
        let mut command = Cli::command();
        command.build();
        let (mut waiting, mut leaves) = (vec![(String::new(), command)], Vec::new());
        while let Some((name, command)) = waiting.pop() {
            let is_shown = |one: &&clap::Command| one.get_name() != "help" && !one.is_hide_set();
            let inner: Vec<_> = command.get_subcommands().filter(is_shown).collect();
            for one in &inner {
                waiting.push((format!("{name} {}", one.get_name()).trim().to_owned(), (*one).clone()));
            }
            if inner.is_empty() {
                leaves.push((name, command));
            }
        }
        leaves
    }

    #[test]
    fn every_subcommand_has_an_example_and_no_definition_contradicts_itself() {
        Cli::command().debug_assert();
        for (name, command) in leaves() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "{name}");
        }
    }

    #[test]
    fn every_subcommand_that_tells_something_tells_it_as_json_too() {
        // A service that runs has its log and `eirs status`; the other two print what is for
        // programs anyway.
        let others = ["local", "completions", "man"];
        for (name, command) in leaves() {
            let has_json = command.get_arguments().any(|argument| argument.get_long() == Some("json"));
            assert_eq!(has_json, !others.contains(&name.as_str()), "{name}");
        }
    }

    #[cfg(not(feature = "aws"))]
    #[tokio::test]
    async fn setup_and_update_in_a_build_without_aws_are_known_and_say_that() {
        let cli = Cli::try_parse_from(["eirs", "setup", "--web-host", "this", "--plan", "-h"]).unwrap();
        assert!(matches!(cli.command, Command::Setup(_)));
        let cli = Cli::try_parse_from(["eirs", "update", "--status"]).unwrap();
        assert!(matches!(cli.command, Command::Update(_)));
        let said = Stop::without_aws("eirs setup").to_string();
        assert_eq!(
            said,
            "eirs setup: this program was built without AWS; `cargo build --release` builds it with AWS"
        );
    }

    #[test]
    fn the_version_says_which_build_this_is() {
        let version = Cli::command().render_version();
        let with = if cfg!(feature = "aws") { "with AWS" } else { "without AWS" };
        assert_eq!(version, format!("eirs {} ({with})\n", env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn flags_may_be_written_with_underscores() {
        let arguments = [
            "eirs",
            "load",
            "--num_request",
            "3",
            "--url",
            "http://localhost:8000",
            "--image_folder",
            "photos",
        ];
        assert!(Cli::try_parse_from(arguments).is_ok());
    }
}
