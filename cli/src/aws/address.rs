//! The Elastic IP of the web host, if `setup.elastic_ip` is set: the address of the installation
//! outlasts a stop or a replacement of the host.

use anyhow::Context;
use aws_sdk_ec2::types::{DomainType, Filter, ResourceType};
use eirs_platform::aws::{self, tag};

use super::{
    Account,
    instances::{self, Instance},
};

/// An Elastic IP of the installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// The allocation id, such as `eipalloc-0123456789abcdef0`.
    pub(crate) id: String,
    pub(crate) ip: String,
    /// The instance with this address.
    pub(crate) instance: Option<String>,
}

impl Address {
    /// Returns whether one of these instances has the address.
    pub(crate) fn is_of(&self, hosts: &[Instance]) -> bool {
        hosts.iter().any(|host| self.instance.as_ref() == Some(&host.id))
    }
}

/// Returns the addresses of the installation: one, unless more were created manually.
pub(crate) async fn all(account: &Account) -> anyhow::Result<Vec<Address>> {
    let ours = Filter::builder().name(format!("tag:{}", tag::INSTALLATION)).values(account.prefix()).build();
    let found = account.ec2.describe_addresses().filters(ours).send().await;
    let found = found.map_err(|error| aws::error("listing the Elastic IPs", &error))?;
    let address = |found: aws_sdk_ec2::types::Address| {
        let instance = found.instance_id.filter(|id| !id.is_empty());
        Some(Address { id: found.allocation_id?, ip: found.public_ip?, instance })
    };
    let mut all: Vec<_> = found.addresses.unwrap_or_default().into_iter().filter_map(address).collect();
    all.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(all)
}

/// Associates the address with this instance, creating it if necessary. Any other instance loses
/// it.
pub(crate) async fn ensure(account: &Account, host: &str) -> anyhow::Result<Address> {
    let address = match all(account).await?.into_iter().next() {
        Some(address) if address.instance.as_deref() == Some(host) => return Ok(address),
        Some(address) => address,
        None => make(account).await?,
    };
    let call = account.ec2.associate_address().allocation_id(&address.id).instance_id(host);
    let given = call.allow_reassociation(true).send().await;
    given.map_err(|error| aws::error(format!("giving {host} the address {}", address.ip), &error))?;
    Ok(Address { instance: Some(host.to_owned()), ..address })
}

async fn make(account: &Account) -> anyhow::Result<Address> {
    let tags = instances::tags(account, ResourceType::ElasticIp, &[(tag::ROLE, tag::WEB)]);
    let call = account.ec2.allocate_address().domain(DomainType::Vpc).tag_specifications(tags);
    let made = call.send().await.map_err(|error| aws::error("making an Elastic IP", &error))?;
    let id = made.allocation_id.context("EC2 returned no id of the Elastic IP")?;
    Ok(Address { id, ip: made.public_ip.context("EC2 returned no Elastic IP")?, instance: None })
}

/// Releases the address. Its instance must be terminated.
pub(crate) async fn release(account: &Account, address: &Address) -> anyhow::Result<()> {
    let released = account.ec2.release_address().allocation_id(&address.id).send().await;
    let what = || format!("releasing the Elastic IP {}", address.ip);
    released.map(|_| ()).map_err(|error| aws::error(what(), &error).into())
}
