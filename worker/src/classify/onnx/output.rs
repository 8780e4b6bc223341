//! Chooses the output with the scores, and refuses models that are not classifiers.

use anyhow::{bail, ensure};
use eirs_platform::settings::Model;

use super::{Source, graph::Graph};
use crate::classify::Port;

/// The scores of one run, as the model returns them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Answer {
    /// The values, row by row, with one row per image.
    pub(super) values: Vec<f32>,
    /// The shape of the tensor.
    pub(super) shape: Vec<usize>,
    /// The labels, if the model returns a name with each score.
    pub(super) names: Option<Vec<String>>,
}

/// Common names of outputs with scores, used if several outputs are possible.
const USUAL: [&str; 12] = [
    "logits",
    "probabilities",
    "probability",
    "output_probability",
    "probs",
    "prob",
    "softmax",
    "scores",
    "score",
    "predictions",
    "class_probabilities",
    "loss",
];

/// Returns whether values of this type can be scores.
fn is_scores(kind: &str) -> bool {
    matches!(kind, "f32" | "f16" | "f64" | "unknown") || is_maps(kind)
}

/// Returns whether an output has a map from label to score per image, as in scikit-learn and Custom
/// Vision.
fn is_maps(kind: &str) -> bool {
    kind.starts_with("Sequence<Map<")
}

/// Returns whether a shape can be one score per label: apart from the first axis, at most one is
/// longer than 1.
fn is_list(port: &Port) -> bool {
    port.shape.iter().skip(1).filter(|side| side.is_some_and(|side| side > 1)).count() <= 1
}

fn classes(port: &Port) -> Option<usize> {
    port.shape.iter().skip(1).try_fold(1usize, |product, side| product.checked_mul((*side)?))
}

/// Returns the index of the output with the scores. `labels` is the number of labels, if known.
pub(super) fn choose(
    model: &Model,
    source: &Source,
    outputs: &[Port],
    graph: Option<&Graph>,
    labels: Option<usize>,
) -> anyhow::Result<usize> {
    let all = || outputs.iter().map(|port| format!("`{port}`")).collect::<Vec<_>>().join(", ");
    if let Some(name) = &model.output {
        let Some(index) = outputs.iter().position(|port| port.name == *name) else {
            bail!("{source}: output: there is no {name:?}, but {}", all());
        };
        let port = &outputs[index];
        ensure!(
            is_scores(&port.kind),
            "{source}: output: `{port}` holds {}, not scores; choose one of {}",
            port.kind,
            all()
        );
        return Ok(index);
    }
    ensure_classifier(source, outputs, graph)?;
    let scores = || outputs.iter().enumerate().filter(|(_, port)| is_scores(&port.kind));
    if scores().next().is_none() {
        bail!(
            "{source}: no output holds scores: {}; export the model with its probabilities or logits",
            all()
        );
    }
    let mut fitting: Vec<_> = scores().filter(|(_, port)| is_list(port)).collect();
    let is_sorted = |port: &Port| {
        graph.and_then(|graph| graph.last_operator(&port.name)).is_some_and(|operator| operator == "TopK")
    };
    let sorted = fitting.iter().find(|(_, port)| is_sorted(port)).map(|(_, port)| port.name.clone());
    fitting.retain(|(_, port)| !is_sorted(port));
    if let Some(name) = sorted.filter(|_| fitting.is_empty()) {
        bail!(
            "{source}: its output `{name}` is the best scores in their order (TopK), and not one for each \
             label; export the model without it"
        );
    }
    if fitting.is_empty() {
        bail!(
            "{source}: no output is one score for each label: {}; detectors, segmenters and readers of text \
             are no classifiers",
            all()
        );
    }
    // Maps include their labels; the next best choice is a list with one score per label.
    let better = |is_better: &dyn Fn(&Port) -> bool, fitting: &mut Vec<(usize, &Port)>| {
        if fitting.iter().any(|(_, port)| is_better(port)) {
            fitting.retain(|(_, port)| is_better(port));
        }
    };
    better(&|port| is_maps(&port.kind), &mut fitting);
    if labels.is_some() {
        better(&|port| classes(port) == labels || is_maps(&port.kind), &mut fitting);
    }
    if fitting.len() > 1 {
        let usual =
            USUAL.iter().find(|usual| fitting.iter().any(|(_, port)| port.name.eq_ignore_ascii_case(usual)));
        fitting.retain(|(_, port)| usual.is_none_or(|usual| port.name.eq_ignore_ascii_case(usual)));
    }
    match fitting[..] {
        [(index, _)] => Ok(index),
        _ => {
            let names: Vec<_> = fitting.iter().map(|(_, port)| format!("`{}`", port.name)).collect();
            bail!(
                "{source}: {} outputs could hold the scores: {}; set output to one of them",
                names.len(),
                names.join(", ")
            )
        }
    }
}

