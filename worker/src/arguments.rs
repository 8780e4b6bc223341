//! What `eirs-worker` understands on its command line. Here and not beside `main`, so that `eirs man` makes its page.

use std::path::PathBuf;

use clap::Parser;

/// Takes jobs from the request queue, classifies their images and answers.
#[derive(Debug, Parser)]
#[command(name = "eirs-worker", version = eirs_platform::VERSION)]
pub struct Arguments {
    /// The settings file [default: /etc/eirs/eirs.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The state folder of the local backend
    #[arg(long, value_name = "FOLDER")]
    pub state: Option<PathBuf>,
    /// The instance this worker runs on, as the controller knows it [default: what the metadata of an EC2 instance say where
    /// backend = "aws", else worker-PID]
    #[arg(long, value_name = "ID")]
    pub instance: Option<String>,
    /// Which boot of the instance this is [default: as above, else 0]
    #[arg(long, value_name = "TEXT", requires = "instance")]
    pub generation: Option<String>,
    /// The model to serve [default: as above, else default]
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Check the settings and exit
    #[arg(long)]
    pub check: bool,
    /// Load every model, have it classify a picture, and exit
    #[arg(long, conflicts_with = "check")]
    pub self_test: bool,
    /// Exit 0 if this boot of the EC2 instance is the one of this generation, else 75: an order to drain may come too late
    #[arg(long, value_name = "TEXT", hide = true)]
    pub expect_generation: Option<String>,
}
