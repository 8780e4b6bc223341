//! All connections, and the limits on them. No client may keep out others: neither one address with
//! endless connections, nor many addresses with idle ones.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use eirs_platform::settings::Web;
use ipnet::IpNet;
use poem::http::Version;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    access::counted_as,
    metrics::{Closed, Connections},
};

/// Limits on connections: their number, and how long they may be idle.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Maximum number in total.
    connections: usize,
    /// Maximum number that is between requests.
    kept: usize,
    /// Maximum number of one address, unless it is one of these proxies.
    per_address: usize,
    trusted_proxies: Vec<IpNet>,
    /// Time from the first byte of a request to the end of its header; for the first request, from
    /// the start of the connection.
    header: Duration,
    /// Time between two requests.
    idle: Duration,
    /// How long a client may accept no bytes of its answer.
    unread: Duration,
    /// How long the rest of an unwanted body is read, so that the client gets to read the answer.
    pub(super) linger: Duration,
}

/// File descriptors reserved for neither connections nor uploads.
const OTHER_FILES: u64 = 128;

impl Limits {
    /// Takes the limits from the settings, reduced to what `files` file descriptors allow.
    pub fn of(settings: &Web, files: u64) -> Self {
        // An upload may have a file in addition to its connection.
        let spooled = (settings.max_uploads as u64).min(files / 4);
        let others = OTHER_FILES.min(files / 4);
        let possible = usize::try_from(files - spooled - others).unwrap_or(usize::MAX);
        if possible < settings.max_connections {
            tracing::warn!(
                "web.max_connections: {} needs more than the {files} files that this process may \
                open; using {possible}",
                settings.max_connections
            );
        }
        Self {
            connections: settings.max_connections.min(possible).max(1),
            kept: settings.max_idle_connections,
            per_address: settings.max_connections_per_address,
            trusted_proxies: settings.trusted_proxies.clone(),
            header: settings.header_timeout,
            idle: settings.idle_timeout,
            unread: settings.write_timeout,
            linger: settings.linger,
        }
    }
}

/// The reason for refusing a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// All places are taken, and none of the connections is idle.
    All,
    /// The address has its maximum number of connections.
    Address,
}

#[derive(Debug)]
pub(super) struct Crowd {
    pub(super) limits: Limits,
    pub(super) counts: Connections,
    /// The zero of the connections' times.
    since: Instant,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    next: u64,
    guests: HashMap<u64, Arc<Guest>>,
    /// Number of connections per address.
    addresses: HashMap<IpAddr, usize>,
    /// Number of connections between requests.
    kept: usize,
    /// Connections in the order in which they became idle, with that time; may hold outdated
    /// entries.
    order: VecDeque<(u64, u64)>,
}

/// One connection and its state. Whether it is busy changes only under the lock of `Inside`. Times
/// are in milliseconds since `Crowd::since`; 0 is never.
#[derive(Debug)]
pub(super) struct Guest {
    address: IpAddr,
    /// Number of requests that are being read or answered.
    busy: AtomicUsize,
    /// When it became idle.
    idle_since: AtomicU64,
    /// When the first byte arrived since then.
    heard_at: AtomicU64,
    /// Since when the client accepts no bytes.
    unread_since: AtomicU64,
    /// True after the first request.
    has_asked: AtomicBool,
    /// True for HTTP/2, which sends bytes even without requests.
    is_many: AtomicBool,
    /// True if a request of HTTP/1 has arrived and nothing of its answer was sent.
    is_owed: AtomicBool,
    /// Cancelled to close the connection, because its place is needed.
    pub(super) leave: CancellationToken,
}

/// The place of a connection; dropping it frees the place.
#[derive(Debug)]
pub(super) struct Seat {
    crowd: Arc<Crowd>,
    number: u64,
    pub(super) guest: Arc<Guest>,
}

/// Counts a request as in flight until it is dropped.
#[derive(Debug)]
pub(super) struct Busy(Arc<Crowd>, Arc<Guest>, u64);

