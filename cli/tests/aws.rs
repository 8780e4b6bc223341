//! The real binaries, as in production, on an emulated AWS (`testing/aws`): queues, buckets,
//! instances that are processes of this machine and take their orders over SSM. Each test has an
//! account of its own.

#![cfg(feature = "aws")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test says what it could not run, and why it failed"
)]

#[expect(dead_code, reason = "the tests of the service on one machine use the rest of it")]
#[path = "service/harness.rs"]
mod harness;

#[path = "aws/cloud.rs"]
mod cloud;

#[path = "aws/bad_luck.rs"]
mod bad_luck;
#[path = "aws/figures.rs"]
mod figures;
#[path = "aws/installation.rs"]
mod installation;
#[path = "aws/machines.rs"]
mod machines;
#[path = "aws/permissions.rs"]
mod permissions;
#[path = "aws/serving.rs"]
mod serving;
#[path = "aws/stack.rs"]
mod stack;
#[path = "aws/updates.rs"]
mod updates;
