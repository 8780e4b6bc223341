//! Decides what to launch if the parked machines do not suffice: in which zone, of which type, and
//! from which image. Pure; the calls are in `ec2.rs`.
//!
//! A launched machine equals the machines that `eirs setup` has parked in its pool: it has their
//! image and role, and one of their subnets. No further settings are needed.

use std::collections::BTreeMap;

use aws_sdk_ec2::{
    client::Client,
    operation::run_instances::builders::RunInstancesFluentBuilder,
    types::{
        CreditSpecificationRequest, HttpTokensState, IamInstanceProfileSpecification,
        InstanceInterruptionBehavior, InstanceMarketOptionsRequest, InstanceMetadataEndpointState,
        InstanceMetadataOptionsRequest, InstanceMetadataTagsState, InstanceStateName as Ec2State,
        InstanceType, MarketType, ResourceType, ShutdownBehavior, SpotInstanceType, SpotMarketOptions, Tag,
        TagSpecification,
    },
};
use chrono::{DateTime, Utc};
use eirs_platform::{aws::tag, settings::CpuCredits};

use super::{
    dry::{Dry, Place},
    machine::{Machine, Pattern},
};
use crate::policy::{Launch, Market};

/// Maximum number of calls per order: each type may lack capacity in each zone, and the next pass
/// is ten seconds later.
pub(super) const CALLS: usize = 6;

/// The type and location of the machines that one call launches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) kind: String,
    pub(super) zone: String,
    pub(super) subnet: String,
}

impl Target {
    pub(super) fn place(&self) -> Place {
        Place::new(&self.kind, &self.zone)
    }
}

/// The machine to copy: the newest of the pool that `eirs setup` made and that is not being
/// replaced. `None` if there is none.
pub(super) fn pattern<'m>(machines: &[&'m Machine], pool: &str) -> Option<&'m Machine> {
    let of_setup = machines.iter().filter(|other| other.pool == pool && !other.is_launched && !other.retires);
    of_setup
        .copied()
        .filter(|other| !other.pattern.image.is_empty())
        .max_by_key(|other| (other.launched, &other.id))
}

/// Targets in the order in which they are tried: each type in every zone before the next type,
/// beginning with the zones that have the fewest machines of this pool. Places that recently lacked
/// capacity are left out.
pub(super) fn targets(
    machines: &[&Machine],
    pool: &str,
    launch: &Launch,
    usual: &str,
    dry: &Dry,
    now: DateTime<Utc>,
) -> Vec<Target> {
    let mut subnets = BTreeMap::new();
    for machine in machines.iter().filter(|other| !other.pattern.subnet.is_empty()) {
        subnets.entry(machine.zone.as_str()).or_insert(machine.pattern.subnet.as_str());
    }
    let count = |zone: &str| machines.iter().filter(|m| m.pool == pool && m.runs() && m.zone == zone).count();
    let mut zones: Vec<_> = subnets.into_iter().collect();
    zones.sort_by_key(|(zone, _)| count(zone));
    let usual = [usual.to_owned()];
    let kinds = if launch.types.is_empty() { &usual[..] } else { &launch.types[..] };
    let target = |kind: &String, (zone, subnet): &(&str, &str)| Target {
        kind: kind.clone(),
        zone: (*zone).to_owned(),
        subnet: (*subnet).to_owned(),
    };
    let all = kinds.iter().flat_map(|kind| zones.iter().map(move |zone| target(kind, zone)));
    all.filter(|target| dry.left_alone_for(&target.place(), now).is_none()).collect()
}

/// The tags of a launched machine. They are set at launch, so that its worker takes jobs as soon as
/// it has booted.
pub(super) fn tags<'t>(
    prefix: &'t str,
    pool: &'t str,
    model: &'t str,
    generation: &'t str,
    market: Market,
) -> [(&'static str, &'t str); 7] {
    let tier = match market {
        Market::OnDemand => tag::LAUNCHED,
        Market::Spot => tag::SPOT,
    };
    [
        (tag::INSTALLATION, prefix),
        (tag::ROLE, tag::WORKER),
        (tag::POOL, pool),
        (tag::HANDED_OVER, tag::YES),
        (tag::GENERATION, generation),
        (tag::MODEL, model),
        (tag::TIER, tier),
    ]
}

/// Metadata options of every machine: access only with a token and only from the machine itself. A
/// worker reads its identity from the tags there.
pub fn metadata_options() -> InstanceMetadataOptionsRequest {
    InstanceMetadataOptionsRequest::builder()
        .http_endpoint(InstanceMetadataEndpointState::Enabled)
        .http_tokens(HttpTokensState::Required)
        .http_put_response_hop_limit(1)
        .instance_metadata_tags(InstanceMetadataTagsState::Enabled)
        .build()
}

