//! Detects the form of a model's output: from the operators that compute it, else from the values
//! of a few test runs. If both leave it open, an error asks for the `scores` setting, because a
//! wrong guess can invert the ranking: a softmax of distances still has a best label.

use anyhow::bail;
use eirs_platform::settings::Scores;

use super::graph::{Graph, Node};
use crate::classify::Port;

/// Maximum number of nodes to visit on the way back from an output.
const STEPS_MAX: usize = 256;

/// The end of the graph before an output, as far as it shows the form of the scores.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ending<'a> {
    /// The operator that computes the output, ignoring changes of shape or type.
    last: Option<&'a str>,
    /// The softmax or sigmoid, if the output is computed only from confidences.
    confidences: Option<&'a str>,
    /// Whether arithmetic follows that operator.
    is_computed: bool,
    /// Whether the last operator cannot be looked into.
    is_opaque: bool,
    /// The form, if the graph alone is enough.
    certain: Option<Scores>,
}

impl<'a> Ending<'a> {
    pub(super) fn of(graph: Option<&'a Graph>, port: &Port) -> Self {
        let Some(graph) = graph else { return Self { is_opaque: true, ..Self::default() } };
        let last = graph.last_node(&port.name);
        let mut steps = 0;
        let confidences = confidences(graph, &port.name, &mut steps);
        Self {
            last: last.map(|node| node.operator.as_str()),
            confidences: confidences.map(|(operator, _)| operator),
            is_computed: confidences.is_some_and(|(_, is_computed)| is_computed),
            is_opaque: last.is_none_or(|node| {
                !node.domain.is_empty() || matches!(node.operator.as_str(), "If" | "Loop" | "Scan")
            }),
            certain: certain(graph, port),
        }
    }

    /// Returns the form and the number of scores per image, if the graph alone is enough.
    pub(super) fn certain(&self, port: &Port) -> Option<(Scores, usize)> {
        match port.shape[..] {
            [_, Some(classes)] if classes > 1 => Some((self.certain?, classes)),
            _ => None,
        }
    }
}

/// Returns the form of an output with the shape [images, labels], if the graph alone shows it.
fn certain(graph: &Graph, port: &Port) -> Option<Scores> {
    let direct = graph.maker(&port.name)?;
    if is_linear(graph, &port.name) {
        return Some(Scores::Logits);
    }
    let is_along_labels = matches!(direct.number("axis"), None | Some(-1 | 1));
    match direct.operator.as_str() {
        _ if !direct.domain.is_empty() => None,
        "Softmax" if is_along_labels => Some(Scores::Probabilities),
        "LogSoftmax" if is_along_labels => Some(Scores::LogProbabilities),
        "Sigmoid" | "HardSigmoid" => Some(Scores::Probabilities),
        _ => None,
    }
}

/// Returns whether a value is a weighted sum of features, with or without a bias. Sums of
/// confidences, as for groups of labels, are not: they are confidences.
fn is_linear(graph: &Graph, value: &str) -> bool {
    let Some(node) = graph.last_node(value).filter(|node| node.domain.is_empty()) else { return false };
    let first = |node: &'_ Node| node.inputs.first().cloned().unwrap_or_default();
    let mut open = node.inputs.iter().filter(|input| !graph.is_constant(input));
    match (node.operator.as_str(), open.next(), open.next()) {
        ("Gemm" | "MatMul" | "Conv", Some(input), None) if *input == first(node) => {
            confidences(graph, input, &mut 0).is_none()
        }
        ("Add", Some(input), None) => {
            graph
                .last_node(input)
                .is_some_and(|sum| matches!(sum.operator.as_str(), "Gemm" | "MatMul" | "Conv"))
                && is_linear(graph, input)
        }
        _ => false,
    }
}

