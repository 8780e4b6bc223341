//! Generates the load: tasks that upload images, in a closed or in an open loop.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use hyper::Request;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinError, JoinSet},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    failure::Failure,
    fleet::Fleet,
    http::{Answer, Connection, Lost, Pieces},
    images::ImageFile,
    options::{OpenLoop, Options},
    pace::Pacer,
    tally::{Tally, Times},
    upload::Uploader,
    watch::{State, Watch},
};

/// How long connections to a server may be refused: it may be restarting. After this time, the run
/// stops.
pub(crate) const GONE: Duration = Duration::from_secs(10);

/// The state shared by all uploads of a run.
pub(crate) struct Crew {
    pub(crate) options: Options,
    pub(crate) fleet: Fleet,
    pub(crate) gone: CancellationToken,
    uploader: Uploader,
    watch: Arc<dyn Watch>,
    next: AtomicU64,
    in_flight: AtomicU64,
    /// The due time of the upload that waits for a connection, in microseconds since the start;
    /// zero if none waits.
    overdue_us: AtomicU64,
    tally: Mutex<Tally>,
    /// Idle connections. The last used one is used next, so that few stay open.
    kept: Mutex<Vec<Connection>>,
    start: Instant,
}

impl Crew {
    pub(crate) fn new(options: Options, watch: Arc<dyn Watch>, first: Connection) -> Self {
        Self {
            fleet: Fleet::default(),
            gone: CancellationToken::new(),
            uploader: Uploader::new(&options),
            watch,
            next: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            overdue_us: AtomicU64::new(0),
            tally: Mutex::new(Tally::with_limits(options.slo.limits())),
            kept: Mutex::new(vec![first]),
            start: Instant::now(),
            options,
        }
    }

    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        // A panic cannot leave counters half-changed.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of started uploads.
    pub(crate) fn begun(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Reports the progress.
    pub(crate) fn report_progress(&self) {
        let overdue = match self.overdue_us.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            due => self.elapsed().saturating_sub(Duration::from_micros(due)),
        };
        self.watch.progress(&State {
            tally: &self.tally(),
            elapsed: self.elapsed(),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            behind: overdue,
            fleet: self.fleet.latest(),
        });
    }

    /// Listens to the events of the service's fleet until it is dropped.
    pub(crate) async fn listen(self: Arc<Self>) {
        self.fleet.listen(&self.options.url, &self.options.headers(), self.start).await;
    }

    /// Generates the load, and returns after the last response.
    pub(crate) async fn drive(self: Arc<Self>) -> anyhow::Result<()> {
        match self.options.open.clone() {
            Some(open) => self.drive_open(&open).await,
            None => self.drive_closed().await,
        }
    }

    async fn drive_closed(self: Arc<Self>) -> anyhow::Result<()> {
        let most = self.options.requests.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
        let connections = self.options.concurrency.min(most);
        let mut tasks: JoinSet<()> = (0..connections).map(|_| self.clone().work()).collect();
        while let Some(done) = tasks.join_next().await {
            alive(done)?;
        }
        Ok(())
    }

