//! `eirs`: see the library of the same package.

use std::process::ExitCode;

/// One thread: what `eirs local` starts dies with the *thread* that started it, and that must be the main one.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    eirs_cli::run(std::env::args_os()).await
}
