//! Parses JSON, Python literals and YAML's flow style into values that keep duplicate keys and the
//! difference between numbers and strings, both of which matter for labels.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};

/// Maximum depth of nested values; lists of labels have less.
const DEPTH_MAX: usize = 16;

/// A parsed value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Literal {
    Text(String),
    /// As written, because it may be a label.
    Number(String),
    /// `true`, `None` and similar words.
    Word(String),
    List(Vec<Literal>),
    /// In the order of the file. Keys are strings in JSON; in Python they may be numbers.
    Map(Vec<(Literal, Literal)>),
}

impl Literal {
    /// Returns the index that this value represents.
    pub(super) fn index(&self) -> Option<usize> {
        match self {
            Self::Text(text) | Self::Number(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text.trim()),
            _ => None,
        }
    }

    /// Returns a string, number or boolean as it is written.
    pub(super) fn scalar(&self) -> Option<&str> {
        match self {
            Self::Word(word) if word == "null" || word == "None" => None,
            Self::Text(text) | Self::Number(text) | Self::Word(text) => Some(text.trim()),
            _ => None,
        }
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Number(text) | Self::Word(text) => f.write_str(text),
            Self::List(list) => write!(f, "a list of {}", list.len()),
            Self::Map(map) => write!(f, "an object of {} keys", map.len()),
        }
    }
}

/// Parses JSON, or a Python literal, as written by Ultralytics.
pub(super) fn literal(text: &str) -> anyhow::Result<Literal> {
    Ok(serde_json::from_str(text).or_else(|error| python(text).ok_or(error))?)
}

fn python(text: &str) -> Option<Literal> {
    let mut reader = Reader { rest: text, bare: false };
    let value = reader.value(0)?;
    reader.rest.trim().is_empty().then_some(value)
}

/// Parses the list or map at the start of a text, in which strings need no quotes.
pub(super) fn flow(text: &str) -> Option<Literal> {
    Reader { rest: text, bare: true }.value(0)
}

/// Splits off the quoted string at the start of a text.
pub(super) fn quoted(text: &str) -> Option<(String, &str)> {
    let mut reader = Reader { rest: text, bare: true };
    let quote = text.chars().next().filter(|letter| ['\'', '"'].contains(letter))?;
    Some((reader.text(quote)?, reader.rest))
}

/// Reads literals of dictionaries, lists, tuples, strings and numbers.
struct Reader<'a> {
    rest: &'a str,
    /// Whether strings may be unquoted, and `''` is an escaped quote, as in YAML.
    bare: bool,
}

impl Reader<'_> {
    fn value(&mut self, depth: usize) -> Option<Literal> {
        self.rest = self.rest.trim_start();
        let first = self.rest.chars().next().filter(|_| depth < DEPTH_MAX)?;
        match first {
            '{' => {
                let mut map = Vec::new();
                self.items('}', |reader| {
                    let key = reader.value(depth + 1)?;
                    reader.rest = reader.rest.trim_start().strip_prefix(':')?;
                    map.push((key, reader.value(depth + 1)?));
                    Some(())
                })?;
                Some(Literal::Map(map))
            }
            '[' | '(' => {
                let mut list = Vec::new();
                self.items(if first == '[' { ']' } else { ')' }, |reader| {
                    list.push(reader.value(depth + 1)?);
                    Some(())
                })?;
                Some(Literal::List(list))
            }
            '\'' | '"' => self.text(first).map(Literal::Text),
            _ => {
                let end = self.rest.find([',', ':', ']', '}', ')', '[', '{', '\n', '#']);
                let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
                self.rest = rest;
                word_of(word.trim(), self.bare)
            }
        }
    }

    fn items(&mut self, close: char, mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.rest = &self.rest[1..];
        loop {
            self.rest = self.rest.trim_start();
            if let Some(after) = self.rest.strip_prefix(close) {
                self.rest = after;
                return Some(());
            }
            item(self)?;
            self.rest = self.rest.trim_start();
            if let Some(after) = self.rest.strip_prefix(',') {
                self.rest = after;
            } else if !self.rest.starts_with(close) {
                return None;
            }
        }
    }

    fn text(&mut self, quote: char) -> Option<String> {
        let mut text = String::new();
        let mut letters = self.rest.char_indices().skip(1).peekable();
        let has_escapes = !self.bare || quote == '"';
        while let Some((at, letter)) = letters.next() {
            match letter {
                '\\' if has_escapes => {
                    let (_, escaped) = letters.next()?;
                    let mut code = |digits: usize| {
                        let hex: String = letters.by_ref().take(digits).map(|(_, digit)| digit).collect();
                        u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32)
                    };
                    text.push(match escaped {
                        'n' => '\n',
                        't' => '\t',
                        'r' => '\r',
                        'x' => code(2)?,
                        'u' => code(4)?,
                        'U' => code(8)?,
                        other => other,
                    });
                }
                _ if letter == quote => {
                    if !has_escapes && letters.next_if(|(_, next)| *next == quote).is_some() {
                        text.push(quote);
                        continue;
                    }
                    self.rest = &self.rest[at + letter.len_utf8()..];
                    return Some(text);
                }
                _ => text.push(letter),
            }
        }
        None
    }
}

/// Parses a number, one of Python's constants, or any word if `bare`.
fn word_of(word: &str, bare: bool) -> Option<Literal> {
    let is_number = word.starts_with(|c: char| c.is_ascii_digit() || c == '-') && word.parse::<f64>().is_ok();
    match word {
        "" => None,
        _ if is_number => Some(Literal::Number(word.to_owned())),
        "True" | "False" | "None" => Some(Literal::Word(word.to_owned())),
        _ => bare.then(|| Literal::Text(word.to_owned())),
    }
}

impl<'de> Deserialize<'de> for Literal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Json)
    }
}

/// Visits JSON values. `serde_json::Value` would silently keep only the last of duplicate keys.
struct Json;

impl<'de> Visitor<'de> for Json {
    type Value = Literal;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Literal, E> {
        Ok(Literal::Word(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Literal, E> {
        Ok(Literal::Number(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Literal, E> {
        Ok(Literal::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Literal, E> {
        Ok(Literal::Number(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Literal, E> {
        Ok(Literal::Text(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Literal, E> {
        Ok(Literal::Word("null".to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Literal, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Literal::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Literal, A::Error> {
        let mut map = Vec::new();
        while let Some((key, value)) = entries.next_entry::<String, Literal>()? {
            map.push((Literal::Text(key), value));
        }
        Ok(Literal::Map(map))
    }
}
