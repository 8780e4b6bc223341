//! Chooses the engines for a model, in order, and knows their errors.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{anyhow, bail};
use eirs_platform::settings::{self, Model, Provider};

use super::{
    Engine, Source,
    graph::{Graph, Node},
    ort, rten,
};
use crate::classify::panic_text;

/// The number of the boolean type in an ONNX file.
const ONNX_BOOL: i64 = 9;

/// An available engine.
pub(super) enum Candidate {
    Ort(ort::Runtime),
    Rten,
}

/// Returns the engines to try, and a note if ONNX Runtime is missing.
pub(super) fn candidates(model: &Model) -> anyhow::Result<(Vec<Candidate>, Option<String>)> {
    let runtime = || ort::runtime(model.onnxruntime.as_deref());
    // Only ONNX Runtime can use devices other than the CPU.
    let must = model.engine == settings::Engine::Onnxruntime || model.provider != Provider::Cpu;
    Ok(match (model.engine, must) {
        (settings::Engine::Rten, _) => (vec![Candidate::Rten], None),
        (_, true) => {
            let runtime = runtime().map_err(|missing| anyhow!("engine onnxruntime: {missing}"))?;
            (vec![Candidate::Ort(runtime)], None)
        }
        (_, false) => match runtime() {
            Ok(runtime) => (vec![Candidate::Ort(runtime), Candidate::Rten], None),
            Err(missing) => {
                if let ort::Missing::Unusable(..) = missing {
                    tracing::warn!("{missing}; using rten instead");
                }
                (vec![Candidate::Rten], Some("ONNX Runtime, which was not found here".to_owned()))
            }
        },
    })
}

impl Candidate {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Ort(runtime) => runtime.name(),
            Self::Rten => rten::NAME,
        }
    }

    /// Loads the model. The error is the reason without the name of the model.
    pub(super) fn load(
        self,
        model: &Model,
        source: &Source,
        graph: Option<&Graph>,
    ) -> anyhow::Result<Box<dyn Engine>> {
        let fuses_norms = graph.is_none_or(|graph| !resembles_a_norm(graph));
        let loaded = catch_unwind(AssertUnwindSafe(|| -> anyhow::Result<Box<dyn Engine>> {
            Ok(match self {
                Self::Ort(runtime) => Box::new(ort::Ort::load(runtime, model, source, fuses_norms)?),
                Self::Rten => Box::new(rten::Rten::load(source)?),
            })
        }));
        loaded.unwrap_or_else(|panic| Err(anyhow!("it panicked: {}", panic_text(&*panic))))
    }

    /// Refuses a graph for which this engine is known to compute the output incorrectly.
    pub(super) fn ensure_right(name: &str, graph: Option<&Graph>, output: &str) -> anyhow::Result<()> {
        let Some(graph) = graph.filter(|_| name == rten::NAME) else { return Ok(()) };
        match wrong_in_rten(graph, output) {
            Some(why) => bail!("{why}"),
            None => Ok(()),
        }
    }
}

