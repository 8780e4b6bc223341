//! Refused orders and how often they were refused in a row, for the next decision and for the
//! operator.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use eirs_platform::error::Error;
use serde::{Deserialize, Serialize};

use crate::{backoff, fleet::Refusal};

/// Time after which a refusal does not count any more.
const FORGOTTEN: TimeDelta = TimeDelta::hours(1);

/// The last refusal of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The refused order.
    pub verb: Verb,
    /// Number of refusals in a row.
    pub count: u32,
    /// Time of the first of these refusals.
    pub since: DateTime<Utc>,
    /// Time of the last refusal.
    pub at: DateTime<Utc>,
    /// Reason of the last refusal.
    pub error: String,
    /// Whether the only reason is a lack of capacity.
    pub capacity: bool,
}

/// An order to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Start.
    Start,
    /// Finish the jobs in flight and end.
    Drain,
    /// Stop.
    Stop,
}

/// The last refusal of each instance that has one. It survives a restart of the controller.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Refusals(BTreeMap<String, Refused>);

impl Verb {
    /// The order as a verb: `refused to start`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Drain => "drain",
            Self::Stop => "stop",
        }
    }
}

impl Refused {
    /// Time until which an instance that refused to start is left alone in favour of others;
    /// shorter if only capacity was lacking. `None` for other orders.
    pub fn retry_at(&self) -> Option<DateTime<Utc>> {
        let rest = if self.capacity { backoff::CAPACITY } else { backoff::ORDER };
        (self.verb == Verb::Start).then(|| self.at + rest.after(self.count))
    }
}

impl Refusals {
    /// The refusals that still count, by id.
    pub fn now(&self, now: DateTime<Utc>) -> BTreeMap<String, Refused> {
        let fresh = self.0.iter().filter(|(_, refused)| now - refused.at < FORGOTTEN);
        fresh.map(|(id, refused)| (id.clone(), refused.clone())).collect()
    }

    /// Records the result of a pass: the orders of all instances, and the refusals.
    pub fn note(&mut self, ordered: &BTreeMap<&str, Verb>, refusals: &[Refusal], now: DateTime<Utc>) {
        self.0.retain(|_, refused| now - refused.at < FORGOTTEN);
        let failed: BTreeSet<_> = refusals.iter().map(|refusal| refusal.id.as_str()).collect();
        // An instance that carries out any order is not refusing any more.
        self.0.retain(|id, _| !ordered.contains_key(id.as_str()) || failed.contains(id.as_str()));
        // If one instance of a pool could start, there is capacity for the others, too.
        let started = ordered.iter().filter(|(id, verb)| **verb == Verb::Start && !failed.contains(**id));
        let pools: BTreeSet<_> = started.map(|(id, _)| pool_of(id)).collect();
        for (_, refused) in self.0.iter_mut().filter(|(id, _)| pools.contains(pool_of(id))) {
            if refused.capacity {
                (refused.capacity, refused.count) = (false, 0);
            }
        }
        for Refusal { id, error } in refusals {
            let Some(verb) = ordered.get(id.as_str()).copied() else { continue };
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

/// The pool of an instance, whose name is the pool's and a number.
fn pool_of(instance: &str) -> &str {
    instance.rsplit_once('-').map_or(instance, |(pool, _)| pool)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(second)
    }

    /// Orders to start all of these.
    fn plan<'a>(ids: &[&'a str]) -> BTreeMap<&'a str, Verb> {
        ids.iter().map(|id| (*id, Verb::Start)).collect()
    }

    fn refusal(id: &str, error: Error) -> Refusal {
        Refusal { id: id.to_owned(), error }
    }

    #[test]
    fn refusals_are_counted_in_a_row_and_a_lack_of_capacity_is_distinguished() {
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
    fn one_successful_start_clears_the_lack_of_capacity_of_its_pool() {
        let mut refusals = Refusals::default();
        let dry = |id: &str| refusal(id, Error::no_capacity("starting", "none left"));
        let all = ["p-1", "p-2", "q-1"];
        refusals.note(&plan(&all), &all.map(dry), at(0));
        refusals.note(&plan(&["p-2"]), &[], at(30));
        let now = refusals.now(at(31));
        assert_eq!((now["p-1"].capacity, now["p-1"].retry_at()), (false, Some(at(1))));
        assert!(now["q-1"].capacity && !now.contains_key("p-2"));
    }

    #[test]
    fn without_capacity_a_start_is_tried_every_half_minute_at_least() {
        let mut refusals = Refusals::default();
        for second in 0..20 {
            let dry = refusal("p-1", Error::no_capacity("starting", "none left"));
            refusals.note(&plan(&["p-1"]), &[dry], at(second * 60));
        }
        assert_eq!(refusals.now(at(1200))["p-1"].retry_at(), Some(at(19 * 60 + 30)));
    }

    #[test]
    fn a_successful_start_clears_a_refusal_and_so_does_an_hour() {
        let mut refusals = Refusals::default();
        let dry = |id: &str| refusal(id, Error::no_capacity("starting", "none left"));
        refusals.note(&plan(&["p-1", "p-2"]), &[dry("p-1"), dry("p-2")], at(0));
        refusals.note(&plan(&["p-1"]), &[], at(1));
        assert_eq!(refusals.now(at(2)).keys().collect::<Vec<_>>(), ["p-2"]);
        assert!(refusals.now(at(3600)).is_empty());
    }
}
