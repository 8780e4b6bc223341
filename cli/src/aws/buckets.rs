//! The two buckets: encrypted, not accessible to the public or without TLS, with expiry of old
//! objects.

use anyhow::Context;
use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    types::{
        AbortIncompleteMultipartUpload, BucketLifecycleConfiguration, BucketLocationConstraint,
        CreateBucketConfiguration, Delete, ExpirationStatus, LifecycleExpiration, LifecycleRule,
        LifecycleRuleFilter, NoncurrentVersionExpiration, ObjectIdentifier, PublicAccessBlockConfiguration,
        ServerSideEncryption, ServerSideEncryptionByDefault, ServerSideEncryptionConfiguration,
        ServerSideEncryptionRule, Tag, Tagging,
    },
};
use eirs_platform::{
    aws::{self, tag},
    blobs::s3,
    settings::{Aws, Settings},
};
use serde_json::{Value, json};

use super::Account;

/// Maximum number of objects that S3 deletes in one call.
const BATCH: usize = 1000;

/// The encryption of blobs.
pub(crate) const ENCRYPTION: ServerSideEncryption = ServerSideEncryption::Aes256;

/// Blocks all public access, whatever an object or a policy says.
pub(crate) fn closed() -> PublicAccessBlockConfiguration {
    PublicAccessBlockConfiguration::builder()
        .block_public_acls(true)
        .ignore_public_acls(true)
        .block_public_policy(true)
        .restrict_public_buckets(true)
        .build()
}

/// Returns the policy of the bucket with this ARN, which refuses connections without TLS.
pub(crate) fn only_over_tls(arn: &str) -> Value {
    json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Sid": "OnlyOverTls",
            "Effect": "Deny",
            "Principal": "*",
            "Action": "s3:*",
            "Resource": [arn, format!("{arn}/*")],
            "Condition": { "Bool": { "aws:SecureTransport": "false" } },
        }],
    })
}

/// The desired state of a bucket.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    pub(crate) name: String,
    /// The age in days at which blobs are deleted; 0 keeps all.
    pub(crate) expire_days: u32,
}

/// The contents of a bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Number of blobs, including older versions and delete markers.
    pub(crate) versions: u64,
    pub(crate) bytes: u64,
    /// Number of unfinished multipart uploads.
    pub(crate) uploads: u64,
}

fn failed<E>(what: &str, bucket: &str, error: &SdkError<E, HttpResponse>) -> anyhow::Error
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    aws::error(format!("{what} the bucket {bucket}"), error).into()
}

impl Bucket {
    /// Returns the buckets of the images and of the results.
    pub(crate) fn both(account: &Account) -> [Self; 2] {
        Self::named(&account.settings, [account.input_bucket(), account.output_bucket()])
    }

    /// The same with these names.
    pub(crate) fn named(settings: &Settings, [input, output]: [&str; 2]) -> [Self; 2] {
        [
            Self { name: input.to_owned(), expire_days: settings.setup.expire_images_days },
            Self { name: output.to_owned(), expire_days: settings.setup.expire_results_days },
        ]
    }

    /// Returns whether the bucket exists. It is an error if it belongs to another owner or
    /// installation.
    pub(crate) async fn is_there(&self, account: &Account) -> anyhow::Result<bool> {
        match account.s3.head_bucket().bucket(&self.name).send().await {
            Ok(_) => {}
            Err(error) if error.as_service_error().is_some_and(|error| error.is_not_found()) => {
                return Ok(false);
            }
            Err(error) => {
                let hint = "bucket names are global; if it is not yours, set another name";
                return Err(failed("looking for", &self.name, &error).context(hint));
            }
        }
        let tagged = match account.s3.get_bucket_tagging().bucket(&self.name).send().await {
            Ok(tagging) => tagging.tag_set,
            Err(error) if aws::code(&error) == Some("NoSuchTagSet") => Vec::new(),
            Err(error) => return Err(failed("reading the tags of", &self.name, &error)),
        };
        let ours = tagged.iter().any(|t| t.key() == tag::INSTALLATION && t.value() == account.prefix());
        // Setup may have been interrupted between creating and tagging: an untagged, empty bucket
        // with this name belongs to the installation.
        anyhow::ensure!(
            ours || (tagged.is_empty() && self.contents(account).await? == Contents::default()),
            "the bucket {} exists without this installation's tag; it is left alone",
            self.name
        );
        Ok(true)
    }

