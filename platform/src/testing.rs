//! Helpers for tests of several crates.

#[cfg(feature = "aws")]
pub mod emulator;
#[cfg(feature = "aws")]
pub mod fauxqs;
#[cfg(feature = "aws")]
pub mod replay;
#[cfg(feature = "aws")]
pub mod served;

use std::{io::Write, path::PathBuf};

use chrono::Utc;

use crate::job::{Job, JobId, Outcome, Reply, VERSION};

/// The job of an image with these bytes, sent by a web host that has left.
pub fn job(content: &str) -> Job {
    Job {
        v: VERSION,
        id: JobId::of(content.as_bytes()),
        name: format!("{content}.jpg"),
        model: "default".into(),
        reply_to: "responses-gone".into(),
        sent_at: Utc::now(),
        fresh: false,
        trace: None,
    }
}

/// The reply to that job, by version 1 of the model `default`, which took a millisecond.
pub fn reply(content: &str, outcome: Outcome) -> Reply {
    Reply {
        v: VERSION,
        id: JobId::of(content.as_bytes()),
        name: format!("{content}.jpg"),
        model: "default".into(),
        version: "1".into(),
        outcome,
        worker: "default-1".into(),
        at: Utc::now(),
        sent_at: None,
        queued_ms: 1.0,
        classify_ms: 1.0,
        waited_ms: 0.0,
        trace: None,
    }
}

/// Reports that this test could not run and how it could: on stderr, and in the file that `make
/// test` shows at its end. Panics if `$TESTING_ALL` is set.
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

/// Returns the Python with the packages for tests: `$TESTING_PYTHON`, or the one that `make test`
/// creates.
pub fn python() -> Option<PathBuf> {
    let usual = || Some(cache()?.join("test-python/bin/python"));
    std::env::var_os("TESTING_PYTHON").map(PathBuf::from).or_else(usual).filter(|python| python.exists())
}

/// Returns Prometheus's tool that checks rules and metrics: an installed one, or the one that `make
/// test` fetches.
pub fn promtool() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path).map(|folder| folder.join("promtool"));
    let fetched = cache().map(|cache| cache.join("promtool"));
    installed.chain(fetched).find(|program| program.is_file())
}

/// Returns the folder for what `make test` fetches.
fn cache() -> Option<PathBuf> {
    let usual = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
    let folder = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(usual)?;
    Some(folder.join("eirs"))
}
