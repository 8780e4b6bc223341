//! The command line of `eirs-worker`. It is part of the library, so that `eirs man` can write its
//! manual page.

use clap::Parser;
use eirs_platform::daemon::Flags;

/// Takes jobs from the request queue, classifies their images and replies.
#[derive(Debug, Parser)]
#[command(name = "eirs-worker", version = eirs_platform::VERSION)]
pub struct Arguments {
    /// The flags of every daemon.
    #[command(flatten)]
    pub daemon: Flags,
    /// The instance that this worker is, as the controller knows it [default: the metadata of the
    /// EC2 instance with backend = "aws", else worker-PID]
    #[arg(long, value_name = "ID")]
    pub instance: Option<String>,
    /// The generation (boot) of the instance [default: as above, else 0]
    #[arg(long, value_name = "TEXT", requires = "instance")]
    pub generation: Option<String>,
    /// The model to serve [default: as above, else default]
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Load every model, classify an image with it, and exit
    #[arg(long, conflicts_with = "check")]
    pub self_test: bool,
    /// Run scripts for a worker that is another user (eirs-script.service); the socket is standard
    /// input
    #[arg(long, conflicts_with_all = ["check", "self_test"])]
    pub run_scripts: bool,
    /// Exit 0 if this boot of the EC2 instance has this generation, else 75: an order to drain may
    /// be late
    #[arg(long, value_name = "TEXT", hide = true)]
    pub expect_generation: Option<String>,
}