/// Refuses a model whose metadata or outputs show that it is not a classifier.
fn ensure_classifier(source: &Source, outputs: &[Port], graph: Option<&Graph>) -> anyhow::Result<()> {
    let hint = "if one of its outputs is a list of scores all the same, set output";
    if let Some(task) = graph.and_then(|graph| graph.metadata.get("task")) {
        ensure!(
            !["detect", "segment", "pose", "obb", "semantic", "depth"].contains(&task.as_str()),
            "{source}: says of itself that its task is {task:?}, which is no classification; {hint}"
        );
    }
    ensure!(
        graph.is_none_or(|graph| !graph.has("NonMaxSuppression")),
        "{source}: is a detector, which finds boxes (NonMaxSuppression), and no classifier; {hint}"
    );
    let words = |name: &str| {
        name.to_lowercase().split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_owned).collect::<Vec<_>>()
    };
    for port in outputs {
        for word in words(&port.name) {
            ensure!(
                !["boxes", "bboxes", "bbox", "box", "masks", "keypoints", "landmarks"]
                    .contains(&word.as_str()),
                "{source}: its output `{}` is that of a detector, which is no classifier; {hint}",
                port.name
            );
        }
    }
    let is_embedding = |port: &Port| {
        let words = words(&port.name);
        ["embedding", "embeddings", "embeds", "embed", "embs", "features", "feature", "pooler"]
            .iter()
            .any(|word| words.iter().any(|own| own == word))
    };
    let mut scores = outputs.iter().filter(|port| is_scores(&port.kind));
    ensure!(
        !scores.all(is_embedding) || outputs.iter().all(|port| !is_scores(&port.kind)),
        "{source}: gives embeddings and no scores for labels; {hint}"
    );
    Ok(())
}

/// Returns the number of classes from the output for `rows` images. Refuses anything but a list of
/// scores.
pub(super) fn classes_of(
    source: &Source,
    port: &Port,
    answer: &Answer,
    rows: usize,
) -> anyhow::Result<usize> {
    let classes = answer.values.len() / rows.max(1);
    let is_whole = classes > 0 && answer.values.len() == classes * rows;
    let (first, rest) = answer.shape.split_first().map_or((1, &[][..]), |(first, rest)| (*first, rest));
    // Without an axis of images, the first axis is that of the classes.
    let is_list = match rest {
        [] => first == classes * rows,
        _ => first == rows && rest.iter().filter(|side| **side > 1).count() <= 1,
    };
    let is_bare = rows == 1 && answer.shape.iter().filter(|side| **side > 1).count() <= 1;
    ensure!(
        is_whole && (is_list || is_bare),
        "{source}: its output `{}` is {:?} for {rows} {}, not one score for each label; detectors, \
         segmenters and readers of text are no classifiers",
        port.name,
        answer.shape,
        if rows == 1 { "image" } else { "images" }
    );
    Ok(classes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str, kind: &str, shape: &[usize]) -> Port {
        let shape = std::iter::once(None).chain(shape.iter().map(|side| Some(*side))).collect();
        Port { name: name.into(), kind: kind.into(), shape }
    }

    fn chosen(ports: &[Port], labels: Option<usize>, output: Option<&str>) -> Result<String, String> {
        let model = Model { output: output.map(str::to_owned), ..Model::default() };
        let index =
            choose(&model, &Source::SHAPES, ports, None, labels).map_err(|error| error.to_string())?;
        Ok(ports[index].name.clone())
    }

    #[test]
    fn the_only_possible_output_is_found() {
        let maps = "Sequence<Map<String, f32>>";
        for (ports, labels, expected) in [
            (&[port("y", "f32", &[3])][..], None, "y"),
            (&[port("label", "i64", &[]), port("p", "f32", &[3])], None, "p"),
            (&[port("classLabel", "String", &[]), port("loss", maps, &[])], None, "loss"),
            (&[port("hidden", "f32", &[197, 768]), port("y", "f32", &[1000])], None, "y"),
            (&[port("a", "f32", &[768]), port("b", "f32", &[1000])], Some(1000), "b"),
            (&[port("aux", "f32", &[10]), port("logits", "f32", &[10])], Some(10), "logits"),
            (&[port("y", "f16", &[10, 1, 1])], None, "y"),
        ] {
            assert_eq!(chosen(ports, labels, None).unwrap(), expected, "{ports:?}");
        }
        let both = [port("neg", "f32", &[3]), port("y", "f32", &[3])];
        assert_eq!(chosen(&both, Some(3), Some("y")).unwrap(), "y");
    }

    #[test]
    fn ambiguous_outputs_and_other_models_are_refused_with_advice() {
        for (ports, expected) in [
            (&[port("neg", "f32", &[3]), port("y", "f32", &[3])][..], "set output to one of them"),
            (&[port("output0", "f32", &[84, 8400])], "detectors"),
            (&[port("detection_boxes", "f32", &[4]), port("scores", "f32", &[100])], "a detector"),
            (&[port("image_embeds", "f32", &[512])], "embeddings"),
            (&[port("label", "i64", &[])], "no output holds scores"),
        ] {
            let refusal = chosen(ports, None, None).unwrap_err();
            assert!(refusal.contains(expected), "{ports:?}: {refusal}");
        }
        assert!(
            chosen(&[port("y", "f32", &[3])], None, Some("z")).unwrap_err().contains("there is no \"z\"")
        );
    }
}
