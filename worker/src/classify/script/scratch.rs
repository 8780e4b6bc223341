//! The folders with image files for scripts.

use std::{
    fs::{File, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use tempfile::{Builder, TempDir};

use crate::{classify::Image, image::Format};

/// Maximum length of the stem of a file name, in characters.
const STEM_MAX: usize = 100;

/// Prefix of the folder names.
const PREFIX: &str = "eirs-images-";

/// Minimum age at which an unlocked folder belongs to a dead worker; a younger one may be about to
/// be locked.
const ORPHAN_AGE: Duration = Duration::from_secs(60);

/// The folder beside the socket of the service for scripts, whose user must read the images.
const IMAGES: &str = "images";

/// A private folder, which only the service for scripts may also read. It is deleted with its
/// owner.
pub(super) struct Scratch {
    parent: PathBuf,
    mode: u32,
    folder: Folder,
    /// Each image has its own numbered folder, so that no path is used for two images.
    serial: u64,
}

struct Folder {
    folder: TempDir,
    /// Shows that the owner is alive: the kernel releases the lock when the worker dies.
    _lock: File,
}

impl Folder {
    fn new(parent: &Path, mode: u32) -> io::Result<Self> {
        let folder = make(PREFIX, parent, mode)?;
        let lock = File::open(folder.path())?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { folder, _lock: lock })
    }
}

/// An image file. Dropping it deletes its folder, with any files that the script added.
pub(super) struct Put {
    pub(super) path: PathBuf,
    _folder: TempDir,
}

/// Creates a folder. Its group is that of the parent folder, if that has the setgid bit
/// (`systemd/eirs-script.tmpfiles`).
fn make(prefix: &str, parent: &Path, mode: u32) -> io::Result<TempDir> {
    Builder::new().prefix(prefix).permissions(Permissions::from_mode(mode)).tempdir_in(parent)
}

impl Scratch {
    /// Creates a folder for children of the worker, or for the service at this socket.
    pub(super) fn new(service: Option<&Path>) -> io::Result<Self> {
        match service {
            None => Self::new_in(&std::env::temp_dir(), 0o700),
            Some(socket) => Self::new_in(&socket.with_file_name(IMAGES), 0o750),
        }
    }

    fn new_in(parent: &Path, mode: u32) -> io::Result<Self> {
        sweep(parent, ORPHAN_AGE);
        Ok(Self { folder: Folder::new(parent, mode)?, parent: parent.to_owned(), mode, serial: 0 })
    }

    /// Writes an image to its own file. If a cleaner of temporary files has deleted the folder of
    /// an idle worker, creates it again.
    pub(super) fn put(&mut self, image: &Image) -> io::Result<Put> {
        match self.write(image) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                std::fs::create_dir_all(&self.parent)?;
                tracing::info!("the folder for images was deleted, and is created again");
                self.folder = Folder::new(&self.parent, self.mode)?;
                self.write(image)
            }
            written => written,
        }
    }

    fn write(&mut self, image: &Image) -> io::Result<Put> {
        self.serial += 1;
        let prefix = format!("{}-", self.serial);
        let folder = make(&prefix, self.folder.folder.path(), self.mode)?;
        let path = folder.path().join(safe_name(&image.name, Format::of(&image.bytes)));
        std::fs::write(&path, &image.bytes)?;
        Ok(Put { path, _folder: folder })
    }
}

