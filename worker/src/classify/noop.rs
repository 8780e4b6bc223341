//! A classifier that ignores its images, to measure the rest of the service.

use eirs_platform::job::Guess;

use super::{Classifier, Description, Failure, Image, Loaded};

pub(super) struct Noop;

impl Loaded for Noop {
    fn engine(&self) -> &str {
        "noop"
    }

    fn classifier(&self) -> anyhow::Result<Box<dyn Classifier>> {
        Ok(Box::new(Self))
    }

    fn describe(&self) -> Description {
        Description {
            model: "none: the label of every image is noop".to_owned(),
            engine: "noop".to_owned(),
            labels: 1,
            first_labels: vec!["noop".to_owned()],
            preprocessing: "none".to_owned(),
            ..Description::default()
        }
    }
}

impl Classifier for Noop {
    fn classify(&mut self, images: &[Image]) -> Vec<Result<Vec<Guess>, Failure>> {
        images.iter().map(|_| Ok(vec![Guess { label: "noop".to_owned(), confidence: 1.0 }])).collect()
    }
}
