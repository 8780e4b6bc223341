//! The subcommands. Each is a module with one type for its arguments.

pub(crate) mod backup;
pub(crate) mod bench;
pub(crate) mod check;
pub(crate) mod classify;
pub(crate) mod cleanup;
pub(crate) mod dead_letters;
pub(crate) mod host_settings;
pub(crate) mod load;
pub(crate) mod local;
pub(crate) mod manual;
pub(crate) mod model;
pub(crate) mod operator;
pub(crate) mod plan;
pub(crate) mod policy;
#[cfg(feature = "aws")]
pub(crate) mod setup;
pub(crate) mod simulate;
pub(crate) mod status;
pub(crate) mod token;
#[cfg(feature = "aws")]
pub(crate) mod update;

#[cfg(not(feature = "aws"))]
use std::ffi::OsString;

use clap::Subcommand;

use crate::{Exit, Global, Stop};

/// A subcommand with its arguments.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
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
    Load(load::Load),
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
pub(crate) struct WithoutAws {
    /// The arguments, which are ignored
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    _arguments: Vec<OsString>,
}

impl Command {
    /// Runs the subcommand.
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Stop> {
        match self {
            Self::Local(local) => local.run(global).await,
            #[cfg(feature = "aws")]
            Self::Setup(setup) => setup.run(global).await,
            #[cfg(not(feature = "aws"))]
            Self::Setup(_) => Err(Stop::without_aws("eirs setup")),
            #[cfg(feature = "aws")]
            Self::Update(update) => update.run(global).await,
            #[cfg(not(feature = "aws"))]
            Self::Update(_) => Err(Stop::without_aws("eirs update")),
            Self::HostSettings(settings) => settings.run(),
            Self::Load(load) => load.run().await,
            Self::Bench(bench) => bench.run(global).await,
            Self::Status(status) => status.run(global).await,
            Self::Plan(plan) => plan.run(global).await,
            Self::Pause(pause) => pause.run(global),
            Self::Resume(resume) => resume.run(global),
            Self::Cordon(cordon) => cordon.run(global).await,
            Self::Uncordon(uncordon) => uncordon.run(global),
            Self::Check(check) => check.run(global).await,
            Self::DeadLetters(letters) => letters.run(global).await,
            Self::Token(token) => token.run(global),
            Self::Backup(backup) => backup.run(global).await,
            Self::Cleanup(cleanup) => cleanup.run(global).await,
            Self::Classify(classify) => classify.run(global).await,
            Self::Model(model) => model.run(global),
            Self::Policy(policy) => policy.run(global),
            Self::Simulate(simulate) => simulate.run(global),
            Self::Completions(completions) => completions.run(),
            Self::Man(man) => man.run(),
        }
    }
}
