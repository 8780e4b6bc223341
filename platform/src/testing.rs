//! What tests of several crates stand on.

#[cfg(feature = "aws")]
pub mod emulator;
#[cfg(feature = "aws")]
pub mod replay;

use std::{io::Write, path::PathBuf};

/// Notes that this test could not run, and how it could: on stderr, and in the file that `make test` shows at its end.
/// Where `$TESTING_ALL` is set everything must run, and it fails.
#[expect(clippy::print_stderr, reason = "a test says what it could not run")]
pub fn not_run(why: &str, how: &str) {
    let thread = std::thread::current();
    let line = format!("not run: {} ({why}); to run it: {how}", thread.name().unwrap_or("a test"));
    assert!(std::env::var_os("TESTING_ALL").is_none(), "{line}");
    eprintln!("{line}");
    if let Some(file) = std::env::var_os("TESTING_SKIPPED") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(file);
        let _reader_gone = file.and_then(|mut file| writeln!(file, "{line}"));
    }
}

/// The Python that has what tests need of it: `$TESTING_PYTHON`, or the one that `make test` makes.
pub fn python() -> Option<PathBuf> {
    let cache = || {
        let home = std::env::var_os("HOME").map(PathBuf::from)?;
        Some(std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from))
    };
    let usual = || Some(cache()?.join("eirs/test-python/bin/python"));
    std::env::var_os("TESTING_PYTHON").map(PathBuf::from).or_else(usual).filter(|python| python.exists())
}
