//! Files that are read again when they change, such as tokens and certificates. An unreadable or
//! invalid file never replaces a valid value: the last good version stays in force, and the log
//! says why.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use eirs_platform::{
    lifecycle::Lifecycle,
    state_folder::{Changes, Look, Stamp, Stamps},
};
use futures::future::BoxFuture;
use tokio::time::{Instant, MissedTickBehavior};

/// Interval between looks at the files. A new certificate changes two files, so a change is read
/// once two looks see the same: it takes effect within two intervals.
const LOOK: Duration = Duration::from_secs(1);
/// Minimum time between the two looks; the interval above is long enough.
const TWO_LOOKS: Duration = Duration::ZERO;
/// Interval between the removals of addresses with a full allowance.
const SWEEP: Duration = Duration::from_secs(60);

/// Looks at the files until it is dropped, and at once when the process is asked to reload. Calls
/// `sweep` periodically.
pub(crate) async fn keep(
    mut renewals: Vec<Box<dyn Renewal>>,
    sweep: Option<impl Fn()>,
    lifecycle: Lifecycle,
) {
    if renewals.is_empty() && sweep.is_none() {
        // Without anything to do, do not wake up.
        return;
    }
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut swept = Instant::now();
    loop {
        let is_forced = tokio::select! {
            _ = ticks.tick() => false,
            () = lifecycle.reload_requested() => true,
        };
        for renewal in &mut renewals {
            renewal.look(is_forced).await;
        }
        if let Some(sweep) = &sweep
            && swept.elapsed() >= SWEEP
        {
            sweep();
            swept = Instant::now();
        }
    }
}

/// Looks at the files of one value.
pub(crate) trait Renewal: Send {
    /// Reads the files again if they changed and are stable now, or if `is_forced`.
    fn look(&mut self, is_forced: bool) -> BoxFuture<'_, ()>;
}

/// A value that is read from files. Clones share it.
pub(crate) struct Watched<T> {
    current: Arc<RwLock<Arc<T>>>,
    source: Arc<Source<T>>,
    /// The stamps of the files when they were read.
    read: Stamps,
}

/// Makes the value from its predecessor and the contents of the files.
type Make<T> = dyn Fn(Option<&T>, &[Vec<u8>]) -> Result<T, String> + Send + Sync;

struct Source<T> {
    setting: &'static str,
    files: Vec<PathBuf>,
    make: Box<Make<T>>,
}

impl<T: Send + Sync + 'static> Watched<T> {
    /// Reads the files. `make` makes the value from their contents; its errors name the file.
    pub(crate) fn open(
        setting: &'static str,
        files: &[&Path],
        make: impl Fn(Option<&T>, &[Vec<u8>]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        // Before reading, so that no change is missed.
        let read = Stamps::now(files);
        let content = |file: &&Path| std::fs::read(file).map_err(|error| unreadable(file, &error));
        let contents: Vec<_> = files.iter().map(content).collect::<Result<_, _>>()?;
        let value = make(None, &contents)?;
        let files = files.iter().map(|file| (*file).to_owned()).collect();
        let source = Arc::new(Source { setting, files, make: Box::new(make) });
        Ok(Self { current: Arc::new(RwLock::new(Arc::new(value))), source, read })
    }

    /// The value in force.
    pub(crate) fn get(&self) -> Arc<T> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn renewal(&self) -> Box<dyn Renewal> {
        let files = Changes::since(self.read.clone(), TWO_LOOKS);
        Box::new(Watch { current: self.current.clone(), source: self.source.clone(), files })
    }
}

impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("files", &self.source.files).finish_non_exhaustive()
    }
}

struct Watch<T> {
    current: Arc<RwLock<Arc<T>>>,
    source: Arc<Source<T>>,
    files: Changes<Stamps>,
}

