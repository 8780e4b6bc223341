//! Reads the images of a folder, and makes unique copies of them.

use std::{
    fs,
    hash::{BuildHasher, RandomState},
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::Context;
use bytes::Bytes;
use eirs_formats::{Format, HEAD_BYTES, READ_IN_WORDS};
use walkdir::WalkDir;

use crate::error::Error;

/// Number of skipped files that are named.
const SHOWN: usize = 5;
/// Maximum total size of images in memory, in bytes; further ones are read for each upload.
const KEPT_IN_MEMORY: u64 = 512 << 20;

/// An image file to upload.
#[derive(Debug, Clone)]
pub struct ImageFile {
    /// The path relative to the folder, with `/` as separator.
    pub name: String,
    /// The media type, judged by the first bytes, or else by the extension.
    pub media_type: &'static str,
    path: PathBuf,
    bytes: Option<Bytes>,
}

impl ImageFile {
    /// Creates an image from bytes in memory.
    pub fn in_memory(name: &str, bytes: Bytes) -> Self {
        let path = PathBuf::from(name);
        let media_type =
            by_content(&bytes).or_else(|| by_ending(&path)).unwrap_or("application/octet-stream");
        Self { name: name.to_owned(), media_type, path, bytes: Some(bytes) }
    }

    /// Returns the name without folders.
    pub fn file_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(&self.name)
    }

    /// Returns the absolute path, with `/` as separator.
    pub fn whole_path(&self) -> String {
        let whole = std::path::absolute(&self.path);
        whole.as_ref().unwrap_or(&self.path).to_string_lossy().into_owned()
    }

    /// Returns the content, from memory or from the file.
    pub async fn bytes(&self) -> std::io::Result<Bytes> {
        match &self.bytes {
            Some(bytes) => Ok(bytes.clone()),
            None => Ok(tokio::fs::read(&self.path).await?.into()),
        }
    }
}

/// The content of a folder.
#[derive(Debug, Default)]
pub struct Folder {
    /// The images, ordered by path.
    pub images: Vec<ImageFile>,
    /// The relative paths of files that are not images.
    pub passed_over: Vec<String>,
}

impl Folder {
    /// Returns a sentence about the files that are not images.
    pub fn remark(&self) -> Option<String> {
        let names = &self.passed_over;
        let shown: Vec<_> = names.iter().take(SHOWN).map(|name| name.as_str()).collect();
        let others = match names.len().saturating_sub(SHOWN) {
            0 => String::new(),
            others => format!(" and {others} more"),
        };
        (!names.is_empty()).then(|| format!("not an image, not uploaded: {}{others}", shown.join(", ")))
    }
}

/// Reads the images in a folder and its subfolders (or a single image file), ordered by path, at
/// most `most` of them. A file is an image by its first bytes or its extension. Hidden files and
/// folders are skipped.
///
/// # Errors
///
/// Fails if the folder or a file cannot be read, or if there is no image.
pub fn read_folder(folder: &Path, most: Option<u64>) -> Result<Folder, Error> {
    Ok(read(folder, most)?)
}

fn read(folder: &Path, most: Option<u64>) -> anyhow::Result<Folder> {
    let shown = folder.display();
    let most = most.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
    let (mut found, mut kept) = (Folder::default(), 0);
    let visible = |entry: &walkdir::DirEntry| {
        entry.depth() == 0 || !entry.file_name().as_encoded_bytes().starts_with(b".")
    };
    for entry in WalkDir::new(folder).follow_links(true).sort_by_file_name().into_iter().filter_entry(visible)
    {
        let entry = entry.map_err(|error| {
            // A dangling symlink is reported as such, not as the folder.
            let inside = error.path().filter(|path| *path != folder).map(|path| path.display().to_string());
            let what = inside.unwrap_or_else(|| format!("the image folder {shown}"));
            match error.into_io_error() {
                Some(error) => anyhow::Error::from(error).context(format!("{what} cannot be read")),
                None => anyhow::anyhow!("the image folder {shown} contains itself by a link"),
            }
        })?;
        if !entry.file_type().is_file() {
            continue;
        }
        if found.images.len() == most {
            break;
        }
        let name = entry.path().strip_prefix(folder).ok().filter(|rest| !rest.as_os_str().is_empty());
        let name = name.unwrap_or(Path::new(entry.file_name())).to_string_lossy().into_owned();
        let Some(media_type) = media_type(entry.path()) else {
            found.passed_over.push(name);
            continue;
        };
        let size = entry.metadata().map_or(0, |data| data.len());
        let bytes = if kept + size <= KEPT_IN_MEMORY {
            kept += size;
            let content = fs::read(entry.path());
            Some(content.with_context(|| format!("{} cannot be read", entry.path().display()))?.into())
        } else {
            None
        };
        found.images.push(ImageFile { name, media_type, path: entry.into_path(), bytes });
    }
    let others = found.remark().map_or(String::new(), |remark| format!("; {remark}"));
    anyhow::ensure!(
        !found.images.is_empty() || most == 0,
        "no image in {shown} (EIRS reads {READ_IN_WORDS}){others}"
    );
    Ok(found)
}

