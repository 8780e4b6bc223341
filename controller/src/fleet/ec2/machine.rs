//! An EC2 machine as described, and its tags, which hold all state that must survive the
//! controller.

use aws_sdk_ec2::types::{self, InstanceStateName as Ec2State};
use chrono::{DateTime, Utc};
use eirs_platform::aws::tag;

/// A machine as described by EC2.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Machine {
    pub(super) id: String,
    pub(super) pool: String,
    pub(super) state: Ec2State,
    /// Instance type, such as `t3.small`.
    pub(super) kind: String,
    /// Availability zone.
    pub(super) zone: String,
    pub(super) generation: Option<String>,
    pub(super) model: Option<String>,
    pub(super) drain: Option<Drain>,
    /// Whether an update is replacing it.
    pub(super) retires: bool,
    /// Whether the controller launched it on demand. Such a machine is terminated when it is not
    /// needed.
    pub(super) is_launched: bool,
    /// Parameters to launch a copy of it.
    pub(super) pattern: Pattern,
    /// Time of its last start, to the second.
    pub(super) launched: DateTime<Utc>,
    /// EC2's reason for its state.
    pub(super) reason: Option<String>,
}

/// The parameters that a machine was launched with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pattern {
    pub(super) image: String,
    pub(super) subnet: String,
    pub(super) groups: Vec<String>,
    /// ARN of its instance profile.
    pub(super) profile: Option<String>,
    pub(super) key_pair: Option<String>,
}

/// An ordered drain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Drain {
    /// The start of the machine that is drained. The drain does not apply to a later one.
    pub(super) generation: String,
    pub(super) since: DateTime<Utc>,
    pub(super) until: DateTime<Utc>,
}

impl Machine {
    /// Reads a description; `None` if the machine belongs to no pool.
    pub(super) fn of(instance: &types::Instance) -> Option<Self> {
        let tagged = |key: &str| {
            let tag = instance.tags().iter().find(|tag| tag.key() == Some(key))?;
            tag.value().filter(|value| !value.is_empty()).map(str::to_owned)
        };
        let launched = instance.launch_time().and_then(|at| DateTime::from_timestamp(at.secs(), 0));
        let reason =
            instance.state_reason().and_then(|reason| reason.message()).filter(|text| !text.is_empty());
        let zone = instance.placement().and_then(|placement| placement.availability_zone());
        Some(Self {
            id: instance.instance_id()?.to_owned(),
            pool: tagged(tag::POOL)?,
            state: instance.state()?.name()?.clone(),
            kind: instance.instance_type().map_or_else(String::new, |kind| kind.as_str().to_owned()),
            zone: zone.unwrap_or_default().to_owned(),
            generation: tagged(tag::GENERATION),
            model: tagged(tag::MODEL),
            drain: tagged(tag::DRAIN).and_then(|text| Drain::read(&text)),
            retires: tagged(tag::RETIRES).as_deref() == Some(tag::YES),
            is_launched: tagged(tag::TIER).is_some(),
            pattern: Pattern::of(instance),
            launched: launched.unwrap_or_default(),
            reason: reason.map(str::to_owned),
        })
    }

    /// Generation of a running machine.
    pub(super) fn generation(&self) -> &str {
        self.generation.as_deref().unwrap_or(tag::BY_HAND)
    }

    /// The drain of the current generation.
    pub(super) fn drain_now(&self) -> Option<&Drain> {
        self.drain.as_ref().filter(|drain| drain.generation == self.generation())
    }

    /// Whether it runs or is about to.
    pub(super) fn runs(&self) -> bool {
        matches!(self.state, Ec2State::Pending | Ec2State::Running)
    }

    /// Whether it still exists. EC2 describes terminated machines for another hour.
    pub(super) fn exists(&self) -> bool {
        !matches!(self.state, Ec2State::ShuttingDown | Ec2State::Terminated)
    }
}

