//! What `eirs-web` understands on its command line. Here and not beside `main`, so that `eirs man`
//! makes its page.

use clap::Parser;
use eirs_platform::daemon::Flags;

/// Accepts images over HTTP and returns their labels.
#[derive(Debug, Parser)]
#[command(name = "eirs-web", version = eirs_platform::VERSION)]
pub struct Arguments {
    /// The flags that every daemon has.
    #[command(flatten)]
    pub daemon: Flags,
    /// The address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
}
