//! Reads labels from parsed lists and objects of JSON, Python and YAML.

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};

use super::{lines::is_synset, literal::Literal};

/// The direction of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From index to label.
    Forward,
    /// From label to index.
    Reverse,
    Unknown,
}

/// The keys of objects that contain labels, in order of precedence.
const KEYS: [(&str, Way); 20] = [
    ("id2label", Way::Forward),
    ("label_names", Way::Unknown),
    ("names", Way::Unknown),
    ("class_names", Way::Unknown),
    ("classes", Way::Unknown),
    ("labels", Way::Unknown),
    // Lobe writes `{"classes": {"Label": [...]}}`.
    ("label", Way::Unknown),
    ("categories", Way::Unknown),
    ("label_map", Way::Unknown),
    ("label_list", Way::Unknown),
    ("idx_to_class", Way::Forward),
    ("idx2label", Way::Forward),
    ("index_to_name", Way::Forward),
    ("id_to_label", Way::Forward),
    ("class_to_idx", Way::Reverse),
    ("class_indices", Way::Reverse),
    ("class_to_index", Way::Reverse),
    ("label_to_idx", Way::Reverse),
    ("label_to_id", Way::Reverse),
    ("label2id", Way::Reverse),
];

/// The keys of the label and of the index in an object.
const NAMES: [&str; 7] = ["name", "label", "class_name", "display_name", "displayname", "class", "title"];
const INDEXES: [&str; 11] = [
    "id",
    "index",
    "idx",
    "class_id",
    "class_index",
    "class_idx",
    "label_id",
    "category_id",
    "label",
    "class",
    "value",
];

const RIGHT: &str = "right is a list of labels, an object from index to label or from label to index, or one \
                     of these under a key such as `names`, `classes` or `id2label`";

/// Returns whether labels are common under this key.
pub(super) fn is_key(key: &str) -> bool {
    KEYS.iter().any(|(known, _)| key.eq_ignore_ascii_case(known))
}

/// Returns the labels in the order of the outputs, and whether each had an explicit index.
pub(super) fn structured(value: &Literal) -> anyhow::Result<(Vec<String>, bool)> {
    let (names, indexed) = read(value, Way::Unknown)?;
    ensure!(!names.is_empty(), "it names no label; {RIGHT}");
    Ok((names, indexed))
}

fn read(value: &Literal, way: Way) -> anyhow::Result<(Vec<String>, bool)> {
    match value {
        Literal::List(list) => listed(list),
        Literal::Map(map) => {
            let of = |(key, way): &(&str, Way)| {
                let is_it = |name: &Literal| name.text().is_some_and(|name| name.eq_ignore_ascii_case(key));
                let mut inner = map.iter().filter(|(name, _)| is_it(name)).map(|(_, value)| value);
                inner
                    .find(|value| matches!(value, Literal::List(_) | Literal::Map(_)))
                    .map(|found| (found, *way))
            };
            match KEYS.iter().find_map(of) {
                Some((inner, way)) => read(inner, way),
                None => mapped(map, way),
            }
        }
        _ => bail!("it is neither a list nor an object; {RIGHT}"),
    }
}

/// Reads a list of labels, of objects with a label and an optional index, or of pairs of both.
fn listed(list: &[Literal]) -> anyhow::Result<(Vec<String>, bool)> {
    let pair = |item: &Literal| match item {
        Literal::List(pair) => match &pair[..] {
            [index @ Literal::Number(_), label @ Literal::Text(_)]
            | [label @ Literal::Text(_), index @ Literal::Number(_)] => {
                Some((index.index()?, label.text()?.to_owned()))
            }
            _ => None,
        },
        _ => None,
    };
    if let Some(pairs) = list.iter().map(pair).collect::<Option<Vec<_>>>().filter(|pairs| !pairs.is_empty()) {
        return Ok((in_order(pairs, false)?, true));
    }
    let names = list.iter().map(label).collect::<anyhow::Result<Vec<_>>>()?;
    let indexes: Vec<Option<usize>> = list.iter().map(index_of).collect();
    match indexes.iter().position(Option::is_none) {
        _ if indexes.iter().all(Option::is_none) => Ok((names, false)),
        Some(without) => bail!("object {} has no index, and others have one", without + 1),
        None => {
            let indexes = indexes.into_iter().flatten();
            Ok((in_order(indexes.zip(names), true)?, true))
        }
    }
}

