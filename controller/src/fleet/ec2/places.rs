//! Places for instances that are launched on demand: `POOL-launched-1` and so on. An empty place
//! counts as a stopped instance; its failures are remembered after its machine is gone. The
//! assignment of machines to places is not stored: a controller that starts puts each machine into
//! the first free place.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::machine::Machine;
use crate::fleet::{Instance, PoolSpec, Tier};

/// The places that have had a machine, by name.
#[derive(Debug, Default)]
pub(super) struct Places(BTreeMap<String, Place>);

#[derive(Debug, Default)]
struct Place {
    /// Id of the machine in it.
    machine: Option<String>,
    /// Time since which it is empty.
    since: DateTime<Utc>,
    crashes: u32,
    last_error: Option<String>,
}

/// The pool of a place; `None` if the name is not that of a place.
pub(super) fn pool_of(name: &str) -> Option<&str> {
    let (pool, number) = name.rsplit_once("-launched-")?;
    number.parse::<u32>().is_ok().then_some(pool)
}

fn name(pool: &str, number: u32) -> String {
    format!("{pool}-launched-{number}")
}

impl Places {
    /// The place of a machine. A new machine gets the first free one.
    pub(super) fn take(&mut self, machine: &Machine) -> String {
        if let Some(name) = self.name_of(&machine.id) {
            return name.to_owned();
        }
        let is_free = |name: &String| self.0.get(name).is_none_or(|place| place.machine.is_none());
        let mut names = (1..).map(|number| name(&machine.pool, number));
        let free = names.find(is_free).unwrap_or_else(|| name(&machine.pool, u32::MAX));
        self.fill(&free, &machine.id);
        free
    }

    /// Puts a machine into a place.
    pub(super) fn fill(&mut self, name: &str, machine: &str) {
        self.0.entry(name.to_owned()).or_default().machine = Some(machine.to_owned());
    }

    /// Name of the place of a machine.
    pub(super) fn name_of(&self, machine: &str) -> Option<&str> {
        let is_in_place = |(_, place): &(&String, &Place)| place.machine.as_deref() == Some(machine);
        self.0.iter().find(is_in_place).map(|(name, _)| name.as_str())
    }

    /// Id of the machine in a place.
    pub(super) fn machine(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.machine.as_deref()
    }

    /// Empties the place of a machine that ended: as ordered, or unexpectedly for the reason
    /// `died`.
    pub(super) fn leave(&mut self, machine: &str, died: Option<&str>, now: DateTime<Utc>) {
        let Some(place) = self.0.values_mut().find(|place| place.machine.as_deref() == Some(machine)) else {
            return;
        };
        (place.machine, place.since) = (None, now);
        match died {
            None => (place.crashes, place.last_error) = (0, None),
            Some(why) => {
                place.crashes = place.crashes.saturating_add(1);
                place.last_error = Some(format!("ended unexpectedly: {why}"));
            }
        }
    }

    /// The empty places of a pool, with one additional place if a replacement must start before a
    /// machine stops.
    pub(super) fn empty(&self, pool: &PoolSpec, one_more: bool) -> Vec<Instance> {
        let most = pool.launch.most.saturating_add(u32::from(one_more && pool.launch.most > 0));
        let names = (1..=most).map(|number| name(&pool.name, number));
        let view = |id: String| {
            let place = self.0.get(&id);
            if place.is_some_and(|place| place.machine.is_some()) {
                return None;
            }
            let since = place.map(|place| place.since).unwrap_or_default();
            Some(Instance {
                crashes: place.map_or(0, |place| place.crashes),
                last_error: place.and_then(|place| place.last_error.clone()),
                tier: Tier::Launched,
                ..Instance::stopped(id, &pool.name, &pool.model, since)
            })
        };
        names.filter_map(view).collect()
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::types::InstanceStateName as Ec2State;

    use super::*;
    use crate::{fleet::ec2::machine::tests::machine, policy::Launch};

    fn spec(most: u32) -> PoolSpec {
        let launch = Launch { most, ..Launch::default() };
        PoolSpec { name: "p".into(), model: "m".into(), max: 0, launch }
    }

    fn ids(places: &Places, most: u32) -> Vec<String> {
        places.empty(&spec(most), false).into_iter().map(|place| place.id).collect()
    }

    #[test]
    fn a_machine_keeps_its_place_and_a_new_one_gets_the_first_free_place() {
        let mut places = Places::default();
        let now = DateTime::UNIX_EPOCH;
        let [one, two] = ["i-1", "i-2"].map(|id| machine(id, Ec2State::Running));
        assert_eq!((places.take(&one), places.take(&two)), ("p-launched-1".into(), "p-launched-2".into()));
        assert_eq!(places.take(&one), "p-launched-1");
        assert_eq!(ids(&places, 3), ["p-launched-3"]);
        assert_eq!(ids(&places, 2), [""; 0]);
        let one_more: Vec<_> = places.empty(&spec(2), true).into_iter().map(|place| place.id).collect();
        assert_eq!(one_more, ["p-launched-3"]);
        places.leave("i-1", None, now);
        assert_eq!(ids(&places, 3), ["p-launched-1", "p-launched-3"]);
        assert_eq!((places.machine("p-launched-1"), places.machine("p-launched-2")), (None, Some("i-2")));
        assert_eq!(places.take(&machine("i-3", Ec2State::Pending)), "p-launched-1");
        assert_eq!(pool_of("p-launched-1"), Some("p"));
        assert_eq!((pool_of("i-0abc"), pool_of("p-launched-x")), (None, None));
    }

    #[test]
    fn a_place_counts_crashes_in_a_row_until_a_machine_ends_as_ordered() {
        let (mut places, now) = (Places::default(), DateTime::UNIX_EPOCH);
        for crashes in 1..4 {
            places.fill("p-launched-1", "i-1");
            places.leave("i-1", Some("Server.InternalError"), now);
            let place = places.empty(&spec(1), false).pop().unwrap();
            assert!(place.last_error.unwrap().contains("Server.InternalError"));
            assert_eq!((place.crashes, place.since), (crashes, now));
        }
        places.fill("p-launched-1", "i-1");
        places.leave("i-1", None, now);
        let place = places.empty(&spec(1), false).pop().unwrap();
        assert_eq!((place.crashes, place.last_error), (0, None));
    }
}
