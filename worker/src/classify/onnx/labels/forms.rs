//! The forms in which people have labels: lines, ImageNet's synsets, CSV, JSON of Keras and Hugging
//! Face, Python literals.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

/// The labels in the order of the outputs, and whether each had its number.
pub(super) fn parse(text: &str, is_csv: bool) -> anyhow::Result<(Vec<String>, bool)> {
    let text = text.trim_start_matches('\u{feff}').trim_end();
    ensure!(!text.is_empty(), "it is empty");
    let (names, indexed) = match text.as_bytes()[0] {
        b'[' | b'{' | b'(' => structured(&literal(text)?)?,
        _ if is_csv => csv(text)?,
        _ => lines(text),
    };
    match names.iter().position(String::is_empty) {
        Some(index) => bail!("label {} is empty", index + 1),
        None => Ok((names, indexed)),
    }
}

/// A JSON text, or a Python literal, which Ultralytics writes.
fn literal(text: &str) -> anyhow::Result<Value> {
    serde_json::from_str(text).or_else(|error| python(text).ok_or(error).map_err(anyhow::Error::from))
}

/// A list of labels, or an object from index to label, from label to index, or with one of these in
/// it.
fn structured(value: &Value) -> anyhow::Result<(Vec<String>, bool)> {
    match value {
        Value::Array(list) => Ok((list.iter().map(name).collect::<anyhow::Result<_>>()?, false)),
        Value::Object(object) => {
            for key in ["id2label", "label_names", "names", "classes", "labels"] {
                if let Some(inner @ (Value::Array(_) | Value::Object(_))) = object.get(key) {
                    return structured(inner);
                }
            }
            let is_reverse = !object.is_empty() && object.values().all(Value::is_u64);
            let mut by_index = BTreeMap::new();
            for (key, value) in object {
                let (index, name) = if is_reverse {
                    (value.as_u64().and_then(|index| usize::try_from(index).ok()), key.trim().to_owned())
                } else {
                    (key.trim().parse().ok(), name(value)?)
                };
                let index = index.with_context(|| format!("key {key:?} is not an index"))?;
                ensure!(by_index.insert(index, name).is_none(), "index {index} is there twice");
            }
            let gap = by_index.keys().enumerate().find(|(expected, index)| expected != *index);
            ensure!(gap.is_none(), "index {} is missing", gap.map_or(0, |(expected, _)| expected));
            Ok((by_index.into_values().collect(), true))
        }
        _ => bail!("it is neither a list nor an object"),
    }
}

/// A label is a string; Keras writes pairs of a WordNet id and a label.
fn name(value: &Value) -> anyhow::Result<String> {
    let label = value.as_array().and_then(|pair| pair.last()).unwrap_or(value);
    Ok(label.as_str().with_context(|| format!("{value} is not a label"))?.trim().to_owned())
}

/// One a line, perhaps in quotes. A number of its own goes off, before the label (`0 cat`) or after
/// it (`cat 0`), and so does the id of a synset (`n01440764 tench, Tinca tinca`).
fn lines(text: &str) -> (Vec<String>, bool) {
    let all: Vec<&str> = text.lines().map(str::trim).collect();
    let quoted = |quote: char| {
        let within =
            |line: &&str| line.strip_prefix(quote)?.strip_suffix(quote).map(|line| line.trim().to_owned());
        all.iter().map(within).collect::<Option<Vec<_>>>()
    };
    if let Some(names) = quoted('"').or_else(|| quoted('\'')) {
        return (names, false);
    }
    if let Some(names) = numbered(&all, before, true).or_else(|| numbered(&all, after, false)) {
        return (names, true);
    }
    let synset = |line: &&str| {
        let (id, label) = line.split_once([' ', '\t'])?;
        (is_synset(id) && !label.trim().is_empty()).then(|| label.trim().to_owned())
    };
    match all.iter().map(synset).collect::<Option<Vec<_>>>() {
        Some(names) => (names, false),
        None => (all.into_iter().map(str::to_owned).collect(), false),
    }
}

/// The number before a label, and the label.
fn before(line: &str) -> Option<(&str, &str)> {
    let (number, rest) = line.split_at(line.find(|c: char| !c.is_ascii_digit())?);
    let label = rest.trim_start_matches([':', ',', ';', '.', ')', '\t', ' ']);
    (label.len() < rest.len()).then_some((number, label))
}

/// The number after a label, and the label.
fn after(line: &str) -> Option<(&str, &str)> {
    let (label, number) = line.rsplit_once([':', ',', ';', '\t', ' '])?;
    Some((number, label.trim_end_matches([':', ',', ';', '\t', ' '])))
}

