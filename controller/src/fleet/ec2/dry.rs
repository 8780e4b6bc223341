//! Places without capacity. EC2 runs out of capacity by instance type and zone, for minutes, and a
//! start that includes one machine of such a place fails as a whole.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};

use super::machine::Machine;
use crate::backoff;

/// A source of capacity: an instance type in an availability zone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    kind: String,
    zone: String,
}

/// The places that recently had no capacity.
#[derive(Debug, Default)]
pub(super) struct Dry(BTreeMap<Place, Row>);

#[derive(Debug)]
struct Row {
    refusals: u32,
    until: DateTime<Utc>,
}

impl Place {
    pub(super) fn new(kind: &str, zone: &str) -> Self {
        Self { kind: kind.to_owned(), zone: zone.to_owned() }
    }

    pub(super) fn of(machine: &Machine) -> Self {
        Self { kind: machine.kind.clone(), zone: machine.zone.clone() }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in {}", self.kind, self.zone)
    }
}

impl Dry {
    /// Time for which a place is not tried; `None` if it may be.
    pub(super) fn left_alone_for(&self, place: &Place, now: DateTime<Utc>) -> Option<Duration> {
        let row = self.0.get(place)?;
        (row.until - now).to_std().ok().filter(|rest| !rest.is_zero())
    }

    /// Records that a place had no capacity for a single machine.
    pub(super) fn refused(&mut self, place: &Place, now: DateTime<Utc>) {
        let row = self.0.entry(place.clone()).or_insert(Row { refusals: 0, until: now });
        row.refusals += 1;
        row.until = now + backoff::CAPACITY.after(row.refusals);
    }

    /// Records that a place had capacity.
    pub(super) fn had_capacity(&mut self, place: &Place) {
        self.0.remove(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dry_place_is_left_alone_longer_each_time_until_it_has_capacity() {
        let place = Place { kind: "t3.small".into(), zone: "a".into() };
        let other = Place { zone: "b".into(), ..place.clone() };
        let mut dry = Dry::default();
        let mut now = DateTime::UNIX_EPOCH;
        let mut rests = Vec::new();
        for _ in 0..6 {
            dry.refused(&place, now);
            let rest = dry.left_alone_for(&place, now).unwrap();
            rests.push(rest.as_secs());
            now += rest;
            assert_eq!(dry.left_alone_for(&place, now), None);
        }
        assert_eq!(rests, [4, 16, 30, 30, 30, 30]);
        assert_eq!(dry.left_alone_for(&other, DateTime::UNIX_EPOCH), None);
        dry.had_capacity(&place);
        dry.refused(&place, now);
        assert_eq!(dry.left_alone_for(&place, now), Some(Duration::from_secs(4)));
    }
}
