//! The threads that decode and classify. Each has its own classifier, and all take images from one
//! line.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Context;
use eirs_platform::{
    job::Guess,
    queue::SharedQueue,
    settings::{self, Model},
    trace::Scope,
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::classify::{self, Classifier, Failure, Image, Loaded};

type Classified = Result<Vec<Guess>, Failure>;

/// After this wait, another worker may be able to start an image sooner; checked again at the same
/// interval.
const IMPATIENCE: Duration = Duration::from_millis(500);

/// The outcome for an image in the pool.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The result of the classifier.
    Given(Classified),
    /// The thread hangs; with a sentence that says so.
    Stuck(String),
    /// No thread has taken the image, and other workers may be idle.
    LeftAlone,
}

/// The pool. Its threads end when it is closed or dropped and the line is empty.
#[derive(Debug)]
pub(crate) struct Pool {
    engine: String,
    at_once: u32,
    /// Maximum time that a thread may take for a batch; `None` if the classifier has its own limit.
    limit: Option<Duration>,
    stuck: CancellationToken,
    /// `None` once it is closed.
    line: Mutex<Option<mpsc::Sender<Waiting>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Waiting {
    image: Image,
    scope: Scope,
    turn: Arc<Mutex<Turn>>,
    answer: oneshot::Sender<Classified>,
}

/// The state of an image. It is shared instead of sent, since a message at the start would wake the
/// waiting task once more per image.
#[derive(Debug, Clone, Copy)]
enum Turn {
    /// No thread has taken the image.
    Waits,
    /// A thread took the image at this time.
    Begun(Instant),
    /// The caller no longer waits, so threads skip the image.
    Left,
}

impl Pool {
    /// Loads the model and starts the threads. An error is one sentence about the model or its
    /// settings.
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
        Self::of(loaded, model, threads)
    }

    fn of(loaded: Arc<dyn Loaded>, model: &Model, threads: usize) -> anyhow::Result<Self> {
        let (line, taken) = mpsc::channel();
        let taken = Arc::new(Mutex::new(taken));
        let mut started = Vec::with_capacity(threads);
        for number in 0..threads {
            let (taken, loaded, batch) = (taken.clone(), loaded.clone(), model.batch);
            let classifier = loaded.classifier()?;
            let thread = thread::Builder::new()
                .name(format!("classify-{number}"))
                .spawn(move || work(&taken, &*loaded, classifier, batch))
                .context("starting a thread")?;
            started.push(thread);
        }
        return_freed_memory();
        let at_once = u32::try_from(threads * model.batch.max(1)).unwrap_or(u32::MAX);
        Ok(Self {
            engine: loaded.engine().to_owned(),
            at_once,
            limit: limit(model),
            stuck: CancellationToken::new(),
            line: Mutex::new(Some(line)),
            threads: Mutex::new(started),
        })
    }

    /// Completes when a thread hangs.
    pub(crate) async fn stuck(&self) {
        self.stuck.cancelled().await;
    }

