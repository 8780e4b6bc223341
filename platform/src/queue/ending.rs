//! The end of a job: its result is stored, its reply is sent, and it is acked. If all three are in
//! one database, this is a single transaction.

use bytes::Bytes;

use super::{Receipt, SharedQueue};
use crate::blobs::SharedBlobs;

/// The parameters of [`Queue::end`](super::Queue::end).
#[derive(Debug)]
pub struct Ending<'a> {
    /// The store of results, ...
    pub results: &'a SharedBlobs,
    /// ... the key of the result in it, ...
    pub key: &'a str,
    /// ... and the result.
    pub result: Bytes,
    /// The key of the image. If the image is not in the database, it may have been erased: nothing
    /// is done, and the caller decides.
    pub image: &'a str,
    /// The queue that the reply is sent to.
    pub replies: &'a SharedQueue,
    /// The receipt of the job.
    pub receipt: &'a Receipt,
}