/// Returns whether this is the extension of an image format.
pub fn is_ending(ending: &str) -> bool {
    Format::ALL.into_iter().any(|format| has_ending(format, ending))
}

fn has_ending(format: Format, ending: &str) -> bool {
    format.extensions().iter().any(|known| known.eq_ignore_ascii_case(ending))
}

/// Returns the media type of an image file; `None` for other files. A file with an image's
/// extension counts even if its content is invalid, since the service's reaction to it matters,
/// too.
fn media_type(path: &Path) -> Option<&'static str> {
    let head = || {
        let mut head = Vec::new();
        fs::File::open(path).ok()?.take(HEAD_BYTES as u64).read_to_end(&mut head).ok()?;
        by_content(&head)
    };
    head().or_else(|| by_ending(path))
}

fn by_content(head: &[u8]) -> Option<&'static str> {
    Format::of(head).map(Format::media_type)
}

fn by_ending(path: &Path) -> Option<&'static str> {
    let ending = path.extension()?.to_str()?;
    let known = Format::ALL.into_iter().find(|format| has_ending(*format, ending));
    known.map(Format::media_type)
}

/// Makes each upload a different file with the same pixels, so that the service has no stored
/// result for it.
#[derive(Debug)]
pub struct Uniquely {
    /// Differs between runs, so that a second run does not get the results of the first.
    run: u64,
}

impl Default for Uniquely {
    fn default() -> Self {
        Self { run: RandomState::new().hash_one(std::process::id()) }
    }
}

impl Uniquely {
    /// Returns the image in three parts, of which only the middle one is new.
    pub fn marked(&self, image: &Bytes, number: u64) -> [Bytes; 3] {
        let mark = format!("eirs {:016x} {number}", self.run);
        match place(image) {
            Place::JpegComment => {
                let length = u16::try_from(mark.len() + 2).expect("a mark has some forty letters");
                [
                    image.slice(..2),
                    [&[0xFF, 0xFE], &length.to_be_bytes()[..], mark.as_bytes()].concat().into(),
                    image.slice(2..),
                ]
            }
            Place::PngText => {
                let chunk = [b"tEXtComment\0", mark.as_bytes()].concat();
                let length = u32::try_from(chunk.len() - 4).expect("a mark has some forty letters");
                let sum = crc32fast::hash(&chunk);
                let new = [&length.to_be_bytes()[..], &chunk, &sum.to_be_bytes()].concat();
                [image.slice(..PNG_HEAD), new.into(), image.slice(PNG_HEAD..)]
            }
            Place::End => [image.clone(), mark.into(), Bytes::new()],
        }
    }
}

/// The position of the mark in a file.
enum Place {
    /// In a COM segment after the start of the image.
    JpegComment,
    /// In a tEXt chunk after the header chunk.
    PngText,
    /// After the end, which decoders ignore.
    End,
}

/// The size of the signature of a PNG and its header chunk, in bytes: 8; length, name, 13 bytes of
/// content and check sum.
const PNG_HEAD: usize = 8 + 4 + 4 + 13 + 4;

