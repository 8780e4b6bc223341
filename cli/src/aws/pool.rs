//! The machines of a pool: launched from the image, checked until they run and are reachable,
//! stopped, and handed over to the controller. A machine that was not handed over belongs to a run
//! of setup, this one or an interrupted one.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use aws_sdk_ec2::types::InstanceStateName as State;
use aws_sdk_ssm::types::{InstanceInformationStringFilter, PingStatus};
use eirs_platform::{
    aws::{self, tag},
    error::Error,
    settings::Model,
};
use tokio::time::Instant;

use super::{
    Account, Poll,
    iam::Profile,
    instances::{self, Instance},
    launch::{Image, Launch},
    network::Subnet,
};

/// Maximum number of machines that are launched at once: a new account may run five vCPUs at a
/// time; stopped machines do not count.
const WAVE: u32 = 4;
/// Time limit for a machine to run.
const RUNS_WITHIN: Duration = Duration::from_secs(180);
/// Time limit for its SSM agent to register, which about one in two hundred never does.
const REGISTERED_WITHIN: Duration = Duration::from_secs(300);
/// Time limit until EC2 describes the effect of a call.
const SEEN_WITHIN: Duration = Duration::from_secs(60);
const STOPS_WITHIN: Duration = Duration::from_secs(600);
/// Number of consecutive failed machines after which setup gives up.
const FAILURES: u32 = 5;

/// The desired state of a pool, and its machines.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    pub(crate) name: String,
    /// The model that the pool serves.
    pub(crate) model: String,
    /// The desired number of machines.
    pub(crate) wanted: u32,
    pub(crate) machines: Vec<Instance>,
    /// Machines that the controller launched because the others did not suffice, and terminates
    /// when they are no longer needed. They are not counted.
    pub(crate) launched: Vec<Instance>,
}

/// The part of a policy about the size of its pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) max: u32,
    pub(crate) model: String,
}

/// The pools by name.
pub(crate) type Sizes = BTreeMap<String, Size>;

/// The parameters of launches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) image: &'a Image,
    pub(crate) subnets: &'a [Subnet],
    pub(crate) group: &'a str,
}

/// Returns the pools of the policies with their machines, and pools without a policy, which should
/// have no machines.
pub(crate) async fn all(account: &Account, sizes: &Sizes) -> anyhow::Result<Vec<Pool>> {
    let empty = |name: &str, size: &Size| Pool {
        name: name.to_owned(),
        model: size.model.clone(),
        wanted: size.max,
        machines: Vec::new(),
        launched: Vec::new(),
    };
    let mut pools: BTreeMap<String, Pool> =
        sizes.iter().map(|(name, size)| (name.clone(), empty(name, size))).collect();
    for machine in instances::all(account, Some(tag::WORKER)).await? {
        let Some(name) = machine.tag(tag::POOL).map(str::to_owned) else { continue };
        let none = || empty(&name, &Size { max: 0, model: Model::DEFAULT.to_owned() });
        if machine.tag(tag::TIER).is_none() {
            pools.entry(name.clone()).or_insert_with(none).machines.push(machine);
        } else if let Some(pool) = pools.get_mut(&name) {
            pool.launched.push(machine);
        }
    }
    Ok(pools.into_values().collect())
}

/// The planned changes of a pool.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Number of machines to launch.
    pub(crate) missing: u32,
    /// Machines of an interrupted run, which are completed.
    pub(crate) unfinished: Vec<String>,
    /// Machines of the controller with another image, which an update replaces.
    pub(crate) outdated: Vec<String>,
    /// Other machines with another image, which are useless.
    pub(crate) strays: Vec<String>,
    /// Parked machines beyond the maximum of the policy, which only cost money.
    pub(crate) surplus: Vec<String>,
}

