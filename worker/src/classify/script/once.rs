//! The protocol `once`: one process per image.

use std::{collections::HashSet, sync::Arc, time::Instant};

use anyhow::Context;
use eirs_platform::{job::Guess, settings::Model};

use super::{
    answer::{Line, answer_in},
    child::{Event, OUTPUT_MAX_BYTES, Running, manner, wants_later},
    later,
    scratch::Scratch,
};
use crate::{
    classify::{Classifier, Failure, Image},
    image::{Unreadable, check_pixels},
};

pub(super) struct Once {
    settings: Model,
    labels: Arc<HashSet<String>>,
    scratch: Scratch,
}

impl Once {
    pub(super) fn new(settings: &Model, labels: Arc<HashSet<String>>) -> anyhow::Result<Self> {
        let scratch = Scratch::new(settings.script_socket.as_deref())
            .context("the folder for images cannot be created")?;
        Ok(Self { settings: settings.clone(), labels, scratch })
    }

    fn answer(&mut self, image: &Image) -> Result<Vec<Guess>, Failure> {
        refuse_huge(image, self.settings.max_pixels)?;
        let failed = |what: &str| Failure::Failed(format!("the script {what}"));
        let file =
            self.scratch.put(image).map_err(|error| failed(&format!("got no file to read: {error}")))?;
        let deadline = Instant::now() + self.settings.timeout;
        let mut script = Running::start(&self.settings, Some(&file.path), false)
            .map_err(|error| failed(&format!("could not be started: {error}")))?;
        let event = script.wait(deadline, |_| false);
        let status = script.end();
        if event != Event::Exited {
            script.put_down();
        }
        match event {
            Event::Exited if status.is_some_and(|status| status.success()) => {
                match answer_in(&script.printed, &file.path, &self.labels, self.settings.top) {
                    Line::Answer(guesses) => Ok(guesses),
                    Line::Refusal(why) => Err(Failure::Rejected(why)),
                    Line::Later(why) => Err(later(&why)),
                    Line::Wrong(what) => Err(failed(&format!("printed {what}; {}", script.last_words()))),
                    Line::Stray | Line::Noise => Err(failed("printed no result")),
                }
            }
            Event::Exited if wants_later(status) => Err(later(&script.last_words())),
            Event::Exited => Err(failed(&format!("ended with {}; {}", manner(status), script.last_words()))),
            Event::Flooded => Err(failed(&format!("printed more than {OUTPUT_MAX_BYTES} bytes"))),
            Event::TimedOut | Event::Printed => Err(failed(&format!(
                "took longer than {}; {}",
                humantime::format_duration(self.settings.timeout),
                script.last_words()
            ))),
        }
    }
}

impl Classifier for Once {
    fn classify(&mut self, images: &[Image]) -> Vec<Result<Vec<Guess>, Failure>> {
        images.iter().map(|image| self.answer(image)).collect()
    }
}

/// Refuses images over the pixel limit for scripts, too. Formats are up to the script.
pub(super) fn refuse_huge(image: &Image, max_pixels: u64) -> Result<(), Failure> {
    check_pixels(&image.bytes, max_pixels).map_err(|error| match error {
        Unreadable::Never(why) => Failure::Rejected(why),
        error @ Unreadable::NoMemory(_) => Failure::Failed(error.to_string()),
    })
}
