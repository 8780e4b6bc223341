use std::{fs, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::settings::{
    Alpha, Augment, Channels, Colour, Engine, Filter, Layers, Layout, PadPlace, Preset, Protocol, Provider,
    ResizeMode, Scores, Size,
};

fn version(model: &Model) -> String {
    of(model).unwrap()
}

fn written(folder: &Path, name: &str, content: &str) -> PathBuf {
    let file = folder.join(name);
    // Replaces the file, because two writes within one tick of the clock must have different
    // stamps.
    let beside = folder.join("beside");
    fs::write(&beside, content).unwrap();
    fs::rename(beside, &file).unwrap();
    file
}

/// Reads the settings of one model, as a program does.
fn read(table: &str) -> Model {
    let folder = tempfile::tempdir().unwrap();
    let file = written(folder.path(), "eirs.toml", table);
    Layers::of(Some(&file), &[]).load().unwrap().models.remove("default").unwrap()
}

/// Each key with another value than its default, and whether it changes the results of an ONNX
/// model.
fn changed() -> Vec<(&'static str, Model, bool)> {
    let model = Model::default;
    vec![
        ("classifier", Model { classifier: Classifier::Noop, ..model() }, true),
        ("engine", Model { engine: Engine::Rten, ..model() }, false),
        ("onnxruntime", Model { onnxruntime: Some("/lib/x.so".into()), ..model() }, false),
        ("provider", Model { provider: Provider::Cuda, ..model() }, false),
        ("engine_threads", Model { engine_threads: 2, ..model() }, false),
        ("memory_arena", Model { memory_arena: false, ..model() }, false),
        ("preset", Model { preset: Some(Preset::Caffe), ..model() }, true),
        ("weights", Model { weights: Some("ResNet18_Weights".into()), ..model() }, true),
        ("preset_file", Model { preset_file: Some("config.json".into()), ..model() }, false),
        ("size", Model { size: Some(Size::Side(96)), ..model() }, true),
        ("resize", Model { resize: Some(Size::Side(128)), ..model() }, true),
        ("resize_mode", Model { resize_mode: Some(ResizeMode::Squash), ..model() }, true),
        ("pad_colour", Model { pad_colour: Some([1; 3]), ..model() }, true),
        ("pad_place", Model { pad_place: Some(PadPlace::End), ..model() }, true),
        ("filter", Model { filter: Some(Filter::Box), ..model() }, true),
        ("antialias", Model { antialias: Some(false), ..model() }, true),
        ("jpeg_quality", Model { jpeg_quality: Some(75), ..model() }, true),
        ("exif", Model { exif: false, ..model() }, true),
        ("layout", Model { layout: Some(Layout::Nhwc), ..model() }, true),
        ("channels", Model { channels: Some(Channels::Bgr), ..model() }, true),
        ("divide_by", Model { divide_by: Some(255.0), ..model() }, true),
        ("mean", Model { mean: Some([1.0, 1.0, 1.000_001].into()), ..model() }, true),
        ("std", Model { std: Some([1.0, 2.0, 1.0].into()), ..model() }, true),
        ("output", Model { output: Some("y".into()), ..model() }, true),
        ("scores", Model { scores: Some(Scores::Percent), ..model() }, true),
        ("softmax", Model { softmax: Some(false), ..model() }, true),
        ("positive", Model { positive: Some("cat".into()), ..model() }, true),
        ("threshold", Model { threshold: Some(0.5), ..model() }, true),
        ("otherwise", Model { otherwise: "nothing".into(), ..model() }, true),
        ("augment", Model { augment: Augment::Flip, ..model() }, true),
        ("scaled_decode", Model { scaled_decode: false, ..model() }, true),
        ("alpha", Model { alpha: Alpha::White, ..model() }, true),
        ("colour", Model { colour: Colour::Srgb, ..model() }, true),
        ("batch", Model { batch: 4, ..model() }, false),
        ("check_image", Model { check_image: Some("cat.jpg".into()), ..model() }, false),
        ("check_label", Model { check_label: Some("cat".into()), ..model() }, false),
        ("command", Model { command: vec!["x".into()], ..model() }, false),
        ("protocol", Model { protocol: Protocol::Stream, ..model() }, false),
        ("env", Model { env: vec!["A=1".into()], ..model() }, false),
        ("script_socket", Model { script_socket: Some("/run/x".into()), ..model() }, false),
        ("timeout", Model { timeout: Duration::from_secs(7), ..model() }, false),
        ("max_pixels", Model { max_pixels: 1000, ..model() }, true),
        ("top", Model { top: 3, ..model() }, true),
        ("version", Model { version: Some("2".into()), ..model() }, true),
    ]
}

#[test]
fn exactly_the_keys_that_change_results_change_the_version() {
    let plain = version(&Model::default());
    for (key, model, decides) in changed() {
        assert_eq!(version(&model) != plain, decides, "{key}");
    }
}

#[test]
fn every_key_of_a_model_is_tested() {
    let Value::Object(all) = serde_json::to_value(Model::default()).unwrap() else { panic!() };
    let looked_at: Vec<_> = changed().into_iter().map(|(key, ..)| key).collect();
    for key in all.keys().filter(|key| !["path", "labels", "digest"].contains(&key.as_str())) {
        // A key that changes results only needs a line above; any other must also be in
        // `CHANGES_NOTHING`.
        assert!(looked_at.contains(&key.as_str()), "models.NAME.{key}: does it change results?");
    }
}

#[test]
fn the_content_of_model_weights_and_labels_counts_but_not_their_path() {
    let folder = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let model = |folder: &Path, labels: Option<PathBuf>| Model {
        path: Some(folder.join("m.onnx")),
        labels,
        ..Model::default()
    };
    written(folder.path(), "m.onnx", "one");
    let first = version(&model(folder.path(), None));
    written(other.path(), "m.onnx", "one");
    assert_eq!(version(&model(other.path(), None)), first);
    written(folder.path(), "m.onnx", "two");
    assert_ne!(version(&model(folder.path(), None)), first);
    written(folder.path(), "m.onnx", "one");
    assert_eq!(version(&model(folder.path(), None)), first);

    written(folder.path(), "labels.txt", "cat\ndog\n");
    let beside = version(&model(folder.path(), None));
    assert_ne!(beside, first, "labels found beside the model count as well");
    let named = written(other.path(), "names", "cat\ndog\n");
    assert_eq!(version(&model(folder.path(), Some(named))), beside);

    // A tensor of field 5 in a graph of field 7, with its data in `w`.
    let entry = b"\x0a\x08location\x12\x01w";
    let tensor = [&[0x6a, entry.len() as u8][..], entry].concat();
    let graph = [&[0x2a, tensor.len() as u8][..], &tensor].concat();
    let bytes = String::from_utf8([&[0x08, 0x08, 0x3a, graph.len() as u8][..], &graph].concat()).unwrap();
    written(other.path(), "m.onnx", &bytes);
    written(other.path(), "w", "1");
    let one = version(&model(other.path(), None));
    written(other.path(), "w", "2");
    assert_ne!(version(&model(other.path(), None)), one);
}

#[test]
fn the_labels_of_the_built_in_model_can_be_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let labels = written(folder.path(), "labels.txt", "a\nb\n");
    let other = Model { labels: Some(labels), ..Model::default() };
    assert_ne!(version(&other), version(&Model::default()));
}

