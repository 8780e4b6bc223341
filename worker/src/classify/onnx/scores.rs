//! Converts the scores of a model to guesses, and to hints about the settings.

use anyhow::{bail, ensure};
use eirs_platform::{
    job::Guess,
    settings::{Model, Scores},
};

use super::form::is_distribution;
use crate::classify::Failure;

/// Tolerance beyond 0 and 1, for rounding in low-precision arithmetic.
const HAIR: f32 = 0.01;

/// Converts scores to guesses.
#[derive(Debug, Clone)]
pub(super) struct Judge {
    form: Scores,
    pub(super) labels: Vec<String>,
    /// The index of the label whose confidence a single score is.
    positive: Option<usize>,
    threshold: Option<f32>,
    otherwise: String,
    top: usize,
}

impl Judge {
    /// `found` is the detected form of the scores, `classes` their number.
    pub(super) fn new(
        model: &Model,
        mut labels: Vec<String>,
        indexed: bool,
        classes: usize,
        found: anyhow::Result<Scores>,
    ) -> anyhow::Result<Self> {
        let single = classes == 1;
        let set = model
            .scores
            .or(model.softmax.map(|softmax| if softmax { Scores::Logits } else { Scores::Probabilities }));
        let form = match set.map_or(found, Ok)? {
            // A softmax of one score is always 1.
            Scores::Logits if single => Scores::Sigmoid,
            form => form,
        };
        let positive =
            if single { Some(positive(model.positive.as_deref(), &mut labels, indexed)?) } else { None };
        ensure!(
            single || model.positive.is_none(),
            "positive: is for models of one number; this one gives one for each label"
        );
        Ok(Self {
            form,
            labels,
            positive,
            threshold: model.threshold,
            otherwise: model.otherwise.trim().to_owned(),
            top: model.top.max(1),
        })
    }

    pub(super) fn describe(&self) -> String {
        let mut text = describe(self.form).to_owned();
        if let Some(positive) = self.positive {
            text = format!("one number, {text}, of {:?}", self.labels[positive]);
        }
        if let Some(threshold) = self.threshold {
            text = format!("{text}; below {threshold} {:?}", self.otherwise);
        }
        text
    }

    /// Returns the confidence of each label in [0, 1], for the scores of one image. Fails if a
    /// score is NaN, infinite or out of range.
    pub(super) fn confidences(&self, scores: &[f32]) -> Result<Vec<f32>, Failure> {
        // The logarithm of 0.
        let is_low = |score: &f32| match self.form {
            Scores::LogProbabilities => *score == f32::NEG_INFINITY,
            Scores::NegativeLogProbabilities => *score == f32::INFINITY,
            _ => false,
        };
        if scores.iter().any(|score| !score.is_finite() && !is_low(score)) {
            return Err(Failure::Failed("the model returned NaN or infinite numbers".to_owned()));
        }
        let mut confidences = match self.form {
            Scores::Logits => softmax_of(scores),
            Scores::Probabilities => scores.to_vec(),
            Scores::LogProbabilities => scores.iter().map(|score| score.exp()).collect(),
            Scores::NegativeLogProbabilities => scores.iter().map(|score| (-score).exp()).collect(),
            Scores::Percent => scores.iter().map(|score| score / 100.0).collect(),
            Scores::Bytes => scores.iter().map(|score| score / 255.0).collect(),
            Scores::Sigmoid => scores.iter().map(|score| 1.0 / (1.0 + (-score).exp())).collect(),
        };
        for confidence in &mut confidences {
            if !(-HAIR..=1.0 + HAIR).contains(confidence) {
                return Err(Failure::Failed(format!(
                    "the model gave {confidence} where a confidence from 0 to 1 is expected; set scores to \
                     what its outputs are"
                )));
            }
            *confidence = confidence.clamp(0.0, 1.0);
        }
        if let (Some(positive), [confidence]) = (self.positive, &confidences[..]) {
            let mut both = vec![1.0 - confidence; 2];
            both[positive] = *confidence;
            return Ok(both);
        }
        Ok(confidences)
    }

