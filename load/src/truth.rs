//! The known labels of images, from a sheet of labels or from folder names.

mod dates;
mod names;
mod sheet;

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::Path,
};

use anyhow::{Context, bail};
use unicode_normalization::UnicodeNormalization;

use self::{
    names::{Ambiguous, Names, common_folder},
    sheet::{Cell, Row},
};
use crate::{error::Error, images::ImageFile};

/// The column with image names, and the one with labels.
const COLUMNS: [&str; 2] = ["Input", "Result"];
/// Number of first rows in which the header is searched.
const FIRST_ROWS: usize = 10;

/// The known labels of images.
#[derive(Debug, Clone, Default)]
pub struct Truth {
    /// The source, as shown with an accuracy.
    pub source: String,
    /// In the order of the images; `None` for images without a known label.
    pub labels: Vec<Option<Label>>,
    /// Remarks about the sheet, as sentences shown with an accuracy.
    pub remarks: Vec<String>,
}

/// A known label.
#[derive(Debug, Clone, PartialEq)]
pub struct Label {
    /// The text to show.
    pub text: String,
    /// The number, if the cell of a workbook contains one: 1.1 may have been typed as 1.10.
    number: Option<f64>,
}

impl From<&str> for Label {
    fn from(text: &str) -> Self {
        Self { text: text.to_owned(), number: None }
    }
}

impl Label {
    /// Returns whether a given label equals this one.
    pub fn is(&self, answer: &str) -> bool {
        same_label(&self.text, answer)
            || self.number.is_some_and(|number| answer.trim().parse() == Ok(number))
    }
}

impl Truth {
    /// Reads a workbook or a text file with the columns `Input` and `Result`, or with only two
    /// columns, one of which has the names of images.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be read, lacks a column, or contains a name or label that a
    /// spreadsheet has converted in an ambiguous way.
    pub fn from_file(path: &Path, images: &[ImageFile]) -> Result<Self, Error> {
        let shown = path.display().to_string();
        let read = || {
            let bytes = fs::read(path).context("cannot be read")?;
            let names = Names::of(images);
            let is_named = |rows: &[Row]| Columns::by_name(rows).is_some();
            let mut rows = sheet::rows(&bytes, is_named).context("cannot be read")?;
            if !is_named(&rows) {
                // Without a header, the sheet and separator are those with which images are found.
                let is_read = |rows: &[Row]| Columns::of(rows, &names).is_ok();
                rows = sheet::rows(&bytes, is_read).context("cannot be read")?;
            }
            let columns = Columns::of(&rows, &names)?;
            let (labels, mut remarks) = columns.truth(&rows, &names, images)?;
            remarks.extend(columns.strangers(&rows, &names, images)?);
            anyhow::Ok((labels, remarks))
        };
        let (labels, remarks) = read().with_context(|| format!("the labels {shown}"))?;
        Ok(Self { source: shown, labels, remarks })
    }

    /// Takes labels from the names of folders, if all images are in folders and there are at least
    /// two.
    pub fn from_folders(images: &[ImageFile]) -> Option<Self> {
        let folder = |image: &ImageFile| {
            let (folder, _) = image.name.rsplit_once('/')?;
            folder.rsplit('/').next().map(str::to_owned)
        };
        let folders: Vec<_> = images.iter().map(folder).collect();
        let classes: BTreeSet<_> = folders.iter().collect();
        let are_labels = classes.len() >= 2 && !classes.contains(&None);
        let labels = folders.iter().map(|folder| folder.as_deref().map(Label::from)).collect();
        are_labels.then(|| Self { source: "the folders' names".into(), labels, remarks: Vec::new() })
    }

    /// Returns the images without a label.
    pub fn missing<'a>(&'a self, images: &'a [ImageFile]) -> impl Iterator<Item = &'a str> {
        let unlabelled = images.iter().zip(&self.labels).filter(|(_, label)| label.is_none());
        unlabelled.map(|(image, _)| image.name.as_str())
    }
}

/// Returns whether two labels are equal, ignoring case, surrounding spaces, `_` instead of spaces,
/// and the Unicode form.
pub fn same_label(one: &str, other: &str) -> bool {
    let plain = |text: &str| text.trim().replace('_', " ").nfc().collect::<String>().to_lowercase();
    plain(one) == plain(other)
}

/// The position of image names and labels in a sheet.
#[derive(Debug, PartialEq, Eq)]
struct Columns {
    input: usize,
    result: usize,
    /// The first row with an image.
    first: usize,
}

impl Columns {
    /// Finds the columns by their names, in any case and order.
    fn by_name(rows: &[Row]) -> Option<Self> {
        rows.iter().take(FIRST_ROWS).enumerate().find_map(|(place, row)| {
            let column = |wanted: &str| row.cells.iter().position(|cell| is_called(cell, wanted));
            Some(Self { input: column(COLUMNS[0])?, result: column(COLUMNS[1])?, first: place + 1 })
        })
    }

