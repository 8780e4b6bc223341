//! The real binaries, as in production, with an emulated AWS (`testing/aws`): queues, buckets, and
//! instances that are processes of this machine and receive commands over SSM. Each test has
//! its own account.

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
