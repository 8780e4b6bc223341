//! Notifications of the kernel that a file in a folder may have changed, so that it need not be
//! polled. They are hints: a missed one, a replaced folder or a mount without events only delays
//! the next look.

use std::{
    ffi::CStr,
    io,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

use crate::descriptor;

/// Wakes a waiting task when a file in a folder may have changed.
#[derive(Debug)]
pub struct Wake {
    folder: PathBuf,
    /// The only file of interest, if not all are.
    only: Option<String>,
    notifications: Option<AsyncFd<OwnedFd>>,
}

impl Wake {
    /// Watches a folder. If the kernel has no watches left, [`changed`](Self::changed) never
    /// completes, and only periodic looks detect changes.
    pub fn new(folder: &Path) -> Self {
        let open = || -> io::Result<_> {
            let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
            descriptor::readable(inotify)
        };
        let notifications = open()
            .inspect_err(
                |error| tracing::warn!(%error, "no inotify: changed files are seen at the next look"),
            )
            .ok();
        let wake = Self { folder: folder.to_owned(), only: None, notifications };
        wake.arm();
        wake
    }

    /// Watches one file in a folder, which need not exist.
    pub fn of_file(folder: &Path, name: &str) -> Self {
        Self { only: Some(name.to_owned()), ..Self::new(folder) }
    }

    /// Watches the folder that has the path now, in case it was replaced. Idempotent.
    pub fn arm(&self) {
        // Events come when a file is closed, moved or linked, not while it is written.
        let changes = WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF;
        if let Some(notifications) = &self.notifications {
            // A missing folder is watched again after the next look.
            let _gone = inotify::add_watch(notifications.get_ref(), &self.folder, changes);
        }
    }

    /// Completes when a file may have changed since the last call. Cancel safe.
    pub async fn changed(&self) {
        let Some(notifications) = &self.notifications else { return std::future::pending().await };
        loop {
            let Ok(mut ready) = notifications.readable().await else { return std::future::pending().await };
            let mut unread = [MaybeUninit::uninit(); 4096];
            let read = ready.try_io(|inotify| {
                let mut any = false;
                let mut events = inotify::Reader::new(inotify.get_ref(), &mut unread);
                // The kind of event does not matter: the caller looks at the files.
                loop {
                    match events.next() {
                        Ok(event) => any |= self.concerns(event.file_name()),
                        Err(rustix::io::Errno::INTR) => {}
                        Err(_) if any => return Ok(()),
                        Err(error) => return Err(error.into()),
                    }
                }
            });
            match read {
                Ok(Ok(())) => return,
                Ok(Err(_broken)) => return std::future::pending().await,
                Err(_would_block) => {}
            }
        }
    }

    /// Returns whether an event is of interest; one without a name concerns the folder itself.
    fn concerns(&self, file: Option<&CStr>) -> bool {
        match (&self.only, file) {
            (Some(only), Some(file)) => only.as_bytes() == file.to_bytes(),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;

    #[tokio::test]
    async fn a_watch_of_one_file_ignores_other_files() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| fs::write(folder.path().join(name), "x").unwrap();
        let wake = Wake::of_file(folder.path(), "b.toml");
        write("a.toml");
        tokio::time::timeout(Duration::from_millis(50), wake.changed()).await.unwrap_err();
        write("b.toml");
        tokio::time::timeout(Duration::from_secs(10), wake.changed()).await.unwrap();
    }

    #[tokio::test]
    async fn a_changed_file_wakes_the_watch_even_in_a_replaced_folder() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| fs::write(folder.path().join(name), "x").unwrap();
        let wake = Wake::new(folder.path());
        let soon = |changed| tokio::time::timeout(Duration::from_secs(10), changed);
        write("a.toml");
        soon(wake.changed()).await.unwrap();

        let aside = folder.path().with_extension("aside");
        fs::rename(folder.path(), &aside).unwrap();
        fs::create_dir(folder.path()).unwrap();
        soon(wake.changed()).await.unwrap();
        wake.arm();
        write("a.toml");
        soon(wake.changed()).await.unwrap();
        fs::remove_dir_all(aside).unwrap();
    }
}
