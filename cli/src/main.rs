//! `eirs`: see the library of the same package.

use std::process::ExitCode;

fn main() -> ExitCode {
    // `eirs classify` and others run scripts, too.
    eirs_worker::classify::guardian::enter();
    let code = run();
    eirs_worker::classify::guardian::end_scripts();
    code
}

/// A single thread: programs that `eirs local` starts are killed when the *thread* that started
/// them ends, which must be the main one.
#[tokio::main(flavor = "current_thread")]
async fn run() -> ExitCode {
    eirs_cli::run(std::env::args_os()).await
}
