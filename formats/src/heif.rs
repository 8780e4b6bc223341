//! Where libheif is, with which HEIC and AVIF are read.

use std::{
    path::{Path, PathBuf},
    sync::LazyLock,
};

use crate::Format;

/// The name under which every version 1 of it is found.
const NAME: &str = if cfg!(target_os = "macos") { "libheif.1.dylib" } else { "libheif.so.1" };

/// Where libraries are, after the folder of the executable.
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

/// The library of this machine; only its name where it was not found, for the loader to look
/// elsewhere.
pub fn library() -> PathBuf {
    FOUND.clone().unwrap_or_else(|| NAME.into())
}

/// Whether it was found on this machine when it was first asked for.
pub fn is_there() -> bool {
    FOUND.is_some()
}

/// What to do where it is not, as a sentence.
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
    fn the_first_place_that_has_the_library_is_taken() {
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
    fn without_it_there_is_a_way_to_go_on() {
        let why = missing(Format::Heic);
        assert!(why.starts_with("HEIC is read with the library libheif, which was not found"), "{why}");
        assert!(why.contains("libheif1") && why.contains("convert the image to JPEG"), "{why}");
    }
}