    /// Returns the best labels for the confidences of one image.
    pub(super) fn guesses(&self, confidences: &[f32]) -> Vec<Guess> {
        let least = self.threshold.unwrap_or(0.0);
        let mut order: Vec<usize> = (0..confidences.len().min(self.labels.len())).collect();
        let best = confidences.iter().copied().fold(0.0, f32::max);
        order.retain(|index| confidences[*index] >= least);
        if order.is_empty() {
            return vec![Guess { label: self.otherwise.clone(), confidence: 1.0 - best }];
        }
        // Ties keep the order of the labels, so that the result is always the same.
        let better = |a: &usize, b: &usize| confidences[*b].total_cmp(&confidences[*a]).then(a.cmp(b));
        if self.top < order.len() {
            order.select_nth_unstable_by(self.top, better);
            order.truncate(self.top);
        }
        order.sort_unstable_by(better);
        let guess =
            |index: usize| Guess { label: self.labels[index].clone(), confidence: confidences[index] };
        order.into_iter().map(guess).collect()
    }

    /// Returns hints about the settings, judged by the scores of one image.
    pub(super) fn hints(&self, scores: &[f32]) -> Vec<String> {
        let mut hints = Vec::new();
        let sums_to_one = is_distribution(scores, 1.0);
        if self.form == Scores::Logits && sums_to_one && scores.len() > 1 {
            hints.push("the outputs are confidences already: set scores = \"probabilities\"".to_owned());
        }
        if self.form == Scores::Probabilities
            && scores.iter().any(|score| !(-HAIR..=1.0 + HAIR).contains(score))
        {
            hints.push("the outputs are no confidences: set scores = \"logits\"".to_owned());
        }
        let confidences = if sums_to_one { Ok(scores.to_vec()) } else { self.confidences(scores) };
        let best = confidences.unwrap_or_default().into_iter().fold(0.0, f32::max);
        // Hardly more than a uniform guess, and low in absolute terms.
        if self.form != Scores::Sigmoid && scores.len() > 1 && best < (1.2 / scores.len() as f32).max(0.25) {
            hints.push(format!(
                "the model is undecided (best guess {:.1} %): channels, divide_by, mean and std may differ \
                 from the training, or the image shows none of its labels",
                best * 100.0
            ));
        }
        hints
    }
}

fn describe(form: Scores) -> &'static str {
    match form {
        Scores::Logits => "logits, through a softmax",
        Scores::Probabilities => "confidences",
        Scores::LogProbabilities => "logarithms of confidences",
        Scores::NegativeLogProbabilities => "negative logarithms of confidences",
        Scores::Percent => "confidences in percent",
        Scores::Bytes => "confidences from 0 to 255",
        Scores::Sigmoid => "one logit for each label, through a sigmoid",
    }
}

/// Returns the index of the label whose confidence a single score is. With one label, the other is
/// "not" that label.
fn positive(set: Option<&str>, labels: &mut Vec<String>, indexed: bool) -> anyhow::Result<usize> {
    if let [only] = &labels[..] {
        ensure!(
            set.is_none_or(|set| only.eq_ignore_ascii_case(set.trim())),
            "positive: the only label is {only:?}"
        );
        let other = format!("not {only}");
        labels.push(other);
        return Ok(0);
    }
    let [first, second] = &labels[..] else {
        bail!(
            "it gives one number, which can be the confidence of one of two labels, but has {} labels",
            labels.len()
        )
    };
    if let Some(set) = set {
        let place = labels.iter().position(|label| label.eq_ignore_ascii_case(set.trim()));
        return place.ok_or_else(|| anyhow::anyhow!("positive: {set:?} is neither {first:?} nor {second:?}"));
    }
    if indexed {
        return Ok(1);
    }
    let denies = |a: &str, b: &str| {
        let plain = |text: &str| -> String {
            text.to_lowercase().chars().filter(char::is_ascii_alphanumeric).collect()
        };
        let (a, b) = (plain(a), plain(b));
        !b.is_empty() && ["not", "no", "non"].iter().any(|word| a == format!("{word}{b}"))
    };
    if denies(second, first) {
        return Ok(0);
    }
    if denies(first, second) {
        return Ok(1);
    }
    bail!(
        "it gives one number for two labels, and nothing says of which: set positive to {first:?} or \
         {second:?} (with Keras it is the second one)"
    )
}