impl Changes {
    pub(crate) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl Pool {
    /// Returns the required changes, given the current image; if it does not exist yet, all
    /// machines are outdated.
    pub(crate) fn changes(&self, image: Option<&Image>) -> Changes {
        let mut changes = Changes::default();
        let is_current = |machine: &&Instance| image.is_some_and(|image| machine.image == image.id);
        let (current, others): (Vec<_>, Vec<_>) = self.machines.iter().partition(is_current);
        for machine in others {
            let list = if machine.is_handed_over() { &mut changes.outdated } else { &mut changes.strays };
            list.push(machine.id.clone());
        }
        let (finished, unfinished): (Vec<_>, Vec<_>) =
            current.into_iter().partition(|machine| machine.is_handed_over());
        changes.unfinished = unfinished.into_iter().map(|machine| machine.id.clone()).collect();
        let there = (finished.len() + changes.unfinished.len() + changes.outdated.len()) as u32;
        changes.missing = self.wanted.saturating_sub(there);
        let parked = finished.iter().filter(|machine| machine.state == State::Stopped);
        let surplus = there.saturating_sub(self.wanted) as usize;
        changes.surplus = parked.map(|machine| machine.id.clone()).rev().take(surplus).collect();
        changes
    }

    /// Returns the profile of its machines.
    fn profile(&self) -> Profile {
        Profile::Worker(self.model.clone())
    }

    /// Returns machines with the permissions of another model, because the policy was changed.
    pub(crate) fn of_another_model(&self, account: &Account) -> Vec<String> {
        let should = self.profile().name(account);
        // The model of a pool without a policy is unknown.
        let all = self.machines.iter().chain(&self.launched).filter(|_| self.wanted > 0);
        let others = all.filter(|it| it.profile.as_ref().is_some_and(|profile| *profile != should));
        others.map(|machine| machine.id.clone()).collect()
    }

    /// Makes the pool what it should be, except for machines with other images, which an update
    /// replaces.
    pub(crate) async fn ensure(
        &self,
        account: &Account,
        place: Place<'_>,
        say: &dyn Fn(&str),
    ) -> anyhow::Result<()> {
        let changes = self.changes(Some(place.image));
        let others = self.of_another_model(account);
        if !others.is_empty() {
            let name = self.profile().name(account);
            say(&format!("{}: giving {} the role {name}", self.name, others.join(", ")));
            instances::set_profile(account, &others, &name).await?;
        }
        let superfluous = [changes.strays.as_slice(), &changes.surplus].concat();
        self.take_away(account, &superfluous, say).await?;
        if !changes.unfinished.is_empty() {
            say(&format!("{}: finishing {}", self.name, changes.unfinished.join(", ")));
            wake(account, &changes.unfinished).await?;
            let reached = self.come_up(account, changes.unfinished.clone(), say).await?;
            self.park(account, &reached, say).await?;
        }
        let mut missing = self.machines_missing(account, place.image).await?;
        let (mut wave, mut failures) = (WAVE, 0);
        while missing > 0 {
            let count = missing.min(wave);
            say(&format!("{}: launching {count} of {missing}", self.name));
            let launched = match self.launch(account, place, count, &[]).await {
                Ok(launched) => launched,
                // A limit of the account or of a zone; smaller waves may succeed.
                Err(Error::NoCapacity { why, .. }) if wave > 1 => {
                    wave = 1;
                    say(&format!("{}: {why}; one at a time", self.name));
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let proven = self.come_up(account, launched, say).await?;
            failures = if proven.is_empty() { failures + 1 } else { 0 };
            anyhow::ensure!(
                failures < FAILURES,
                "{failures} launches in a row failed in the pool {}: no machine is reachable over \
                SSM; do its subnets reach the internet?",
                self.name
            );
            self.park(account, &proven, say).await?;
            missing -= proven.len() as u32;
        }
        Ok(())
    }

    async fn machines_missing(&self, account: &Account, image: &Image) -> anyhow::Result<u32> {
        Ok(self.now(account).await?.changes(Some(image)).missing)
    }

    /// Returns the same pool with its current machines.
    pub(crate) async fn now(&self, account: &Account) -> anyhow::Result<Self> {
        let sizes =
            BTreeMap::from([(self.name.clone(), Size { max: self.wanted, model: self.model.clone() })]);
        let now = all(account, &sizes).await?.into_iter().find(|pool| pool.name == self.name);
        Ok(now.unwrap_or_else(|| Self { machines: Vec::new(), launched: Vec::new(), ..self.clone() }))
    }

    /// Takes parked machines back from the controller and terminates them. A machine that the
    /// controller has started meanwhile stays.
    pub(crate) async fn take_away(
        &self,
        account: &Account,
        ids: &[String],
        say: &dyn Fn(&str),
    ) -> anyhow::Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        say(&format!("{}: removing {}", self.name, ids.join(", ")));
        instances::set_tags(account, ids, &[(tag::HANDED_OVER, "no")]).await?;
        let now = instances::all(account, Some(tag::WORKER)).await?;
        let (at_work, parked): (Vec<_>, Vec<_>) = now
            .into_iter()
            .filter(|machine| ids.contains(&machine.id))
            .partition(|machine| machine.tag(tag::GENERATION).is_some() && machine.state != State::Stopped);
        let of = |machines: Vec<Instance>| machines.into_iter().map(|machine| machine.id).collect::<Vec<_>>();
        let at_work = of(at_work);
        if !at_work.is_empty() {
            say(&format!(
                "{}: {} was just started, and stays until it is parked",
                self.name,
                at_work.join(", ")
            ));
            instances::set_tags(account, &at_work, &[(tag::HANDED_OVER, tag::YES)]).await?;
        }
        instances::terminate(account, &of(parked)).await
    }

    pub(crate) async fn launch(
        &self,
        account: &Account,
        place: Place<'_>,
        count: u32,
        tags: &[(&str, &str)],
    ) -> Result<Vec<String>, Error> {
        let known = instances::all(account, Some(tag::WORKER)).await;
        let known =
            known.map_err(|error| Error::unavailable("listing the instances", format!("{error:#}")))?;
        let mut subnets: Vec<_> = place.subnets.iter().collect();
        // Zones with the fewest machines first, so that a zone without capacity affects few.
        subnets.sort_by_key(|subnet| known.iter().filter(|machine| machine.zone == subnet.zone).count());
        let mut launched = Vec::new();
        let (mut refused, mut dry) = (None, BTreeSet::new());
        for number in 0..count as usize {
            // Alternates between zones; a zone without capacity is skipped from then on.
            let round = subnets.iter().cycle().skip(number % subnets.len()).take(subnets.len());
            for subnet in round {
                if dry.contains(&subnet.id) {
                    continue;
                }
                let launch = Launch {
                    purpose: tag::WORKER,
                    image: place.image,
                    kind: &account.settings.setup.worker_type,
                    subnet: &subnet.id,
                    group: place.group,
                    profile: Some(self.profile()),
                    user_data: None,
                    tags: &[&[(tag::POOL, self.name.as_str())], tags].concat(),
                    count: 1,
                };
                match launch.run(account).await {
                    Ok(ids) => {
                        launched.extend(ids);
                        break;
                    }
                    Err(error @ Error::NoCapacity { .. }) => {
                        dry.insert(subnet.id.clone());
                        refused = Some(error);
                    }
                    Err(error) => {
                        refused = Some(error);
                        break;
                    }
                }
            }
        }
        match refused {
            Some(error) if launched.is_empty() => Err(error),
            _ => Ok(launched),
        }
    }

    /// Waits until machines run and are reachable, and returns them. The others are terminated.
    pub(crate) async fn come_up(
        &self,
        account: &Account,
        ids: Vec<String>,
        say: &dyn Fn(&str),
    ) -> anyhow::Result<Vec<String>> {
        say(&format!("{}: waiting for {} to start", self.name, ids.join(", ")));
        let mut up = Vec::new();
        for id in &ids {
            match instances::wait_for(account, std::slice::from_ref(id), &State::Running, RUNS_WITHIN).await {
                Ok(_) => up.push(id.clone()),
                Err(error) => say(&format!("{}: {error:#}; launching another one", self.name)),
            }
        }
        let reached = registered(account, &up).await?;
        let lost: Vec<_> = ids.iter().filter(|id| !reached.contains(id)).cloned().collect();
        if !lost.is_empty() {
            say(&format!(
                "{}: {} cannot be reached over SSM; launching another one",
                self.name,
                lost.join(", ")
            ));
            instances::terminate(account, &lost).await?;
        }
        Ok(reached)
    }

    /// Stops proven machines, and hands them over to the controller.
    pub(crate) async fn park(
        &self,
        account: &Account,
        ids: &[String],
        say: &dyn Fn(&str),
    ) -> anyhow::Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        say(&format!("{}: parking {}", self.name, ids.join(", ")));
        instances::stop(account, ids).await?;
        instances::wait_for(account, ids, &State::Stopped, STOPS_WITHIN).await?;
        instances::set_tags(account, ids, &[(tag::HANDED_OVER, tag::YES)]).await
    }
}

/// Starts the machines of an interrupted run, since it is not recorded whether they come up and are
/// reachable.
pub(crate) async fn wake(account: &Account, ids: &[String]) -> anyhow::Result<()> {
    let machines = instances::all(account, Some(tag::WORKER)).await?;
    let asleep = machines.into_iter().filter(|machine| ids.contains(&machine.id));
    let asleep = asleep.filter(|machine| matches!(machine.state, State::Stopping | State::Stopped));
    let asleep: Vec<_> = asleep.map(|machine| machine.id).collect();
    instances::wait_for(account, &asleep, &State::Stopped, STOPS_WITHIN).await?;
    instances::start(account, &asleep).await?;
    // EC2's description lags. A machine that is still stopped after this time has not started.
    let (deadline, mut poll) = (Instant::now() + SEEN_WITHIN, Poll::new());
    loop {
        let machines = instances::all(account, Some(tag::WORKER)).await?;
        let is_asleep = |machine: &Instance| asleep.contains(&machine.id) && machine.state == State::Stopped;
        if !machines.iter().any(is_asleep) || Instant::now() >= deadline {
            return Ok(());
        }
        poll.wait().await;
    }
}

/// Waits until SSM knows these machines, and returns those that it knows.
async fn registered(account: &Account, ids: &[String]) -> anyhow::Result<Vec<String>> {
    let (deadline, mut poll) = (Instant::now() + REGISTERED_WITHIN, Poll::new());
    loop {
        let known = online(account, ids).await?;
        if known.len() == ids.len() || Instant::now() >= deadline {
            return Ok(known);
        }
        poll.wait().await;
    }
}

async fn online(account: &Account, ids: &[String]) -> anyhow::Result<Vec<String>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let these = InstanceInformationStringFilter::builder()
        .key("InstanceIds")
        .set_values(Some(ids.to_vec()))
        .build()?;
    let call = account.ssm.describe_instance_information().filters(these);
    let mut found = call.into_paginator().items().send();
    let mut known = Vec::new();
    while let Some(information) = found.next().await {
        let information = information.map_err(|error| aws::error("asking SSM for the instances", &error))?;
        if information.ping_status() == Some(&PingStatus::Online) {
            known.extend(information.instance_id().map(str::to_owned));
        }
    }
    known.retain(|id| ids.contains(id));
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(id: &str, image: &str, state: State, handed_over: bool) -> Instance {
        let yes = handed_over.then(|| (tag::HANDED_OVER.to_owned(), tag::YES.to_owned()));
        Instance { tags: yes.into_iter().collect(), ..instances::tests::machine(id, image, state) }
    }

