//! What tests of several crates stand on.

#[cfg(feature = "aws")]
pub mod emulator;

use std::io::Write;

/// A test could not run here. It says so in one line, with the command that would run it: on stderr, and in the file that
/// `make test` shows at its end. Where everything must run, that is a failure.
#[expect(clippy::print_stderr, reason = "a test says what it could not run")]
pub fn not_run(what: &str, why: &str, command: &str) {
    let line = format!("not run: {what} ({why}); to run it: {command}");
    assert!(std::env::var_os("TESTING_ALL").is_none(), "{line}");
    eprintln!("{line}");
    if let Some(file) = std::env::var_os("TESTING_SKIPPED") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(file);
        let _reader_gone = file.and_then(|mut file| writeln!(file, "{line}"));
    }
}
