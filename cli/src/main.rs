//! `eirs`: see the library of the same package.

use std::process::ExitCode;

fn main() -> ExitCode {
    // `eirs classify` and others run scripts, too.
    eirs_worker::classify::guardian::enter();
    let code = run();
    eirs_worker::classify::guardian::end_scripts();
    code
}

/// One thread: what `eirs local` starts dies with the *thread* that started it, and that must be
/// the main one.
#[tokio::main(flavor = "current_thread")]
async fn run() -> ExitCode {
    eirs_cli::run(std::env::args_os()).await
}
