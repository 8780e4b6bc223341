//! The command line of `eirs-controller`. It is part of the library so that `eirs man` can use it.

use std::path::PathBuf;

use clap::Parser;
use eirs_platform::daemon::Flags;

/// Starts, drains and stops the workers of EIRS by its policies.
///
/// SIGHUP reloads the policies, and so does a change of their files. SIGTERM stops the controller,
/// and with `--on-exit drain` also the workers.
#[derive(Debug, Parser)]
#[command(name = "eirs-controller", version = eirs_platform::VERSION)]
#[command(mut_arg("check", |check| check.help("Check the settings and the policies, and exit")))]
pub struct Arguments {
    /// The flags that every daemon has.
    #[command(flatten)]
    pub daemon: Flags,
    /// The folder of the policy files (controller.policies).
    #[arg(long, value_name = "FOLDER")]
    pub policies: Option<PathBuf>,
    /// Maximum instances of all pools together, 0 for no limit (controller.instance_limit).
    #[arg(long, value_name = "N")]
    pub instance_limit: Option<u32>,
    /// What happens to the workers when the controller stops: leave or drain (controller.on_exit).
    #[arg(long, value_name = "WHAT")]
    pub on_exit: Option<String>,
    /// Make the running controller reload its policies, and exit when they are in force.
    #[arg(long, conflicts_with = "check")]
    pub reload: bool,
    /// Drain the worker processes that a controller left on this machine, and exit. Instances in a
    /// cloud are not touched.
    #[arg(long, conflicts_with_all = ["check", "reload"])]
    pub drain_processes: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_help_of_check_names_the_policies() {
        let help = Arguments::command().render_long_help().to_string();
        assert!(help.contains("Check the settings and the policies"), "{help}");
    }
}