    /// The uploads of one connection of a closed loop.
    async fn work(self: Arc<Self>) {
        let is_over = || self.options.duration.is_some_and(|duration| self.elapsed() >= duration);
        while !is_over() {
            // A number is only taken for an upload that starts, so that the count is that of
            // started uploads.
            let most = self.options.requests.unwrap_or(u64::MAX);
            let take = |next| (next < most).then_some(next + 1);
            let Ok(number) = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) else {
                return;
            };
            self.upload(number, Instant::now(), false).await;
        }
    }

    /// Starts each upload at its due time. If all connections are busy, it and the following ones
    /// wait: none is skipped, and each latency counts from its own due time.
    async fn drive_open(self: Arc<Self>, open: &OpenLoop) -> anyhow::Result<()> {
        let pacer = Pacer::new().context("making a timer")?;
        let seats = Arc::new(Semaphore::new(self.options.concurrency));
        let mut tasks = JoinSet::new();
        let mut free_since = self.start;
        let most = self.options.requests.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
        for at in self.moments(open).take(most) {
            let due = self.start + at;
            pacer.until(due).await.context("waiting for the next upload")?;
            let seat = match seats.clone().try_acquire_owned() {
                Ok(seat) => seat,
                Err(_all_busy) => {
                    self.overdue_us.store((at.as_micros() as u64).max(1), Ordering::Relaxed);
                    let seat = seats.clone().acquire_owned().await.context("nobody closes the seats")?;
                    self.overdue_us.store(0, Ordering::Relaxed);
                    free_since = Instant::now();
                    seat
                }
            };
            // Uploads due before the wait ended are late for the same reason, although they find a
            // free connection.
            let waited = due < free_since;
            while let Some(done) = tasks.try_join_next() {
                alive(done)?;
            }
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            tasks.spawn(self.clone().upload_on(seat, number, due, waited));
        }
        while let Some(done) = tasks.join_next().await {
            alive(done)?;
        }
        Ok(())
    }

    fn moments<'a>(&self, open: &'a OpenLoop) -> impl Iterator<Item = Duration> + use<'a> {
        let duration = self.options.duration.unwrap_or(Duration::MAX);
        open.schedule.sends(open.arrivals, open.seed).take_while(move |at| *at < duration)
    }

    /// Returns the number of uploads of an open loop that were due, but not started, when the run
    /// was stopped.
    pub(crate) fn never_begun(&self, stopped_at: Duration) -> u64 {
        let most = self.options.requests.unwrap_or(u64::MAX);
        let due = self
            .options
            .open
            .as_ref()
            .map_or(0, |open| self.moments(open).take_while(|at| *at <= stopped_at).count() as u64);
        due.min(most).saturating_sub(self.begun())
    }

    async fn upload_on(
        self: Arc<Self>,
        _seat: OwnedSemaphorePermit,
        number: u64,
        due: Instant,
        waited: bool,
    ) {
        self.upload(number, due, waited).await;
    }

    /// Runs one upload to its end.
    async fn upload(&self, number: u64, due: Instant, waited: bool) {
        let place = (number % self.options.images.len() as u64) as usize;
        let image = &self.options.images[place];
        let begun = Instant::now();
        self.tally().begun(due - self.start, begun - due, waited);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let deadline = due + self.options.timeout;
        let end = if begun < deadline {
            let mut connection = self.kept().pop();
            let end = timeout_at(deadline, self.classify(image, number, &mut connection)).await;
            match end {
                Ok(end) => {
                    self.kept().extend(connection);
                    end
                }
                // A late response must not be taken for that of the next image, so the connection
                // is dropped.
                Err(_late) => Err(Failure::Timeout(self.options.timeout)),
            }
        } else {
            Err(Failure::NotSent(self.options.timeout))
        };
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.note(place, end, Times { due: due - self.start, took: due.elapsed() });
    }

    /// Uploads one image and waits for its label.
    async fn classify(
        &self,
        image: &ImageFile,
        number: u64,
        connection: &mut Option<Connection>,
    ) -> Result<String, Failure> {
        let bytes = image.bytes().await.map_err(|error| Failure::Unreadable(error.to_string()))?;
        let mut result: Option<String> = None;
        loop {
            let request = || match &result {
                None => self.uploader.upload(image, &bytes, number),
                Some(path) => self.uploader.result(path),
            };
            let answer = self.ask(&request, connection).await?;
            self.tally().answered(answer.status.as_u16());
            match answer.status.as_u16() {
                202 if result.is_none() => {
                    self.tally().pending += 1;
                    result = Some(answer.location().ok_or(Failure::NoLocation)?);
                }
                202 => {}
                429 | 503 => self.tally().retried += 1,
                status if self.options.expect.wants(status) => {
                    self.tally().cached += u64::from(result.is_none() && answer.is_stored());
                    return self.options.expect.label(&answer);
                }
                _ => return Err(Failure::Status(answer.status, answer.detail())),
            }
            tokio::time::sleep(answer.retry_after()).await;
        }
    }

    /// Sends a request on the given connection, or on a new one.
    async fn ask(
        &self,
        request: &(dyn Fn() -> Request<Pieces> + Sync),
        connection: &mut Option<Connection>,
    ) -> Result<Answer, Failure> {
        loop {
            let kept = connection.take().filter(|connection| !connection.is_closed());
            let was_kept = kept.is_some();
            let mut open = match kept {
                Some(open) => open,
                None => self.connect().await?,
            };
            match open.ask(request()).await {
                Ok(answer) => {
                    *connection = Some(open);
                    return Ok(answer);
                }
                // A server may close an idle connection just before it is used. Uploads are
                // content-addressed, so repeating one is safe.
                Err(Lost::HungUp(_)) if was_kept => self.tally().reconnects += 1,
                Err(lost) => return Err(Failure::Lost(lost.to_string())),
            }
        }
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let start = Instant::now();
        loop {
            match Connection::open(&self.options.url).await {
                Ok(connection) => return Ok(connection),
                Err(lost) if lost.is_refused() => {
                    if start.elapsed() > GONE {
                        self.gone.cancel();
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(lost) => return Err(Failure::Lost(lost.to_string())),
            }
        }
    }

    fn note(&self, place: usize, end: Result<String, Failure>, times: Times) {
        let image = &self.options.images[place].name;
        match end {
            Ok(label) => {
                let truth = self.options.truth.as_ref().and_then(|truth| truth.labels[place].as_ref());
                let judged =
                    truth.filter(|truth| truth.is(&label)).map_or(label.as_str(), |truth| &truth.text);
                self.tally().classified(times, judged, truth.map(|truth| truth.text.as_str()));
                self.watch.classified(image, &label, times.took);
            }
            Err(failure) => {
                let why = failure.to_string();
                self.tally().failed(times, failure.kind(), format!("{image}: {why}"));
                self.watch.failed(image, &why);
            }
        }
    }
}

fn alive(done: Result<(), JoinError>) -> anyhow::Result<()> {
    done.context("an upload's task died")
}
