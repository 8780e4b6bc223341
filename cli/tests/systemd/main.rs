//! The shipped units: read as they are, and run by a real systemd in a throw-away machine
//! (`testing/booted-systemd`). Every test has a machine of its own; where none can be booted, it
//! says so (see `systemd/machine.rs`).

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
