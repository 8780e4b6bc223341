//! What the images really show, from a sheet of labels or from the folders that they lie in.

use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
};

use anyhow::Context;
use calamine::{Reader, Sheets, open_workbook_auto};

use super::images::ImageFile;

/// The column that names an image, and the one with its label.
const COLUMNS: [&str; 2] = ["Input", "Result"];

/// The right label of each image, as far as there is one, in the order of the images.
#[derive(Debug, Clone)]
pub struct Truth {
    /// Where it is from, for the reader of an accuracy.
    pub source: String,
    /// In the order of the images.
    pub labels: Vec<Option<String>>,
}

impl Truth {
    /// From a workbook or a CSV file with the columns `Input` and `Result`.
    ///
    /// # Errors
    ///
    /// Where the file cannot be read or lacks a column.
    pub fn from_file(path: &Path, images: &[ImageFile]) -> anyhow::Result<Self> {
        let shown = path.display().to_string();
        let is_csv = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
        let rows = if is_csv { rows_of_csv(path) } else { rows_of_workbook(path) };
        let sheet = Sheet::of(rows.with_context(|| format!("the labels {shown} cannot be read"))?)
            .with_context(|| format!("the labels {shown}"))?;
        Ok(Self { source: shown, labels: images.iter().map(|image| sheet.label(&image.name)).collect() })
    }

    /// From the names of the folders, if all images lie in folders and these are at least two.
    pub fn from_folders(images: &[ImageFile]) -> Option<Self> {
        let folder = |image: &ImageFile| {
            let (folder, _) = image.name.rsplit_once('/')?;
            folder.rsplit('/').next().map(str::to_owned)
        };
        let labels: Vec<_> = images.iter().map(folder).collect();
        let classes: BTreeSet<_> = labels.iter().collect();
        let told = classes.len() >= 2 && !classes.contains(&None);
        told.then(|| Self { source: "the folders' names".into(), labels })
    }

    /// The images without a label.
    pub fn missing<'a>(&'a self, images: &'a [ImageFile]) -> impl Iterator<Item = &'a str> {
        let unlabelled = images.iter().zip(&self.labels).filter(|(_, label)| label.is_none());
        unlabelled.map(|(image, _)| image.name.as_str())
    }
}

/// Whether two labels are the same for a person: case, outer spaces, and `_` for a space make no difference.
pub fn same_label(one: &str, other: &str) -> bool {
    let plain = |text: &str| text.trim().replace('_', " ").to_lowercase();
    plain(one) == plain(other)
}

/// A sheet of labels, found by three ways of naming an image, the most exact first.
struct Sheet {
    by_path: HashMap<String, String>,
    by_name: HashMap<String, Option<String>>,
    by_stem: HashMap<String, Option<String>>,
}

impl Sheet {
    fn of(rows: Vec<Vec<String>>) -> anyhow::Result<Self> {
        let mut rows = rows.into_iter();
        let head = rows.next().unwrap_or_default();
        let column = |wanted: &str| {
            let found = head
                .iter()
                .position(|name| name.trim_start_matches('\u{feff}').trim().eq_ignore_ascii_case(wanted));
            found.with_context(|| {
                format!("have no column `{wanted}`; the first line holds `{}`", head.join("`, `"))
            })
        };
        let (input, result) = (column(COLUMNS[0])?, column(COLUMNS[1])?);
        let mut sheet = Self { by_path: HashMap::new(), by_name: HashMap::new(), by_stem: HashMap::new() };
        for row in rows {
            let cell = |place: usize| row.get(place).map(|text| text.trim()).filter(|text| !text.is_empty());
            if let (Some(image), Some(label)) = (cell(input), cell(result)) {
                sheet.add(&image.replace('\\', "/"), label);
            }
        }
        Ok(sheet)
    }

    fn add(&mut self, image: &str, label: &str) {
        self.by_path.insert(plain_path(image), label.to_owned());
        for (map, key) in [(&mut self.by_name, file_name(image)), (&mut self.by_stem, stem(image))] {
            let known = map.entry(key.to_owned()).or_insert_with(|| Some(label.to_owned()));
            // A short name with two labels says nothing.
            if known.as_deref() != Some(label) {
                *known = None;
            }
        }
    }

