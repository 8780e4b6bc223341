//! The names of a model's outputs.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, bail, ensure};
use eirs_platform::settings::labels_beside;
use serde_json::Value;

/// Labels in the order of the outputs, and where they come from.
#[derive(Debug)]
pub(super) struct Labels {
    pub(super) names: Vec<String>,
    /// The file, or what stands for it.
    pub(super) source: String,
}

impl Labels {
    /// Reads the file of the settings, or else `labels.txt` or `labels.json` beside the model; `None` without either.
    pub(super) fn find(set: Option<&Path>, model: &Path) -> anyhow::Result<Option<Self>> {
        let Some(file) = set.map(Path::to_owned).or_else(|| labels_beside(model)) else { return Ok(None) };
        let source = format!("labels {}", file.display());
        let bytes = std::fs::read(&file).with_context(|| format!("{source}: cannot be read"))?;
        let text = String::from_utf8(bytes).ok().with_context(|| format!("{source}: is not UTF-8 text"))?;
        Ok(Some(Self {
            names: parse(&text).with_context(|| format!("{source}: is not a list of labels"))?,
            source,
        }))
    }

    /// Labels that are compiled in, one a line.
    pub(super) fn built_in(text: &str) -> Self {
        Self { names: text.lines().map(str::to_owned).collect(), source: "built-in labels".to_owned() }
    }

    /// The numbers from zero, for a model that came without names.
    pub(super) fn numbers(count: usize) -> Self {
        Self { names: (0..count).map(|index| index.to_string()).collect(), source: "no labels".to_owned() }
    }

    /// Refuses a list that does not fit the model.
    pub(super) fn check(&self, outputs: usize) -> anyhow::Result<()> {
        let labels = self.names.len();
        if labels == outputs {
            return Ok(());
        }
        let hint = match outputs.checked_signed_diff(labels) {
            Some(1) => {
                "; models from TensorFlow begin with a class `background`: if this is one, add it \
                as the first label"
            }
            Some(-1) => {
                "; only models from TensorFlow begin with a label `background`: if there is one, \
                remove it"
            }
            _ => "",
        };
        bail!("{}: has {labels} labels, but the model has {outputs} outputs{hint}", self.source)
    }
}

/// Text with one label a line, a JSON array, or a JSON object from index to label.
fn parse(text: &str) -> anyhow::Result<Vec<String>> {
    let text = text.trim_start_matches('\u{feff}').trim_end();
    ensure!(!text.is_empty(), "it is empty");
    let names = match text.as_bytes()[0] {
        b'[' => {
            serde_json::from_str::<Vec<Value>>(text)?.iter().map(name).collect::<anyhow::Result<Vec<_>>>()?
        }
        b'{' => {
            let mut by_index = BTreeMap::new();
            for (index, value) in serde_json::from_str::<serde_json::Map<String, Value>>(text)? {
                let number: usize =
                    index.parse().ok().with_context(|| format!("key {index:?} is not an index"))?;
                by_index.insert(number, name(&value)?);
            }
            let gap = by_index.keys().enumerate().find(|(expected, index)| expected != *index);
            ensure!(gap.is_none(), "index {} is missing", gap.map_or(0, |(expected, _)| expected));
            by_index.into_values().collect()
        }
        _ => text.lines().map(|line| line.trim().to_owned()).collect(),
    };
    match names.iter().position(String::is_empty) {
        Some(index) => bail!("label {} is empty", index + 1),
        None => Ok(names),
    }
}

/// A label is a string; Keras writes pairs of a WordNet id and a label.
fn name(value: &Value) -> anyhow::Result<String> {
    let label = value.as_array().and_then(|pair| pair.last()).unwrap_or(value);
    Ok(label.as_str().with_context(|| format!("{value} is not a label"))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn labels_are_lines_or_a_json_array_or_a_json_object() {
        check("cat\ndog, small\n", &["cat", "dog, small"]);
        check("\u{feff}cat\r\ndog\r\n\r\n", &["cat", "dog"]);
        check(r#"["cat", "dog"]"#, &["cat", "dog"]);
        check(r#"{"1": "dog", "0": "cat", "2": ["n01", "bird"]}"#, &["cat", "dog", "bird"]);
    }

    #[test]
    fn what_is_no_list_of_labels_is_refused_in_a_sentence() {
        for (text, expected) in [
            ("", "it is empty"),
            ("cat\n\ndog", "label 2 is empty"),
            (r#"{"0": "cat", "2": "dog"}"#, "index 1 is missing"),
            (r#"{"cat": 0}"#, "not an index"),
            ("[1, 2]", "1 is not a label"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_wrong_number_of_labels_names_both_and_hints_at_tensorflow() {
        let labels = Labels::numbers(1000);
        assert!(labels.check(1000).is_ok());
        let error = labels.check(1001).unwrap_err().to_string();
        assert!(
            error.contains("1000 labels") && error.contains("1001 outputs") && error.contains("add"),
            "{error}"
        );
        assert!(labels.check(999).unwrap_err().to_string().contains("remove"));
    }
}
