//! An operation that waits for a transaction: the work, and the channel for its result.

use std::path::Path;

use tokio::sync::oneshot;

use super::{Batch, classified};
use crate::error::{Error, Result};

pub(super) trait Operation: Send {
    fn run(&mut self, batch: &mut Batch<'_>) -> rusqlite::Result<()>;
    fn answer(self: Box<Self>, committed: std::result::Result<(), &rusqlite::Error>, file: &Path);
}

impl std::fmt::Debug for dyn Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("operation")
    }
}

struct Pending<T, F> {
    what: String,
    work: Option<F>,
    done: Option<T>,
    answer: oneshot::Sender<Result<T>>,
}

impl<T: Send, F: FnOnce(&mut Batch<'_>) -> rusqlite::Result<T> + Send> Operation for Pending<T, F> {
    fn run(&mut self, batch: &mut Batch<'_>) -> rusqlite::Result<()> {
        if let Some(work) = self.work.take() {
            self.done = Some(work(batch)?);
        }
        Ok(())
    }

    fn answer(self: Box<Self>, committed: std::result::Result<(), &rusqlite::Error>, file: &Path) {
        let answer = match (committed, self.done) {
            (Err(error), _) => Err(classified(self.what, error, file)),
            (Ok(()), Some(done)) => Ok(done),
            (Ok(()), None) => Err(Error::unavailable(self.what, "the queue is closing")),
        };
        // The caller may have dropped its future.
        let _left = self.answer.send(answer);
    }
}

/// Returns an operation, the receiver of its result, and the error if none comes.
pub(super) fn pending<T: Send + 'static>(
    what: String,
    work: impl FnOnce(&mut Batch<'_>) -> rusqlite::Result<T> + Send + 'static,
) -> (Box<dyn Operation>, oneshot::Receiver<Result<T>>, Error) {
    let (answer, answered) = oneshot::channel();
    let gone = Error::broken(what.clone(), "the queue's writer has died");
    (Box::new(Pending { what, work: Some(work), done: None, answer }), answered, gone)
}
