//! Finds the instances of an installation by their tags, waits for their states, and terminates
//! them.

use std::{collections::BTreeMap, time::Duration};

use aws_sdk_ec2::types::{self, Filter, InstanceStateName as State, ResourceType, Tag, TagSpecification};
use chrono::{DateTime, Utc};
use eirs_platform::aws::{self, tag};
use tokio::time::Instant;

use super::{Account, Poll};

/// An instance that exists.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    pub(crate) id: String,
    pub(crate) state: State,
    pub(crate) image: String,
    /// The name of the instance profile.
    pub(crate) profile: Option<String>,
    pub(crate) kind: String,
    pub(crate) zone: String,
    /// The public DNS name, if it has one.
    pub(crate) address: Option<String>,
    /// `x86_64` or `arm64`.
    pub(crate) architecture: String,
    pub(crate) launched: DateTime<Utc>,
    /// The reason and time of the last change of state, in EC2's words.
    pub(crate) transition: Option<String>,
    /// The reason for its end, if EC2 gives one: a code and a sentence.
    pub(crate) reason: Option<String>,
    pub(crate) tags: BTreeMap<String, String>,
}

impl Instance {
    fn of(instance: &types::Instance) -> Option<Self> {
        let text = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
        let tags = instance.tags().iter().filter_map(|tag| Some((text(tag.key())?, text(tag.value())?)));
        let zone = instance.placement().and_then(|placement| placement.availability_zone());
        let launched = instance.launch_time().and_then(|at| DateTime::from_timestamp(at.secs(), 0));
        Some(Self {
            id: text(instance.instance_id())?,
            state: instance.state()?.name()?.clone(),
            image: text(instance.image_id()).unwrap_or_default(),
            profile: instance
                .iam_instance_profile()
                .and_then(|profile| Some(profile.arn()?.rsplit_once('/')?.1.to_owned())),
            kind: instance.instance_type().map_or_else(String::new, ToString::to_string),
            zone: text(zone).unwrap_or_default(),
            address: text(instance.public_dns_name()).or_else(|| text(instance.public_ip_address())),
            architecture: instance.architecture().map_or_else(String::new, ToString::to_string),
            launched: launched.unwrap_or_default(),
            transition: text(instance.state_transition_reason()),
            reason: instance.state_reason().and_then(|reason| {
                let (code, message) =
                    (reason.code().unwrap_or_default(), reason.message().unwrap_or_default());
                text(Some(message)).map(|message| {
                    if message.contains(code) { message } else { format!("{code}: {message}") }
                })
            }),
            tags: tags.collect(),
        })
    }

    /// Returns the value of a tag.
    pub(crate) fn tag(&self, key: &str) -> Option<&str> {
        self.tags.get(key).map(String::as_str)
    }

    /// Returns whether the instance belongs to the controller.
    pub(crate) fn is_handed_over(&self) -> bool {
        self.tag(tag::HANDED_OVER) == Some(tag::YES)
    }

    /// Returns whether the instance exists and is not being terminated.
    pub(crate) fn exists(&self) -> bool {
        !matches!(self.state, State::ShuttingDown | State::Terminated)
    }
}

/// Returns all existing instances of the installation, by id; only those of one role, if given.
/// Instances that are being terminated are omitted.
pub(crate) async fn all(account: &Account, role: Option<&str>) -> anyhow::Result<Vec<Instance>> {
    let mut instances = described(account, role).await?;
    instances.retain(Instance::exists);
    Ok(instances)
}

/// The same, including instances that are being terminated, or were terminated recently.
pub(crate) async fn described(account: &Account, role: Option<&str>) -> anyhow::Result<Vec<Instance>> {
    let filter = |key: &str, value: &str| Filter::builder().name(format!("tag:{key}")).values(value).build();
    let mut call = account.ec2.describe_instances().filters(filter(tag::INSTALLATION, account.prefix()));
    if let Some(role) = role {
        call = call.filters(filter(tag::ROLE, role));
    }
    // The maximum page size of EC2.
    let mut reservations = call.max_results(1000).into_paginator().items().send();
    let mut instances = Vec::new();
    while let Some(reservation) = reservations.next().await {
        let reservation = reservation.map_err(|error| aws::error("listing the instances", &error))?;
        instances.extend(reservation.instances().iter().filter_map(Instance::of));
    }
    instances.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(instances)
}

/// Returns tags for a new resource, including that of the installation.
pub(crate) fn tags(account: &Account, kind: ResourceType, tags: &[(&str, &str)]) -> TagSpecification {
    let own = [(tag::INSTALLATION, account.prefix())];
    let all = own.iter().chain(tags).map(|(key, value)| Tag::builder().key(*key).value(*value).build());
    TagSpecification::builder().resource_type(kind).set_tags(Some(all.collect())).build()
}

