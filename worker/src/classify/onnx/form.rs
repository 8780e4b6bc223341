//! What the numbers of an output are: as the operators say that make it, or else as the numbers of
//! a few runs do. Where both leave it open, a sentence asks for the setting: a softmax of
//! confidences, or of distances, still has a best label, and it may be the wrong one.

use anyhow::bail;

use super::graph::{Graph, Node};
use crate::classify::Port;

/// Nodes that are looked at on the way back from an output, at most.
const STEPS_MAX: usize = 256;

/// What the numbers of an output are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A softmax makes confidences of them.
    Logits,
    /// Confidences of which one is right, or several by themselves.
    Probabilities,
    LogProbabilities,
    /// The smallest is the best.
    NegativeLogProbabilities,
    Percent,
    /// Confidences from 0 to 255.
    Bytes,
    /// A sigmoid makes a confidence of each.
    Sigmoid,
}

impl Form {
    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::Logits => "logits, through a softmax",
            Self::Probabilities => "confidences",
            Self::LogProbabilities => "logarithms of confidences",
            Self::NegativeLogProbabilities => "negative logarithms of confidences",
            Self::Percent => "confidences in percent",
            Self::Bytes => "confidences from 0 to 255",
            Self::Sigmoid => "one logit for each label, through a sigmoid",
        }
    }
}

/// How a graph makes an output, as far as that says what its numbers are.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ending<'a> {
    /// The operator that makes it, past those that only give it another shape or type.
    last: Option<&'a str>,
    /// The operator that makes confidences, where the output holds some of them, ...
    confidences: Option<&'a str>,
    /// ... and whether arithmetic follows it.
    is_computed: bool,
    /// Whether what is in the last operator cannot be seen.
    is_opaque: bool,
    /// What the numbers are if no number need be seen.
    certain: Option<Form>,
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

    /// What the numbers are, and how many for an image, if no run of the model need show it.
    pub(super) fn certain(&self, port: &Port) -> Option<(Form, usize)> {
        match port.shape[..] {
            [_, Some(classes)] if classes > 1 => Some((self.certain?, classes)),
            _ => None,
        }
    }
}

/// Of an output with an axis of images and one of labels.
fn certain(graph: &Graph, port: &Port) -> Option<Form> {
    let direct = graph.maker(&port.name)?;
    if is_linear(graph, &port.name) {
        return Some(Form::Logits);
    }
    let is_along_labels = matches!(direct.number("axis"), None | Some(-1 | 1));
    match direct.operator.as_str() {
        _ if !direct.domain.is_empty() => None,
        "Softmax" if is_along_labels => Some(Form::Probabilities),
        "LogSoftmax" if is_along_labels => Some(Form::LogProbabilities),
        "Sigmoid" | "HardSigmoid" => Some(Form::Probabilities),
        _ => None,
    }
}

/// Whether a value is a weighted sum of features, with or without a bias. Sums of confidences are
/// confidences: those of groups of labels.
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

/// The operator that makes the confidences that a value holds, or is computed of, and whether
/// arithmetic follows it. `None` where anything else has a part in the value.
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
    // The others say where and how far.
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

/// What the scores of a few images can only be, each a list of at least one.
pub(super) fn found(seen: &[Vec<f32>], ending: &Ending<'_>) -> anyhow::Result<Form> {
    let all = |holds: &dyn Fn(&[f32]) -> bool| !seen.is_empty() && seen.iter().all(|scores| holds(scores));
    let single = seen.first().is_some_and(|scores| scores.len() == 1);
    let in_unit = all(&|scores| scores.iter().all(|score| (-1e-6..=1.0 + 1e-3).contains(score)));
    let whole = |whole: f32| !single && all(&|scores| is_distribution(scores, whole));
    let exponentials = |sign: f32, tolerance: f64| {
        let sum = |scores: &[f32]| scores.iter().map(|score| f64::from((sign * score).exp())).sum::<f64>();
        let is_one = |scores: &[f32]| (sum(scores) - 1.0).abs() < tolerance;
        !single && all(&|scores| scores.iter().all(|score| sign * score <= 1e-6) && is_one(scores))
    };
    let is_sum = |least: f32| all(&|scores| scores.iter().sum::<f32>() > least);
    Ok(match (ending.confidences, ending.last) {
        _ if whole(1.0) => Form::Probabilities,
        (Some("Sigmoid" | "HardSigmoid"), _) if !ending.is_computed && in_unit => Form::Probabilities,
        // A part of them, or in few bits; along another axis, each is 1.
        (Some("Softmax"), _) if !ending.is_computed && in_unit && !is_sum(1.5) => Form::Probabilities,
        _ if whole(100.0) => Form::Percent,
        _ if whole(255.0) => Form::Bytes,
        _ if exponentials(1.0, 1e-3) => Form::LogProbabilities,
        // A softmax of these would turn the order round: better few that are refused.
        _ if exponentials(-1.0, 0.02) => Form::NegativeLogProbabilities,
        (Some("LogSoftmax"), _) if !ending.is_computed && !single => Form::LogProbabilities,
        (Some(operator), _) => bail!(
            "is computed of confidences ({operator}), and what it is then cannot be seen; set scores to what \
             it is, or export the model with the confidences as its output"
        ),
        (None, Some(operator)) if is_distance(operator) => bail!(
            "ends in {operator}, and may be distances, of which the smallest is the best; set scores to what \
             it is, or export the model with confidences as its output"
        ),
        (None, _) if ending.is_opaque && in_unit => {
            bail!("has numbers from 0 to 1, which may be logits or confidences; set scores to what they are")
        }
        _ if is_constant_sum(seen) => bail!(
            "is {:.4} in total for every image, as confidences of another scale are; set scores to what it \
             is, or export the model with confidences as its output",
            seen[0].iter().sum::<f32>()
        ),
        _ if single => Form::Sigmoid,
        _ => Form::Logits,
    })
}

