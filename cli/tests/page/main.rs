//! The page on `/`, in a real headless Chromium, served by the real executables. Without Chromium,
//! a test reports that it did not run.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test says what it could not run, and why it failed"
)]

mod visit;

mod accessibility;
mod connection;
mod fleet;
mod folders;
mod images;
mod words;
