//! Where images lie while a script looks at them.

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

/// The longest stem of a file name, in characters.
const STEM_MAX: usize = 100;

/// How the folders are called.
const PREFIX: &str = "eirs-images-";

/// A folder of this age that nobody has locked is a dead worker's. A younger one may be about to be
/// locked.
const ORPHAN_AGE: Duration = Duration::from_secs(60);

/// In the folder of the service for scripts: its user reads them, too.
const IMAGES: &str = "images";

/// A folder that nobody else can read, but for the service for scripts; it goes with its owner.
pub(super) struct Scratch {
    parent: PathBuf,
    mode: u32,
    folder: Folder,
    /// Every image has a folder of its own: no path ever stands for two images.
    serial: u64,
}

struct Folder {
    folder: TempDir,
    /// Says that the owner lives: the system lets go of it when the worker is killed.
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

/// An image on disk. Dropping it deletes it, with whatever the script put beside it.
pub(super) struct Put {
    pub(super) path: PathBuf,
    _folder: TempDir,
}

/// The group is that of the folder around it where that says so (`systemd/eirs-script.tmpfiles`).
fn make(prefix: &str, parent: &Path, mode: u32) -> io::Result<TempDir> {
    Builder::new().prefix(prefix).permissions(Permissions::from_mode(mode)).tempdir_in(parent)
}

impl Scratch {
    /// For scripts that are children of the worker, or for those of the service at this socket.
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

    /// Writes an image to a file of its own. Cleaners of temporary files take what was not touched
    /// for some days, and with it the folder of a worker that had nothing to do: then there is
    /// another one.
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

/// Deletes what workers left behind that were killed, as far as this is allowed to.
fn sweep(parent: &Path, age: Duration) {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in
        entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)))
    {
        // Not through links: anybody may put one into a temporary folder.
        let is_old = entry.metadata().is_ok_and(|about| {
            about.is_dir() && about.modified().is_ok_and(|at| at.elapsed().is_ok_and(|passed| passed >= age))
        });
        let Some(folder) = is_old.then(|| File::open(entry.path()).ok()).flatten() else { continue };
        if flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// A file name that is harmless in any shell and still looks like the uploader's. The ending is
/// kept where it belongs to what the file holds.
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
    fn a_good_name_is_kept_and_a_wrong_ending_is_replaced() {
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
    fn the_folders_of_dead_workers_are_swept_and_those_of_living_ones_are_not() {
        let parent = tempfile::tempdir().unwrap();
        let living = Scratch::new_in(parent.path(), 0o700).unwrap();
        let dead = parent.path().join("eirs-images-dead");
        std::fs::create_dir_all(dead.join("1-x")).unwrap();
        let other = parent.path().join("something-else");
        std::fs::create_dir(&other).unwrap();
        std::os::unix::fs::symlink(&other, parent.path().join("eirs-images-link")).unwrap();

        sweep(parent.path(), ORPHAN_AGE);
        assert!(dead.exists(), "it may be about to be locked");
        sweep(parent.path(), Duration::ZERO);
        assert!(!dead.exists() && living.folder.folder.path().exists() && other.exists());
    }

    #[test]
    fn a_folder_that_was_cleaned_away_is_made_once_more_whatever_is_left_of_it() {
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
        // The folder of the image alone.
        std::fs::remove_dir_all(scratch.put(&image).unwrap().path.parent().unwrap()).unwrap();
        assert!(scratch.put(&image).unwrap().path.exists());
        assert!(!held.path.exists(), "no path ever stands for two images");
        let folder = scratch.folder.folder.path().to_owned();
        drop(scratch);
        assert!(!folder.exists());
    }

    proptest! {
        #[test]
        fn no_name_leaves_the_folder_or_means_anything_to_a_shell(name in "\\PC{0,300}") {
            let safe = safe_name(&name, None);
            prop_assert!(!safe.is_empty() && safe.len() <= STEM_MAX + 11 && !safe.starts_with(['.', '-']));
            prop_assert!(safe.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)), "{safe:?}");
        }
    }
}
