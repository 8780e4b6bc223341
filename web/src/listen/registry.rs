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
pub(super) struct Registry {
    pub(super) limits: Limits,
    pub(super) counts: Connections,
    /// The zero of the connections' times.
    since: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    connections: HashMap<u64, Arc<Connection>>,
    /// Number of connections per address.
    addresses: HashMap<IpAddr, usize>,
    /// Number of connections between requests.
    kept: usize,
    /// Connections in the order in which they became idle, with that time; may hold outdated
    /// entries.
    order: VecDeque<(u64, u64)>,
}

/// One connection and its state. Whether it is busy changes only under the lock of `State`. Times
/// are in milliseconds since `Registry::since`; 0 is never.
#[derive(Debug)]
pub(super) struct Connection {
    address: IpAddr,
    /// Number of requests that are being read or answered.
    busy: AtomicUsize,
    /// When it became idle.
    idle_since: AtomicU64,
    /// When the first byte arrived since then.
    first_byte_at: AtomicU64,
    /// Since when the client accepts no bytes.
    unread_since: AtomicU64,
    /// True after the first request.
    has_requested: AtomicBool,
    /// True for HTTP/2, whose clients send bytes even without requests.
    is_http2: AtomicBool,
    /// True if a request of HTTP/1 has arrived and nothing of its answer was sent.
    is_unanswered: AtomicBool,
    /// Cancelled to close the connection, because its place is needed.
    pub(super) close: CancellationToken,
}

/// The registration of a connection; dropping it frees the place of the connection.
#[derive(Debug)]
pub(super) struct Registration {
    registry: Arc<Registry>,
    number: u64,
    pub(super) connection: Arc<Connection>,
}

/// Counts a request as in flight until it is dropped.
#[derive(Debug)]
pub(super) struct RequestGuard(Arc<Registry>, Arc<Connection>, u64);

impl Registry {
    pub(super) fn new(limits: Limits, counts: Connections) -> Arc<Self> {
        Arc::new(Self { limits, counts, since: Instant::now(), state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX) + 1
    }

    /// Registers a connection, or returns why not. If all places are taken, closes the
    /// connection that has been idle the longest.
    pub(super) fn register(self: &Arc<Self>, address: IpAddr) -> Result<Registration, Full> {
        let address = address.to_canonical();
        let is_counted = !self.limits.trusted_proxies.iter().any(|network| network.contains(&address));
        let address = counted_as(address);
        let mut state = self.lock();
        if is_counted && state.addresses.get(&address).is_some_and(|n| *n >= self.limits.per_address) {
            return Err(Full::Address);
        }
        if state.connections.len() >= self.limits.connections {
            let longest_idle = state.longest_idle().ok_or(Full::All)?;
            state.remove(longest_idle);
            self.counts.closed(Closed::Crowded);
        }
        let connection = Arc::new(Connection {
            address,
            busy: AtomicUsize::new(0),
            idle_since: AtomicU64::new(self.now()),
            first_byte_at: AtomicU64::new(0),
            unread_since: AtomicU64::new(0),
            has_requested: AtomicBool::new(false),
            is_http2: AtomicBool::new(false),
            is_unanswered: AtomicBool::new(false),
            close: CancellationToken::new(),
        });
        let number = state.next;
        state.next += 1;
        state.connections.insert(number, connection.clone());
        self.counts.opened();
        *state.addresses.entry(address).or_default() += 1;
        Ok(Registration { registry: self.clone(), number, connection })
    }

    /// Closes the connection that has been idle the longest, because a resource that connections
    /// need has run out.
    pub(super) fn make_room(&self) {
        let mut state = self.lock();
        if let Some(longest_idle) = state.longest_idle() {
            state.remove(longest_idle);
            self.counts.closed(Closed::Crowded);
        }
    }
}

impl State {
    /// Records that a connection is idle between requests. If more than `most` are, closes the one
    /// that has been idle the longest: each costs buffers, and its client can connect again.
    fn keep(&mut self, number: u64, since: u64, most: usize, counts: &Connections) {
        self.kept += 1;
        self.order.push_back((number, since));
        let is_current = |connections: &HashMap<u64, Arc<Connection>>, (number, since): &(u64, u64)| {
            let connection = connections.get(number);
            connection.is_some_and(|connection| {
                connection.is_kept() && connection.idle_since.load(Ordering::Relaxed) == *since
            })
        };
        while self.kept > most
            && let Some(oldest) = self.order.pop_front()
        {
            if is_current(&self.connections, &oldest) {
                self.remove(oldest.0);
                counts.closed(Closed::Crowded);
            }
        }
        if self.order.len() > 4 * most + 64 {
            let connections = &self.connections;
            self.order.retain(|entry| is_current(connections, entry));
        }
    }

