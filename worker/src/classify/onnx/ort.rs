//! The fast engine: Microsoft's ONNX Runtime, a library that is opened at run time if it is
//! present.

mod library;

use std::{
    ffi::CString,
    ptr::NonNull,
    sync::{Arc, Mutex},
};

use anyhow::{Context, anyhow, bail, ensure};
use eirs_platform::settings::{Model, Provider};
use ort::{
    AsPointer,
    ep::{self, ExecutionProvider, ExecutionProviderDispatch},
    session::{Session as OrtSession, builder::GraphOptimizationLevel},
    value::{DynMap, DynMapValueType, DynValue, TensorElementType, TensorRef, ValueType},
};

pub(super) use self::library::{Missing, Runtime, library, runtime};
use super::{Engine, Session, Source, input::Element, output::Answer, plain::plain};
use crate::classify::Port;

pub(super) struct Ort {
    name: String,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    /// Shared by all threads, since each session would hold its own copy of the weights in the
    /// layout of the processor.
    session: Arc<Shared>,
}

/// A session that several threads run concurrently, with the names of its inputs and outputs.
struct Shared {
    session: OrtSession,
    inputs: Vec<CString>,
    outputs: Vec<CString>,
    /// Taken during a run with a provider other than the CPU, where concurrent runs fail.
    one_at_a_time: Option<Mutex<()>>,
}

impl Ort {
    pub(super) fn load(
        runtime: Runtime,
        model: &Model,
        source: &Source,
        fuses_norms: bool,
    ) -> anyhow::Result<Self> {
        let session = new_session(&runtime, model, source, fuses_norms)?;
        let inputs: Vec<_> =
            session.inputs().iter().map(|outlet| port(outlet.name(), outlet.dtype())).collect();
        let outputs: Vec<_> =
            session.outputs().iter().map(|outlet| port(outlet.name(), outlet.dtype())).collect();
        let name = |port: &Port| CString::new(port.name.as_str()).context("a name with a zero in it");
        let shared = Shared {
            inputs: inputs.iter().map(name).collect::<anyhow::Result<_>>()?,
            outputs: outputs.iter().map(name).collect::<anyhow::Result<_>>()?,
            session,
            one_at_a_time: (model.provider != Provider::Cpu).then(Mutex::default),
        };
        let name = match model.provider {
            Provider::Cpu => runtime.name().to_owned(),
            provider => format!("{} on {}", runtime.name(), name_of(provider)),
        };
        Ok(Self { name, inputs, outputs, session: Arc::new(shared) })
    }
}

fn port(name: &str, kind: &ValueType) -> Port {
    Port {
        name: name.to_owned(),
        kind: match kind.tensor_type() {
            Some(TensorElementType::Float32) => "f32".to_owned(),
            Some(other) => other.to_string(),
            None => kind.to_string(),
        },
        shape: kind
            .tensor_shape()
            .map_or(Vec::new(), |shape| shape.iter().map(|&d| usize::try_from(d).ok()).collect()),
    }
}

fn new_session(
    runtime: &Runtime,
    model: &Model,
    source: &Source,
    fuses_norms: bool,
) -> anyhow::Result<OrtSession> {
    let provider = provider(model.provider, runtime)?;
    let build = || -> ort::Result<OrtSession> {
        let mut builder = OrtSession::builder(runtime.environment())?
            // With 1, the calling thread does the work: concurrent images use the cores better than
            // parallel parts of one image.
            .with_intra_threads(model.engine_threads)?
            .with_inter_threads(1)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            // A memory plan costs a second block of memory in addition to that of the first run,
            // and saves no measurable time.
            .with_memory_pattern(false)?
            // Converts integer weights to floats once, at load, instead of in each run, which would
            // take twice as long.
            .with_quant_qdq(false)?
            // ONNX Runtime 1.32 merges two successive quantizations into one, which changes the
            // results.
            .with_double_qdq_remover(false)?;
        if !fuses_norms {
            let fusions = "LayerNormFusionL1;LayerNormFusionL2";
            builder = builder.with_config_entry("optimization.disable_specified_optimizers", fusions)?;
        }
        let cpu = (!model.memory_arena).then(|| ep::CPU::default().with_arena_allocator(false).build());
        let providers: Vec<_> = provider.into_iter().chain(cpu).collect();
        if !providers.is_empty() {
            builder = builder.with_execution_providers(providers)?;
        }
        match source {
            Source::BuiltIn(bytes) => builder.commit_from_memory(bytes),
            Source::File(path) => builder.commit_from_file(path),
        }
    };
    build().map_err(|error| anyhow!("{}", plain(&error.to_string())))
}

