//! `eirs`, the command line of the Elastic Image Recognition Service: starts it on one machine,
//! generates load, inspects it, and cleans up. Its subcommands are [`commands`]; they share
//! [`show`] and [`state`].

pub mod browser;

#[cfg(feature = "aws")]
mod aws;
mod bearer;
mod commands;
mod exit;
mod global;
mod show;
mod state;

use std::{ffi::OsString, process::ExitCode};

use clap::Parser;

use self::commands::Command;
pub(crate) use self::{
    exit::{Exit, Stop},
    global::Global,
};

/// Elastic Image Recognition Service: upload an image, get its label
#[derive(Debug, Parser)]
#[command(
    name = "eirs",
    version = eirs_platform::VERSION,
    max_term_width = 110,
    after_help = "Start with `eirs local`, then in another terminal:\n  \
                  curl -F myfile=@photo.jpg http://127.0.0.1:8000/upload\n\n\
                  Exit codes: 0 done, 1 failed, 2 wrong usage, 78 wrong settings or policies."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Runs the command line and returns the exit code.
pub async fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        // Help and version are printed on request, and are not errors.
        Err(answer) => {
            let _reader_gone = answer.print();
            return u8::try_from(answer.exit_code()).unwrap_or(2).into();
        }
    };
    exit::code(cli.command.run(&cli.global).await)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    // Without `aws` there is no `setup`.
    #[cfg(feature = "aws")]
    #[test]
    fn the_help_matches_the_snapshot() {
        let help = Cli::command().term_width(110).render_help().to_string();
        insta::assert_snapshot!(help);
    }

    /// All subcommands without subcommands of their own, with their full names.
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
    fn every_subcommand_with_output_has_json() {
        // A running service has its log and `eirs status`; the other two print output for programs
        // anyway.
        let others = ["local", "completions", "man"];
        for (name, command) in leaves() {
            let has_json = command.get_arguments().any(|argument| argument.get_long() == Some("json"));
            assert_eq!(has_json, !others.contains(&name.as_str()), "{name}");
        }
    }

    #[cfg(not(feature = "aws"))]
    #[tokio::test]
    async fn setup_and_update_without_aws_say_that_the_build_has_none() {
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