/// Labels by numbers from zero in any order, or from one in that order where that may be. No two
/// may be equal without their numbers, which belong to them then (`1 star`, `2 stars`, `3 stars`).
fn numbered(
    lines: &[&str],
    split: fn(&str) -> Option<(&str, &str)>,
    may_be_from_one: bool,
) -> Option<Vec<String>> {
    let mut by_index = BTreeMap::new();
    let mut is_in_order = may_be_from_one;
    for (place, line) in lines.iter().enumerate() {
        let (text, label) = split(line)?;
        let number: usize = text.parse().ok()?;
        is_in_order &= number == place + 1;
        // A number with zeros before it is part of a name.
        let is_one = number.to_string() == text && !label.is_empty();
        if !is_one || by_index.insert(number, label.to_owned()).is_some() {
            return None;
        }
    }
    let is_from_zero = by_index.keys().copied().eq(0..lines.len());
    let names: BTreeSet<&String> = by_index.values().collect();
    let is_whole = lines.len() > 1 && names.len() == lines.len() && (is_from_zero || is_in_order);
    is_whole.then(|| by_index.into_values().collect())
}

fn is_synset(id: &str) -> bool {
    id.len() == 9 && id.starts_with('n') && id[1..].bytes().all(|byte| byte.is_ascii_digit())
}

/// A column of labels, by its head or else the last one, and a column of numbers where there is
/// one.
fn csv(text: &str) -> anyhow::Result<(Vec<String>, bool)> {
    let separator =
        [';', '\t', ','].into_iter().find(|c| text.lines().next().is_some_and(|head| head.contains(*c)));
    let rows: Vec<Vec<String>> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| cells(line, separator.unwrap_or(',')))
        .collect();
    let place = |wanted: &[&str]| {
        let head = rows.first()?;
        head.iter().position(|cell| wanted.contains(&cell.to_lowercase().replace(' ', "_").as_str()))
    };
    let labels = place(&[
        "label",
        "labels",
        "name",
        "names",
        "class_name",
        "display_name",
        "class",
        "classes",
        "category",
    ]);
    let numbers =
        place(&["index", "id", "idx", "class_id", "class_index", "label_id", "class_idx", "number"]);
    let has_head = labels.is_some() || numbers.is_some();
    let body = &rows[usize::from(has_head)..];
    let is_number = |column: usize| {
        !body.is_empty()
            && body.iter().all(|row| row.get(column).is_some_and(|cell| cell.parse::<usize>().is_ok()))
    };
    let columns = rows.first().map_or(0, Vec::len);
    let numbers = numbers
        .filter(|column| is_number(*column))
        .or_else(|| (0..columns).find(|column| columns > 1 && !has_head && is_number(*column)));
    let labels = labels.or_else(|| (0..columns).rev().find(|column| Some(*column) != numbers)).unwrap_or(0);
    let label = |row: &Vec<String>| row.get(labels).cloned().unwrap_or_default();
    let Some(numbers) = numbers else { return Ok((body.iter().map(label).collect(), false)) };
    let mut by_index = BTreeMap::new();
    for row in body {
        let index: usize =
            row[numbers].parse().with_context(|| format!("{:?} is not an index", row[numbers]))?;
        ensure!(by_index.insert(index, label(row)).is_none(), "index {index} is there twice");
    }
    // Some count from one.
    let first = by_index.keys().next().copied().unwrap_or(0).min(1);
    let gap = by_index.keys().enumerate().find(|(expected, index)| expected + first != **index);
    ensure!(gap.is_none(), "index {} is missing", gap.map_or(0, |(expected, _)| expected + first));
    Ok((by_index.into_values().collect(), true))
}

/// The cells of a line, with quotes around those that hold the separator.
fn cells(line: &str, separator: char) -> Vec<String> {
    let (mut cells, mut cell, mut quoted) = (Vec::new(), String::new(), false);
    let mut letters = line.trim_end().chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => cell.extend(letters.next()),
            '"' => quoted = !quoted,
            _ if letter == separator && !quoted => cells.push(std::mem::take(&mut cell).trim().to_owned()),
            _ => cell.push(letter),
        }
    }
    cells.push(cell.trim().to_owned());
    cells
}

/// A Python literal of dictionaries, lists, tuples, strings and numbers.
fn python(text: &str) -> Option<Value> {
    let mut rest = text;
    let value = python_value(&mut rest, 0)?;
    rest.trim().is_empty().then_some(value)
}

fn python_value(rest: &mut &str, depth: usize) -> Option<Value> {
    *rest = rest.trim_start();
    let first = rest.chars().next().filter(|_| depth < 16)?;
    match first {
        '{' => {
            let mut object = serde_json::Map::new();
            python_items(rest, '}', |rest| {
                let key = match python_value(rest, depth + 1)? {
                    Value::String(key) => key,
                    key @ Value::Number(_) => key.to_string(),
                    _ => return None,
                };
                *rest = rest.trim_start().strip_prefix(':')?;
                object.insert(key, python_value(rest, depth + 1)?);
                Some(())
            })?;
            Some(Value::Object(object))
        }
        '[' | '(' => {
            let mut list = Vec::new();
            python_items(rest, if first == '[' { ']' } else { ')' }, |rest| {
                list.push(python_value(rest, depth + 1)?);
                Some(())
            })?;
            Some(Value::Array(list))
        }
        '\'' | '"' => python_text(rest, first).map(Value::String),
        _ => {
            let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '-')).unwrap_or(rest.len());
            let number: i64 = rest[..end].parse().ok()?;
            *rest = &rest[end..];
            Some(Value::from(number))
        }
    }
}

