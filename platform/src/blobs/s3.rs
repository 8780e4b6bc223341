//! A store in one S3 bucket.

mod slot;

use std::time::Duration;

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_s3::{
    Client,
    config::{
        ConfigBag, Intercept, RuntimeComponents, http::HttpResponse,
        interceptors::BeforeTransmitInterceptorContextMut,
    },
    error::{ProvideErrorMetadata, SdkError},
    primitives::ByteStream,
    types::Object,
};
use bytes::Bytes;
use chrono::{DateTime, Utc};

pub use self::slot::S3Slot;
use super::{BlobInfo, BlobStore};
use crate::{
    aws::{self, Service},
    backoff::Backoff,
    error::{Error, Result},
    settings::Aws,
};

/// Maximum number of keys in a page of a listing; a limit of S3.
const PAGE: usize = 1000;
/// Maximum number of retries after 409, which S3 returns to one of two concurrent writers of a key.
const RACES: u32 = 8;

/// The blobs of a bucket, whose keys are the object keys.
#[derive(Debug, Clone)]
pub struct S3Blobs {
    client: Client,
    bucket: String,
}

/// Creates a client of S3 from the settings.
pub fn client(config: &SdkConfig, settings: &Aws) -> Client {
    let mut builder = aws_sdk_s3::config::Builder::from(config);
    if let Some(endpoint) = aws::endpoint(settings, Service::S3) {
        builder = builder.endpoint_url(endpoint);
    }
    // Emulators and S3-compatible stores of other vendors have no host name per bucket.
    let elsewhere = aws::endpoint(settings, Service::S3).is_some() || config.endpoint_url().is_some();
    if let Some(account) = &settings.account {
        builder = builder.interceptor(Owner(account.clone()));
    }
    Client::from_conf(builder.force_path_style(elsewhere).build())
}

/// Adds the expected owner of the bucket to every request. Bucket names are global: if a bucket was
/// deleted, another account may own the name, and would receive the images and supply the results
/// (S3 user guide, "Verifying bucket ownership with bucket owner condition"). An interceptor covers
/// every call, so that none can be forgotten.
#[derive(Debug)]
struct Owner(String);

const OWNER: &str = "x-amz-expected-bucket-owner";

impl Intercept for Owner {
    fn name(&self) -> &'static str {
        "Owner"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _bag: &mut ConfigBag,
    ) -> std::result::Result<(), aws_sdk_s3::error::BoxError> {
        context.request_mut().headers_mut().try_insert(OWNER, self.0.clone())?;
        Ok(())
    }
}

impl S3Blobs {
    /// Creates a store in an existing bucket.
    pub fn new(client: Client, bucket: &str) -> Self {
        Self { client, bucket: bucket.to_owned() }
    }

    fn doing(&self, verb: &str, key: &str) -> String {
        format!("{verb} s3://{}/{key}", self.bucket)
    }

    fn failed<E>(&self, verb: &str, key: &str, error: &SdkError<E, HttpResponse>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        aws::error(self.doing(verb, key), error)
    }

    async fn page(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<BlobInfo>> {
        let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(prefix);
        let request = request.set_start_after(after.map(str::to_owned));
        let listed = request.max_keys(i32::try_from(limit).unwrap_or(i32::MAX)).send().await;
        let listed = listed.map_err(|error| self.failed("listing", prefix, &error))?;
        Ok(listed.contents.unwrap_or_default().into_iter().filter_map(info).collect())
    }
}

fn info(object: Object) -> Option<BlobInfo> {
    let modified =
        object.last_modified.and_then(|at| DateTime::<Utc>::from_timestamp(at.secs(), at.subsec_nanos()));
    Some(BlobInfo {
        key: object.key?,
        bytes: object.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
        modified: modified.unwrap_or_default(),
    })
}

#[async_trait]
impl BlobStore for S3Blobs {
    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        let put = self.client.put_object().bucket(&self.bucket).key(key).body(ByteStream::from(body));
        put.send().await.map(|_| ()).map_err(|error| self.failed("writing", key, &error))
    }

