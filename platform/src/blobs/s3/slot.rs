//! A blob that is replaced only if its content is known to be unchanged, such as the controller's
//! claim (`backend/claim.rs`).

use async_trait::async_trait;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;

use super::S3Blobs;
use crate::{
    aws,
    blobs::Slot,
    error::{Error, Result},
};

/// One key of a bucket.
#[derive(Debug, Clone)]
pub struct S3Slot {
    blobs: S3Blobs,
    key: &'static str,
}

impl S3Slot {
    /// Creates a slot for this key.
    pub fn new(blobs: S3Blobs, key: &'static str) -> Self {
        Self { blobs, key }
    }
}

#[async_trait]
impl Slot for S3Slot {
    async fn read(&self) -> Result<Option<(Bytes, String)>> {
        let S3Blobs { client, bucket } = &self.blobs;
        let got = match client.get_object().bucket(bucket).key(self.key).send().await {
            Ok(got) => got,
            Err(error) if aws::code(&error) == Some("NoSuchKey") => return Ok(None),
            Err(error) => return Err(self.blobs.failed("reading", self.key, &error)),
        };
        let version = got.e_tag().unwrap_or_default().to_owned();
        match got.body.collect().await {
            Ok(body) => Ok(Some((body.into_bytes(), version))),
            Err(error) => Err(Error::unavailable(self.blobs.doing("reading", self.key), error)),
        }
    }

    /// S3 returns 412 if the version is another one or the blob exists, 404 if it no longer exists,
    /// and 409 if another write is in progress (user guide, "Conditional writes"). In each case
    /// another writer was first.
    async fn write(&self, body: Bytes, was: Option<&str>) -> Result<Option<String>> {
        let S3Blobs { client, bucket } = &self.blobs;
        let put = client.put_object().bucket(bucket).key(self.key).body(ByteStream::from(body));
        let put = match was {
            Some(version) => put.if_match(version),
            None => put.if_none_match("*"),
        };
        let error = match put.send().await {
            Ok(done) => return Ok(Some(done.e_tag().unwrap_or_default().to_owned())),
            Err(error) => error,
        };
        let status = error.raw_response().map(|response| response.status().as_u16());
        let is_gone = aws::code(&error) == Some("NoSuchKey");
        if matches!(status, Some(409 | 412)) || is_gone {
            return Ok(None);
        }
        Err(self.blobs.failed("writing", self.key, &error))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        blobs::s3,
        testing::emulator::{Emulator, REGION},
    };

    #[tokio::test]
    async fn a_slot_is_written_only_with_its_current_version() {
        let Some(emulator) = Emulator::start(&[]) else { return };
        let client = s3::client(&emulator.config().await, &emulator.settings());
        let place = aws_sdk_s3::types::CreateBucketConfiguration::builder()
            .location_constraint(REGION.into())
            .build();
        client.create_bucket().bucket("claims").create_bucket_configuration(place).send().await.unwrap();
        let slot = Arc::new(S3Slot::new(S3Blobs::new(client.clone(), "claims"), "control/claim.json"));
        let write = async |body: &'static str, was: Option<&str>| slot.write(body.into(), was).await.unwrap();
        assert_eq!(slot.read().await.unwrap(), None);
        assert_eq!(
            write("x", Some("\"00000000000000000000000000000000\"")).await,
            None,
            "there is nothing to replace"
        );
        let first = write("1", None).await.unwrap();
        assert_eq!(write("x", None).await, None, "the slot exists");
        assert_eq!(slot.read().await.unwrap(), Some(("1".into(), first.clone())));
        let second = write("2", Some(&first)).await.unwrap();
        assert_ne!(first, second);
        assert_eq!(write("x", Some(&first)).await, None, "the version has changed");
        assert_eq!(slot.read().await.unwrap(), Some(("2".into(), second.clone())));

        // Of many concurrent writers with the current version, one succeeds.
        let racing = (0..16).map(|writer| {
            let (slot, was) = (slot.clone(), second.clone());
            tokio::spawn(async move { slot.write(format!("by {writer}").into(), Some(&was)).await.unwrap() })
        });
        let mut won = 0;
        for writer in racing.collect::<Vec<_>>() {
            won += usize::from(writer.await.unwrap().is_some());
        }
        assert_eq!(won, 1);
    }
}