    /// Finds the columns by their names, or, in a sheet without a header, by the names of images in
    /// one column if there is only one other.
    fn of(rows: &[Row], names: &Names) -> anyhow::Result<Self> {
        if let Some(columns) = Self::by_name(rows) {
            let head = &rows[columns.first - 1];
            for name in COLUMNS {
                anyhow::ensure!(
                    head.cells.iter().filter(|cell| is_called(cell, name)).count() == 1,
                    "row {}: several columns are called `{name}`; rename all but one",
                    head.number
                );
            }
            return Ok(columns);
        }
        anyhow::ensure!(!rows.is_empty(), "are empty");
        let head = rows.first().map_or(&[][..], |row| &row.cells);
        let is_named = head.iter().any(|cell| COLUMNS.iter().any(|column| is_called(cell, column)));
        let width = rows.iter().map(|row| row.cells.len()).max().unwrap_or(0);
        let finds = |column: usize| {
            let is_found = |row: &&Row| {
                let found = names.find(row.cell(column), "");
                !matches!(found, Ok(found) if found.images.is_empty())
            };
            rows.iter().filter(is_found).count()
        };
        let input = (0..width)
            .max_by_key(|column| (finds(*column), width - column))
            .filter(|column| finds(*column) > 0);
        let others: Vec<_> = (0..width)
            .filter(|column| Some(*column) != input && !is_empty(rows, *column) && !is_index(rows, *column))
            .collect();
        if let (false, Some(input), [result]) = (is_named, input, others.as_slice()) {
            return Ok(Self { input, result: *result, first: 0 });
        }
        let missing = COLUMNS.iter().find(|column| !head.iter().any(|cell| is_called(cell, column)));
        let head: Vec<_> = head.iter().map(Cell::shown).collect();
        bail!(
            "have no column `{}`; the first line holds `{}`",
            missing.unwrap_or(&COLUMNS[0]),
            head.join("`, `")
        )
    }

    /// Returns the label of each image, and remarks about the sheet.
    fn truth(
        &self,
        rows: &[Row],
        names: &Names,
        images: &[ImageFile],
    ) -> anyhow::Result<(Vec<Option<Label>>, Vec<String>)> {
        let rows = &rows[self.first..];
        let folder = self.folder(rows);
        let mut given: Vec<Option<Given>> = vec![None; images.len()];
        let mut unknown_dates = Dates::default();
        for row in rows {
            let input = row.cell(self.input);
            computed(row, input)?;
            let found = names.find(input, &folder).or_else(|Ambiguous(names)| {
                bail!(
                    "row {}: a spreadsheet turned the image's name into {}; it may have been `{}`; \
                    {AS_TEXT}",
                    row.number,
                    input.shown(),
                    names.join("` or `")
                )
            })?;
            unknown_dates.note(row, input, found.images.is_empty());
            if found.images.is_empty() {
                continue;
            }
            let Some(label) = label(row, row.cell(self.result))? else { continue };
            for place in found.images {
                given[place] = Some(match given[place].take() {
                    None => Given {
                        label: label.clone(),
                        vagueness: found.vagueness,
                        rows: vec![row.number],
                        is_clear: true,
                    },
                    Some(before) => before.and(&label, found.vagueness, row.number),
                });
            }
        }
        unknown_dates.complain()?;
        let remarks = remarks(&given, images);
        let labels =
            given.into_iter().map(|given| given.filter(|given| given.is_clear).map(|given| given.label));
        Ok((labels.collect(), remarks))
    }
}

impl Columns {
    /// Returns a remark about rows that name none of the images; it is an error if all rows are
    /// such.
    fn strangers(&self, rows: &[Row], names: &Names, images: &[ImageFile]) -> anyhow::Result<Option<String>> {
        let rows = &rows[self.first..];
        let folder = self.folder(rows);
        let named: Vec<_> = rows.iter().filter(|row| *row.cell(self.input) != Cell::Nothing).collect();
        let is_stranger = |row: &Row| {
            let found = names.find(row.cell(self.input), &folder);
            matches!(found, Ok(found) if found.images.is_empty())
        };
        // Without a recognised header, the first row may be one in other words.
        let is_head = |place: usize| place == 0 && self.first == 0;
        let strangers: Vec<_> = named
            .iter()
            .enumerate()
            .filter(|(place, row)| !is_head(*place) && is_stranger(row))
            .map(|(_, row)| *row)
            .collect();
        let Some(first) = strangers.first() else {
            anyhow::ensure!(!named.is_empty() || images.is_empty(), "have no row with the name of an image");
            return Ok(None);
        };
        let (shown, number) = (first.cell(self.input).shown(), first.number);
        let of = named.len();
        anyhow::ensure!(
            strangers.len() < of || images.is_empty(),
            "none of the {of} rows names one of the images: row {number} has `{shown}`, and the first \
            image is `{}`",
            images[0].name
        );
        let (count, name) = (strangers.len(), if strangers.len() == 1 { "names" } else { "name" });
        Ok(Some(format!("{count} of {of} rows {name} none of these images, first row {number}: {shown}")))
    }

