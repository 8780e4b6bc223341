//! Models of many kinds, each of a few operators with results that can be computed by hand
//! (`testing/models/graphs.py` generates them): each engine must give the correct result, or an
//! error that says what to do.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy.toml allows them in tests, but not in what tests call"
)]

use std::{io::Cursor, path::PathBuf};

use eirs_platform::{
    job::Guess,
    settings::{Alpha, Augment, Engine, Filter, Model, Provider, ResizeMode, Scores, Size},
};
use eirs_worker::classify::{Image, fit, inspect, load};
use image::{ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};

/// A model of `worker/tests/models`, whose input is a pixel in [0, 1] and whose labels are red,
/// green and blue.
fn model(name: &str, labels: &[&str]) -> (tempfile::TempDir, Model) {
    let folder = tempfile::tempdir().unwrap();
    let source = PathBuf::from(format!("{}/tests/models/{name}.onnx", env!("CARGO_MANIFEST_DIR")));
    let path = folder.path().join("model.onnx");
    std::fs::copy(source, &path).unwrap();
    if !labels.is_empty() {
        std::fs::write(folder.path().join("labels.txt"), labels.join("\n")).unwrap();
    }
    (folder, Model { path: Some(path), divide_by: Some(255.0), ..Model::default() })
}

const COLOURS: [&str; 3] = ["red", "green", "blue"];

fn png(write: impl FnOnce(&mut Cursor<Vec<u8>>)) -> Image {
    let mut file = Cursor::new(Vec::new());
    write(&mut file);
    Image { name: "x.png".into(), bytes: file.into_inner().into() }
}

fn flat(colour: [u8; 3]) -> Image {
    png(|file| RgbImage::from_pixel(40, 30, Rgb(colour)).write_to(file, ImageFormat::Png).unwrap())
}

/// Mostly red: 0.8, 0.4, 0.2.
fn red() -> Image {
    flat([204, 102, 51])
}

fn is_here(engine: Engine) -> bool {
    match load(&Model { engine, ..Model::default() }) {
        Ok(_) => true,
        Err(error) if error.to_string().contains("no ONNX Runtime library") => {
            println!("skipped for ONNX Runtime: {error}");
            false
        }
        Err(error) => panic!("{error:#}"),
    }
}

fn guesses(model: &Model, image: &Image) -> Vec<Guess> {
    let loaded = load(model).unwrap_or_else(|error| panic!("{error:#}"));
    loaded.classifier().unwrap().classify(std::slice::from_ref(image)).remove(0).unwrap()
}

fn refusal(model: &Model) -> String {
    format!("{:#}", load(model).err().expect("a model that cannot be loaded"))
}

/// Compares the confidences of these labels on every available engine that can run the model.
fn check(model: &Model, engines: &[Engine], image: &Image, expected: &[(&str, f32)]) {
    for engine in engines.iter().copied().filter(|engine| is_here(*engine)) {
        let found = guesses(&Model { engine, ..model.clone() }, image);
        for (label, confidence) in expected {
            let guess = found.iter().find(|guess| guess.label == *label);
            let near = guess.is_some_and(|guess| (guess.confidence - confidence).abs() < 2e-3);
            assert!(near, "{engine:?}: {label} is not {confidence} in {found:?}");
        }
        let best = expected.iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
        assert_eq!(found[0].label, best.0, "{engine:?}: {found:?}");
    }
}

const BOTH: [Engine; 2] = [Engine::Rten, Engine::Onnxruntime];
const ORT: [Engine; 1] = [Engine::Onnxruntime];

/// exp of 0.8, 0.4 and 0.2 over their sum.
const SOFT: [(&str, f32); 3] = [("red", 0.4506), ("green", 0.3020), ("blue", 0.2473)];