    fn longest_idle(&self) -> Option<u64> {
        let idle =
            self.connections.iter().filter(|(_, connection)| connection.busy.load(Ordering::Relaxed) == 0);
        idle.min_by_key(|(_, connection)| connection.idle_since.load(Ordering::Relaxed))
            .map(|(number, _)| *number)
    }

    /// Removes a connection and ends it.
    fn remove(&mut self, number: u64) {
        let Some(connection) = self.connections.remove(&number) else { return };
        connection.close.cancel();
        self.kept -= usize::from(connection.is_kept());
        if let Some(count) = self.addresses.get_mut(&connection.address) {
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&connection.address);
            }
        }
    }
}

impl Connection {
    /// Returns whether it is between requests.
    fn is_kept(&self) -> bool {
        self.has_requested.load(Ordering::Relaxed) && self.busy.load(Ordering::Relaxed) == 0
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.lock().remove(self.number);
        self.registry.counts.ended();
    }
}

impl Registration {
    /// Records that a request has arrived.
    pub(super) fn request(&self, version: Version) -> RequestGuard {
        let connection = &self.connection;
        let mut state = self.registry.lock();
        if state.connections.contains_key(&self.number) {
            state.kept -= usize::from(connection.is_kept());
        }
        connection.has_requested.store(true, Ordering::Relaxed);
        connection.is_http2.store(version == Version::HTTP_2, Ordering::Relaxed);
        connection.is_unanswered.store(version != Version::HTTP_2, Ordering::Relaxed);
        connection.busy.fetch_add(1, Ordering::Relaxed);
        RequestGuard(self.registry.clone(), connection.clone(), self.number)
    }

    /// Returns whether a request is being read or answered.
    pub(super) fn is_busy(&self) -> bool {
        self.connection.busy.load(Ordering::Relaxed) > 0
    }

    /// Returns whether a request of HTTP/1 has arrived and nothing of its answer was sent.
    pub(super) fn may_be_unanswered(&self) -> bool {
        self.is_busy() && self.connection.is_unanswered.load(Ordering::Relaxed)
    }

    /// Like [`may_be_unanswered`](Self::may_be_unanswered), and the whole request was read.
    pub(super) fn is_unanswered(&self) -> bool {
        self.may_be_unanswered() && self.connection.busy.load(Ordering::Relaxed) == 1
    }

    /// Records that something was sent to the client.
    pub(super) fn record_write(&self) {
        self.connection.is_unanswered.store(false, Ordering::Relaxed);
    }

    /// Records that bytes have arrived.
    pub(super) fn record_read(&self) {
        let connection = &self.connection;
        if connection.busy.load(Ordering::Relaxed) == 0
            && connection.first_byte_at.load(Ordering::Relaxed) == 0
        {
            connection.first_byte_at.store(self.registry.now(), Ordering::Relaxed);
        }
    }

    /// Records whether the client currently accepts no bytes.
    pub(super) fn record_unread(&self, unread: bool) {
        let since = &self.connection.unread_since;
        match (unread, since.load(Ordering::Relaxed)) {
            (true, 0) => since.store(self.registry.now(), Ordering::Relaxed),
            (false, 1..) => since.store(0, Ordering::Relaxed),
            _ => {}
        }
    }