/// Converts logits to probabilities (softmax).
fn softmax_of(scores: &[f32]) -> Vec<f32> {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut powers: Vec<f32> = scores.iter().map(|score| (score - highest).exp()).collect();
    let sum: f64 = powers.iter().map(|power| f64::from(*power)).sum();
    powers.iter_mut().for_each(|power| *power = (f64::from(*power) / sum) as f32);
    powers
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(count: usize) -> Vec<String> {
        (0..count).map(|index| index.to_string()).collect()
    }

    fn judge(model: &Model, classes: usize) -> Judge {
        Judge::new(model, named(classes), false, classes, Ok(Scores::Logits)).unwrap()
    }

    proptest! {
        #[test]
        fn guesses_are_the_best_of_all_sorted_labels(
            scores in prop::collection::vec(-3i8..4, 2..50),
            top in 1usize..60,
        ) {
            let scores: Vec<f32> = scores.into_iter().map(f32::from).collect();
            let judge = judge(&Model { top, softmax: Some(true), ..Model::default() }, scores.len());
            let found = judge.guesses(&judge.confidences(&scores).unwrap());

            let mut all: Vec<_> = scores.iter().enumerate().collect();
            all.sort_by(|a, b| b.1.total_cmp(a.1));
            let expected: Vec<_> = all.into_iter().take(top).map(|(index, _)| index.to_string()).collect();
            prop_assert_eq!(found.iter().map(|guess| guess.label.clone()).collect::<Vec<_>>(), expected);
            if top >= scores.len() {
                prop_assert!((found.iter().map(|guess| guess.confidence).sum::<f32>() - 1.0).abs() < 1e-4);
            }
        }

        #[test]
        fn every_confidence_is_between_0_and_1(
            scores in prop::collection::vec(prop::num::f32::ANY, 2..9),
            form in prop::sample::select(vec![
                Scores::Logits, Scores::Probabilities, Scores::LogProbabilities,
                Scores::NegativeLogProbabilities,
                Scores::Percent, Scores::Bytes, Scores::Sigmoid,
            ]),
        ) {
            let judge = judge(&Model { scores: Some(form), ..Model::default() }, scores.len());
            if let Ok(confidences) = judge.confidences(&scores) {
                prop_assert!(confidences.iter().all(|confidence| (0.0..=1.0).contains(confidence)),
                    "{confidences:?}");
            }
        }
    }

    #[test]
    fn a_single_score_is_the_confidence_of_the_named_or_only_possible_label() {
        let both = |labels: &[&str], set: Option<&str>, indexed: bool| {
            let labels = labels.iter().map(|label| (*label).to_owned()).collect();
            let model = Model { positive: set.map(str::to_owned), ..Model::default() };
            let judge = Judge::new(&model, labels, indexed, 1, Ok(Scores::Probabilities));
            judge.map(|judge| judge.guesses(&judge.confidences(&[0.9]).unwrap())[0].label.clone())
        };
        assert_eq!(both(&["cat", "dog"], Some("Cat"), false).unwrap(), "cat");
        assert_eq!(both(&["cat", "dog"], None, true).unwrap(), "dog", "the second one, as in Keras");
        assert_eq!(both(&["red", "not red"], None, false).unwrap(), "red");
        assert_eq!(both(&["No_mask", "mask"], None, false).unwrap(), "mask");
        assert_eq!(both(&["red"], None, false).unwrap(), "red");
        assert!(both(&["cat", "dog"], None, false).unwrap_err().to_string().contains("set positive"));
        assert!(both(&["cat", "dog"], Some("cow"), false).is_err());
        assert!(both(&["a", "b", "c"], None, false).is_err());
    }

    #[test]
    fn below_the_threshold_the_label_is_otherwise() {
        let model = Model { threshold: Some(0.5), scores: Some(Scores::Sigmoid), ..Model::default() };
        let judge = judge(&model, 3);
        let labels = |scores: &[f32]| {
            let guesses = judge.guesses(&judge.confidences(scores).unwrap());
            guesses.into_iter().map(|guess| guess.label).collect::<Vec<_>>()
        };
        assert_eq!(labels(&[3.0, -3.0, 5.0]), ["2", "0"]);
        assert_eq!(labels(&[-3.0, -3.0, -5.0]), ["none"]);
    }

    #[test]
    fn huge_logits_do_not_overflow() {
        let judge = judge(&Model::default(), 2);
        assert_eq!(judge.confidences(&[1e30, -1e30]).unwrap(), [1.0, 0.0]);
    }
}
