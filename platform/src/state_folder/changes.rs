//! Whether files are still what they were: all that EIRS reads again while it runs (policies,
//! settings, models, tokens, certificates) is looked at by this, and a change counts when it has
//! come to rest.

use std::{path::PathBuf, time::Duration};

use tokio::time::Instant;

use super::Stamp;

/// What tells one state of some files from another without reading them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stamps(Vec<(PathBuf, Stamp)>);

impl Stamps {
    /// Of these files, as they are now.
    pub fn now(files: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        let stamp = |file: PathBuf| (file.clone(), Stamp::now(&file));
        Self(files.into_iter().map(Into::into).map(stamp).collect())
    }

    /// Whether there is no file to look at.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(PathBuf, Stamp)> for Stamps {
    fn from_iter<T: IntoIterator<Item = (PathBuf, Stamp)>>(files: T) -> Self {
        Self(files.into_iter().collect())
    }
}

/// What a look at files found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// They are as they were when they were read.
    Same,
    /// They differ, and may be about to change further.
    Changing,
    /// They changed and have come to rest: they should be read.
    Changed,
}

/// Files that are looked at again and again. A change counts when two looks, at least `rest` apart,
/// have found the same: editors write a file in several steps, and tools write several files.
#[derive(Debug, Clone)]
pub struct Changes<S> {
    /// As they were when they were read last.
    read: Option<S>,
    /// As they were at the last look that found something new, ...
    seen: S,
    /// ... and when that was.
    since: Instant,
    rest: Duration,
}

impl<S: Clone + PartialEq> Changes<S> {
    /// Of files that are read as they were `now`. Take the stamps before reading: then no change is
    /// missed.
    pub fn since(now: S, rest: Duration) -> Self {
        Self { read: Some(now.clone()), seen: now, since: Instant::now(), rest }
    }

    /// Of files that have not been read as they are `now`: the next look that finds the same says
    /// that they should be.
    pub fn unread(now: S, rest: Duration) -> Self {
        Self { read: None, seen: now, since: Instant::now(), rest }
    }

    /// A look that found this.
    pub fn look(&mut self, now: S) -> Look {
        if self.read.as_ref() == Some(&now) {
            self.seen = now;
            return Look::Same;
        }
        if self.seen != now {
            (self.seen, self.since) = (now, Instant::now());
            return Look::Changing;
        }
        if self.since.elapsed() < self.rest {
            return Look::Changing;
        }
        self.read = Some(now);
        Look::Changed
    }

    /// The files are read as they are `now`, whatever was seen of them.
    pub fn read(&mut self, now: S) {
        self.seen = now.clone();
        self.read = Some(now);
    }

    /// What the last look found.
    pub fn seen(&self) -> &S {
        &self.seen
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    const REST: Duration = Duration::from_millis(100);

    #[tokio::test(start_paused = true)]
    async fn a_change_counts_once_when_it_has_rested() {
        let mut changes = Changes::since(1, REST);
        assert_eq!(changes.look(1), Look::Same);
        assert_eq!(changes.look(2), Look::Changing);
        tokio::time::advance(REST).await;
        assert_eq!(changes.look(3), Look::Changing, "it has changed again");
        assert_eq!(changes.look(3), Look::Changing, "not yet");
        tokio::time::advance(REST).await;
        assert_eq!(changes.look(3), Look::Changed);
        assert_eq!(changes.look(3), Look::Same);
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_back_is_the_same_and_rests_anew() {
        let mut changes = Changes::since(1, REST);
        assert_eq!(changes.look(2), Look::Changing);
        assert_eq!(changes.look(1), Look::Same);
        tokio::time::advance(REST).await;
        assert_eq!(changes.look(2), Look::Changing, "this is its first look");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_never_read_counts_at_the_next_look() {
        assert_eq!(Changes::unread(1, Duration::ZERO).look(1), Look::Changed);
    }

    #[test]
    fn files_that_come_go_or_change_are_seen() {
        let folder = tempfile::tempdir().unwrap();
        let files = ["a", "b"].map(|name| folder.path().join(name));
        let stamps = || Stamps::now(&files);
        let mut before = stamps();
        for step in 0..4 {
            match step {
                0 => fs::write(&files[0], "x").unwrap(),
                1 => fs::write(&files[1], "x").unwrap(),
                2 => fs::write(&files[0], "xy").unwrap(),
                _ => fs::remove_file(&files[1]).unwrap(),
            }
            assert_ne!(stamps(), before, "step {step}");
            before = stamps();
        }
        assert_eq!(stamps(), before);
    }

    proptest! {
        /// Whatever is seen: what was read last is what two looks in a row have found, and in the
        /// end the last state is read.
        #[test]
        fn only_what_two_looks_found_is_read(seen in prop::collection::vec(0u8..3, 1..40)) {
            let mut changes = Changes::since(0, Duration::ZERO);
            let (mut read, mut last) = (0, 0);
            for &now in seen.iter().chain([seen.last().unwrap(); 2]) {
                if changes.look(now) == Look::Changed {
                    prop_assert_eq!(now, last);
                    prop_assert_ne!(now, read);
                    read = now;
                }
                last = now;
            }
            prop_assert_eq!(read, last);
        }
    }
}
