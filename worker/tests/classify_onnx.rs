//! Models of a few bytes, written here, with results that can be computed by hand; and the built-in
//! model.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy.toml allows them in tests, but not in what tests call"
)]

use std::{io::Cursor, path::PathBuf};

use eirs_platform::{
    job::Guess,
    settings::{Channels, Engine, Layout, Model, Size},
};
use eirs_worker::classify::{Failure, Image, bare_loop, inspect, load, read_image};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

use onnx_file::{Op, model_file};

/// Writes ONNX files with the needed fields of onnx.proto3.
mod onnx_file {
    pub(crate) enum Op {
        /// The mean of each channel of NCHW, as N x C x 1 x 1.
        Means,
        /// The mean of each channel of NHWC, as N x C.
        MeansNhwc,
        /// The logarithm of the means: NaN if they are negative.
        LogMeans,
        Unknown,
    }

    /// A dimension: fixed, or open with a name.
    pub(crate) type Side = Result<u64, &'static str>;

    pub(crate) fn model_file(op: Op, inputs: &[&[Side]]) -> Vec<u8> {
        let nodes = match op {
            Op::Means => vec![node("GlobalAveragePool", "in0", "out", &[])],
            Op::MeansNhwc => vec![node("ReduceMean", "in0", "out", &[1, 2])],
            Op::LogMeans => {
                vec![node("GlobalAveragePool", "in0", "mid", &[]), node("Log", "mid", "out", &[])]
            }
            Op::Unknown => vec![node("NoSuchOperator", "in0", "out", &[])],
        };
        let mut graph: Vec<u8> = nodes.iter().flat_map(|node| bytes(1, node)).collect();
        graph.extend(bytes(2, b"test"));
        for (index, shape) in inputs.iter().enumerate() {
            graph.extend(bytes(11, &value(&format!("in{index}"), shape)));
        }
        graph.extend(bytes(12, &value("out", &[])));
        let opset = [bytes(1, b""), number(2, 13)].concat();
        [number(1, 8), bytes(7, &graph), bytes(8, &opset)].concat()
    }

    /// Encodes a metadata entry, to be appended to the model.
    pub(crate) fn metadata(key: &str, value: &str) -> Vec<u8> {
        bytes(14, &[bytes(1, key.as_bytes()), bytes(2, value.as_bytes())].concat())
    }

    fn node(op: &str, input: &str, output: &str, axes: &[u64]) -> Vec<u8> {
        let mut node =
            [bytes(1, input.as_bytes()), bytes(2, output.as_bytes()), bytes(4, op.as_bytes())].concat();
        if !axes.is_empty() {
            let list: Vec<u8> = axes.iter().flat_map(|axis| number(8, *axis)).collect();
            node.extend(bytes(5, &[bytes(1, b"axes"), list, number(20, 7)].concat()));
            node.extend(bytes(5, &[bytes(1, b"keepdims"), number(3, 0), number(20, 2)].concat()));
        }
        node
    }

    fn value(name: &str, shape: &[Side]) -> Vec<u8> {
        let dimensions: Vec<u8> = shape
            .iter()
            .flat_map(|side| {
                bytes(
                    1,
                    &match side {
                        Ok(fixed) => number(1, *fixed),
                        Err(open) => bytes(2, open.as_bytes()),
                    },
                )
            })
            .collect();
        let shape = if shape.is_empty() { Vec::new() } else { bytes(2, &dimensions) };
        let tensor = [number(1, 1), shape].concat();
        [bytes(1, name.as_bytes()), bytes(2, &bytes(1, &tensor))].concat()
    }

    fn number(field: u64, value: u64) -> Vec<u8> {
        [varint(field << 3), varint(value)].concat()
    }

