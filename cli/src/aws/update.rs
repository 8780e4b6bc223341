//! Gives running machines a new image: one machine is tried first, then the others are replaced in
//! waves, and all are rolled back if the image fails its checks.
//!
//! The next step follows from the machines and their tags ([`steps`]); decisions are recorded in a
//! small blob in the bucket of the images ([`record`]). So the next run continues an update that
//! was killed, without a database.

pub(crate) mod checks;
pub(crate) mod record;
pub(crate) mod roll;
pub(crate) mod steps;
pub(crate) mod trial;
pub(crate) mod verdict;
