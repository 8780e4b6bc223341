//! A folder as a store. A blob is written to a temporary file and renamed, so that no reader sees
//! an incomplete one. `put_new` uses a rename that fails if the target exists.
//!
//! Small blobs are read and written on the calling thread: with the page cache that takes less time
//! than waking another thread. Large blobs, and all blobs that must be synced, use tokio's blocking
//! threads.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};

use super::{BlobInfo, BlobStore};
use tokio::sync::Semaphore;

use crate::error::{Error, Result};

/// Minimum age of temporary files that are deleted, because a killed process left them.
const STALE: Duration = Duration::from_secs(3600);
/// The folder of temporary files. No key starts with a dot.
const WRITING: &str = ".writing";
/// Maximum size of a small blob, in bytes.
const QUICK_BYTES: usize = 1024 * 1024;
/// Maximum number of concurrent operations without sync, which are limited by processors.
const WRITES_AT_ONCE: usize = 3;
/// Maximum number of concurrent operations with sync, which are faster together.
const SYNCS_AT_ONCE: usize = 32;

/// A store in a folder of the file system.
#[derive(Debug, Clone)]
pub struct DirBlobs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// Sync blobs, so that they survive a power failure.
    sync: bool,
    next: AtomicU64,
    /// File systems serialize changes to a folder; more threads would only contend for its lock.
    at_once: Semaphore,
}

impl DirBlobs {
    /// Opens the folder, or creates it.
    pub fn open(root: &Path, sync: bool) -> Result<Self> {
        let writing = root.join(WRITING);
        fs::create_dir_all(&writing)
            .map_err(|error| Error::from_io(format!("making the folder {}", writing.display()), &error))?;
        delete_stale(&writing);
        let at_once = Semaphore::new(if sync { SYNCS_AT_ONCE } else { WRITES_AT_ONCE });
        Ok(Self(Arc::new(Inner { root: root.to_owned(), sync, next: AtomicU64::new(0), at_once })))
    }

    /// Runs file operations for a key, on a blocking thread unless they are `quick`.
    async fn run<T: Send + 'static>(
        &self,
        quick: bool,
        doing: &'static str,
        key: &str,
        work: impl FnOnce(&Inner, &Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let path = self.0.path(key)?;
        let failed = move |path: &Path, error: io::Error| {
            Error::from_io(format!("{doing} {}", path.display()), &error)
        };
        if quick {
            return work(&self.0, &path).map_err(|error| failed(&path, error));
        }
        let permit = self.0.at_once.acquire().await;
        let inner = self.0.clone();
        let worked =
            tokio::task::spawn_blocking(move || work(&inner, &path).map_err(|error| failed(&path, error)))
                .await;
        drop(permit);
        worked.unwrap_or_else(|panic| Err(Error::broken(format!("{doing} {key}"), panic)))
    }

    /// Returns whether writing a blob of this size is faster than waking another thread.
    fn is_quick(&self, bytes: usize) -> bool {
        !self.0.sync && bytes <= QUICK_BYTES
    }
}

impl Inner {
    /// Returns the path of a key. Keys are made from ids and checked names; a key that leads out of
    /// the folder is refused anyway.
    fn path(&self, key: &str) -> Result<PathBuf> {
        let proper = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        if key.split('/').all(proper) {
            Ok(self.root.join(key))
        } else {
            Err(Error::broken(
                format!("the key `{key}`"),
                "keys are letters, digits, -_. and slashes between them",
            ))
        }
    }

    fn write_beside(&self, body: &[u8]) -> io::Result<PathBuf> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let beside = self.root.join(WRITING).join(format!("{}-{number}", std::process::id()));
        let written = File::create(&beside).and_then(|mut file| {
            file.write_all(body)?;
            if self.sync { file.sync_all() } else { Ok(()) }
        });
        if written.is_err() {
            // Free the space on a full disk; if that fails, `delete_stale` does it later.
            let _left = fs::remove_file(&beside);
        }
        written.map(|()| beside)
    }

    /// Writes a temporary file and moves it into place with `rename`, creating the folder if it is
    /// missing.
    fn commit(
        &self,
        path: &Path,
        body: &[u8],
        rename: impl Fn(&Path, &Path) -> io::Result<()>,
    ) -> io::Result<()> {
        let beside = self.write_beside(body)?;
        let moved = rename(&beside, path).or_else(|error| match (error.kind(), path.parent()) {
            (ErrorKind::NotFound, Some(folder)) => {
                fs::create_dir_all(folder)?;
                rename(&beside, path)
            }
            _ => Err(error),
        });
        if moved.is_err() {
            let _left = fs::remove_file(&beside);
        }
        moved?;
        match path.parent() {
            Some(folder) if self.sync => File::open(folder)?.sync_all(),
            _ => Ok(()),
        }
    }
}

/// Renames unless the target exists, which is `ErrorKind::AlreadyExists`.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some file systems do not support the flag. A hard link does not replace either.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            fs::hard_link(from, to).and_then(|()| fs::remove_file(from))
        }
        moved => moved.map_err(Into::into),
    }
}

