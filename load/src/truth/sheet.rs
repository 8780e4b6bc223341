//! Reads the rows of a sheet of labels from any program: a workbook, or text in any common encoding
//! and with any common separator.

use std::io::{Cursor, Read, Seek};

use anyhow::Context;
use calamine::{Data, Dimensions, Reader, Sheet, SheetVisible, Sheets, open_workbook_auto_from_rs};
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};

use super::dates::Date;

/// The separators of cells in a text file.
const SEPARATORS: [u8; 4] = [b',', b';', b'\t', b'|'];
/// The signatures of workbooks: ZIP archives, and the older format.
const WORKBOOKS: [&[u8]; 2] = [b"PK\x03\x04", b"\xD0\xCF\x11\xE0"];

/// The signature of gzip.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The content of a cell, as far as it matters for names and labels.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    /// Empty, or an error such as `#N/A`.
    Nothing,
    /// Text as typed.
    Text(String),
    /// A number in a workbook. Its spelling is lost: 1.1 may have been 1.10, and 7 may have been
    /// 007.
    Number(f64),
    /// A date, which may be the converted form of a name that resembles one.
    Date(Date),
    /// A time of day or a duration, as shown in an error.
    Time(String),
    /// A formula whose value is not stored in the file.
    Formula(String),
}

/// A row, with its number in the program that wrote the file.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) number: u64,
    pub(super) cells: Vec<Cell>,
}

impl Row {
    /// Returns the cell in a column; `Nothing` if the row is shorter.
    pub(super) fn cell(&self, column: usize) -> &Cell {
        self.cells.get(column).unwrap_or(&Cell::Nothing)
    }
}

impl Cell {
    fn of_text(text: &str) -> Self {
        // Excel's way to keep text from becoming a number in a CSV file.
        let bare = text.strip_prefix("=\"").and_then(|text| text.strip_suffix('"')).unwrap_or(text);
        let trimmed = bare.trim_matches(|c: char| c.is_whitespace() || matches!(c, '\u{feff}' | '\u{200b}'));
        if trimmed.is_empty() || is_error(trimmed) { Self::Nothing } else { Self::Text(trimmed.to_owned()) }
    }

    fn of_workbook(data: &Data) -> Self {
        match data {
            Data::Empty | Data::Error(_) => Self::Nothing,
            Data::String(text) => Self::of_text(text),
            Data::Int(number) => Self::Number(*number as f64),
            Data::Float(number) => Self::Number(*number),
            // As the typed word, independent of the language of the spreadsheet.
            Data::Bool(is_true) => Self::Text(is_true.to_string()),
            Data::DateTime(moment) if moment.is_duration() => {
                Self::Time(format!("{:.0} seconds", moment.as_f64() * 86_400.0))
            }
            // Day 0 is in the year 1899, so this is a time of day.
            Data::DateTime(moment) if moment.as_f64() < 1.0 => {
                let (_, _, _, hour, minute, second, _) = moment.to_ymd_hms_milli();
                Self::Time(format!("{hour:02}:{minute:02}:{second:02}"))
            }
            Data::DateTime(moment) => {
                let (year, month, day, hour, minute, second, _) = moment.to_ymd_hms_milli();
                let day_of = [year.into(), month.into(), day.into()];
                Self::Date(Date { day: day_of, time: [hour, minute, second].map(u32::from) })
            }
            Data::DateTimeIso(text) => {
                Date::from_iso(text).map_or_else(|| Self::Time(text.clone()), Self::Date)
            }
            Data::DurationIso(text) => Self::Time(text.clone()),
        }
    }

    /// Returns the content as shown in an error.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::Text(text) | Self::Time(text) => text.clone(),
            Self::Formula(formula) => format!("={formula}"),
            Self::Number(number) => number.to_string(),
            Self::Date(date) => date.to_string(),
        }
    }
}

