//! The page on `/`, in a real headless Chromium, before the real executables. Without a Chromium a
//! test says that it did not run.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test says what it could not run, and why it failed"
)]

mod visit;

mod connection;
mod everybody;
mod fleet;
mod folders;
mod images;
mod words;