impl Pattern {
    fn of(instance: &types::Instance) -> Self {
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        let groups = instance.security_groups().iter().filter_map(|group| group.group_id());
        Self {
            image: text(instance.image_id()),
            subnet: text(instance.subnet_id()),
            groups: groups.map(str::to_owned).collect(),
            profile: instance.iam_instance_profile().and_then(|profile| profile.arn()).map(str::to_owned),
            key_pair: instance.key_name().map(str::to_owned),
        }
    }
}

impl Drain {
    /// The value of its tag.
    pub(super) fn written(&self) -> String {
        format!("{} {} {}", self.generation, self.since.to_rfc3339(), self.until.to_rfc3339())
    }

    fn read(text: &str) -> Option<Self> {
        let date = |text: &str| DateTime::parse_from_rfc3339(text).ok().map(|date| date.to_utc());
        let mut words = text.split(' ');
        let (generation, since, until) = (words.next()?, words.next()?, words.next()?);
        Some(Self { generation: generation.to_owned(), since: date(since)?, until: date(until)? })
    }
}

/// Makes a name for a start that is unique for the machine.
pub(super) fn new_generation(now: DateTime<Utc>) -> String {
    now.format(GENERATION_FORMAT).to_string()
}

/// Time at which a start was ordered.
pub(super) fn started_at(generation: &str) -> Option<DateTime<Utc>> {
    chrono::NaiveDateTime::parse_from_str(generation, GENERATION_FORMAT).ok().map(|at| at.and_utc())
}

const GENERATION_FORMAT: &str = "%Y%m%dT%H%M%S%.6fZ";

#[cfg(test)]
pub(in crate::fleet::ec2) mod tests {
    use chrono::TimeDelta;

    use super::*;

    pub(in crate::fleet::ec2) fn machine(id: &str, state: Ec2State) -> Machine {
        Machine {
            id: id.to_owned(),
            pool: "p".to_owned(),
            state,
            kind: "t3.small".to_owned(),
            zone: "a".to_owned(),
            generation: None,
            model: None,
            drain: None,
            retires: false,
            is_launched: false,
            pattern: Pattern { image: "ami-1".into(), subnet: "subnet-a".into(), ..Pattern::default() },
            launched: DateTime::UNIX_EPOCH + TimeDelta::seconds(1_767_225_600),
            reason: None,
        }
    }

    #[test]
    fn a_drain_is_read_back_from_its_tag_and_belongs_to_one_generation() {
        let since = DateTime::UNIX_EPOCH + TimeDelta::microseconds(1_234_567);
        let drain = Drain { generation: new_generation(since), since, until: since + TimeDelta::seconds(90) };
        assert_eq!(Drain::read(&drain.written()), Some(drain.clone()));
        assert!(drain.written().len() <= 256, "the longest value of a tag");
        let tag = |key: &str, value: &str| types::Tag::builder().key(key).value(value).build();
        let described = |generation: &str| {
            let state = types::InstanceState::builder().name(Ec2State::Running).build();
            let instance =
                types::Instance::builder().instance_id("i-1").state(state).tags(tag(tag::POOL, "p"));
            let instance =
                instance.tags(tag(tag::GENERATION, generation)).tags(tag(tag::DRAIN, &drain.written()));
            Machine::of(&instance.build()).unwrap()
        };
        assert_eq!(described(&drain.generation).drain_now(), Some(&drain));
        assert_eq!(described("20260101T000000.000000Z").drain_now(), None);
    }

    #[test]
    fn a_generation_contains_the_time_of_its_order() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::microseconds(1_767_225_600_123_456);
        assert_eq!(new_generation(now), "20260101T000000.123456Z");
        assert_eq!(started_at(&new_generation(now)), Some(now));
        assert_eq!(started_at("by hand"), None);
    }

    #[test]
    fn a_machine_without_a_pool_is_ignored() {
        let state = types::InstanceState::builder().name(Ec2State::Running).build();
        let stranger = types::Instance::builder().instance_id("i-1").state(state).build();
        assert_eq!(Machine::of(&stranger), None);
    }
}