/// Returns whether this is the error value of a spreadsheet formula, or what is shown of a value
/// that does not fit its column: `#N/A`, `#REF!`, `#NAME?`, `####`, in German `#NV` and `#BEZUG!`,
/// in Spanish `#¡REF!` and `#¿NOMBRE?`, and in LibreOffice `Err:502`.
fn is_error(text: &str) -> bool {
    const WITHOUT_MARK: [&str; 12] = [
        "#N/A",
        "#NA",
        "#NV",
        "#N/D",
        "#N/B",
        "#I/T",
        "#YOK",
        "#HIÁNYZIK",
        "#Н/Д",
        "#Δ/Υ",
        "#NENÍ_K_DISPOZICI",
        "#GETTING_DATA",
    ];
    let is_code = |code: &str| !code.is_empty() && code.bytes().all(|byte| byte.is_ascii_digit());
    // French has a blank in front of a colon.
    let code = text.strip_prefix("Err").and_then(|rest| rest.trim_start().strip_prefix(':'));
    if code.is_some_and(is_code) || WITHOUT_MARK.contains(&text) {
        return true;
    }
    if text.len() > 2 && text.bytes().all(|byte| byte == b'#') {
        return true;
    }
    let name = text.strip_prefix('#').and_then(|name| name.strip_suffix(['!', '?']));
    name.map(|name| name.strip_prefix(['¡', '¿']).unwrap_or(name)).is_some_and(|name| {
        !name.is_empty() && name.chars().all(|c| c.is_uppercase() || c.is_ascii_digit() || "/_".contains(c))
    })
}

/// Reads the rows of a file, whose type is judged by its content, since the extension is
/// unreliable.
pub(super) fn rows(bytes: &[u8], has_columns: impl Fn(&[Row]) -> bool) -> anyhow::Result<Vec<Row>> {
    if WORKBOOKS.iter().any(|start| bytes.starts_with(start)) {
        return rows_of_workbook(bytes, has_columns);
    }
    anyhow::ensure!(!bytes.starts_with(&GZIP), "this is compressed with gzip; unpack it first");
    let text = decode(bytes)?.replace("\r\n", "\n").replace('\r', "\n");
    anyhow::ensure!(!text.contains('\0'), "this is neither a workbook nor text");
    let (text, separators) = match text.lines().next().and_then(separator_line) {
        // The line is left empty, so that rows keep their numbers.
        Some(separator) => (text.trim_start_matches(|c| c != '\n'), vec![separator]),
        None => (text.as_str(), SEPARATORS.to_vec()),
    };
    let (mut best, mut problem) = (Vec::new(), None);
    for separator in separators {
        let rows = match with_plain_quotes(text, separator) {
            Ok(text) => rows_of_text(&text, separator)?,
            Err(error) => {
                problem.get_or_insert(error);
                continue;
            }
        };
        if has_columns(&rows) {
            return Ok(rows);
        }
        let width = |rows: &[Row]| rows.first().map_or(0, |row| row.cells.len());
        if width(&rows) > width(&best) {
            best = rows;
        }
    }
    problem.map_or(Ok(best), Err)
}

/// Removes spaces between a separator and a quotation mark: `a.jpg, "star"`.
fn with_plain_quotes(text: &str, separator: u8) -> anyhow::Result<String> {
    let separator = char::from(separator);
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    let (mut is_start, mut line) = (true, 1_u64);
    while let Some(c) = rest.next() {
        if is_start && c == ' ' {
            let mut blanks = String::from(c);
            while let Some(blank) = rest.next_if_eq(&' ') {
                blanks.push(blank);
            }
            if rest.peek() != Some(&'"') {
                plain.push_str(&blanks);
                is_start = false;
            }
            continue;
        }
        plain.push(c);
        if is_start && c == '"' {
            let opened = line;
            loop {
                let Some(c) = rest.next() else {
                    anyhow::bail!("row {opened}: a quotation mark opens a cell that nothing closes");
                };
                plain.push(c);
                line += u64::from(c == '\n');
                if c == '"' {
                    // Two quotation marks stand for one in the cell.
                    match rest.next_if_eq(&'"') {
                        Some(second) => plain.push(second),
                        None => break,
                    }
                }
            }
        }
        line += u64::from(c == '\n');
        is_start = c == separator || c == '\n';
    }
    Ok(plain)
}

/// Parses Excel's `sep=;` in the first line of a file.
fn separator_line(line: &str) -> Option<u8> {
    match line.trim().trim_matches('"').to_ascii_lowercase().strip_prefix("sep=")?.as_bytes() {
        [separator] => Some(*separator),
        // The tab was trimmed with the spaces.
        [] => Some(b'\t'),
        _ => None,
    }
}