    fn changes(wanted: u32, machines: Vec<Instance>) -> Changes {
        let image = Image { id: "new".into(), root_device: "/dev/sda1".into(), root_gib: None };
        Pool { name: "p".into(), model: "m".into(), wanted, machines, launched: Vec::new() }
            .changes(Some(&image))
    }

    fn ids(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn a_complete_pool_is_unchanged_in_any_state_of_its_machines() {
        let machines = [State::Stopped, State::Running, State::Stopping];
        let machines = machines.into_iter().map(|state| machine("i", "new", state, true)).collect();
        assert!(changes(3, machines).is_nothing());
    }

    #[test]
    fn missing_machines_are_launched_and_unfinished_ones_completed() {
        let begun = machine("i-2", "new", State::Running, false);
        let changes = changes(4, vec![machine("i-1", "new", State::Stopped, true), begun]);
        assert_eq!((changes.missing, changes.unfinished), (2, ids(&["i-2"])));
    }

    #[test]
    fn outdated_machines_count_until_they_are_replaced_but_strays_do_not() {
        let machines = vec![
            machine("i-1", "old", State::Stopped, true),
            machine("i-2", "old", State::Running, true),
            machine("i-3", "old", State::Running, false),
        ];
        let changes = changes(3, machines);
        assert_eq!(changes.outdated, ids(&["i-1", "i-2"]));
        assert_eq!(changes.strays, ids(&["i-3"]));
        assert_eq!(changes.missing, 1, "never more than the maximum of the pool");
    }

    #[test]
    fn only_parked_machines_are_surplus() {
        let machines = vec![
            machine("i-1", "new", State::Running, true),
            machine("i-2", "new", State::Stopped, true),
            machine("i-3", "new", State::Stopped, true),
        ];
        assert_eq!(changes(2, machines.clone()).surplus, ids(&["i-3"]));
        assert_eq!(changes(0, machines).surplus, ids(&["i-3", "i-2"]));
    }
}
