//! Wraps a queue or store to make calls fail or take longer, for tests.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::{
    blobs::{BlobInfo, BlobStore},
    error::{Error, Result},
    queue::{Delivery, Depth, Queue, Receipt},
};

/// The fate of one call.
#[derive(Debug, Clone)]
pub enum Fault {
    /// It succeeds.
    None,
    /// It succeeds later.
    Delay(Duration),
    /// It fails without any effect.
    Fail(Error),
    /// It takes effect, but is reported as failed: its answer was lost.
    LoseAnswer(Error),
}

/// A queue or store whose calls follow a script; after its end, all succeed.
#[derive(Debug)]
pub struct Faulty<T> {
    inner: T,
    script: Mutex<VecDeque<(&'static str, Fault)>>,
}

impl<T> Faulty<T> {
    /// Wraps `inner`; all calls succeed until [`Faulty::next`] is called.
    pub fn new(inner: T) -> Self {
        Self { inner, script: Mutex::default() }
    }

    /// Adds a fault for the next call of `verb` that has none yet.
    pub fn next(&self, verb: &'static str, fault: Fault) {
        self.script.lock().unwrap_or_else(PoisonError::into_inner).push_back((verb, fault));
    }

    /// Returns the number of faults that have not happened yet.
    pub fn left(&self) -> usize {
        self.script.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn take(&self, verb: &str) -> Fault {
        let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        let position = script.iter().position(|(scripted, _)| *scripted == verb);
        position.and_then(|position| script.remove(position)).map_or(Fault::None, |(_, fault)| fault)
    }

    async fn apply<R>(&self, verb: &str, call: impl Future<Output = Result<R>>) -> Result<R> {
        match self.take(verb) {
            Fault::None => call.await,
            Fault::Delay(delay) => {
                tokio::time::sleep(delay).await;
                call.await
            }
            Fault::Fail(error) => Err(error),
            Fault::LoseAnswer(error) => {
                call.await?;
                Err(error)
            }
        }
    }
}

#[async_trait]
impl<Q: Queue + ?Sized> Queue for Faulty<std::sync::Arc<Q>> {
    async fn send(&self, bodies: Vec<Bytes>) -> Result<()> {
        self.apply("send", self.inner.send(bodies)).await
    }

    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        self.apply("receive", self.inner.receive(max, wait)).await
    }

    async fn receive_unless(
        &self,
        stop: &CancellationToken,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Delivery>> {
        self.apply("receive", self.inner.receive_unless(stop, max, wait)).await
    }

    async fn extend(&self, receipts: &[Receipt]) -> Result<Vec<Receipt>> {
        self.apply("extend", self.inner.extend(receipts)).await
    }

    async fn ack(&self, receipts: &[Receipt]) -> Result<()> {
        self.apply("ack", self.inner.ack(receipts)).await
    }

    async fn release(&self, receipts: &[Receipt]) -> Result<()> {
        self.apply("release", self.inner.release(receipts)).await
    }

    async fn depth(&self) -> Result<Depth> {
        self.apply("depth", self.inner.depth()).await
    }

    async fn purge(&self) -> Result<()> {
        self.apply("purge", self.inner.purge()).await
    }
}

#[async_trait]
impl<B: BlobStore + ?Sized> BlobStore for Faulty<std::sync::Arc<B>> {
    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.apply("put", self.inner.put(key, body)).await
    }

    async fn put_new(&self, key: &str, body: Bytes) -> Result<bool> {
        self.apply("put_new", self.inner.put_new(key, body)).await
    }

    async fn replace(&self, key: &str, seen: &Bytes, body: Bytes) -> Result<bool> {
        self.apply("replace", self.inner.replace(key, seen, body)).await
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        self.apply("get", self.inner.get(key)).await
    }

    async fn exists(&self, key: &str) -> Result<bool> {
        self.apply("exists", self.inner.exists(key)).await
    }

    async fn info(&self, key: &str) -> Result<Option<BlobInfo>> {
        self.apply("info", self.inner.info(key)).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.apply("delete", self.inner.delete(key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<BlobInfo>> {
        self.apply("list", self.inner.list(prefix, after, limit)).await
    }
}
