//! Results: rows in the database.

use async_trait::async_trait;
use bytes::Bytes;

use super::index::{self, Listed};
use crate::{
    blobs::{BlobInfo, BlobStore},
    clock::SharedClock,
    database::{Batch, InDatabase, Reader, Writer},
    error::Result,
};

#[derive(Debug, Clone)]
pub(super) struct Results {
    writer: Writer,
    reader: Reader,
    clock: SharedClock,
}

impl Results {
    pub(super) fn new(writer: Writer, reader: Reader, clock: SharedClock) -> Self {
        Self { writer, reader, clock }
    }

    fn now_ms(&self) -> i64 {
        self.clock.now().timestamp_millis()
    }
}

#[async_trait]
impl BlobStore for Results {
    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        let (name, now) = (key.to_owned(), self.now_ms());
        let put = move |batch: &mut Batch<'_>| {
            index::delete_result(batch, &name)?;
            index::enter_result(batch, &name, &body, now)
        };
        self.writer.run(format!("storing {key}"), put).await.map(|_| ())
    }

    async fn put_new(&self, key: &str, body: Bytes) -> Result<bool> {
        let (name, now) = (key.to_owned(), self.now_ms());
        let put = move |batch: &mut Batch<'_>| index::enter_result(batch, &name, &body, now);
        self.writer.run(format!("storing {key}"), put).await
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        let found = self.reader.read("reading a result", |connection| index::find_result(connection, key))?;
        Ok(found.map(Bytes::from))
    }

    async fn exists(&self, key: &str) -> Result<bool> {
        Ok(self.get(key).await?.is_some())
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let name = key.to_owned();
        let delete = move |batch: &mut Batch<'_>| index::delete_result(batch, &name);
        self.writer.run(format!("deleting {key}"), delete).await
    }

    fn in_database(&self) -> Option<InDatabase> {
        Some(InDatabase(self.writer.clone()))
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<BlobInfo>> {
        self.reader.read("listing results", |connection| {
            index::list(connection, Listed::Results, prefix, after, limit)
        })
    }
}
