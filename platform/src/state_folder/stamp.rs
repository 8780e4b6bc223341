//! What distinguishes versions of a file without reading it.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};

/// Which file it is, how long, and when its bytes or its permissions changed last; nothing where
/// there is no file. A file that was replaced by one of the same length within a tick of the file
/// system's clock is another one all the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stamp(Option<[i64; 7]>);

impl Stamp {
    /// Of the file that is there now.
    pub fn now(file: &Path) -> Self {
        Self::of(fs::metadata(file))
    }

    /// Of what was seen of a file.
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
    fn a_file_that_is_written_replaced_or_removed_has_another_stamp() {
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
