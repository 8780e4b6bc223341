//! A new image for machines that serve: one machine of it is tried, then the others are replaced
//! wave by wave, and all go back where it does not hold what it should.
//!
//! What is to be done next follows from the machines and their tags ([`steps`]); what was decided
//! is a small blob in the bucket of the images ([`record`]). So an update that was killed is gone
//! on with by the next run, and no table is needed.

pub(crate) mod checks;
pub(crate) mod record;
pub(crate) mod roll;
pub(crate) mod steps;
pub(crate) mod trial;
pub(crate) mod verdict;
