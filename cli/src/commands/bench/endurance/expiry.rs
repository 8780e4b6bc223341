//! Measures the expiry of a full store, all of whose images are too old at once: how long other
//! operations wait, and whether the disk space is released.

use std::{fs, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use eirs_platform::{backend::Backend, clock::SystemClock, job::JobId, settings::Settings, state_folder};
use futures::{StreamExt, stream};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Watch, mib, ms};
use crate::commands::bench::{
    board::{Bar, Board},
    cases::Bench,
};

/// Number of images that are stored at the same time.
const AT_ONCE: usize = 128;
/// A pass starts every 30 seconds, and releases the space that the previous one freed.
const PATIENCE: Duration = Duration::from_secs(900);

pub(super) async fn measure(bench: &Bench, board: &mut Board, images: u64) -> anyhow::Result<()> {
    let folder = bench.folder()?;
    let state = folder.join("state");
    let mut settings = Settings::default();
    settings.local.state.clone_from(&state);
    settings.local.expire_images = Duration::from_secs(1);
    let backend = Backend::open(&settings, Arc::new(SystemClock)).await?;
    let store = |number: u64| {
        let image = Bytes::from(number.to_string());
        let (key, images) = (JobId::of(&image).image_key(), backend.images().clone());
        async move { images.put(&key, image).await }
    };
    let mut stored = stream::iter(0..images).map(store).buffer_unordered(AT_ONCE);
    while let Some(stored) = stored.next().await {
        stored?;
    }
    let full = database_mib(&state);
    let (stop, start) = (CancellationToken::new(), Instant::now());
    let expiring = tokio::spawn({
        let (backend, stop) = (backend.clone(), stop.clone());
        async move { backend.expire(&stop).await }
    });
    let watch = Watch::start(&state).await?;
    while !backend.images().list("images/", None, 1).await?.is_empty() {
        anyhow::ensure!(start.elapsed() < PATIENCE, "old images do not go");
        sleep(Duration::from_millis(100)).await;
    }
    board.row(format!("until {images} old images had gone"), start.elapsed().as_secs_f64(), "s", Bar::None);
    while database_mib(&state) > 16.0 && start.elapsed() < PATIENCE {
        sleep(Duration::from_millis(100)).await;
    }
    board.row("until the database was small again", start.elapsed().as_secs_f64(), "s", Bar::None);
    let largest_log = mib(watch.largest_log());
    let seen = watch.end().await?;
    stop.cancel();
    expiring.await?;
    let what = format!("the longest of {} commits meanwhile", seen.commits);
    board.row(what, ms(seen.longest_commit), "ms", Bar::AtMost(50.0));
    board.row("the longest delay of a timer meanwhile", ms(seen.longest_delay), "ms", Bar::None);
    board.row("the largest write-ahead log meanwhile", largest_log, "MiB", Bar::AtMost(16.0));
    board.row("the database with all of them", full, "MiB", Bar::None);
    board.row("and without", database_mib(&state), "MiB", Bar::AtMost(16.0));
    fs::remove_dir_all(folder)?;
    Ok(())
}

fn database_mib(state: &Path) -> f64 {
    mib(fs::metadata(state.join(state_folder::QUEUE)).map_or(0, |file| file.len()))
}
