//! What `eirs-controller` understands on its command line. Here and not beside `main`, so that `eirs man` makes its page.

use std::path::PathBuf;

use clap::Parser;

/// Starts, drains and stops the workers of an EIRS installation, as its policies say.
///
/// SIGHUP reloads the policies; so does any change of their files. SIGTERM stops the controller, and the workers too
/// with `--on-exit drain`.
#[derive(Debug, Parser)]
#[command(name = "eirs-controller", version = eirs_platform::VERSION)]
pub struct Arguments {
    /// The settings file; by default $EIRS_CONFIG, or else /etc/eirs/eirs.toml if there is one.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The state folder (local.state).
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// The folder of the policy files (controller.policies).
    #[arg(long, value_name = "DIR")]
    pub policies: Option<PathBuf>,
    /// A cap on the instances of all pools together, 0 for none (controller.instance_limit).
    #[arg(long, value_name = "N")]
    pub instance_limit: Option<u32>,
    /// What becomes of the workers when the controller stops: leave or drain (controller.on_exit).
    #[arg(long, value_name = "WHAT")]
    pub on_exit: Option<String>,
    /// Drain when this process, which must be the parent, is gone.
    #[arg(long, value_name = "PID", hide = true)]
    pub with_parent: Option<u32>,
    /// Check the settings and the policies, and exit.
    #[arg(long)]
    pub check: bool,
    /// Have the controller that runs read its policies anew, and exit when they are in force.
    #[arg(long, conflicts_with = "check")]
    pub reload: bool,
    /// Drain the workers that a controller left as processes of this machine, and exit. Instances of a cloud are not touched.
    #[arg(long, conflicts_with_all = ["check", "reload"])]
    pub drain_processes: bool,
}