/// Waits until all these instances are in the state; returns them. Fails after a time limit, or if
/// an instance ends before.
pub(crate) async fn wait_for(
    account: &Account,
    ids: &[String],
    state: &State,
    limit: Duration,
) -> anyhow::Result<Vec<Instance>> {
    let (deadline, mut poll) = (Instant::now() + limit, Poll::new());
    loop {
        let mut found = described(account, None).await?;
        found.retain(|instance| ids.contains(&instance.id));
        let waits = |instance: &&Instance| instance.state != *state;
        let Some(late) = found.iter().find(waits) else {
            if found.len() == ids.len() {
                return Ok(found);
            }
            anyhow::ensure!(Instant::now() < deadline, "EC2 does not know all of {} yet", ids.join(", "));
            poll.wait().await;
            continue;
        };
        let has_failed = *state == State::Running && matches!(late.state, State::Stopping | State::Stopped);
        let ended = has_failed || (!late.exists() && *state != State::Terminated);
        let is = late.state.as_str();
        anyhow::ensure!(!ended, "{} is {is} before it was {}{}", late.id, state.as_str(), because(late));
        anyhow::ensure!(
            Instant::now() < deadline,
            "{} is not {} within {}: it is {is}",
            late.id,
            state.as_str(),
            humantime::format_duration(limit)
        );
        poll.wait().await;
    }
}

/// Returns the reason why an instance ended. If EC2 may not use the key of an encrypted disk, the
/// instance changes from pending to terminated with only `Client.InternalError` (EBS user guide,
/// "Troubleshoot", read on 2026-11-29).
fn because(instance: &Instance) -> String {
    let Some(reason) = &instance.reason else { return String::new() };
    let hint = if reason.contains("Client.InternalError") {
        "; EC2 says so if its disk cannot be decrypted: the key of setup.kms_key must be enabled, \
        and its policy must let this account use it through EC2 (kms:CreateGrant)"
    } else {
        ""
    };
    format!(" ({reason}){hint}")
}

/// Adds tags to instances.
pub(crate) async fn set_tags(account: &Account, ids: &[String], tags: &[(&str, &str)]) -> anyhow::Result<()> {
    let tags = tags.iter().map(|(key, value)| Tag::builder().key(*key).value(*value).build()).collect();
    let call = account.ec2.create_tags().set_resources(Some(ids.to_vec())).set_tags(Some(tags));
    call.send().await.map(|_| ()).map_err(|error| aws::error("tagging instances", &error).into())
}

/// Replaces the instance profile of instances; running ones get new credentials within minutes.
pub(crate) async fn set_profile(account: &Account, ids: &[String], name: &str) -> anyhow::Result<()> {
    let these = Filter::builder().name("instance-id").set_values(Some(ids.to_vec())).build();
    let call = account.ec2.describe_iam_instance_profile_associations().filters(these);
    let mut found = call.into_paginator().items().send();
    while let Some(association) = found.next().await {
        let association = association.map_err(|error| aws::error("listing the instance profiles", &error))?;
        let id = association.association_id().unwrap_or_default();
        let profile = types::IamInstanceProfileSpecification::builder().name(name).build();
        let call = account.ec2.replace_iam_instance_profile_association().association_id(id);
        let replaced = call.iam_instance_profile(profile).send().await;
        replaced.map_err(|error| aws::error(format!("giving instances the profile {name}"), &error))?;
    }
    Ok(())
}

/// Starts instances.
pub(crate) async fn start(account: &Account, ids: &[String]) -> anyhow::Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let started = account.ec2.start_instances().set_instance_ids(Some(ids.to_vec())).send().await;
    started.map(|_| ()).map_err(|error| aws::error("starting instances", &error).into())
}

/// Stops instances.
pub(crate) async fn stop(account: &Account, ids: &[String]) -> anyhow::Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let stopped = account.ec2.stop_instances().set_instance_ids(Some(ids.to_vec())).send().await;
    stopped.map(|_| ()).map_err(|error| aws::error("stopping instances", &error).into())
}

/// Terminates instances and deletes their disks.
pub(crate) async fn terminate(account: &Account, ids: &[String]) -> anyhow::Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let gone = account.ec2.terminate_instances().set_instance_ids(Some(ids.to_vec())).send().await;
    gone.map(|_| ()).map_err(|error| aws::error("terminating instances", &error).into())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn machine(id: &str, image: &str, state: State) -> Instance {
        Instance {
            id: id.to_owned(),
            state,
            image: image.to_owned(),
            profile: None,
            kind: "t3.small".into(),
            zone: "a".into(),
            address: None,
            architecture: "x86_64".into(),
            transition: None,
            reason: None,
            launched: DateTime::UNIX_EPOCH,
            tags: BTreeMap::new(),
        }
    }

    #[test]
    fn the_reason_of_an_end_is_shown_with_a_hint_about_the_key() {
        let state = types::InstanceState::builder().name(State::Terminated).build();
        let instance = |code: &str, message: &str| {
            let reason = types::StateReason::builder().code(code).message(message).build();
            let described =
                types::Instance::builder().instance_id("i-1").state(state.clone()).state_reason(reason);
            because(&Instance::of(&described.build()).expect("an instance"))
        };
        // As in EC2's response: the code is part of the message.
        let key = instance("Client.InternalError", "Client.InternalError: Client error on launch");
        assert!(
            key.starts_with(" (Client.InternalError: Client error on launch); ")
                && key.contains("setup.kms_key")
        );
        let other = instance("Server.InsufficientInstanceCapacity", "no room");
        assert_eq!(other, " (Server.InsufficientInstanceCapacity: no room)");
    }
}
