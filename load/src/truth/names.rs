//! Finds the images that a row of a sheet names. Names are compared in one Unicode form (NFC):
//! macOS writes `ü` in file names as two characters, spreadsheets as one.

use std::collections::{BTreeSet, HashMap};

use unicode_normalization::UnicodeNormalization;

use super::{dates::Date, sheet::Cell};
use crate::images::{self, ImageFile};

/// The images, indexed by all names that a sheet may use.
pub(super) struct Names {
    /// As written.
    exact: Index,
    /// In lower case.
    folded: Index,
    /// Images with a numeric name, by its value.
    numbers: HashMap<u64, Vec<usize>>,
    /// The name of each image without folders and extension.
    stems: Vec<String>,
}

/// The images that a cell names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The places of the images.
    pub(super) images: Vec<usize>,
    /// How vaguely the cell names them; of two rows, the lower value counts.
    pub(super) vagueness: u8,
}

/// The possible original names, of which a spreadsheet left one value.
#[derive(Debug)]
pub(super) struct Ambiguous(pub(super) Vec<String>);

/// An index of all names in one spelling.
struct Index {
    fold: fn(&str) -> String,
    /// The relative and the absolute path of each image.
    paths: Vec<(String, String)>,
    by_path: HashMap<String, Vec<usize>>,
    by_path_stem: HashMap<String, Vec<usize>>,
    by_name: HashMap<String, Vec<usize>>,
    by_stem: HashMap<String, Vec<usize>>,
}

impl Names {
    pub(super) fn of(images: &[ImageFile]) -> Self {
        let stems: Vec<_> =
            images.iter().map(|image| stem(file_name(&plain(&image.name))).to_owned()).collect();
        let mut numbers: HashMap<_, Vec<_>> = HashMap::new();
        for (place, stem) in stems.iter().enumerate() {
            if let Some(number) = number(stem) {
                numbers.entry(number.to_bits()).or_default().push(place);
            }
        }
        Self {
            exact: Index::of(images, str::to_owned),
            folded: Index::of(images, str::to_lowercase),
            numbers,
            stems,
        }
    }

    /// Returns the images that a cell names. `folder` is the common folder of all names in the
    /// sheet.
    pub(super) fn find(&self, cell: &Cell, folder: &str) -> Result<Found, Ambiguous> {
        match cell {
            Cell::Nothing | Cell::Time(_) | Cell::Formula(_) => Ok(Found::default()),
            Cell::Text(text) => Ok(self.find_text(&plain(text), folder)),
            Cell::Number(number) => {
                let images = self.numbers.get(&number.to_bits()).cloned().unwrap_or_default();
                self.one_name(images)
            }
            Cell::Date(date) => self.one_name(self.dated(*date)),
        }
    }

    fn find_text(&self, name: &str, folder: &str) -> Found {
        let indexes = [&self.exact, &self.folded].into_iter().enumerate();
        let found = indexes.flat_map(|(vague, index)| {
            let ways = index.ways(name, folder).enumerate();
            ways.map(move |(way, images)| Found { images, vagueness: (10 * vague + way) as u8 })
        });
        let mut found = found.filter(|found| !found.images.is_empty());
        found.next().unwrap_or_else(|| Found { images: self.with_zeros(name), vagueness: 30 })
    }

    /// A spreadsheet may have read `007` and written `7`.
    fn with_zeros(&self, name: &str) -> Vec<usize> {
        let Some(number) = number(name).filter(|_| !name.contains('.')) else { return Vec::new() };
        let images = self.numbers.get(&number.to_bits()).cloned().unwrap_or_default();
        self.one_name(images).map_or_else(|_several| Vec::new(), |found| found.images)
    }

    fn dated(&self, date: Date) -> Vec<usize> {
        (0..self.stems.len()).filter(|place| date.may_be(&self.stems[*place])).collect()
    }

    /// Returns these images if they have the same name.
    fn one_name(&self, images: Vec<usize>) -> Result<Found, Ambiguous> {
        let names: BTreeSet<_> = images.iter().map(|place| &self.stems[*place]).collect();
        if names.len() > 1 {
            return Err(Ambiguous(names.into_iter().cloned().collect()));
        }
        Ok(Found { images, vagueness: 30 })
    }
}