/// Deletes the folders of killed workers, if permissions allow.
fn sweep(parent: &Path, age: Duration) {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in
        entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)))
    {
        // Does not follow symlinks, which any user can create in a temporary folder.
        let is_old = entry.metadata().is_ok_and(|about| {
            about.is_dir() && about.modified().is_ok_and(|at| at.elapsed().is_ok_and(|passed| passed >= age))
        });
        let Some(folder) = is_old.then(|| File::open(entry.path()).ok()).flatten() else { continue };
        if flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Returns a file name that resembles the client's and is harmless in any shell. The extension is
/// kept if it fits the content.
fn safe_name(name: &str, format: Option<Format>) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let (stem, end) = last.rsplit_once('.').unwrap_or((last, ""));
    let tame = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' };
    let stem: String = stem.chars().take(STEM_MAX).map(tame).collect();
    let stem = stem.trim_start_matches(['.', '-']);
    let stem = if stem.is_empty() { "image" } else { stem };
    let right = |format: Format| format.extensions().iter().any(|known| known.eq_ignore_ascii_case(end));
    let plain = !end.is_empty() && end.len() <= 10 && end.bytes().all(|b| b.is_ascii_alphanumeric());
    match format {
        Some(format) if !right(format) => format!("{stem}.{}", format.extensions()[0]),
        Some(_) => format!("{stem}.{end}"),
        None if plain => format!("{stem}.{end}"),
        None => stem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn safe_names_are_kept_and_wrong_extensions_replaced() {
        for (name, format, expected) in [
            ("test_00.JPEG", Some(Format::Jpeg), "test_00.JPEG"),
            ("C:\\photos\\my dog.jpg", Some(Format::Jpeg), "my_dog.jpg"),
            ("photo.jpg", Some(Format::Png), "photo.png"),
            ("photo", Some(Format::WebP), "photo.webp"),
            ("../../etc/passwd", None, "passwd"),
            ("scan.tiff", None, "scan.tiff"),
            (".bashrc", Some(Format::Gif), "image.gif"),
            ("-rf", None, "rf"),
            ("", None, "image"),
        ] {
            assert_eq!(safe_name(name, format), expected, "{name:?}");
        }
    }

    #[test]
    fn only_folders_of_dead_workers_are_deleted() {
        let parent = tempfile::tempdir().unwrap();
        let living = Scratch::new_in(parent.path(), 0o700).unwrap();
        let dead = parent.path().join("eirs-images-dead");
        std::fs::create_dir_all(dead.join("1-x")).unwrap();
        let other = parent.path().join("something-else");
        std::fs::create_dir(&other).unwrap();
        std::os::unix::fs::symlink(&other, parent.path().join("eirs-images-link")).unwrap();

        sweep(parent.path(), ORPHAN_AGE);
        assert!(dead.exists(), "a young folder may be about to be locked");
        sweep(parent.path(), Duration::ZERO);
        assert!(!dead.exists() && living.folder.folder.path().exists() && other.exists());
    }

    #[test]
    fn a_deleted_folder_is_created_again_whatever_is_left_of_it() {
        let image = Image { name: "dog.png".into(), bytes: b"an image".as_slice().into() };
        let outer = tempfile::tempdir().unwrap();
        let parent = outer.path().join("tmp");
        std::fs::create_dir(&parent).unwrap();
        let mut scratch = Scratch::new_in(&parent, 0o700).unwrap();
        let held = scratch.put(&image).unwrap();
        for with_its_parent in [true, false] {
            let taken =
                if with_its_parent { parent.clone() } else { scratch.folder.folder.path().to_owned() };
            std::fs::remove_dir_all(&taken).unwrap();
            let put = scratch.put(&image).unwrap();
            assert_eq!(std::fs::read(&put.path).unwrap(), b"an image", "{}", taken.display());
        }
        // Only the folder of the image.
        std::fs::remove_dir_all(scratch.put(&image).unwrap().path.parent().unwrap()).unwrap();
        assert!(scratch.put(&image).unwrap().path.exists());
        assert!(!held.path.exists(), "no path is used for two images");
        let folder = scratch.folder.folder.path().to_owned();
        drop(scratch);
        assert!(!folder.exists());
    }

    proptest! {
        #[test]
        fn no_name_escapes_the_folder_or_has_a_meaning_to_a_shell(name in "\\PC{0,300}") {
            let safe = safe_name(&name, None);
            prop_assert!(!safe.is_empty() && safe.len() <= STEM_MAX + 11 && !safe.starts_with(['.', '-']));
            prop_assert!(safe.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)), "{safe:?}");
        }
    }
}
