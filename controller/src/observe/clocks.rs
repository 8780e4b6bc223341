//! Measures the difference between the clocks of the queue and of the controller.
//!
//! A message is never received before it was sent, and a new one is received at once. So the
//! smallest time from sending to receipt, among messages that were not delayed, is the difference
//! of the clocks. Without the correction, a controller whose clock is two minutes ahead would
//! consider every worker silent.

use std::collections::VecDeque;

use chrono::{DateTime, TimeDelta, Utc};

/// Number of receipts that are compared.
const KEPT: usize = 16;
/// Differences up to this are delivery time and not a difference of the clocks.
const ALIKE: TimeDelta = TimeDelta::seconds(2);
/// Change of the controller's clock that makes earlier receipts useless.
const JUMP: TimeDelta = TimeDelta::hours(1);

/// The measured difference.
#[derive(Debug, Default)]
pub(super) struct Skew {
    /// Pairs of the time of a receipt and the time since the message was sent.
    receipts: VecDeque<(DateTime<Utc>, TimeDelta)>,
}

impl Skew {
    /// Adds the newest message of a receive that emptied the queue.
    pub(super) fn note(&mut self, newest: Option<DateTime<Utc>>, now: DateTime<Utc>) {
        let Some(sent_at) = newest else { return };
        self.receipts.retain(|(at, _)| (now - at).abs() < JUMP);
        self.receipts.push_back((now, now - sent_at));
        if self.receipts.len() > KEPT {
            self.receipts.pop_front();
        }
    }

    /// Converts a time on the queue's clock to the controller's.
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
    fn a_difference_of_the_clocks_is_corrected_and_a_slow_message_is_no_skew() {
        for ahead in [120, -120] {
            let mut skew = Skew::default();
            assert_eq!(skew.corrected(at(50)), at(50), "no receipt is known yet");
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
    fn a_changed_clock_is_detected_with_the_next_messages() {
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