    fn label(&self, image: &str) -> Option<String> {
        let by_path = self.by_path.get(&plain_path(image)).cloned();
        by_path
            .or_else(|| self.by_name.get(file_name(image)).cloned().flatten())
            .or_else(|| self.by_stem.get(stem(image)).cloned().flatten())
    }
}

fn plain_path(path: &str) -> String {
    path.trim_start_matches("./").to_owned()
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn stem(path: &str) -> &str {
    let name = file_name(path);
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

fn rows_of_csv(path: &Path) -> anyhow::Result<Vec<Vec<String>>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_path(path)?;
    let row = |record: csv::Result<csv::StringRecord>| Ok(record?.iter().map(str::to_owned).collect());
    reader.records().map(row).collect()
}

fn rows_of_workbook(path: &Path) -> anyhow::Result<Vec<Vec<String>>> {
    let mut book: Sheets<_> = open_workbook_auto(path)?;
    let sheet = book.worksheet_range_at(0).context("there is no sheet in it")??;
    Ok(sheet.rows().map(|row| row.iter().map(ToString::to_string).collect()).collect())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn images(names: &[&str]) -> Vec<ImageFile> {
        names.iter().map(|name| ImageFile::in_memory(name, Bytes::new())).collect()
    }

    fn labels(csv: &str, names: &[&str]) -> Vec<Option<String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.csv");
        std::fs::write(&path, csv).unwrap();
        Truth::from_file(&path, &images(names)).unwrap().labels
    }

    #[test]
    fn an_image_is_found_with_or_without_folder_and_extension() {
        let csv = "\u{feff}Input, result ,more\na/1.jpg, cat,x\n2.JPEG,dog\n3,bird\n./d/4.png,fish\n";
        let told = labels(csv, &["a/1.jpg", "1.jpg", "b/2.JPEG", "2.jpg", "3.webp", "d/4.png", "5.jpg"]);
        let told: Vec<_> = told.iter().map(Option::as_deref).collect();
        assert_eq!(
            told,
            [Some("cat"), Some("cat"), Some("dog"), Some("dog"), Some("bird"), Some("fish"), None]
        );
    }

    #[test]
    fn a_short_name_with_two_labels_says_nothing_but_the_whole_path_does() {
        let told = labels("Input,Result\na/1.jpg,cat\nb/1.jpg,dog\n", &["a/1.jpg", "b/1.jpg", "c/1.jpg"]);
        assert_eq!(told, [Some("cat".to_owned()), Some("dog".to_owned()), None]);
    }

    #[test]
    fn the_shipped_workbook_is_read() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/label.xlsx");
        let truth =
            Truth::from_file(&path, &images(&["test_0.JPEG", "test_1.JPEG", "test_2.JPEG", "test_3.JPEG"]))
                .unwrap();
        let told: Vec<_> = truth.labels.iter().map(Option::as_deref).collect();
        assert_eq!(told, [Some("tench"), Some("goldfish"), Some("3"), None]);
    }

    #[test]
    fn a_missing_column_is_named_together_with_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.csv");
        std::fs::write(&path, "file,Result\n").unwrap();
        let error = format!("{:#}", Truth::from_file(&path, &[]).unwrap_err());
        assert!(
            error.ends_with("labels.csv: have no column `Input`; the first line holds `file`, `Result`"),
            "{error}"
        );
    }

    #[test]
    fn folders_are_labels_where_every_image_lies_in_one_of_several() {
        let told = Truth::from_folders(&images(&["cat/1.jpg", "x/dog/2.jpg"])).unwrap();
        assert_eq!(told.labels, [Some("cat".to_owned()), Some("dog".to_owned())]);
        assert!(Truth::from_folders(&images(&["cat/1.jpg", "2.jpg"])).is_none());
        assert!(Truth::from_folders(&images(&["all/1.jpg", "all/2.jpg"])).is_none());
    }

    #[test]
    fn labels_are_compared_as_a_person_would() {
        assert!(same_label("Egyptian_cat", " egyptian cat"));
        assert!(!same_label("cat", "cats"));
    }
}
