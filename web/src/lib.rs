//! The web server: takes images in, hands them to the queue, and gives their labels back.
//!
//! An upload's way: `upload.rs` reads the images out of the request (`upload/body.rs`), `jobs.rs`
//! stores each, registers who waits for it and sends the job, `jobs/replies.rs` receives the
//! answers, and `upload/answer.rs` puts them into words. `operator/` is what people see; what may
//! be asked and answered is described in `api.rs`. Around all of it stands `access.rs`, which says
//! who may, and under it `listen.rs`, the connections.

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
