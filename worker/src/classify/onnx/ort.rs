//! The fast engine: Microsoft's ONNX Runtime, a library that is opened at run time if it is
//! present.

use std::{
    ffi::CString,
    path::{Path, PathBuf},
    ptr::NonNull,
    sync::{Arc, Mutex},
};

use anyhow::{Context, anyhow, bail, ensure};
use eirs_platform::settings::{Model, Provider};
use ort::{
    AsPointer, LoadDynamicError,
    environment::Environment,
    ep::{self, ExecutionProvider, ExecutionProviderDispatch},
    logging::LogLevel,
    session::{Session as OrtSession, builder::GraphOptimizationLevel},
    value::{DynMap, DynMapValueType, DynValue, TensorElementType, TensorRef, ValueType},
};

use super::{Engine, Session, Source, input::Element, output::Answer, plain::plain};
use crate::classify::Port;

/// The oldest supported version, as required by the `api-24` feature of `ort`. Later versions with
/// the same major version are compatible.
const OLDEST: &str = "1.24";
const MAJOR: &str = "1.";

/// The library with its environment and its path. A process can have only one.
static RUNTIME: Mutex<Option<Runtime>> = Mutex::new(None);

/// The opened ONNX Runtime library.
#[derive(Clone)]
pub(super) struct Runtime {
    environment: Environment,
    library: PathBuf,
    name: String,
}

impl Runtime {
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// The reason why ONNX Runtime cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Missing {
    /// None of the usual places has the library.
    #[error("no ONNX Runtime library (libonnxruntime.so, version {OLDEST} or a later {MAJOR}x) in {0}")]
    NotFound(String),
    /// The library exists, but cannot be used.
    #[error("{library}: cannot be used as the ONNX Runtime library: {why}", library = .0.display(), why = .1)]
    Unusable(PathBuf, String),
}

/// Returns the library that would be opened: the configured one, or the first in the usual places.
pub(super) fn library(set: Option<&Path>) -> Option<PathBuf> {
    set.map(Path::to_owned).or_else(|| found_in(&usual_places()).into_iter().next())
}

/// Opens the library once per process: the configured one, or the first in the usual places.
pub(super) fn runtime(set: Option<&Path>) -> Result<Runtime, Missing> {
    let mut runtime = RUNTIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(open) = &*runtime {
        // The first library stays, since a process cannot replace it.
        if let Some(other) = set.filter(|set| std::fs::canonicalize(set).ok().as_ref() != Some(&open.library))
        {
            let why = format!("this process already uses {}", open.library.display());
            return Err(Missing::Unusable(other.to_owned(), why));
        }
        return Ok(open.clone());
    }
    let candidates = match set {
        Some(set) => vec![set.to_owned()],
        None => found_in(&usual_places()),
    };
    let mut first_problem = None;
    for library in candidates {
        match open(&library) {
            Ok(opened) => return Ok(runtime.insert(opened).clone()),
            Err(problem) => first_problem.get_or_insert(problem),
        };
    }
    Err(first_problem.unwrap_or_else(|| {
        let places: Vec<_> = usual_places().iter().map(|place| place.display().to_string()).collect();
        Missing::NotFound(places.join(", "))
    }))
}

fn open(library: &Path) -> Result<Runtime, Missing> {
    let unusable = |why: String| Missing::Unusable(library.to_owned(), why);
    let library = std::fs::canonicalize(library).map_err(|error| unusable(error.to_string()))?;
    // Opening another kind of library may fail in any way, including an assertion in `ort`.
    let opened = std::panic::catch_unwind(|| -> anyhow::Result<Environment> {
        let builder = ort::init_from(&library).map_err(unfit)?;
        // Warnings concern its own optimisations; errors are also returned as results.
        let logger = |level: LogLevel, _: &str, _: &str, place: &str, text: &str| match level {
            LogLevel::Fatal | LogLevel::Error => tracing::debug!(place, "ONNX Runtime: {text}"),
            LogLevel::Verbose | LogLevel::Info | LogLevel::Warning => {
                tracing::trace!(place, "ONNX Runtime: {text}")
            }
        };
        Ok(builder
            .with_name("eirs")
            .with_telemetry(false)
            .with_logger(std::sync::Arc::new(logger))
            .build()?)
    });
    let environment = match opened {
        Ok(Ok(environment)) => environment,
        Ok(Err(error)) => return Err(unusable(error.to_string())),
        Err(panic) => return Err(unusable(crate::classify::panic_text(&*panic).to_owned())),
    };
    let version = version(ort::info(), &library);
    if let Some(version) = version.as_deref().filter(|version| !version.starts_with(MAJOR)) {
        return Err(unusable(format!("it is version {version}, and {OLDEST} or a later {MAJOR}x is needed")));
    }
    let name = version.map_or("onnxruntime".to_owned(), |version| format!("onnxruntime {version}"));
    Ok(Runtime { environment, library, name })
}

