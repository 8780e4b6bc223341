//! The protocol `once`: one process for each image.

use std::{path::Path, time::Instant};

use anyhow::Context;
use eirs_platform::{job::Guess, settings::Model};

use super::{
    child::{Event, OUTPUT_MAX_BYTES, Running, manner},
    label,
    scratch::{Scratch, names},
};
use crate::{
    classify::{Classifier, Failure, Image},
    image::{Unreadable, check_pixels},
};

pub(super) struct Once {
    settings: Model,
    scratch: Scratch,
}

impl Once {
    pub(super) fn new(settings: &Model) -> anyhow::Result<Self> {
        let scratch = Scratch::new().context("the folder for images cannot be made")?;
        Ok(Self { settings: settings.clone(), scratch })
    }

    fn answer(&mut self, image: &Image) -> Result<Vec<Guess>, Failure> {
        refuse_huge(image, self.settings.max_pixels)?;
        let failed = |what: &str| Failure::Failed(format!("the script {what}"));
        let file =
            self.scratch.put(image).map_err(|error| failed(&format!("got no file to read: {error}")))?;
        let deadline = Instant::now() + self.settings.timeout;
        let mut script = Running::start(&self.settings.command, Some(&file.path), false)
            .map_err(|error| failed(&format!("could not be started: {error}")))?;
        let event = script.wait(deadline, |_| false);
        let status = script.end();
        match event {
            Event::Exited if status.is_some_and(|status| status.success()) => {
                let label =
                    parse(&script.printed, &file.path).map_err(|what| failed(&format!("printed {what}")))?;
                Ok(vec![Guess { label, confidence: 1.0 }])
            }
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

/// Scripts are spared images over the limit, too. What kinds of images there are is their own affair.
pub(super) fn refuse_huge(image: &Image, max_pixels: u64) -> Result<(), Failure> {
    check_pixels(&image.bytes, max_pixels).map_err(|error| match error {
        Unreadable::Never(why) => Failure::Rejected(why),
        error @ Unreadable::NoMemory(_) => Failure::Failed(error.to_string()),
    })
}

/// The label in what was printed about this file, by the rule in `script.rs`.
fn parse(printed: &[u8], file: &Path) -> Result<String, String> {
    let text = std::str::from_utf8(printed).map_err(|_| "something that is not UTF-8 text".to_owned())?;
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty()).ok_or("nothing".to_owned())?;
    let named = names(file).find_map(|name| line.strip_prefix(name)?.strip_prefix(','));
    label(named.unwrap_or(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(printed: &str, expected: Result<&str, &str>) {
        let parsed = parse(printed.as_bytes(), Path::new("/tmp/x/test_00.JPEG"));
        match expected {
            Ok(label) => assert_eq!(parsed.as_deref(), Ok(label), "{printed:?}"),
            Err(part) => assert!(parsed.as_ref().is_err_and(|e| e.contains(part)), "{printed:?}: {parsed:?}"),
        }
    }

    #[test]
    fn the_label_is_the_last_line_or_what_follows_the_name_of_the_file() {
        check("dog\n", Ok("dog"));
        check("test_00.JPEG,dog\n", Ok("dog"));
        check("test_00,dog", Ok("dog"));
        check("/tmp/x/test_00.JPEG,dog, small\n", Ok("dog, small"));
        check("loading the model...\n\ntest_00.JPEG, dog \n\n", Ok("dog"));
        check("hot dog, hotdog\n", Ok("hot dog, hotdog"));
        check("other.JPEG,dog", Ok("other.JPEG,dog"));
    }

    #[test]
    fn what_cannot_be_a_label_is_refused() {
        check("", Err("nothing"));
        check(" \n\n", Err("nothing"));
        check("test_00.JPEG,", Err("empty label"));
        check("a\u{7}b", Err("control characters"));
        check(&"x".repeat(1001), Err("1001 bytes"));
        assert!(parse(&[0xff, 0xfe], Path::new("/x")).is_err());
    }
}
