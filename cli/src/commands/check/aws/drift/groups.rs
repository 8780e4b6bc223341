//! Checks the security groups: they allow what the settings say, and never logins from the whole
//! Internet.

use aws_sdk_ec2::types::{IpPermission, SecurityGroup};

use super::Found;
use crate::aws::{
    Account,
    iam::Role,
    network::{self, Doors},
};

const SSH: i32 = 22;

pub(super) async fn look(account: &Account) -> anyhow::Result<Found> {
    let groups = network::groups(account).await?;
    let mut differences: Vec<_> = groups.iter().filter_map(open_to_the_world).collect();
    for role in [Role::Worker, Role::Web] {
        let name = network::group_name(account.prefix(), role);
        let group = groups.iter().find(|group| group.group_name() == Some(&name));
        // A missing group is reported by the machines that were launched without it.
        if let Some(group) = group {
            let (mut open, should) = (network::open_doors(group), network::doors(&account.settings, role));
            // If these settings are not those that setup wrote, they may not know which networks
            // may upload.
            let uploads = account.settings.web.listen.port();
            if role == Role::Web && !should.contains_key(&uploads) {
                open.remove(&uploads);
            }
            differences.extend(differ(&name, &open, &should));
        }
    }
    let differences = differences.into_iter().map(Into::into).collect();
    Ok(Found { differences, nothing: groups.is_empty(), ..Found::default() })
}

/// Reports a group that allows logins from the whole Internet.
fn open_to_the_world(group: &SecurityGroup) -> Option<String> {
    let lets_ssh_in = |permission: &&IpPermission| match permission.ip_protocol() {
        Some("-1") => true,
        Some("tcp" | "6") => {
            permission.from_port().unwrap_or(0) <= SSH && SSH <= permission.to_port().unwrap_or(65_535)
        }
        _ => false,
    };
    let from_anywhere = |permission: &IpPermission| {
        permission.ip_ranges().iter().any(|range| range.cidr_ip() == Some("0.0.0.0/0"))
            || permission.ipv6_ranges().iter().any(|range| range.cidr_ipv6() == Some("::/0"))
    };
    let is_open = group.ip_permissions().iter().filter(lets_ssh_in).any(from_anywhere);
    let name = group.group_name().or(group.group_id()).unwrap_or_default();
    is_open.then(|| format!("the security group {name} lets the whole world try to log in (port 22)"))
}

/// Returns the ports that are open and should not be, and vice versa.
fn differ(name: &str, is: &Doors, should: &Doors) -> Vec<String> {
    let without = |all: &Doors, others: &Doors| -> Vec<(u16, String)> {
        let known = |port: &u16, network: &String| {
            others.get(port).is_some_and(|networks| networks.contains(network))
        };
        let pairs =
            all.iter().flat_map(|(port, networks)| networks.iter().map(move |network| (port, network)));
        pairs
            .filter(|(port, network)| !known(port, network))
            .map(|(port, network)| (*port, network.clone()))
            .collect()
    };
    let port = |port: u16| if port == 0 { "several ports".to_owned() } else { format!("port {port}") };
    let open = without(is, should).into_iter().map(|(number, network)| {
        format!("the security group {name} lets {network} in on {}, and the settings do not", port(number))
    });
    let closed = without(should, is).into_iter().map(|(number, network)| {
        format!(
            "the security group {name} does not let {network} in on {}, and the settings do",
            port(number)
        )
    });
    open.chain(closed).collect()
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::types::{IpRange, Ipv6Range};

    use super::*;

    fn group(protocol: &str, ports: Option<(i32, i32)>, network: &str) -> SecurityGroup {
        let mut permission = IpPermission::builder().ip_protocol(protocol);
        if let Some((from, to)) = ports {
            permission = permission.from_port(from).to_port(to);
        }
        let permission = if network.contains(':') {
            permission.ipv6_ranges(Ipv6Range::builder().cidr_ipv6(network).build())
        } else {
            permission.ip_ranges(IpRange::builder().cidr_ip(network).build())
        };
        SecurityGroup::builder().group_name("eirs-web").ip_permissions(permission.build()).build()
    }

    #[test]
    fn logins_from_the_whole_internet_are_found_in_any_form() {
        let world = [
            group("tcp", Some((22, 22)), "0.0.0.0/0"),
            group("tcp", Some((0, 1024)), "::/0"),
            group("-1", None, "0.0.0.0/0"),
        ];
        assert!(world.iter().all(|group| open_to_the_world(group).is_some()));
        let others = [
            group("tcp", Some((8000, 8000)), "0.0.0.0/0"),
            group("udp", Some((22, 22)), "0.0.0.0/0"),
            group("tcp", Some((22, 22)), "10.0.0.0/8"),
        ];
        assert!(others.iter().all(|group| open_to_the_world(group).is_none()));
    }

    #[test]
    fn ports_are_compared_both_ways() {
        let doors = |pairs: &[(u16, &str)]| -> Doors {
            pairs.iter().map(|(port, network)| (*port, vec![(*network).to_owned()])).collect()
        };
        let found = differ(
            "g",
            &doors(&[(0, "10.0.0.0/8"), (80, "::/0")]),
            &doors(&[(80, "::/0"), (22, "1.0.0.0/8")]),
        );
        assert_eq!(
            found,
            [
                "the security group g lets 10.0.0.0/8 in on several ports, and the settings do not",
                "the security group g does not let 1.0.0.0/8 in on port 22, and the settings do"
            ]
        );
    }
}
