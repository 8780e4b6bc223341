//! Upgrades the programs and settings of a web host in place: over SSM, with a script in the
//! bucket. Its address, tokens, certificates and local changes are kept.

use std::time::Duration;

use anyhow::Context;
use aws_sdk_s3::{presigning::PresigningConfig, primitives::ByteStream};
use eirs_platform::aws;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{
    Account, Poll,
    bundle::Bundle,
    credentials,
    document::{Kind, UPGRADE_PARAMETERS},
    image::BUNDLE_TAG,
    instances::{self, Instance},
    scripts,
};

/// Time limit for the host to report.
const DONE_WITHIN: Duration = Duration::from_secs(15 * 60);
/// The validity of the script's URL, and how long the order waits for its machine.
const GOOD_FOR: Duration = Duration::from_secs(900);

/// Upgrades a web host; an error contains its output, and it then serves as before.
pub(crate) async fn run(
    account: &Account,
    host: &Instance,
    bundle: &Bundle,
    say: &dyn Fn(&str),
) -> anyhow::Result<()> {
    let name = format!("upgrade-{}-{}", host.id, &bundle.digest[..12]);
    say("uploading what the web host gets");
    scripts::upload(account, bundle).await?;
    scripts::forget_report(account, &name).await?;
    let script = scripts::upgrade(account, bundle, &name).await?;
    let key = format!("setup/{name}.sh");
    let digest: String = Sha256::digest(&script).iter().map(|byte| format!("{byte:02x}")).collect();
    let call = account.s3.put_object().bucket(account.input_bucket()).key(&key);
    let put = call.body(ByteStream::from(script.into_bytes())).send().await;
    put.map_err(|error| aws::error("uploading the script of the upgrade", &error))?;
    credentials::outlast(&account.config, GOOD_FOR, "the upgrade of a web host").await?;
    let get = account.s3.get_object().bucket(account.input_bucket()).key(&key);
    let signed = get.presigned(PresigningConfig::expires_in(GOOD_FOR)?).await;
    let signed = signed.map_err(|error| aws::error("signing", &error))?;

    say(&format!("upgrading {}", host.id));
    let values = [signed.uri().to_owned(), account.id.clone(), digest];
    let mut call = account.ssm.send_command().document_name(Kind::Upgrade.name(account.prefix()));
    for (name, value) in UPGRADE_PARAMETERS.into_iter().zip(values) {
        call = call.parameters(name, vec![value]);
    }
    let call = call.instance_ids(&host.id).timeout_seconds(GOOD_FOR.as_secs() as i32);
    let sent = call.send().await;
    sent.map_err(|error| aws::error(format!("telling {} to upgrade", host.id), &error))?;

    let report = wait_for_report(account, host, &name).await;
    scripts::forget_report(account, &name).await?;
    let deleted = account.s3.delete_object().bucket(account.input_bucket()).key(&key).send().await;
    deleted.map_err(|error| aws::error("deleting the script of the upgrade", &error))?;
    let report = report?;
    anyhow::ensure!(
        report.went_well,
        "the web host {} could not be upgraded and serves as before; it said:\n{}",
        host.id,
        report.said
    );
    instances::set_tags(account, std::slice::from_ref(&host.id), &[(BUNDLE_TAG, &bundle.digest)]).await
}

async fn wait_for_report(account: &Account, host: &Instance, name: &str) -> anyhow::Result<scripts::Report> {
    let (deadline, mut poll) = (Instant::now() + DONE_WITHIN, Poll::new());
    while Instant::now() < deadline {
        if let Some(report) = scripts::report(account, name).await? {
            return Ok(report);
        }
        poll.wait().await;
    }
    let waited = humantime::format_duration(DONE_WITHIN);
    None.with_context(|| format!("the web host {} says nothing of its upgrade within {waited}", host.id))
}
