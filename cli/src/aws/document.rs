//! The SSM documents: one drains an instance, and is the only one that the web host may run on
//! workers; the other upgrades a web host for the operator.

use aws_sdk_ssm::types::{DocumentFormat, DocumentType, Tag};
use eirs_controller::fleet::ssm::{GENERATION_PARAMETER, document_name};
use eirs_platform::aws::{self, tag};
use serde_json::{Value, json};

use super::Account;

/// The kind of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Drain,
    Upgrade,
}

/// The script of the drain: if the order is for this boot, it stops the worker, which drains, and
/// powers off. SSM must let the script run as long as a drain may last; the controller ends it
/// earlier.
const DRAIN: [&str; 3] = [
    "eirs-worker --expect-generation '{{ Generation }}' || exit $?",
    "systemctl stop eirs-worker.service",
    "systemctl --no-block poweroff",
];
/// The script of the upgrade: runs a script from the bucket if it has the expected digest.
const UPGRADE: [&str; 5] = [
    "set -eu",
    "script=$(mktemp)",
    "curl -fsS --retry 5 -o \"$script\" -H 'x-amz-expected-bucket-owner: {{ Owner }}' '{{ Script }}'",
    "echo '{{ Digest }}  '\"$script\" | sha256sum -c -",
    "sh \"$script\"; rm \"$script\"",
];
/// The parameters of the upgrade: a presigned URL, the owner of the bucket, and the digest of the
/// script.
pub(crate) const UPGRADE_PARAMETERS: [&str; 3] = ["Script", "Owner", "Digest"];
/// Longer than any drain.
const SCRIPT_SECONDS: &str = "3600";

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::Drain, Self::Upgrade];

    /// Returns the name of the document in the account.
    pub(crate) fn name(self, prefix: &str) -> String {
        match self {
            Self::Drain => document_name(prefix),
            Self::Upgrade => format!("{prefix}-upgrade"),
        }
    }

    /// Returns the purpose of the document.
    pub(crate) fn purpose(self) -> &'static str {
        match self {
            Self::Drain => "by which workers are drained",
            Self::Upgrade => "by which web hosts are upgraded",
        }
    }

    /// Returns the content of the document.
    pub(crate) fn content(self) -> Value {
        let parameter = |description: &str, pattern: &str| json!({ "type": "String", "description": description, "allowedPattern": pattern });
        let (description, parameters, script) = match self {
            Self::Drain => (
                "EIRS: drain the worker of this instance and power off, if it has this generation.",
                json!({
                    GENERATION_PARAMETER: parameter(
                        "The generation of the instance, from its tag eirs:generation.",
                        "^[A-Za-z0-9.-]{1,64}$",
                    )
                }),
                &DRAIN[..],
            ),
            Self::Upgrade => (
                "EIRS: upgrade the programs of this web host, and go back if it does not serve.",
                json!({
                    // No characters with a special meaning in a shell.
                    "Script": parameter("Where the script is.", "^https?://[A-Za-z0-9._~:/?&=%+-]{1,3900}$"),
                    "Owner": parameter("The account of the bucket.", "^[0-9]{12}$"),
                    "Digest": parameter("The SHA-256 of the script.", "^[0-9a-f]{64}$"),
                }),
                &UPGRADE[..],
            ),
        };
        json!({
            "schemaVersion": "2.2",
            "description": description,
            "parameters": parameters,
            "mainSteps": [{
                "action": "aws:runShellScript",
                "name": if self == Self::Drain { "drain" } else { "upgrade" },
                "precondition": { "StringEquals": ["platformType", "Linux"] },
                "inputs": { "timeoutSeconds": SCRIPT_SECONDS, "runCommand": script },
            }],
        })
    }
}

/// The state of the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Document {
    Missing,
    /// Written by another version of EIRS, or edited.
    Differs,
    AsItShouldBe,
}

/// Inspects the document. It is an error if the name belongs to another installation.
pub(crate) async fn look(account: &Account, kind: Kind) -> anyhow::Result<Document> {
    let name = kind.name(account.prefix());
    let found = match account.ssm.get_document().name(&name).send().await {
        Ok(found) => found.content.unwrap_or_default(),
        Err(error) => {
            let error = aws::error(format!("looking for the SSM document {name}"), &error);
            return if error.is_missing() { Ok(Document::Missing) } else { Err(error.into()) };
        }
    };
    let described = account.ssm.describe_document().name(&name).send().await;
    let described =
        described.map_err(|error| aws::error(format!("looking at the SSM document {name}"), &error))?;
    let tags = described.document.map(|document| document.tags.unwrap_or_default()).unwrap_or_default();
    let ours = tags.iter().any(|tag| tag.key() == tag::INSTALLATION && tag.value() == account.prefix());
    anyhow::ensure!(ours, "the SSM document {name} exists without this installation's tag; it is left alone");
    let same = serde_json::from_str::<Value>(&found).is_ok_and(|found| found == kind.content());
    Ok(if same { Document::AsItShouldBe } else { Document::Differs })
}

/// Creates or updates the document.
pub(crate) async fn ensure(account: &Account, kind: Kind) -> anyhow::Result<()> {
    let name = kind.name(account.prefix());
    let failed = || format!("writing the SSM document {name}");
    match look(account, kind).await? {
        Document::AsItShouldBe => Ok(()),
        Document::Missing => {
            let ours = Tag::builder().key(tag::INSTALLATION).value(account.prefix()).build()?;
            let call =
                account.ssm.create_document().name(&name).content(kind.content().to_string()).tags(ours);
            let call = call.document_type(DocumentType::Command).document_format(DocumentFormat::Json);
            call.send().await.map(|_| ()).map_err(|error| aws::error(failed(), &error).into())
        }
        Document::Differs => {
            let call = account.ssm.update_document().name(&name).content(kind.content().to_string());
            let call = call.document_version("$LATEST").document_format(DocumentFormat::Json);
            let updated = call.send().await.map_err(|error| aws::error(failed(), &error))?;
            let version = updated.document_description.and_then(|description| description.document_version);
            let call = account.ssm.update_document_default_version().name(&name);
            let call = call.document_version(version.unwrap_or_else(|| "1".to_owned()));
            call.send().await.map(|_| ()).map_err(|error| aws::error(failed(), &error).into())
        }
    }
}

/// Deletes the document.
pub(crate) async fn delete(account: &Account, kind: Kind) -> anyhow::Result<()> {
    let name = kind.name(account.prefix());
    let deleted = account.ssm.delete_document().name(&name).send().await;
    deleted
        .map(|_| ())
        .map_err(|error| aws::error(format!("deleting the SSM document {name}"), &error).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_use_all_their_parameters() {
        for (kind, names) in
            [(Kind::Drain, &[GENERATION_PARAMETER][..]), (Kind::Upgrade, &UPGRADE_PARAMETERS[..])]
        {
            let content = kind.content();
            let script = content["mainSteps"][0]["inputs"]["runCommand"].to_string();
            assert_eq!(content["parameters"].as_object().map(|all| all.len()), Some(names.len()));
            for name in names {
                assert!(script.contains(&format!("{{{{ {name} }}}}")), "{script}");
                assert!(content["parameters"][*name]["allowedPattern"].is_string());
            }
        }
    }
}