#[test]
fn the_form_of_the_scores_is_detected() {
    for name in ["logits", "weighted", "softmax", "log_softmax", "negative_log", "percent", "bytes"] {
        let (_folder, model) = model(name, &COLOURS);
        check(&model, &BOTH, &red(), &SOFT);
    }
    for name in ["f16_output", "f64_output"] {
        let (_folder, model) = model(name, &COLOURS);
        check(&model, &ORT, &red(), &SOFT);
    }
    let (_folder, sigmoid) = model("sigmoid", &COLOURS);
    let each = [("red", 0.6900), ("green", 0.5987), ("blue", 0.5498)];
    check(&sigmoid, &BOTH, &red(), &each);
    let few = guesses(&Model { threshold: Some(0.59), engine: Engine::Rten, ..sigmoid.clone() }, &red());
    assert_eq!(few.iter().map(|guess| guess.label.as_str()).collect::<Vec<_>>(), ["red", "green"]);
    let none = guesses(&Model { threshold: Some(0.9), engine: Engine::Rten, ..sigmoid }, &red());
    assert_eq!((none.len(), none[0].label.as_str()), (1, "none"));
    let (_folder, logits) = model("logits", &COLOURS);
    check(&Model { scores: Some(Scores::Sigmoid), ..logits }, &BOTH, &red(), &each);
}

#[test]
fn selected_or_summed_confidences_remain_confidences() {
    let (_folder, part) = model("part", &["blue", "red"]);
    check(&part, &BOTH, &red(), &[("red", 0.4506), ("blue", 0.2473)]);
    let (_folder, groups) = model("groups", &["red", "other"]);
    check(&groups, &BOTH, &red(), &[("other", 0.5493), ("red", 0.4506)]);
}

#[test]
fn ambiguous_scores_are_refused_without_a_setting() {
    for (name, expected) in [("scaled", "computed of confidences (Softmax)"), ("distances", "distances")] {
        let (_folder, model) = model(name, &COLOURS);
        for engine in BOTH.into_iter().filter(|engine| is_here(*engine)) {
            let why = refusal(&Model { engine, ..model.clone() });
            assert!(why.contains(expected) && why.contains("set scores"), "{name}, {engine:?}: {why}");
            assert!(
                why.contains("its output `y`") && why.contains("model.onnx"),
                "{name}, {engine:?}: {why}"
            );
        }
        load(&Model { scores: Some(Scores::Logits), engine: Engine::Rten, ..model }).unwrap();
    }
}

#[test]
fn a_single_score_is_the_confidence_of_one_of_two_labels() {
    // The sigmoid of 4 * 0.8 - 4 * 0.2.
    for name in ["one_number", "one_logit"] {
        let (_folder, model) = model(name, &["red", "not red"]);
        check(&model, &BOTH, &red(), &[("red", 0.9168), ("not red", 0.0832)]);
    }
    let (_folder, keras) = model("one_number", &["cold", "warm"]);
    assert!(refusal(&keras).contains("set positive"), "{}", refusal(&keras));
    check(
        &Model { positive: Some("warm".into()), ..keras },
        &BOTH,
        &red(),
        &[("warm", 0.9168), ("cold", 0.0832)],
    );
}

#[test]
fn the_output_is_detected_or_configured() {
    let (_folder, two) = model("two_outputs", &COLOURS);
    assert!(refusal(&two).contains("set output to one of them"), "{}", refusal(&two));
    check(&Model { output: Some("y".into()), ..two.clone() }, &BOTH, &red(), &SOFT);
    assert!(refusal(&Model { output: Some("z".into()), ..two }).contains("there is no \"z\""));
    let (_folder, hidden) = model("hidden_and_logits", &[]);
    check(&hidden, &BOTH, &red(), &[("0", 0.4506), ("1", 0.3020), ("2", 0.2473)]);
}