    /// Returns the common folder of all names.
    fn folder(&self, rows: &[Row]) -> String {
        common_folder(rows.iter().filter_map(|row| match row.cell(self.input) {
            Cell::Text(name) => Some(name.as_str()),
            _ => None,
        }))
    }
}

const AS_TEXT: &str = "format the column as text, and enter it again";

/// The label of an image in a sheet.
#[derive(Debug, Clone)]
struct Given {
    label: Label,
    vagueness: u8,
    rows: Vec<u64>,
    /// Whether all rows agree.
    is_clear: bool,
}

impl Given {
    /// Adds another row; the one that names the image more specifically counts.
    fn and(mut self, label: &Label, vagueness: u8, row: u64) -> Self {
        if vagueness < self.vagueness {
            return Self { label: label.clone(), vagueness, rows: vec![row], is_clear: true };
        }
        if vagueness == self.vagueness {
            self.is_clear &= self.label.is(&label.text) || label.is(&self.label.text);
            self.rows.push(row);
        }
        self
    }
}

/// Returns sentences about images with contradictory labels, one per set of rows.
fn remarks(given: &[Option<Given>], images: &[ImageFile]) -> Vec<String> {
    let unclear = given.iter().zip(images).filter_map(|(given, image)| {
        let given = given.as_ref().filter(|given| !given.is_clear)?;
        Some((given.rows.clone(), image.name.as_str()))
    });
    let mut by_rows: Vec<(Vec<u64>, Vec<&str>)> = Vec::new();
    let mut places = HashMap::new();
    for (rows, name) in unclear {
        let place = *places.entry(rows.clone()).or_insert_with(|| {
            by_rows.push((rows, Vec::new()));
            by_rows.len() - 1
        });
        by_rows[place].1.push(name);
    }
    let sentence = |(rows, names): (Vec<u64>, Vec<&str>)| {
        let rows: Vec<_> = rows.iter().map(u64::to_string).collect();
        let others = if names.len() > 1 { format!(" and {} more", names.len() - 1) } else { String::new() };
        format!("rows {} contradict each other: {}{others} is ignored", rows.join(" and "), names[0])
    };
    by_rows.into_iter().map(sentence).collect()
}

/// Refuses a formula whose value is not in the file.
fn computed(row: &Row, cell: &Cell) -> anyhow::Result<()> {
    anyhow::ensure!(
        !matches!(cell, Cell::Formula(_)),
        "row {}: the workbook has no value of the formula {}; open and save it in a spreadsheet program",
        row.number,
        cell.shown()
    );
    Ok(())
}

/// Returns the label in a cell, if there is one.
fn label(row: &Row, cell: &Cell) -> anyhow::Result<Option<Label>> {
    computed(row, cell)?;
    match cell {
        Cell::Nothing | Cell::Formula(_) => Ok(None),
        Cell::Text(text) => Ok(Some(Label::from(text.as_str()))),
        Cell::Number(number) => Ok(Some(Label { text: number.to_string(), number: Some(*number) })),
        Cell::Date(_) | Cell::Time(_) => {
            bail!(
                "row {}: a spreadsheet turned the label into a date or time: {}; {AS_TEXT}",
                row.number,
                cell.shown()
            )
        }
    }
}

/// The dates in the column of image names.
#[derive(Debug, Default)]
struct Dates {
    known: usize,
    unknown: Option<(u64, String)>,
}

impl Dates {
    fn note(&mut self, row: &Row, input: &Cell, is_unknown: bool) {
        match input {
            Cell::Date(_) if !is_unknown => self.known += 1,
            Cell::Date(_) | Cell::Time(_) => {
                self.unknown.get_or_insert_with(|| (row.number, input.shown()));
            }
            _ => {}
        }
    }

    /// If some dates match images, the others are names of other images. If none does, the original
    /// names are unknown, which is an error.
    fn complain(self) -> anyhow::Result<()> {
        match self.unknown.filter(|_| self.known == 0) {
            None => Ok(()),
            Some((row, shown)) => {
                bail!(
                    "row {row}: a spreadsheet turned the image's name into a date or time: \
                    {shown}; {AS_TEXT}"
                )
            }
        }
    }
}

fn is_called(cell: &Cell, name: &str) -> bool {
    matches!(cell, Cell::Text(text) if text.eq_ignore_ascii_case(name))
}

fn is_empty(rows: &[Row], column: usize) -> bool {
    rows.iter().all(|row| *row.cell(column) == Cell::Nothing)
}

/// Returns whether a column numbers the rows, with or without a header.
fn is_index(rows: &[Row], column: usize) -> bool {
    let number = |cell: &Cell| match cell {
        Cell::Number(number) => Some(*number),
        Cell::Text(text) => text.parse().ok(),
        _ => None,
    };
    let is_named = rows.first().is_some_and(|row| number(row.cell(column)).is_none());
    let counted = &rows[usize::from(is_named)..];
    let numbers: Option<Vec<f64>> = counted.iter().map(|row| number(row.cell(column))).collect();
    numbers.is_some_and(|numbers| numbers.windows(2).all(|two| two[0] + 1.0 == two[1]))
}

#[cfg(test)]
mod tests;
