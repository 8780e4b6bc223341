//! Who did not do as told, and how often in a row: what acting learns, for the next decision and
//! for the operator.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use eirs_platform::error::Error;
use serde::{Deserialize, Serialize};

use crate::{backoff, fleet::Refusal};

/// After so long without another one, a refusal says nothing about now.
const FORGOTTEN: TimeDelta = TimeDelta::hours(1);

/// The last refusal of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// What it should have done.
    pub verb: Verb,
    /// So often in a row it did not.
    pub count: u32,
    /// The first time of these, ...
    pub since: DateTime<Utc>,
    /// ... and the last.
    pub at: DateTime<Utc>,
    /// Why, the last time.
    pub error: String,
    /// Whether there was nothing wrong with it but that the fleet had no capacity to give.
    pub capacity: bool,
}

/// What an instance can be told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// To start.
    Start,
    /// To finish and leave.
    Drain,
    /// To stop.
    Stop,
}

/// The last refusal of each instance that has one. It survives the controller, as what is learnt
/// does.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Refusals(BTreeMap<String, Refused>);

impl Verb {
    /// As in `refused to start`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Drain => "drain",
            Self::Stop => "stop",
        }
    }
}

impl Refused {
    /// Until when an instance that refused to start is left alone, in favour of others. Where only
    /// capacity was lacking, nothing is wrong with it: it rests with its like.
    pub fn rests_until(&self) -> Option<DateTime<Utc>> {
        let rest = if self.capacity { backoff::CAPACITY } else { backoff::ORDER };
        (self.verb == Verb::Start).then(|| self.at + rest.after(self.count))
    }
}

impl Refusals {
    /// Those that still say something.
    pub fn now(&self, now: DateTime<Utc>) -> BTreeMap<String, Refused> {
        let fresh = self.0.iter().filter(|(_, refused)| now - refused.at < FORGOTTEN);
        fresh.map(|(id, refused)| (id.clone(), refused.clone())).collect()
    }

    /// Notes how it went: which instances refused what they were told, and which did at last what
    /// they had refused.
    pub fn note(&mut self, told: &BTreeMap<&str, Verb>, refusals: &[Refusal], now: DateTime<Utc>) {
        self.0.retain(|_, refused| now - refused.at < FORGOTTEN);
        let failed: BTreeSet<_> = refusals.iter().map(|refusal| refusal.id.as_str()).collect();
        // One that does what it was asked for, whatever that is, has changed for the better.
        self.0.retain(|id, _| !told.contains_key(id.as_str()) || failed.contains(id.as_str()));
        // Where one of a pool could be started, there is capacity again for its like.
        let started = told.iter().filter(|(id, verb)| **verb == Verb::Start && !failed.contains(**id));
        let pools: BTreeSet<_> = started.map(|(id, _)| pool_of(id)).collect();
        for (_, refused) in self.0.iter_mut().filter(|(id, _)| pools.contains(pool_of(id))) {
            if refused.capacity {
                (refused.capacity, refused.count) = (false, 0);
            }
        }
        for Refusal { id, error } in refusals {
            let Some(verb) = told.get(id.as_str()).copied() else { continue };
            let before = self.0.get(id).filter(|refused| refused.verb == verb);
            let refused = Refused {
                verb,
                count: before.map_or(0, |before| before.count).saturating_add(1),
                since: before.map_or(now, |before| before.since),
                at: now,
                error: error.to_string(),
                capacity: matches!(error, Error::NoCapacity { .. }),
            };
            self.0.insert(id.clone(), refused);
        }
    }
}

/// Instances are named by their pool and a number.
fn pool_of(instance: &str) -> &str {
    instance.rsplit_once('-').map_or(instance, |(pool, _)| pool)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(second)
    }

    /// All are to start.
    fn plan<'a>(ids: &[&'a str]) -> BTreeMap<&'a str, Verb> {
        ids.iter().map(|id| (*id, Verb::Start)).collect()
    }

    fn refusal(id: &str, error: Error) -> Refusal {
        Refusal { id: id.to_owned(), error }
    }

    #[test]
    fn refusals_are_counted_in_a_row_and_capacity_is_told_from_the_rest() {
        let mut refusals = Refusals::default();
        let dry = || refusal("p-1", Error::no_capacity("starting p-1", "none left"));
        let broken = || refusal("p-2", Error::broken("starting p-2", "no such image"));
        refusals.note(&plan(&["p-1", "p-2"]), &[dry(), broken()], at(0));
        refusals.note(&plan(&["p-1"]), &[dry()], at(10));
        let now = refusals.now(at(10));
        let short = |id: &str| (now[id].count, now[id].since, now[id].at, now[id].capacity);
        assert_eq!(short("p-1"), (2, at(0), at(10), true));
        assert_eq!(short("p-2"), (1, at(0), at(0), false));
        assert_eq!(now["p-2"].error, "starting p-2: no such image");
    }

    #[test]
    fn one_start_that_goes_well_clears_what_its_like_refused_for_want_of_capacity() {
        let mut refusals = Refusals::default();
        let dry = |id: &str| refusal(id, Error::no_capacity("starting", "none left"));
        let all = ["p-1", "p-2", "q-1"];
        refusals.note(&plan(&all), &all.map(dry), at(0));
        refusals.note(&plan(&["p-2"]), &[], at(30));
        let now = refusals.now(at(31));
        assert_eq!((now["p-1"].capacity, now["p-1"].rests_until()), (false, Some(at(1))));
        assert!(now["q-1"].capacity && !now.contains_key("p-2"));
    }

    #[test]
    fn capacity_is_asked_for_every_half_minute_at_least() {
        let mut refusals = Refusals::default();
        for second in 0..20 {
            let dry = refusal("p-1", Error::no_capacity("starting", "none left"));
            refusals.note(&plan(&["p-1"]), &[dry], at(second * 60));
        }
        assert_eq!(refusals.now(at(1200))["p-1"].rests_until(), Some(at(19 * 60 + 30)));
    }

    #[test]
    fn one_that_does_it_at_last_is_clear_and_an_hour_clears_the_rest() {
        let mut refusals = Refusals::default();
        let dry = |id: &str| refusal(id, Error::no_capacity("starting", "none left"));
        refusals.note(&plan(&["p-1", "p-2"]), &[dry("p-1"), dry("p-2")], at(0));
        refusals.note(&plan(&["p-1"]), &[], at(1));
        assert_eq!(refusals.now(at(2)).keys().collect::<Vec<_>>(), ["p-2"]);
        assert!(refusals.now(at(3600)).is_empty());
    }
}
