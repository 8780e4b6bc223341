//! The page on `/`, in a real headless Chromium, before the real executables. Without a Chromium a
//! test says that it did not run.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test says what it could not run, and why it failed"
)]

#[expect(dead_code, reason = "the tests of the service without its page use the rest of it")]
#[path = "service/harness.rs"]
mod harness;

#[path = "page/visit.rs"]
mod visit;

#[path = "page/connection.rs"]
mod connection;
#[path = "page/everybody.rs"]
mod everybody;
#[path = "page/fleet.rs"]
mod fleet;
#[path = "page/folders.rs"]
mod folders;
#[path = "page/images.rs"]
mod images;
#[path = "page/words.rs"]
mod words;
