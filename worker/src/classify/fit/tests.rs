use eirs_platform::settings::{Layers, Scores};

use super::*;

#[test]
fn a_written_table_reads_back_as_the_same_settings() {
    let mut model = Model { path: Some("m.onnx".into()), scores: Some(Scores::Sigmoid), ..Model::default() };
    (NUMBERS[2].set)(&mut model);
    (SHAPES[4].set)(&mut model);
    (FILTERS[3].set)(&mut model);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("eirs.toml");
    std::fs::write(&file, table("default", &model).unwrap()).unwrap();
    let read = Layers::of(Some(&file), &[]).load().unwrap();
    assert_eq!(read.models["default"], model);
}

#[test]
fn the_order_of_the_labels_is_found_from_the_guesses() {
    let labels = ["ant", "bee", "cat"].map(str::to_owned);
    let trial = |pairs: &[(&str, &str)]| {
        let mut called = Called::new();
        for (right, best) in pairs {
            *called.entry((*right).to_owned()).or_default().entry((*best).to_owned()).or_default() += 1;
        }
        let right = pairs.iter().filter(|(right, best)| right == best).count();
        let what = String::new();
        Trial {
            what,
            right,
            images: pairs.len(),
            confidence: 0.0,
            likelihood: 0.0,
            called,
            model: Model::default(),
        }
    };
    let moved = trial(&[
        ("ant", "bee"),
        ("ant", "bee"),
        ("bee", "cat"),
        ("cat", "ant"),
        ("cat", "ant"),
        ("cat", "bee"),
    ]);
    assert_eq!(moved.other_order(&labels).unwrap(), ["cat", "ant", "bee"]);
    let fine = trial(&[("ant", "ant"), ("bee", "bee"), ("cat", "ant")]);
    assert_eq!(fine.other_order(&labels), None);
}

#[test]
fn labels_match_in_any_case_and_by_their_first_synonym() {
    assert!(is_same("Egyptian cat", "egyptian_cat") && is_same("tench, Tinca tinca", "tench"));
    assert!(!is_same("cat", "dog"));
}
