//! Checks that both buckets exist, belong to this installation, are encrypted and private, and
//! expire old objects.

use anyhow::Context;
use aws_sdk_s3::types::ExpirationStatus;
use eirs_platform::aws::{self, tag};
use futures::future::join_all;

use super::{Difference, Found};
use crate::aws::{Account, buckets::Bucket};

pub(super) async fn look(account: &Account) -> anyhow::Result<Found> {
    let buckets = Bucket::both(account);
    let looked = join_all(buckets.iter().map(|bucket| look_at(account, bucket))).await;
    let looked = looked.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let nothing = looked.iter().all(Option::is_none);
    let mut differences = Vec::new();
    for (Bucket { name, .. }, looked) in buckets.iter().zip(looked) {
        match looked {
            None => differences
                .push(Difference::new(format!("the bucket {name} is missing"), "`eirs setup` makes it")),
            Some(differs) => {
                differences.extend(differs.iter().map(|it| format!("the bucket {name} {it}").into()))
            }
        }
    }
    Ok(Found { differences, nothing, ..Found::default() })
}

/// Returns the problems of a bucket, as ends of a sentence; `None` if it does not exist.
async fn look_at(account: &Account, bucket: &Bucket) -> anyhow::Result<Option<Vec<String>>> {
    match account.s3.head_bucket().bucket(&bucket.name).send().await {
        Ok(_) => {}
        Err(error) if error.as_service_error().is_some_and(|error| error.is_not_found()) => return Ok(None),
        Err(error) => {
            return Err(aws::error(format!("looking for the bucket {}", bucket.name), &error).into());
        }
    }
    let (tags, encryption, public, expiry) = tokio::join!(
        is_tagged(account, &bucket.name),
        is_encrypted(account, &bucket.name),
        is_closed(account, &bucket.name),
        expiry(account, &bucket.name),
    );
    let mut differs = Vec::new();
    if !tags? {
        differs.push(format!(
            "is not tagged as this installation's ({}={})",
            tag::INSTALLATION,
            account.prefix()
        ));
    }
    if !encryption? {
        differs.push("is not encrypted".to_owned());
    }
    if !public? {
        differs.push("is not blocked for the public".to_owned());
    }
    let wanted = Some(bucket.expire_days).filter(|days| *days > 0);
    differs.extend(match (expiry?, wanted) {
        (None, Some(days)) => Some(format!(
            "never deletes anything, and the settings say {days} \
            days"
        )),
        (Some(is), Some(days)) if is != days => {
            Some(format!("keeps everything for {is} days, and the settings say {days}"))
        }
        (Some(is), None) => Some(format!("deletes after {is} days, and the settings say never")),
        _ => None,
    });
    Ok(Some(differs))
}

async fn is_tagged(account: &Account, bucket: &str) -> anyhow::Result<bool> {
    let tags = match account.s3.get_bucket_tagging().bucket(bucket).send().await {
        Ok(tagging) => tagging.tag_set,
        Err(error) if aws::code(&error) == Some("NoSuchTagSet") => Vec::new(),
        Err(error) => {
            return Err(aws::error(format!("reading the tags of the bucket {bucket}"), &error).into());
        }
    };
    Ok(tags.iter().any(|t| t.key() == tag::INSTALLATION && t.value() == account.prefix()))
}

async fn is_encrypted(account: &Account, bucket: &str) -> anyhow::Result<bool> {
    match account.s3.get_bucket_encryption().bucket(bucket).send().await {
        Ok(encryption) => Ok(encryption
            .server_side_encryption_configuration()
            .is_some_and(|rules| !rules.rules().is_empty())),
        Err(error) if aws::code(&error) == Some("ServerSideEncryptionConfigurationNotFoundError") => {
            Ok(false)
        }
        Err(error) => Err(aws::error(format!("checking the encryption of the bucket {bucket}"), &error))
            .context("encryption"),
    }
}

/// Returns whether all four settings of S3's public access block are on.
async fn is_closed(account: &Account, bucket: &str) -> anyhow::Result<bool> {
    match account.s3.get_public_access_block().bucket(bucket).send().await {
        Ok(block) => Ok(block.public_access_block_configuration().is_some_and(|block| {
            [
                block.block_public_acls(),
                block.ignore_public_acls(),
                block.block_public_policy(),
                block.restrict_public_buckets(),
            ]
            .iter()
            .all(|closed| *closed == Some(true))
        })),
        Err(error) if aws::code(&error) == Some("NoSuchPublicAccessBlockConfiguration") => Ok(false),
        Err(error) => {
            Err(aws::error(format!("checking the public access of the bucket {bucket}"), &error).into())
        }
    }
}

/// Returns after how many days objects expire; `None` if they do not.
async fn expiry(account: &Account, bucket: &str) -> anyhow::Result<Option<u32>> {
    let rules = match account.s3.get_bucket_lifecycle_configuration().bucket(bucket).send().await {
        Ok(lifecycle) => lifecycle.rules.unwrap_or_default(),
        Err(error) if aws::code(&error) == Some("NoSuchLifecycleConfiguration") => Vec::new(),
        Err(error) => {
            return Err(aws::error(format!("reading the lifecycle of the bucket {bucket}"), &error).into());
        }
    };
    let in_force = rules.iter().filter(|rule| rule.status() == &ExpirationStatus::Enabled);
    let days = in_force.filter_map(|rule| rule.expiration()?.days()).min();
    Ok(days.and_then(|days| u32::try_from(days).ok()))
}
