//! The real binaries, as in production, on an emulated AWS (`testing/aws`): queues, buckets,
//! instances that are processes of this machine and take their orders over SSM. Each test has an
//! account of its own.

#![cfg(feature = "aws")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test says what it could not run, and why it failed"
)]

mod cloud;

mod bad_luck;
mod choices;
mod figures;
mod installation;
mod machines;
mod permissions;
mod serving;
mod stack;
mod updates;