/// Returns the softmax or sigmoid from which a value is computed, and whether arithmetic follows
/// it. `None` if the value depends on anything else.
fn confidences<'a>(graph: &'a Graph, value: &str, steps: &mut usize) -> Option<(&'a str, bool)> {
    *steps += 1;
    let node = graph.maker(value).filter(|_| *steps < STEPS_MAX)?;
    let is_computed = match node.operator.as_str() {
        _ if !node.domain.is_empty() && node.operator != "ZipMap" => return None,
        operator @ ("Softmax" | "LogSoftmax" | "Sigmoid" | "HardSigmoid") => return Some((operator, false)),
        _ if node.is_shape_or_type() => false,
        "Slice" | "Gather" | "Split" | "Concat" | "Dropout" | "Clip" => false,
        "Mul" | "Div" | "Add" | "Sub" | "Neg" | "Abs" | "Log" | "Exp" | "Pow" | "Sqrt" | "Max" | "Min"
        | "Mean" | "Sum" | "Round" | "Floor" | "Ceil" | "Reciprocal" | "ReduceMean" | "ReduceSum"
        | "ReduceMax" | "GlobalAveragePool" | "GlobalMaxPool" => true,
        _ => return None,
    };
    let mut found: Option<(&str, bool)> = None;
    // The other inputs are parameters.
    let is_alone = node.is_shape_or_type()
        || matches!(node.operator.as_str(), "Slice" | "Gather" | "Split" | "Dropout" | "Clip")
        || node.operator.starts_with("Reduce")
        || node.operator.starts_with("Global");
    let inputs = if is_alone { node.inputs.get(..1)? } else { &node.inputs[..] };
    for input in inputs.iter().filter(|input| !graph.is_constant(input)) {
        let (operator, before) = confidences(graph, input, steps)?;
        let (_, so_far) = found.unwrap_or((operator, false));
        found = Some((operator, so_far | before | is_computed));
    }
    found
}

/// Returns the only possible form of the scores of a few images, each a list of at least one score.
pub(super) fn found(seen: &[Vec<f32>], ending: &Ending<'_>) -> anyhow::Result<Scores> {
    let all = |holds: &dyn Fn(&[f32]) -> bool| !seen.is_empty() && seen.iter().all(|scores| holds(scores));
    let single = seen.first().is_some_and(|scores| scores.len() == 1);
    let in_unit = all(&|scores| scores.iter().all(|score| (-1e-6..=1.0 + 1e-3).contains(score)));
    let whole = |whole: f32| !single && all(&|scores| is_distribution(scores, whole));
    // Where all confidences are 0, a division by their sum leaves them 0.
    let shares = |scores: &[f32]| is_distribution(scores, 1.0) || scores.iter().all(|score| *score == 0.0);
    let are_shares = all(&shares) && !single && seen.iter().any(|scores| is_distribution(scores, 1.0));
    let exponentials = |sign: f32, tolerance: f64| {
        let sum = |scores: &[f32]| scores.iter().map(|score| f64::from((sign * score).exp())).sum::<f64>();
        let is_one = |scores: &[f32]| (sum(scores) - 1.0).abs() < tolerance;
        !single && all(&|scores| scores.iter().all(|score| sign * score <= 1e-6) && is_one(scores))
    };
    let is_sum = |least: f32| all(&|scores| scores.iter().sum::<f32>() > least);
    Ok(match (ending.confidences, ending.last) {
        _ if whole(1.0) || are_shares => Scores::Probabilities,
        (Some("Sigmoid" | "HardSigmoid"), _) if !ending.is_computed && in_unit => Scores::Probabilities,
        // A part of the distribution, or quantised. Along another axis, each score would be 1.
        (Some("Softmax"), _) if !ending.is_computed && in_unit && !is_sum(1.5) => Scores::Probabilities,
        _ if whole(100.0) => Scores::Percent,
        _ if whole(255.0) => Scores::Bytes,
        _ if exponentials(1.0, 1e-3) => Scores::LogProbabilities,
        // A softmax of these would invert the order, so the tolerance is wide: a false alarm is
        // safer.
        _ if exponentials(-1.0, 0.02) => Scores::NegativeLogProbabilities,
        (Some("LogSoftmax"), _) if !ending.is_computed && !single => Scores::LogProbabilities,
        (Some(operator), _) => bail!(
            "is computed of confidences ({operator}), and what it is then cannot be seen; set scores to what \
             it is, or export the model with the confidences as its output"
        ),
        (None, Some(operator)) if is_distance(operator) => bail!(
            "ends in {operator}, and may be distances, of which the smallest is the best; set scores to what \
             it is, or export the model with confidences as its output"
        ),
        (None, last) if in_unit && (ending.is_opaque || last.is_some_and(is_bounded)) => {
            bail!("has numbers from 0 to 1, which may be logits or confidences; set scores to what they are")
        }
        _ if is_constant_sum(seen) => bail!(
            "is {:.4} in total for every image, as confidences of another scale are; set scores to what it \
             is, or export the model with confidences as its output",
            seen[0].iter().sum::<f32>()
        ),
        _ if single => Scores::Sigmoid,
        _ => Scores::Logits,
    })
}

