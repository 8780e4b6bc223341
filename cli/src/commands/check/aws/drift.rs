//! Finds differences between an account and what `eirs setup` makes. Each kind of resource is
//! inspected by its own function, all concurrently; [`look`] lists them. Missing permissions are
//! reported in one sentence.

mod buckets;
mod fleet;
mod groups;
mod queues;

use std::fmt;

use chrono::{DateTime, Utc};
use eirs_controller::policy::Policies;

use super::instances::Machine;
use crate::aws::{
    Account, address, base_image as system,
    document::{self, Document},
    iam::Profile,
    image, stack, web_host,
};
use crate::commands::setup::is_older;

/// The differences found.
#[derive(Debug, Clone, Default)]
pub(super) struct Drift {
    /// The differences, one sentence each.
    pub(super) differences: Vec<String>,
    /// The parts that could not be inspected, one sentence each.
    pub(super) unseen: Vec<String>,
    /// Notes about resources that are as setup made them, but have a newer version, one sentence
    /// each.
    pub(super) notes: Vec<String>,
}

/// A difference from what setup makes, as a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Difference {
    fact: String,
    /// What setup does about it, unless it is obvious; the end of the sentence.
    advice: Option<&'static str>,
    /// The stack that owns the resource, which setup then does not remove.
    stack: Option<String>,
}

/// The result of one inspection.
#[derive(Debug, Default)]
struct Found {
    differences: Vec<Difference>,
    notes: Vec<String>,
    /// Whether no resource of this kind exists.
    nothing: bool,
}

/// Inspects everything. Machines and policies are compared as far as they are known.
pub(super) async fn look(
    account: &Account,
    machines: Option<&[Machine]>,
    policies: Option<&Policies>,
    now: DateTime<Utc>,
) -> Drift {
    let (queues, buckets, groups, document, roles, images, base, address, stack) = tokio::join!(
        queues::look(account),
        buckets::look(account),
        groups::look(account),
        drain_document(account),
        roles(account),
        fleet::images(account, machines.unwrap_or_default()),
        base_image(account),
        web_address(account),
        stack::of(account),
    );
    // Without permission to find out whether there is a stack, roles cannot be inspected either.
    let stack = stack.ok().flatten();
    let teams = |found: anyhow::Result<Found>| found.map(|found| found.of_stack(stack.as_deref()));
    let parts = [
        ("the queues", teams(queues)),
        ("the buckets", teams(buckets)),
        ("the security groups", teams(groups)),
        ("the drain document", teams(document)),
        ("the roles", teams(roles)),
        ("the images of the machines", images),
        ("the system's image", base),
        ("the Elastic IP of the web host", address),
    ];
    let found = gather(parts);
    let of_stack = found.differences.iter().find_map(|difference| difference.stack.clone());
    let mut differences: Vec<_> = found.differences.iter().map(ToString::to_string).collect();
    differences.extend(of_stack.as_deref().map(stack::advice));
    if let Some(machines) = machines {
        let profile_of = |model: &str| Profile::Worker(model.to_owned()).name(account);
        differences.extend(fleet::leftovers(machines, now));
        differences.extend(
            policies.map(|policies| fleet::pools(machines, policies, profile_of)).unwrap_or_default(),
        );
        if machines.is_empty() && found.nothing {
            let sentence = format!(
                "nothing of the installation {} exists here; `eirs setup` makes it",
                account.prefix()
            );
            return Drift { differences: vec![sentence], ..Drift::default() };
        }
    }
    Drift { differences, unseen: found.unseen, notes: found.notes }
}

impl From<String> for Difference {
    fn from(fact: String) -> Self {
        Self { fact, advice: None, stack: None }
    }
}

impl Difference {
    fn new(fact: String, advice: &'static str) -> Self {
        Self { advice: Some(advice), ..fact.into() }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.stack, self.advice) {
            (Some(stack), _) => write!(f, "{} (of the stack {stack})", self.fact),
            (None, Some(advice)) => write!(f, "{}; {advice}", self.fact),
            (None, None) => f.write_str(&self.fact),
        }
    }
}

impl Found {
    /// Attributes the differences to a stack, if there is one.
    fn of_stack(mut self, stack: Option<&str>) -> Self {
        self.differences.iter_mut().for_each(|difference| difference.stack = stack.map(str::to_owned));
        self
    }
}

struct Gathered {
    differences: Vec<Difference>,
    unseen: Vec<String>,
    notes: Vec<String>,
    nothing: bool,
}