#[test]
fn other_types_channels_and_axes_of_inputs_are_detected() {
    let (_folder, half) = model("f16_input", &COLOURS);
    check(&half, &ORT, &red(), &SOFT);
    let (_folder, bytes) = model("u8_nhwc", &COLOURS);
    check(&Model { divide_by: None, ..bytes }, &BOTH, &red(), &SOFT);
    let (_folder, grey) = model("grey", &["light", "dark"]);
    // Pillow's grey of 204, 102, 51 is 127.
    check(&grey, &BOTH, &red(), &[("light", 0.7302), ("dark", 0.2698)]);
    let (_folder, open) = model("open_nhwc", &COLOURS);
    assert!(refusal(&open).contains("set size"), "{}", refusal(&open));
    check(&Model { size: Some(Size::Side(20)), ..open }, &BOTH, &red(), &SOFT);
    let (_folder, rectangle) = model("rectangle", &COLOURS);
    check(&rectangle, &BOTH, &red(), &SOFT);
    let (_folder, list) = model("flat", &["light", "dark"]);
    check(&list, &BOTH, &flat([255; 3]), &[("light", 0.8808), ("dark", 0.1192)]);
    let (_folder, four) = model("batch_of_4", &COLOURS);
    check(&four, &BOTH, &red(), &SOFT);
    let (_folder, default) = model("default_input", &COLOURS);
    check(&default, &BOTH, &red(), &SOFT);
    let (_folder, two) = model("two_inputs", &COLOURS);
    assert!(refusal(&two).contains("has 2 inputs"), "{}", refusal(&two));

    let (_folder, rgba) = model("rgba", &["red", "green", "blue", "alpha"]);
    let half = png(|file| {
        RgbaImage::from_pixel(20, 20, Rgba([204, 102, 51, 51])).write_to(file, ImageFormat::Png).unwrap();
    });
    let rgba = Model { scores: Some(Scores::Probabilities), alpha: Alpha::Drop, ..rgba };
    check(&rgba, &BOTH, &half, &[("red", 0.8), ("green", 0.4), ("blue", 0.2), ("alpha", 0.2)]);
}

#[test]
fn labels_in_the_model_are_used() {
    let (_folder, names) = model("names", &[]);
    check(&names, &BOTH, &red(), &[("red \"wine\"", 0.4506), ("green's", 0.3020), ("blue", 0.2473)]);
    let (_folder, maps) = model("zipmap", &[]);
    check(&maps, &ORT, &red(), &[("c", 0.4506), ("a", 0.3020), ("b", 0.2473)]);
    let (folder, config) = model("logits", &[]);
    let text = r#"{"architectures": ["X"], "id2label": {"0": "red", "1": "green", "2": "blue"}}"#;
    std::fs::write(folder.path().join("config.json"), text).unwrap();
    check(&config, &BOTH, &red(), &SOFT);
}

#[test]
fn graphs_that_resemble_layer_normalization_or_quantization_are_computed_correctly() {
    for (name, expected) in [
        ("norm", [("red", 0.7743), ("green", 0.1558), ("blue", 0.0699)]),
        ("norm_reversed", [("red", 0.0587), ("green", 0.2915), ("blue", 0.6499)]),
        ("norm_cubic", [("red", 0.9941), ("green", 0.0055), ("blue", 0.0004)]),
    ] {
        let (_folder, model) = model(name, &COLOURS);
        check(&model, &BOTH, &red(), &expected);
    }
    // 0.8, 0.4 and 0.2 in steps of 0.125, and then of 0.3: 0.6, 0.3 and 0.3.
    let (_folder, model) = model("quantized_twice", &COLOURS);
    let model = Model { scores: Some(Scores::Probabilities), ..model };
    check(&model, &BOTH, &red(), &[("red", 0.6), ("green", 0.3), ("blue", 0.3)]);
}

#[test]
fn other_models_are_refused_in_a_sentence() {
    for (name, expected) in [
        ("detector", "no output is one score for each label"),
        ("embedding", "an embedding"),
        ("top_k", "the best scores in their order"),
        ("task_detect", "its task is \"detect\""),
    ] {
        let (_folder, model) = model(name, &[]);
        for engine in BOTH.into_iter().filter(|engine| is_here(*engine)) {
            let why = refusal(&Model { engine, ..model.clone() });
            assert!(why.contains(expected) && why.contains("model.onnx"), "{name}, {engine:?}: {why}");
        }
    }
}

