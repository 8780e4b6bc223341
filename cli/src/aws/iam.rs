//! The roles of the instances, and their instance profiles.

pub(crate) mod policies;

use std::time::Duration;

use anyhow::Context;
use aws_sdk_iam::types::{Role as Described, Tag};
use eirs_platform::{
    aws::{self, tag},
    settings::Settings,
};
use serde_json::Value;

use super::Account;

/// The purpose of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Classifies images.
    Worker,
    /// Accepts uploads and runs the controller.
    Web,
}

/// An IAM role for instances and its instance profile, which have the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Profile {
    /// For machines that serve this model, without access to the queues of others.
    Worker(String),
    /// For web hosts.
    Web,
}

/// The description of the roles.
pub(crate) const DESCRIPTION: &str = "EIRS";
/// The name of the only inline policy of a role.
pub(crate) const POLICY: &str = "eirs";

impl Role {
    pub(crate) const ALL: [Self; 2] = [Self::Worker, Self::Web];

    /// Returns the tag of its instances.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Worker => tag::WORKER,
            Self::Web => tag::WEB,
        }
    }
}

impl Profile {
    /// Returns one profile per model, and one for web hosts.
    pub(crate) fn all(settings: &Settings) -> Vec<Self> {
        settings.models.keys().cloned().map(Self::Worker).chain([Self::Web]).collect()
    }

    /// Returns the name of the role and of its profile.
    pub(crate) fn name(&self, account: &Account) -> String {
        scope(account).profile(self)
    }

    /// Returns the permissions.
    pub(crate) fn policy(&self, scope: &policies::Scope) -> Value {
        match self {
            Self::Worker(model) => policies::worker(scope, model),
            Self::Web => policies::web(scope),
        }
    }

    /// Returns whether the role exists, belongs to the installation, and has the right permissions.
    pub(crate) async fn is_as_it_should_be(&self, account: &Account) -> anyhow::Result<bool> {
        let name = self.name(account);
        let Some(role) = find(account, &name).await? else { return Ok(false) };
        if !is_bounded(account, &role) {
            return Ok(false);
        }
        let found = account.iam.get_role_policy().role_name(&name).policy_name(POLICY).send().await;
        let found = match found {
            Ok(found) => found.policy_document,
            Err(error)
                if error.as_service_error().is_some_and(|error| error.is_no_such_entity_exception()) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(aws::error(format!("reading the policy of {name}"), &error).into()),
        };
        let profile = profile(account, &name).await?;
        Ok(read_document(&found) == Some(self.policy(&scope(account))) && profile == Some(vec![name]))
    }

    /// Creates or updates the role and its profile.
    pub(crate) async fn ensure(&self, account: &Account) -> anyhow::Result<()> {
        let name = self.name(account);
        let doing = |what: &str| format!("{what} the role {name}");
        let boundary = account.settings.setup.permissions_boundary.clone();
        match find(account, &name).await? {
            None => {
                let call = account.iam.create_role().role_name(&name).set_tags(Some(tags(account)?));
                let call = call.assume_role_policy_document(policies::trust().to_string());
                let call = call.description(DESCRIPTION).set_permissions_boundary(boundary);
                call.send().await.map_err(|error| aws::error(doing("making"), &error))?;
            }
            Some(role) if !is_bounded(account, &role) => {
                let call = account.iam.put_role_permissions_boundary().role_name(&name);
                let bounded = call.set_permissions_boundary(boundary).send().await;
                bounded.map_err(|error| aws::error(doing("bounding"), &error))?;
            }
            Some(_) => {}
        }
        let call = account.iam.put_role_policy().role_name(&name).policy_name(POLICY);
        let written = call.policy_document(self.policy(&scope(account)).to_string()).send().await;
        written.map_err(|error| aws::error(doing("writing the policy of"), &error))?;
        let roles = match profile(account, &name).await? {
            Some(roles) => roles,
            None => {
                let call = account.iam.create_instance_profile().instance_profile_name(&name);
                let made = call.set_tags(Some(tags(account)?)).send().await;
                made.map_err(|error| aws::error(format!("making the instance profile {name}"), &error))?;
                Vec::new()
            }
        };
        if !roles.contains(&name) {
            let call = account.iam.add_role_to_instance_profile().instance_profile_name(&name);
            let added = call.role_name(&name).send().await;
            added.map_err(|error| aws::error(format!("adding the role to the profile {name}"), &error))?;
        }
        Ok(())
    }

    /// Returns the CloudFormation stack that created the role, if any.
    pub(crate) async fn stack(&self, account: &Account) -> anyhow::Result<Option<String>> {
        let Some(role) = find(account, &self.name(account)).await? else { return Ok(None) };
        Ok(role.tags().iter().find(|t| t.key() == tag::STACK).map(|t| t.value().to_owned()))
    }

    /// Returns whether the role or its profile exists.
    pub(crate) async fn is_there(&self, account: &Account) -> anyhow::Result<bool> {
        let name = self.name(account);
        Ok(find(account, &name).await?.is_some() || profile(account, &name).await?.is_some())
    }
}

