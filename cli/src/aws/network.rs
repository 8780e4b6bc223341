//! The network of the instances: subnets of one VPC, and a security group per role. Workers accept
//! no connections. Web hosts accept uploads from the configured networks, and logins only from a
//! network that the operator configured.

use std::collections::BTreeMap;

use anyhow::Context;
use aws_sdk_ec2::{
    operation::describe_subnets::builders::DescribeSubnetsFluentBuilder,
    types::{
        Filter, IpPermission, IpRange, Ipv6Range, LocationType, ResourceType, SecurityGroup,
        Subnet as Described, Tag, TagSpecification,
    },
};
use eirs_platform::{
    aws::{self, tag},
    settings::Settings,
};

use super::{Account, iam::Role};

/// The description of the security groups.
pub(crate) const DESCRIPTION: &str = "EIRS";

/// Subnets of one VPC.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    pub(crate) vpc: String,
    /// The subnets, each with its availability zone.
    pub(crate) subnets: Vec<Subnet>,
}

/// A subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subnet {
    pub(crate) id: String,
    pub(crate) zone: String,
}

fn filter(name: &str, value: impl Into<String>) -> Filter {
    Filter::builder().name(name).values(value).build()
}

/// Returns the configured subnets, or those that a stack created for this installation, or those of
/// the default VPC.
pub(crate) async fn find(account: &Account) -> anyhow::Result<Network> {
    let call = || account.ec2.describe_subnets();
    let found = match account.settings.setup.subnets.as_slice() {
        [] => {
            let ours = filter(&format!("tag:{}", tag::INSTALLATION), account.prefix());
            let ours = subnets(call().filters(ours)).await?;
            if ours.is_empty() {
                subnets(call().filters(filter("default-for-az", "true"))).await?
            } else {
                ours
            }
        }
        set => subnets(call().set_subnet_ids(Some(set.to_vec()))).await?,
    };
    let vpc = found.first().and_then(|subnet| subnet.vpc_id());
    let vpc = vpc.with_context(|| {
        format!("the region {} has no default VPC; name subnets in setup.subnets", account.region)
    })?;
    anyhow::ensure!(
        found.iter().all(|subnet| subnet.vpc_id() == Some(vpc)),
        "setup.subnets: the subnets belong to several VPCs; an installation needs one"
    );
    let mut subnets: Vec<_> = found
        .iter()
        .filter_map(|subnet| {
            Some(Subnet { id: subnet.subnet_id()?.to_owned(), zone: subnet.availability_zone()?.to_owned() })
        })
        .collect();
    subnets.sort_by(|a, b| (&a.zone, &a.id).cmp(&(&b.zone, &b.id)));
    Ok(Network { vpc: vpc.to_owned(), subnets })
}

async fn subnets(call: DescribeSubnetsFluentBuilder) -> anyhow::Result<Vec<Described>> {
    let found = call.send().await.map_err(|error| aws::error("looking for the subnets", &error))?;
    Ok(found.subnets.unwrap_or_default())
}

impl Network {
    /// Returns the subnets whose zones offer this instance type.
    pub(crate) async fn offering(&self, account: &Account, kind: &str) -> anyhow::Result<Vec<Subnet>> {
        let call =
            account.ec2.describe_instance_type_offerings().location_type(LocationType::AvailabilityZone);
        let offered = call.filters(filter("instance-type", kind)).send().await;
        let offered =
            offered.map_err(|error| aws::error(format!("asking where {kind} is offered"), &error))?;
        let zones: Vec<_> =
            offered.instance_type_offerings().iter().filter_map(|offering| offering.location()).collect();
        let subnets: Vec<_> =
            self.subnets.iter().filter(|subnet| zones.contains(&subnet.zone.as_str())).cloned().collect();
        anyhow::ensure!(
            !subnets.is_empty(),
            "the instance type {kind} is not offered in any zone of these subnets; set another one"
        );
        Ok(subnets)
    }
}

/// Returns the name of a role's security group.
pub(crate) fn group_name(prefix: &str, role: Role) -> String {
    format!("{prefix}-{}", role.word())
}

/// The networks that a group allows, by port.
pub(crate) type Doors = BTreeMap<u16, Vec<String>>;

/// Returns the ports and networks that a role's group should allow.
pub(crate) fn doors(settings: &Settings, role: Role) -> Doors {
    let setup = &settings.setup;
    let mut doors = Doors::new();
    if role == Role::Web && !setup.uploads_from.is_empty() {
        doors.insert(settings.web.listen.port(), setup.uploads_from.clone());
    }
    if !setup.ssh_from.is_empty() {
        doors.insert(22, setup.ssh_from.clone());
    }
    doors.values_mut().for_each(|networks| networks.sort());
    doors
}

/// Returns the existing groups of the installation.
pub(crate) async fn groups(account: &Account) -> anyhow::Result<Vec<SecurityGroup>> {
    let call = account.ec2.describe_security_groups();
    let found = call.filters(filter(&format!("tag:{}", tag::INSTALLATION), account.prefix())).send().await;
    let found = found.map_err(|error| aws::error("listing the security groups", &error))?;
    Ok(found.security_groups.unwrap_or_default())
}

/// Returns the group of a role, if it exists.
pub(crate) async fn group(account: &Account, role: Role) -> anyhow::Result<Option<SecurityGroup>> {
    let name = group_name(account.prefix(), role);
    Ok(groups(account).await?.into_iter().find(|group| group.group_name() == Some(&name)))
}

