//! Deletes expired images and results, a few at a time so that other operations do not wait.
//!
//! Ages are measured by the store's own clock in the database, which advances while a service runs,
//! and not by the wall clock. So a jump of the wall clock has no effect; only for the time in which
//! the service was stopped is it used, up to a day. An image is kept in any case while its job is
//! waiting, in flight or a dead letter.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{sync::Mutex, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    index::{self, Place},
    segments::Segments,
};
use crate::{
    clock::SharedClock,
    database::{Batch, Reader, Shrinking, Writer},
    error::{Error, Result},
    settings::Local,
    state_folder::OLD_FILES,
};

/// Maximum number of rows per transaction; takes a few milliseconds.
const SLICE: usize = 200;
/// Pause between two transactions, for other operations.
const PAUSE: Duration = Duration::from_millis(5);
/// Maximum number of slices per pass in which no image is expired.
const LOOKS: usize = 100;
/// Maximum time of a stop that counts towards ages.
const LONGEST_STOP: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug)]
pub(super) struct Expiry {
    segments: Segments,
    writer: Writer,
    reader: Reader,
    clock: SharedClock,
    old_files: PathBuf,
    images_after: Option<i64>,
    results_after: Option<i64>,
    progress: Mutex<Progress>,
}

/// The progress of the passes.
#[derive(Debug, Default)]
struct Progress {
    /// The time up to which the store's clock was advanced; `None` before the first pass.
    counted_to: Option<Instant>,
    /// Start of the next slice of images: segment and offset.
    next: (u32, u32),
    /// Segments that may be empty.
    maybe_empty: BTreeSet<u32>,
    /// The state of shrinking the database.
    database: Shrinking,
}

impl Expiry {
    pub(super) fn new(
        settings: &Local,
        segments: Segments,
        writer: Writer,
        reader: Reader,
        clock: SharedClock,
    ) -> Self {
        let after = |limit: Duration| (!limit.is_zero()).then_some(limit.as_secs().max(1) as i64);
        Self {
            segments,
            writer,
            reader,
            clock,
            old_files: settings.state.join(OLD_FILES),
            images_after: after(settings.expire_images),
            results_after: after(settings.expire_results),
            progress: Mutex::default(),
        }
    }

    /// Makes passes until `stop`.
    pub(super) async fn run(&self, stop: &CancellationToken, every: Duration) {
        loop {
            if let Some(Err(error)) = stop.run_until_cancelled(self.pass()).await {
                tracing::warn!(%error, "old images and results could not be deleted; retrying later");
            }
            if stop.run_until_cancelled(tokio::time::sleep(every)).await.is_none() {
                return;
            }
        }
    }

    /// Deletes everything that has expired.
    pub(super) async fn pass(&self) -> Result<()> {
        let progress = &mut *self.progress.lock().await;
        let now = self.advance(progress).await?;
        if let Some(after) = self.results_after {
            self.results(now - after).await?;
        }
        if let Some(after) = self.images_after {
            self.images(now - after, progress).await?;
        }
        self.sweep(progress).await?;
        self.carried(now).await?;
        progress.database.pass(&self.writer, &self.reader).await
    }

    /// Advances the store's clock by the time since the last pass; returns the new time in seconds.
    async fn advance(&self, progress: &mut Progress) -> Result<i64> {
        let (wall_ms, monotonic) = (self.clock.now().timestamp_millis(), Instant::now());
        let elapsed = match progress.counted_to {
            Some(then) => monotonic - then,
            None => {
                // Also check segments that a killed process left.
                let numbers = self.segments.numbers().map_err(|error| looking(&error))?;
                progress.maybe_empty.extend(numbers);
                let (_, seen_at, _) = self.reader.read("reading the store's clock", index::clock)?;
                let stopped = wall_ms.saturating_sub(seen_at).max(0).unsigned_abs();
                if seen_at == 0 { Duration::ZERO } else { Duration::from_millis(stopped).min(LONGEST_STOP) }
            }
        };
        let seconds = elapsed.as_secs();
        let advance = move |batch: &mut Batch<'_>| index::advance_clock(batch, seconds as i64, wall_ms);
        self.writer.run("advancing the store's clock", advance).await?;
        progress.counted_to = Some(match progress.counted_to {
            Some(then) => then + Duration::from_secs(seconds),
            None => monotonic,
        });
        self.reader.read("reading the store's clock", index::clock).map(|(now, ..)| now)
    }

