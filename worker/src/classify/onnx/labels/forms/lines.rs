//! Parses labels that are written one per line, with optional numbers or ImageNet synset ids.

use std::collections::{BTreeMap, BTreeSet};

/// Parses one label per line, optionally quoted. Removes an index before (`0 cat`) or after (`cat
/// 0`) each label, and synset ids (`n01440764 tench, Tinca tinca`).
pub(super) fn lines(text: &str) -> (Vec<String>, bool) {
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

/// Splits off the number before a label.
fn before(line: &str) -> Option<(&str, &str)> {
    let (number, rest) = line.split_at(line.find(|c: char| !c.is_ascii_digit())?);
    let label = rest.trim_start_matches([':', ',', ';', '.', ')', '\t', ' ']);
    (label.len() < rest.len()).then_some((number, label))
}

/// Splits off the number after a label.
fn after(line: &str) -> Option<(&str, &str)> {
    let (label, number) = line.rsplit_once([':', ',', ';', '\t', ' '])?;
    Some((number, label.trim_end_matches([':', ',', ';', '\t', ' '])))
}

/// Returns the labels by index: from zero in any order, or from one in that order if
/// `may_be_from_one`. If two labels were equal without their numbers, the numbers are part of the
/// labels (`1 star`, `2 stars`, `3 stars`).
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
        // A number with leading zeros is part of a name.
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

pub(super) fn is_synset(id: &str) -> bool {
    id.len() == 9 && id.starts_with('n') && id[1..].bytes().all(|byte| byte.is_ascii_digit())
}
