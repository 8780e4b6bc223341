//! Decides whether the first machine of a new image works as well as the old ones. Pure.

use std::fmt;

use eirs_platform::{
    job::{Outcome, Reply},
    settings::Update as Asked,
};
use serde::{Deserialize, Serialize};

use super::checks::Check;

/// The results of a machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    /// The number of checks.
    pub(crate) images: usize,
    /// The number of valid images that it failed to classify.
    pub(crate) failed: usize,
    /// The number of images with known labels, and how many of them were correct.
    pub(crate) labelled: usize,
    pub(crate) right: usize,
    /// The number of recent uploads, and how many of them got the same label again.
    pub(crate) known: usize,
    pub(crate) agreed: usize,
    /// The median ratio of the new times to the old ones.
    pub(crate) slower: Option<f64>,
    /// What is wrong, if anything.
    pub(crate) wrong: Option<String>,
}

impl Verdict {
    /// Judges the replies, one per check; `None` is a missing one.
    pub(crate) fn of(asked: &Asked, checks: &[Check], replies: &[Option<Reply>]) -> Self {
        let mut verdict = Self { images: checks.len(), ..Self::default() };
        let (mut ratios, mut why) = (Vec::new(), None);
        for (check, reply) in checks.iter().zip(replies) {
            let label = reply.as_ref().and_then(Reply::label);
            if label.is_none() {
                verdict.failed += 1;
                why = why.or_else(|| Some(format!("{}: {}", check.name, reason(reply.as_ref()))));
            }
            if let Some(expected) = &check.expected {
                verdict.labelled += 1;
                verdict.right += usize::from(label.is_some_and(|label| expected.is(label)));
            }
            if let Some(before) = &check.before {
                verdict.known += 1;
                verdict.agreed += usize::from(label == Some(&*before.label));
                ratios.extend(reply.as_ref().map(|reply| reply.classify_ms / before.ms.max(1.0)));
            }
        }
        verdict.slower = median(ratios);
        verdict.wrong = verdict.complaint(asked, why);
        verdict
    }

    fn complaint(&self, asked: &Asked, why: Option<String>) -> Option<String> {
        let Self { images, failed, labelled, right, known, agreed, .. } = *self;
        if let Some(why) = why {
            return Some(format!("{failed} of {images} images could not be classified ({why})"));
        }
        if (right as f64) < asked.right * labelled as f64 {
            return Some(format!(
                "{right} of {labelled} check images got their label, and setup.update.right asks for {}",
                asked.right
            ));
        }
        if (agreed as f64) < asked.agree * known as f64 {
            return Some(format!(
                "{agreed} of {known} images that were uploaded lately got the label that they have, and \
                 setup.update.agree asks for {} (0, where the new model is meant to answer otherwise)",
                asked.agree
            ));
        }
        let slower = self.slower.filter(|slower| *slower > asked.slower)?;
        Some(format!(
            "it takes {slower:.1} times as long as before, and setup.update.slower allows {}",
            asked.slower
        ))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} images classified", self.images - self.failed, self.images)?;
        if self.labelled > 0 {
            write!(f, ", {} of {} check images right", self.right, self.labelled)?;
        }
        if self.known > 0 {
            write!(f, ", {} of {} labelled as before", self.agreed, self.known)?;
        }
        if let Some(slower) = self.slower {
            write!(f, ", {slower:.2} times the time")?;
        }
        Ok(())
    }
}

fn reason(reply: Option<&Reply>) -> &str {
    match reply.map(|reply| &reply.outcome) {
        Some(Outcome::Rejected { reason } | Outcome::GaveUp { reason }) => reason,
        Some(Outcome::Classified { .. }) => "it has no label",
        None => "no answer came",
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use eirs_load::truth::Label;
    use eirs_platform::{
        job::{Guess, JobId},
        testing,
    };

    use super::*;
    use crate::aws::update::checks::Before;

    fn check(expected: Option<&str>, before: Option<(&str, f64)>) -> Check {
        let before = before.map(|(label, ms)| Before { label: label.into(), ms });
        Check { id: JobId::of(b"x"), name: "x.jpg".into(), expected: expected.map(Label::from), before }
    }

    fn says(label: &str, classify_ms: f64) -> Option<Reply> {
        let outcome = match label {
            "" => Outcome::GaveUp { reason: "exit status 1".into() },
            label => Outcome::Classified { top: vec![Guess { label: label.into(), confidence: 1.0 }] },
        };
        Some(Reply { version: "2".into(), classify_ms, ..testing::reply("x", outcome) })
    }

    #[track_caller]
    fn expect(checks: &[Check], replies: &[Option<Reply>], wrong: Option<&str>) {
        let verdict = Verdict::of(&Asked::default(), checks, replies);
        match (wrong, &verdict.wrong) {
            (None, None) => {}
            (Some(expected), Some(said)) => assert!(said.contains(expected), "{said}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_machine_is_good_if_it_is_correct_consistent_and_fast() {
        let cat = check(Some("cat"), None);
        let known = check(None, Some(("dog", 100.0)));
        expect(&[], &[], None);
        expect(&[cat.clone(), known.clone()], &[says("Cat", 1.0), says("dog", 150.0)], None);
        let wrong = "0 of 1 check images got their label";
        expect(&[cat.clone(), known.clone()], &[says("dog", 1.0), says("dog", 150.0)], Some(wrong));
        expect(
            std::slice::from_ref(&known),
            &[says("cat", 10.0)],
            Some("0 of 1 images that were uploaded lately"),
        );
        expect(std::slice::from_ref(&known), &[says("dog", 250.0)], Some("2.5 times as long as before"));
        expect(
            &[cat.clone(), known.clone()],
            &[says("", 1.0), says("dog", 1.0)],
            Some("x.jpg: exit status 1"),
        );
        expect(&[cat], &[None], Some("1 of 1 images could not be classified (x.jpg: no answer came)"));
    }
}