/// Describes the problem of a library, without its path.
fn unfit(error: LoadDynamicError) -> anyhow::Error {
    match error {
        LoadDynamicError::BadVersion { version_str, .. } => {
            anyhow!("it is version {version_str}, and {OLDEST} or a later {MAJOR}x is needed")
        }
        LoadDynamicError::MissingApi { .. } => anyhow!("it is another library"),
        LoadDynamicError::Dlopen { error, .. } => anyhow!("{error}"),
        LoadDynamicError::InvalidVersionString => anyhow!("its version cannot be read"),
    }
}

/// Returns the version, from the name of the file or from the build information.
fn version(build: &str, library: &Path) -> Option<String> {
    let branch = build.split("git-branch=rel-").nth(1).and_then(|rest| rest.split(',').next());
    let file = library.file_name().and_then(|name| name.to_str());
    let suffix = file.and_then(|name| name.split(".so.").nth(1)).filter(|suffix| suffix.contains('.'));
    suffix.or(branch).map(str::to_owned)
}

/// Returns the places to search for the library, in order.
fn usual_places() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let executable = std::env::current_exe().ok();
    let beside = executable.as_deref().and_then(Path::parent);
    let cache = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
    [
        variable("ORT_DYLIB_PATH"),
        beside.map(Path::to_owned),
        beside.and_then(Path::parent).map(|prefix| prefix.join("lib/eirs")),
        cache.map(|cache| cache.join("eirs/onnxruntime")),
    ]
    .into_iter()
    .flatten()
    .chain(["/usr/lib/eirs", "/usr/local/lib", "/usr/lib", "/usr/lib/x86_64-linux-gnu"].map(PathBuf::from))
    .collect()
}

/// Returns the libraries in these places, each of which is a folder or a file. Within a folder, the
/// newest comes first.
fn found_in(places: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for place in places {
        if place.is_file() {
            found.push(place.clone());
            continue;
        }
        let names = std::fs::read_dir(place).into_iter().flatten().flatten().map(|entry| entry.path());
        let is_library = |path: &PathBuf| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with("libonnxruntime.so"))
        };
        let mut here: Vec<_> = names.filter(is_library).collect();
        // Numbers must be compared as numbers: 1.9 is older than 1.10.
        here.sort_by_key(|path| {
            let name = path.to_string_lossy().into_owned();
            std::cmp::Reverse(name.split('.').filter_map(|part| part.parse::<u32>().ok()).collect::<Vec<_>>())
        });
        found.append(&mut here);
    }
    found
}

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
            Provider::Cpu => runtime.name,
            provider => format!("{} on {}", runtime.name, name_of(provider)),
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
        let mut builder = OrtSession::builder(&runtime.environment)?
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
        runtime.library.display()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_library_in_a_folder_is_first_and_a_file_is_used_directly() {
        let folder = tempfile::tempdir().unwrap();
        for name in
            ["libonnxruntime.so.1.9.0", "libonnxruntime.so.1.24.1", "libonnxruntime_providers_shared.so"]
        {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let named = folder.path().join("libonnxruntime_providers_shared.so");
        let found = found_in(&[folder.path().join("nowhere"), folder.path().to_owned(), named.clone()]);
        let expected =
            ["libonnxruntime.so.1.24.1", "libonnxruntime.so.1.9.0"].map(|name| folder.path().join(name));
        assert_eq!(found[..2], expected);
        assert_eq!(found[2..], [named]);
    }

    #[test]
    fn the_version_is_that_of_the_file_name_or_else_of_the_build() {
        let build = "ORT Build Info: git-branch=rel-1.24.2, git-commit-id=26250ae, build type=Release";
        assert_eq!(version(build, Path::new("/x/libonnxruntime.so.1.24.1")).unwrap(), "1.24.1");
        assert_eq!(version(build, Path::new("/x/libonnxruntime.so.1")).unwrap(), "1.24.2");
        assert_eq!(version("", Path::new("/x/libonnxruntime.so")), None);
    }

    #[test]
    fn the_error_names_a_file_that_is_not_a_library() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = open(file.path()).err().unwrap().to_string();
        assert!(error.contains(&file.path().display().to_string()), "{error}");
    }
}
