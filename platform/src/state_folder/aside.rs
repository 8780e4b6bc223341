//! Writes files atomically: to a temporary file that is then renamed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// The number of processes that may write a file at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// One, which has a lock; it overwrites the temporary file of a killed process.
    One,
    /// Several; each has its own temporary file, which only its user may read until `prepare`
    /// changes that.
    Several,
}

/// Replaces a file. `prepare` may set its owner and permissions, and sync it; otherwise it is not
/// synced.
pub fn write_aside(
    path: &Path,
    text: &[u8],
    writers: Writers,
    prepare: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    if writers == Writers::Several {
        beside.push(format!(".{}", std::process::id()));
    }
    let written = (|| {
        let mode = if writers == Writers::Several { 0o600 } else { 0o666 };
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(Path::new(&beside))?;
        file.write_all(text)?;
        prepare(&file)?;
        fs::rename(&beside, path)
    })();
    if written.is_err() {
        let _not_made = fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_no_temporary_file_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("status.json");
        for (text, writers) in [("long before", Writers::One), ("after", Writers::Several)] {
            write_aside(&path, text.as_bytes(), writers, |_| Ok(())).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_the_file_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("status.json");
        write_aside(&path, b"before", Writers::One, |_| Ok(())).unwrap();
        write_aside(&path, b"after", Writers::One, |_| Err(io::ErrorKind::StorageFull.into())).unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "before");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