    /// Returns when and why the connection ends if nothing happens until then. `None` while a
    /// request is in flight and its client reads.
    pub(super) fn deadline(&self) -> Option<(Instant, Closed)> {
        let (connection, limits) = (&self.connection, &self.registry.limits);
        let at = |since: u64, limit: Duration| self.registry.since + Duration::from_millis(since) + limit;
        let unread = connection.unread_since.load(Ordering::Relaxed);
        let unread = (unread > 0).then(|| (at(unread, limits.unread), Closed::Unread));
        if connection.busy.load(Ordering::Relaxed) > 0 {
            return unread;
        }
        let first_byte_at = connection.first_byte_at.load(Ordering::Relaxed);
        let idle_since = connection.idle_since.load(Ordering::Relaxed);
        let silent = if !connection.has_requested.load(Ordering::Relaxed) {
            (at(idle_since, limits.header), Closed::Header)
        } else if first_byte_at > 0 && !connection.is_http2.load(Ordering::Relaxed) {
            (at(first_byte_at, limits.header), Closed::Header)
        } else {
            (at(idle_since, limits.idle), Closed::Idle)
        };
        Some(unread.filter(|unread| unread.0 < silent.0).unwrap_or(silent))
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        let Self(registry, connection, number) = self;
        let mut state = registry.lock();
        if connection.busy.fetch_sub(1, Ordering::Relaxed) > 1 {
            return;
        }
        let now = registry.now();
        connection.first_byte_at.store(0, Ordering::Relaxed);
        connection.idle_since.store(now, Ordering::Relaxed);
        if state.connections.contains_key(number) {
            state.keep(*number, now, registry.limits.kept, &registry.counts);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(connections: usize, per_address: usize) -> Arc<Registry> {
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
        Registry::new(limits, Connections::default())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn each_address_has_its_own_maximum_of_connections() {
        let registry = registry(100, 3);
        let registrations: Vec<_> = (0..3).map(|_| registry.register(ip("192.0.2.1")).unwrap()).collect();
        assert_eq!(registry.register(ip("192.0.2.1")).unwrap_err(), Full::Address);
        assert_eq!(registry.register(ip("::ffff:192.0.2.1")).unwrap_err(), Full::Address);
        assert!(registry.register(ip("192.0.2.2")).is_ok());
        let proxied: Vec<_> = (0..9).map(|_| registry.register(ip("10.1.2.3")).unwrap()).collect();
        assert_eq!(proxied.len(), 9, "clients of a proxy share its address");
        drop(registrations);
        assert!(registry.register(ip("192.0.2.1")).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_places_are_taken_the_longest_idle_connection_is_closed_but_no_busy_one() {
        let registry = registry(3, 100);
        let busy = registry.register(ip("192.0.2.1")).unwrap();
        let request = busy.request(Version::HTTP_11);
        tokio::time::advance(Duration::from_secs(1)).await;
        let old = registry.register(ip("192.0.2.2")).unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        let young = registry.register(ip("192.0.2.3")).unwrap();
        let newcomer = registry.register(ip("192.0.2.4")).unwrap();
        let left = |registration: &Registration| registration.connection.close.is_cancelled();
        assert_eq!([left(&busy), left(&old), left(&young), left(&newcomer)], [false, true, false, false]);
        let _requests = (young.request(Version::HTTP_11), newcomer.request(Version::HTTP_11));
        drop(old);
        assert_eq!(registry.register(ip("192.0.2.5")).unwrap_err(), Full::All);
        drop(request);
        assert!(registry.register(ip("192.0.2.5")).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_most_recently_used_idle_connections_are_kept() {
        let registry = registry(1000, 1000);
        let registrations: Vec<_> = (0..5).map(|_| registry.register(ip("192.0.2.1")).unwrap()).collect();
        let left = || {
            registrations.iter().filter(|registration| registration.connection.close.is_cancelled()).count()
        };
        for registration in &registrations {
            drop(registration.request(Version::HTTP_11));
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        assert_eq!(left(), 3);
        // A connection with many requests counts once.
        for _ in 0..100 {
            drop(registrations[4].request(Version::HTTP_11));
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        assert_eq!((left(), registry.lock().kept), (3, 2));
        let busy = registrations[4].request(Version::HTTP_11);
        assert_eq!(registry.lock().kept, 1);
        drop(busy);
        drop(registrations);
        let state = registry.lock();
        assert_eq!((state.kept, state.connections.len(), state.addresses.len()), (0, 0, 0));
        assert!(state.order.len() < 100, "{}", state.order.len());
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_depends_on_what_the_connection_waits_for() {
        let registry = registry(3, 3);
        let registration = registry.register(ip("192.0.2.1")).unwrap();
        let in_s = |registration: &Registration| {
            registration.deadline().map(|(at, _)| (at - Instant::now()).as_secs_f64().round())
        };
        assert_eq!(in_s(&registration), Some(10.0), "the first header");
        let request = registration.request(Version::HTTP_11);
        assert_eq!(in_s(&registration), None, "a request is in flight");
        registration.record_unread(true);
        assert_eq!(in_s(&registration), Some(30.0), "its answer is not read");
        registration.record_unread(false);
        drop(request);
        assert_eq!(in_s(&registration), Some(75.0), "the next request");
        tokio::time::advance(Duration::from_secs(20)).await;
        registration.record_read();
        tokio::time::advance(Duration::from_secs(5)).await;
        registration.record_read();
        assert_eq!(in_s(&registration), Some(5.0), "the rest of the header");
        drop(registration.request(Version::HTTP_2));
        registration.record_read();
        assert_eq!(in_s(&registration), Some(75.0), "HTTP/2 sends bytes even without a request");
    }
}
