//! Classifies images on one thread: preprocessing, inference, guesses.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use anyhow::{bail, ensure};
use eirs_platform::{job::Guess, settings::Augment, trace::TARGET};
use tracing::debug_span;

use super::{Session, Shared, output::Answer, preprocess::Preprocess, views};
use crate::classify::{Classifier, Failure, Image, panic_text};

/// The classifier of one thread.
pub(super) struct OnnxClassifier {
    shared: Arc<Shared>,
    /// `None` after a panic, which may have left the session in any state.
    session: Option<Box<dyn Session>>,
    preprocess: Preprocess,
    input: Vec<f32>,
    answer: Answer,
}

impl OnnxClassifier {
    pub(super) fn new(shared: Arc<Shared>) -> anyhow::Result<Self> {
        Ok(Self {
            session: Some(shared.engine.session()?),
            preprocess: Preprocess::new(shared.recipe.clone()),
            shared,
            input: Vec::new(),
            answer: Answer::default(),
        })
    }

    /// Returns the number of images per run: that of the file, if it is fixed, else `rows`.
    fn run_rows(&self, rows: usize) -> usize {
        self.shared.recipe.input.images.unwrap_or(rows)
    }

    /// Runs the model on the prepared images in `input` and stores the scores, row by row, in
    /// `answer`.
    fn infer(&mut self, rows: usize) -> anyhow::Result<()> {
        let Self { shared, session, input, answer, .. } = self;
        let running = match session {
            Some(running) => running,
            None => session.insert(shared.engine.session()?),
        };
        let seen = &shared.recipe.input;
        let (place, shape) = ((seen.index, seen.element), seen.shape(rows));
        let run = catch_unwind(AssertUnwindSafe(|| running.run(place, &shape, input, shared.output, answer)));
        match run {
            Ok(result) => result?,
            Err(panic) => {
                *session = None;
                bail!("{} panicked: {}", shared.engine.name(), panic_text(&*panic));
            }
        }
        let expected = rows * shared.classes;
        ensure!(
            answer.values.len() == expected,
            "the model gave {} scores where {expected} are expected",
            answer.values.len()
        );
        Ok(())
    }

    /// Returns the scores of one image, as the model returns them.
    pub(super) fn scores(&mut self, image: &Image) -> Result<Vec<f32>, Failure> {
        let (rows, length) = (self.run_rows(1), self.shared.recipe.len());
        self.input.clear();
        self.input.resize(length * rows, 0.0);
        self.preprocess.fill(&image.bytes, &mut self.input[..length])?;
        self.infer(rows).map_err(|error| Failure::Failed(error.to_string()))?;
        Ok(self.answer.values[..self.shared.classes].to_vec())
    }

    /// Classifies images in one run.
    fn classify_together(&mut self, images: &[Image], answers: &mut Vec<Result<Vec<Guess>, Failure>>) {
        let length = self.shared.recipe.len();
        // Images that cannot be decoded take no row.
        let mut rows = Vec::new();
        self.input.resize(length * self.run_rows(images.len()), 0.0);
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
        let run_rows = self.run_rows(rows.len());
        self.input.resize(length * run_rows, 0.0);
        let confidences = debug_span!(target: TARGET, "infer", images = rows.len())
            .in_scope(|| self.mean_over_views(rows.len(), run_rows));
        for (index, confidences) in rows.into_iter().zip(confidences) {
            answers[index] = confidences.map(|confidences| self.shared.judge.guesses(&confidences));
        }
    }

    /// Returns the confidences of each prepared image, as the mean over its views.
    fn mean_over_views(&mut self, rows: usize, run_rows: usize) -> Vec<Result<Vec<f32>, Failure>> {
        let views = views::of(self.shared.augment);
        let upright = if self.shared.augment == Augment::None { Vec::new() } else { self.input.clone() };
        let length = self.shared.recipe.len();
        let mut sums: Vec<Result<Vec<f32>, Failure>> = Vec::new();
        for (number, view) in views.iter().enumerate() {
            if number > 0 {
                for (from, to) in upright.chunks_exact(length).zip(self.input.chunks_exact_mut(length)) {
                    view.turn(&self.shared.recipe.input, from, to);
                }
            }
            if let Err(error) = self.infer(run_rows) {
                return vec![Err(Failure::Failed(error.to_string())); rows];
            }
            let scores = self.answer.values.chunks_exact(self.shared.classes).take(rows);
            let confidences = scores.map(|scores| self.shared.judge.confidences(scores));
            if number == 0 {
                sums = confidences.collect();
                continue;
            }
            for (sum, more) in sums.iter_mut().zip(confidences) {
                match (sum, more) {
                    (Ok(sum), Ok(more)) => sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more),
                    (Err(_), _) => {}
                    (sum, Err(failure)) => *sum = Err(failure),
                }
            }
        }
        let count = views.len() as f32;
        sums.iter_mut().flatten().flatten().for_each(|sum| *sum = (*sum / count).clamp(0.0, 1.0));
        sums
    }
}

impl Classifier for OnnxClassifier {
    fn classify(&mut self, images: &[Image]) -> Vec<Result<Vec<Guess>, Failure>> {
        let mut answers = Vec::with_capacity(images.len());
        let together = self.run_rows(self.shared.batch);
        for chunk in images.chunks(together) {
            self.classify_together(chunk, &mut answers);
        }
        answers
    }
}