/// Creates or updates the group of a role; returns its id.
pub(crate) async fn ensure_group(account: &Account, network: &Network, role: Role) -> anyhow::Result<String> {
    let name = group_name(account.prefix(), role);
    let found = group(account, role).await?;
    let id = match &found {
        Some(group) => group.group_id().context("EC2 described a group without an id")?.to_owned(),
        None => make_group(account, network, &name).await?,
    };
    let should = doors(&account.settings, role);
    let is = found.as_ref().map(open_doors).unwrap_or_default();
    for (port, networks) in without(&is, &should) {
        let call = account.ec2.revoke_security_group_ingress().group_id(&id);
        let closed = call.ip_permissions(permission(port, &networks)).send().await;
        closed.map_err(|error| aws::error(format!("closing port {port} of {name}"), &error))?;
    }
    for (port, networks) in without(&should, &is) {
        let call = account.ec2.authorize_security_group_ingress().group_id(&id);
        let opened = call.ip_permissions(permission(port, &networks)).send().await;
        opened.map_err(|error| aws::error(format!("opening port {port} of {name}"), &error))?;
    }
    Ok(id)
}

async fn make_group(account: &Account, network: &Network, name: &str) -> anyhow::Result<String> {
    let tags = TagSpecification::builder()
        .resource_type(ResourceType::SecurityGroup)
        .tags(Tag::builder().key(tag::INSTALLATION).value(account.prefix()).build())
        .build();
    let call =
        account.ec2.create_security_group().group_name(name).description(DESCRIPTION).vpc_id(&network.vpc);
    let made = call.tag_specifications(tags).send().await;
    let made = made.map_err(|error| aws::error(format!("making the security group {name}"), &error))?;
    made.group_id.context("EC2 made a group without an id")
}

/// Returns the single ports that a group allows; any other rule appears as port 0.
pub(crate) fn open_doors(group: &SecurityGroup) -> Doors {
    let mut doors = Doors::new();
    for permission in group.ip_permissions() {
        let port = match (permission.from_port(), permission.to_port()) {
            (Some(from), Some(to)) if from == to => u16::try_from(from).unwrap_or(0),
            _ => 0,
        };
        let v4 = permission.ip_ranges().iter().filter_map(|range| range.cidr_ip());
        let v6 = permission.ipv6_ranges().iter().filter_map(|range| range.cidr_ipv6());
        doors.entry(port).or_default().extend(v4.chain(v6).map(str::to_owned));
    }
    doors.values_mut().for_each(|networks| networks.sort());
    doors
}

/// Returns the ports and networks in `all` that `others` lacks. Rules that are not for a single
/// port are not changed.
fn without(all: &Doors, others: &Doors) -> Doors {
    let left = all.iter().filter(|(port, _)| **port != 0).map(|(port, networks)| {
        let known = others.get(port).map_or(&[][..], Vec::as_slice);
        (*port, networks.iter().filter(|network| !known.contains(network)).cloned().collect::<Vec<_>>())
    });
    left.filter(|(_, networks)| !networks.is_empty()).collect()
}

fn permission(port: u16, networks: &[String]) -> IpPermission {
    let mut permission =
        IpPermission::builder().ip_protocol("tcp").from_port(port.into()).to_port(port.into());
    for network in networks {
        permission = if network.contains(':') {
            permission.ipv6_ranges(Ipv6Range::builder().cidr_ipv6(network).build())
        } else {
            permission.ip_ranges(IpRange::builder().cidr_ip(network).build())
        };
    }
    permission.build()
}

/// Deletes a group, which must not be in use.
pub(crate) async fn delete_group(account: &Account, group: &SecurityGroup) -> anyhow::Result<()> {
    let (id, name) = (group.group_id().unwrap_or_default(), group.group_name().unwrap_or_default());
    let deleted = account.ec2.delete_security_group().group_id(id).send().await;
    deleted
        .map(|_| ())
        .map_err(|error| aws::error(format!("deleting the security group {name}"), &error).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doors(pairs: &[(u16, &[&str])]) -> Doors {
        pairs.iter().map(|(port, nets)| (*port, nets.iter().map(|net| (*net).to_owned()).collect())).collect()
    }

    #[test]
    fn only_differences_are_opened_and_closed() {
        let is = doors(&[(22, &["10.0.0.0/8"]), (8000, &["1.0.0.0/8", "2.0.0.0/8"]), (0, &["0.0.0.0/0"])]);
        let should = doors(&[(8000, &["2.0.0.0/8", "3.0.0.0/8"])]);
        assert_eq!(without(&is, &should), doors(&[(22, &["10.0.0.0/8"]), (8000, &["1.0.0.0/8"])]));
        assert_eq!(without(&should, &is), doors(&[(8000, &["3.0.0.0/8"])]));
        assert_eq!(without(&should, &should), Doors::new());
    }

    #[test]
    fn the_rules_of_a_group_are_read_back() {
        let group = SecurityGroup::builder()
            .ip_permissions(permission(8000, &["10.0.0.0/8".into(), "::/0".into()]))
            .build();
        assert_eq!(open_doors(&group), doors(&[(8000, &["10.0.0.0/8", "::/0"])]));
    }
}
