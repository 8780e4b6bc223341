//! The shipped units, parsed, and run by a real systemd on a temporary machine
//! (`testing/booted-systemd`). Every test has its own machine; if none can be booted, it says so
//! (see `systemd/machine.rs`).

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test says what it could not run, and why it failed"
)]

mod machine;

mod crashes;
mod install;
mod operation;
mod package;
mod sandbox;
mod scripts;
mod stops;
mod units;