impl Index {
    fn of(images: &[ImageFile], fold: fn(&str) -> String) -> Self {
        let mut index = Self {
            fold,
            paths: Vec::new(),
            by_path: HashMap::new(),
            by_path_stem: HashMap::new(),
            by_name: HashMap::new(),
            by_stem: HashMap::new(),
        };
        for (place, image) in images.iter().enumerate() {
            let (path, whole) = (fold(&plain(&image.name)), fold(&plain(&image.whole_path())));
            for (map, key) in [
                (&mut index.by_path, path.as_str()),
                (&mut index.by_path_stem, stem(&path)),
                (&mut index.by_name, file_name(&path)),
                (&mut index.by_stem, stem(file_name(&path))),
            ] {
                map.entry(key.to_owned()).or_default().push(place);
            }
            index.paths.push((path, whole));
        }
        index
    }

    /// Returns the images for each way to read a name, in order of precedence: with its extension
    /// before without, and the whole path before a part of it.
    fn ways<'a>(&'a self, name: &str, folder: &str) -> impl Iterator<Item = Vec<usize>> + use<'a> {
        let name = (self.fold)(name);
        let folder = (self.fold)(folder);
        let inner = name.strip_prefix(&folder).filter(|_| !folder.is_empty()).map(str::to_owned);
        let without_ending = |name: &String| Some(stem(name)).filter(|stem| stem != name).map(str::to_owned);
        let (short, inner_short) = (without_ending(&name), inner.as_ref().and_then(without_ending));
        (0..8).map(move |way| {
            let (map, name) = match way {
                0 => (&self.by_path, Some(&name)),
                1 => (&self.by_path_stem, Some(&name)),
                2 => (&self.by_name, Some(&name)),
                3 => (&self.by_stem, Some(&name)),
                4 => (&self.by_path, inner.as_ref()),
                5 => (&self.by_path_stem, inner.as_ref()),
                6 => (&self.by_stem, short.as_ref()),
                _ => (&self.by_path_stem, inner_short.as_ref()),
            };
            let Some(name) = name else { return Vec::new() };
            let is_whole = matches!(way, 0 | 1 | 4 | 5 | 7);
            let key = if is_whole { name.as_str() } else { file_name(name) };
            let images = map.get(key).into_iter().flatten().copied();
            images.filter(|place| is_whole || self.is_in_folder(*place, name, way != 2)).collect()
        })
    }

    /// Returns whether the image is in the folder that the name contains, relative to any parent
    /// folder.
    fn is_in_folder(&self, place: usize, name: &str, is_without_ending: bool) -> bool {
        if !name.contains('/') {
            return true;
        }
        let shortened = |path: &str| if is_without_ending { stem(path).to_owned() } else { path.to_owned() };
        let (path, whole) = (shortened(&self.paths[place].0), shortened(&self.paths[place].1));
        let ends = |long: &str, end: &str| {
            long.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
        };
        // The bare name of a file does not match a name in another folder.
        ends(&whole, name.trim_start_matches('/')) || (path.contains('/') && ends(name, &path))
    }
}

/// Returns the common folder of all names, with a slash at the end.
pub(super) fn common_folder<'a>(mut names: impl Iterator<Item = &'a str>) -> String {
    let folder = |name: &str| {
        plain(name).rsplit_once('/').map_or_else(String::new, |(folder, _)| format!("{folder}/"))
    };
    let mut common = names.next().map(folder).unwrap_or_default();
    for name in names {
        let name = plain(name);
        while !name.starts_with(&common) {
            let shorter = common.trim_end_matches('/').rfind('/').map_or(0, |slash| slash + 1);
            common.truncate(shorter);
        }
    }
    common
}