fn name_of(provider: Provider) -> &'static str {
    match provider {
        Provider::Cpu => "cpu",
        Provider::Cuda => "cuda",
        Provider::TensorRt => "tensorrt",
        Provider::OpenVino => "openvino",
        Provider::CoreMl => "coreml",
    }
}

/// Returns the execution provider; `None` for the CPU.
fn provider(provider: Provider, runtime: &Runtime) -> anyhow::Result<Option<ExecutionProviderDispatch>> {
    fn is_there<P: ExecutionProvider>() -> bool {
        P::is_available().unwrap_or(false)
    }
    let (there, dispatch) = match provider {
        Provider::Cpu => return Ok(None),
        Provider::Cuda => (is_there::<ep::CUDA>(), ep::CUDA::default().build()),
        Provider::TensorRt => (is_there::<ep::TensorRT>(), ep::TensorRT::default().build()),
        Provider::OpenVino => (is_there::<ep::OpenVINO>(), ep::OpenVINO::default().build()),
        Provider::CoreMl => (is_there::<ep::CoreML>(), ep::CoreML::default().build()),
    };
    let name = name_of(provider);
    let package = match provider {
        Provider::Cuda | Provider::TensorRt => ", such as that of the Python package `onnxruntime-gpu`",
        Provider::OpenVino => ", such as that of the Python package `onnxruntime-openvino`",
        Provider::CoreMl => ", such as that for macOS",
        Provider::Cpu => "",
    };
    ensure!(
        there,
        "provider: {} was built without {name}; set onnxruntime to a library that has it{package}",
        runtime.path().display()
    );
    Ok(Some(dispatch.error_on_failure()))
}

impl Engine for Ort {
    fn name(&self) -> &str {
        &self.name
    }

    fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    fn session(&self) -> anyhow::Result<Box<dyn Session>> {
        Ok(Box::new(Running(Arc::clone(&self.session))))
    }

    /// ONNX Runtime finds the kernel of every operator at load, and infers all shapes from that of
    /// the input. A GPU may run out of memory later.
    fn is_sure(&self) -> bool {
        self.session.one_at_a_time.is_none()
    }
}

struct Running(Arc<Shared>);

impl Shared {
    /// Runs the model and returns the output with index `output`.
    ///
    /// `ort` (2.0.0-rc.15) lends a session to one thread at a time, because concurrent runs fail
    /// with some execution providers, such as CUDA. The CPU provider is used here, for which ONNX
    /// Runtime (1.24, `inference_session.h`) documents `Run` as safe for several threads; its arena
    /// and its plans have their own locks. So the library is called directly. See
    /// docs/decisions/0013-one-session.md for the benefits and costs.
    #[expect(unsafe_code, reason = "ONNX Runtime has a C API")]
    fn run(&self, index: usize, input: *const ort::sys::OrtValue, output: usize) -> anyhow::Result<DynValue> {
        let name = self.inputs.get(index).context("the model has no such input")?;
        let output = self.outputs.get(output).context("the model has no such output")?;
        let _alone =
            self.one_at_a_time.as_ref().map(|lock| lock.lock().unwrap_or_else(|held| held.into_inner()));
        let mut answer = std::ptr::null_mut();
        // SAFETY: session, input and names are valid until the call returns, each list has one
        // entry as its length says, and the answer is an owned value, which `DynValue` releases.
        // `Run` changes nothing in the session that threads share without a lock.
        unsafe {
            let status = (ort::api().Run)(
                self.session.ptr().cast_mut(),
                std::ptr::null(),
                [name.as_ptr()].as_ptr(),
                [input].as_ptr(),
                1,
                [output.as_ptr()].as_ptr(),
                1,
                &raw mut answer,
            );
            ort::Error::result_from_status(status)
                .map_err(|error| anyhow!("{}", plain(&error.to_string())))?;
            let answer = NonNull::new(answer).context("the model gave no output")?;
            Ok(DynValue::from_ptr(answer, Some(self.session.allocator())))
        }
    }
}

