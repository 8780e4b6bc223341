//! Starts many machines with one order, and handles refusals of the whole order because of some of
//! them.
//!
//! A call fails as a whole if one machine does not exist, is between two states or has no capacity.
//! If the error names machines, the others are tried again without them. If not, the batch is
//! divided, first by place and then in halves, until the culprits are isolated.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use eirs_platform::error::Error;

use super::dry::{Dry, Place};
use crate::fleet::Refusal;

/// A machine to start, and the place of its capacity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) id: String,
    pub(super) place: Place,
}

/// An order in progress: the machines that are still to be tried, and the results so far.
#[derive(Debug)]
pub(super) struct StartOrder {
    batches: Vec<Vec<Candidate>>,
    started: Vec<Candidate>,
    refused: Vec<Refusal>,
}

impl StartOrder {
    /// Makes an order that tries all machines in one call, except those in places without capacity,
    /// which are refused at once.
    pub(super) fn new(candidates: Vec<Candidate>, dry: &Dry, now: DateTime<Utc>) -> Self {
        let mut order = Self { batches: Vec::new(), started: Vec::new(), refused: Vec::new() };
        let candidates = order.without_dry(candidates, dry, now);
        order.push(candidates);
        order
    }

    /// Ids of the machines that are still to be tried.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &str> {
        self.batches.iter().flatten().map(|candidate| candidate.id.as_str())
    }

    /// Refuses all machines that are still to be tried.
    pub(super) fn give_up(&mut self, error: &Error) {
        for batch in std::mem::take(&mut self.batches) {
            self.refuse(batch, error);
        }
    }

    /// The machines of the next call.
    pub(super) fn next(&mut self, dry: &Dry, now: DateTime<Utc>) -> Option<Vec<Candidate>> {
        while let Some(batch) = self.batches.pop() {
            let batch = self.without_dry(batch, dry, now);
            if !batch.is_empty() {
                return Some(batch);
            }
        }
        None
    }

    /// Records that EC2 accepted the call.
    pub(super) fn taken(&mut self, batch: Vec<Candidate>, dry: &mut Dry) {
        batch.iter().for_each(|candidate| dry.had_capacity(&candidate.place));
        self.started.extend(batch);
    }

    /// Records that EC2 refused the call.
    pub(super) fn refused(
        &mut self,
        batch: Vec<Candidate>,
        error: &Error,
        dry: &mut Dry,
        now: DateTime<Utc>,
    ) {
        let text = error.to_string();
        let (named, others): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|candidate| names(&text, &candidate.id));
        let is_capacity = matches!(error, Error::NoCapacity { .. });
        if !named.is_empty() {
            self.refuse(named, error);
            return self.push(others);
        }
        match others.as_slice() {
            [only] if is_capacity => {
                dry.refused(&only.place, now);
                self.refuse(others, error);
            }
            // One of the machines may be the cause. A call without an answer gives no such hint.
            [_, _, ..] if is_capacity || concerns_some(error) => self.part(others),
            _ => self.refuse(others, error),
        }
    }

    /// The machines that were started, and the refusals.
    pub(super) fn end(self) -> (Vec<Candidate>, Vec<Refusal>) {
        (self.started, self.refused)
    }

    fn without_dry(&mut self, batch: Vec<Candidate>, dry: &Dry, now: DateTime<Utc>) -> Vec<Candidate> {
        let rests = |candidate: &Candidate| dry.left_alone_for(&candidate.place, now);
        let (resting, others): (Vec<_>, Vec<_>) = batch.into_iter().partition(|c| rests(c).is_some());
        self.refused.extend(resting.into_iter().map(|candidate| {
            let why = format!("{} had no capacity a moment ago", candidate.place);
            let error = Error::no_capacity(format!("starting {}", candidate.id), why);
            Refusal { id: candidate.id, error }
        }));
        others
    }

    fn push(&mut self, batch: Vec<Candidate>) {
        if !batch.is_empty() {
            self.batches.push(batch);
        }
    }

    fn part(&mut self, batch: Vec<Candidate>) {
        let places: BTreeSet<_> = batch.iter().map(|candidate| &candidate.place).collect();
        if places.len() == 1 {
            let mut first = batch;
            let second = first.split_off(first.len() / 2);
            self.push(second);
            self.push(first);
            return;
        }
        let mut by_place: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for candidate in batch {
            by_place.entry(candidate.place.clone()).or_default().push(candidate);
        }
        by_place.into_values().for_each(|batch| self.push(batch));
    }

    fn refuse(&mut self, batch: Vec<Candidate>, error: &Error) {
        self.refused
            .extend(batch.into_iter().map(|Candidate { id, .. }| Refusal { id, error: error.clone() }));
    }
}

/// Whether the text names this machine.
fn names(text: &str, id: &str) -> bool {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).any(|word| word == id)
}