/// Decodes text with a byte order mark, as UTF-16 without one, as UTF-8, or else as Windows-1252.
fn decode(bytes: &[u8]) -> anyhow::Result<String> {
    let marked = Encoding::for_bom(bytes).map(|(encoding, _)| encoding);
    // In Latin text, every second byte of UTF-16 is zero.
    let zeros = |odd: usize| bytes.iter().take(200).skip(odd).step_by(2).filter(|byte| **byte == 0).count();
    let encoding = match (marked, zeros(0), zeros(1)) {
        (Some(marked), ..) => marked,
        (None, 0, 0) if std::str::from_utf8(bytes).is_ok() => UTF_8,
        (None, 0, 0) => WINDOWS_1252,
        (None, even, odd) => {
            anyhow::ensure!(
                even.abs_diff(odd) > bytes.len().min(200) / 8,
                "this is neither a workbook nor text"
            );
            if odd > even { UTF_16LE } else { UTF_16BE }
        }
    };
    let (text, _, is_broken) = encoding.decode(bytes);
    anyhow::ensure!(!is_broken, "this is not valid {}, which its first bytes announce", encoding.name());
    Ok(text.into_owned())
}

fn rows_of_text(text: &str, separator: u8) -> anyhow::Result<Vec<Row>> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(separator)
        .from_reader(text.as_bytes());
    let (mut rows, mut counted, mut line) = (Vec::new(), 0, 1);
    for record in reader.records() {
        let record = record?;
        // A record starts where the previous one ends (csv 1.4), so it includes the empty lines in
        // between.
        let begin = record.position().map_or(0, |position| position.byte() as usize);
        let rest = text.get(begin..).unwrap_or_default();
        let begin = begin + rest.len() - rest.trim_start_matches('\n').len();
        line += text.get(counted..begin).unwrap_or_default().matches('\n').count() as u64;
        counted = begin;
        let cells: Vec<_> = record.iter().map(Cell::of_text).collect();
        if cells.iter().any(|cell| *cell != Cell::Nothing) {
            rows.push(Row { number: line, cells });
        }
    }
    Ok(rows)
}

/// Returns the first sheet with the columns, or else the first one. Hidden sheets come after
/// visible ones.
fn rows_of_workbook(bytes: &[u8], has_columns: impl Fn(&[Row]) -> bool) -> anyhow::Result<Vec<Row>> {
    let mut book: Sheets<_> = open_workbook_auto_from_rs(Cursor::new(bytes))?;
    let mut sheets: Vec<_> = book.sheets_metadata().to_vec();
    sheets.sort_by_key(|sheet| sheet.visible != SheetVisible::Visible);
    let mut first = None;
    for Sheet { name, .. } in sheets {
        let rows = match rows_of_sheet(&mut book, &name) {
            Ok(rows) => rows,
            // A chart, or another sheet that does not matter.
            Err(_) if first.is_some() => continue,
            Err(error) => return Err(error.into()),
        };
        if has_columns(&rows) {
            return Ok(rows);
        }
        first.get_or_insert(rows);
    }
    let rows = first.context("it contains no sheet")?;
    // calamine 0.38 reads the cells of an .ods file without `office:value-type` as empty.
    anyhow::ensure!(
        rows.iter().flat_map(|row| &row.cells).any(|cell| *cell != Cell::Nothing),
        "no cell has a value; if cells of an .ods file show text and have no type, open the file \
        in a spreadsheet program and save it again"
    );
    Ok(rows)
}

fn rows_of_sheet<R: Read + Seek>(book: &mut Sheets<R>, name: &str) -> Result<Vec<Row>, calamine::Error> {
    let range = book.worksheet_range(name)?;
    // A workbook format without formulas changes no cell.
    let formulas = book.worksheet_formula(name).unwrap_or_default();
    let merged = merged(book, name);
    let (above, left) = range.start().unwrap_or_default();
    let (below, right) = range.end().unwrap_or_default();
    let cell = |row: u32, column: u32| {
        let region = merged.iter().find(|region| region.contains(row, column));
        let (row, column) = region.map_or((row, column), |region| region.start);
        let cell = range.get_value((row, column)).map_or(Cell::Nothing, Cell::of_workbook);
        match formulas.get_value((row, column)).filter(|formula| !formula.is_empty()) {
            Some(formula) if cell == Cell::Nothing && is_uncomputed(range.get_value((row, column))) => {
                Cell::Formula(formula.clone())
            }
            _ => cell,
        }
    };
    let row = |row: u32| Row {
        number: u64::from(row) + 1,
        cells: (left..=right).map(|column| cell(row, column)).collect(),
    };
    Ok(if range.is_empty() { Vec::new() } else { (above..=below).map(row).collect() })
}