fn gather<const N: usize>(parts: [(&str, anyhow::Result<Found>); N]) -> Gathered {
    let (mut differences, mut unseen, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    let (mut denied, mut nothing) = (Vec::new(), true);
    for (what, found) in parts {
        match found {
            Ok(found) => {
                differences.extend(found.differences);
                notes.extend(found.notes);
                nothing &= found.nothing;
            }
            Err(error) => {
                nothing = false;
                let why = short(&error);
                if is_denied(&why) {
                    denied.push(what)
                } else {
                    unseen.push(format!("{what} cannot be inspected: {why}"))
                }
            }
        }
    }
    if !denied.is_empty() {
        let what = denied.join(", ");
        unseen.push(format!("these credentials may not inspect {what}, so that drift there is unknown"));
    }
    Gathered { differences, unseen, notes, nothing }
}

async fn drain_document(account: &Account) -> anyhow::Result<Found> {
    let kind = document::Kind::Drain;
    let name = kind.name(account.prefix());
    Ok(match document::look(account, kind).await? {
        Document::AsItShouldBe => Found::default(),
        Document::Differs => Found {
            differences: vec![Difference::new(
                format!("the SSM document {name} has another version or was edited"),
                "`eirs setup` renews it",
            )],
            ..Found::default()
        },
        Document::Missing => Found {
            differences: vec![
                format!("the SSM document {name} is missing: instances are stopped without a drain order")
                    .into(),
            ],
            nothing: true,
            ..Found::default()
        },
    })
}

/// Compares the permissions of the instances.
async fn roles(account: &Account) -> anyhow::Result<Found> {
    let (mut differences, mut nothing) = (Vec::new(), true);
    for role in Profile::all(&account.settings) {
        let name = role.name(account);
        if !role.is_there(account).await? {
            differences.push(Difference::new(format!("the role {name} is missing"), "`eirs setup` makes it"));
            continue;
        }
        nothing = false;
        if !role.is_as_it_should_be(account).await? {
            differences.push(Difference::new(
                format!("the permissions of the role {name} differ from those of setup"),
                "`eirs setup` writes it again",
            ));
        }
    }
    Ok(Found { differences, nothing, ..Found::default() })
}

/// Checks whether the base image of the workers is old, or the system has a newer one. That is not
/// an error: the next update bakes a new image.
async fn base_image(account: &Account) -> anyhow::Result<Found> {
    let Some(baked) = image::all(account).await?.into_iter().find(|baked| baked.is_available) else {
        return Ok(Found { nothing: true, ..Found::default() });
    };
    let Some(pinned) = baked.base else { return Ok(Found { nothing: true, ..Found::default() }) };
    let newest = system::current(account).await?.id;
    let limit = account.settings.setup.rebake_after;
    let note = if newest == pinned {
        None
    } else if is_older(&baked.made_at, limit, Utc::now()) {
        Some(format!(
            "the image of the workers is older than {} (setup.rebake_after), and the system has a newer one, \
             {newest}; `eirs update` bakes on it",
            humantime::format_duration(limit)
        ))
    } else {
        Some(format!(
            "the system has a newer image, {newest}, than {pinned}, on which the workers are baked; `eirs \
             update --new-base` bakes on it"
        ))
    };
    Ok(Found { notes: note.into_iter().collect(), ..Found::default() })
}

async fn web_address(account: &Account) -> anyhow::Result<Found> {
    if !account.settings.setup.elastic_ip {
        return Ok(Found { nothing: true, ..Found::default() });
    }
    let addresses = address::all(account).await?;
    let hosts = web_host::all(account).await?;
    let has_one = addresses.iter().any(|address| address.is_of(&hosts));
    let missing = || {
        let fact = "the web host has no Elastic IP, and setup.elastic_ip asks for one";
        Difference::new(fact.to_owned(), "`eirs setup` gives it one")
    };
    let differences = if has_one || hosts.is_empty() { Vec::new() } else { vec![missing()] };
    Ok(Found { differences, nothing: addresses.is_empty(), ..Found::default() })
}

/// Returns whether an error is a missing permission.
pub(super) fn is_denied(error: &str) -> bool {
    ["AccessDenied", "UnauthorizedOperation", "Forbidden", "not authorized", "HTTP status 403"]
        .iter()
        .any(|word| error.contains(word))
}

/// Formats an error without the authorization message that EC2 appends, which is a page long.
pub(super) fn short(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let end = text.find(" Encoded authorization failure message").unwrap_or(text.len());
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_in_a_stack_are_left_to_the_stack() {
        let role = "the permissions of the role r differ from those of setup";
        let found = Found {
            differences: vec![
                Difference::new(role.into(), "`eirs setup` writes it again"),
                "the bucket b is not encrypted; nobody knows why".to_owned().into(),
            ],
            ..Found::default()
        };
        let texts = |found: &Found| found.differences.iter().map(ToString::to_string).collect::<Vec<_>>();
        let found = found.of_stack(None);
        assert_eq!(
            texts(&found),
            [
                &format!("{role}; `eirs setup` writes it again"),
                "the bucket b is not encrypted; nobody knows why"
            ]
        );
        assert_eq!(
            texts(&found.of_stack(Some("s"))),
            [
                &format!("{role} (of the stack s)"),
                "the bucket b is not encrypted; nobody knows why (of the stack s)"
            ]
        );
    }

    #[test]
    fn missing_permissions_are_one_sentence_and_other_errors_are_one_each() {
        let long = "listing the security groups: UnauthorizedOperation: You are not authorized. Encoded \
            authorization failure message: x";
        let denied = |text: &str| Err(anyhow::anyhow!("{text}"));
        let found = gather([
            ("the queues", Ok(Found { differences: vec!["one".to_owned().into()], ..Found::default() })),
            ("the security groups", denied(long)),
            ("the buckets", denied("reading the tags of the bucket b: AccessDenied: no")),
            ("the drain document", denied("no response in time")),
        ]);
        assert_eq!(found.differences, [Difference::from("one".to_owned())]);
        assert_eq!(
            found.unseen,
            [
                "the drain document cannot be inspected: no response in time",
                "these credentials may not inspect the security groups, the buckets, so that drift there is \
                 unknown"
            ]
        );
        assert!(!short(&anyhow::anyhow!("{long}")).contains("Encoded"));
    }
}
