//! Finds libheif, the library for HEIC and AVIF.

use std::{
    path::{Path, PathBuf},
    sync::LazyLock,
};

use crate::Format;

/// The file name of all versions 1.x.
const NAME: &str = if cfg!(target_os = "macos") { "libheif.1.dylib" } else { "libheif.so.1" };

/// The folders that are searched, after that of the executable.
const PLACES: [&str; 9] = [
    "/usr/lib/eirs",
    "/usr/local/lib",
    "/usr/local/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/opt/homebrew/lib",
    "/usr/lib/riscv64-linux-gnu",
];

static FOUND: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let beside = std::env::current_exe().ok().and_then(|file| Some(file.parent()?.to_owned()));
    find(beside.iter().map(PathBuf::as_path).chain(PLACES.map(Path::new)))
});

fn find<'p>(places: impl Iterator<Item = &'p Path>) -> Option<PathBuf> {
    places.map(|place| place.join(NAME)).find(|file| file.is_file())
}

/// Returns the path of the library on this machine, or only its name if it was not found, so that
/// the loader can search elsewhere.
pub fn library() -> PathBuf {
    FOUND.clone().unwrap_or_else(|| NAME.into())
}

/// Returns whether the library was found when it was first needed.
pub fn is_there() -> bool {
    FOUND.is_some()
}

/// Returns a sentence with the steps to install the library.
pub fn missing(format: Format) -> String {
    format!(
        "{format} is read with the library libheif, which was not found on this machine: install it (the \
         package libheif1 of Debian and Ubuntu, libheif of Fedora and Homebrew) and start EIRS again, or \
         convert the image to JPEG or PNG"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_folder_with_the_library_is_used() {
        let folders =
            [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let places = || folders.iter().map(|folder| folder.path());
        assert_eq!(find(places()), None);
        for folder in &folders[1..] {
            std::fs::write(folder.path().join(NAME), "").unwrap();
        }
        assert_eq!(find(places()), Some(folders[1].path().join(NAME)));
    }

    #[test]
    fn the_message_for_a_missing_library_says_what_to_do() {
        let why = missing(Format::Heic);
        assert!(why.starts_with("HEIC is read with the library libheif, which was not found"), "{why}");
        assert!(why.contains("libheif1") && why.contains("convert the image to JPEG"), "{why}");
    }
}
