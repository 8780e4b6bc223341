//! The database of a machine: one SQLite file in WAL mode, shared by all its processes. The
//! embedded queue and the embedded stores are tables of it, so that a job's image, its message and
//! its result change in one transaction.
//!
//! - **Group commit.** Operations that come together share one transaction ([`writer`]), so that
//!   load makes transactions larger and not more frequent.
//! - **Bounded.** The write-ahead log is copied to the database as it grows and then written over
//!   ([`log`]), and pages that a long backlog has left free are given back ([`shrink`]).
//! - **A time of its own**, which goes by the machine's uptime ([`time`]).
//! - **Bells.** Who waits for a row sleeps on a named pipe ([`bell`]), which is rung after the
//!   commit.

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

/// That a store or a queue is in a database of this machine, and in which.
#[derive(Debug, Clone)]
pub struct InDatabase(pub(crate) Writer);