impl Session for Running {
    fn run(
        &mut self,
        (index, element): (usize, Element),
        shape: &[usize],
        numbers: &[f32],
        output: usize,
        answer: &mut Answer,
    ) -> anyhow::Result<()> {
        let shape = shape.to_vec();
        let given = match element {
            Element::F32 => {
                let tensor = TensorRef::from_array_view((shape, numbers))?;
                self.0.run(index, tensor.ptr(), output)
            }
            Element::F16 => {
                let halves: Vec<_> = numbers.iter().copied().map(half::f16::from_f32).collect();
                let tensor = TensorRef::from_array_view((shape, halves.as_slice()))?;
                self.0.run(index, tensor.ptr(), output)
            }
            Element::F64 => {
                let doubles: Vec<_> = numbers.iter().copied().map(f64::from).collect();
                let tensor = TensorRef::from_array_view((shape, doubles.as_slice()))?;
                self.0.run(index, tensor.ptr(), output)
            }
            Element::U8 => {
                let bytes: Vec<_> = numbers.iter().copied().map(super::byte).collect();
                let tensor = TensorRef::from_array_view((shape, bytes.as_slice()))?;
                self.0.run(index, tensor.ptr(), output)
            }
        };
        read(&given?, answer)
    }
}

/// Copies the numbers of an output.
fn read(given: &DynValue, answer: &mut Answer) -> anyhow::Result<()> {
    answer.values.clear();
    answer.shape.clear();
    answer.names = None;
    if let ValueType::Sequence(_) = given.dtype() {
        return read_maps(&given.try_extract_sequence::<DynMapValueType>()?, answer);
    }
    let shape = match given.dtype().tensor_type() {
        Some(TensorElementType::Float32) => {
            let (shape, values) = given.try_extract_tensor::<f32>()?;
            answer.values.extend_from_slice(values);
            shape
        }
        Some(TensorElementType::Float16) => {
            let (shape, values) = given.try_extract_tensor::<half::f16>()?;
            answer.values.extend(values.iter().map(|value| value.to_f32()));
            shape
        }
        Some(TensorElementType::Float64) => {
            let (shape, values) = given.try_extract_tensor::<f64>()?;
            answer.values.extend(values.iter().map(|value| *value as f32));
            shape
        }
        _ => bail!("its output is not of floats"),
    };
    answer.shape.extend(shape.iter().filter_map(|side| usize::try_from(*side).ok()));
    Ok(())
}

/// Copies the maps from label to score, one per image, of models of scikit-learn and Custom Vision.
fn read_maps(maps: &[DynMap], answer: &mut Answer) -> anyhow::Result<()> {
    for map in maps {
        let pairs: Vec<(String, f32)> = match map.dtype() {
            ValueType::Map { key: TensorElementType::String, .. } => {
                map.try_extract_key_values::<String, f32>()?
            }
            _ => {
                let mut pairs = map.try_extract_key_values::<i64, f32>()?;
                pairs.sort_by_key(|(label, _)| *label);
                pairs.into_iter().map(|(label, score)| (label.to_string(), score)).collect()
            }
        };
        let (names, scores): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        ensure!(
            answer.names.as_ref().is_none_or(|before| *before == names),
            "it names other labels for one image than for the next"
        );
        answer.names = Some(names);
        answer.values.extend(scores);
    }
    answer.shape = vec![maps.len(), answer.values.len() / maps.len().max(1)];
    Ok(())
}