/// Normalises a path: NFC, slashes as separators, no leading `./`.
fn plain(path: &str) -> String {
    let path: String = path.nfc().map(|c| if c == '\\' { '/' } else { c }).collect();
    path.trim_start_matches("./").to_owned()
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Removes the extension of an image file. Other dots belong to the name.
fn stem(path: &str) -> &str {
    match path.rsplit_once('.') {
        Some((stem, ending)) if images::is_ending(ending) => stem,
        _ => path,
    }
}

/// Parses a number of digits with at most one dot.
fn number(text: &str) -> Option<f64> {
    let is_plain = text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    text.parse().ok().filter(|_| is_plain)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn found(cell: Cell, folder: &str, names: &[&str]) -> Vec<String> {
        let images: Vec<_> = names.iter().map(|name| ImageFile::in_memory(name, Bytes::new())).collect();
        let found = Names::of(&images).find(&cell, folder).unwrap();
        found.images.into_iter().map(|place| names[place].to_owned()).collect()
    }

    #[track_caller]
    fn check(name: &str, images: &[&str], expected: &[&str]) {
        assert_eq!(found(Cell::Text(name.into()), "", images), expected, "{name}");
    }

    #[test]
    fn the_whole_name_has_precedence_and_only_image_extensions_are_removed() {
        check("a/1.jpg", &["a/1.jpg", "b/1.jpg", "1.jpg"], &["a/1.jpg"]);
        check("1.jpg", &["a/1.jpg", "1.jpg"], &["1.jpg"]);
        check("1.jpg", &["a/1.jpg", "b/1.jpg", "1.png"], &["a/1.jpg", "b/1.jpg"]);
        check("1", &["1.jpg", "10.jpg"], &["1.jpg"]);
        check("1.JPEG", &["1.jpg"], &["1.jpg"]);
        check(
            "2004.01.12_12.48.04",
            &["2004.01.12_12.48.04.jpg", "2004.01.12_12.48.05.jpg"],
            &["2004.01.12_12.48.04.jpg"],
        );
        check("2004.01.12_12.48.04", &["2004.01.12_12.48.jpg"], &[]);
        check("a.b.c", &["a.b.jpg", "a.b.c"], &["a.b.c"]);
        check("IMG_1.JPG", &["img_1.jpg"], &["img_1.jpg"]);
        check(r".\a\1.jpg", &["a/1.jpg"], &["a/1.jpg"]);
        check("Mu\u{308}ller", &["M\u{fc}ller.jpg"], &["M\u{fc}ller.jpg"]);
    }

    #[test]
    fn a_folder_in_a_name_must_be_that_of_the_image() {
        check("a/1.jpg", &["b/1.jpg"], &[]);
        check("a/1.jpg", &["x/a/1.jpg", "y/1.jpg"], &["x/a/1.jpg"]);
        check(r"C:\photos\a\1.jpg", &["a/1.jpg", "b/1.jpg"], &["a/1.jpg"]);
        check("a/1", &["x/a/1.jpg", "x/aa/1.jpg"], &["x/a/1.jpg"]);
        // A common folder of all names may be the folder that was given.
        let bare = |name: &str| found(Cell::Text(name.into()), "photos/", &["1.jpg", "b/1.jpg"]);
        assert_eq!(bare("photos/1.jpg"), ["1.jpg"]);
        assert_eq!(bare("photos/1"), ["1.jpg"]);
    }

    #[test]
    fn the_common_folder_ends_at_a_slash() {
        let common = |names: &[&str]| common_folder(names.iter().copied());
        assert_eq!(common(&["x/ab/1.jpg", "x/ac/2.jpg"]), "x/");
        assert_eq!(common(&["x/a/1.jpg", "x/a/2.jpg"]), "x/a/");
        assert_eq!(common(&["x/1.jpg", "2.jpg"]), "");
        assert_eq!(common(&[]), "");
    }

    #[test]
    fn a_number_finds_the_image_whose_name_was_converted() {
        assert_eq!(found(Cell::Number(1.1), "", &["1.10.jpg", "1.2.jpg"]), ["1.10.jpg"]);
        assert_eq!(
            found(Cell::Number(7.0), "", &["a/007.jpg", "b/007.png", "70.jpg"]),
            ["a/007.jpg", "b/007.png"]
        );
        let images = ["1.1.jpg", "1.10.jpg"].map(|name| ImageFile::in_memory(name, Bytes::new()));
        let Ambiguous(names) = Names::of(&images).find(&Cell::Number(1.1), "").unwrap_err();
        assert_eq!(names, ["1.1", "1.10"]);
        check("7", &["007.jpg"], &["007.jpg"]);
        check("7", &["007.jpg", "07.jpg"], &[]);
        check("1.1", &["1.10.jpg"], &[]);
    }

    #[test]
    fn a_date_finds_the_image_whose_name_was_converted() {
        let date = Cell::Date(Date { day: [2024, 3, 5], time: [0; 3] });
        assert_eq!(found(date.clone(), "", &["2024-03-05.jpg", "2024-03-06.jpg"]), ["2024-03-05.jpg"]);
        let images = ["3-5.jpg", "5-3.jpg"].map(|name| ImageFile::in_memory(name, Bytes::new()));
        assert!(Names::of(&images).find(&date, "").is_err());
    }
}