/// Returns whether the scores of one image determine the form, so that another image cannot change
/// it: they can only be logits, or they match the last operator.
pub(super) fn are_clear(scores: &[f32], ending: &Ending<'_>) -> bool {
    match (found(&[scores.to_vec()], ending), ending.last) {
        (Ok(Scores::Logits), _) => !is_direction(scores) && scores.iter().any(|score| *score < 0.0),
        (Ok(Scores::Probabilities), Some("Softmax" | "Sigmoid" | "HardSigmoid")) => true,
        (Ok(Scores::LogProbabilities), Some("LogSoftmax")) => true,
        // For a single score, only the operator matters.
        (found, _) => scores.len() == 1 && found.is_ok(),
    }
}

/// Says why the distances that a linear or support vector model gives for two classes cannot be
/// used: one number for both, or two that do not follow the labels. `labels` is the number of
/// labels, if there are any; `is_set` whether the user says what the scores are.
pub(super) fn of_two(
    graph: Option<&Graph>,
    port: &Port,
    form: &anyhow::Result<Scores>,
    labels: Option<usize>,
    is_set: bool,
) -> Option<&'static str> {
    let graph = graph?;
    let mut node = graph.last_node(&port.name)?;
    if node.operator == "ArrayFeatureExtractor" {
        node = graph.last_node(node.inputs.first()?)?;
    }
    let classes = node.numbers.get("classlabels_ints").map(Vec::len);
    let classes = classes.or_else(|| node.texts.get("classlabels_strings").map(Vec::len));
    if node.domain != "ai.onnx.ml" || classes != Some(2) {
        return None;
    }
    match (node.operator.as_str(), form) {
        ("SVMClassifier", Ok(Scores::Logits)) => Some(
            "is the distances of a support vector machine of two classes, in the other order than its \
             labels; export it with probabilities (SVC(probability=True))",
        ),
        ("LinearClassifier", Ok(Scores::Logits)) if !is_set => Some(
            "is the distances of a linear model of two classes, which may not follow its labels; export it \
             with probabilities, or set scores to what they are",
        ),
        ("LinearClassifier", Ok(Scores::Sigmoid)) if labels != Some(2) => Some(
            "is one number for two classes, high for the second one; set labels to a file of both and \
             positive to the second",
        ),
        _ => None,
    }
}

/// Returns whether an operator keeps numbers within bounds, as confidences are.
fn is_bounded(operator: &str) -> bool {
    matches!(operator, "LpNormalization" | "Div" | "Clip" | "Min" | "Max")
}

/// Returns whether an operator suggests a distance, or another value that is not a logit.
fn is_distance(operator: &str) -> bool {
    matches!(
        operator,
        "Sqrt" | "Pow" | "Abs" | "Exp" | "Log" | "Reciprocal" | "ReduceL1" | "ReduceL2" | "ReduceSumSquare"
    )
}

/// Returns whether scores are shares of `whole`: in range, and with that sum, within 0.3 %.
pub(super) fn is_distribution(scores: &[f32], whole: f32) -> bool {
    let sum: f64 = scores.iter().map(|score| f64::from(*score)).sum();
    scores.iter().all(|score| (-1e-6 * whole..=whole * 1.001).contains(score))
        && (sum - f64::from(whole)).abs() < 0.003 * f64::from(whole)
}

/// Returns whether the scores of several images have the same sum, but differ.
fn is_constant_sum(seen: &[Vec<f32>]) -> bool {
    let [first, others @ ..] = seen else { return false };
    let whole = first.iter().sum::<f32>();
    !others.is_empty()
        && first.len() > 1
        && whole > 0.0
        && seen.iter().all(|scores| is_distribution(scores, whole))
        && seen.iter().any(|scores| scores != first)
}

/// Returns whether all scores are unit vectors, as embeddings are.
pub(super) fn are_embeddings(seen: &[Vec<f32>]) -> bool {
    seen.len() > 1 && seen.iter().all(|scores| is_direction(scores))
}

