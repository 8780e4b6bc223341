//! How far the queue's clock and the controller's differ.
//!
//! A message cannot be received before it was sent, and a fresh one is received at once. So the
//! smallest time from a sending to its receipt, among messages that nothing held up, is the
//! difference of the clocks. Without it, a controller whose clock is two minutes ahead would take
//! every worker for silent.

use std::collections::VecDeque;

use chrono::{DateTime, TimeDelta, Utc};

/// Receipts that are compared.
const KEPT: usize = 16;
/// So much is no difference of clocks but the time that a message takes.
const ALIKE: TimeDelta = TimeDelta::seconds(2);
/// A clock of the controller's that jumped makes earlier receipts worthless.
const JUMP: TimeDelta = TimeDelta::hours(1);

/// The difference, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct Skew {
    /// When a message was received, and how long after its sending.
    receipts: VecDeque<(DateTime<Utc>, TimeDelta)>,
}

impl Skew {
    /// Takes note of the newest message of a receive that left nothing in the queue.
    pub(super) fn note(&mut self, newest: Option<DateTime<Utc>>, now: DateTime<Utc>) {
        let Some(sent_at) = newest else { return };
        self.receipts.retain(|(at, _)| (now - at).abs() < JUMP);
        self.receipts.push_back((now, now - sent_at));
        if self.receipts.len() > KEPT {
            self.receipts.pop_front();
        }
    }

    /// A time of the queue's clock, by the controller's.
    pub(super) fn corrected(&self, sent_at: DateTime<Utc>) -> DateTime<Utc> {
        let ahead = self.receipts.iter().map(|(_, taken)| *taken).min();
        match ahead {
            Some(ahead) if ahead.abs() > ALIKE => sent_at + ahead,
            _ => sent_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(second)
    }

    #[test]
    fn a_clock_that_is_ahead_or_behind_is_corrected_and_a_slow_message_is_no_skew() {
        for ahead in [120, -120] {
            let mut skew = Skew::default();
            assert_eq!(skew.corrected(at(50)), at(50), "nothing is known yet");
            for (sent, taken) in [(0, 3), (10, 0), (20, 9)] {
                skew.note(Some(at(sent)), at(sent + taken + ahead));
            }
            assert_eq!(skew.corrected(at(50)), at(50 + ahead));
        }
        let mut alike = Skew::default();
        alike.note(Some(at(0)), at(1));
        assert_eq!(alike.corrected(at(50)), at(50));
    }

    #[test]
    fn a_clock_that_is_set_is_noticed_with_the_next_messages() {
        let mut skew = Skew::default();
        for second in 0..20 {
            skew.note(Some(at(second)), at(second));
        }
        for second in 20..40 {
            skew.note(Some(at(second)), at(second + 300));
        }
        assert_eq!(skew.corrected(at(50)), at(350));
    }
}
