//! The engine that is always there: rten, in Rust, compiled in.

use std::{path::Path, sync::Arc};

use anyhow::{Context, anyhow};
use rten::{DataType, Dimension, ModelOptions, NodeId, RunOptions, ThreadPool, ValueType, ValueView};
use rten_tensor::{AsView, Layout, Tensor, TensorView};
use tempfile::TempDir;

use super::{Engine, Session, Source, input::Element, output::Answer, plain::plain};
use crate::classify::Port;

/// As Cargo.toml asks for it; the library does not say.
pub(super) const NAME: &str = "rten 0.27";
/// What a gathered model is called.
const GRAPH: &str = "model.onnx";

pub(super) struct Rten {
    model: Arc<rten::Model>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

impl Rten {
    pub(super) fn load(source: &Source) -> anyhow::Result<Self> {
        // Weights are not packed ahead for the processor: that would hold them twice, and measured
        // no faster.
        let options = ModelOptions::with_all_ops();
        let gathered = match source {
            Source::File(path) => gathered(path).context("it cannot be read")?,
            Source::BuiltIn(_) => None,
        };
        let model = match source {
            Source::BuiltIn(bytes) => options.load_static_slice(bytes),
            Source::File(_) if let Some(folder) = &gathered => options.load_file(folder.path().join(GRAPH)),
            // A file with another ending is not believed to be ONNX, but its bytes are.
            Source::File(path) if path.extension().is_some_and(|end| end.eq_ignore_ascii_case("onnx")) => {
                options.load_file(path)
            }
            Source::File(path) => options.load(std::fs::read(path).context("it cannot be read")?),
        };
        let model = model.map_err(|error| anyhow!("{}", plain(&error.to_string())))?;
        let ports = |ids: &[NodeId]| ids.iter().map(|id| port(&model, *id)).collect();
        Ok(Self {
            inputs: ports(model.input_ids()),
            outputs: ports(model.output_ids()),
            model: Arc::new(model),
        })
    }
}

/// A model in a folder of its own, as rten finds all of it. rten 0.27 (`external_data.rs`) follows
/// a link to the model before it looks for weights beside it, so that a model in the cache of
/// Hugging Face, whose files are links into another folder, has none; and a file of another ending
/// it takes as bytes, which have no folder. `None` for all others.
fn gathered(path: &Path) -> std::io::Result<Option<TempDir>> {
    let is_onnx = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("onnx"));
    if is_onnx && !path.is_symlink() {
        return Ok(None);
    }
    let weights = eirs_platform::version::weights(path);
    if weights.is_empty() {
        return Ok(None);
    }
    let folder = tempfile::tempdir()?;
    // Without its weights it is small.
    std::fs::copy(path, folder.path().join(GRAPH))?;
    // No name leads out of the folder: `weights` passes those over, and rten refuses them.
    for (name, file) in weights {
        let link = folder.path().join(name);
        if let Some(parent) = link.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::os::unix::fs::symlink(file.canonicalize()?, link)?;
    }
    Ok(Some(folder))
}

fn port(model: &rten::Model, id: NodeId) -> Port {
    let info = model.node_info(id);
    let dimensions = info.as_ref().and_then(|info| info.shape()).unwrap_or_default();
    let kind = match info.as_ref().and_then(|info| info.dtype()) {
        Some(ValueType::Tensor(DataType::Float)) => "f32".to_owned(),
        Some(ValueType::Tensor(DataType::UInt8)) => "u8".to_owned(),
        Some(ValueType::Tensor(DataType::Int8)) => "i8".to_owned(),
        Some(ValueType::Tensor(DataType::Int32)) => "i32".to_owned(),
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
        (index, element): (usize, Element),
        shape: &[usize],
        numbers: &[f32],
        output: usize,
        answer: &mut Answer,
    ) -> anyhow::Result<()> {
        let (ins, outs) = (self.model.input_ids(), self.model.output_ids());
        let id = *ins.get(index).context("the model has no such input")?;
        let wanted = *outs.get(output).context("the model has no such output")?;
        let bytes: Vec<u8>;
        let view = match element {
            Element::F32 => ValueView::from(TensorView::from_data(shape, numbers)),
            Element::U8 => {
                bytes = numbers.iter().copied().map(super::byte).collect();
                ValueView::from(TensorView::from_data(shape, bytes.as_slice()))
            }
            // rten turns the others into 32 bits when it loads a model.
            Element::F16 | Element::F64 => anyhow::bail!("its input is of a type that is not known"),
        };
        let options = RunOptions::default().with_thread_pool(Some(Arc::clone(&self.pool)));
        let values = self.model.run(vec![(id, view.into())], &[wanted], Some(options));
        let values = values.map_err(|error| anyhow!("{}", plain(&error.to_string())))?;
        let value = values.into_iter().next().context("the model gave no output")?;
        let tensor: Tensor<f32> =
            value.try_into().map_err(|_| anyhow!("its output is not of 32-bit floats"))?;
        answer.values.clear();
        answer.values.extend(tensor.iter().copied());
        answer.shape.clear();
        answer.shape.extend_from_slice(tensor.shape().as_ref());
        answer.names = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    /// A field of a protocol buffer that holds bytes.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }

    /// A model of which all that is there is a tensor in another file.
    fn model(location: &str) -> Vec<u8> {
        let entry = [field(1, b"location"), field(2, location.as_bytes())].concat();
        field(7, &field(5, &field(13, &entry)))
    }

    #[test]
    fn a_model_that_is_a_link_is_gathered_with_the_weights_beside_the_link() {
        let cache = tempfile::tempdir().unwrap();
        let path = |name: &str| cache.path().join(name);
        fs::create_dir_all(path("blobs")).unwrap();
        fs::create_dir_all(path("snapshot")).unwrap();
        fs::write(path("blobs/1a"), model("model.onnx_data")).unwrap();
        fs::write(path("blobs/2b"), "weights").unwrap();
        symlink("../blobs/1a", path("snapshot/model.onnx")).unwrap();
        symlink("../blobs/2b", path("snapshot/model.onnx_data")).unwrap();
        let folder = gathered(&path("snapshot/model.onnx")).unwrap().expect("a folder");
        assert_eq!(fs::read(folder.path().join(GRAPH)).unwrap(), model("model.onnx_data"));
        assert_eq!(fs::read(folder.path().join("model.onnx_data")).unwrap(), b"weights");
    }

    #[test]
    fn a_model_that_rten_finds_by_itself_is_left_where_it_is_and_no_name_leads_out_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("a.onnx"), model("w.bin")).unwrap();
        fs::write(path("w.bin"), "weights").unwrap();
        assert!(gathered(&path("a.onnx")).unwrap().is_none());
        fs::create_dir(path("in")).unwrap();
        fs::write(path("in/model"), model("../w.bin")).unwrap();
        assert!(gathered(&path("in/model")).unwrap().is_none());
    }
}
