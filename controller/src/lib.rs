//! The controller: decides how many workers run, and which ones, by policies that people can read.
//! It observes, decides and acts.
//!
//! [`decide`](decide::decide) is a pure function from policies, an observation and a history to a
//! plan; all effects are in other modules. [`reconcile`] is the control loop.

mod arguments;
mod backoff;

pub mod policy;

pub mod observe;

pub mod decide;

pub mod act;
pub mod alerts;
pub mod drain;
pub mod fleet;

pub mod lock;
pub mod memory_file;
pub mod operator;
pub mod reconcile;
pub mod record;
pub mod refusals;
pub mod reload;
pub mod simulate;
pub mod status;

pub mod preview;

mod journal;
mod state_file;

pub use arguments::Arguments;
