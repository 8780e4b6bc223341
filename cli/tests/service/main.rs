//! The real binaries with the local backend: bad input and bad luck. Each test has its own state
//! folder, web server and workers.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test says what it could not run, and why it failed"
)]

mod access;
mod admin;
mod api;
mod authority;
mod backup;
mod bad_input;
mod bad_start;
mod clients;
mod damage;
mod dead_letters;
mod drains;
mod full_disk;
mod kills;
mod load;
mod local;
mod logs;
mod luck;
mod manners;
mod metrics;
mod operator;
mod pools;
mod prometheus;
mod protocol;
mod refusals;
mod retention;
mod scripts;
mod tls;
mod traces;
mod uploads;
mod versions;
mod webhook;
