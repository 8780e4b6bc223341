//! Limits per address and per token. A rate counts images, because they are the cost: a request
//! counts as one, and each further image of an upload as one more. Address and token are counted
//! separately, and a request must be within both limits.
//!
//! The counters are token buckets of `governor`: after a quiet time a burst passes at once, then a
//! fixed rate per second.

use std::{
    collections::HashMap,
    net::IpAddr,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use governor::{
    DefaultDirectRateLimiter, DefaultKeyedRateLimiter, NotUntil, Quota, RateLimiter,
    clock::{Clock, Reference},
};
use sha2::{Digest, Sha256};

use super::{client::counted_as, tokens::Holder};
use crate::problem::Problem;

/// The counters of all addresses.
#[derive(Debug)]
pub(super) struct Limits {
    addresses: Option<DefaultKeyedRateLimiter<IpAddr>>,
    most: Most,
    at_once: Mutex<HashMap<(What, Who), usize>>,
}

/// Maximum numbers at once, for each address and for each token.
#[derive(Debug, Clone, Copy)]
pub(super) struct Most {
    /// Uploads in flight.
    pub(super) uploads: usize,
    /// Jobs of held uploads.
    pub(super) jobs: usize,
    /// Watching pages.
    pub(super) watchers: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum What {
    Upload,
    Job,
    Watcher,
}

/// The owner of a count.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Who {
    Address(IpAddr),
    Token(String),
}

/// Counts an upload in flight, a job or a watching page until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    limits: Arc<Limits>,
    whose: Vec<(What, Who)>,
}

/// The counter of one token.
#[derive(Debug)]
pub(super) struct Meter(DefaultDirectRateLimiter);

/// The counters that apply to a request.
#[derive(Debug, Clone)]
pub(crate) struct Allowance {
    limits: Arc<Limits>,
    address: Option<IpAddr>,
    holder: Option<Arc<Holder>>,
}

/// A quota of `per_second` with a burst, or `None` if `per_second` is 0.
fn quota(per_second: f64, burst: u32) -> Option<Quota> {
    if per_second <= 0.0 {
        return None;
    }
    let each = Duration::from_secs_f64(1.0 / per_second);
    Quota::with_period(each).map(|quota| quota.allow_burst(NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN)))
}

impl Limits {
    pub(super) fn new(per_second: f64, burst: u32, most: Most) -> Self {
        let addresses = quota(per_second, burst).map(RateLimiter::keyed);
        Self { addresses, most, at_once: Mutex::default() }
    }

    fn at_once(&self) -> MutexGuard<'_, HashMap<(What, Who), usize>> {
        self.at_once.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one image for an address.
    pub(super) fn address(&self, address: Option<IpAddr>) -> Result<(), Problem> {
        let (Some(addresses), Some(address)) = (&self.addresses, address) else { return Ok(()) };
        let counted = addresses.check_key(&counted_as(address));
        counted.map_err(|not_until| too_often("your address", &not_until, addresses.clock().now()))
    }

    pub(super) fn counts_addresses(&self) -> bool {
        self.addresses.is_some()
    }

    pub(super) fn sweep(&self) {
        if let Some(addresses) = &self.addresses {
            addresses.retain_recent();
            addresses.shrink_to_fit();
        }
    }
}

impl Meter {
    /// Returns `None` if there is no limit.
    pub(super) fn new(per_second: f64, burst: u32) -> Option<Self> {
        quota(per_second, burst).map(|quota| Self(RateLimiter::direct(quota)))
    }

    fn count(&self) -> Result<(), Problem> {
        self.0.check().map_err(|not_until| too_often("this token", &not_until, self.0.clock().now()))
    }
}

impl Allowance {
    pub(super) fn new(limits: Arc<Limits>, address: Option<IpAddr>, holder: Option<Arc<Holder>>) -> Self {
        Self { limits, address, holder }
    }

    /// Counts one image for the token.
    pub(super) fn count_token(&self) -> Result<(), Problem> {
        self.holder.as_ref().and_then(|holder| holder.meter.as_ref()).map_or(Ok(()), Meter::count)
    }

    /// Counts one more upload in flight. Returns an error that names the address or the token if it
    /// has reached its maximum.
    pub(crate) fn upload(&self) -> Result<Counted, Problem> {
        self.count(What::Upload, self.limits.most.uploads).map_err(Problem::too_many_uploads)
    }

