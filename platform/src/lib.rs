//! What every EIRS process stands on: jobs, queues, blobs, settings, life and death. It knows
//! nothing of scaling, HTTP or pixels. To be admitted here, a thing must be needed by two daemons,
//! and by a third that does none of those.

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
pub mod telemetry;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod webhook;

/// The table of image formats, which the load generator shares without the rest of this crate.
pub use eirs_formats as formats;
pub use error::{Error, Result};

/// What `--version` says of every program: which one it is, and whether it can work in a cloud.
pub const VERSION: &str = if cfg!(feature = "aws") {
    concat!(env!("CARGO_PKG_VERSION"), " (with AWS)")
} else {
    concat!(env!("CARGO_PKG_VERSION"), " (without AWS)")
};
