//! The key pair for logging in. Its private half is returned once, at its creation: it is on the
//! disk before anything else can fail, and a key in use is never created again.

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

/// What kind of key it is.
pub(crate) const KIND: KeyType = KeyType::Ed25519;

/// What it is called.
pub(crate) fn name(prefix: &str) -> String {
    format!("{prefix}-key")
}

/// Where its private half is written: here, under a name that includes the installation.
pub(crate) fn file(account: &Account) -> PathBuf {
    PathBuf::from(format!("{}-{}.pem", account.prefix(), account.region))
}

/// Whether there is one of this name. One that is not ours is an error.
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

/// Makes it where there is none, and writes its private half to `file`, which must not be there
/// yet.
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

/// Takes it away. The file stays its owner's.
pub(crate) async fn delete(account: &Account) -> anyhow::Result<()> {
    let name = name(account.prefix());
    let deleted = account.ec2.delete_key_pair().key_name(&name).send().await;
    deleted.map(|_| ()).map_err(|error| aws::error(format!("deleting the key pair {name}"), &error).into())
}
