//! Writing a file so that no reader ever sees half of it: aside, and then in its place.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// How many may write a file at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// One, by a lock; what a kill left half written is written over.
    One,
    /// Several processes; each writes aside under a name of its own, which only its user may read
    /// until `prepare` says otherwise.
    Several,
}

/// Replaces a file. Not synced to the disk unless `prepare`, which may also set owner and
/// permissions, does so.
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
    fn a_file_is_replaced_whole_and_nothing_stays_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("status.json");
        for (text, writers) in [("long before", Writers::One), ("after", Writers::Several)] {
            write_aside(&path, text.as_bytes(), writers, |_| Ok(())).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_written_leaves_the_file_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("status.json");
        write_aside(&path, b"before", Writers::One, |_| Ok(())).unwrap();
        write_aside(&path, b"after", Writers::One, |_| Err(io::ErrorKind::StorageFull.into())).unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "before");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