    async fn results(&self, older_than: i64) -> Result<()> {
        let what = "deleting old results";
        let is_old = |connection: &_| index::any_result_older(connection, older_than);
        if self.reader.read(what, is_old)? {
            let renew = move |batch: &mut Batch<'_>| index::renew_version_notes(batch, older_than);
            self.writer.run(what, renew).await?;
        }
        while self.reader.read(what, is_old)? {
            let delete = move |batch: &mut Batch<'_>| index::delete_old_results(batch, older_than, SLICE);
            self.writer.run(what, delete).await?;
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Looks at the images in the order of their places. The images of a segment have similar ages,
    /// the first ones being the oldest: if none of a slice is expired, skips the rest of the
    /// segment.
    async fn images(&self, older_than: i64, progress: &mut Progress) -> Result<()> {
        let what = "deleting old images";
        let mut looks = 0;
        while looks < LOOKS {
            let from = progress.next;
            let aged = self
                .reader
                .read(what, |connection| index::aged_images(connection, from, older_than, SLICE))?;
            let Some(last) = aged.last() else {
                progress.next = (0, 0);
                return Ok(());
            };
            progress.next = if aged.iter().any(|image| image.expired || image.needed) {
                (last.place.segment, last.place.offset + 1)
            } else {
                looks += 1;
                (last.place.segment + 1, 0)
            };
            let expired: Vec<Place> =
                aged.iter().filter(|image| image.expired).map(|image| image.place).collect();
            if !expired.is_empty() {
                let delete = move |batch: &mut Batch<'_>| index::delete_places(batch, &expired);
                let deleted = self.writer.run(what, delete).await?;
                progress.maybe_empty.extend(deleted.iter().map(|place| place.segment));
                let segments = self.segments.clone();
                let freed = tokio::task::spawn_blocking(move || segments.free(&deleted));
                freed.await.map_err(|panic| Error::broken(what, panic))?;
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Deletes empty segments, and cuts off bytes after the last image of a segment whose process
    /// was killed while writing.
    async fn sweep(&self, progress: &mut Progress) -> Result<()> {
        let maybe_empty = std::mem::take(&mut progress.maybe_empty);
        for (done, number) in maybe_empty.into_iter().enumerate() {
            let end = || {
                self.reader
                    .read("looking into a segment", |connection| index::end_of_segment(connection, number))
            };
            match end()? {
                Some(end) => self.segments.cut_tail(number, end),
                None if self.segments.delete_if(number, || Ok(end()?.is_none()))? => {}
                // Still in use.
                None => {
                    progress.maybe_empty.insert(number);
                }
            }
            if done % 16 == 15 {
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    /// Deletes the files of an earlier version once they would have expired and the jobs of that
    /// time are done.
    async fn carried(&self, now: i64) -> Result<()> {
        let (_, _, first_message) = self.reader.read("reading the store's clock", index::clock)?;
        let older = |connection: &_| index::any_message_until(connection, first_message);
        let any_job = self.reader.read("looking for old jobs", older)?;
        let expired = |after: Option<i64>| after.is_some_and(|after| now > after);
        for (folder, expired) in
            [("images", expired(self.images_after) && !any_job), ("results", expired(self.results_after))]
        {
            let folder = self.old_files.join(folder);
            while expired && folder.is_dir() {
                let folder = folder.clone();
                let deleted = tokio::task::spawn_blocking(move || delete_some(&folder, &mut { SLICE })).await;
                deleted.map_err(|panic| Error::broken("deleting old files", panic))?.map_err(|error| {
                    Error::from_io(format!("deleting old files in {}", self.old_files.display()), &error)
                })?;
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(())
    }
}

fn looking(error: &io::Error) -> Error {
    Error::from_io("looking for segments", error)
}

/// Deletes up to `left` files of a folder, and the folder once it is empty.
fn delete_some(folder: &Path, left: &mut usize) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        if *left == 0 {
            return Ok(());
        }
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            delete_some(&entry.path(), left)?;
        } else {
            fs::remove_file(entry.path())?;
            *left -= 1;
        }
    }
    if *left > 0 { fs::remove_dir(folder) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
