//! How many workers there are, and which: observe, decide, act, on the word of a policy that people can read.
//!
//! [`decide`](decide::decide) is a pure function from policies, an observation and a history to a plan; everything that
//! touches the world stands around it. [`reconcile`] is the loop.

pub mod policy;

pub mod observe;

pub mod decide;

pub mod act;
pub mod fleet;

pub mod lock;
pub mod reconcile;
pub mod simulate;
pub mod status;

mod descriptor;
mod state_file;
