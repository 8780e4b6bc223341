//! Where there was no capacity: EC2 runs dry by instance type and zone, for minutes, and a start
//! that names one machine of such a place fails for all that it names.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};

use super::machine::Machine;
use crate::backoff;

/// Where capacity comes from: an instance type in an availability zone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    kind: String,
    zone: String,
}

/// The places that refused lately.
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
    /// For how long it is still left alone.
    pub(super) fn rests_for(&self, place: &Place, now: DateTime<Utc>) -> Option<Duration> {
        let row = self.0.get(place)?;
        (row.until - now).to_std().ok().filter(|rest| !rest.is_zero())
    }

    /// It refused a single machine.
    pub(super) fn refused(&mut self, place: &Place, now: DateTime<Utc>) {
        let row = self.0.entry(place.clone()).or_insert(Row { refusals: 0, until: now });
        row.refusals += 1;
        row.until = now + backoff::CAPACITY.after(row.refusals);
    }

    /// It gave.
    pub(super) fn gave(&mut self, place: &Place) {
        self.0.remove(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dry_place_rests_longer_each_time_until_it_gives_again() {
        let place = Place { kind: "t3.small".into(), zone: "a".into() };
        let other = Place { zone: "b".into(), ..place.clone() };
        let mut dry = Dry::default();
        let mut now = DateTime::UNIX_EPOCH;
        let mut rests = Vec::new();
        for _ in 0..6 {
            dry.refused(&place, now);
            let rest = dry.rests_for(&place, now).unwrap();
            rests.push(rest.as_secs());
            now += rest;
            assert_eq!(dry.rests_for(&place, now), None);
        }
        assert_eq!(rests, [4, 16, 30, 30, 30, 30]);
        assert_eq!(dry.rests_for(&other, DateTime::UNIX_EPOCH), None);
        dry.gave(&place);
        dry.refused(&place, now);
        assert_eq!(dry.rests_for(&place, now), Some(Duration::from_secs(4)));
    }
}
