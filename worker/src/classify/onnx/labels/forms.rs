//! The formats of label lists: lines, ImageNet's synsets, CSV, YAML, JSON of Keras, torch and
//! Hugging Face, Python literals.

mod csv;
mod lines;
mod literal;
mod structured;
mod yaml;

use std::path::Path;

use anyhow::{Context, bail, ensure};

/// The format of a text, as far as it is known beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Csv,
    Yaml,
    /// The metadata of a model, in which a list may be on one line.
    Metadata,
    /// Lines or a literal.
    Any,
}

impl Form {
    /// Returns the format for the extension of a file.
    pub(super) fn of(file: &Path) -> Self {
        let ending = file.extension().map(|ending| ending.to_string_lossy().to_lowercase());
        match ending.as_deref() {
            Some("csv" | "tsv") => Self::Csv,
            Some("yaml" | "yml") => Self::Yaml,
            _ => Self::Any,
        }
    }
}

/// Returns the labels in the order of the outputs, and whether each had an explicit index.
pub(super) fn parse(text: &str, form: Form) -> anyhow::Result<(Vec<String>, bool)> {
    let text = text.trim_start_matches('\u{feff}').trim_end();
    ensure!(!text.is_empty(), "it is empty");
    let (names, indexed) = match (form, text.trim_start().as_bytes()[0]) {
        (_, b'[' | b'{' | b'(') => structured::structured(&literal::literal(text)?)?,
        (Form::Csv, _) => csv::csv(text)?,
        (Form::Yaml, _) => yaml::yaml(text)?,
        (Form::Metadata, _) if !text.contains('\n') => (one_line(text)?, false),
        _ => lines::lines(text),
    };
    ensure!(!names.is_empty(), "it names no label");
    match names.iter().position(String::is_empty) {
        Some(index) => bail!("label {} is empty", index + 1),
        None => Ok((names, indexed)),
    }
}