/// Whether the scores of one image show what they are, so that another image cannot say anything
/// else: they are nothing but logits, or what the last operator makes.
pub(super) fn are_clear(scores: &[f32], ending: &Ending<'_>) -> bool {
    match (found(&[scores.to_vec()], ending), ending.last) {
        (Ok(Form::Logits), _) => !is_direction(scores) && scores.iter().any(|score| *score < 0.0),
        (Ok(Form::Probabilities), Some("Softmax" | "Sigmoid" | "HardSigmoid")) => true,
        (Ok(Form::LogProbabilities), Some("LogSoftmax")) => true,
        // Of one number only the operator decides.
        (found, _) => scores.len() == 1 && found.is_ok(),
    }
}

/// What a distance ends in, or another number of which nobody takes a softmax.
fn is_distance(operator: &str) -> bool {
    matches!(
        operator,
        "Sqrt" | "Pow" | "Abs" | "Exp" | "Log" | "Reciprocal" | "ReduceL1" | "ReduceL2" | "ReduceSumSquare"
    )
}

/// Whether scores are a whole that is divided among them.
pub(super) fn is_distribution(scores: &[f32], whole: f32) -> bool {
    let sum: f64 = scores.iter().map(|score| f64::from(*score)).sum();
    scores.iter().all(|score| (-1e-6 * whole..=whole * 1.001).contains(score))
        && (sum - f64::from(whole)).abs() < 0.003 * f64::from(whole)
}

/// Whether they are parts of one number, the same for every image.
fn is_constant_sum(seen: &[Vec<f32>]) -> bool {
    let [first, others @ ..] = seen else { return false };
    let whole = first.iter().sum::<f32>();
    !others.is_empty()
        && first.len() > 1
        && whole > 0.0
        && seen.iter().all(|scores| is_distribution(scores, whole))
        && seen.iter().any(|scores| scores != first)
}

/// Whether scores are a direction: all of length 1, as embeddings are.
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

    /// An output that this operator makes.
    fn of(operator: &str) -> Ending<'_> {
        let confidences = ["Softmax", "LogSoftmax", "Sigmoid"].contains(&operator).then_some(operator);
        Ending { last: Some(operator), confidences, ..Ending::default() }
    }

    /// Confidences of this operator, through arithmetic.
    fn computed(operator: &str) -> Ending<'_> {
        Ending { last: Some("Mul"), confidences: Some(operator), is_computed: true, ..Ending::default() }
    }

    fn each(images: &[[f32; 3]], number: impl Fn(f32) -> f32) -> Vec<Vec<f32>> {
        images.iter().map(|image| image.iter().map(|confidence| number(*confidence)).collect()).collect()
    }

    const TWO: [[f32; 3]; 2] = [[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]];

    #[test]
    fn the_form_of_scores_is_found_from_what_they_are() {
        for (seen, ending, expected) in [
            (each(&TWO, |p| p), of("Div"), Form::Probabilities),
            (each(&TWO, |p| p), of("Softmax"), Form::Probabilities),
            (each(&TWO, |p| p * 100.0), computed("Softmax"), Form::Percent),
            (each(&TWO, |p| p * 255.0), computed("Softmax"), Form::Bytes),
            (each(&TWO, f32::ln), of("LogSoftmax"), Form::LogProbabilities),
            (each(&TWO, f32::ln), of("Log"), Form::LogProbabilities),
            (each(&TWO, |p| -p.ln()), computed("LogSoftmax"), Form::NegativeLogProbabilities),
            (each(&TWO, |p| -p.ln()), of("Neg"), Form::NegativeLogProbabilities),
            (vec![vec![0.2, 0.3, 0.3]], of("Softmax"), Form::Probabilities),
            (vec![vec![0.2, 0.9, 0.4]], of("Sigmoid"), Form::Probabilities),
            (vec![vec![0.2, 0.9, 0.4]], of("Gemm"), Form::Logits),
            (vec![vec![7.0, 0.0, 3.0], vec![0.0, 0.0, 9.0]], of("Relu"), Form::Logits),
            (vec![vec![0.2]], of("Sigmoid"), Form::Probabilities),
            (vec![vec![0.2]], of("Gemm"), Form::Sigmoid),
        ] {
            assert_eq!(found(&seen, &ending).unwrap(), expected, "{seen:?}");
        }
    }

    #[test]
    fn scores_that_may_be_several_things_are_refused() {
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
            (vec![vec![0.2]], computed("Softmax"), "confidences (Softmax)"),
        ] {
            let why = found(&seen, &ending).unwrap_err().to_string();
            assert!(why.contains(expected) && why.contains("set scores"), "{seen:?}: {why}");
        }
    }

    #[test]
    fn one_image_is_enough_where_another_can_say_nothing_else() {
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
