//! The threads that decode and classify: as many as the settings say, each with a classifier of its own, taking from one line.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::{Duration, Instant},
};

use anyhow::Context;
use eirs_platform::{job::Guess, settings::Model, trace::Scope};
use tokio::sync::oneshot;

use crate::classify::{self, Classifier, Failure, Image, Loaded};

type Answer = Result<Vec<Guess>, Failure>;

/// The pool. Its threads end when it is dropped and the line is empty.
#[derive(Debug)]
pub(crate) struct Pool {
    engine: String,
    at_once: u32,
    line: mpsc::Sender<Waiting>,
}

struct Waiting {
    image: Image,
    since: Instant,
    scope: Scope,
    answer: oneshot::Sender<(Answer, Duration)>,
}

impl Pool {
    /// Loads the model and starts the threads. An error is one sentence about the model or its settings.
    pub(crate) fn start(model: &Model, threads: usize) -> anyhow::Result<Self> {
        let loaded: Arc<dyn Loaded> = classify::load(model)?.into();
        let description = loaded.describe();
        tracing::info!(
            model = description.model,
            engine = description.engine,
            threads,
            "the model is loaded"
        );
        if let Some(advice) = description.advice {
            tracing::info!("{advice}");
        }
        let (line, taken) = mpsc::channel();
        let taken = Arc::new(Mutex::new(taken));
        for number in 0..threads {
            let (taken, loaded, batch) = (taken.clone(), loaded.clone(), model.batch);
            let classifier = loaded.classifier()?;
            std::thread::Builder::new()
                .name(format!("classify-{number}"))
                .spawn(move || work(&taken, &*loaded, classifier, batch))
                .context("starting a thread")?;
        }
        return_freed_memory();
        let at_once = u32::try_from(threads * model.batch.max(1)).unwrap_or(u32::MAX);
        Ok(Self { engine: loaded.engine().to_owned(), at_once, line })
    }

    /// Images that are classified at the same time.
    pub(crate) fn at_once(&self) -> u32 {
        self.at_once
    }

    pub(crate) fn engine(&self) -> &str {
        &self.engine
    }

    /// Classifies one image as soon as a thread is free; answers for how long it was not, too.
    pub(crate) async fn classify(&self, image: Image, scope: &Scope) -> (Answer, Duration) {
        let (answer, answered) = oneshot::channel();
        let gone = || (Err(Failure::Failed("the classifying threads have died".into())), Duration::ZERO);
        let waiting = Waiting { image, since: Instant::now(), scope: scope.clone(), answer };
        match self.line.send(waiting) {
            Ok(()) => answered.await.unwrap_or_else(|_| gone()),
            Err(_) => gone(),
        }
    }
}

/// Reading a model leaves behind several times its size in freed memory, which the C library keeps for later; ONNX Runtime
/// allocates there. With MobileNetV2 that was 45 of 100 MB.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "the C library offers it to C only")]
fn return_freed_memory() {
    // SAFETY: it takes no pointer and may be called at any time, from any thread (malloc_trim(3)).
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn return_freed_memory() {}

fn work(
    line: &Mutex<mpsc::Receiver<Waiting>>,
    loaded: &dyn Loaded,
    mut classifier: Box<dyn Classifier>,
    batch: usize,
) {
    loop {
        let mut taken = Vec::with_capacity(batch);
        {
            let line = line.lock().unwrap_or_else(PoisonError::into_inner);
            let Ok(first) = line.recv() else { return };
            taken.push(first);
            // Several images make one inference where they wait anyway; nobody is made to wait for others.
            taken.extend(line.try_iter().take(batch - 1));
        }
        // What happens to several images at once is told in the trace of the first.
        let scope = taken[0].scope.clone();
        let answer = |waiting: Waiting| (waiting.image, (waiting.answer, waiting.since.elapsed()));
        let (images, answers): (Vec<_>, Vec<_>) = taken.into_iter().map(answer).unzip();
        // A classifier promises not to panic. If one does all the same, its image is tried again by a new one.
        let answered = scope.run_now(|| {
            let classified = catch_unwind(AssertUnwindSafe(|| classifier.classify(&images)));
            classified.unwrap_or_else(|_| {
                tracing::error!("a classifier panicked and is replaced");
                match loaded.classifier() {
                    Ok(new) => classifier = new,
                    Err(error) => tracing::error!("it could not be replaced: {error:#}"),
                }
                let failed = || Err(Failure::Failed("the classifier panicked".into()));
                images.iter().map(|_| failed()).collect()
            })
        });
        for ((answer, waited), answered) in answers.into_iter().zip(answered) {
            // Whoever asked may be gone: the worker is leaving.
            let _gone = answer.send((answered, waited));
        }
    }
}