/// Parses `cat, dog` or `cat;dog`.
fn one_line(text: &str) -> anyhow::Result<Vec<String>> {
    let separator = [';', ','].into_iter().find(|separator| text.contains(*separator));
    let separator = separator.with_context(|| {
        let start: String = text.chars().take(40).collect();
        format!("{start:?} is one word, and no list")
    })?;
    Ok(text.split(separator).map(|name| name.trim().to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: &[&str]) {
        assert_eq!(parse(text, Form::Any).unwrap().0, expected, "{text}");
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
    fn numbers_are_indexes_unless_labels_differ_only_by_them() {
        for text in [
            "2 bird\n0 cat\n1 dog\n",
            "bird\t2\ncat\t0\ndog\t1",
            "1 cat\n2 dog\n3 bird",
            "cat 0\ndog 1\nbird 2",
        ] {
            assert_eq!(
                parse(text, Form::Any).unwrap(),
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
    fn quotes_around_every_label_are_removed() {
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
        assert!(
            parse("{0: 'cat', 2: 'dog'}", Form::Any).unwrap_err().to_string().contains("index 1 is missing")
        );
    }

    #[test]
    fn a_csv_has_a_column_of_labels_and_optionally_one_of_indexes() {
        for text in [
            "index,label\n1,dog\n0,cat\n",
            "label;id\ncat;0\ndog;1",
            "0,cat\n1,dog",
            "cat\ndog",
            "name\ncat\ndog",
        ] {
            assert_eq!(parse(text, Form::Csv).unwrap().0, ["cat", "dog"], "{text}");
        }
        assert_eq!(parse("id,name\n1,\"tench, big\"\n2,x", Form::Csv).unwrap().0, ["tench, big", "x"]);
        assert!(parse("id,name\n0,a\n2,b", Form::Csv).is_err());
    }

    #[test]
    fn labels_are_found_under_the_keys_of_common_libraries() {
        for text in [
            r#"{"class_to_idx": {"dog": 1, "cat": 0}, "epoch": 3}"#,
            r#"{"idx_to_class": {"1": "dog", "0": "cat"}}"#,
            r#"{"class_names": ["cat", "dog"]}"#,
            r#"{"names": {"0": "cat", "1": "dog"}}"#,
            r#"{"labels": ["cat", "dog"], "imageSize": 224}"#,
            r#"{"label_map": {"cat": 0, "dog": 1}}"#,
            r#"{"label2id": {"cat": "0", "dog": "1"}}"#,
            r#"{"classes": {"Label": ["cat", "dog"]}, "format": "onnx"}"#,
            r#"{"categories": [{"id": 2, "name": "dog", "supercategory": "animal"}, {"id": 1, "name": "cat"}]}"#,
            r#"[{"index": 1, "label": "dog"}, {"index": 0, "label": "cat"}]"#,
            r#"[{"name": "cat", "label": 0}, {"name": "dog", "label": 1}]"#,
            r#"[{"id": "n02123045", "name": "cat"}, {"id": "n02084071", "name": "dog"}]"#,
            r#"[[1, "dog"], [0, "cat"]]"#,
            r#"[["cat", 0], ["dog", 1]]"#,
            r#"{"0": {"name": "cat"}, "1": {"name": "dog"}}"#,
            r#"{"0": ["n02123045", "cat"], "1": ["n02084071", "dog"]}"#,
        ] {
            check(text, &["cat", "dog"]);
        }
        check(r#"[["n01440764", "tench", "Tinca tinca"], "goldfish"]"#, &["tench, Tinca tinca", "goldfish"]);
        check(r#"{"0": ["tench", "Tinca tinca"], "1": ["goldfish"]}"#, &["tench, Tinca tinca", "goldfish"]);
    }

    #[test]
    fn for_numeric_labels_the_key_or_the_type_gives_the_direction() {
        check(r#"{"0": 1, "1": 0}"#, &["1", "0"]);
        check(r#"{"class_to_idx": {"7": 0, "3": 1}}"#, &["7", "3"]);
        check(r#"{"class_to_idx": {"1": "0", "0": "1"}}"#, &["1", "0"]);
        check(r#"{"id2label": {"0": 7, "1": 3}}"#, &["7", "3"]);
        check("{0: 7, 1: 3}", &["7", "3"]);
        // An unquoted YAML list `[no, yes]`, which Python parsed as booleans.
        check("{0: False, 1: True}", &["False", "True"]);
    }

    #[test]
    fn yaml_labels_are_taken_literally() {
        for text in [
            "train: images\nnc: 2\nnames:\n  0: cat\n  1: dog  # small\n",
            "names:\n- cat\n- 'dog'\nnc: 2",
            "names: ['cat', \"dog\"]  # both\nnc: 2",
            "nc: 2\nnames: [cat,\n  dog]\n",
            "names: {1: dog, 0: cat}",
            "---\n# labels\n- cat\n- dog",
            "class_to_idx:\n  dog: 1\n  cat: 0\n",
            "names:\n  \"1\": dog\n\n  \"0\": cat\npath: x\n",
        ] {
            assert_eq!(parse(text, Form::Yaml).unwrap().0, ["cat", "dog"], "{text}");
        }
        let text = "names:\n  0: no\n  1: it''s\n  2: 'it''s'\n  3: 42\n";
        assert_eq!(parse(text, Form::Yaml).unwrap().0, ["no", "it''s", "it's", "42"]);
        for (text, expected) in [
            ("nc: 2\ntrain: x\nval:\n", "is no label"),
            ("nc: 2\ntrain: x\n", "is not an index"),
            ("names: data.txt", "no list of labels"),
            ("names:\n  0: cat\n  2: dog", "index 1 is missing"),
            ("names:\n  0: cat\n  0: dog", "index 0 is there twice"),
            ("names:\n  - [a, b]", "is no label"),
            ("names:\n  0:\n    name: cat", "is no label"),
            ("names: &x [a, b]", "no list of labels"),
            ("names: [a, b", "cannot be read"),
        ] {
            let error = format!("{:#}", parse(text, Form::Yaml).unwrap_err());
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn the_metadata_of_a_model_may_have_its_labels_on_one_line() {
        let read = |text: &str| parse(text, Form::Metadata).map(|(names, _)| names);
        assert_eq!(read("cat, dog").unwrap(), ["cat", "dog"]);
        assert_eq!(read("cat\ndog").unwrap(), ["cat", "dog"]);
        assert!(read("imagenet").unwrap_err().to_string().contains("one word"));
    }

    #[test]
    fn csv_columns_are_found_by_their_headers_in_any_order() {
        for text in [
            "id,category,name\n0,animal,cat\n1,animal,dog",
            "name,supercategory,id\ndog,animal,2\ncat,animal,1",
            "Class Name,Label\ncat,0\ndog,1",
            "mid,display_name\n/m/01,cat\n/m/02,dog",
        ] {
            assert_eq!(parse(text, Form::Csv).unwrap().0, ["cat", "dog"], "{text}");
        }
        assert_eq!(parse("label\n3\n7", Form::Csv).unwrap().0, ["3", "7"]);
        assert_eq!(parse("index,label\n1,3\n0,7", Form::Csv).unwrap().0, ["7", "3"]);
        let error = parse("0,tench, Tinca tinca\n1,goldfish", Form::Csv).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("in quotes"), "{error}");
    }

    #[test]
    fn other_texts_are_refused_with_a_reason() {
        for (text, expected) in [
            ("", "it is empty"),
            ("cat\n\ndog", "label 2 is empty"),
            (r#"{"0": "cat", "2": "dog"}"#, "index 1 is missing"),
            (r#"{"cat": 1}"#, "index 0 is missing"),
            (r#"{"cat": 0, "dog": 0}"#, "index 0 is there twice"),
            (r#"{"cat": "a"}"#, "not an index"),
            ("[1, 2]", "1 is not a label"),
            (r#"{"0": "cat", "0": "dog"}"#, "index 0 is there twice"),
            (r#"{"cat": 0, "cat": 1}"#, "\"cat\" is there twice"),
            ("{0: 'cat', 0: 'dog'}", "index 0 is there twice"),
            (r#"{"0": "cat", "1": null}"#, "null is not a label"),
            (r#"[{"id": 0, "name": "cat"}, {"name": "dog"}]"#, "object 2 has no index"),
            (r#"[{"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}]"#, "index 2 is missing"),
            (r#"{"1": "cat", "2": "dog"}"#, "index 0 is missing"),
            (r#"{"names": []}"#, "names no label"),
            (r#"{"model": "x", "epochs": 3}"#, "`id2label`"),
        ] {
            let error = parse(text, Form::Any).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(
            text in "[\\[{('\"a-z0-9:,#\\-\\\\ \n}\\])]{0,60}",
            form in 0usize..4,
        ) {
            let _read = parse(&text, [Form::Csv, Form::Yaml, Form::Metadata, Form::Any][form]);
        }
    }
}
