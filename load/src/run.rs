//! Runs a load, from options to report.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    crew::{Crew, GONE},
    error::Error,
    http::Connection,
    options::Options,
    report::Report,
    watch::Watch,
};

/// The interval of progress reports.
const PROGRESS: Duration = Duration::from_millis(100);
/// Number of files that a process opens in addition to its connections.
const OTHER_FILES: u64 = 40;

/// Uploads the images and returns a report. Dropping the future ends all uploads.
///
/// Needs a Tokio runtime with I/O and time; a single thread suffices, and measures best. If the run
/// needs more connections than this process may open files, the limit is raised as far as the
/// system allows.
///
/// # Errors
///
/// Fails if nothing listens at the address, if there is nothing to upload or no end to the run, or
/// if the connections exceed the limit of open files. A failed upload is not an error: it is
/// counted in the report.
pub async fn run(options: Options, watch: Arc<dyn Watch>) -> Result<Report, Error> {
    Ok(load(options, watch).await?)
}

async fn load(options: Options, watch: Arc<dyn Watch>) -> anyhow::Result<Report> {
    ensure!(!options.images.is_empty(), "no image to upload");
    ensure!(options.concurrency > 0, "at least one connection is needed");
    let has_end = options.requests.is_some()
        || options.duration.is_some()
        || options.open.as_ref().is_some_and(|open| open.schedule.end().is_some());
    ensure!(has_end, "this run never ends: it needs a number of uploads or a duration");
    allow_connections(options.concurrency)?;
    // A wrong address is reported once, instead of for every image.
    let first =
        Connection::open(&options.url).await.map_err(|lost| anyhow::anyhow!(lost.at(&options.url)))?;

    let crew = Arc::new(Crew::new(options, watch, first));
    let _listening = AbortOnDropHandle::new(tokio::spawn(crew.clone().listen()));
    let stopped = {
        let mut drive = std::pin::pin!(crew.clone().drive());
        let mut ticks = tokio::time::interval(PROGRESS);
        loop {
            tokio::select! {
                biased;
                () = crew.options.stop.cancelled() => break Some("stopped by a signal".to_owned()),
                () = crew.gone.cancelled() => {
                    break Some(format!("stopped: nothing has listened at {} for {GONE:?}", crew.options.url));
                }
                done = &mut drive => {
                    done?;
                    break None;
                }
                _ = ticks.tick() => crew.report_progress(),
            }
        }
        // The tally is always complete, so uploads can be dropped at any await, as here.
    };
    crew.report_progress();
    Ok(Report::of(&crew, stopped))
}

/// Raises the limit of open files if the run needs more connections.
fn allow_connections(most: usize) -> anyhow::Result<()> {
    let needed = most as u64 + OTHER_FILES;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < needed) {
        ensure!(
            maximum.is_none_or(|maximum| maximum >= needed),
            "{most} connections are more than this process may open: its limit is {} files (see `ulimit \
             -Hn`)",
            maximum.unwrap_or_default()
        );
        setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum })
            .context("raising the number of open files")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
