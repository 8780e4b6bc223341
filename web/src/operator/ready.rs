//! `GET /livez` and `GET /readyz`: whether the process runs, and whether an upload that came now
//! could be taken.

use std::{sync::Arc, time::Duration};

use poem::{IntoResponse, Response, handler, web::Data};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use super::Operator;
use crate::problem::Problem;

/// A look that is older is taken again. Balancers ask every few seconds, several of them at once.
const FRESH: Duration = Duration::from_secs(2);
/// A queue or store that does not answer in this time is not there.
const PATIENCE: Duration = Duration::from_secs(3);

/// Whether queue and store could be reached, when somebody last looked.
#[derive(Debug, Default)]
pub(crate) struct Reach(Mutex<Option<(Instant, Result<(), &'static str>)>>);

impl Reach {
    /// `Err` says what cannot be reached. Who asks while another looks gets what that one sees.
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

/// The process runs.
#[handler]
pub(crate) fn livez() -> &'static str {
    "ok\n"
}

/// The process takes uploads: it does not drain, has room for images, and reaches queue and store.
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
