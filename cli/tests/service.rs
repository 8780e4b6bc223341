//! The real binaries on the local backend: what bad input and bad luck get. Each test has a state folder, a web server and
//! workers of its own.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test says what it could not run, and why it failed"
)]

#[expect(dead_code, reason = "the tests on AWS use the rest of it")]
#[path = "service/harness.rs"]
mod harness;

#[path = "service/access.rs"]
mod access;
#[path = "service/admin.rs"]
mod admin;
#[path = "service/api.rs"]
mod api;
#[path = "service/authority.rs"]
mod authority;
#[path = "service/backup.rs"]
mod backup;
#[path = "service/bad_input.rs"]
mod bad_input;
#[path = "service/bad_start.rs"]
mod bad_start;
#[path = "service/clients.rs"]
mod clients;
#[path = "service/damage.rs"]
mod damage;
#[path = "service/dead_letters.rs"]
mod dead_letters;
#[path = "service/drains.rs"]
mod drains;
#[path = "service/full_disk.rs"]
mod full_disk;
#[path = "service/kills.rs"]
mod kills;
#[path = "service/load.rs"]
mod load;
#[path = "service/local.rs"]
mod local;
#[path = "service/logs.rs"]
mod logs;
#[path = "service/luck.rs"]
mod luck;
#[path = "service/manners.rs"]
mod manners;
#[path = "service/metrics.rs"]
mod metrics;
#[path = "service/operator.rs"]
mod operator;
#[path = "service/pools.rs"]
mod pools;
#[path = "service/prometheus.rs"]
mod prometheus;
#[path = "service/protocol.rs"]
mod protocol;
#[path = "service/refusals.rs"]
mod refusals;
#[path = "service/retention.rs"]
mod retention;
#[path = "service/scripts.rs"]
mod scripts;
#[path = "service/tls.rs"]
mod tls;
#[path = "service/traces.rs"]
mod traces;
#[path = "service/uploads.rs"]
mod uploads;
#[path = "service/versions.rs"]
mod versions;
#[path = "service/webhook.rs"]
mod webhook;
