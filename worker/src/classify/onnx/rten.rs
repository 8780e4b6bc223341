//! The engine that is always there: rten, in Rust, compiled in.

use std::sync::Arc;

use anyhow::{Context, anyhow};
use rten::{DataType, Dimension, ModelOptions, NodeId, RunOptions, ThreadPool, ValueType, ValueView};
use rten_tensor::{AsView, NdTensorView, Tensor};

use super::{Engine, Session, Source};
use crate::classify::Port;

/// As Cargo.toml asks for it; the library does not tell.
const NAME: &str = "rten 0.27";

pub(super) struct Rten {
    model: Arc<rten::Model>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

impl Rten {
    pub(super) fn load(source: &Source) -> anyhow::Result<Self> {
        // Weights are not packed ahead for the processor: that would hold them twice, and measured no faster.
        let options = ModelOptions::with_all_ops();
        let model = match source {
            Source::BuiltIn(bytes) => options.load_static_slice(bytes),
            // A file with another ending is not believed to be ONNX, but its bytes are.
            Source::File(path) if path.extension().is_some_and(|end| end.eq_ignore_ascii_case("onnx")) => {
                options.load_file(path)
            }
            Source::File(path) => {
                options.load(std::fs::read(path).with_context(|| format!("{source}: cannot be read"))?)
            }
        };
        let model = model.map_err(|error| anyhow!("{source}: rten cannot load this model: {error}"))?;
        let ports = |ids: &[NodeId]| ids.iter().map(|id| port(&model, *id)).collect();
        Ok(Self {
            inputs: ports(model.input_ids()),
            outputs: ports(model.output_ids()),
            model: Arc::new(model),
        })
    }
}

fn port(model: &rten::Model, id: NodeId) -> Port {
    let info = model.node_info(id);
    let dimensions = info.as_ref().and_then(|info| info.shape()).unwrap_or_default();
    let kind = match info.as_ref().and_then(|info| info.dtype()) {
        Some(ValueType::Tensor(DataType::Float)) => "f32".to_owned(),
        Some(other) => other.to_string(),
        None => "unknown".to_owned(),
    };
    Port {
        name: info.and_then(|info| info.name()).unwrap_or_default().to_owned(),
        kind,
        shape: dimensions
            .into_iter()
            .map(|dimension| match dimension {
                Dimension::Fixed(side) => Some(side),
                Dimension::Symbolic(_) => None,
            })
            .collect(),
    }
}

impl Engine for Rten {
    fn name(&self) -> &str {
        NAME
    }

    fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    fn session(&self) -> anyhow::Result<Box<dyn Session>> {
        // A pool of one thread each: the sessions are what uses the cores.
        let pool = Arc::new(ThreadPool::with_num_threads(1));
        Ok(Box::new(RtenSession { model: Arc::clone(&self.model), pool }))
    }
}

struct RtenSession {
    model: Arc<rten::Model>,
    pool: Arc<ThreadPool>,
}

impl Session for RtenSession {
    fn run(
        &mut self,
        shape: [usize; 4],
        input: &[f32],
        output: usize,
        answer: &mut Vec<f32>,
    ) -> anyhow::Result<()> {
        let (ins, outs) = (self.model.input_ids(), self.model.output_ids());
        let id = *ins.first().context("the model has no input")?;
        let wanted = *outs.get(output).context("the model has no such output")?;
        let view = ValueView::from(NdTensorView::from_data(shape, input));
        let options = RunOptions::default().with_thread_pool(Some(Arc::clone(&self.pool)));
        let values = self.model.run(vec![(id, view.into())], &[wanted], Some(options))?;
        let value = values.into_iter().next().context("the model gave no output")?;
        let tensor: Tensor<f32> = value.try_into()?;
        answer.clear();
        answer.extend(tensor.iter().copied());
        Ok(())
    }
}
