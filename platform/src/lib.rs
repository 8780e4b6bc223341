//! The common base of all EIRS processes: jobs, queues, blobs, settings, process lifecycle. It
//! knows nothing of scaling, HTTP or pixels. Code belongs here if two daemons need it.

pub mod job;
pub mod trace;

pub mod blobs;
pub mod database;
pub mod erased;
pub mod error;
#[cfg(any(test, feature = "testing"))]
pub mod fault;
pub mod names;
pub mod queue;
pub mod results;

#[cfg(feature = "aws")]
pub mod aws;
pub mod backend;
pub mod protobuf;
pub mod settings;
pub mod state_folder;
pub mod tokens;
pub mod version;

pub mod backoff;
pub mod clock;
pub mod daemon;
pub mod descriptor;
pub mod lifecycle;
pub mod process_tree;
pub mod program;
pub mod telemetry;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod webhook;

/// The table of image formats, which the load generator uses without the rest of this crate.
pub use eirs_formats as formats;
pub use error::{Error, Result};

/// The text of `--version` of all programs: the version, and whether it was built with AWS.
pub const VERSION: &str = if cfg!(feature = "aws") {
    concat!(env!("CARGO_PKG_VERSION"), " (with AWS)")
} else {
    concat!(env!("CARGO_PKG_VERSION"), " (without AWS)")
};