/// Returns what rten 0.27 computes incorrectly in this graph, if anything. Each case was found by
/// comparison with ONNX Runtime.
fn wrong_in_rten(graph: &Graph, output: &str) -> Option<String> {
    graph.making(output).into_iter().filter(|node| node.domain.is_empty()).find_map(|node| {
        match node.operator.as_str() {
            // rten adds the odd pixel at the end, as SAME_UPPER does.
            operator if node.text("auto_pad") == Some("SAME_LOWER") => {
                Some(format!("it computes {operator} with auto_pad SAME_LOWER wrongly"))
            }
            // rten pads with 0 instead of the zero point, and computes the padding incorrectly.
            "ConvInteger" => {
                let pads = node.numbers.get("pads").is_some_and(|pads| pads.iter().any(|pad| *pad != 0));
                let auto = node.text("auto_pad").is_some_and(|pad| pad.starts_with("SAME"));
                (pads || auto).then(|| "it computes ConvInteger with padding wrongly".to_owned())
            }
            "Resize" if node.text("mode") == Some("cubic") => {
                Some("it computes Resize with cubic interpolation wrongly".to_owned())
            }
            // rten rounds the other way at the border of two pixels.
            "Resize"
                if matches!(node.text("nearest_mode"), Some("floor" | "ceil"))
                    && node.text("mode").unwrap_or("nearest") == "nearest"
                    && node
                        .text("coordinate_transformation_mode")
                        .is_none_or(|mode| mode.ends_with("half_pixel")) =>
            {
                Some("it computes Resize to the nearest half pixel, rounded down or up, wrongly".to_owned())
            }
            // rten keeps the number, and any number other than 0 is true.
            "Cast" if node.number("to") == Some(ONNX_BOOL) => {
                Some("it computes Cast to booleans wrongly".to_owned())
            }
            operator if operator.starts_with("Reduce") && node.number("noop_with_empty_axes") == Some(1) => {
                Some(format!("it computes {operator} with noop_with_empty_axes wrongly"))
            }
            // Before opset 13, softmax flattened all axes from `axis` on (1 by default). rten uses
            // a single axis, the last one by default.
            "Softmax" | "LogSoftmax" if graph.opset < 13 => {
                let axis = node.number("axis");
                let is_flat =
                    axis != Some(0) && node.inputs.first().is_some_and(|input| is_matrix(graph, input, 0));
                (axis != Some(-1) && !is_flat).then(|| {
                    format!(
                        "it computes {} before opset 13 along one axis, where all from it on are meant",
                        node.operator
                    )
                })
            }
            "ArgMax" | "ArgMin" => Some(format!(
                "it takes the last of equal values for {}, where the first is meant",
                node.operator
            )),
            _ => None,
        }
    })
}

/// Returns whether ONNX Runtime may mistake a part of the graph for a layer normalization: ONNX
/// Runtime 1.32 fuses the operators of one without checking the exponent and the order of the
/// inputs of `Sub` and `Div`.
fn resembles_a_norm(graph: &Graph) -> bool {
    let first = |node: &Node| node.inputs.first().and_then(|input| graph.last_node(input));
    let is_made_by =
        |node: &Node, operator: &str| first(node).is_some_and(|maker| maker.operator == operator);
    graph.nodes.iter().any(|node| match node.operator.as_str() {
        "Sub" => is_made_by(node, "ReduceMean"),
        "Div" => is_made_by(node, "Sqrt"),
        "ReduceMean" => first(node).is_some_and(|maker| {
            let power = maker.inputs.get(1).and_then(|power| graph.constant(power));
            maker.operator == "Pow" && power != Some(2.0)
        }),
        _ => false,
    })
}

/// Returns whether a value is known to have two axes.
fn is_matrix(graph: &Graph, value: &str, depth: usize) -> bool {
    let Some(node) = graph.maker(value).filter(|_| depth < 64) else { return false };
    match node.operator.as_str() {
        "Gemm" | "Flatten" => true,
        "Add" | "Sub" | "Mul" | "Div" | "MatMul" | "Relu" | "Identity" | "Cast" | "Dropout" | "Clip"
        | "LeakyRelu" | "Tanh" | "Sigmoid" | "BatchNormalization" => {
            let first = node.inputs.iter().find(|input| !graph.weights.contains(*input));
            first.is_some_and(|input| is_matrix(graph, input, depth + 1))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_layer_normalization_is_fused_and_what_resembles_one_is_not() {
        for (name, expected) in
            [("norm", false), ("norm_reversed", true), ("norm_cubic", true), ("logits", false)]
        {
            let path = PathBuf::from(format!("{}/tests/models/{name}.onnx", env!("CARGO_MANIFEST_DIR")));
            let graph = Graph::read(&Source::File(path)).unwrap();
            assert_eq!(resembles_a_norm(&graph), expected, "{name}");
        }
    }
}
