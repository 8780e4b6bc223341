//! The key pair for logins. Its private key is returned only once, when it is created, so it is
//! written to disk at once, and an existing key pair is never created again.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use aws_sdk_ec2::types::{KeyFormat, KeyType, ResourceType, Tag, TagSpecification};
use eirs_platform::aws::{self, tag};

use super::Account;

/// The type of the key.
pub(crate) const KIND: KeyType = KeyType::Ed25519;

/// Returns the name of the key pair.
pub(crate) fn name(prefix: &str) -> String {
    format!("{prefix}-key")
}

/// Returns the path of the private key: in this folder, with the installation in its name.
pub(crate) fn file(account: &Account) -> PathBuf {
    PathBuf::from(format!("{}-{}.pem", account.prefix(), account.region))
}

/// Returns whether the key pair exists. It is an error if it belongs to another installation.
pub(crate) async fn is_there(account: &Account) -> anyhow::Result<bool> {
    let name = name(account.prefix());
    let found = match account.ec2.describe_key_pairs().key_names(&name).send().await {
        Ok(found) => found.key_pairs.unwrap_or_default(),
        Err(error) => {
            let error = aws::error(format!("looking for the key pair {name}"), &error);
            return if error.is_missing() { Ok(false) } else { Err(error.into()) };
        }
    };
    let Some(key) = found.first() else { return Ok(false) };
    let ours = |tag: &Tag| tag.key() == Some(tag::INSTALLATION) && tag.value() == Some(account.prefix());
    anyhow::ensure!(
        key.tags().iter().any(ours),
        "the key pair {name} exists without this installation's tag; it is left alone"
    );
    Ok(true)
}

/// Creates the key pair if it does not exist, and writes the private key to `file`, which must not
/// exist.
pub(crate) async fn ensure(account: &Account, file: &Path) -> anyhow::Result<()> {
    if is_there(account).await? {
        return Ok(());
    }
    let shown = file.display();
    let open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    let mut written = open.with_context(|| format!("the private key cannot be written to {shown}"))?;
    let made = make(account).await;
    let material = match made {
        Ok(material) => material,
        Err(error) => {
            let _empty = std::fs::remove_file(file);
            return Err(error);
        }
    };
    let kept = written.write_all(material.as_bytes()).and_then(|()| written.sync_all());
    kept.with_context(|| format!("the private key cannot be written to {shown}"))
}

async fn make(account: &Account) -> anyhow::Result<String> {
    let name = name(account.prefix());
    let tags = TagSpecification::builder()
        .resource_type(ResourceType::KeyPair)
        .tags(Tag::builder().key(tag::INSTALLATION).value(account.prefix()).build())
        .build();
    let call = account.ec2.create_key_pair().key_name(&name).key_type(KIND);
    let made = call.key_format(KeyFormat::Pem).tag_specifications(tags).send().await;
    let made = made.map_err(|error| aws::error(format!("making the key pair {name}"), &error))?;
    made.key_material.context("EC2 returned no private key")
}

/// Deletes the key pair, but not the file.
pub(crate) async fn delete(account: &Account) -> anyhow::Result<()> {
    let name = name(account.prefix());
    let deleted = account.ec2.delete_key_pair().key_name(&name).send().await;
    deleted.map(|_| ()).map_err(|error| aws::error(format!("deleting the key pair {name}"), &error).into())
}