fn place(image: &[u8]) -> Place {
    if image.starts_with(&[0xFF, 0xD8, 0xFF]) {
        Place::JpegComment
    } else if image.len() > PNG_HEAD && image.starts_with(b"\x89PNG\r\n\x1a\n") && &image[12..16] == b"IHDR" {
        Place::PngText
    } else {
        Place::End
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, io::Cursor};

    use image::{ImageFormat, Rgb, RgbImage};

    use super::*;

    #[test]
    fn the_error_for_a_dangling_symlink_names_it() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("gone.jpg", folder.path().join("link.jpg")).unwrap();
        let said = format!("{:#}", read_folder(folder.path(), None).unwrap_err());
        assert!(said.contains("link.jpg cannot be read") && !said.contains("image folder"), "{said}");
        let missing = folder.path().join("missing");
        let said = format!("{:#}", read_folder(&missing, None).unwrap_err());
        assert!(said.starts_with("the image folder ") && said.contains("missing cannot be read"), "{said}");
    }

    #[test]
    fn marked_images_are_all_different_and_decode_to_the_same_pixels() {
        let picture = RgbImage::from_fn(40, 30, |x, y| Rgb([x as u8 * 6, y as u8 * 8, 77]));
        for format in
            [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::Gif, ImageFormat::Bmp, ImageFormat::WebP]
        {
            let mut file = Cursor::new(Vec::new());
            picture.write_to(&mut file, format).unwrap();
            let plain = Bytes::from(file.into_inner());
            let pixels = image::load_from_memory(&plain).unwrap().to_rgb8();

            let (first_run, second_run) = (Uniquely { run: 1 }, Uniquely { run: 2 });
            let marked: HashSet<_> = (0..100)
                .flat_map(|number| {
                    [first_run.marked(&plain, number).concat(), second_run.marked(&plain, number).concat()]
                })
                .collect();
            assert_eq!(marked.len(), 200, "{format:?}");
            for image in marked {
                assert_eq!(image::load_from_memory(&image).unwrap().to_rgb8(), pixels, "{format:?}");
            }
        }
    }

    #[test]
    fn marking_other_files_does_not_panic() {
        for bytes in
            [&b""[..], &[0xFF, 0xD8], &[0xFF, 0xD8, 0xFF], b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n    IHDR"]
        {
            let marked = Uniquely::default().marked(&Bytes::from_static(bytes), 3).concat();
            assert!(marked.len() > bytes.len());
        }
    }

    #[test]
    fn a_folder_is_read_recursively_in_order_without_hidden_and_other_files() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b/2.PNG", "b/1.jpeg", "a.jpg", ".hidden.jpg", "labels.csv", "c/.git/x.jpg", "BMW.txt"] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        let names = |most| {
            let found = read_folder(folder.path(), most).unwrap().images;
            found.into_iter().map(|image| image.name).collect::<Vec<_>>()
        };
        assert_eq!(names(None), ["a.jpg", "b/1.jpeg", "b/2.PNG"]);
        assert_eq!(names(Some(2)), ["a.jpg", "b/1.jpeg"]);
        let one = read_folder(&folder.path().join("b/2.PNG"), None).unwrap().images;
        assert_eq!((one[0].name.as_str(), one[0].media_type), ("2.PNG", "image/png"));
        let found = read_folder(folder.path(), None).unwrap();
        assert_eq!(found.remark().unwrap(), "not an image, not uploaded: BMW.txt, labels.csv");
    }

    #[test]
    fn a_file_that_starts_like_an_image_is_one_whatever_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let mut bitmap = b"BM".to_vec();
        bitmap.extend([54, 0, 0, 0, 0, 0, 0, 0, 54, 0, 0, 0, 40, 0, 0, 0]);
        for (name, content) in [
            ("1.jfif", &b"\xFF\xD8\xFF\xE0"[..]),
            ("2.JPE", b"\xFF\xD8\xFF\xE1"),
            ("3", b"\x89PNG\r\n\x1A\n"),
            ("4.2004.01.12", b"GIF89a"),
            ("5.jpg", b"RIFF\x01\x02\x03\x04WEBPVP8 "),
            ("6.bitmap", &bitmap),
            ("7", b"II\x2a\0\x08\0\0\0"),
            ("8.HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
            ("9", b"P6\n3 2\n255\n"),
        ] {
            fs::write(folder.path().join(name), content).unwrap();
        }
        let found = read_folder(folder.path(), None).unwrap();
        let types: Vec<_> = found.images.iter().map(|image| image.media_type).collect();
        let expected = ["jpeg", "jpeg", "png", "gif", "webp", "bmp", "tiff", "heic", "x-portable-anymap"];
        assert_eq!(types, expected.map(|kind| format!("image/{kind}")));
        assert!(found.remark().is_none());
    }

    #[test]
    fn every_extension_of_a_supported_format_is_accepted() {
        for ending in Format::ALL.into_iter().flat_map(Format::extensions) {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(format!("a.{ending}")), "broken").unwrap();
            assert_eq!(read_folder(folder.path(), None).unwrap().images.len(), 1, "{ending}");
            assert!(is_ending(&ending.to_uppercase()));
        }
    }

    #[test]
    fn missing_folders_and_folders_without_images_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let error = read_folder(folder.path(), None).unwrap_err().to_string();
        assert!(error.starts_with("no image in "), "{error}");
        let error = format!("{:#}", read_folder(&folder.path().join("none"), None).unwrap_err());
        assert!(error.contains("none cannot be read: ") && error.contains("No such file"), "{error}");
    }
}
