//! Reads a TOML text value by value, so that all mistakes are found at once, each with its line and
//! key.

use std::{cell::RefCell, collections::BTreeSet, ops::RangeInclusive, path::Path, time::Duration};

use eirs_platform::settings::{nearest, units};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::Complaint;

/// A text being read, and the complaints about it so far.
pub(super) struct Document<'a> {
    file: &'a Path,
    text: &'a str,
    complaints: RefCell<Vec<Complaint>>,
    /// Paths of all keys that any section has read.
    known: RefCell<BTreeSet<String>>,
    unknown: RefCell<Vec<Unknown>>,
}

/// A key that its section does not know. The hint is added at the end, as the key may belong to
/// another section.
struct Unknown {
    at: usize,
    path: String,
    nearest: Option<String>,
    /// The keys that the section knows.
    known: String,
}

/// A table of the document. Keys that are read become known; [`finish`](Self::finish) complains
/// about the others.
pub(super) struct Section<'a> {
    document: &'a Document<'a>,
    path: String,
    table: Option<&'a DeTable<'a>>,
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Document<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str) -> Self {
        Self {
            file,
            text,
            complaints: RefCell::default(),
            known: RefCell::default(),
            unknown: RefCell::default(),
        }
    }

    /// Parses the text. If it is not valid TOML, returns as much as could be read, and adds
    /// complaints.
    pub(super) fn parse(&self) -> Spanned<DeTable<'a>> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in errors {
            self.complain(
                error.span().map(|span| span.start),
                None,
                format!("is not TOML: {}", error.message()),
            );
        }
        table
    }

    pub(super) fn into_complaints(self) -> Vec<Complaint> {
        for Unknown { at, path, nearest, known } in self.unknown.take() {
            let name = path.rsplit('.').next().unwrap_or_default();
            let homes = self.known.borrow();
            let home = homes.iter().find(|home| home.rsplit('.').next() == Some(name)).cloned();
            let hint = match home.or(nearest) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("the known ones are {known}"),
            };
            let problem = format!("unknown key `{path}`; {hint}");
            self.complain(Some(at), Some(path), problem);
        }
        let mut complaints = self.complaints.into_inner();
        complaints.sort_by_key(|complaint| complaint.line);
        complaints
    }

    fn complain(&self, at: Option<usize>, key: Option<String>, problem: String) {
        let line = at.map(|at| 1 + self.text.bytes().take(at).filter(|byte| *byte == b'\n').count());
        self.complaints.borrow_mut().push(Complaint { file: self.file.to_owned(), line, key, problem });
    }
}

impl<'a> Section<'a> {
    pub(super) fn top(document: &'a Document<'a>, table: &'a DeTable<'a>) -> Self {
        Self { document, path: String::new(), table: Some(table), known: RefCell::default() }
    }

    /// Reads the table of this name; an empty one if it is missing.
    pub(super) fn section(&self, name: &'static str) -> Section<'a> {
        let table = self.get(name).and_then(|value| {
            let table = value.get_ref().as_table();
            if table.is_none() {
                self.refuse(name, value, &format!("a table, written `[{name}]`"));
            }
            table
        });
        Section { document: self.document, path: name.to_owned(), table, known: RefCell::default() }
    }

    /// Reads an array of tables.
    pub(super) fn sections(&self, name: &'static str) -> Vec<Section<'a>> {
        let Some(value) = self.get(name) else { return Vec::new() };
        let Some(tables) = value.get_ref().as_array() else {
            self.refuse(name, value, &format!("a list of tables, each written `[[{name}]]`"));
            return Vec::new();
        };
        let read = |(number, value): (usize, &'a Spanned<DeValue<'a>>)| {
            let path = format!("{name}[{}]", number + 1);
            let Some(table) = value.get_ref().as_table() else {
                self.refuse(name, value, &format!("a list of tables, each written `[[{name}]]`"));
                return None;
            };
            Some(Section { document: self.document, path, table: Some(table), known: RefCell::default() })
        };
        tables.iter().enumerate().filter_map(read).collect()
    }

    /// Whether the key exists.
    pub(super) fn has(&self, key: &'static str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Reads a string.
    pub(super) fn text(&self, key: &'static str) -> Option<&'a str> {
        let value = self.get(key)?;
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.refuse(key, value, "a text in quotes");
        }
        text
    }

    /// Reads one of the given words. The complaint about another word suggests the nearest one.
    pub(super) fn word(&self, key: &'static str, words: &[&'static str]) -> Option<&'static str> {
        let text = self.text(key)?;
        let found = words.iter().copied().find(|word| *word == text);
        if found.is_none() {
            let hint = nearest(text, words).map_or_else(
                || format!("the known ones are {}", quoted(words)),
                |near| format!("did you mean {near:?}? The known ones are {}", quoted(words)),
            );
            self.complain(key, format!("is {text:?}, which is unknown; {hint}"));
        }
        found
    }

    /// Complains if a required key is missing.
    pub(super) fn needs(&self, key: &'static str, what: &str) -> Option<()> {
        if self.has(key) {
            return Some(());
        }
        self.known.borrow_mut().push(key);
        self.complain(key, format!("is missing: {what}"));
        None
    }

    /// Reads a time zone by its name in the IANA database.
    pub(super) fn timezone(&self, key: &'static str) -> Option<chrono_tz::Tz> {
        let text = self.text(key)?;
        let zone = text.parse().ok();
        if zone.is_none() {
            let names: Vec<_> = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name()).collect();
            let hint = nearest(text, &names).map_or_else(
                || "write it like \"Europe/Berlin\"".to_owned(),
                |near| format!("did you mean {near:?}?"),
            );
            self.complain(key, format!("is {text:?}, which is unknown; {hint}"));
        }
        zone
    }