/// Returns the index in an object.
fn index_of(object: &Literal) -> Option<usize> {
    let Literal::Map(fields) = object else { return None };
    INDEXES.iter().find_map(|key| field(fields, key)?.index())
}

fn field<'a>(fields: &'a [(Literal, Literal)], wanted: &str) -> Option<&'a Literal> {
    let is_it = |key: &Literal| key.text().is_some_and(|key| key.eq_ignore_ascii_case(wanted));
    fields.iter().find(|(key, _)| is_it(key)).map(|(_, value)| value)
}

fn is_number(value: &Literal) -> bool {
    matches!(value, Literal::Number(_))
}

/// Reads an object from index to label or from label to index. If both are possible, the key of the
/// object decides, or else the types: Keras writes labels as strings, also numeric ones, and
/// indexes as numbers.
fn mapped(map: &[(Literal, Literal)], way: Way) -> anyhow::Result<(Vec<String>, bool)> {
    let keys_are = map.iter().all(|(key, _)| key.index().is_some());
    let values_are = map.iter().all(|(_, value)| value.index().is_some());
    let is_reverse = match (keys_are, values_are) {
        (true, true) => match way {
            Way::Forward => false,
            Way::Reverse => true,
            Way::Unknown => {
                map.iter().any(|(key, _)| !is_number(key)) && map.iter().all(|(_, value)| is_number(value))
            }
        },
        (_, reverse) => reverse,
    };
    let entry = |(key, value): &(Literal, Literal)| {
        let (index, of) = if is_reverse { (value, key) } else { (key, value) };
        let place = index.index().with_context(|| format!("key {index} is not an index; {RIGHT}"))?;
        // In the place of a label, a number or a word is a label.
        let name = match of.scalar() {
            Some(scalar) => scalar.to_owned(),
            None => label(of)?,
        };
        Ok((place, name))
    };
    let entries = map.iter().map(entry).collect::<anyhow::Result<Vec<_>>>()?;
    if is_reverse {
        let mut labels: Vec<_> = entries.iter().map(|(_, name)| name).collect();
        labels.sort_unstable();
        let twice = labels.windows(2).find(|pair| pair[0] == pair[1]);
        ensure!(twice.is_none(), "label {:?} is there twice", twice.map_or("", |pair| pair[0]));
    }
    Ok((in_order(entries, false)?, true))
}

/// Reads a label, which is a string, a list or an object. In a list, Keras writes a WordNet synset
/// id first; others write several words.
fn label(value: &Literal) -> anyhow::Result<String> {
    let name = match value {
        Literal::Text(text) => Some(text.trim().to_owned()),
        Literal::List(words) => {
            let is_id = |word: &Literal| word.text().is_some_and(|text| is_synset(text) || is_short_id(text));
            let skipped = usize::from(words.len() > 1 && words.first().is_some_and(is_id));
            let words: Option<Vec<_>> = words[skipped..].iter().map(Literal::text).collect();
            words.filter(|words| !words.is_empty()).map(|words| words.join(", "))
        }
        Literal::Map(fields) => NAMES.iter().find_map(|key| field(fields, key)?.text()).map(str::to_owned),
        Literal::Number(_) | Literal::Word(_) => None,
    };
    name.with_context(|| format!("{value} is not a label; {RIGHT}"))
}

/// Returns whether this is a truncated synset id.
fn is_short_id(text: &str) -> bool {
    text.strip_prefix('n')
        .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

/// Returns the labels ordered by index, without gaps, from zero, or from one if `may_be_from_one`.
pub(super) fn in_order(
    entries: impl IntoIterator<Item = (usize, String)>,
    may_be_from_one: bool,
) -> anyhow::Result<Vec<String>> {
    let mut by_index = BTreeMap::new();
    for (index, name) in entries {
        ensure!(by_index.insert(index, name).is_none(), "index {index} is there twice");
    }
    let first = usize::from(may_be_from_one && by_index.keys().next() == Some(&1));
    let gap = by_index.keys().enumerate().find(|(expected, index)| expected + first != **index);
    ensure!(
        gap.is_none(),
        "index {} is missing; indexes must go from {first} to the last output",
        gap.map_or(0, |(expected, _)| expected + first)
    );
    Ok(by_index.into_values().collect())
}
