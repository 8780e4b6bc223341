//! Detects changes of files. Used for everything that EIRS reads again while it runs (policies,
//! settings, models, tokens, certificates). A change counts once it is stable.

use std::{path::PathBuf, time::Duration};

use tokio::time::Instant;

use super::Stamp;

/// The stamps of some files, which distinguish their states without reading them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stamps(Vec<(PathBuf, Stamp)>);

impl Stamps {
    /// Takes the stamps of these files now.
    pub fn now(files: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        let stamp = |file: PathBuf| (file.clone(), Stamp::now(&file));
        Self(files.into_iter().map(Into::into).map(stamp).collect())
    }

    /// Returns whether there are no files.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(PathBuf, Stamp)> for Stamps {
    fn from_iter<T: IntoIterator<Item = (PathBuf, Stamp)>>(files: T) -> Self {
        Self(files.into_iter().collect())
    }
}

/// The result of a look at files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Unchanged since they were read.
    Same,
    /// Changed, but perhaps not finally.
    Changing,
    /// Changed and stable: they should be read.
    Changed,
}

/// Detects changes by repeated looks. A change counts once two looks, at least `rest` apart, have
/// found the same: editors write a file in several steps, and tools write several files.
#[derive(Debug, Clone)]
pub struct Changes<S> {
    /// The state when they were last read.
    read: Option<S>,
    /// The state at the last look that found something new, ...
    seen: S,
    /// ... and the time of that look.
    since: Instant,
    rest: Duration,
}

impl<S: Clone + PartialEq> Changes<S> {
    /// Starts with files that are read in the state `now`. Take the stamps before reading, so that
    /// no change is missed.
    pub fn since(now: S, rest: Duration) -> Self {
        Self { read: Some(now.clone()), seen: now, since: Instant::now(), rest }
    }

    /// Starts with files that are not read yet: the next look that finds the same state returns
    /// [`Look::Changed`].
    pub fn unread(now: S, rest: Duration) -> Self {
        Self { read: None, seen: now, since: Instant::now(), rest }
    }

    /// Looks at the files in the state `now`.
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

    /// Records that the files are read in the state `now`.
    pub fn read(&mut self, now: S) {
        self.seen = now.clone();
        self.read = Some(now);
    }

    /// Returns the state at the last look.
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
    async fn a_change_counts_once_it_is_stable() {
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
    async fn a_reverted_change_does_not_count_and_restarts_the_wait() {
        let mut changes = Changes::since(1, REST);
        assert_eq!(changes.look(2), Look::Changing);
        assert_eq!(changes.look(1), Look::Same);
        tokio::time::advance(REST).await;
        assert_eq!(changes.look(2), Look::Changing, "this is its first look");
    }

    #[tokio::test(start_paused = true)]
    async fn files_that_were_never_read_count_at_the_next_look() {
        assert_eq!(Changes::unread(1, Duration::ZERO).look(1), Look::Changed);
    }

    #[test]
    fn created_deleted_and_changed_files_are_detected() {
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
        /// For any sequence of states, only a state found by two consecutive looks is read, and the
        /// last state is read in the end.
        #[test]
        fn only_a_state_found_twice_is_read(seen in prop::collection::vec(0u8..3, 1..40)) {
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
