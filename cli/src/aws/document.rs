//! The SSM document by which an instance is told to drain: the one thing that the web host may have
//! run on the workers.

use aws_sdk_ssm::types::{DocumentFormat, DocumentType, Tag};
use eirs_controller::fleet::ssm::{GENERATION_PARAMETER, document_name};
use eirs_platform::aws::{self, tag};
use serde_json::{Value, json};

use super::Account;

/// What an instance does: where this is the boot that the order is for, it stops its worker, which
/// drains, and powers off. As long as the drain may last SSM must let the script run; the
/// controller cuts it off earlier.
const SCRIPT: [&str; 3] = [
    "eirs-worker --expect-generation '{{ Generation }}' || exit $?",
    "systemctl stop eirs-worker.service",
    "systemctl --no-block poweroff",
];
/// Longer than any drain.
const SCRIPT_SECONDS: &str = "3600";

fn content() -> Value {
    json!({
        "schemaVersion": "2.2",
        "description": "EIRS: drain the worker of this instance and power off, if it has this \
            generation.",
        "parameters": {
            GENERATION_PARAMETER: {
                "type": "String",
                "description": "The generation of the instance, from its tag eirs:generation.",
                "allowedPattern": "^[A-Za-z0-9.-]{1,64}$",
            }
        },
        "mainSteps": [{
            "action": "aws:runShellScript",
            "name": "drain",
            "precondition": { "StringEquals": ["platformType", "Linux"] },
            "inputs": { "timeoutSeconds": SCRIPT_SECONDS, "runCommand": SCRIPT },
        }],
    })
}

/// What there is of the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Document {
    Missing,
    /// Of another version of EIRS, or edited.
    Differs,
    AsItShouldBe,
}

/// Looks at it. One of its name that is not ours is an error.
pub(crate) async fn look(account: &Account) -> anyhow::Result<Document> {
    let name = document_name(account.prefix());
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
    let same = serde_json::from_str::<Value>(&found).is_ok_and(|found| found == content());
    Ok(if same { Document::AsItShouldBe } else { Document::Differs })
}

/// Makes it, or makes it what it should be.
pub(crate) async fn ensure(account: &Account) -> anyhow::Result<()> {
    let name = document_name(account.prefix());
    let failed = || format!("writing the SSM document {name}");
    match look(account).await? {
        Document::AsItShouldBe => Ok(()),
        Document::Missing => {
            let ours = Tag::builder().key(tag::INSTALLATION).value(account.prefix()).build()?;
            let call = account.ssm.create_document().name(&name).content(content().to_string()).tags(ours);
            let call = call.document_type(DocumentType::Command).document_format(DocumentFormat::Json);
            call.send().await.map(|_| ()).map_err(|error| aws::error(failed(), &error).into())
        }
        Document::Differs => {
            let call = account.ssm.update_document().name(&name).content(content().to_string());
            let call = call.document_version("$LATEST").document_format(DocumentFormat::Json);
            let updated = call.send().await.map_err(|error| aws::error(failed(), &error))?;
            let version = updated.document_description.and_then(|description| description.document_version);
            let call = account.ssm.update_document_default_version().name(&name);
            let call = call.document_version(version.unwrap_or_else(|| "1".to_owned()));
            call.send().await.map(|_| ()).map_err(|error| aws::error(failed(), &error).into())
        }
    }
}

/// Takes it away.
pub(crate) async fn delete(account: &Account) -> anyhow::Result<()> {
    let name = document_name(account.prefix());
    let deleted = account.ssm.delete_document().name(&name).send().await;
    deleted
        .map(|_| ())
        .map_err(|error| aws::error(format!("deleting the SSM document {name}"), &error).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_uses_the_parameter_that_the_controller_gives() {
        assert!(SCRIPT[0].contains(&format!("{{{{ {GENERATION_PARAMETER} }}}}")));
        assert!(content()["parameters"][GENERATION_PARAMETER].is_object());
    }
}
