//! Where images lie while a script looks at them.

use std::{
    io,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::{classify::Image, image::Format};

/// The longest stem of a file name, in characters.
const STEM_MAX: usize = 100;

/// A folder that nobody else can read; it goes with its owner.
pub(super) struct Scratch {
    folder: TempDir,
    /// Every image has a folder of its own: no path ever stands for two images.
    serial: u64,
}

/// An image on disk. Dropping it deletes it, with whatever the script put beside it.
pub(super) struct Put {
    pub(super) path: PathBuf,
    _folder: TempDir,
}

impl Scratch {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { folder: TempDir::with_prefix("eirs-images-")?, serial: 0 })
    }

    /// Writes an image to a file of its own.
    pub(super) fn put(&mut self, image: &Image) -> io::Result<Put> {
        self.serial += 1;
        let prefix = format!("{}-", self.serial);
        let folder = TempDir::with_prefix_in(prefix, self.folder.path())?;
        let path = folder.path().join(safe_name(&image.name, Format::of(&image.bytes)));
        std::fs::write(&path, &image.bytes)?;
        Ok(Put { path, _folder: folder })
    }
}

/// A file name that is harmless in any shell and still looks like the uploader's. The ending is kept where it belongs
/// to what the file holds.
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

/// What a script may print in front of the comma to say which image it means.
pub(super) fn names(path: &Path) -> impl Iterator<Item = &str> {
    [
        path.to_str(),
        path.file_name().and_then(|name| name.to_str()),
        path.file_stem().and_then(|stem| stem.to_str()),
    ]
    .into_iter()
    .flatten()
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

    proptest! {
        #[test]
        fn no_name_leaves_the_folder_or_means_anything_to_a_shell(name in "\\PC{0,300}") {
            let safe = safe_name(&name, None);
            prop_assert!(!safe.is_empty() && safe.len() <= STEM_MAX + 11 && !safe.starts_with(['.', '-']));
            prop_assert!(safe.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)), "{safe:?}");
        }
    }
}