impl Crowd {
    pub(super) fn new(limits: Limits, counts: Connections) -> Arc<Self> {
        Arc::new(Self { limits, counts, since: Instant::now(), inside: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX) + 1
    }

    /// Gives a place to a connection, or returns why not. If all places are taken, closes the
    /// connection that has been idle the longest.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Seat, Full> {
        let address = address.to_canonical();
        let is_counted = !self.limits.trusted_proxies.iter().any(|network| network.contains(&address));
        let address = counted_as(address);
        let mut inside = self.lock();
        if is_counted && inside.addresses.get(&address).is_some_and(|n| *n >= self.limits.per_address) {
            return Err(Full::Address);
        }
        if inside.guests.len() >= self.limits.connections {
            let idlest = inside.idlest().ok_or(Full::All)?;
            inside.remove(idlest);
            self.counts.closed(Closed::Crowded);
        }
        let guest = Arc::new(Guest {
            address,
            busy: AtomicUsize::new(0),
            idle_since: AtomicU64::new(self.now()),
            heard_at: AtomicU64::new(0),
            unread_since: AtomicU64::new(0),
            has_asked: AtomicBool::new(false),
            is_many: AtomicBool::new(false),
            is_owed: AtomicBool::new(false),
            leave: CancellationToken::new(),
        });
        let number = inside.next;
        inside.next += 1;
        inside.guests.insert(number, guest.clone());
        self.counts.opened();
        *inside.addresses.entry(address).or_default() += 1;
        Ok(Seat { crowd: self.clone(), number, guest })
    }

    /// Closes the connection that has been idle the longest, because a resource that connections
    /// need has run out.
    pub(super) fn make_room(&self) {
        let mut inside = self.lock();
        if let Some(idlest) = inside.idlest() {
            inside.remove(idlest);
            self.counts.closed(Closed::Crowded);
        }
    }
}

impl Inside {
    /// Records that a connection is idle between requests. If more than `most` are, closes the one
    /// that has been idle the longest: each costs buffers, and its client can connect again.
    fn keep(&mut self, number: u64, since: u64, most: usize, counts: &Connections) {
        self.kept += 1;
        self.order.push_back((number, since));
        let is_so = |guests: &HashMap<u64, Arc<Guest>>, (number, since): &(u64, u64)| {
            let guest = guests.get(number);
            guest.is_some_and(|guest| guest.is_kept() && guest.idle_since.load(Ordering::Relaxed) == *since)
        };
        while self.kept > most
            && let Some(oldest) = self.order.pop_front()
        {
            if is_so(&self.guests, &oldest) {
                self.remove(oldest.0);
                counts.closed(Closed::Crowded);
            }
        }
        if self.order.len() > 4 * most + 64 {
            let guests = &self.guests;
            self.order.retain(|entry| is_so(guests, entry));
        }
    }

    fn idlest(&self) -> Option<u64> {
        let idle = self.guests.iter().filter(|(_, guest)| guest.busy.load(Ordering::Relaxed) == 0);
        idle.min_by_key(|(_, guest)| guest.idle_since.load(Ordering::Relaxed)).map(|(number, _)| *number)
    }

    /// Removes a connection and ends it.
    fn remove(&mut self, number: u64) {
        let Some(guest) = self.guests.remove(&number) else { return };
        guest.leave.cancel();
        self.kept -= usize::from(guest.is_kept());
        if let Some(count) = self.addresses.get_mut(&guest.address) {
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&guest.address);
            }
        }
    }
}

impl Guest {
    /// Returns whether it is between requests.
    fn is_kept(&self) -> bool {
        self.has_asked.load(Ordering::Relaxed) && self.busy.load(Ordering::Relaxed) == 0
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.crowd.lock().remove(self.number);
        self.crowd.counts.ended();
    }
}