    /// Returns whether a thread hangs.
    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck.is_cancelled()
    }

    /// Takes no more images, and waits up to `patience` for the threads to end their scripts.
    pub(crate) fn close(&self, patience: Duration) {
        drop(lock(&self.line).take());
        let deadline = Instant::now() + patience;
        while lock(&self.threads).iter().any(|thread| !thread.is_finished()) && Instant::now() < deadline {
            thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// Returns how many images can be classified at the same time.
    pub(crate) fn at_once(&self) -> u32 {
        self.at_once
    }

    pub(crate) fn engine(&self) -> &str {
        &self.engine
    }

    /// Classifies one image as soon as a thread is free, and returns how long it waited for the
    /// thread. An image that waits for long is left alone if no job waits in `queue`, since other
    /// workers may then be idle.
    pub(crate) async fn classify(
        &self,
        image: Image,
        scope: &Scope,
        queue: Option<&SharedQueue>,
    ) -> (Answer, Duration) {
        let since = Instant::now();
        let gone = || Answer::Given(Err(Failure::Failed("the classifying threads have died".into())));
        let turn = Arc::new(Mutex::new(Turn::Waits));
        let (answer, mut answered) = oneshot::channel();
        let waiting = Waiting { image, scope: scope.clone(), turn: turn.clone(), answer };
        let sent = lock(&self.line).as_ref().is_some_and(|line| line.send(waiting).is_ok());
        if !sent {
            return (gone(), since.elapsed());
        }
        let mut patience = IMPATIENCE;
        loop {
            let given = tokio::time::timeout(patience, &mut answered).await;
            let now = *lock(&turn);
            match (given, now) {
                (Ok(given), Turn::Begun(begun)) => {
                    return (given.map_or_else(|_| gone(), Answer::Given), begun - since);
                }
                (Ok(_), _) => return (gone(), since.elapsed()),
                (Err(_), Turn::Begun(begun)) => match self.limit {
                    Some(limit) if begun.elapsed() >= limit => {
                        self.stuck.cancel();
                        let limit = humantime::format_duration(limit);
                        let why = format!("{} took longer than {limit}, and cannot be stopped", self.engine);
                        return (Answer::Stuck(why), begun - since);
                    }
                    Some(limit) => patience = limit.saturating_sub(begun.elapsed()),
                    None => patience = Duration::MAX,
                },
                (Err(_), Turn::Waits | Turn::Left) => {
                    if let Some(queue) = queue
                        && queue.depth().await.is_ok_and(|depth| depth.visible == 0)
                        && Turn::leave(&turn)
                    {
                        return (Answer::LeftAlone, since.elapsed());
                    }
                }
            }
        }
    }
}

impl Turn {
    /// Leaves the image if no thread has taken it; returns whether it was left.
    fn leave(turn: &Mutex<Self>) -> bool {
        let mut turn = lock(turn);
        if matches!(*turn, Self::Waits) {
            *turn = Self::Left;
        }
        matches!(*turn, Self::Left)
    }

    /// Takes the image if its caller still waits; returns whether it was taken.
    fn begin(turn: &Mutex<Self>) -> bool {
        let mut turn = lock(turn);
        if matches!(*turn, Self::Waits) {
            *turn = Self::Begun(Instant::now());
        }
        matches!(*turn, Self::Begun(_))
    }
}

/// Returns the maximum time for a batch. A hanging script is killed by its thread; an engine cannot
/// be stopped.
fn limit(model: &Model) -> Option<Duration> {
    let images = u32::try_from(model.batch.max(1)).unwrap_or(u32::MAX);
    (model.classifier == settings::Classifier::Onnx).then(|| model.timeout.saturating_mul(images))
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Loading a model leaves several times its size in freed memory, which the C library keeps for
/// itself; ONNX Runtime allocates there. With MobileNetV2 that was 45 of 100 MB.
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
            let line = lock(line);
            let Ok(first) = line.recv() else { return };
            // Batches only images that are waiting already, so that none waits for others.
            let more = line.try_iter().take(batch - 1);
            taken.extend(std::iter::once(first).chain(more).filter_map(Waiting::begin));
        }
        // A batch is recorded in the trace of its first image.
        let Some(scope) = taken.first().map(|(_, scope, _)| scope.clone()) else { continue };
        let (images, answers): (Vec<_>, Vec<_>) =
            taken.into_iter().map(|(image, _, answer)| (image, answer)).unzip();
        // A classifier must not panic. If one does, it is replaced, and the images are tried again.
        let answered = scope.run_now(|| {
            let classified = catch_unwind(AssertUnwindSafe(|| classifier.classify(&images)));
            classified.unwrap_or_else(|_| {
                tracing::error!("a classifier panicked; replacing it");
                match loaded.classifier() {
                    Ok(new) => classifier = new,
                    Err(error) => tracing::error!("the classifier could not be replaced: {error:#}"),
                }
                let failed = || Err(Failure::Failed("the classifier panicked".into()));
                images.iter().map(|_| failed()).collect()
            })
        });
        for (answer, answered) in answers.into_iter().zip(answered) {
            // The caller is gone if the worker is ending.
            let _gone = answer.send(answered);
        }
    }
}

