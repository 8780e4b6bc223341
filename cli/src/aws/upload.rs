//! Uploads a large file to a bucket in parts, each of which is retried separately. An object may
//! thus exceed the 5 GiB of a single request ("Amazon S3 multipart upload limits" of its user
//! guide, read on 2026-11-30).

use std::{path::Path, time::Duration};

use anyhow::Context;
use aws_sdk_s3::{
    config::timeout::TimeoutConfig,
    primitives::{ByteStream, Length},
    types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart},
};
use eirs_platform::aws;

use super::Account;

/// The default size of a part, in bytes. S3 accepts 5 MiB to 5 GiB, and a smaller last part.
pub(crate) const PART: u64 = 64 << 20;
/// Maximum number of parts of an upload.
const MOST_PARTS: u64 = 10_000;
/// Time limit for a part, for slow connections.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// A part of a file: its number from 1 on, its offset and its length in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    number: i32,
    offset: u64,
    length: u64,
}

/// Returns the parts of a file of `bytes` bytes, in order. An empty file is one empty part.
fn parts(bytes: u64, part: u64) -> Vec<Part> {
    let part = part.max(bytes.div_ceil(MOST_PARTS));
    let count = bytes.div_ceil(part).max(1);
    let at = |index: u64| Part {
        number: i32::try_from(index + 1).unwrap_or(i32::MAX),
        offset: index * part,
        length: part.min(bytes - index * part),
    };
    (0..count).map(at).collect()
}

/// Uploads a file of `bytes` bytes to the bucket of the images, in parts of at least `part` bytes.
/// After a failure, the uploaded parts are deleted; after a kill, the bucket's expiry rule deletes
/// them.
pub(crate) async fn file(
    account: &Account,
    key: &str,
    file: &Path,
    bytes: u64,
    part: u64,
) -> anyhow::Result<()> {
    let (s3, bucket) = (&account.s3, account.input_bucket());
    let failed = |what: &str| format!("uploading {key}, {what}");
    let call = s3.create_multipart_upload().bucket(bucket).key(key);
    let begun = call.checksum_algorithm(ChecksumAlgorithm::Crc32).send().await;
    let begun = begun.map_err(|error| aws::error(failed("the beginning"), &error))?;
    let id = begun.upload_id.context("S3 began an upload without an id")?;
    let ended = async {
        let mut done = CompletedMultipartUpload::builder();
        for part in parts(bytes, part) {
            done = done.parts(one(account, key, &id, file, part).await?);
        }
        let call = s3.complete_multipart_upload().bucket(bucket).key(key).upload_id(&id);
        let ended = call.multipart_upload(done.build()).send().await;
        ended.map(|_| ()).map_err(|error| anyhow::Error::from(aws::error(failed("the end"), &error)))
    };
    let ended = ended.await;
    if ended.is_err() {
        // The first failure is the one to report.
        let _ = s3.abort_multipart_upload().bucket(bucket).key(key).upload_id(&id).send().await;
    }
    ended
}

async fn one(
    account: &Account,
    key: &str,
    id: &str,
    file: &Path,
    part: Part,
) -> anyhow::Result<CompletedPart> {
    let failed = || format!("uploading part {} of {key}", part.number);
    let body = ByteStream::read_from().path(file).offset(part.offset).length(Length::Exact(part.length));
    let body = body.build().await.with_context(failed)?;
    let patience =
        TimeoutConfig::builder().operation_timeout(PATIENCE).operation_attempt_timeout(PATIENCE).build();
    let call = account.s3.upload_part().bucket(account.input_bucket()).key(key).upload_id(id);
    let call = call.part_number(part.number).checksum_algorithm(ChecksumAlgorithm::Crc32).body(body);
    let call = call.customize();
    let call = call.config_override(aws_sdk_s3::config::Builder::new().timeout_config(patience));
    let sent = call.send().await.map_err(|error| aws::error(failed(), &error))?;
    let done = CompletedPart::builder().part_number(part.number);
    Ok(done.set_e_tag(sent.e_tag).set_checksum_crc32(sent.checksum_crc32).build())
}

#[cfg(test)]
mod tests {
    use eirs_platform::{
        settings::{BackendKind, Settings},
        testing::emulator::Emulator,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::aws::buckets::Bucket;

    const GIB: u64 = 1 << 30;

    proptest! {
        #[test]
        fn the_parts_cover_the_file_in_order_within_the_limits_of_s3(
            bytes in prop_oneof![0..20 * PART, 0..5000 * GIB],
        ) {
            let parts = parts(bytes, PART);
            prop_assert!(!parts.is_empty() && parts.len() as u64 <= MOST_PARTS);
            let (last, others) = parts.split_last().unwrap();
            prop_assert!(others.iter().all(|part| (PART..=5 * GIB).contains(&part.length)));
            prop_assert!(last.length <= 5 * GIB);
            let mut end = 0;
            for (part, number) in parts.iter().zip(1..) {
                prop_assert_eq!((part.number, part.offset), (number, end));
                end += part.length;
            }
            prop_assert_eq!(end, bytes);
        }
    }

    async fn account(emulator: &Emulator) -> Account {
        let settings =
            Settings { backend: BackendKind::Aws, aws: emulator.settings(), ..Settings::default() };
        let account = Account::of(settings, emulator.account(1).await).await.unwrap();
        Bucket::both(&account)[0].ensure(&account).await.unwrap();
        account
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_in_several_parts_is_read_back_unchanged() {
        let Some(emulator) = Emulator::start(&[]) else { return };
        let account = account(&emulator).await;
        let file = tempfile::NamedTempFile::new().unwrap();
        // Three different parts.
        let content: Vec<u8> = (0..11 << 18).flat_map(|number: u32| number.to_le_bytes()).collect();
        std::fs::write(file.path(), &content).unwrap();
        let bytes = content.len() as u64;
        super::file(&account, "setup/a", file.path(), bytes, 5 << 20).await.unwrap();
        let got = account.s3.get_object().bucket(account.input_bucket()).key("setup/a").send().await.unwrap();
        let etag = got.e_tag().unwrap_or_default().to_owned();
        assert!(etag.ends_with("-3\""), "it had three parts: {etag}");
        assert!(got.body.collect().await.unwrap().into_bytes() == content);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_failed_upload_leaves_no_parts() {
        let Some(emulator) = Emulator::start(&[]) else { return };
        let account = account(&emulator).await;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![7; 6 << 20]).unwrap();
        // Longer than the file: the second part cannot be read.
        let error = super::file(&account, "setup/a", file.path(), 12 << 20, 5 << 20).await.unwrap_err();
        assert!(format!("{error:#}").contains("part 2 of setup/a"), "{error:#}");
        let left = account.s3.list_multipart_uploads().bucket(account.input_bucket()).send().await.unwrap();
        assert!(left.uploads().is_empty());
    }
}