    /// Reads an array of strings.
    pub(super) fn texts(&self, key: &'static str) -> Option<Vec<String>> {
        let value = self.get(key)?;
        let texts = value.get_ref().as_array().and_then(|array| {
            array.iter().map(|text| text.get_ref().as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        if texts.is_none() {
            self.refuse(key, value, "a list of texts in quotes");
        }
        texts
    }

    /// Reads a boolean.
    pub(super) fn flag(&self, key: &'static str) -> Option<bool> {
        let value = self.get(key)?;
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            self.refuse(key, value, "true or false");
        }
        flag
    }

    /// Reads an integer or a float in the range.
    pub(super) fn number(&self, key: &'static str, range: RangeInclusive<f64>) -> Option<f64> {
        let value = self.get(key)?;
        let text = match value.get_ref() {
            DeValue::Integer(integer) if integer.radix() == 10 => Some(integer.as_str()),
            DeValue::Float(float) => Some(float.as_str()),
            _ => None,
        };
        let number = text.and_then(|text| text.parse().ok()).filter(|number| range.contains(number));
        if number.is_none() {
            self.refuse(key, value, &format!("a number from {} to {}", range.start(), range.end()));
        }
        number
    }

    /// Reads an integer in the range.
    pub(super) fn whole(&self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let value = self.get(key)?;
        let integer = value.get_ref().as_integer();
        let number = integer.and_then(|integer| u64::from_str_radix(integer.as_str(), integer.radix()).ok());
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            self.refuse(key, value, &format!("a whole number from {} to {}", range.start(), range.end()));
        }
        number
    }

    /// Reads a number of instances in the range.
    pub(super) fn instances(&self, key: &'static str, range: RangeInclusive<u32>) -> Option<u32> {
        let number = self.whole(key, u64::from(*range.start())..=u64::from(*range.end()))?;
        Some(u32::try_from(number).expect("the range ends within u32"))
    }

    /// Reads a duration with its unit, in the range.
    pub(super) fn duration(&self, key: &'static str, range: RangeInclusive<Duration>) -> Option<Duration> {
        let value = self.get(key)?;
        let shown = |duration: &Duration| humantime::format_duration(*duration).to_string();
        let wanted = format!(
            "a time in quotes with its unit, from \"{}\" to \"{}\"",
            shown(range.start()),
            shown(range.end())
        );
        let duration = value.get_ref().as_str().and_then(|text| units::duration::parse(text).ok());
        let duration = duration.filter(|duration| range.contains(duration));
        if duration.is_none() {
            self.refuse(key, value, &wanted);
        }
        duration
    }

    /// Adds a complaint about a key of this section.
    pub(super) fn complain(&self, key: &str, problem: String) {
        let at = self.table.and_then(|table| table.iter().find(|(name, _)| name.get_ref() == key));
        let first = || self.table.and_then(|table| table.keys().next());
        let at = at.map(|(_, value)| value.span().start).or_else(|| first().map(|name| name.span().start));
        self.document.complain(at, Some(self.path_of(key)), problem);
    }

    /// Complains about every key that was not read.
    pub(super) fn finish(self) {
        let known = self.known.take();
        self.document.known.borrow_mut().extend(known.iter().map(|key| self.path_of(key)));
        for name in self.table.into_iter().flat_map(DeTable::keys) {
            let key: &str = name.get_ref();
            if !known.contains(&key) {
                self.document.unknown.borrow_mut().push(Unknown {
                    at: name.span().start,
                    path: self.path_of(key),
                    nearest: nearest(key, &known).map(|near| self.path_of(near)),
                    known: known.join(", "),
                });
            }
        }
    }

    fn get(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.borrow_mut().push(key);
        self.table?.get(key)
    }

    fn refuse(&self, key: &str, value: &Spanned<DeValue<'a>>, wanted: &str) {
        let span = value.span();
        let written = self.document.text.get(span.clone()).unwrap_or_default();
        // A table or a long list is shown by its type.
        let written =
            if written.len() > 60 || written.contains('\n') { value.get_ref().type_str() } else { written };
        let problem = format!("is {written}; must be {wanted}");
        self.document.complain(Some(span.start), Some(self.path_of(key)), problem);
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ")
}