impl Waiting {
    /// Takes the image; `None` if its caller no longer waits.
    fn begin(self) -> Option<(Image, Scope, oneshot::Sender<Classified>)> {
        Turn::begin(&self.turn).then_some((self.image, self.scope, self.answer))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use eirs_platform::{
        clock::SystemClock,
        fault::{Fault, Faulty},
        queue::{QueueOptions, memory::MemoryQueues},
    };
    use tokio::{sync::mpsc::UnboundedReceiver, time::timeout};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// Reports that it has started, and classifies when it is allowed to continue.
    struct Slow {
        begun: tokio::sync::mpsc::UnboundedSender<()>,
        go: Arc<Mutex<mpsc::Receiver<()>>>,
    }

    impl Loaded for Slow {
        fn engine(&self) -> &str {
            "slow"
        }

        fn classifier(&self) -> anyhow::Result<Box<dyn Classifier>> {
            Ok(Box::new(Self { begun: self.begun.clone(), go: self.go.clone() }))
        }

        fn describe(&self) -> classify::Description {
            classify::Description::default()
        }
    }

    impl Classifier for Slow {
        fn classify(&mut self, images: &[Image]) -> Vec<Classified> {
            let _nobody_looks = self.begun.send(());
            let _sent_or_over = lock(&self.go).recv();
            images.iter().map(|_| Ok(vec![Guess { label: "cat".into(), confidence: 1.0 }])).collect()
        }
    }

    /// A pool of one thread, and the channel that lets it continue.
    fn pool(model: &Model) -> (Pool, mpsc::Sender<()>) {
        let (pool, _begun, go) = watched_pool(model);
        (pool, go)
    }

    /// The same, with a channel that reports the started images.
    fn watched_pool(model: &Model) -> (Pool, UnboundedReceiver<()>, mpsc::Sender<()>) {
        let ((begin, begun), (go, going)) = (tokio::sync::mpsc::unbounded_channel(), mpsc::channel());
        let slow = Slow { begun: begin, go: Arc::new(Mutex::new(going)) };
        (Pool::of(Arc::new(slow), model, 1).unwrap(), begun, go)
    }

    fn image() -> Image {
        Image { name: "a".into(), bytes: Bytes::new() }
    }

    async fn classify(pool: &Pool, queue: Option<&SharedQueue>) -> Answer {
        pool.classify(image(), &Scope::silent(), queue).await.0
    }

    #[tokio::test]
    async fn an_engine_that_exceeds_the_timeout_makes_the_worker_stuck() {
        let model = Model { timeout: Duration::from_millis(50), ..Model::default() };
        let (pool, go) = pool(&model);
        let answer = classify(&pool, None).await;
        assert!(matches!(&answer, Answer::Stuck(why) if why.contains("longer than 50ms")), "{answer:?}");
        assert!(pool.is_stuck());
        pool.stuck().await;
        drop(go);
    }

    #[tokio::test]
    async fn the_pool_has_no_time_limit_for_scripts() {
        let model = Model {
            classifier: settings::Classifier::Script,
            timeout: Duration::from_millis(10),
            ..Model::default()
        };
        let (pool, mut begun, go) = watched_pool(&model);
        let later = async {
            timeout(LONG, begun.recv()).await.expect("it begins");
            tokio::time::sleep(10 * model.timeout).await;
            go.send(()).unwrap();
        };
        let (answer, ()) = tokio::join!(classify(&pool, None), later);
        assert!(matches!(answer, Answer::Given(Ok(_))) && !pool.is_stuck());
    }

    #[tokio::test]
    async fn a_waiting_image_is_left_to_other_workers_if_the_queue_is_empty() {
        let (pool, mut begun, go) = watched_pool(&Model::default());
        let queue = MemoryQueues::new(Arc::new(SystemClock)).open("requests", QueueOptions::default());
        let watched = Arc::new(Faulty::new(queue));
        let queue: SharedQueue = watched.clone();
        let second = async {
            timeout(LONG, begun.recv()).await.expect("the only thread takes the first image");
            let left = classify(&pool, Some(&queue)).await;
            assert!(matches!(left, Answer::LeftAlone), "{left:?}");
            queue.send(vec![Bytes::from_static(b"another")]).await.unwrap();
            let third = classify(&pool, Some(&queue));
            let let_go = async {
                // The third one checks the queue and stays.
                watched.next("depth", Fault::None);
                let looked = async {
                    while watched.left() > 0 {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                };
                timeout(LONG, looked).await.expect("it looks");
                go.send(()).unwrap();
                go.send(()).unwrap();
            };
            let (third, ()) = tokio::join!(third, let_go);
            assert!(matches!(third, Answer::Given(Ok(_))), "the queue has jobs for other workers: {third:?}");
        };
        let (first, ()) = tokio::join!(classify(&pool, None), second);
        assert!(matches!(first, Answer::Given(Ok(_))), "no image is taken twice: {first:?}");
    }

    #[test]
    fn a_closed_pool_takes_no_images_and_its_threads_end() {
        let (pool, _go) = pool(&Model::default());
        pool.close(Duration::from_secs(20));
        assert!(lock(&pool.threads).iter().all(JoinHandle::is_finished));
    }
}