fn is_direction(scores: &[f32]) -> bool {
    let length: f64 = scores.iter().map(|score| f64::from(*score).powi(2)).sum();
    scores.len() >= 16 && (length - 1.0).abs() < 1e-3 && scores.iter().any(|score| *score < 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An output that is computed by this operator.
    fn of(operator: &str) -> Ending<'_> {
        let confidences = ["Softmax", "LogSoftmax", "Sigmoid"].contains(&operator).then_some(operator);
        Ending { last: Some(operator), confidences, ..Ending::default() }
    }

    /// Confidences of this operator, followed by arithmetic.
    fn computed(operator: &str) -> Ending<'_> {
        Ending { last: Some("Mul"), confidences: Some(operator), is_computed: true, ..Ending::default() }
    }

    fn each(images: &[[f32; 3]], number: impl Fn(f32) -> f32) -> Vec<Vec<f32>> {
        images.iter().map(|image| image.iter().map(|confidence| number(*confidence)).collect()).collect()
    }

    const TWO: [[f32; 3]; 2] = [[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]];

    #[test]
    fn the_form_is_found_from_the_scores() {
        for (seen, ending, expected) in [
            (each(&TWO, |p| p), of("Div"), Scores::Probabilities),
            (each(&TWO, |p| p), of("Softmax"), Scores::Probabilities),
            (each(&TWO, |p| p * 100.0), computed("Softmax"), Scores::Percent),
            (each(&TWO, |p| p * 255.0), computed("Softmax"), Scores::Bytes),
            (each(&TWO, f32::ln), of("LogSoftmax"), Scores::LogProbabilities),
            (each(&TWO, f32::ln), of("Log"), Scores::LogProbabilities),
            (each(&TWO, |p| -p.ln()), computed("LogSoftmax"), Scores::NegativeLogProbabilities),
            (each(&TWO, |p| -p.ln()), of("Neg"), Scores::NegativeLogProbabilities),
            (vec![vec![0.2, 0.3, 0.3]], of("Softmax"), Scores::Probabilities),
            // One against the rest: none of the classes may claim an image.
            (vec![vec![0.7, 0.2, 0.1], vec![0.0; 3]], of("LpNormalization"), Scores::Probabilities),
            (vec![vec![0.2, 0.9, 0.4]], of("Sigmoid"), Scores::Probabilities),
            (vec![vec![0.2, 0.9, 0.4]], of("Gemm"), Scores::Logits),
            (vec![vec![7.0, 0.0, 3.0], vec![0.0, 0.0, 9.0]], of("Relu"), Scores::Logits),
            (vec![vec![0.2]], of("Sigmoid"), Scores::Probabilities),
            (vec![vec![0.2]], of("Gemm"), Scores::Sigmoid),
        ] {
            assert_eq!(found(&seen, &ending).unwrap(), expected, "{seen:?}");
        }
    }

    #[test]
    fn ambiguous_scores_are_refused() {
        let opaque = Ending { is_opaque: true, ..Ending::default() };
        for (seen, ending, expected) in [
            (each(&TWO, |p| p * 256.0), computed("Softmax"), "confidences (Softmax)"),
            (each(&TWO, |p| p * 256.0), of("Relu"), "256.0000 in total"),
            (each(&TWO, |p| -p.log2()), computed("Softmax"), "confidences (Softmax)"),
            (vec![vec![80.0, 90.0, 1.0]], computed("Sigmoid"), "confidences (Sigmoid)"),
            (vec![vec![1.0, 1.0, 1.0]], of("Softmax"), "confidences (Softmax)"),
            (vec![vec![3.0, 0.5, 2.0]], of("ReduceL2"), "distances"),
            (vec![vec![0.2, 0.9, 0.4]], opaque, "logits or confidences"),
            (vec![vec![0.2]], opaque, "logits or confidences"),
            (vec![vec![0.0; 3]], of("LpNormalization"), "logits or confidences"),
            (vec![vec![0.2, 0.9, 0.4]], of("Clip"), "logits or confidences"),
            (vec![vec![0.2]], computed("Softmax"), "confidences (Softmax)"),
        ] {
            let why = found(&seen, &ending).unwrap_err().to_string();
            assert!(why.contains(expected) && why.contains("set scores"), "{seen:?}: {why}");
        }
    }

    #[test]
    fn one_image_is_enough_if_another_cannot_change_the_form() {
        for (scores, ending, is_clear) in [
            (&[3.0, -1.0, 0.5][..], of("Gemm"), true),
            (&[0.2, 0.3, 0.5], of("Softmax"), true),
            (&[0.2, 0.3, 0.5], of("Gemm"), false),
            (&[0.2, 0.3, 0.5], Ending::default(), false),
            (&[20.0, 30.0, 50.0], of("Mul"), false),
            (&[25.0, 31.0, 200.0], of("Mul"), false),
            (&[-1.609_438, -1.386_294, -0.597_837], of("LogSoftmax"), true),
            (&[0.7], of("Sigmoid"), true),
            (&[0.7], Ending::default(), true),
            (&[0.7, 0.8], of("Sigmoid"), true),
            (&[-0.25; 16], of("LpNormalization"), false),
        ] {
            assert_eq!(are_clear(scores, &ending), is_clear, "{scores:?} {ending:?}");
        }
    }
}
