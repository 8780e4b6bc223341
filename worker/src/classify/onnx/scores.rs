//! From the scores of a model to guesses, and to what they say about the settings.

use eirs_platform::job::Guess;

use crate::classify::Failure;

/// The best `top` labels for the scores of one image.
pub(super) fn guesses(
    scores: &[f32],
    labels: &[String],
    softmax: bool,
    top: usize,
) -> Result<Vec<Guess>, Failure> {
    if scores.iter().any(|score| !score.is_finite()) {
        return Err(Failure::Failed("the model returned NaN or infinite numbers".to_owned()));
    }
    let confidences = if softmax { softened(scores) } else { scores.to_vec() };
    let mut order: Vec<usize> = (0..confidences.len().min(labels.len())).collect();
    // Equal ones keep the order of the labels, so that the same image always gets the same answer.
    let better = |a: &usize, b: &usize| confidences[*b].total_cmp(&confidences[*a]).then(a.cmp(b));
    if top < order.len() {
        order.select_nth_unstable_by(top, better);
        order.truncate(top);
    }
    order.sort_unstable_by(better);
    let guess = |index: usize| Guess { label: labels[index].clone(), confidence: confidences[index] };
    Ok(order.into_iter().map(guess).collect())
}

/// What the scores of one image say about the settings.
pub(super) fn hints(scores: &[f32], softmax: bool) -> Vec<String> {
    let mut hints = Vec::new();
    let sum: f32 = scores.iter().sum();
    let probabilities = scores.iter().all(|score| (0.0..=1.0).contains(score)) && (sum - 1.0).abs() < 0.01;
    if softmax && probabilities && scores.len() > 1 {
        hints.push("the outputs are probabilities already: set softmax = false".to_owned());
    }
    if !softmax && scores.iter().any(|score| !(0.0..=1.0).contains(score)) {
        hints.push("the outputs are not probabilities: set softmax = true".to_owned());
    }
    let confidences = if softmax && !probabilities { softened(scores) } else { scores.to_vec() };
    let best = confidences.iter().copied().fold(0.0, f32::max);
    // Little more than blind guessing gives, and little in itself.
    if best < (1.2 / scores.len() as f32).max(0.25) {
        hints.push(format!(
            "the model is undecided (best guess {:.1} %): channels, divide_by, mean and std may \
            differ from the training, or the image shows none of its classes",
            best * 100.0
        ));
    }
    hints
}

/// Logits as probabilities.
fn softened(scores: &[f32]) -> Vec<f32> {
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

    proptest! {
        #[test]
        fn the_guesses_are_the_first_of_all_labels_sorted(
            scores in prop::collection::vec(-3i8..4, 1..50),
            top in 1usize..60,
            softmax: bool,
        ) {
            let scores: Vec<f32> = scores.into_iter().map(f32::from).collect();
            let labels: Vec<String> = (0..scores.len()).map(|index| index.to_string()).collect();
            let found = guesses(&scores, &labels, softmax, top).unwrap();

            let mut all: Vec<_> = scores.iter().enumerate().collect();
            all.sort_by(|a, b| b.1.total_cmp(a.1));
            let expected: Vec<_> = all.into_iter().take(top).map(|(index, _)| index.to_string()).collect();
            prop_assert_eq!(found.iter().map(|guess| guess.label.clone()).collect::<Vec<_>>(), expected);
            if softmax && top >= scores.len() {
                prop_assert!((found.iter().map(|guess| guess.confidence).sum::<f32>() - 1.0).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn huge_logits_do_not_overflow() {
        let found = guesses(&[1e30, -1e30], &["a".into(), "b".into()], true, 2).unwrap();
        assert_eq!((found[0].confidence, found[1].confidence), (1.0, 0.0));
    }
}
