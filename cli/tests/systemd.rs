//! The shipped units: read as they are, and run by a real systemd in a throw-away machine
//! (`testing/booted-systemd`). Every test has a machine of its own; where none can be booted, it
//! says so (see `systemd/machine.rs`).

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test says what it could not run, and why it failed"
)]

#[expect(dead_code, reason = "the tests of the service without systemd use the rest of it")]
#[path = "service/harness.rs"]
mod harness;
#[path = "systemd/machine.rs"]
mod machine;

#[path = "systemd/crashes.rs"]
mod crashes;
#[path = "systemd/install.rs"]
mod install;
#[path = "systemd/operation.rs"]
mod operation;
#[path = "systemd/package.rs"]
mod package;
#[path = "systemd/sandbox.rs"]
mod sandbox;
#[path = "systemd/stops.rs"]
mod stops;
#[path = "systemd/units.rs"]
mod units;
