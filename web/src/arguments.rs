//! The command line of `eirs-web`. In the library, so that `eirs man` can generate the manual page.

use clap::Parser;
use eirs_platform::daemon::Flags;

/// Accepts images over HTTP and returns their labels.
#[derive(Debug, Parser)]
#[command(name = "eirs-web", version = eirs_platform::VERSION)]
pub struct Arguments {
    /// The flags of every daemon.
    #[command(flatten)]
    pub daemon: Flags,
    /// The address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
}