/// Returns the names of all roles of the installation, including those for removed models.
pub(crate) async fn all(account: &Account) -> anyhow::Result<Vec<String>> {
    let scope = scope(account);
    let (workers, web) = (scope.regional("worker-"), scope.profile(&Profile::Web));
    let mut roles = account.iam.list_roles().into_paginator().items().send();
    let mut ours = Vec::new();
    while let Some(role) = roles.next().await {
        let name = role.map_err(|error| aws::error("listing the roles", &error))?.role_name;
        let is_named_so = name.starts_with(&workers) || name == web;
        if is_named_so && described(account, &name).await?.is_some_and(|role| is_ours(account, &role)) {
            ours.push(name);
        }
    }
    Ok(ours)
}

/// Deletes a profile and its role, or what an interrupted run left of them.
pub(crate) async fn delete(account: &Account, name: &str) -> anyhow::Result<()> {
    let iam = &account.iam;
    let failed = |what: &str| format!("deleting {what} {name}");
    if let Some(roles) = profile(account, name).await? {
        for role in roles {
            let call = iam.remove_role_from_instance_profile().instance_profile_name(name).role_name(role);
            call.send().await.map_err(|error| aws::error(failed("the role of the profile"), &error))?;
        }
        let call = iam.delete_instance_profile().instance_profile_name(name);
        call.send().await.map_err(|error| aws::error(failed("the instance profile"), &error))?;
    }
    if find(account, name).await?.is_none() {
        return Ok(());
    }
    let listed = iam.list_role_policies().role_name(name).send().await;
    let listed = listed.map_err(|error| aws::error(failed("the policies of"), &error))?;
    for policy in listed.policy_names {
        let call = iam.delete_role_policy().role_name(name).policy_name(policy);
        call.send().await.map_err(|error| aws::error(failed("a policy of"), &error))?;
    }
    let deleted = iam.delete_role().role_name(name).send().await;
    deleted.map(|_| ()).map_err(|error| aws::error(failed("the role"), &error).into())
}

fn scope(account: &Account) -> policies::Scope {
    policies::Scope::of(&account.settings, &account.id, &account.region)
}

/// How long a launch is retried while EC2 does not see a new profile yet.
pub(crate) const PROFILE_VISIBLE_WITHIN: Duration = Duration::from_secs(120);

fn tags(account: &Account) -> anyhow::Result<Vec<Tag>> {
    Ok(vec![Tag::builder().key(tag::INSTALLATION).value(account.prefix()).build()?])
}

/// Returns the role with this name, if it exists. It is an error if it belongs to another
/// installation, since it must not be changed.
async fn find(account: &Account, name: &str) -> anyhow::Result<Option<Described>> {
    let role = described(account, name).await?;
    let is_free = role.as_ref().is_none_or(|role| is_ours(account, role));
    anyhow::ensure!(is_free, "the role {name} exists without this installation's tag; it is left alone");
    Ok(role)
}

async fn described(account: &Account, name: &str) -> anyhow::Result<Option<Described>> {
    match account.iam.get_role().role_name(name).send().await {
        Ok(found) => Ok(Some(found.role.context("IAM described no role")?)),
        Err(error) if error.as_service_error().is_some_and(|error| error.is_no_such_entity_exception()) => {
            Ok(None)
        }
        Err(error) => Err(aws::error(format!("looking for the role {name}"), &error).into()),
    }
}

fn is_ours(account: &Account, role: &Described) -> bool {
    role.tags().iter().any(|t| t.key() == tag::INSTALLATION && t.value() == account.prefix())
}

/// Returns whether a role has the configured boundary. If none is configured, any boundary is kept,
/// since it was set on purpose.
fn is_bounded(account: &Account, role: &Described) -> bool {
    let set = account.settings.setup.permissions_boundary.as_deref();
    let boundary = role.permissions_boundary().and_then(|boundary| boundary.permissions_boundary_arn());
    set.is_none() || boundary == set
}

/// Returns the roles of the instance profile with this name, if it exists.
async fn profile(account: &Account, name: &str) -> anyhow::Result<Option<Vec<String>>> {
    match account.iam.get_instance_profile().instance_profile_name(name).send().await {
        Ok(found) => {
            let roles = found.instance_profile.map(|profile| profile.roles).unwrap_or_default();
            Ok(Some(roles.into_iter().map(|role| role.role_name).collect()))
        }
        Err(error) if error.as_service_error().is_some_and(|error| error.is_no_such_entity_exception()) => {
            Ok(None)
        }
        Err(error) => Err(aws::error(format!("looking for the instance profile {name}"), &error).into()),
    }
}

/// Decodes a document of IAM, which is URL-encoded.
fn read_document(text: &str) -> Option<Value> {
    let decoded = percent_encoding::percent_decode_str(text).decode_utf8().ok()?;
    serde_json::from_str(&decoded).ok()
}