    /// S3 returns 412 if the key exists, and 409 to one of two concurrent writers: only a retry
    /// shows which of them was first (user guide, "Conditional writes").
    ///
    /// If the response to a write is lost, the SDK retries and gets 412. Then no caller gets
    /// `true`, although a reader of the blob finds the bytes of this one.
    async fn put_new(&self, key: &str, body: Bytes) -> Result<bool> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        let mut races = 0;
        loop {
            let put = self.client.put_object().bucket(&self.bucket).key(key).if_none_match("*");
            let Err(error) = put.body(ByteStream::from(body.clone())).send().await else { return Ok(true) };
            match error.raw_response().map(|response| response.status().as_u16()) {
                Some(412) => return Ok(false),
                Some(409) if races < RACES => {
                    races += 1;
                    backoff.wait().await;
                }
                _ => return Err(self.failed("writing", key, &error)),
            }
        }
    }

    /// The ETag that comes with the bytes makes the write conditional (user guide, "Conditional
    /// writes"): S3 returns 412 if another writer was first, and 404 if the blob was deleted.
    async fn replace(&self, key: &str, seen: &Bytes, body: Bytes) -> Result<bool> {
        let got = match self.client.get_object().bucket(&self.bucket).key(key).send().await {
            Ok(got) => got,
            Err(error) if aws::code(&error) == Some("NoSuchKey") => return Ok(false),
            Err(error) => return Err(self.failed("reading", key, &error)),
        };
        let tag = got.e_tag.clone();
        let there = got.body.collect().await;
        let there =
            there.map_err(|error| Error::unavailable(self.doing("reading", key), error))?.into_bytes();
        if there != *seen {
            return Ok(false);
        }
        let put = self.client.put_object().bucket(&self.bucket).key(key).set_if_match(tag);
        let Err(error) = put.body(ByteStream::from(body)).send().await else { return Ok(true) };
        match error.raw_response().map(|response| response.status().as_u16()) {
            Some(404 | 409 | 412) => Ok(false),
            _ => Err(self.failed("writing", key, &error)),
        }
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        let got = match self.client.get_object().bucket(&self.bucket).key(key).send().await {
            Ok(got) => got,
            Err(error) if aws::code(&error) == Some("NoSuchKey") => return Ok(None),
            Err(error) => return Err(self.failed("reading", key, &error)),
        };
        match got.body.collect().await {
            Ok(body) => Ok(Some(body.into_bytes())),
            // The connection broke while the body was being read.
            Err(error) => Err(Error::unavailable(self.doing("reading", key), error)),
        }
    }

    async fn exists(&self, key: &str) -> Result<bool> {
        match self.client.head_object().bucket(&self.bucket).key(key).send().await {
            Ok(_) => Ok(true),
            Err(error) if error.as_service_error().is_some_and(|error| error.is_not_found()) => Ok(false),
            Err(error) => Err(self.failed("looking for", key, &error)),
        }
    }

    async fn info(&self, key: &str) -> Result<Option<BlobInfo>> {
        match self.client.head_object().bucket(&self.bucket).key(key).send().await {
            Ok(head) => {
                let object = Object::builder()
                    .key(key)
                    .set_size(head.content_length)
                    .set_last_modified(head.last_modified)
                    .build();
                Ok(info(object))
            }
            Err(error) if error.as_service_error().is_some_and(|error| error.is_not_found()) => Ok(None),
            Err(error) => Err(self.failed("looking at", key, &error)),
        }
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let deleted = self.client.delete_object().bucket(&self.bucket).key(key).send().await;
        deleted.map(|_| ()).map_err(|error| self.failed("deleting", key, &error))
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<BlobInfo>> {
        let mut all: Vec<BlobInfo> = Vec::new();
        while all.len() < limit {
            let wanted = (limit - all.len()).min(PAGE);
            let after = all.last().map(|last| last.key.as_str()).or(after);
            let page = self.page(prefix, after, wanted).await?;
            let is_last = page.len() < wanted;
            all.extend(page);
            if is_last {
                break;
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        blobs::contract,
        testing::{
            emulator::{Emulator, REGION},
            fauxqs::Fauxqs,
            replay::{Answer, Replay},
        },
    };

    #[tokio::test]
    async fn s3_fulfils_the_contract_on_a_third_party_emulator() {
        let Some(emulator) = Emulator::start(&["--plain"]) else { return };
        contract::suite(&blobs(client(&emulator.config().await, &emulator.settings())).await).await;
    }

    /// Without the test for conditional creation, which this emulator does not support
    /// (testing/fauxqs).
    #[tokio::test]
    async fn s3_fulfils_the_contract_on_a_second_emulator() {
        let Some(second) = Fauxqs::start() else { return };
        let blobs = blobs(client(&second.config().await, &second.settings())).await;
        contract::suite_but_for_creating_once(&blobs).await;
    }

    /// Creates a bucket.
    async fn blobs(client: Client) -> crate::blobs::SharedBlobs {
        let place = aws_sdk_s3::types::CreateBucketConfiguration::builder()
            .location_constraint(REGION.into())
            .build();
        client.create_bucket().bucket("eirs-test").create_bucket_configuration(place).send().await.unwrap();
        Arc::new(S3Blobs::new(client, "eirs-test"))
    }

    async fn replayed(answers: impl IntoIterator<Item = Answer>) -> (S3Blobs, Replay) {
        let replay = Replay::new(answers);
        let client = client(&replay.config().await, &Aws::default());
        (S3Blobs::new(client, "b"), replay)
    }

    fn error(status: u16, code: &str) -> Answer {
        Answer::new(status, format!("<Error><Code>{code}</Code><Message>no</Message></Error>"))
    }

    #[tokio::test]
    async fn a_conflict_between_writers_is_retried_until_it_is_decided() {
        for (last, written) in [(error(412, "PreconditionFailed"), false), (Answer::new(200, ""), true)] {
            let race = error(409, "ConditionalRequestConflict");
            let (blobs, replay) = replayed([race.clone(), race, last]).await;
            assert_eq!(blobs.put_new("results/x", "body".into()).await.unwrap(), written);
            for request in replay.requests() {
                assert!(request.headers.contains(&"if-none-match: *".to_owned()), "{request:?}");
                assert_eq!(
                    (request.path.as_str(), request.body.as_str()),
                    ("/b/results/x?x-id=PutObject", "body")
                );
            }
            assert_eq!(replay.requests().len(), 3);
        }
    }

    #[tokio::test]
    async fn a_refusal_is_not_mistaken_for_a_missing_blob() {
        let (blobs, _replay) = replayed([
            error(404, "NoSuchKey"),
            error(404, "NoSuchBucket"),
            error(403, "AccessDenied"),
            error(503, "SlowDown"),
        ])
        .await;
        assert_eq!(blobs.get("images/x").await.unwrap(), None);
        assert!(blobs.get("images/x").await.unwrap_err().is_missing());
        let denied = blobs.get("images/x").await.unwrap_err();
        assert!(matches!(denied, Error::Broken { .. }), "{denied:?}");
        assert_eq!(denied.to_string(), "reading s3://b/images/x: AccessDenied: no");
        assert!(blobs.get("images/x").await.unwrap_err().is_transient());
    }

    #[tokio::test]
    async fn every_call_names_the_expected_bucket_owner_if_it_is_known() {
        let denied = error(403, "AccessDenied");
        // The response to a HEAD request has no body.
        let answers = [&denied, &denied, &denied, &Answer::new(403, ""), &denied, &denied].map(Clone::clone);
        let replay = Replay::new(answers);
        let settings = Aws { account: Some("123456789012".into()), ..Aws::default() };
        let blobs = S3Blobs::new(client(&replay.config().await, &settings), "b");
        let refused: [Error; 6] = [
            blobs.put("k", "x".into()).await.unwrap_err(),
            blobs.put_new("k", "x".into()).await.unwrap_err(),
            blobs.get("k").await.unwrap_err(),
            blobs.exists("k").await.unwrap_err(),
            blobs.delete("k").await.unwrap_err(),
            blobs.list("k", None, 10).await.unwrap_err(),
        ];
        for error in refused {
            assert!(matches!(error, Error::Broken { .. }), "a refusal is not a missing blob: {error:?}");
        }
        assert_eq!(replay.requests().len(), 6);
        for request in replay.requests() {
            assert!(request.headers.contains(&format!("{OWNER}: 123456789012")), "{request:?}");
            let signed =
                request.headers.iter().any(|h| h.starts_with("authorization: ") && h.contains(OWNER));
            assert!(signed, "{request:?}");
        }
    }

    #[tokio::test]
    async fn a_long_listing_is_fetched_in_pages() {
        let page = |from: usize, to: usize| {
            let row = |n| format!("<Contents><Key>images/{n:05}</Key><Size>7</Size></Contents>");
            let rows: String = (from..to).map(row).collect();
            Answer::new(200, format!("<ListBucketResult>{rows}</ListBucketResult>"))
        };
        let (blobs, replay) = replayed([page(0, 1000), page(1000, 1500)]).await;
        let listed = blobs.list("images/", None, 2000).await.unwrap();
        assert_eq!((listed.len(), listed[1499].key.as_str(), listed[0].bytes), (1500, "images/01499", 7));
        let second = &replay.requests()[1].path;
        assert!(
            second.contains("start-after=images%2F00999") && second.contains("max-keys=1000"),
            "{second}"
        );
    }
}
