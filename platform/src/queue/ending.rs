//! The end of a job: its result is stored, told and then acked. Where all three are in one database
//! that is one transaction, and a crash finds all of it or nothing.

use bytes::Bytes;

use super::{Receipt, SharedQueue};
use crate::blobs::SharedBlobs;

/// What ends a job.
#[derive(Debug)]
pub struct Ending<'a> {
    /// Where results are stored, ...
    pub results: &'a SharedBlobs,
    /// ... the key of this one, ...
    pub key: &'a str,
    /// ... and the result.
    pub result: Bytes,
    /// The key of the image. Where it is not in the database any more, it may have been erased:
    /// that is for the caller to say, and nothing is done.
    pub image: &'a str,
    /// The queue that is told the result.
    pub replies: &'a SharedQueue,
    /// The job.
    pub receipt: &'a Receipt,
}
