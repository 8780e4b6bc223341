//! Any image-classification model in an ONNX file, on one of two engines: ONNX Runtime where its library is found, or
//! else rten, which is compiled in.

mod labels;
mod ort;
mod preprocess;
mod rten;
mod scores;

use std::{
    fmt,
    io::Read,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, anyhow, bail, ensure};
use eirs_platform::{
    job::Guess,
    settings::{self, Layout, Model},
    trace::TARGET,
};
use tracing::debug_span;

use self::{
    labels::Labels,
    preprocess::{Preprocess, Recipe},
};
use super::{Classifier, Description, Failure, Image, Loaded, Port, panic_text};

/// The files of this machine that a model needs, each with the setting that names it, or would.
pub(super) fn files(model: &Model) -> Vec<(&'static str, PathBuf)> {
    let wants_library = model.engine != settings::Engine::Rten;
    let library = wants_library.then(|| ort::library(model.onnxruntime.as_deref())).flatten();
    let named = [
        ("path", model.path.clone()),
        ("labels", model.labels_file()),
        ("check_image", model.check_image.clone()),
        ("onnxruntime", library),
    ];
    named.into_iter().filter_map(|(key, file)| Some((key, file?))).collect()
}

/// What runs a model file.
trait Engine: Send + Sync {
    /// Name and version.
    fn name(&self) -> &str;
    /// The inputs that must be given, without the weights.
    fn inputs(&self) -> &[Port];
    fn outputs(&self) -> &[Port];
    /// One more runner, for one thread.
    fn session(&self) -> anyhow::Result<Box<dyn Session>>;
}

/// Runs the model on one thread.
trait Session: Send {
    /// Puts the output of that number for `input`, an array of this shape, into `answer`.
    fn run(
        &mut self,
        shape: [usize; 4],
        input: &[f32],
        output: usize,
        answer: &mut Vec<f32>,
    ) -> anyhow::Result<()>;
}

/// Where the model comes from.
#[derive(Debug, Clone)]
enum Source {
    BuiltIn(&'static [u8]),
    File(PathBuf),
}

impl Source {
    /// The model of twelve drawn shapes, so that a fresh clone has something to classify with.
    const SHAPES: Self = Self::BuiltIn(include_bytes!("../../../models/shapes/shapes.onnx"));
    const SHAPES_LABELS: &str = include_str!("../../../models/shapes/labels.txt");

    /// Refuses early, in better words than an engine has, what is certainly no model.
    fn check(&self) -> anyhow::Result<()> {
        let Self::File(path) = self else { return Ok(()) };
        let mut start = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(64).read_to_end(&mut start))
            .with_context(|| format!("{self}: cannot be read"))?;
        ensure!(
            !start.starts_with(b"version https://git-lfs"),
            "{self}: is a Git LFS pointer, not the model itself: run `git lfs pull` where it comes from"
        );
        // Every ONNX file begins with the field `ir_version`.
        ensure!(start.first() == Some(&0x08), "{self}: is not an ONNX model");
        Ok(())
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn(_) => f.write_str("the built-in model of shapes"),
            Self::File(path) => write!(f, "model {}", path.display()),
        }
    }
}

/// A model that was loaded.
pub(super) struct Onnx(Arc<Shared>);

/// What all threads share.
struct Shared {
    source: Source,
    engine: Box<dyn Engine>,
    advice: Option<String>,
    recipe: Recipe,
    /// Images of one run, where the file fixes that.
    fixed_batch: Option<usize>,
    batch: usize,
    /// Which output holds the scores.
    output: usize,
    softmax: bool,
    labels: Vec<String>,
    top: usize,
}