#[test]
fn the_command_of_a_script_and_every_file_in_it_count() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| written(folder.path(), name, content).display().to_string();
    let script = |command: Vec<String>| Model { classifier: Classifier::Script, command, ..Model::default() };
    let (py, weights) = (file("classify.py", "print(1)"), file("w.bin", "1"));
    let command = vec!["sh".to_owned(), py.clone(), format!("--weights={weights}"), "--fast".to_owned()];
    let first = version(&script(command.clone()));
    assert_eq!(version(&script(command.clone())), first);
    assert_ne!(version(&script(command[..3].to_vec())), first, "an argument");
    assert_eq!(
        version(&Model { mean: Some([3.0; 3].into()), ..script(command.clone()) }),
        first,
        "a setting that scripts do not use"
    );
    assert_ne!(version(&Model { max_pixels: 7, ..script(command.clone()) }), first);
    assert_ne!(version(&Model { env: vec!["MODE=fast".into()], ..script(command.clone()) }), first);
    file("classify.py", "print(2)");
    let second = version(&script(command.clone()));
    assert_ne!(second, first, "the script");
    file("w.bin", "2");
    assert_ne!(version(&script(command)), second, "a file after an equals sign");
    let shell = |text: String| script(vec!["sh".to_owned(), "-c".to_owned(), text]);
    let log = file("log", "");
    let line = |file: &str| format!("umask 077; python3 '{file}' \"$1\" 2>>{log} > {log}");
    let third = version(&shell(line(&py)));
    file("log", "written by the script");
    assert_eq!(version(&shell(line(&py))), third, "what the script writes");
    file("classify.py", "print(3)");
    assert_ne!(version(&shell(line(&py))), third, "a script that a shell runs");
    let none = of(&script(vec!["no-such-program".into()])).unwrap_err();
    assert_eq!(
        none.to_string(),
        "command: \"no-such-program\" is not a program that can be run: it is not in the PATH"
    );
}

#[test]
fn equal_settings_in_other_notations_have_the_same_version() {
    let plain = version(&read("[models.default]\nmean = [1, 2, 3]\nsize = 64\ntop = 3\n"));
    for table in [
        "# A comment.\nmodels.default.top = 3\nmodels.default.size = 64\n\
         models.default.mean = [1.0, 2.0, 3.0]\n",
        "[models]\ndefault = { size = 0x40, mean = [ 1.00, 2e0, 3 ], top = 3, resize = 0 }\n",
        "[models.default]\nmean = [1, 2, 3]\nsize = 64\ntop = 3\nengine = 'rten'\n[web]\nwait = '3s'\n",
    ] {
        assert_eq!(version(&read(table)), plain, "{table}");
    }
}

#[test]
fn a_set_digest_is_the_version_regardless_of_files() {
    let model = Model { digest: Some("abc123".into()), path: Some("/nowhere".into()), ..Model::default() };
    assert_eq!(version(&model), "abc123");
}

#[test]
fn a_missing_model_or_label_file_is_named() {
    for model in [
        Model { path: Some("/nowhere/m.onnx".into()), ..Model::default() },
        Model { labels: Some("/nowhere/labels".into()), ..Model::default() },
    ] {
        let error = of(&model).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/") && error.contains(": cannot be read"), "{error}");
    }
}

proptest! {
    #[test]
    fn lists_of_numbers_have_the_same_version_only_if_they_are_equal(
        a in prop::array::uniform3(-300i16..300), b in prop::array::uniform3(-300i16..300)
    ) {
        let with = |mean: [i16; 3]| {
            version(&Model { mean: Some(mean.map(f32::from).into()), ..Model::default() })
        };
        prop_assert_eq!(with(a) == with(b), a == b);
        prop_assert!(is_version(&with(a)));
    }

    #[test]
    fn a_version_is_letters_and_digits(text in "\\PC{0,70}") {
        let good = (1..=64).contains(&text.len())
            && text.chars().all(|c| matches!(c, '0'..='9' | 'a'..='z'));
        prop_assert_eq!(is_version(&text), good);
    }
}