fn python_items(rest: &mut &str, close: char, mut item: impl FnMut(&mut &str) -> Option<()>) -> Option<()> {
    *rest = &rest[1..];
    loop {
        *rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix(close) {
            *rest = after;
            return Some(());
        }
        item(rest)?;
        *rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix(',') {
            *rest = after;
        } else if !rest.starts_with(close) {
            return None;
        }
    }
}

fn python_text(rest: &mut &str, quote: char) -> Option<String> {
    let mut text = String::new();
    let mut letters = rest.char_indices().skip(1);
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => {
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
                *rest = &rest[at + letter.len_utf8()..];
                return Some(text);
            }
            _ => text.push(letter),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: &[&str]) {
        assert_eq!(parse(text, false).unwrap().0, expected, "{text}");
    }

    #[test]
    fn labels_are_lines_or_json_in_any_of_the_usual_forms() {
        check("cat\ndog, small\n", &["cat", "dog, small"]);
        check("\u{feff}cat\r\ndog\r\n\r\n", &["cat", "dog"]);
        check(r#"["cat", "dog"]"#, &["cat", "dog"]);
        check(r#"{"1": "dog", "0": "cat", "2": ["n01", "bird"]}"#, &["cat", "dog", "bird"]);
        check(r#"{"architectures": ["X"], "id2label": {"0": "red", "1": "blue"}}"#, &["red", "blue"]);
        check(r#"{"blue": 1, "red": 0}"#, &["red", "blue"]);
        check("0 cat\n1 dog\n", &["cat", "dog"]);
        check("0: cat\n1: dog\n", &["cat", "dog"]);
        check("n01440764 tench, Tinca tinca\nn01443537 goldfish\n", &["tench, Tinca tinca", "goldfish"]);
        check("n01440764\nn01443537\n", &["n01440764", "n01443537"]);
        check("2\n3\n5\n", &["2", "3", "5"]);
    }

    #[test]
    fn numbers_beside_labels_give_their_order_and_belong_to_them_where_they_tell_them_apart() {
        for text in [
            "2 bird\n0 cat\n1 dog\n",
            "bird\t2\ncat\t0\ndog\t1",
            "1 cat\n2 dog\n3 bird",
            "cat 0\ndog 1\nbird 2",
        ] {
            assert_eq!(
                parse(text, false).unwrap(),
                (["cat", "dog", "bird"].map(str::to_owned).to_vec(), true),
                "{text}"
            );
        }
        check("1 star\n2 stars\n3 stars", &["1 star", "2 stars", "3 stars"]);
        check("level 0\nlevel 1", &["level 0", "level 1"]);
        check("route 1\nalley 2", &["route 1", "alley 2"]);
        check("3 kings\n1 ring\n2 towers", &["3 kings", "1 ring", "2 towers"]);
    }

    #[test]
    fn quotes_around_every_label_go_off() {
        check("\"cat\"\n\"dog, small\"", &["cat", "dog, small"]);
        check("\"cat\"\ndog", &["\"cat\"", "dog"]);
    }

    #[test]
    fn a_python_literal_is_read_with_its_quotes() {
        check(
            r#"{0: 'red "wine"', 1: "green's", 2: 'it\'s', 3: 'gr\xfcn'}"#,
            &["red \"wine\"", "green's", "it's", "grün"],
        );
        check("['cat', 'dog',]", &["cat", "dog"]);
        assert!(parse("{0: 'cat', 2: 'dog'}", false).unwrap_err().to_string().contains("index 1 is missing"));
    }

    #[test]
    fn a_csv_has_a_column_of_labels_and_may_have_one_of_numbers() {
        for text in [
            "index,label\n1,dog\n0,cat\n",
            "label;id\ncat;0\ndog;1",
            "0,cat\n1,dog",
            "cat\ndog",
            "name\ncat\ndog",
        ] {
            assert_eq!(parse(text, true).unwrap().0, ["cat", "dog"], "{text}");
        }
        assert_eq!(parse("id,name\n1,\"tench, big\"\n2,x", true).unwrap().0, ["tench, big", "x"]);
        assert!(parse("id,name\n0,a\n2,b", true).is_err());
    }

    #[test]
    fn what_is_no_list_of_labels_is_refused_in_a_sentence() {
        for (text, expected) in [
            ("", "it is empty"),
            ("cat\n\ndog", "label 2 is empty"),
            (r#"{"0": "cat", "2": "dog"}"#, "index 1 is missing"),
            (r#"{"cat": 1}"#, "index 0 is missing"),
            (r#"{"cat": 0, "dog": 0}"#, "index 0 is there twice"),
            (r#"{"cat": "a"}"#, "not an index"),
            ("[1, 2]", "1 is not a label"),
        ] {
            let error = parse(text, false).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[\\[{('\"a-z0-9:,\\\\ \n}\\])]{0,60}", is_csv: bool) {
            let _read = parse(&text, is_csv);
        }
    }
}