impl Onnx {
    pub(super) fn load(model: &Model) -> anyhow::Result<Self> {
        let source = model.path.clone().map_or(Source::SHAPES, Source::File);
        source.check()?;
        let (engine, advice) = choose_engine(model, &source)?;
        let (side, fixed_batch) = input_size(model, &source, engine.inputs())?;
        let mut labels = match &source {
            Source::BuiltIn(_) if model.labels.is_none() => Some(Labels::built_in(Source::SHAPES_LABELS)),
            Source::BuiltIn(_) => Labels::find(model.labels.as_deref(), Path::new(""))?,
            Source::File(path) => Labels::find(model.labels.as_deref(), path)?,
        };
        let output =
            choose_output(&source, engine.outputs(), labels.as_ref().map(|labels| labels.names.len()))?;

        // One inference shows how many classes there are, and that the model runs at all.
        let recipe = Recipe::new(model, side);
        let rows = fixed_batch.unwrap_or(1);
        let mut answer = Vec::new();
        let probe = catch_unwind(AssertUnwindSafe(|| {
            engine.session()?.run(recipe.shape(rows), &vec![0.0; recipe.len() * rows], output, &mut answer)
        }));
        let probe =
            probe.unwrap_or_else(|panic| Err(anyhow!("the engine panicked: {}", panic_text(&*panic))));
        probe.map_err(|error| anyhow!("{source}: {} cannot run this model: {error}", engine.name()))?;
        let classes = answer.len() / rows;
        ensure!(
            classes > 0 && answer.len() == classes * rows,
            "{source}: the output {} is not a list of scores",
            engine.outputs()[output]
        );
        let labels = labels.get_or_insert_with(|| Labels::numbers(classes));
        labels.check(classes).with_context(|| format!("{source}: labels and outputs do not fit"))?;

        let loaded = Self(Arc::new(Shared {
            source,
            engine,
            advice,
            recipe,
            fixed_batch,
            batch: model.batch.max(1),
            output,
            softmax: model.softmax,
            labels: std::mem::take(&mut labels.names),
            top: model.top.max(1),
        }));
        if let (Some(image), Some(label)) = (&model.check_image, &model.check_label) {
            loaded.check(image, label)?;
        }
        Ok(loaded)
    }

    /// Refuses a model that does not recognise what it must.
    fn check(&self, image: &Path, label: &str) -> anyhow::Result<()> {
        let answers = self.classifier()?.classify(&[super::read_image(image).context("check_image")?]);
        let place = format!("{}: check_image {}", self.0.source, image.display());
        let best = match answers.into_iter().next() {
            Some(Ok(guesses)) => guesses.into_iter().next().context("no guess")?,
            Some(Err(failure)) => bail!("{place}: {failure}"),
            None => bail!("{place}: no answer"),
        };
        ensure!(
            best.label.eq_ignore_ascii_case(label.trim()),
            "{place}: the label is {:?} ({:.0} %), not {label:?} as check_label says; size, \
            channels, divide_by, mean, std and labels must be those of the training",
            best.label,
            best.confidence * 100.0
        );
        Ok(())
    }
}

/// The engine of the settings, and what would be better.
fn choose_engine(model: &Model, source: &Source) -> anyhow::Result<(Box<dyn Engine>, Option<String>)> {
    let set = model.onnxruntime.as_deref();
    let runtime = match model.engine {
        settings::Engine::Rten => None,
        settings::Engine::Onnxruntime => {
            Some(ort::runtime(set).map_err(|missing| anyhow!("engine onnxruntime: {missing}"))?)
        }
        settings::Engine::Auto => match ort::runtime(set) {
            Ok(runtime) => Some(runtime),
            Err(missing @ ort::Missing::Unusable(..)) => {
                tracing::warn!("{missing}; using rten instead");
                None
            }
            Err(ort::Missing::NotFound(_)) => None,
        },
    };
    if let Some(runtime) = runtime {
        return Ok((Box::new(ort::Ort::load(runtime, source)?), None));
    }
    let advice = (model.engine == settings::Engine::Auto)
        .then(|| "the ONNX Runtime library would make this up to four times faster".to_owned());
    let loaded = catch_unwind(|| rten::Rten::load(source));
    let loaded =
        loaded.unwrap_or_else(|panic| Err(anyhow!("{source}: rten panicked on it: {}", panic_text(&*panic))));
    let engine = loaded.map_err(|error| match model.engine {
        settings::Engine::Auto => anyhow!(
            "{error}; ONNX Runtime, which was not found here, may \
            support it"
        ),
        _ => error,
    })?;
    Ok((Box::new(engine), advice))
}

