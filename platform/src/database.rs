//! The database of a machine: one SQLite file in WAL mode, shared by all processes. The embedded
//! queue and stores are tables in it, so that a job's image, message and result change in one
//! transaction.
//!
//! - **Group commit.** Concurrent operations share a transaction ([`writer`]), so that load makes
//!   transactions larger, not more frequent.
//! - **Bounded.** The write-ahead log is copied to the database as it grows, and then reused
//!   ([`log`]). Free pages left by a long backlog are released ([`shrink`]).
//! - **Its own time**, based on the machine's uptime ([`time`]).
//! - **Bells.** A receiver sleeps on a named pipe ([`bell`]) that is written to after a commit.

pub mod backup;
mod bell;
mod log;
mod reader;
pub(crate) mod schema;
mod shrink;
pub(crate) mod table;
mod time;
mod turn;
mod writer;

pub(crate) use self::{
    bell::Bell,
    reader::Reader,
    shrink::Shrinking,
    table::Table,
    writer::{Batch, Writer},
};

/// The database of this machine that holds a store or a queue.
#[derive(Debug, Clone)]
pub struct InDatabase(pub(crate) Writer);
