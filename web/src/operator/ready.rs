//! `GET /livez` and `GET /readyz`: whether the process runs, and whether it can take an upload.

use std::{sync::Arc, time::Duration};

use poem::{IntoResponse, Response, handler, web::Data};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use super::Operator;
use crate::problem::Problem;

/// Maximum age of a check. Several load balancers check every few seconds.
const FRESH: Duration = Duration::from_secs(2);
/// Timeout for queue and store.
const PATIENCE: Duration = Duration::from_secs(3);

/// The last check whether queue and store can be reached.
#[derive(Debug, Default)]
pub(crate) struct Reach(Mutex<Option<(Instant, Result<(), &'static str>)>>);

impl Reach {
    /// Checks queue and store; `Err` says which cannot be reached. Concurrent callers share one
    /// check.
    async fn of(&self, operator: &Operator) -> Result<(), &'static str> {
        let mut last = self.0.lock().await;
        if let Some((at, seen)) = *last
            && at.elapsed() < FRESH
        {
            return seen;
        }
        let seen = timeout(PATIENCE, operator.jobs.reach()).await.unwrap_or(Err("queue or store does not \
                respond"));
        if let (Err(what), true) = (seen, last.is_none_or(|(_, before)| before.is_ok())) {
            tracing::warn!("not ready: {what}");
        }
        *last = Some((Instant::now(), seen));
        seen
    }
}

/// Always succeeds while the process runs.
#[handler]
pub(crate) fn livez() -> &'static str {
    "ok\n"
}

/// Succeeds if the process takes uploads: it does not drain, has room for images, and reaches queue
/// and store.
#[handler]
pub(crate) async fn readyz(Data(operator): Data<&Arc<Operator>>) -> Response {
    if operator.draining().is_cancelled() {
        return Problem::draining().into_response();
    }
    if operator.disk.as_ref().is_some_and(|disk| disk.look().below) {
        return Problem::disk_full().into_response();
    }
    match operator.reach.of(operator).await {
        Ok(()) => "ok\n".into_response(),
        Err(what) => Problem::not_ready(what).into_response(),
    }
}
