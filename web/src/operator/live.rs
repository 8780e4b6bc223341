//! `GET /events`: the state of the service as server-sent events. Each frame is built once, only if
//! something changed, and shared by all watchers.

mod timeline;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, stream};
use poem::{Body, IntoResponse, Request, Response, handler, web::Data};
use serde::Serialize;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::timeline::{Sample, Timeline};
use super::{Operator, status};
use crate::{
    access::{Allowance, Counted},
    problem::Problem,
};

/// Interval between looks while a page watches.
const LOOK: Duration = Duration::from_millis(500);
/// A frame is sent at least this often: a page that receives nothing for longer has lost the
/// connection.
const REPEAT: Duration = Duration::from_secs(5);
/// Milliseconds after which a browser reconnects.
const RETRY: &str = "retry: 2000\n\n";
/// Maximum number of watching clients, because each holds a connection.
const MOST_WATCHERS: usize = 1_000;

/// The kind of watcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watchers {
    /// Clients that may upload: limited in number, and disconnected when the server drains.
    Clients,
    /// The operator, who watches also during a drain.
    Operator,
}

/// State shared by all watchers.
#[derive(Debug, Default)]
pub(crate) struct Live {
    /// The latest frame for the operator.
    frame: watch::Sender<Bytes>,
    /// The latest frame for clients, without internal details.
    public: watch::Sender<Bytes>,
    /// Notified when a watcher arrives.
    came: Notify,
    timeline: Mutex<Timeline>,
    /// Number of watching clients.
    clients: AtomicUsize,
}

impl Live {
    fn watchers(&self) -> usize {
        self.frame.receiver_count() + self.public.receiver_count()
    }

    fn frame(&self, who: Watchers) -> &watch::Sender<Bytes> {
        match who {
            Watchers::Clients => &self.public,
            Watchers::Operator => &self.frame,
        }
    }

    fn timeline(&self) -> MutexGuard<'_, Timeline> {
        self.timeline.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Formats an event; JSON in one line needs no escaping.
fn event(name: &str, data: &impl Serialize) -> Bytes {
    let data = serde_json::to_string(data).expect("what is shown has string keys and finite numbers only");
    format!("event: {name}\ndata: {data}\n\n").into()
}

/// Updates the frames while there are watchers, and samples the timeline always. Runs until `stop`.
pub(crate) async fn keep(operator: &Operator, stop: &CancellationToken) {
    let live = &operator.live;
    *live.timeline() =
        Timeline::of_recording(&operator.settings().local.state, operator.uploads.clock.now()).await;
    let (mut shown, mut shown_at) = (None, Instant::now());
    let mut next_sample = Instant::now();
    loop {
        let is_watched = live.watchers() > 0;
        let now = Instant::now();
        if is_watched || now >= next_sample {
            let status = status::of(operator).await;
            if now >= next_sample {
                next_sample = now + timeline::EVERY;
                if let Some(sample) = Sample::of(&status.controller.0, operator.uploads.clock.now()) {
                    live.timeline().add(sample);
                }
            }
            let is_news = shown.as_ref().is_none_or(|shown| status.is_news_after(shown));
            if is_news || now - shown_at >= REPEAT {
                live.frame.send_replace(event("status", &status));
                live.public.send_replace(event("status", &status.for_clients()));
                (shown, shown_at) = (Some(status), now);
            }
        }
        let next = if is_watched { now + LOOK } else { next_sample };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(next) => {}
            () = live.came.notified(), if !is_watched => {}
        }
    }
}

/// Sends the state, then every change, until the client disconnects or this server ends.
#[handler]
pub(crate) async fn events(
    request: &Request,
    Data(operator): Data<&Arc<Operator>>,
    Data(who): Data<&Watchers>,
) -> Response {
    let counted = request.extensions().get().map(Allowance::watcher).transpose();
    let watcher = counted
        .and_then(|counted| Watcher::new(operator, *who, counted).ok_or_else(Problem::too_many_watchers));
    let watcher = match watcher {
        Ok(watcher) => watcher,
        Err(problem) => return problem.into_response(),
    };
    let past = event("timeline", &*operator.live.timeline());
    let status = status::of(operator).await;
    let now = match who {
        Watchers::Clients => event("status", &status.for_clients()),
        Watchers::Operator => event("status", &status),
    };
    let first = [RETRY.into(), past, now];
    Response::builder()
        .content_type("text/event-stream")
        .header("cache-control", "no-store")
        // Keeps proxies from buffering the events.
        .header("x-accel-buffering", "no")
        .body(Body::from_bytes_stream(frames(watcher, first.concat().into())))
}

/// The events for one watcher.
fn frames(watcher: Watcher, first: Bytes) -> impl Stream<Item = std::io::Result<Bytes>> {
    stream::unfold((watcher, Some(first)), async |(mut watcher, first)| {
        if let Some(first) = first {
            return Some((Ok(first), (watcher, None)));
        }
        let changed = tokio::select! {
            changed = watcher.frame.changed() => changed.is_ok(),
            // A drain must not wait for open pages.
            () = watcher.operator.draining().cancelled(), if watcher.who == Watchers::Clients => false,
        };
        let frame = watcher.frame.borrow_and_update().clone();
        changed.then_some((Ok(frame), (watcher, None)))
    })
}

/// A counted watcher.
struct Watcher {
    operator: Arc<Operator>,
    who: Watchers,
    frame: watch::Receiver<Bytes>,
    /// Counts it for its address and token, if clients are limited.
    _counted: Option<Counted>,
}

impl Watcher {
    fn new(operator: &Arc<Operator>, who: Watchers, counted: Option<Counted>) -> Option<Self> {
        let one = usize::from(who == Watchers::Clients);
        let clients = operator.live.clients.fetch_add(one, Ordering::Relaxed);
        // From here on, dropping the watcher undoes the count.
        let frame = operator.live.frame(who).subscribe();
        let watcher = Self { operator: operator.clone(), who, frame, _counted: counted };
        operator.live.came.notify_one();
        (who == Watchers::Operator || clients < MOST_WATCHERS).then_some(watcher)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let one = usize::from(self.who == Watchers::Clients);
        self.operator.live.clients.fetch_sub(one, Ordering::Relaxed);
    }
}