/// A call that launches at least one machine and at most `most`.
pub(super) fn call(
    client: &Client,
    pattern: &Pattern,
    target: &Target,
    most: usize,
    market: Market,
    tags: &[(&str, &str)],
    credits: Option<&str>,
) -> RunInstancesFluentBuilder {
    let profile =
        pattern.profile.as_ref().map(|arn| IamInstanceProfileSpecification::builder().arn(arn).build());
    let specification = |kind: ResourceType| {
        let tag = |(key, value): &(&str, &str)| Tag::builder().key(*key).value(*value).build();
        TagSpecification::builder().resource_type(kind).set_tags(Some(tags.iter().map(tag).collect())).build()
    };
    // An interrupted machine is terminated, as only EC2 could start it again.
    let spot = SpotMarketOptions::builder()
        .spot_instance_type(SpotInstanceType::OneTime)
        .instance_interruption_behavior(InstanceInterruptionBehavior::Terminate)
        .build();
    let market = match market {
        Market::OnDemand => None,
        Market::Spot => Some(
            InstanceMarketOptionsRequest::builder().market_type(MarketType::Spot).spot_options(spot).build(),
        ),
    };
    client
        .run_instances()
        .image_id(&pattern.image)
        .instance_type(InstanceType::from(target.kind.as_str()))
        .min_count(1)
        .max_count(i32::try_from(most).unwrap_or(i32::MAX))
        .subnet_id(&target.subnet)
        .set_security_group_ids(Some(pattern.groups.clone()))
        .set_key_name(pattern.key_pair.clone())
        .set_iam_instance_profile(profile)
        .metadata_options(metadata_options())
        // A drain powers the machine off, which terminates a launched one.
        .instance_initiated_shutdown_behavior(ShutdownBehavior::Terminate)
        .set_instance_market_options(market)
        .set_credit_specification(
            credits.map(|credits| CreditSpecificationRequest::builder().cpu_credits(credits).build()),
        )
        .tag_specifications(specification(ResourceType::Instance))
        .tag_specifications(specification(ResourceType::Volume))
}

/// The setting for CPU credits; `None` for types that are not burstable, as EC2 refuses it for
/// them.
pub(super) fn credits(kind: &str, credits: CpuCredits) -> Option<&'static str> {
    let is_burstable = ["t2.", "t3.", "t3a.", "t4g."].iter().any(|family| kind.starts_with(family));
    is_burstable.then_some(match credits {
        CpuCredits::Unlimited => "unlimited",
        CpuCredits::Standard => "standard",
    })
}

/// A machine that has just been launched.
pub(super) fn made(
    like: &Machine,
    target: &Target,
    id: &str,
    generation: Option<String>,
    model: Option<String>,
    now: DateTime<Utc>,
) -> Machine {
    Machine {
        id: id.to_owned(),
        pool: like.pool.clone(),
        state: Ec2State::Pending,
        kind: target.kind.clone(),
        zone: target.zone.clone(),
        generation,
        model,
        drain: None,
        retires: false,
        is_launched: true,
        pattern: Pattern { subnet: target.subnet.clone(), ..like.pattern.clone() },
        launched: now,
        reason: None,
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::fleet::ec2::machine::tests::machine;

    fn in_zone(id: &str, zone: &str, state: Ec2State) -> Machine {
        let pattern =
            Pattern { image: "ami-1".into(), subnet: format!("subnet-{zone}"), ..Pattern::default() };
        Machine { zone: zone.into(), pattern, ..machine(id, state) }
    }

    fn kinds_and_zones(targets: &[Target]) -> Vec<(&str, &str)> {
        targets.iter().map(|target| (target.kind.as_str(), target.zone.as_str())).collect()
    }

    #[test]
    fn each_type_is_tried_in_every_zone_before_the_next_type_and_the_emptiest_zone_first() {
        let machines = [in_zone("i-1", "a", Ec2State::Running), in_zone("i-2", "b", Ec2State::Stopped)];
        let machines: Vec<_> = machines.iter().collect();
        let launch = Launch { types: vec!["c7i.large".into(), "t3.small".into()], ..Launch::default() };
        let (mut dry, now) = (Dry::default(), DateTime::UNIX_EPOCH);
        let all = targets(&machines, "p", &launch, "t3.micro", &dry, now);
        let expected = [("c7i.large", "b"), ("c7i.large", "a"), ("t3.small", "b"), ("t3.small", "a")];
        assert_eq!(kinds_and_zones(&all), expected);
        assert_eq!(all[0].subnet, "subnet-b");
        dry.refused(&all[0].place(), now);
        assert_eq!(kinds_and_zones(&targets(&machines, "p", &launch, "t3.micro", &dry, now)), expected[1..]);
        let usual = targets(&machines, "p", &Launch::default(), "t3.micro", &Dry::default(), now);
        assert_eq!(kinds_and_zones(&usual), [("t3.micro", "b"), ("t3.micro", "a")]);
    }

    #[test]
    fn a_launch_copies_the_newest_parked_machine_that_is_not_being_replaced() {
        let mut old = in_zone("i-1", "a", Ec2State::Stopped);
        let mut new =
            Machine { launched: old.launched + TimeDelta::days(1), ..in_zone("i-2", "a", Ec2State::Stopped) };
        new.pattern.image = "ami-2".into();
        let launched =
            Machine { launched: new.launched + TimeDelta::days(1), is_launched: true, ..old.clone() };
        assert_eq!(pattern(&[&old, &new, &launched], "p").unwrap().id, "i-2");
        new.retires = true;
        assert_eq!(pattern(&[&old, &new, &launched], "p").unwrap().id, "i-1");
        old.pool = "other".into();
        assert_eq!(pattern(&[&old, &new, &launched], "p"), None);
    }
}