    fn bytes(field: u64, value: &[u8]) -> Vec<u8> {
        [varint(field << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
    }

    fn varint(mut value: u64) -> Vec<u8> {
        let mut out = Vec::new();
        while value > 0x7f {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
        out
    }
}

const NCHW: &[onnx_file::Side] = &[Err("N"), Ok(3), Ok(8), Ok(8)];

/// A folder with a model file, and settings that return the output of the model unchanged.
fn settings(op: Op, inputs: &[&[onnx_file::Side]]) -> (tempfile::TempDir, Model) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, model_file(op, inputs)).unwrap();
    let model = Model {
        path: Some(path),
        engine: Engine::Rten,
        softmax: Some(false),
        divide_by: Some(255.0),
        mean: Some([0.0].into()),
        ..Model::default()
    };
    (folder, model)
}

/// The available engines.
fn engines() -> Vec<Engine> {
    let there = load(&Model { engine: Engine::Onnxruntime, ..Model::default() });
    match there {
        Ok(_) => vec![Engine::Rten, Engine::Onnxruntime],
        Err(error) if error.to_string().contains("no ONNX Runtime library") => {
            println!("skipped for ONNX Runtime: {error}");
            vec![Engine::Rten]
        }
        Err(error) => panic!("{error:#}"),
    }
}

fn flat(colour: [u8; 3]) -> Image {
    let mut file = Cursor::new(Vec::new());
    DynamicImage::ImageRgb8(RgbImage::from_pixel(20, 16, Rgb(colour)))
        .write_to(&mut file, ImageFormat::Png)
        .unwrap();
    Image { name: format!("{colour:?}.png"), bytes: file.into_inner().into() }
}

/// The confidences of the labels 0, 1 and 2 for each image.
fn means(model: &Model, images: &[Image]) -> Vec<[f32; 3]> {
    let answers = load(model).unwrap().classifier().unwrap().classify(images);
    let by_label = |answer: Result<Vec<Guess>, Failure>| {
        let guesses = answer.unwrap();
        ["0", "1", "2"].map(|label| guesses.iter().find(|guess| guess.label == label).unwrap().confidence)
    };
    answers.into_iter().map(by_label).collect()
}

fn check(model: &Model, expected: [f32; 3]) {
    for engine in engines() {
        let found = means(&Model { engine, ..model.clone() }, &[flat([200, 100, 50])])[0];
        let near = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(near, "{engine:?}: {found:?}, not {expected:?}");
    }
}

fn refusal(model: &Model) -> String {
    format!("{:#}", load(model).err().expect("a model that cannot be loaded"))
}

#[test]
fn a_pixel_is_divided_then_reduced_by_mean_then_divided_by_std() {
    let (_folder, model) = settings(Op::Means, &[NCHW]);
    check(&model, [200.0, 100.0, 50.0].map(|value| value / 255.0));
    let scaled = Model {
        divide_by: Some(250.0),
        mean: Some([0.5, 0.25, 0.125].into()),
        std: Some([0.5, 1.0, 2.0].into()),
        ..model
    };
    check(&scaled, [0.6, 0.15, 0.0375]);
}

#[test]
fn bgr_reverses_the_channels_and_mean_and_std_follow_the_model() {
    let (_folder, model) = settings(Op::Means, &[NCHW]);
    let mean = Some([0.1, 0.2, 0.3].into());
    let bgr = Model { channels: Some(Channels::Bgr), divide_by: Some(250.0), mean, ..model };
    check(&bgr, [0.1, 0.2, 0.5]);
}

#[test]
fn the_channels_may_come_last() {
    let (_folder, model) = settings(Op::MeansNhwc, &[&[Err("N"), Ok(8), Ok(8), Ok(3)]]);
    check(&model, [200.0, 100.0, 50.0].map(|value| value / 255.0));
    let wrong = Model { layout: Some(Layout::Nchw), ..model };
    assert!(refusal(&wrong).contains("set layout = \"nhwc\""), "{}", refusal(&wrong));
}

#[test]
fn every_image_of_a_batch_gets_its_own_result_for_any_batch_size() {
    let colours = [[10, 20, 30], [40, 50, 60], [70, 80, 90], [100, 110, 120], [130, 140, 150]];
    for (takes, batch) in [(Err("N"), 1), (Err("N"), 3), (Err("N"), 8), (Ok(1), 8), (Ok(4), 1)] {
        let (_folder, model) = settings(Op::Means, &[&[takes, Ok(3), Ok(8), Ok(8)]]);
        for engine in engines() {
            let found = means(&Model { engine, batch, ..model.clone() }, &colours.map(flat));
            let levels: Vec<_> =
                found.iter().map(|means| means.map(|mean| (mean * 255.0).round() as u8)).collect();
            assert_eq!(levels, colours, "{takes:?}, {batch}, {engine:?}");
        }
    }
}

#[test]
fn an_unreadable_image_does_not_disturb_its_neighbours() {
    let (_folder, model) = settings(Op::Means, &[NCHW]);
    let broken = Image { name: "text.jpg".into(), bytes: b"hello".as_slice().into() };
    let images = [broken.clone(), flat([1, 2, 3]), broken.clone(), flat([4, 5, 6]), broken];
    for batch in [1, 5] {
        let answers =
            load(&Model { batch, ..model.clone() }).unwrap().classifier().unwrap().classify(&images);
        let best: Vec<_> = answers
            .iter()
            .map(|answer| answer.as_ref().ok().map(|top| (top[0].confidence * 255.0).round()))
            .collect();
        assert_eq!(best, [None, Some(3.0), None, Some(6.0), None]);
        let unread = "not an image of a type that EIRS reads";
        assert!(matches!(&answers[0], Err(Failure::Rejected(why)) if why.contains(unread)));
    }
}

#[test]
fn guesses_are_best_first_and_at_most_top() {
    let (_folder, model) = settings(Op::Means, &[NCHW]);
    let model = Model { softmax: Some(true), divide_by: Some(50.0), top: 2, ..model };
    let top = load(&model).unwrap().classifier().unwrap().classify(&[flat([0, 100, 50])]).remove(0).unwrap();
    // exp(2), exp(1) and exp(0), over their sum.
    assert_eq!(top.iter().map(|guess| guess.label.as_str()).collect::<Vec<_>>(), ["1", "2"]);
    assert!(
        (top[0].confidence - 0.6652).abs() < 1e-3 && (top[1].confidence - 0.2447).abs() < 1e-3,
        "{top:?}"
    );
}

#[test]
fn an_output_of_nan_is_a_failure() {
    let (_folder, model) = settings(Op::LogMeans, &[NCHW]);
    for engine in engines() {
        let model = Model { mean: Some([150.0].into()), engine, ..model.clone() };
        let answer = load(&model).unwrap().classifier().unwrap().classify(&[flat([9, 9, 9])]).remove(0);
        assert!(matches!(&answer, Err(Failure::Failed(why)) if why.contains("NaN")), "{answer:?}");
    }
}

#[test]
fn a_model_that_leaves_its_size_open_needs_the_setting() {
    let (_folder, model) = settings(Op::Means, &[&[Err("N"), Ok(3), Err("H"), Err("W")]]);
    assert!(refusal(&model).contains("set size"), "{}", refusal(&model));
    check(&Model { size: Some(Size::Side(12)), ..model }, [200.0, 100.0, 50.0].map(|value| value / 255.0));
}

#[test]
fn an_unusable_model_is_refused_in_a_sentence_with_its_name() {
    let cases: Vec<(Op, Vec<&[onnx_file::Side]>, &str)> = vec![
        (Op::Unknown, vec![NCHW], "NoSuchOperator"),
        (Op::Means, vec![&[Ok(1), Ok(2), Ok(8), Ok(8)]], "has 2 channels"),
        (Op::Means, vec![&[Ok(1), Ok(3), Ok(8), Ok(8), Ok(8)]], "is not images"),
        (Op::Means, vec![NCHW, NCHW], "2 inputs"),
    ];
    for (op, inputs, expected) in cases {
        let (_folder, model) = settings(op, &inputs);
        for engine in engines() {
            let why = refusal(&Model { engine, ..model.clone() });
            assert!(why.contains(expected) && why.contains("model.onnx"), "{engine:?}, {expected}: {why}");
        }
    }
    let (_folder, model) = settings(Op::Means, &[NCHW]);
    assert!(refusal(&Model { size: Some(Size::Side(9)), ..model.clone() }).contains("size is set to 9"));
    let small = Model { resize: Some(Size::Side(7)), ..model };
    assert!(refusal(&small).contains("resize: 7 is less than the 8 pixels"), "{}", refusal(&small));
}

#[test]
fn a_file_that_is_not_a_model_is_refused_in_a_sentence_with_its_name() {
    let (folder, model) = settings(Op::Means, &[NCHW]);
    let path = folder.path().join("other.onnx");
    let model = Model { path: Some(path.clone()), ..model };
    for engine in engines() {
        let why = |bytes: Option<&[u8]>| {
            let _ = std::fs::remove_file(&path);
            bytes.inspect(|bytes| std::fs::write(&path, bytes).unwrap());
            refusal(&Model { engine, ..model.clone() })
        };
        let files: [(Option<&[u8]>, &str); 6] = [
            (None, "cannot be read"),
            (Some(b""), "not an ONNX model"),
            (Some(b"<html>404</html>"), "not an ONNX model"),
            (Some(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
            (Some(b"\x08\x08\xff\xff\xff\xff\xff\xff\xff"), "model"),
            (Some(&model_file(Op::Means, &[NCHW])[..60]), "model"),
        ];
        for (bytes, expected) in files {
            let why = why(bytes);
            assert!(why.contains(expected) && why.contains("other.onnx"), "{engine:?}, {expected}: {why}");
        }
    }
}

#[test]
fn labels_come_from_the_setting_or_from_a_file_beside_the_model() {
    let (folder, model) = settings(Op::Means, &[NCHW]);
    let best = |model: &Model| {
        load(model)
            .unwrap()
            .classifier()
            .unwrap()
            .classify(&[flat([9, 99, 9])])
            .remove(0)
            .unwrap()
            .remove(0)
            .label
    };
    assert_eq!(best(&model), "1");
    std::fs::write(folder.path().join("labels.json"), r#"{"0": "red", "1": "green", "2": "blue"}"#).unwrap();
    assert_eq!(best(&model), "green");
    let other = folder.path().join("names.txt");
    std::fs::write(&other, "rot\ngr\u{fc}n\nblau\n").unwrap();
    let model = Model { labels: Some(other.clone()), ..model };
    assert_eq!(best(&model), "gr\u{fc}n");
    std::fs::write(&other, "grey\nred\ngreen\nblue\n").unwrap();
    let why = refusal(&model);
    assert!(why.contains("4 labels") && why.contains("3 outputs") && why.contains("names.txt"), "{why}");
}

#[test]
fn unreadable_labels_in_the_model_are_refused_unless_labels_is_set() {
    let (folder, model) = settings(Op::Means, &[NCHW]);
    let file = model.path.clone().unwrap();
    let bare = std::fs::read(&file).unwrap();
    let with = |value: &str| {
        std::fs::write(&file, [bare.clone(), onnx_file::metadata("names", value)].concat()).unwrap();
    };
    for unreadable in ["{0: 'a', 1: 'b', 3: 'c'}", "{0: 'a', 1: b, 2: c}", "some"] {
        with(unreadable);
        let why = refusal(&model);
        let names_all = why.contains("model.onnx") && why.contains("`names`") && why.contains("set labels");
        assert!(names_all, "{unreadable}: {why}");
    }
    with("{0: 'a', 1: 'b'}");
    let why = refusal(&model);
    assert!(why.contains("`names`") && why.contains("2 labels") && why.contains("3 outputs"), "{why}");
    with("some");
    std::fs::write(folder.path().join("labels.txt"), "red\ngreen\nblue").unwrap();
    assert!(load(&model).is_ok());
}

#[test]
fn a_model_that_does_not_recognise_its_check_image_is_refused() {
    let (folder, model) = settings(Op::Means, &[NCHW]);
    let image = folder.path().join("green.png");
    std::fs::write(&image, flat([9, 99, 9]).bytes).unwrap();
    let with = |label: &str| Model {
        check_image: Some(image.clone()),
        check_label: Some(label.to_owned()),
        ..model.clone()
    };
    assert!(load(&with("1")).is_ok());
    let why = refusal(&with("2"));
    assert!(why.contains("green.png") && why.contains("\"1\"") && why.contains("\"2\""), "{why}");
}

#[test]
fn threads_that_share_a_model_give_identical_results() {
    for engine in [Engine::Onnxruntime, Engine::Rten] {
        let Ok(loaded) = load(&Model { engine, top: 12, ..Model::default() }) else {
            println!("skipped: {engine:?} is not here");
            continue;
        };
        let images: Vec<_> = (0..24u8)
            .map(|n| {
                let pixels =
                    RgbImage::from_fn(90, 70, |x, y| Rgb([x as u8 ^ n, (y as u8).wrapping_mul(n), n * 10]));
                let mut file = Cursor::new(Vec::new());
                pixels.write_to(&mut file, ImageFormat::Png).unwrap();
                Image { name: format!("{n}.png"), bytes: file.into_inner().into() }
            })
            .collect();
        let expected = loaded.classifier().unwrap().classify(&images);
        assert!(expected.iter().all(Result::is_ok), "{expected:?}");
        std::thread::scope(|scope| {
            for offset in 0..8 {
                let (loaded, images, expected) = (&loaded, &images, &expected);
                scope.spawn(move || {
                    let mut classifier = loaded.classifier().unwrap();
                    for index in (0..images.len() * 10).map(|n| (n + offset * 3) % images.len()) {
                        let answer = classifier.classify(&images[index..=index]).remove(0);
                        assert_eq!(answer, expected[index], "{engine:?}, image {index}");
                    }
                });
            }
        });
    }
}

#[test]
fn without_the_library_auto_uses_rten_and_onnxruntime_fails() {
    let text = tempfile::NamedTempFile::new().unwrap();
    let model = |engine| Model { engine, onnxruntime: Some(text.path().to_owned()), ..Model::default() };
    let why = refusal(&model(Engine::Onnxruntime));
    assert!(why.contains(&text.path().display().to_string()), "{why}");
    let loaded = load(&model(Engine::Auto)).unwrap();
    assert!(loaded.engine().starts_with("rten"), "{}", loaded.engine());
    assert!(loaded.describe().advice.unwrap().contains("ONNX Runtime"));
}

/// Images of the shapes that the built-in model knows, with their labels.
fn samples() -> Vec<(Image, String)> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/shapes/samples"));
    let list = std::fs::read_to_string(folder.join("labels.csv")).unwrap();
    let pairs = list.lines().skip(1).filter_map(|line| line.split_once(','));
    pairs.map(|(file, label)| (read_image(&folder.join(file)).unwrap(), label.trim().to_owned())).collect()
}

#[test]
fn the_built_in_model_labels_its_samples_alike_on_both_engines() {
    let (images, labels): (Vec<_>, Vec<_>) = samples().into_iter().unzip();
    let answers: Vec<Vec<_>> = engines()
        .into_iter()
        .map(|engine| {
            let loaded = load(&Model { engine, ..Model::default() }).unwrap();
            loaded.classifier().unwrap().classify(&images).into_iter().map(Result::unwrap).collect()
        })
        .collect();
    let right = answers[0].iter().zip(&labels).filter(|(top, label)| top[0].label == **label).count();
    assert!(right * 10 >= labels.len() * 9, "{right} of {}", labels.len());
    for engine in &answers[1..] {
        for (one, other) in answers[0].iter().zip(engine) {
            assert_eq!(one[0].label, other[0].label);
            assert!((one[0].confidence - other[0].confidence).abs() < 1e-3, "{one:?}, {other:?}");
        }
    }
}

#[test]
fn the_report_shows_the_model_its_result_and_hints() {
    let (image, label) = samples().remove(0);
    let report = inspect::check(&Model { engine: Engine::Rten, ..Model::default() }, Some(&image)).unwrap();
    let text = report.to_string();
    for part in ["built-in", "rten", "64 x 64", "circle, ring", &image.name, &label] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(serde_json::to_value(&report).unwrap()["answer"]["top"][0]["label"] == label.as_str());

    let (_folder, model) = settings(Op::Means, &[NCHW]);
    let hints = |model: &Model, colour| inspect::check(model, Some(&flat(colour))).unwrap().hints;
    let beyond = Model { divide_by: Some(1.0), ..model.clone() };
    let answer = inspect::check(&beyond, Some(&flat([9, 9, 9]))).unwrap().answer.unwrap();
    assert!(answer.failure.unwrap().contains("set scores"));
    let sums_to_one = Model { divide_by: Some(10.0), softmax: Some(true), ..model };
    assert!(hints(&sums_to_one, [7, 2, 1])[0].contains("scores = \"probabilities\""));
}

#[test]
fn the_plain_loop_classifies_every_image_repeatedly() {
    let (_folder, model) = settings(Op::Means, &[NCHW]);
    let images =
        [flat([1, 2, 3]), Image { name: "bad".into(), bytes: b"bad".as_slice().into() }, flat([3, 2, 1])];
    for batch in [1, 2] {
        let result = bare_loop(&Model { batch, ..model.clone() }, &images, 2, 5).unwrap();
        assert_eq!((result.images, result.failed), (15, 5));
        assert!(result.per_second > 0.0);
    }
}
