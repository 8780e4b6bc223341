//! Runs image-classification models from ONNX files on one of two engines: ONNX Runtime if its
//! library is found and can run the model, else rten, which is compiled in.

mod engines;
mod form;
mod graph;
mod input;
mod labels;
mod ort;
mod output;
mod plain;
mod preprocess;
mod preset;
mod recipe;
mod rten;
mod run;
mod scores;
mod views;

use std::{
    fmt,
    io::Read,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, anyhow, bail, ensure};
use eirs_platform::{
    settings::{self, Augment, Model},
    version,
};

use self::{
    engines::Candidate,
    form::Ending,
    graph::Graph,
    input::{Element, Input},
    labels::Labels,
    output::Answer,
    preset::Wanted,
    recipe::Recipe,
    run::OnnxClassifier,
    scores::Judge,
};
use super::{Classifier, Description, Image, Loaded, Port, panic_text};

/// Returns the files on this machine that a model needs, each with the setting that names it or
/// could name it.
pub(super) fn files(model: &Model) -> Vec<(&'static str, PathBuf)> {
    let wants_library = model.engine != settings::Engine::Rten;
    let library = wants_library.then(|| ort::library(model.onnxruntime.as_deref())).flatten();
    let named = [
        ("path", model.path.clone()),
        ("labels", model.labels_file()),
        ("preset_file", model.preset_reads()),
        ("check_image", model.check_image.clone()),
        ("onnxruntime", library),
    ];
    named.into_iter().filter_map(|(key, file)| Some((key, file?))).collect()
}

/// An engine with a loaded model.
trait Engine: Send + Sync {
    /// Returns the name and version of the engine.
    fn name(&self) -> &str;
    /// Returns the inputs of the model, without the weights.
    fn inputs(&self) -> &[Port];
    fn outputs(&self) -> &[Port];
    /// Creates a session for one thread.
    fn session(&self) -> anyhow::Result<Box<dyn Session>>;
    /// Returns whether the loaded model is known to run.
    fn is_sure(&self) -> bool;
}

/// Runs the model on one thread.
trait Session: Send {
    /// Runs the model on `numbers`, an array of shape `shape` for the input with this index and
    /// type, and stores the output with index `output` in `answer`.
    fn run(
        &mut self,
        input: (usize, Element),
        shape: &[usize],
        numbers: &[f32],
        output: usize,
        answer: &mut Answer,
    ) -> anyhow::Result<()>;
}

/// Rounds to a sample of 8 bits.
fn byte(number: f32) -> u8 {
    number.round_ties_even().clamp(0.0, 255.0) as u8
}

/// The source of a model.
#[derive(Debug, Clone)]
enum Source {
    BuiltIn(&'static [u8]),
    File(PathBuf),
}

impl Source {
    /// Returns whether the file has ONNX Runtime's own format, which is not parsed here.
    fn is_packed(&self) -> bool {
        self.path().and_then(Path::extension).is_some_and(|end| end.eq_ignore_ascii_case("ort"))
    }

    /// A model of twelve drawn shapes, so that a fresh clone can classify something.
    const SHAPES: Self = Self::BuiltIn(include_bytes!("../../../models/shapes/shapes.onnx"));
    const SHAPES_LABELS: &str = include_str!("../../../models/shapes/labels.txt");

    /// Refuses files of other formats early, with a better message than an engine has.
    fn check(&self) -> anyhow::Result<()> {
        let Self::File(path) = self else { return Ok(()) };
        let mut start = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(64).read_to_end(&mut start))
            .with_context(|| format!("{self}: cannot be read"))?;
        if let Some(pointer) = version::lfs_pointer(&start, "the model itself") {
            bail!("{self}: {pointer}");
        }
        let other = match &start[..] {
            [b'P', b'K', ..] => "an archive, such as a checkpoint of PyTorch or Keras",
            [_, _, _, _, b'T', b'F', b'L', b'3', ..] => "a model of TensorFlow Lite",
            [0x89, b'H', b'D', b'F', ..] => "a model of Keras in HDF5",
            _ => return Ok(()),
        };
        bail!("{self}: is {other}, not an ONNX model: export it to ONNX")
    }

