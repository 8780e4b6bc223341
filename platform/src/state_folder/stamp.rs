//! Distinguishes versions of a file without reading it.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};

/// Device, inode, length, and times of modification and change; `None` if there is no file. A file
/// that was replaced by one of the same length within a tick of the file system's clock still
/// differs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stamp(Option<[i64; 7]>);

impl Stamp {
    /// Takes the stamp of a file now.
    pub fn now(file: &Path) -> Self {
        Self::of(fs::metadata(file))
    }

    /// Makes a stamp from metadata.
    pub fn of(seen: io::Result<Metadata>) -> Self {
        Self(seen.ok().map(|data| {
            let [device, inode, length] = [data.dev(), data.ino(), data.len()].map(u64::cast_signed);
            [device, inode, length, data.mtime(), data.mtime_nsec(), data.ctime(), data.ctime_nsec()]
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_replacing_or_removing_a_file_changes_its_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let (file, other) = (folder.path().join("a"), folder.path().join("b"));
        assert_eq!(Stamp::now(&file), Stamp::default());
        fs::write(&file, "one").unwrap();
        let first = Stamp::now(&file);
        assert_eq!(first, Stamp::now(&file));
        fs::write(&other, "two").unwrap();
        fs::rename(&other, &file).unwrap();
        let replaced = Stamp::now(&file);
        assert_ne!(replaced, first);
        fs::write(&file, "longer").unwrap();
        assert_ne!(Stamp::now(&file), replaced);
        fs::remove_file(&file).unwrap();
        assert_eq!(Stamp::now(&file), Stamp::default());
    }
}