    /// Creates or updates the bucket.
    pub(crate) async fn ensure(&self, account: &Account) -> anyhow::Result<()> {
        if !self.is_there(account).await? {
            // The oldest region has no location constraint.
            let place = (account.region != "us-east-1").then(|| {
                let region = BucketLocationConstraint::from(account.region.as_str());
                CreateBucketConfiguration::builder().location_constraint(region).build()
            });
            // The only call without the expected owner: the bucket has none yet.
            let anybody = Aws { account: None, ..account.settings.aws.clone() };
            let call = s3::client(&account.config, &anybody)
                .create_bucket()
                .bucket(&self.name)
                .set_create_bucket_configuration(place);
            match call.send().await {
                Ok(_) => {}
                // Created by a concurrent run, or by a call whose response was lost.
                Err(error)
                    if error
                        .as_service_error()
                        .is_some_and(|error| error.is_bucket_already_owned_by_you()) => {}
                Err(error) => return Err(failed("making", &self.name, &error)),
            }
        }
        self.tag(account).await?;
        self.close(account).await?;
        self.encrypt(account).await?;
        self.expire(account).await
    }

    async fn tag(&self, account: &Account) -> anyhow::Result<()> {
        let ours = Tag::builder().key(tag::INSTALLATION).value(account.prefix()).build()?;
        let tagging = Tagging::builder().tag_set(ours).build()?;
        let tagged = account.s3.put_bucket_tagging().bucket(&self.name).tagging(tagging).send().await;
        tagged.map(|_| ()).map_err(|error| failed("tagging", &self.name, &error))
    }

    async fn close(&self, account: &Account) -> anyhow::Result<()> {
        let call = account.s3.put_public_access_block().bucket(&self.name);
        let closed = call.public_access_block_configuration(closed()).send().await;
        closed.map_err(|error| failed("closing", &self.name, &error))?;
        // An emulator on this machine has no TLS.
        let without_tls = aws::endpoint(&account.settings.aws, aws::Service::S3)
            .or(account.config.endpoint_url())
            .is_some_and(|endpoint| endpoint.starts_with("http:"));
        if without_tls {
            return Ok(());
        }
        let arn = format!("arn:{}:s3:::{}", account.partition(), self.name);
        let policy = only_over_tls(&arn).to_string();
        let written = account.s3.put_bucket_policy().bucket(&self.name).policy(policy).send().await;
        written.map(|_| ()).map_err(|error| failed("writing the policy of", &self.name, &error))
    }

    async fn encrypt(&self, account: &Account) -> anyhow::Result<()> {
        let by = ServerSideEncryptionByDefault::builder().sse_algorithm(ENCRYPTION).build()?;
        let rule = ServerSideEncryptionRule::builder().apply_server_side_encryption_by_default(by).build();
        let rules = ServerSideEncryptionConfiguration::builder().rules(rule).build()?;
        let call = account.s3.put_bucket_encryption().bucket(&self.name);
        let written = call.server_side_encryption_configuration(rules).send().await;
        written.map(|_| ()).map_err(|error| failed("encrypting", &self.name, &error))
    }

    async fn expire(&self, account: &Account) -> anyhow::Result<()> {
        let rules = BucketLifecycleConfiguration::builder().rules(self.lifecycle()?).build()?;
        let call = account.s3.put_bucket_lifecycle_configuration().bucket(&self.name);
        let written = call.lifecycle_configuration(rules).send().await;
        written.map(|_| ()).map_err(|error| failed("setting the lifecycle of", &self.name, &error))
    }

    /// Returns the rule for expiry.
    pub(crate) fn lifecycle(&self) -> anyhow::Result<LifecycleRule> {
        let everything = LifecycleRuleFilter::builder().prefix("").build();
        let mut rule = LifecycleRule::builder()
            .id("eirs")
            .filter(everything)
            .status(ExpirationStatus::Enabled)
            .noncurrent_version_expiration(NoncurrentVersionExpiration::builder().noncurrent_days(1).build())
            .abort_incomplete_multipart_upload(
                AbortIncompleteMultipartUpload::builder().days_after_initiation(1).build(),
            );
        if let Ok(days @ 1..) = i32::try_from(self.expire_days) {
            rule = rule.expiration(LifecycleExpiration::builder().days(days).build());
        }
        Ok(rule.build()?)
    }