impl Seat {
    /// Records that a request has arrived.
    pub(super) fn request(&self, version: Version) -> Busy {
        let guest = &self.guest;
        let mut inside = self.crowd.lock();
        if inside.guests.contains_key(&self.number) {
            inside.kept -= usize::from(guest.is_kept());
        }
        guest.has_asked.store(true, Ordering::Relaxed);
        guest.is_many.store(version == Version::HTTP_2, Ordering::Relaxed);
        guest.is_owed.store(version != Version::HTTP_2, Ordering::Relaxed);
        guest.busy.fetch_add(1, Ordering::Relaxed);
        Busy(self.crowd.clone(), guest.clone(), self.number)
    }

    /// Returns whether a request is being read or answered.
    pub(super) fn is_busy(&self) -> bool {
        self.guest.busy.load(Ordering::Relaxed) > 0
    }

    /// Returns whether a request of HTTP/1 has arrived and nothing of its answer was sent.
    pub(super) fn may_be_owed(&self) -> bool {
        self.is_busy() && self.guest.is_owed.load(Ordering::Relaxed)
    }

    /// Like [`may_be_owed`](Self::may_be_owed), and the whole request was read.
    pub(super) fn is_owed(&self) -> bool {
        self.may_be_owed() && self.guest.busy.load(Ordering::Relaxed) == 1
    }

    /// Records that something was sent to the client.
    pub(super) fn answering(&self) {
        self.guest.is_owed.store(false, Ordering::Relaxed);
    }

    /// Records that bytes have arrived.
    pub(super) fn heard(&self) {
        let guest = &self.guest;
        if guest.busy.load(Ordering::Relaxed) == 0 && guest.heard_at.load(Ordering::Relaxed) == 0 {
            guest.heard_at.store(self.crowd.now(), Ordering::Relaxed);
        }
    }

    /// Records whether the client currently accepts no bytes.
    pub(super) fn unread(&self, unread: bool) {
        let since = &self.guest.unread_since;
        match (unread, since.load(Ordering::Relaxed)) {
            (true, 0) => since.store(self.crowd.now(), Ordering::Relaxed),
            (false, 1..) => since.store(0, Ordering::Relaxed),
            _ => {}
        }
    }