/// Whether the error may concern a single machine among many, rather than the caller or the whole
/// service.
fn concerns_some(error: &Error) -> bool {
    let text = error.to_string();
    let of_some = ["IncorrectInstanceState", "InvalidInstanceID", "IncorrectState", "UnsupportedOperation"];
    of_some.iter().any(|code| text.contains(code))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fleet::ec2::machine::tests::machine;

    fn candidate(id: u32, zone: u32) -> Candidate {
        let mut machine = machine(&format!("i-{id:017x}"), aws_sdk_ec2::types::InstanceStateName::Stopped);
        machine.zone = format!("zone-{zone}");
        Candidate { place: Place::of(&machine), id: machine.id }
    }

    /// Carries out an order against a simulated EC2, and counts the calls.
    fn carry_out(
        candidates: &[Candidate],
        ec2: impl Fn(&[Candidate]) -> Result<(), Error>,
    ) -> (StartOrder, usize) {
        let (mut dry, now, mut calls) = (Dry::default(), DateTime::UNIX_EPOCH, 0);
        let mut order = StartOrder::new(candidates.to_vec(), &dry, now);
        while let Some(batch) = order.next(&dry, now) {
            calls += 1;
            match ec2(&batch) {
                Ok(()) => order.taken(batch, &mut dry),
                Err(error) => order.refused(batch, &error, &mut dry, now),
            }
        }
        (order, calls)
    }

    fn ids(candidates: &[Candidate]) -> BTreeSet<&str> {
        candidates.iter().map(|candidate| candidate.id.as_str()).collect()
    }

    #[test]
    fn without_errors_an_order_is_one_call() {
        let all: Vec<_> = (0..40).map(|id| candidate(id, id % 3)).collect();
        let (order, calls) = carry_out(&all, |_| Ok(()));
        assert_eq!((order.started.len(), calls), (40, 1));
    }

    #[test]
    fn a_dry_zone_does_not_affect_the_others_and_costs_few_calls() {
        let all: Vec<_> = (0..30).map(|id| candidate(id, id % 3)).collect();
        let dry_zone = candidate(0, 1).place;
        let (order, calls) = carry_out(&all, |batch| {
            let is_dry = batch.iter().any(|candidate| candidate.place == dry_zone);
            if is_dry { Err(Error::no_capacity("starting", "InsufficientInstanceCapacity")) } else { Ok(()) }
        });
        assert_eq!((order.started.len(), order.refused.len()), (20, 10));
        assert!(order.refused.iter().all(|refusal| matches!(refusal.error, Error::NoCapacity { .. })));
        assert!(calls <= 7, "all, two zones, 10, 5, 2, 1 of the dry one: {calls}");
    }

    #[test]
    fn machines_that_the_error_names_are_left_out_at_once() {
        let all: Vec<_> = (0..20).map(|id| candidate(id, 0)).collect();
        let culprit = all[7].id.clone();
        let (order, calls) = carry_out(&all, |batch| {
            let why = format!(
                "IncorrectInstanceState: The instance '{culprit}' is not in a state from which it can be \
                 started."
            );
            let named = batch.iter().any(|candidate| candidate.id == culprit);
            if named { Err(Error::unavailable("starting", why)) } else { Ok(()) }
        });
        assert_eq!((order.started.len(), calls), (19, 2));
        assert_eq!(order.refused[0].id, culprit);
    }

    #[test]
    fn an_error_of_the_caller_is_not_searched_for_among_the_machines() {
        let all: Vec<_> = (0..20).map(|id| candidate(id, id % 2)).collect();
        for error in [
            Error::broken("starting", "UnauthorizedOperation: no"),
            Error::unavailable("starting", "throttled"),
        ] {
            let (order, calls) = carry_out(&all, |_| Err(error.clone()));
            assert_eq!((order.refused.len(), calls), (20, 1));
        }
    }

    proptest! {
        #[test]
        fn each_machine_is_started_or_refused_once_and_only_where_capacity_is_exhausted(
            zones in proptest::collection::vec(0u32..4, 1..40),
            room in proptest::collection::vec(0usize..6, 4),
        ) {
            let all = zones.iter().enumerate().map(|(id, zone)| candidate(id as u32, *zone));
            let all: Vec<_> = all.collect();
            let left = std::cell::RefCell::new(room);
            // Each zone has limited capacity, and a call succeeds as a whole or not at all.
            let (order, _) = carry_out(&all, |batch| {
                let mut wanted = [0; 4];
                for candidate in batch {
                    let zone = all.iter().position(|other| other.id == candidate.id).map(|at| zones[at]);
                    wanted[zone.unwrap_or(0) as usize] += 1;
                }
                let mut left = left.borrow_mut();
                if wanted.iter().zip(left.iter()).any(|(wanted, left)| wanted > left) {
                    return Err(Error::no_capacity("starting", "InsufficientInstanceCapacity"));
                }
                left.iter_mut().zip(wanted).for_each(|(left, wanted)| *left -= wanted);
                Ok(())
            });
            let refused: BTreeSet<_> = order.refused.iter().map(|refusal| refusal.id.as_str()).collect();
            let started = ids(&order.started);
            prop_assert_eq!(started.len() + refused.len(), all.len());
            prop_assert!(started.is_disjoint(&refused));
            for zone in 0..4 {
                let of_zone = |id: &&&str| all.iter().zip(&zones).any(|(c, z)| c.id == **id && *z == zone);
                let any_refused = refused.iter().filter(|id| of_zone(id)).count() > 0;
                // No machine is refused in a zone with capacity left.
                prop_assert!(!any_refused || left.borrow()[zone as usize] == 0);
            }
        }
    }
}
