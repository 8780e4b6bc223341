//! How many workers there are, and which: observe, decide, act, on the word of a policy that people
//! can read.
//!
//! [`decide`](decide::decide) is a pure function from policies, an observation and a history to a
//! plan; everything that touches the world stands around it. [`reconcile`] is the loop.

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