    /// Counts the contents, which takes a while for a large bucket.
    pub(crate) async fn contents(&self, account: &Account) -> anyhow::Result<Contents> {
        let mut contents = Contents::default();
        let mut next: Option<(String, Option<String>)> = None;
        loop {
            let page = self.versions(account, next.take()).await?;
            contents.versions += (page.versions().len() + page.delete_markers().len()) as u64;
            let sizes = page.versions().iter().filter_map(|version| version.size());
            contents.bytes += sizes.filter_map(|size| u64::try_from(size).ok()).sum::<u64>();
            match page.next_key_marker() {
                Some(key) if page.is_truncated() == Some(true) => {
                    next = Some((key.to_owned(), page.next_version_id_marker().map(str::to_owned)));
                }
                _ => break,
            }
        }
        let uploads = account.s3.list_multipart_uploads().bucket(&self.name).send().await;
        let uploads = uploads.map_err(|error| failed("listing the uploads to", &self.name, &error))?;
        contents.uploads = uploads.uploads().len() as u64;
        Ok(contents)
    }

    async fn versions(
        &self,
        account: &Account,
        from: Option<(String, Option<String>)>,
    ) -> anyhow::Result<aws_sdk_s3::operation::list_object_versions::ListObjectVersionsOutput> {
        let (key, version) = from.map_or((None, None), |(key, version)| (Some(key), version));
        let call = account.s3.list_object_versions().bucket(&self.name);
        let page = call.set_key_marker(key).set_version_id_marker(version).send().await;
        page.map_err(|error| failed("listing", &self.name, &error))
    }

    /// Deletes all contents, including older versions, delete markers and unfinished uploads; calls
    /// `deleted` after each batch with its size.
    pub(crate) async fn empty(&self, account: &Account, mut deleted: impl FnMut(u64)) -> anyhow::Result<()> {
        // Always lists from the start, since the previous batch is deleted.
        loop {
            let page = self.versions(account, None).await?;
            let versions = page.versions().iter().map(|version| (version.key(), version.version_id()));
            let markers = page.delete_markers().iter().map(|marker| (marker.key(), marker.version_id()));
            let objects: Vec<_> =
                versions.chain(markers).filter_map(|(key, version)| Some((key?, version))).collect();
            if objects.is_empty() {
                break;
            }
            for batch in objects.chunks(BATCH) {
                self.delete_objects(account, batch).await?;
                deleted(batch.len() as u64);
            }
        }
        loop {
            let uploads = account.s3.list_multipart_uploads().bucket(&self.name).send().await;
            let uploads = uploads.map_err(|error| failed("listing the uploads to", &self.name, &error))?;
            if uploads.uploads().is_empty() {
                return Ok(());
            }
            for upload in uploads.uploads() {
                let call = account.s3.abort_multipart_upload().bucket(&self.name);
                let call = call.set_key(upload.key().map(str::to_owned));
                let aborted = call.set_upload_id(upload.upload_id().map(str::to_owned)).send().await;
                aborted.map_err(|error| failed("aborting an upload to", &self.name, &error))?;
            }
        }
    }

    async fn delete_objects(
        &self,
        account: &Account,
        objects: &[(&str, Option<&str>)],
    ) -> anyhow::Result<()> {
        let object = |(key, version): &(&str, Option<&str>)| {
            // In a bucket that was never versioned, S3 calls the only version `null`.
            let version = version.filter(|version| *version != "null").map(str::to_owned);
            ObjectIdentifier::builder().key(*key).set_version_id(version).build()
        };
        let objects: Result<Vec<_>, _> = objects.iter().map(object).collect();
        let delete = Delete::builder().set_objects(Some(objects?)).quiet(true).build()?;
        let answer = account.s3.delete_objects().bucket(&self.name).delete(delete).send().await;
        let answer = answer.map_err(|error| failed("emptying", &self.name, &error))?;
        // The status is 200 even if some objects could not be deleted.
        match answer.errors() {
            [] => Ok(()),
            [first, ..] => Err(anyhow::anyhow!(
                "{} objects of the bucket {} cannot be deleted; the first is {}: {}",
                answer.errors().len(),
                self.name,
                first.key().unwrap_or("?"),
                first.message().or(first.code()).unwrap_or("S3 does not say why"),
            )),
        }
    }

    /// Deletes the bucket, which must be empty.
    pub(crate) async fn delete(&self, account: &Account) -> anyhow::Result<()> {
        let deleted = account.s3.delete_bucket().bucket(&self.name).send().await;
        deleted
            .map(|_| ())
            .map_err(|error| failed("deleting", &self.name, &error))
            .context("it must be empty")
    }
}
