//! `eirs man` and `eirs completions`: generates manual pages and shell completions from the
//! definition of the command line.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::{Shell, generate};
use clap_mangen::Man;

use crate::{Cli, Exit, Stop, show};

/// Print the completion script for a shell
///
/// `make install` and the package install it for bash, zsh and fish.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  source <(eirs completions bash)\n  \
                        eirs completions fish > ~/.config/fish/completions/eirs.fish")]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Print the manual page, or write all manual pages into a folder
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  eirs man | man -l -\n  eirs man ~/.local/share/man/man1")]
pub(crate) struct ManCommand {
    /// The folder for all pages; created if it does not exist
    #[arg(value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

impl Completions {
    pub(crate) fn run(self) -> Result<Exit, Stop> {
        let mut script = Vec::new();
        generate(self.shell, &mut Cli::command(), "eirs", &mut script);
        give(&script)
    }
}

impl ManCommand {
    pub(crate) fn run(self) -> Result<Exit, Stop> {
        let pages = pages();
        let Some(folder) = self.folder else {
            let (_, page) = pages.into_iter().next().expect("the first page is the one of `eirs`");
            return give(&page);
        };
        write_pages(&folder, &pages)?;
        show::aside(format_args!("{} in {}", show::count(pages.len() as u64, "page"), folder.display()));
        Ok(Exit::Ok)
    }
}

/// Writes bytes that are not a line to stdout. A closed pipe is not a failure.
fn give(bytes: &[u8]) -> Result<Exit, Stop> {
    let written = io::stdout().write_all(bytes);
    match written.map_err(|error| (error.kind(), error)) {
        Ok(()) | Err((io::ErrorKind::BrokenPipe, _)) => Ok(Exit::Ok),
        Err((_, error)) => Err(anyhow::Error::new(error).context("stdout cannot be written").into()),
    }
}

fn write_pages(folder: &Path, pages: &[(String, Vec<u8>)]) -> anyhow::Result<()> {
    let shown = folder.display();
    fs::create_dir_all(folder).with_context(|| format!("{shown}: cannot be created"))?;
    for (name, page) in pages {
        fs::write(folder.join(name), page).with_context(|| format!("{shown}/{name}: cannot be written"))?;
    }
    Ok(())
}

/// Returns the pages with their file names: `eirs` first, then its subcommands, then the daemons.
fn pages() -> Vec<(String, Vec<u8>)> {
    let mut eirs = Cli::command().disable_help_subcommand(true);
    eirs.build();
    let mut commands = vec![eirs.display_name("eirs")];
    let mut looked_at = 0;
    while let Some(command) = commands.get(looked_at) {
        let inner: Vec<_> = command.get_subcommands().filter(|one| !one.is_hide_set()).cloned().collect();
        commands.extend(inner);
        looked_at += 1;
    }
    commands.extend([
        eirs_web::Arguments::command(),
        eirs_controller::Arguments::command(),
        eirs_worker::Arguments::command(),
    ]);
    commands.into_iter().map(page).collect()
}

fn page(command: clap::Command) -> (String, Vec<u8>) {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let version = format!("eirs {}", eirs_platform::VERSION);
    let man = Man::new(command).title(name.clone()).source(version).manual("EIRS");
    let mut page = Vec::new();
    man.render(&mut page).expect("memory can be written");
    (format!("{name}.1"), page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subcommand_and_program_has_a_page_with_its_flags() {
        let pages = pages();
        let page = |name: &str| {
            let found = pages.iter().find(|(file, _)| file == name);
            let (_, text) = found.unwrap_or_else(|| {
                panic!("{name}: {:?}", pages.iter().map(|(file, _)| file).collect::<Vec<_>>())
            });
            // In a manual page, a minus is written as an escape.
            String::from_utf8(text.clone()).unwrap().replace("\\-", "-")
        };
        for (name, words) in [
            ("eirs.1", ["eirs-dead-letters(1)", "Exit codes"]),
            ("eirs-load.1", ["--num-request", "Examples"]),
            ("eirs-dead-letters-redrive.1", ["--all", "Examples"]),
            ("eirs-web.1", ["--listen", "SYNOPSIS"]),
            ("eirs-controller.1", ["--drain-processes", "SIGHUP"]),
            ("eirs-worker.1", ["--self-test", "SYNOPSIS"]),
        ] {
            let text = page(name);
            words.iter().for_each(|word| assert!(text.contains(word), "{name}: {word}: {text}"));
        }
        assert_eq!(pages[0].0, "eirs.1");
        let mut names: Vec<_> = pages.iter().map(|(name, _)| name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), pages.len(), "no page overwrites another");
    }

    #[test]
    fn the_pages_are_written_into_a_new_folder() {
        let folder = tempfile::tempdir().unwrap();
        let deeper = folder.path().join("share/man/man1");
        ManCommand { folder: Some(deeper.clone()) }.run().unwrap();
        let written = fs::read_dir(&deeper).unwrap().count();
        assert_eq!(written, pages().len());
        let taken = ManCommand { folder: Some(deeper.join("eirs.1")) }.run();
        assert!(matches!(taken, Err(Stop::Failed(_))), "{taken:?}");
    }

    #[test]
    fn every_shell_completes_every_subcommand() {
        use clap::ValueEnum;
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            generate(*shell, &mut Cli::command(), "eirs", &mut script);
            let script = String::from_utf8(script).unwrap();
            for word in ["dead-letters", "redrive", "num-request"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