/// The side of the square that the model sees, and the number of images of one run where that is fixed.
fn input_size(model: &Model, source: &Source, inputs: &[Port]) -> anyhow::Result<(u32, Option<usize>)> {
    let [input] = inputs else {
        bail!("{source}: has {} inputs where one is expected: an image", inputs.len());
    };
    ensure!(input.kind == "f32", "{source}: its input {input} does not take 32-bit floats");
    let [batch, a, b, c] = input.shape[..] else {
        bail!("{source}: its input {input} is not images: four dimensions are expected");
    };
    let (channels, height, width, name, other) = match model.layout {
        Layout::Nchw => (a, b, c, "nchw", ("nhwc", c)),
        Layout::Nhwc => (c, a, b, "nhwc", ("nchw", a)),
    };
    if let Some(channels) = channels.filter(|channels| *channels != 3) {
        let hint = match other {
            (layout, Some(3)) => format!(": set layout = \"{layout}\""),
            _ => String::new(),
        };
        bail!("{source}: its input {input} has {channels} channels in layout {name}, not 3{hint}");
    }
    let side = match (height, width) {
        (Some(height), Some(width)) if height != width => bail!("{source}: its input {input} is not square"),
        (Some(side), _) | (None, Some(side)) => u32::try_from(side).context("an input of this size")?,
        (None, None) => {
            ensure!(model.size > 0, "{source}: its input {input} leaves the size open: set size");
            model.size
        }
    };
    ensure!((1..=4096).contains(&side), "{source}: its input {input} is not of a size from 1 to 4096 pixels");
    ensure!(
        model.size == 0 || model.size == side,
        "{source}: its input {input} is {side} pixels wide, but size is set to {}",
        model.size
    );
    ensure!(
        model.resize == 0 || model.resize >= side,
        "{source}: sees {side} pixels, but resize is set to {}, so that the centre cut would \
        exceed the image",
        model.resize
    );
    Ok((side, batch.filter(|batch| *batch > 0)))
}

/// The first output that can hold scores, or better one with as many as there are labels.
fn choose_output(source: &Source, outputs: &[Port], labels: Option<usize>) -> anyhow::Result<usize> {
    let scores = || outputs.iter().enumerate().filter(|(_, port)| port.kind == "f32");
    let classes =
        |port: &Port| port.shape.iter().skip(1).try_fold(1usize, |product, side| Some(product * (*side)?));
    let fitting = scores().find(|(_, port)| labels.is_some() && classes(port) == labels);
    // rten does not always know the types of outputs: then the first one has to do.
    let first =
        scores().next().or_else(|| outputs.iter().enumerate().find(|(_, port)| port.kind == "unknown"));
    let all = || outputs.iter().map(Port::to_string).collect::<Vec<_>>().join(", ");
    fitting
        .or(first)
        .map(|(index, _)| index)
        .with_context(|| format!("{source}: no output of 32-bit floats in {}", all()))
}

impl Loaded for Onnx {
    fn engine(&self) -> &str {
        self.0.engine.name()
    }

    fn classifier(&self) -> anyhow::Result<Box<dyn Classifier>> {
        Ok(Box::new(self.thread()?))
    }

    fn describe(&self) -> Description {
        let Shared { source, engine, advice, recipe, labels, .. } = &*self.0;
        Description {
            model: source.to_string(),
            engine: engine.name().to_owned(),
            advice: advice.clone(),
            inputs: engine.inputs().to_owned(),
            outputs: engine.outputs().to_owned(),
            labels: labels.len(),
            first_labels: labels.iter().take(5).cloned().collect(),
            preprocessing: recipe.describe(),
        }
    }

    fn hints(&self, image: &Image) -> Vec<String> {
        let scores = self.thread().ok().and_then(|mut thread| thread.scores(image).ok());
        scores.map_or(Vec::new(), |scores| scores::hints(&scores, self.0.softmax))
    }
}

impl Onnx {
    fn thread(&self) -> anyhow::Result<OnnxClassifier> {
        Ok(OnnxClassifier {
            session: Some(self.0.engine.session()?),
            preprocess: Preprocess::new(self.0.recipe.clone()),
            shared: Arc::clone(&self.0),
            input: Vec::new(),
            answer: Vec::new(),
        })
    }
}

