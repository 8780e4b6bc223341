//! A simple model of a queue, which property tests compare with the implementations.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::{prelude::*, sample::Index};

use super::{Delivery, Depth, Receipt};

/// The duration of a lease, in milliseconds.
pub(super) const VISIBILITY: i64 = 30_000;

#[derive(Debug, Clone)]
pub(super) enum Step {
    Send(usize),
    Receive(usize),
    Release(Index),
    Ack(Index),
    /// Passes this number of milliseconds; a negative or very large one is a jump of the clock.
    Pass(i64),
}

/// Random steps; the time jumps by up to this number of days in either direction.
pub(super) fn steps(days: i64) -> impl Strategy<Value = Vec<Step>> {
    let days = days * 86_400_000;
    let step = prop_oneof![
        (1usize..4).prop_map(Step::Send),
        (1usize..4).prop_map(Step::Receive),
        any::<Index>().prop_map(Step::Release),
        any::<Index>().prop_map(Step::Ack),
        (0i64..40_000).prop_map(Step::Pass),
        (-days..=days).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..40)
}

/// Messages by number, in the order of sending, with the end of their lease; zero for none.
#[derive(Debug, Default)]
pub(super) struct Model {
    leases: BTreeMap<usize, i64>,
    receipts: BTreeMap<usize, Receipt>,
    next: usize,
}

impl Model {
    /// Adds messages and returns their bodies.
    pub(super) fn send(&mut self, count: usize) -> Vec<Bytes> {
        let numbers = self.next..self.next + count;
        self.next = numbers.end;
        self.leases.extend(numbers.clone().map(|number| (number, 0)));
        numbers.map(|number| number.to_string().into()).collect()
    }

    /// Checks that a receive returned the oldest visible messages, and leases them.
    pub(super) fn received(&mut self, max: usize, now: i64, got: Vec<Delivery>) -> Result<(), TestCaseError> {
        let free = self.leases.iter().filter(|(_, until)| is_free(**until, now));
        let wanted: Vec<usize> = free.map(|(number, _)| *number).take(max).collect();
        let number =
            |delivery: &Delivery| String::from_utf8_lossy(&delivery.body).parse().unwrap_or(usize::MAX);
        prop_assert_eq!(got.iter().map(number).collect::<Vec<_>>(), wanted);
        for delivery in got {
            self.leases.insert(number(&delivery), now + VISIBILITY);
            self.receipts.insert(number(&delivery), delivery.receipt);
        }
        Ok(())
    }

    /// Releases one of the received messages; returns its receipt.
    pub(super) fn release(&mut self, index: Index) -> Option<Receipt> {
        let (number, receipt) = self.take(index)?;
        self.leases.insert(number, 0);
        Some(receipt)
    }

    /// Acks one of the received messages; returns its receipt.
    pub(super) fn ack(&mut self, index: Index) -> Option<Receipt> {
        let (number, receipt) = self.take(index)?;
        self.leases.remove(&number);
        Some(receipt)
    }

    fn take(&mut self, index: Index) -> Option<(usize, Receipt)> {
        let numbers: Vec<usize> = self.receipts.keys().copied().collect();
        let number = (!numbers.is_empty()).then(|| numbers[index.index(numbers.len())])?;
        self.receipts.remove_entry(&number)
    }

    pub(super) fn depth(&self, now: i64) -> Depth {
        let visible = self.leases.values().filter(|until| is_free(**until, now)).count() as u64;
        Depth { visible, in_flight: self.leases.len() as u64 - visible }
    }
}

/// Returns whether there is no valid lease: it has ended, or ends later than any lease can.
fn is_free(until: i64, now: i64) -> bool {
    until <= now || until > now + 2 * VISIBILITY + 60_000
}