    fn path(&self) -> Option<&Path> {
        match self {
            Self::BuiltIn(_) => None,
            Self::File(path) => Some(path),
        }
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

/// A loaded model.
pub(super) struct Onnx(Arc<Shared>);

/// The data shared by all threads.
struct Shared {
    source: Source,
    engine: Arc<dyn Engine>,
    advice: Option<String>,
    recipe: Recipe,
    batch: usize,
    augment: Augment,
    /// The index of the output with the scores.
    output: usize,
    /// The number of scores per image.
    classes: usize,
    judge: Judge,
    labels_from: String,
}

impl Onnx {
    pub(super) fn load(model: &Model) -> anyhow::Result<Self> {
        let source = model.path.clone().map_or(Source::SHAPES, Source::File);
        source.check()?;
        let graph = Graph::read(&source);
        ensure!(graph.is_some() || source.is_packed(), "{source}: is not an ONNX model");
        if let Some(complaint) = source.path().and_then(|path| version::weights(path).complaint()) {
            bail!("{source}: {complaint}");
        }
        let (candidates, missing) = engines::candidates(model)?;
        let mut refusals: Vec<String> = Vec::new();
        for candidate in candidates {
            let name = candidate.name().to_owned();
            // If ONNX Runtime exists but cannot run this model, its error explains the use of rten.
            let advice = match (&refusals[..], &missing) {
                ([why, ..], _) => Some(why.clone()),
                ([], Some(_)) => {
                    Some("the ONNX Runtime library would make this up to four times faster".to_owned())
                }
                ([], None) => None,
            };
            let loaded = candidate.load(model, &source, graph.as_ref()).map_err(Trouble::Engine);
            let loaded =
                loaded.and_then(|engine| Self::with(model, &source, graph.as_ref(), engine.into(), advice));
            match loaded {
                Ok(shared) => {
                    let loaded = Self(Arc::new(shared));
                    if let Some(why) = refusals.first() {
                        tracing::warn!("{source}: {why}; {name} runs it");
                    }
                    if let (Some(image), Some(label)) = (&model.check_image, &model.check_label) {
                        loaded.check(image, label)?;
                    }
                    return Ok(loaded);
                }
                Err(Trouble::Engine(why)) => {
                    // The name of the model is added to the whole message later.
                    let why = format!("{why:#}").replace(&format!("{source}: "), "");
                    refusals.push(format!("{name} cannot run this model: {why}"));
                }
                Err(Trouble::Model(why)) => return Err(why),
            }
        }
        let also = missing.map_or(String::new(), |missing| format!("; {missing}, may know it"));
        bail!("{source}: {}{also}", refusals.join("; "))
    }

    /// Collects all settings of a model, and runs it on noise if the graph does not say enough.
    fn with(
        model: &Model,
        source: &Source,
        graph: Option<&Graph>,
        engine: Arc<dyn Engine>,
        advice: Option<String>,
    ) -> Result<Shared, Trouble> {
        let wanted = Wanted::of(model, graph).with_context(|| source.to_string())?;
        let input = match Input::find(source, engine.inputs(), graph, &wanted) {
            // rten converts types that it does not support, and this is the first place that shows
            // it.
            Err(error) if error.to_string().contains(" takes ") => return Err(Trouble::Engine(error)),
            input => input?,
        };
        let recipe = Recipe::new(model, &wanted, input).with_context(|| source.to_string())?;
        let (width, height) = recipe.input.size;
        if width != height && matches!(model.augment, Augment::Rotate | Augment::FlipRotate) {
            return Err(anyhow!(
                "{source}: augment: a picture of {width} x {height} pixels cannot be turned"
            )
            .into());
        }
        let labels = match source {
            Source::BuiltIn(_) if model.labels.is_none() => Some(Labels::built_in(Source::SHAPES_LABELS)),
            _ => Labels::find(model.labels.as_deref(), source.path(), graph)?,
        };
        let count = labels.as_ref().map(|labels| labels.names.len());
        let output = output::choose(model, source, engine.outputs(), graph, count)?;
        let port = &engine.outputs()[output];
        Candidate::ensure_right(engine.name(), graph, &port.name).map_err(Trouble::Engine)?;

        let ending = Ending::of(graph, port);
        let Scores { classes, form, names, seen } = match ending.certain(port) {
            Some((form, classes)) if engine.is_sure() && recipe.input.is_fixed(engine.inputs()) => {
                Scores { classes, form: Ok(form), names: None, seen: Vec::new() }
            }
            _ => Scores::seen(source, &*engine, &recipe, output, &ending)?,
        };
        let labels = match &names {
            Some(own) => Labels::confirmed(own, labels),
            None => {
                Ok(labels.map_or_else(|| Labels::numbers(classes), |labels| labels.with_background(classes)))
            }
        };
        let labels = labels.with_context(|| source.to_string())?;
        labels.check(classes).with_context(|| format!("{source}: labels and outputs do not fit"))?;
        if model.output.is_none() && form::are_embeddings(&seen) {
            return Err(anyhow!(
                "{source}: its output `{}` is a direction of length 1, an embedding, and no scores for \
                 labels; if it is one all the same, set output",
                port.name
            )
            .into());
        }
        if let Some(why) = form::of_two(graph, port, &form, count, model.scores.is_some()) {
            return Err(anyhow!("{source}: its output `{}` {why}", port.name).into());
        }
        let form = form.map_err(|why| anyhow!("its output `{}` {why}", port.name));
        let judge = Judge::new(model, labels.names, labels.indexed, classes, form);
        Ok(Shared {
            source: source.clone(),
            advice,
            recipe,
            batch: model.batch.max(1),
            augment: model.augment,
            output,
            classes,
            judge: judge.with_context(|| source.to_string())?,
            labels_from: labels.source,
            engine,
        })
    }

    /// Refuses a model that labels the check image differently.
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

/// The reason why a model was not loaded.
enum Trouble {
    /// Another engine may run the model.
    Engine(anyhow::Error),
    /// The model or its settings are wrong, so no engine can run it.
    Model(anyhow::Error),
}

impl From<anyhow::Error> for Trouble {
    fn from(error: anyhow::Error) -> Self {
        Self::Model(error)
    }
}

/// The scores of a model.
struct Scores {
    /// The number of scores per image.
    classes: usize,
    form: anyhow::Result<settings::Scores>,
    /// The labels, if the model outputs a name with each score.
    names: Option<Vec<String>>,
    /// The scores of test runs, if the form was not certain without them.
    seen: Vec<Vec<f32>>,
}

impl Scores {
    /// Runs the model once to find the number and the form of the scores, and to check that it
    /// runs. A large model spends half as long on one inference as on loading. So a second one runs
    /// only if the first may be chance, and none if the graph says everything.
    fn seen(
        source: &Source,
        engine: &dyn Engine,
        recipe: &Recipe,
        output: usize,
        ending: &Ending<'_>,
    ) -> Result<Self, Trouble> {
        let rows = recipe.input.images.unwrap_or(1);
        let is_clear = |answer: &Answer| {
            let first = &answer.values[..answer.values.len() / rows];
            form::are_clear(first, ending)
        };
        let answers = catch_unwind(AssertUnwindSafe(|| probe(engine, recipe, output, &is_clear)));
        let answers =
            answers.unwrap_or_else(|panic| Err(anyhow!("the engine panicked: {}", panic_text(&*panic))));
        let mut answers = answers.map_err(Trouble::Engine)?;
        let classes = output::classes_of(source, &engine.outputs()[output], &answers[0], rows)?;
        let seen: Vec<_> = answers.iter().map(|answer| answer.values[..classes].to_vec()).collect();
        Ok(Self { classes, form: form::found(&seen, ending), names: answers[0].names.take(), seen })
    }
}

/// Returns the output for an image of noise, and for another one if the first is not clear.
fn probe(
    engine: &dyn Engine,
    recipe: &Recipe,
    output: usize,
    is_clear: &dyn Fn(&Answer) -> bool,
) -> anyhow::Result<Vec<Answer>> {
    let rows = recipe.input.images.unwrap_or(1);
    let mut session = engine.session()?;
    let mut noise = 1u32;
    let mut next = || {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        recipe.value(0, (noise >> 24) as u8)
    };
    let mut run = || -> anyhow::Result<Answer> {
        let numbers: Vec<f32> = (0..recipe.len() * rows).map(|_| next()).collect();
        let mut answer = Answer::default();
        let place = (recipe.input.index, recipe.input.element);
        session.run(place, &recipe.input.shape(rows), &numbers, output, &mut answer)?;
        Ok(answer)
    };
    let first = run()?;
    Ok(if is_clear(&first) { vec![first] } else { vec![first, run()?] })
}

impl Loaded for Onnx {
    fn engine(&self) -> &str {
        self.0.engine.name()
    }

    fn classifier(&self) -> anyhow::Result<Box<dyn Classifier>> {
        Ok(Box::new(self.thread()?))
    }

    fn describe(&self) -> Description {
        let Shared { source, engine, advice, recipe, judge, labels_from, output, .. } = &*self.0;
        let port = &engine.outputs()[*output];
        Description {
            model: source.to_string(),
            engine: engine.name().to_owned(),
            advice: advice.clone(),
            inputs: engine.inputs().to_owned(),
            outputs: engine.outputs().to_owned(),
            scores: format!("`{}`: {}", port.name, judge.describe()),
            labels: judge.labels.len(),
            labels_from: labels_from.clone(),
            first_labels: judge.labels.iter().take(5).cloned().collect(),
            preprocessing: recipe.describe(),
        }
    }

    fn hints(&self, image: &Image) -> Vec<String> {
        let scores = self.thread().ok().and_then(|mut thread| thread.scores(image).ok());
        scores.map_or(Vec::new(), |scores| self.0.judge.hints(&scores))
    }
}

impl Onnx {
    /// Returns the same model with other settings, without loading it again.
    pub(super) fn with_settings(&self, model: &Model) -> anyhow::Result<Self> {
        let source = &self.0.source;
        let graph = Graph::read(source);
        let shared = Self::with(model, source, graph.as_ref(), Arc::clone(&self.0.engine), None);
        match shared {
            Ok(shared) => Ok(Self(Arc::new(shared))),
            Err(Trouble::Engine(why) | Trouble::Model(why)) => Err(why),
        }
    }

    /// Returns the width and height of the input, in pixels.
    pub(super) fn input_size(&self) -> (u32, u32) {
        self.0.recipe.input.size
    }

    pub(super) fn channels(&self) -> settings::Channels {
        self.0.recipe.input.channels
    }

    pub(super) fn labels(&self) -> &[String] {
        &self.0.judge.labels
    }

    fn thread(&self) -> anyhow::Result<OnnxClassifier> {
        OnnxClassifier::new(Arc::clone(&self.0))
    }
}

/// Returns the labels of a file, in any form.
pub(super) fn labels_of(file: &Path) -> anyhow::Result<Vec<String>> {
    Ok(Labels::find(Some(file), None, None)?.map(|labels| labels.names).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use eirs_platform::{job::JobId, version::BUILT_IN};

    use super::Source;

    #[test]
    fn the_version_is_the_hash_of_the_built_in_model() {
        let Source::BuiltIn(model) = Source::SHAPES else { panic!("the model is built in") };
        // An id is a SHA-256, like the version.
        let hashed = [model, Source::SHAPES_LABELS.as_bytes()].map(|bytes| JobId::of(bytes).to_string());
        assert_eq!(hashed, BUILT_IN, "platform/src/version.rs: BUILT_IN");
    }
}
