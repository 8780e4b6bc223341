//! Where an account differs from what `eirs setup` makes. Each kind of thing is looked at by a function of its own, all at the
//! same time; [`look`] lists them. What these credentials may not look at is told in one sentence.

mod buckets;
mod fleet;
mod groups;
mod queues;

use chrono::{DateTime, Utc};
use eirs_controller::{fleet::ssm::document_name, policy::Policies};

use super::instances::Machine;
use crate::aws::{
    Account,
    document::{self, Document},
};

/// What was found.
#[derive(Debug, Clone, Default)]
pub(super) struct Drift {
    /// A sentence each.
    pub(super) differences: Vec<String>,
    /// What could not be looked at, a sentence each.
    pub(super) unseen: Vec<String>,
}

/// What one look has found.
#[derive(Debug, Default)]
struct Found {
    differences: Vec<String>,
    /// Nothing of its kind is there at all.
    nothing: bool,
}

/// Looks at everything. Machines and policies are compared as far as they are known.
pub(super) async fn look(
    account: &Account,
    machines: Option<&[Machine]>,
    policies: Option<&Policies>,
    now: DateTime<Utc>,
) -> Drift {
    let (queues, buckets, groups, document, images) = tokio::join!(
        queues::look(account),
        buckets::look(account),
        groups::look(account),
        drain_document(account),
        fleet::images(account, machines.unwrap_or_default()),
    );
    let parts = [
        ("the queues", queues),
        ("the buckets", buckets),
        ("the security groups", groups),
        ("the drain document", document),
        ("the images of the machines", images),
    ];
    let mut found = gather(parts);
    if let Some(machines) = machines {
        found.differences.extend(fleet::leftovers(machines, now));
        found
            .differences
            .extend(policies.map(|policies| fleet::pools(machines, policies)).unwrap_or_default());
        if machines.is_empty() && found.nothing {
            let sentence =
                format!("nothing of the installation {} is here; `eirs setup` makes it", account.prefix());
            return Drift { differences: vec![sentence], unseen: Vec::new() };
        }
    }
    Drift { differences: found.differences, unseen: found.unseen }
}

struct Gathered {
    differences: Vec<String>,
    unseen: Vec<String>,
    nothing: bool,
}

fn gather<const N: usize>(parts: [(&str, anyhow::Result<Found>); N]) -> Gathered {
    let (mut differences, mut unseen, mut denied, mut nothing) = (Vec::new(), Vec::new(), Vec::new(), true);
    for (what, found) in parts {
        match found {
            Ok(found) => {
                differences.extend(found.differences);
                nothing &= found.nothing;
            }
            Err(error) => {
                nothing = false;
                let why = short(&error);
                if is_denied(&why) {
                    denied.push(what)
                } else {
                    unseen.push(format!("{what} cannot be looked at: {why}"))
                }
            }
        }
    }
    if !denied.is_empty() {
        let what = denied.join(", ");
        unseen.push(format!(
            "these credentials may not look at {what}, so that nobody knows whether they are as they should be"
        ));
    }
    Gathered { differences, unseen, nothing }
}

async fn drain_document(account: &Account) -> anyhow::Result<Found> {
    let name = document_name(account.prefix());
    Ok(match document::look(account).await? {
        Document::AsItShouldBe => Found::default(),
        Document::Differs => Found {
            differences: vec![format!(
                "the SSM document {name} is of another version or was edited; `eirs setup` renews it"
            )],
            nothing: false,
        },
        Document::Missing => Found {
            differences: vec![format!(
                "the SSM document {name} is missing: instances are stopped without being told to drain"
            )],
            nothing: true,
        },
    })
}

/// Whether an error says that one may not.
pub(super) fn is_denied(error: &str) -> bool {
    ["AccessDenied", "UnauthorizedOperation", "Forbidden", "not authorized", "HTTP status 403"]
        .iter()
        .any(|word| error.contains(word))
}

/// An error without the code that EC2 appends for its own use, a page long.
pub(super) fn short(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let end = text.find(" Encoded authorization failure message").unwrap_or(text.len());
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_not_be_looked_at_is_one_sentence_and_other_errors_are_one_each() {
        let long = "listing the security groups: UnauthorizedOperation: You are not authorized. Encoded authorization failure message: x";
        let denied = |text: &str| Err(anyhow::anyhow!("{text}"));
        let found = gather([
            ("the queues", Ok(Found { differences: vec!["one".into()], nothing: false })),
            ("the security groups", denied(long)),
            ("the buckets", denied("reading the tags of the bucket b: AccessDenied: no")),
            ("the drain document", denied("no answer in time")),
        ]);
        assert_eq!(found.differences, ["one"]);
        assert_eq!(
            found.unseen,
            [
                "the drain document cannot be looked at: no answer in time",
                "these credentials may not look at the security groups, the buckets, so that nobody knows whether they are \
                 as they should be"
            ]
        );
        assert!(!short(&anyhow::anyhow!("{long}")).contains("Encoded"));
    }
}