#[test]
fn distances_of_two_classes_are_refused_where_they_do_not_match_the_labels() {
    for (name, expected) in [
        ("svm_of_two", "export it with probabilities"),
        ("linear_of_two", "export it with probabilities"),
        ("one_of_two", "positive to the second"),
    ] {
        let (_folder, model) = model(name, &[]);
        for engine in ORT.into_iter().filter(|engine| is_here(*engine)) {
            let why = refusal(&Model { engine, ..model.clone() });
            assert!(why.contains(expected), "{name}: {why}");
        }
    }
    // 0.6 is the red of `red` less its blue.
    let (_folder, model) = model("one_of_two", &["other", "red"]);
    let model = Model { positive: Some("red".to_owned()), ..model };
    check(&model, &ORT, &red(), &[("red", 0.6457), ("other", 0.3543)]);
}

#[test]
fn rten_does_not_get_models_that_it_computes_incorrectly() {
    let (_folder, old) = model("softmax_9", &COLOURS);
    check(&old, &ORT, &red(), &SOFT);
    let (_folder, matrix) = model("softmax_9_matrix", &COLOURS);
    check(&matrix, &BOTH, &red(), &SOFT);
    for (name, expected) in [
        ("softmax_9", "Softmax before opset 13"),
        ("conv_integer", "ConvInteger with padding"),
        ("arg_max", "equal values"),
        ("cast_to_bool", "Cast to booleans"),
        ("resize_half_pixel", "Resize to the nearest half pixel"),
        ("reduce_nothing", "ReduceL2 with noop_with_empty_axes"),
    ] {
        let (_folder, model) = model(name, &[]);
        let why = refusal(&Model { engine: Engine::Rten, ..model.clone() });
        assert!(why.contains(expected), "{name}: {why}");
        if is_here(Engine::Onnxruntime) {
            // One ends in ReduceL2, and needs the `scores` setting.
            let model = Model { scores: Some(Scores::Logits), ..model };
            assert!(load(&model).unwrap().engine().starts_with("onnxruntime"), "{name}");
        }
    }
}

#[test]
fn ultralytics_preprocessing_follows_the_file_unless_it_is_set() {
    let (_folder, model) = model("ultralytics", &[]);
    let bare = Model { divide_by: None, ..model.clone() };
    check(&bare, &BOTH, &red(), &SOFT);
    let steps = load(&bare).unwrap().describe().preprocessing;
    assert!(steps.contains("scaled to 16 pixels") && steps.contains("x / 255"), "{steps}");
    let set = Model { resize: Some(Size::Side(20)), ..bare };
    let steps = load(&set).unwrap().describe().preprocessing;
    assert!(steps.contains("scaled to 20 pixels") && steps.contains("x / 255"), "{steps}");
}

#[test]
fn auto_uses_the_engine_that_can_run_the_model_and_says_why() {
    if !is_here(Engine::Onnxruntime) {
        return;
    }
    let (_folder, new) = model("new_ir", &COLOURS);
    let why = refusal(&Model { engine: Engine::Onnxruntime, ..new.clone() });
    assert!(why.contains("IR version 99") && !why.contains("::") && !why.contains(".cc"), "{why}");
    let loaded = load(&new).unwrap();
    assert!(loaded.engine().starts_with("rten"), "{}", loaded.engine());
    let advice = loaded.describe().advice.unwrap();
    assert!(advice.contains("onnxruntime") && advice.contains("IR version 99"), "{advice}");
    check(&new, &[Engine::Auto], &red(), &SOFT);
    let (_folder, half) = model("f16_input", &COLOURS);
    assert!(load(&half).unwrap().engine().starts_with("onnxruntime"));
}

#[test]
fn a_provider_missing_in_the_library_is_refused_in_a_sentence() {
    if !is_here(Engine::Onnxruntime) {
        return;
    }
    for provider in [Provider::Cuda, Provider::CoreMl] {
        let why = refusal(&Model { provider, ..Model::default() });
        assert!(why.contains("was built without") && why.contains("set onnxruntime"), "{why}");
    }
    let (_folder, logits) = model("logits", &COLOURS);
    check(&Model { engine_threads: 2, memory_arena: false, ..logits }, &ORT, &red(), &SOFT);
}