impl<T: Send + Sync + 'static> Renewal for Watch<T> {
    fn look(&mut self, is_forced: bool) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut stamps = Vec::new();
            for file in &self.source.files {
                stamps.push((file.clone(), Stamp::of(tokio::fs::metadata(file).await)));
            }
            let stamps = Stamps::from_iter(stamps);
            if is_forced {
                self.files.read(stamps.clone());
            }
            if is_forced || self.files.look(stamps) == Look::Changed {
                self.renew().await;
            }
        })
    }
}

impl<T: Send + Sync> Watch<T> {
    async fn renew(&self) {
        let setting = self.source.setting;
        match self.again().await {
            Ok(value) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
                tracing::info!(setting, "{setting}: read again, and in force");
            }
            Err(what) => {
                tracing::warn!(setting, "{setting}: {what}; the last good version stays in force");
            }
        }
    }

    async fn again(&self) -> Result<T, String> {
        let mut contents = Vec::new();
        for file in &self.source.files {
            contents.push(tokio::fs::read(file).await.map_err(|error| unreadable(file, &error))?);
        }
        let before = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        (self.source.make)(Some(&before), &contents)
    }
}

fn unreadable(file: &Path, error: &io::Error) -> String {
    format!("{}: cannot be read: {error}", file.display())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Two files that are valid together if they hold the same number.
    struct Rig {
        folder: tempfile::TempDir,
        value: Watched<u32>,
        renewal: Box<dyn Renewal>,
    }

    fn number(bytes: &[u8]) -> Result<u32, String> {
        std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| "is no number".into())
    }

    impl Rig {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let files = [folder.path().join("a"), folder.path().join("b")];
            files.iter().for_each(|file| fs::write(file, "1").unwrap());
            let value = Watched::open("test", &[&files[0], &files[1]], |_, contents| {
                let (a, b) = (number(&contents[0])?, number(&contents[1])?);
                if a == b { Ok(a) } else { Err("do not belong together".into()) }
            });
            let value = value.unwrap();
            Self { renewal: value.renewal(), folder, value }
        }

        fn write(&self, name: &str, text: &str) {
            let beside = self.folder.path().join("beside");
            fs::write(&beside, text).unwrap();
            fs::rename(beside, self.folder.path().join(name)).unwrap();
        }

        async fn look(&mut self, is_forced: bool) -> u32 {
            self.renewal.look(is_forced).await;
            *self.value.get()
        }
    }

    #[tokio::test]
    async fn changed_files_are_read_once_they_are_stable() {
        let mut rig = Rig::new();
        assert_eq!(rig.look(false).await, 1);
        rig.write("a", "2");
        assert_eq!(rig.look(false).await, 1, "it has just changed");
        rig.write("b", "2");
        assert_eq!(rig.look(false).await, 1, "the other one has just changed");
        assert_eq!(rig.look(false).await, 2);
    }

    #[tokio::test]
    async fn a_forced_look_does_not_wait() {
        let mut rig = Rig::new();
        rig.write("a", "2");
        rig.write("b", "2");
        assert_eq!(rig.look(true).await, 2);
    }

    #[tokio::test]
    async fn an_invalid_or_missing_file_leaves_the_last_good_version_in_force() {
        let mut rig = Rig::new();
        for text in ["3", "nonsense", ""] {
            rig.write("a", text);
            assert_eq!(rig.look(true).await, 1, "{text:?}");
        }
        fs::remove_file(rig.folder.path().join("a")).unwrap();
        for _ in 0..3 {
            assert_eq!(rig.look(false).await, 1);
        }
        rig.write("a", "4");
        rig.write("b", "4");
        rig.look(false).await;
        assert_eq!(rig.look(false).await, 4, "it is fixed");
    }

    #[test]
    fn an_invalid_file_at_the_start_is_an_error() {
        let read = |_: Option<&u32>, contents: &[Vec<u8>]| number(&contents[0]);
        let missing = Watched::open("test", &[Path::new("/nowhere/a")], read).unwrap_err();
        assert!(missing.starts_with("/nowhere/a: cannot be read"), "{missing}");
    }
}
