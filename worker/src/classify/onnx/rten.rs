//! The engine that is always available: rten, written in Rust and compiled in.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, anyhow};
use eirs_platform::version;
use rten::{DataType, Dimension, ModelOptions, NodeId, RunOptions, ThreadPool, ValueType, ValueView};
use rten_tensor::{AsView, Layout, Tensor, TensorView};

use super::{Engine, Session, Source, input::Element, output::Answer, plain::plain};
use crate::classify::Port;

/// The version in Cargo.toml; the library does not report it.
pub(super) const NAME: &str = "rten 0.27";

pub(super) struct Rten {
    model: Arc<rten::Model>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

impl Rten {
    pub(super) fn load(source: &Source) -> anyhow::Result<Self> {
        // Weights are not prepacked: that would hold them twice, and was not faster when measured.
        let mut options = ModelOptions::with_all_ops();
        let model = match source {
            Source::BuiltIn(bytes) => options.load_static_slice(bytes),
            Source::File(path) => match given(path).context("it cannot be read")? {
                Some((model, weights)) => {
                    for (name, bytes) in weights {
                        options.external_data(&name, bytes);
                    }
                    options.load(model)
                }
                None => options.load_file(path),
            },
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

/// A model, and its weight files by name.
type Given = (Vec<u8>, Vec<(String, Vec<u8>)>);

/// Reads the files of a model that rten 0.27 would not find by itself (`external_data.rs`), else
/// returns `None`. rten recognises ONNX by the extension only. It resolves a symlink to the model
/// before it looks for weights beside it, so it finds none in the cache of Hugging Face, whose
/// files link to another folder. It does not read weights from subfolders, or with an extension
/// that does not start with `data` or `onnx_data`.
fn given(path: &Path) -> std::io::Result<Option<Given>> {
    let is_onnx = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("onnx"));
    let found = version::weights(path);
    let weights = found.files();
    let is_known = |name: &str| {
        let ending = Path::new(name).extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        !name.contains('/') && (ending.starts_with("data") || ending.starts_with("onnx_data"))
    };
    let finds_all = !path.is_symlink() && weights.iter().all(|(name, _)| is_known(name));
    if is_onnx && (weights.is_empty() || finds_all) {
        return Ok(None);
    }
    let model = std::fs::read(path)?;
    if weights.is_empty() {
        return Ok(Some((model, Vec::new())));
    }
    let (model, files) = found.numbered(&model);
    let read = |(name, file): (String, _)| Ok((name, std::fs::read::<PathBuf>(file)?));
    Ok(Some((model, files.into_iter().map(read).collect::<std::io::Result<_>>()?)))
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
        // One thread per session, since the sessions use the cores.
        let pool = Arc::new(ThreadPool::with_num_threads(1));
        Ok(Box::new(RtenSession { model: Arc::clone(&self.model), pool }))
    }

    /// rten finds unsupported uses of an operator only when it runs it.
    fn is_sure(&self) -> bool {
        false
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
            // rten converts the others to 32 bits when it loads a model.
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

    /// Encodes a protocol buffer field with bytes.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }

    /// Encodes a model that contains only a tensor in another file.
    fn model(location: &str) -> Vec<u8> {
        let entry = [field(1, b"location"), field(2, location.as_bytes())].concat();
        field(7, &field(5, &field(13, &entry)))
    }

    /// Checks that the model and the bytes of its weights are given to rten.
    fn check(path: &Path, weights: &[u8]) {
        let (copy, given) = given(path).unwrap().expect("a model in memory");
        assert_eq!(copy, model("0.data"));
        assert_eq!(given, [("0.data".to_owned(), weights.to_vec())]);
    }

    #[test]
    fn a_linked_model_gets_the_weights_beside_the_link() {
        let cache = tempfile::tempdir().unwrap();
        let path = |name: &str| cache.path().join(name);
        fs::create_dir_all(path("blobs")).unwrap();
        fs::create_dir_all(path("snapshot")).unwrap();
        fs::write(path("blobs/1a"), model("model.onnx_data")).unwrap();
        fs::write(path("blobs/2b"), "weights").unwrap();
        symlink("../blobs/1a", path("snapshot/model.onnx")).unwrap();
        symlink("../blobs/2b", path("snapshot/model.onnx_data")).unwrap();
        check(&path("snapshot/model.onnx"), b"weights");
    }

    #[test]
    fn only_weights_that_rten_does_not_find_are_given_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("sub")).unwrap();
        for name in ["w.bin", "w", "conv1.weight", "sub/w.data", "./w.bin"] {
            fs::write(path("a.onnx"), model(name)).unwrap();
            fs::write(path(name), name).unwrap();
            check(&path("a.onnx"), name.as_bytes());
        }
        fs::write(path("b.onnx"), model("w.data")).unwrap();
        fs::write(path("w.data"), "weights").unwrap();
        assert!(given(&path("b.onnx")).unwrap().is_none());
        fs::rename(path("b.onnx"), path("b.model")).unwrap();
        check(&path("b.model"), b"weights");
    }
}