fn delete_stale(writing: &Path) {
    let old = |entry: &fs::DirEntry| {
        let modified = entry.metadata().and_then(|data| data.modified());
        modified.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > STALE))
    };
    for entry in fs::read_dir(writing).into_iter().flatten().flatten().filter(old) {
        let _gone = fs::remove_file(entry.path());
    }
}

#[async_trait]
impl BlobStore for DirBlobs {
    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        let quick = self.is_quick(body.len());
        self.run(quick, "writing", key, move |inner, path| {
            inner.commit(path, &body, |from, to| fs::rename(from, to))
        })
        .await
    }

    async fn put_new(&self, key: &str, body: Bytes) -> Result<bool> {
        let quick = self.is_quick(body.len());
        let put = move |inner: &Inner, path: &Path| match inner.commit(path, &body, rename_new) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        };
        self.run(quick, "writing", key, put).await
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        let path = self.0.path(key)?;
        let failed = |error: &io::Error| Error::from_io(format!("reading {}", path.display()), error);
        let (file, size) = match File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file))) {
            Ok((size, file)) => (file, usize::try_from(size).unwrap_or(usize::MAX)),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(&error)),
        };
        let read = move |_: &Inner, _: &Path| {
            // One byte more, so that the first read also sees the end.
            let mut body = Vec::with_capacity(size.saturating_add(1));
            (&file).read_to_end(&mut body)?;
            Ok(Some(body.into()))
        };
        self.run(size <= QUICK_BYTES, "reading", key, read).await
    }

    async fn exists(&self, key: &str) -> Result<bool> {
        self.run(true, "looking for", key, |_, path| path.try_exists()).await
    }

    async fn info(&self, key: &str) -> Result<Option<BlobInfo>> {
        let named = key.to_owned();
        let look = move |_: &Inner, path: &Path| match fs::metadata(path) {
            Ok(data) if data.is_file() => {
                Ok(Some(BlobInfo { key: named, bytes: data.len(), modified: data.modified()?.into() }))
            }
            Ok(_folder) => Ok(None),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        self.run(true, "looking at", key, look).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let delete = |_: &Inner, path: &Path| match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        self.run(true, "deleting", key, delete).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<BlobInfo>> {
        let (inner, prefix, after) = (self.0.clone(), prefix.to_owned(), after.map(str::to_owned));
        let list = move || {
            let mut keys = Vec::new();
            collect_keys(&inner.root, "", &prefix, &mut keys)?;
            keys.sort_unstable();
            let wanted = keys.into_iter().filter(|key| after.as_ref().is_none_or(|after| key > after));
            // Blobs that are deleted concurrently are left out.
            let info = |key: String| {
                let data = fs::metadata(inner.root.join(&key)).ok()?;
                Some(BlobInfo { bytes: data.len(), modified: data.modified().ok()?.into(), key })
            };
            Ok(wanted.filter_map(info).take(limit).collect())
        };
        let listed = tokio::task::spawn_blocking(list).await;
        let failed = |error: io::Error| Error::from_io(format!("listing {}", self.0.root.display()), &error);
        listed.map_err(|panic| Error::broken("listing", panic))?.map_err(failed)
    }
}

fn collect_keys(folder: &Path, key: &str, prefix: &str, keys: &mut Vec<String>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned).filter(|name| !name.starts_with('.'))
        else {
            continue;
        };
        let key = if key.is_empty() { name } else { format!("{key}/{name}") };
        let may_match = key.starts_with(prefix) || prefix.starts_with(&key);
        if entry.file_type()?.is_dir() {
            if may_match {
                collect_keys(&entry.path(), &key, prefix, keys)?;
            }
        } else if key.starts_with(prefix) {
            keys.push(key);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blobs::contract;

    #[tokio::test]
    async fn the_folder_keeps_the_contract() {
        for sync in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            contract::suite(&(Arc::new(DirBlobs::open(folder.path(), sync).unwrap()) as _)).await;
        }
    }

    #[tokio::test]
    async fn keys_that_lead_out_of_the_folder_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = DirBlobs::open(&folder.path().join("blobs"), false).unwrap();
        for key in ["../x", "/etc/passwd", "a/../../x", "", "a//b", "a b", ".writing/x"] {
            assert!(matches!(blobs.put(key, "x".into()).await, Err(Error::Broken { .. })), "{key}");
        }
    }

    #[tokio::test]
    async fn temporary_files_of_a_killed_process_are_no_blobs_and_are_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let left = folder.path().join(WRITING).join("1-1");
        let blobs = DirBlobs::open(folder.path(), false).unwrap();
        fs::write(&left, "half").unwrap();
        assert_eq!(blobs.list("", None, 10).await.unwrap(), []);
        File::options().write(true).open(&left).unwrap().set_modified(SystemTime::now() - 2 * STALE).unwrap();
        DirBlobs::open(folder.path(), false).unwrap();
        assert!(!left.exists());
    }
}