    /// Counts one more job in the queue, in the same way.
    pub(crate) fn job(&self) -> Result<Counted, &'static str> {
        self.count(What::Job, self.limits.most.jobs)
    }

    /// Counts one more watching page, in the same way.
    pub(crate) fn watcher(&self) -> Result<Counted, Problem> {
        self.count(What::Watcher, self.limits.most.watchers).map_err(Problem::too_many_watchers_of)
    }

    /// Returns a digest of the client, the same for all its jobs: of the token's name, or else of
    /// the address. It reveals neither.
    pub(crate) fn client(&self) -> String {
        let who = match (&self.holder, self.address) {
            (Some(holder), _) => format!("token {}", holder.name()),
            (None, Some(address)) => format!("address {}", counted_as(address)),
            (None, None) => "nobody".to_owned(),
        };
        Sha256::digest(who.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    fn count(&self, what: What, most: usize) -> Result<Counted, &'static str> {
        let address = self.address.map(|address| (Who::Address(counted_as(address)), "your address"));
        let token = self.holder.as_ref().map(|holder| (Who::Token(holder.name().to_owned()), "this token"));
        // If a later count is refused, dropping this undoes the earlier one.
        let mut counted = Counted { limits: self.limits.clone(), whose: Vec::new() };
        let mut at_once = self.limits.at_once();
        for (who, name) in address.into_iter().chain(token) {
            let count = at_once.entry((what, who.clone())).or_default();
            if *count >= most {
                drop(at_once);
                return Err(name);
            }
            *count += 1;
            counted.whose.push((what, who));
        }
        drop(at_once);
        Ok(counted)
    }

    /// Counts a further image of an upload; the request itself counted the first.
    pub(crate) fn further_image(&self) -> Result<(), Problem> {
        self.limits.address(self.address)?;
        self.count_token()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut at_once = self.limits.at_once();
        for whose in &self.whose {
            if let Some(count) = at_once.get_mut(whose) {
                *count -= 1;
                if *count == 0 {
                    at_once.remove(whose);
                }
            }
        }
    }
}

fn too_often<P: Reference>(who: &str, not_until: &NotUntil<P>, now: P) -> Problem {
    // Round up: a retry within that second would be too early.
    let wait_s = not_until.wait_time_from(now).as_secs_f64().ceil().max(1.0) as u64;
    Problem::too_often(who, wait_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Most = Most { uploads: 2, jobs: 1, watchers: 1 };

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    /// Number of images that pass at once.
    fn passing(limits: &Limits, address: &str) -> usize {
        (0..100).take_while(|_| limits.address(ip(address)).is_ok()).count()
    }

    #[test]
    fn after_a_burst_the_answer_says_how_long_to_wait() {
        // One in a hundred seconds: no test takes that long.
        let limits = Limits::new(0.01, 3, MOST);
        assert_eq!(passing(&limits, "192.0.2.1"), 3);
        assert_eq!(passing(&limits, "192.0.2.2"), 3, "other addresses are not affected");
        let refused = limits.address(ip("192.0.2.1")).unwrap_err();
        assert!((50..=100).contains(&refused.retry_after_s().unwrap()), "{refused:?}");
        assert_eq!(passing(&limits, "2001:db8::1"), 3);
        assert_eq!(passing(&limits, "2001:db8::2"), 0, "the same /64 network");
    }

    #[test]
    fn without_a_rate_nothing_is_counted() {
        assert_eq!(passing(&Limits::new(0.0, 1, MOST), "192.0.2.1"), 100);
        assert!(Meter::new(0.0, 1).is_none());
    }

    #[test]
    fn only_addresses_with_a_full_allowance_are_forgotten() {
        let kept = Limits::new(0.01, 3, MOST);
        let forgotten = Limits::new(1e6, 1, MOST);
        for limits in [&kept, &forgotten] {
            limits.address(ip("192.0.2.1")).unwrap();
        }
        let known = |limits: &Limits| limits.addresses.as_ref().unwrap().len();
        assert_eq!((known(&kept), known(&forgotten)), (1, 1));
        // A millionth of a second passes at once.
        while known(&forgotten) > 0 {
            forgotten.sweep();
        }
        kept.sweep();
        assert_eq!(known(&kept), 1);
    }

    #[test]
    fn each_address_has_its_own_maximum_of_uploads_jobs_and_watchers() {
        let limits = Arc::new(Limits::new(0.0, 1, MOST));
        let of = |text: &str| Allowance::new(limits.clone(), ip(text), None);
        let first = of("192.0.2.1").upload().unwrap();
        let _second = of("192.0.2.1").upload().unwrap();
        assert!(of("192.0.2.1").upload().is_err() && of("192.0.2.2").upload().is_ok());
        drop(first);
        assert!(of("192.0.2.1").upload().is_ok());
        let job = of("192.0.2.1").job().unwrap();
        assert_eq!(of("192.0.2.1").job().unwrap_err(), "your address");
        drop(job);
        let watcher = of("192.0.2.1").watcher().unwrap();
        assert_eq!(of("192.0.2.1").watcher().unwrap_err().status, 429);
        assert!(of("192.0.2.2").watcher().is_ok());
        drop(watcher);
        assert_eq!(limits.at_once().len(), 1, "an address without counts is forgotten");
    }

    #[test]
    fn a_client_has_the_same_digest_for_all_its_jobs_and_another_than_others() {
        let limits = Arc::new(Limits::new(0.0, 1, MOST));
        let of = |text: &str| Allowance::new(limits.clone(), ip(text), None).client();
        assert_eq!(of("2001:db8::1"), of("2001:db8::2"), "the same /64 network");
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert!(of("192.0.2.1").bytes().all(|byte| byte.is_ascii_hexdigit()), "the address is not revealed");
    }

    #[test]
    fn further_images_count_against_the_rate() {
        let limits = Arc::new(Limits::new(0.01, 2, MOST));
        let allowance = Allowance::new(limits, ip("192.0.2.1"), None);
        assert!(allowance.further_image().is_ok() && allowance.further_image().is_ok());
        assert!(allowance.further_image().is_err());
    }
}