struct OnnxClassifier {
    shared: Arc<Shared>,
    /// `None` after a panic, which may have left it in any state.
    session: Option<Box<dyn Session>>,
    preprocess: Preprocess,
    input: Vec<f32>,
    answer: Vec<f32>,
}

impl OnnxClassifier {
    /// Runs the model on the prepared images of `input`; the scores, row by row, are in `answer`.
    fn infer(&mut self, rows: usize) -> anyhow::Result<()> {
        let Self { shared, session, input, answer, .. } = self;
        let running = match session {
            Some(running) => running,
            None => session.insert(shared.engine.session()?),
        };
        let shape = shared.recipe.shape(rows);
        let run = catch_unwind(AssertUnwindSafe(|| running.run(shape, input, shared.output, answer)));
        match run {
            Ok(result) => result?,
            Err(panic) => {
                *session = None;
                bail!("{} panicked: {}", shared.engine.name(), panic_text(&*panic));
            }
        }
        let expected = rows * shared.labels.len();
        ensure!(
            answer.len() == expected,
            "the model gave {} scores where {expected} are expected",
            answer.len()
        );
        Ok(())
    }

    /// The scores of one image as the model gives them.
    fn scores(&mut self, image: &Image) -> Result<Vec<f32>, Failure> {
        let rows = self.shared.fixed_batch.unwrap_or(1);
        let length = self.shared.recipe.len();
        self.input.clear();
        self.input.resize(length * rows, 0.0);
        self.preprocess.fill(&image.bytes, &mut self.input[..length])?;
        self.infer(rows).map_err(|error| Failure::Failed(error.to_string()))?;
        Ok(self.answer[..self.shared.labels.len()].to_vec())
    }

    /// Classifies images that make one run.
    fn classify_together(&mut self, images: &[Image], answers: &mut Vec<Result<Vec<Guess>, Failure>>) {
        let length = self.shared.recipe.len();
        // Images that cannot be read take no row.
        let mut rows = Vec::new();
        self.input.resize(length * images.len().max(self.shared.fixed_batch.unwrap_or(0)), 0.0);
        for image in images {
            let row = rows.len() * length;
            let _decoding = debug_span!(target: TARGET, "decode").entered();
            match self.preprocess.fill(&image.bytes, &mut self.input[row..row + length]) {
                Ok(()) => {
                    rows.push(answers.len());
                    answers.push(Ok(Vec::new()));
                }
                Err(failure) => answers.push(Err(failure)),
            }
        }
        if rows.is_empty() {
            return;
        }
        let run_rows = self.shared.fixed_batch.unwrap_or(rows.len());
        self.input.resize(length * run_rows, 0.0);
        let inferred =
            debug_span!(target: TARGET, "infer", images = rows.len()).in_scope(|| self.infer(run_rows));
        if let Err(error) = inferred {
            for index in rows {
                answers[index] = Err(Failure::Failed(error.to_string()));
            }
            return;
        }
        for (scores, index) in self.answer.chunks_exact(self.shared.labels.len()).zip(rows) {
            let Shared { labels, softmax, top, .. } = &*self.shared;
            answers[index] = scores::guesses(scores, labels, *softmax, *top);
        }
    }
}

impl Classifier for OnnxClassifier {
    fn classify(&mut self, images: &[Image]) -> Vec<Result<Vec<Guess>, Failure>> {
        let mut answers = Vec::with_capacity(images.len());
        let together = self.shared.fixed_batch.unwrap_or(self.shared.batch);
        for chunk in images.chunks(together) {
            self.classify_together(chunk, &mut answers);
        }
        answers
    }
}

#[cfg(test)]
mod tests {
    use eirs_platform::{job::JobId, version::BUILT_IN};

    use super::Source;

    #[test]
    fn the_version_knows_the_model_that_is_built_in() {
        let Source::BuiltIn(model) = Source::SHAPES else { panic!("it is built in") };
        // An id is a SHA-256, too.
        let hashed = [model, Source::SHAPES_LABELS.as_bytes()].map(|bytes| JobId::of(bytes).to_string());
        assert_eq!(hashed, BUILT_IN, "platform/src/version.rs: BUILT_IN");
    }
}
