//! Which engines may run a model, in which order, and what one of them is known to do wrongly.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{anyhow, bail};
use eirs_platform::settings::{self, Model, Provider};

use super::{Engine, Source, graph::Graph, ort, rten};
use crate::classify::panic_text;

/// The type of booleans in an ONNX file.
const ONNX_BOOL: i64 = 9;

/// An engine that is there.
pub(super) enum Candidate {
    Ort(ort::Runtime),
    Rten,
}

/// The engines to try, and why ONNX Runtime is not among them where it would be.
pub(super) fn candidates(model: &Model) -> anyhow::Result<(Vec<Candidate>, Option<String>)> {
    let runtime = || ort::runtime(model.onnxruntime.as_deref());
    // Only ONNX Runtime computes elsewhere than on the processor.
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

    /// Loads the model; the error says why this engine cannot, without the model's name.
    pub(super) fn load(self, model: &Model, source: &Source) -> anyhow::Result<Box<dyn Engine>> {
        let loaded = catch_unwind(AssertUnwindSafe(|| -> anyhow::Result<Box<dyn Engine>> {
            Ok(match self {
                Self::Ort(runtime) => Box::new(ort::Ort::load(runtime, model, source)?),
                Self::Rten => Box::new(rten::Rten::load(source)?),
            })
        }));
        loaded.unwrap_or_else(|panic| Err(anyhow!("it panicked: {}", panic_text(&*panic))))
    }

    /// Refuses what this engine is known to compute wrongly on the way to an output.
    pub(super) fn ensure_right(name: &str, graph: Option<&Graph>, output: &str) -> anyhow::Result<()> {
        let Some(graph) = graph.filter(|_| name == rten::NAME) else { return Ok(()) };
        match wrong_in_rten(graph, output) {
            Some(why) => bail!("{why}"),
            None => Ok(()),
        }
    }
}

/// What rten 0.27 does wrongly, each found by running it beside ONNX Runtime; `None` where nothing
/// is known.
fn wrong_in_rten(graph: &Graph, output: &str) -> Option<String> {
    graph.making(output).into_iter().filter(|node| node.domain.is_empty()).find_map(|node| {
        match node.operator.as_str() {
            // It puts the odd pixel after, as SAME_UPPER does.
            operator if node.text("auto_pad") == Some("SAME_LOWER") => {
                Some(format!("it computes {operator} with auto_pad SAME_LOWER wrongly"))
            }
            // It pads with the number 0 instead of the zero point, and counts the edge wrongly.
            "ConvInteger" => {
                let pads = node.numbers.get("pads").is_some_and(|pads| pads.iter().any(|pad| *pad != 0));
                let auto = node.text("auto_pad").is_some_and(|pad| pad.starts_with("SAME"));
                (pads || auto).then(|| "it computes ConvInteger with padding wrongly".to_owned())
            }
            "Resize" if node.text("mode") == Some("cubic") => {
                Some("it computes Resize with cubic interpolation wrongly".to_owned())
            }
            // Where a place falls on the border of two pixels it rounds the other way.
            "Resize"
                if matches!(node.text("nearest_mode"), Some("floor" | "ceil"))
                    && node.text("mode").unwrap_or("nearest") == "nearest"
                    && node
                        .text("coordinate_transformation_mode")
                        .is_none_or(|mode| mode.ends_with("half_pixel")) =>
            {
                Some("it computes Resize to the nearest half pixel, rounded down or up, wrongly".to_owned())
            }
            // It keeps the number, and every other than 0 is true.
            "Cast" if node.number("to") == Some(ONNX_BOOL) => {
                Some("it computes Cast to booleans wrongly".to_owned())
            }
            operator if operator.starts_with("Reduce") && node.number("noop_with_empty_axes") == Some(1) => {
                Some(format!("it computes {operator} with noop_with_empty_axes wrongly"))
            }
            // Until opset 13 all axes from this one on were one list; rten takes the one axis,
            // and the last one unless named.
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

/// Whether a value is known to have two axes.
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