#[test]
fn other_aspect_ratios_are_cropped_squashed_or_letterboxed() {
    // A quarter of red on the left, blue on the right.
    let sides = png(|file| {
        let colour = |x: u32, _| if x < 40 { Rgb([255, 0, 0]) } else { Rgb([0, 0, 255]) };
        RgbImage::from_fn(160, 80, colour).write_to(file, ImageFormat::Png).unwrap();
    });
    let (_folder, logits) = model("logits", &COLOURS);
    let plain = Model { scores: Some(Scores::Probabilities), filter: Some(Filter::Box), ..logits };
    check(&plain, &BOTH, &sides, &[("red", 0.0), ("blue", 1.0)]);
    let squash = Model { resize_mode: Some(ResizeMode::Squash), ..plain.clone() };
    check(&squash, &BOTH, &sides, &[("red", 0.25), ("blue", 0.75)]);
    let boxed =
        Model { resize_mode: Some(ResizeMode::Letterbox), pad_colour: Some([0, 255, 0]), ..plain.clone() };
    check(&boxed, &BOTH, &sides, &[("red", 0.125), ("green", 0.5), ("blue", 0.375)]);
    let jpeg = Model { jpeg_quality: Some(95), ..squash };
    let found = guesses(&Model { engine: Engine::Rten, ..jpeg }, &sides);
    assert!((found[0].confidence - 0.75).abs() < 0.05, "{found:?}");
}

#[test]
fn rotated_views_are_averaged() {
    let (_folder, logits) = model("logits", &COLOURS);
    for augment in [Augment::Flip, Augment::Rotate, Augment::FlipRotate] {
        check(&Model { augment, ..logits.clone() }, &BOTH, &red(), &SOFT);
    }
    let (_folder, rectangle) = model("rectangle", &COLOURS);
    check(&Model { augment: Augment::Flip, ..rectangle.clone() }, &BOTH, &red(), &SOFT);
    assert!(refusal(&Model { augment: Augment::Rotate, ..rectangle }).contains("cannot be turned"));
}

#[test]
fn both_engines_are_compared_on_generated_images() {
    if !is_here(Engine::Onnxruntime) {
        return;
    }
    let (_folder, logits) = model("logits", &COLOURS);
    let compared = inspect::engines::compare(&logits, &[]).unwrap();
    assert!(compared.agree() && compared.images.len() == 5, "{compared}");
    let (_folder, wrong) = model("softmax_9", &COLOURS);
    assert!(inspect::engines::compare(&wrong, &[red()]).unwrap_err().to_string().contains("Softmax"));
}

#[test]
fn the_preprocessing_of_a_model_is_found_by_experiment() {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/shapes/samples"));
    let known: Vec<fit::Known> =
        ["arrow_1.jpg", "bolt_0.jpg", "crescent_1.jpg", "ring_0.jpg", "spiral_0.jpg", "wave_1.jpg"]
            .into_iter()
            .map(|name| fit::Known {
                image: eirs_worker::classify::read_image(&folder.join(name)).unwrap(),
                label: name.split('_').next().unwrap().to_uppercase(),
            })
            .collect();
    let mut heard = 0;
    let wrong = Model { engine: Engine::Rten, divide_by: Some(1.0), ..Model::default() };
    let fitted = fit::fit(&wrong, &known, &mut |_, number, of| {
        heard += 1;
        assert!(number == heard && of >= number);
    })
    .unwrap();
    let best = &fitted.trials[0];
    assert_eq!((best.right, best.images, fitted.trials.len()), (6, 6, heard), "{}", best.what);
    assert_eq!(best.model.divide_by, Some(127.5), "{}", best.what);
    assert!(best.confidence > fitted.trials.last().unwrap().confidence);
    let strange = vec![fit::Known { label: "cow".into(), ..known[0].clone() }];
    let why = fit::fit(&wrong, &strange, &mut |_, _, _| {}).unwrap_err().to_string();
    assert!(why.contains("\"cow\"") && why.contains("circle"), "{why}");
}