/// Returns the merged regions, all cells of which show the first one's content.
fn merged<R: Read + Seek>(book: &mut Sheets<R>, name: &str) -> Vec<Dimensions> {
    match book {
        Sheets::Xlsx(book) => book.merge_cells_by_sheet_name(name).unwrap_or_default(),
        Sheets::Xls(book) => book.merge_cells_by_sheet_name(name).unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// A failed formula has an error as value, and an empty result is an empty text.
fn is_uncomputed(data: Option<&Data>) -> bool {
    matches!(data, None | Some(Data::Empty))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(bytes: &[u8]) -> Vec<Vec<String>> {
        let rows = rows(bytes, |rows| rows[0].cells.len() == 2).unwrap();
        rows.iter().map(|row| row.cells.iter().map(Cell::shown).collect()).collect()
    }

    fn utf_16(text: &str, bytes_of: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(bytes_of).collect()
    }

    #[test]
    fn text_is_read_in_every_encoding_of_spreadsheets() {
        let text = "Input,Result\nMüller.jpg,Kätzchen\n";
        let expected = [["Input", "Result"], ["Müller.jpg", "Kätzchen"]];
        let windows = WINDOWS_1252.encode(text).0.into_owned();
        for bytes in [
            text.as_bytes().to_vec(),
            format!("\u{feff}{text}").into_bytes(),
            windows,
            utf_16(text, u16::to_le_bytes),
            utf_16(text, u16::to_be_bytes),
            utf_16(&format!("\u{feff}{text}"), u16::to_le_bytes),
            utf_16(&format!("\u{feff}{text}"), u16::to_be_bytes),
        ] {
            assert_eq!(texts(&bytes), expected, "{bytes:?}");
        }
        assert!(decode(&[0, 0, 1, 0, 0, 2]).is_err());
        let packed = rows(&[0x1f, 0x8b, 8, 0, 0], |_| true).unwrap_err().to_string();
        assert!(packed.contains("unpack"), "{packed}");
    }

    #[test]
    fn cells_are_separated_by_commas_semicolons_tabs_or_bars() {
        for separator in [",", ";", "\t", "|"] {
            let text = format!("Input{separator}Result\n\"a;b,c.jpg\"{separator}star\n");
            assert_eq!(texts(text.as_bytes()), [["Input", "Result"], ["a;b,c.jpg", "star"]], "{separator:?}");
        }
        assert_eq!(texts(b"sep=;\r\na.jpg;a, b\r\n"), [["a.jpg", "a, b"]]);
    }

    #[test]
    fn errors_and_empty_cells_are_nothing_but_labels_may_have_a_hash() {
        for nothing in [
            "",
            " \u{a0}",
            "#N/A",
            "#REF!",
            "#DIV/0!",
            "#NAME?",
            "#NV",
            "#BEZUG!",
            "#ÜBERLAUF!",
            "Err:502",
            "#¡DIV/0!",
            "#¿NOMBRE?",
            "#¡VALOR!",
            "#I/T",
            "#Н/Д",
            "#ИМЯ?",
            "Err :508",
            "Err\u{a0}:508",
            "###",
            "########",
        ] {
            assert_eq!(Cell::of_text(nothing), Cell::Nothing, "{nothing}");
        }
        for label in ["#1", "#hashtag", "N/A", "C#", "#", "##", "Err:or", "Err", "#¡", "#!"] {
            assert_eq!(Cell::of_text(label), Cell::Text(label.into()), "{label}");
        }
        assert_eq!(Cell::of_text("=\"1.10\""), Cell::Text("1.10".into()));
    }

    #[test]
    fn rows_keep_the_numbers_that_an_editor_shows() {
        let rows = rows(b"\nInput,Result\n\na.jpg,star\n", |_| true).unwrap();
        assert_eq!(rows.iter().map(|row| row.number).collect::<Vec<_>>(), [2, 4]);
        let rows = super::rows(b"sep=;\na.jpg;star\n", |_| true).unwrap();
        assert_eq!(rows[0].number, 2);
        let rows = super::rows(b"Input,Result\r\n\"a\r\nb\",x\r\n\r\nc,y", |_| true).unwrap();
        assert_eq!(rows.iter().map(|row| row.number).collect::<Vec<_>>(), [1, 2, 5]);
    }
}
