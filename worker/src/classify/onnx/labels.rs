//! The labels of a model, and their source.

mod forms;

use std::path::Path;

use anyhow::{Context, bail};
use eirs_platform::settings::labels_beside;

use self::forms::Form;
use super::graph::Graph;

/// The metadata keys under which Ultralytics, Paddle and others store labels.
const METADATA: [&str; 7] =
    ["names", "character", "labels", "classes", "class_names", "id2label", "label_names"];

/// Labels in the order of the outputs, with their source.
#[derive(Debug, Clone)]
pub(super) struct Labels {
    pub(super) names: Vec<String>,
    /// Whether each label had an explicit index.
    pub(super) indexed: bool,
    /// The file, or a description of another source.
    pub(super) source: String,
}

impl Labels {
    /// Returns the labels from the configured file, from a file beside the model, or from the model
    /// itself; `None` without any.
    pub(super) fn find(
        set: Option<&Path>,
        model: Option<&Path>,
        graph: Option<&Graph>,
    ) -> anyhow::Result<Option<Self>> {
        let file = set.map(Path::to_owned).or_else(|| labels_beside(model?));
        let Some(file) = file else {
            let found = graph.map_or(Ok(None), Self::within);
            return found.with_context(|| format!("model {}", model.unwrap_or(Path::new("")).display()));
        };
        let source = format!("labels {}", file.display());
        let bytes = std::fs::read(&file).with_context(|| format!("{source}: cannot be read"))?;
        let text = String::from_utf8(bytes).ok().with_context(|| format!("{source}: is not UTF-8 text"))?;
        let (names, indexed) = forms::parse(&text, Form::of(&file))
            .with_context(|| format!("{source}: is not a list of labels"))?;
        Ok(Some(Self { names, indexed, source }))
    }

    /// Returns the labels stored in the model. Unreadable text under a key for labels is an error,
    /// because numbers in place of labels would look correct.
    fn within(graph: &Graph) -> anyhow::Result<Option<Self>> {
        for key in METADATA {
            let Some(text) = graph.metadata.get(key).filter(|text| !is_nothing(text)) else { continue };
            let source = format!("`{key}` in the model's metadata");
            let (names, indexed) = forms::parse(text, Form::Metadata)
                .with_context(|| format!("{source} is not a list of labels; set labels to a file of them"))?;
            if names.len() > 1 {
                return Ok(Some(Self { names, indexed, source }));
            }
        }
        let source = "the classes of its last operator".to_owned();
        Ok(graph.classes().map(|names| Self { names, indexed: true, source }))
    }

    /// Returns the built-in labels, one per line.
    pub(super) fn built_in(text: &str) -> Self {
        let names = text.lines().map(str::to_owned).collect();
        Self { names, indexed: false, source: "built-in labels".to_owned() }
    }

    /// Returns the numbers from zero as labels, for a model without labels.
    pub(super) fn numbers(count: usize) -> Self {
        let names = (0..count).map(|index| index.to_string()).collect();
        Self { names, indexed: true, source: "no labels".to_owned() }
    }

    /// Adds or removes the class `background`, which TensorFlow's models for ImageNet have first,
    /// so that the labels match the number of outputs.
    pub(super) fn with_background(mut self, outputs: usize) -> Self {
        let is_background = |name: &String| name.eq_ignore_ascii_case("background");
        let has_it = self.names.first().is_some_and(is_background);
        if !has_it && (self.names.len(), outputs) == (1000, 1001) {
            self.names.insert(0, "background".to_owned());
        } else if has_it && self.names.len() == outputs + 1 {
            self.names.remove(0);
        }
        self
    }

    /// Returns the labels that a model gives with its scores, in its order. A list of labels in the
    /// settings must agree with them.
    pub(super) fn confirmed(own: &[String], set: Option<Self>) -> anyhow::Result<Self> {
        let source = "the model's own labels".to_owned();
        let Some(set) = set else { return Ok(Self { names: own.to_vec(), indexed: true, source }) };
        set.check(own.len())?;
        // Numbers are indexes into the list.
        let places: Option<Vec<usize>> = own.iter().map(|name| name.parse().ok()).collect();
        if let Some(places) = places.filter(|places| places.iter().all(|place| *place < set.names.len())) {
            let names = places.iter().map(|place| set.names[*place].clone()).collect();
            return Ok(Self { names, ..set });
        }
        if let Some(strange) = set.names.iter().find(|name| !own.contains(name)) {
            bail!(
                "{}: has {strange:?}, but the model names its labels itself: {}; leave labels out",
                set.source,
                own.join(", ")
            );
        }
        Ok(Self { names: own.to_vec(), indexed: true, source })
    }

    /// Refuses a list whose length does not match the model.
    pub(super) fn check(&self, outputs: usize) -> anyhow::Result<()> {
        let labels = self.names.len();
        // A single score may be the confidence of one of two labels.
        if labels == outputs || (outputs == 1 && labels <= 2) {
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

/// Returns whether the text under a key for labels is only their number, or empty in Python.
fn is_nothing(text: &str) -> bool {
    let text = text.trim();
    text.parse::<u32>().is_ok() || ["", "None", "null", "[]", "{}"].contains(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Labels {
        Labels {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            indexed: false,
            source: "labels x".to_owned(),
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

    #[test]
    fn labels_in_a_model_are_read_or_refused_but_never_ignored() {
        let within = |key: &str, text: &str| {
            let metadata = [(key.to_owned(), text.to_owned())].into();
            Labels::within(&Graph { metadata, ..Graph::default() })
        };
        assert_eq!(within("names", "{0: 'a', 1: 'b'}").unwrap().unwrap().names, ["a", "b"]);
        assert_eq!(within("classes", "a, b").unwrap().unwrap().names, ["a", "b"]);
        for nothing in ["1000", "None", "", "{}"] {
            assert!(within("classes", nothing).unwrap().is_none(), "{nothing}");
        }
        for text in ["{0: 'a', 2: 'b'}", "{0: 'a', 1: b}", "[\"a\", ", "labels.txt"] {
            let error = format!("{:#}", within("names", text).unwrap_err());
            assert!(error.contains("`names`") && error.contains("set labels"), "{text}: {error}");
        }
    }

    #[test]
    fn the_background_class_is_added_or_removed_to_match_the_outputs() {
        let full = Labels::numbers(1000).with_background(1001);
        assert_eq!((full.names.len(), full.names[0].as_str()), (1001, "background"));
        assert_eq!(full.with_background(1000).names[0], "0");
        assert_eq!(Labels::numbers(5).with_background(6).names.len(), 5, "only 1000 and 1001 differ by it");
    }

    #[test]
    fn configured_labels_must_agree_with_those_in_the_model() {
        let own = ["bright".to_owned(), "dark".to_owned()];
        assert_eq!(Labels::confirmed(&own, Some(list(&["dark", "bright"]))).unwrap().names, own);
        assert!(
            Labels::confirmed(&own, Some(list(&["a", "b"])))
                .unwrap_err()
                .to_string()
                .contains("leave labels out")
        );
        let numbers = ["0".to_owned(), "1".to_owned()];
        assert_eq!(Labels::confirmed(&numbers, Some(list(&["a", "b"]))).unwrap().names, ["a", "b"]);
        assert_eq!(Labels::confirmed(&numbers, None).unwrap().names, numbers);
    }
}
