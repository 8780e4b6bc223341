//! The kernel's word that a file of a folder may have changed, so that who looks at it need not do
//! so all the time. It is a hint: a notification that was missed, a replaced folder, a mount
//! without events cost a delay until the next look, not a change.

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

/// Wakes a task that waits when a file of a folder may have changed.
#[derive(Debug)]
pub struct Wake {
    folder: PathBuf,
    /// The one file that matters, where not all do.
    only: Option<String>,
    notifications: Option<AsyncFd<OwnedFd>>,
}

impl Wake {
    /// Watches a folder. Where the kernel has no watch to give, [`changed`](Self::changed) never
    /// ends, and looking now and then must do.
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

    /// Watches one file of a folder, there or not: what happens to the others wakes nobody.
    pub fn of_file(folder: &Path, name: &str) -> Self {
        Self { only: Some(name.to_owned()), ..Self::new(folder) }
    }

    /// Watches the folder that has the name now; it may have been replaced. Doing it again changes
    /// nothing.
    pub fn arm(&self) {
        // Nothing is reported while a file is being written, only when it was closed, moved or
        // linked.
        let changes = WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF;
        if let Some(notifications) = &self.notifications {
            // A folder that is gone for a moment is watched again after the look that sees it.
            let _gone = inotify::add_watch(notifications.get_ref(), &self.folder, changes);
        }
    }

    /// Ends when a file may have changed since the last call. Dropping it loses nothing.
    pub async fn changed(&self) {
        let Some(notifications) = &self.notifications else { return std::future::pending().await };
        loop {
            let Ok(mut ready) = notifications.readable().await else { return std::future::pending().await };
            let mut unread = [MaybeUninit::uninit(); 4096];
            let read = ready.try_io(|inotify| {
                let mut any = false;
                let mut events = inotify::Reader::new(inotify.get_ref(), &mut unread);
                // What exactly happened does not matter: whoever is woken looks at the files.
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

    /// What has no name happened to the folder itself.
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
    async fn a_watch_of_one_file_is_woken_by_that_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| fs::write(folder.path().join(name), "x").unwrap();
        let wake = Wake::of_file(folder.path(), "b.toml");
        write("a.toml");
        tokio::time::timeout(Duration::from_millis(50), wake.changed()).await.unwrap_err();
        write("b.toml");
        tokio::time::timeout(Duration::from_secs(10), wake.changed()).await.unwrap();
    }

    #[tokio::test]
    async fn a_changed_file_wakes_who_waits_at_once_also_in_a_replaced_folder() {
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
