//! What `eirs-web` understands on its command line. Here and not beside `main`, so that `eirs man`
//! makes its page.

use std::path::PathBuf;

use clap::Parser;

/// Accepts images over HTTP and returns their labels.
#[derive(Debug, Parser)]
#[command(name = "eirs-web", version = eirs_platform::VERSION)]
pub struct Arguments {
    /// The settings file [default: /etc/eirs/eirs.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// The state folder of the local backend
    #[arg(long, value_name = "FOLDER")]
    pub state: Option<PathBuf>,
    /// Drain when the process with this id, which started this one, dies
    #[arg(long, value_name = "PID", hide = true)]
    pub with_parent: Option<u32>,
    /// Check the settings and exit
    #[arg(long)]
    pub check: bool,
}
