//! The web server: accepts images, sends jobs for them, and returns their labels.
//!
//! The path of an upload: `upload.rs` reads the images out of the request (`upload/body.rs`),
//! `jobs.rs` stores each, registers the waiter and sends the job, `jobs/replies.rs` receives the
//! replies, and `upload/answer.rs` formats the answer. `operator/` is the operator's view, and
//! `api.rs` describes the interface. `access.rs` is a layer around the routes, and `listen.rs`
//! handles the connections below them.

mod arguments;
#[cfg(fuzzing)]
pub mod fuzzing;

mod app;
mod routes;

mod spool;
mod upload;

mod jobs;
pub mod webhook;

mod access;
pub mod listen;
mod problem;
mod renewal;

mod api;
mod metrics;
mod operator;

pub use access::Access;
pub use app::{App, keep_renewed};
pub use arguments::Arguments;
pub use listen::{Admin, Tls, tls};
pub use metrics::Connections;
pub use routes::{admin_routes, routes};