    /// Returns when and why the connection ends if nothing happens until then. `None` while a
    /// request is in flight and its client reads.
    pub(super) fn deadline(&self) -> Option<(Instant, Closed)> {
        let (guest, limits) = (&self.guest, &self.crowd.limits);
        let at = |since: u64, limit: Duration| self.crowd.since + Duration::from_millis(since) + limit;
        let unread = guest.unread_since.load(Ordering::Relaxed);
        let unread = (unread > 0).then(|| (at(unread, limits.unread), Closed::Unread));
        if guest.busy.load(Ordering::Relaxed) > 0 {
            return unread;
        }
        let heard_at = guest.heard_at.load(Ordering::Relaxed);
        let idle_since = guest.idle_since.load(Ordering::Relaxed);
        let silent = if !guest.has_asked.load(Ordering::Relaxed) {
            (at(idle_since, limits.header), Closed::Header)
        } else if heard_at > 0 && !guest.is_many.load(Ordering::Relaxed) {
            (at(heard_at, limits.header), Closed::Header)
        } else {
            (at(idle_since, limits.idle), Closed::Idle)
        };
        Some(unread.filter(|unread| unread.0 < silent.0).unwrap_or(silent))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let Self(crowd, guest, number) = self;
        let mut inside = crowd.lock();
        if guest.busy.fetch_sub(1, Ordering::Relaxed) > 1 {
            return;
        }
        let now = crowd.now();
        guest.heard_at.store(0, Ordering::Relaxed);
        guest.idle_since.store(now, Ordering::Relaxed);
        if inside.guests.contains_key(number) {
            inside.keep(*number, now, crowd.limits.kept, &crowd.counts);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crowd(connections: usize, per_address: usize) -> Arc<Crowd> {
        let limits = Limits {
            connections,
            kept: 2,
            per_address,
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
            header: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            unread: Duration::from_secs(30),
            linger: Duration::from_secs(30),
        };
        Crowd::new(limits, Connections::default())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn each_address_has_its_own_maximum_of_connections() {
        let crowd = crowd(100, 3);
        let seats: Vec<_> = (0..3).map(|_| crowd.enter(ip("192.0.2.1")).unwrap()).collect();
        assert_eq!(crowd.enter(ip("192.0.2.1")).unwrap_err(), Full::Address);
        assert_eq!(crowd.enter(ip("::ffff:192.0.2.1")).unwrap_err(), Full::Address);
        assert!(crowd.enter(ip("192.0.2.2")).is_ok());
        let proxied: Vec<_> = (0..9).map(|_| crowd.enter(ip("10.1.2.3")).unwrap()).collect();
        assert_eq!(proxied.len(), 9, "clients of a proxy share its address");
        drop(seats);
        assert!(crowd.enter(ip("192.0.2.1")).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_places_are_taken_the_longest_idle_connection_is_closed_but_no_busy_one() {
        let crowd = crowd(3, 100);
        let busy = crowd.enter(ip("192.0.2.1")).unwrap();
        let request = busy.request(Version::HTTP_11);
        tokio::time::advance(Duration::from_secs(1)).await;
        let old = crowd.enter(ip("192.0.2.2")).unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        let young = crowd.enter(ip("192.0.2.3")).unwrap();
        let newcomer = crowd.enter(ip("192.0.2.4")).unwrap();
        let left = |seat: &Seat| seat.guest.leave.is_cancelled();
        assert_eq!([left(&busy), left(&old), left(&young), left(&newcomer)], [false, true, false, false]);
        let _requests = (young.request(Version::HTTP_11), newcomer.request(Version::HTTP_11));
        drop(old);
        assert_eq!(crowd.enter(ip("192.0.2.5")).unwrap_err(), Full::All);
        drop(request);
        assert!(crowd.enter(ip("192.0.2.5")).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_most_recently_used_idle_connections_are_kept() {
        let crowd = crowd(1000, 1000);
        let seats: Vec<_> = (0..5).map(|_| crowd.enter(ip("192.0.2.1")).unwrap()).collect();
        let left = || seats.iter().filter(|seat| seat.guest.leave.is_cancelled()).count();
        for seat in &seats {
            drop(seat.request(Version::HTTP_11));
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        assert_eq!(left(), 3);
        // A connection with many requests counts once.
        for _ in 0..100 {
            drop(seats[4].request(Version::HTTP_11));
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        assert_eq!((left(), crowd.lock().kept), (3, 2));
        let busy = seats[4].request(Version::HTTP_11);
        assert_eq!(crowd.lock().kept, 1);
        drop(busy);
        drop(seats);
        let inside = crowd.lock();
        assert_eq!((inside.kept, inside.guests.len(), inside.addresses.len()), (0, 0, 0));
        assert!(inside.order.len() < 100, "{}", inside.order.len());
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_depends_on_what_the_connection_waits_for() {
        let crowd = crowd(3, 3);
        let seat = crowd.enter(ip("192.0.2.1")).unwrap();
        let in_s = |seat: &Seat| seat.deadline().map(|(at, _)| (at - Instant::now()).as_secs_f64().round());
        assert_eq!(in_s(&seat), Some(10.0), "the first header");
        let request = seat.request(Version::HTTP_11);
        assert_eq!(in_s(&seat), None, "a request is in flight");
        seat.unread(true);
        assert_eq!(in_s(&seat), Some(30.0), "its answer is not read");
        seat.unread(false);
        drop(request);
        assert_eq!(in_s(&seat), Some(75.0), "the next request");
        tokio::time::advance(Duration::from_secs(20)).await;
        seat.heard();
        tokio::time::advance(Duration::from_secs(5)).await;
        seat.heard();
        assert_eq!(in_s(&seat), Some(5.0), "the rest of the header");
        drop(seat.request(Version::HTTP_2));
        seat.heard();
        assert_eq!(in_s(&seat), Some(75.0), "HTTP/2 sends bytes even without a request");
    }
}
