//! The versions of all models while a program runs. Model files, labels, scripts and the settings
//! file are checked every second, and a change counts once it is stable. An unreadable file changes
//! nothing; the log says why.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use super::{of, stamps};
use crate::{
    clock::SharedClock,
    settings::{Layers, Model, Settings},
    state_folder::{Changes, Look, Stamps},
};

/// Interval between looks. A change counts once the next look finds the same, so within two
/// intervals.
const LOOK: Duration = Duration::from_secs(1);
/// Minimum time between the two looks; the interval above is long enough.
const TWO_LOOKS: Duration = Duration::ZERO;

/// The current version of each model. Clones share it.
#[derive(Debug, Clone)]
pub struct Versions(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The source of the settings, if they may change.
    layers: Option<Layers>,
    clock: SharedClock,
    models: RwLock<BTreeMap<String, Watched>>,
}

#[derive(Debug, Clone)]
struct Watched {
    model: Model,
    version: Option<Current>,
    /// The version in the last reply of a worker; used if the version is not known here.
    learnt: Option<Arc<str>>,
    files: Changes<Stamps>,
}

/// A version in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current {
    /// The version.
    pub version: Arc<str>,
    /// When it came into force, as far as this process knows.
    pub since: DateTime<Utc>,
}

impl Versions {
    /// Computes the versions of the models in these settings, which hashes model files. With
    /// `layers`, a change of the settings file counts as well.
    pub fn new(settings: &Settings, layers: Option<Layers>, clock: SharedClock) -> Self {
        let now = clock.now();
        let watched = |(name, model): (&String, &Model)| {
            let mut watched = Watched::new(model.clone());
            watched.renew(name, now);
            (name.clone(), watched)
        };
        let models = settings.models.iter().map(watched).collect();
        Self(Arc::new(Inner { layers, clock, models: RwLock::new(models) }))
    }

    /// Returns the version in force, or `None` if it is not known yet.
    pub fn current(&self, model: &str) -> Option<Arc<str>> {
        self.read(model, |watched| {
            let own = watched.version.as_ref().map(|current| current.version.clone());
            own.or_else(|| watched.learnt.clone())
        })
    }

    /// Returns the version computed from this machine's settings and files, and since when.
    pub fn made_here(&self, model: &str) -> Option<Current> {
        self.read(model, |watched| watched.version.clone())
    }

    /// Returns the current settings of a model.
    pub fn settings(&self, model: &str) -> Option<Model> {
        self.read(model, |watched| Some(watched.model.clone()))
    }

    /// Records the version in a worker's reply.
    pub fn learn(&self, model: &str, version: &str) {
        let is_news = |watched: &Watched| {
            let known = watched.learnt.as_deref() == Some(version);
            (watched.version.is_none() && !known && !version.is_empty()).then_some(())
        };
        // Nearly always nothing has changed.
        if self.read(model, is_news).is_some() {
            let mut models = self.0.models.write().unwrap_or_else(PoisonError::into_inner);
            models.entry(model.to_owned()).and_modify(|watched| watched.learnt = Some(version.into()));
        }
    }

    /// Checks the files until `stop`; calls `changed` after each change of a version. Only waits if
    /// there are no files.
    pub async fn keep(&self, stop: &CancellationToken, changed: impl Fn()) {
        let mut settings = SettingsFile::of(self.0.layers.as_ref().and_then(Layers::file).map(PathBuf::from));
        if settings.file.is_none() && !self.watches_files() {
            return stop.cancelled().await;
        }
        while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
            let versions = self.clone();
            // Hashing a large model takes a second.
            let looked = tokio::task::spawn_blocking(move || {
                let is_changed = versions.look(&mut settings);
                (settings, is_changed)
            });
            let Ok((back, is_changed)) = looked.await else { return };
            settings = back;
            if is_changed {
                changed();
            }
        }
    }

    fn watches_files(&self) -> bool {
        let models = self.0.models.read().unwrap_or_else(PoisonError::into_inner);
        models.values().any(|watched| !watched.files.seen().is_empty())
    }

    /// Checks once; returns whether a version has changed.
    fn look(&self, settings: &mut SettingsFile) -> bool {
        if settings.has_changed() {
            self.reload();
        }
        let now = self.0.clock.now();
        // The lock is not held while a file is hashed.
        let mut models = self.0.models.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut is_changed = false;
        for (name, watched) in &mut models {
            if watched.files.look(stamps(&watched.model)) == Look::Changed {
                is_changed |= watched.renew(name, now);
            }
        }
        let mut current = self.0.models.write().unwrap_or_else(PoisonError::into_inner);
        for (name, watched) in models {
            let learnt = current.get(&name).and_then(|before| before.learnt.clone());
            current.insert(name, Watched { learnt, ..watched });
        }
        is_changed
    }

    /// Reads the settings of known models again; a new model needs a queue and so a restart.
    fn reload(&self) {
        let Some(layers) = &self.0.layers else { return };
        let settings = match layers.load() {
            Ok(settings) => settings,
            Err(complaints) => {
                tracing::warn!(
                    "the changed settings are wrong: {complaints}; the last good ones stay in force"
                );
                return;
            }
        };
        let mut models = self.0.models.write().unwrap_or_else(PoisonError::into_inner);
        for (name, model) in settings.models {
            match models.get_mut(&name) {
                Some(watched) if watched.model == model => {}
                // The following look computes the version again.
                Some(watched) => {
                    let files = Changes::unread(stamps(&model), TWO_LOOKS);
                    *watched = Watched { model, files, ..watched.clone() };
                }
                None => tracing::warn!("models.{name} is new in the settings; restart to use it"),
            }
        }
    }

    fn read<T>(&self, model: &str, look: impl FnOnce(&Watched) -> Option<T>) -> Option<T> {
        self.0.models.read().unwrap_or_else(PoisonError::into_inner).get(model).and_then(look)
    }
}

impl Watched {
    fn new(model: Model) -> Self {
        let files = Changes::unread(stamps(&model), TWO_LOOKS);
        Self { model, version: None, learnt: None, files }
    }

    /// Computes the version of the current files; returns whether it has changed.
    fn renew(&mut self, name: &str, now: DateTime<Utc>) -> bool {
        // Before reading, so that no change is missed.
        self.files.read(stamps(&self.model));
        let made = match of(&self.model) {
            Ok(made) => made,
            Err(why) => {
                tracing::warn!(
                    model = name,
                    "models.{name}: its version cannot be computed here: \
                    {why}"
                );
                return false;
            }
        };
        let before = self.version.as_ref().map(|before| before.version.clone());
        if before.as_deref() == Some(&*made) {
            return false;
        }
        if let Some(before) = &before {
            tracing::info!(
                model = name,
                version = made,
                "models.{name} has changed: version {made}, before {before}"
            );
        }
        self.version = Some(Current { version: made.into(), since: now });
        true
    }
}

/// The settings file, if there is one.
struct SettingsFile {
    file: Option<PathBuf>,
    changes: Changes<Stamps>,
}

impl SettingsFile {
    fn of(file: Option<PathBuf>) -> Self {
        let changes = Changes::since(Stamps::now(&file), TWO_LOOKS);
        Self { file, changes }
    }

    fn has_changed(&mut self) -> bool {
        self.changes.look(Stamps::now(&self.file)) == Look::Changed
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::clock::SystemClock;

    struct Rig {
        folder: tempfile::TempDir,
        versions: Versions,
        settings: SettingsFile,
    }

    impl Rig {
        /// A model with its labels, named in a settings file.
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("eirs.toml");
            fs::write(folder.path().join("m.onnx"), "model").unwrap();
            fs::write(&file, table(folder.path(), "")).unwrap();
            let layers = Layers::of(Some(&file), &[]);
            let versions =
                Versions::new(&layers.load().unwrap(), Some(layers), std::sync::Arc::new(SystemClock));
            Self { folder, versions, settings: SettingsFile::of(Some(file)) }
        }

        fn write(&self, name: &str, text: &str) {
            let beside = self.folder.path().join("beside");
            fs::write(&beside, text).unwrap();
            fs::rename(beside, self.folder.path().join(name)).unwrap();
        }

        /// Returns the version in force after this number of looks.
        fn after(&mut self, looks: usize) -> String {
            for _ in 0..looks {
                self.versions.look(&mut self.settings);
            }
            self.versions.current("default").unwrap().to_string()
        }
    }

    fn table(folder: &Path, more: &str) -> String {
        format!("[models.default]\npath = {:?}\n{more}", folder.join("m.onnx").display().to_string())
    }

    #[test]
    fn changed_files_and_new_labels_count_once_they_are_stable() {
        let mut rig = Rig::new();
        let first = rig.after(2);
        rig.write("m.onnx", "another model");
        assert_eq!(rig.after(1), first, "it has just changed");
        let second = rig.after(1);
        assert_ne!(second, first);
        rig.write("labels.txt", "cat\ndog\n");
        let third = rig.after(2);
        assert_ne!(third, second);
        rig.write("m.onnx", "model");
        fs::remove_file(rig.folder.path().join("labels.txt")).unwrap();
        assert_eq!(rig.after(2), first, "everything is as before");
    }

    #[test]
    fn a_changed_table_of_the_settings_counts_and_a_bad_one_does_not() {
        let mut rig = Rig::new();
        let first = rig.after(2);
        let folder = rig.folder.path().to_owned();
        rig.write("eirs.toml", &table(&folder, "mean = [1, 2, 3]\n"));
        let second = rig.after(3);
        assert_ne!(second, first);
        rig.write("eirs.toml", &table(&folder, "mean = 'grey'\n"));
        assert_eq!(rig.after(3), second, "the last good version stays in force");
        rig.write("eirs.toml", &format!("# As it was.\n\n{}", table(&folder, "batch = 4\n")));
        assert_eq!(rig.after(3), first);
    }

    #[test]
    fn a_missing_file_leaves_the_last_version_in_force() {
        let mut rig = Rig::new();
        let first = rig.after(1);
        fs::remove_file(rig.folder.path().join("m.onnx")).unwrap();
        assert_eq!(rig.after(3), first);
        rig.write("m.onnx", "another model");
        assert_ne!(rig.after(2), first);
    }

    #[test]
    fn without_the_files_the_version_is_the_one_in_replies_of_workers() {
        let mut settings = Settings::default();
        settings.models.get_mut("default").unwrap().path = Some("/nowhere/m.onnx".into());
        let versions = Versions::new(&settings, None, std::sync::Arc::new(SystemClock));
        assert_eq!(versions.current("default"), None);
        versions.learn("default", "");
        assert_eq!(versions.current("default"), None, "a worker that does not know versions");
        versions.learn("default", "abc1");
        assert_eq!(versions.current("default").as_deref(), Some("abc1"));
        assert_eq!(versions.made_here("default"), None);
        let known = Versions::new(&Settings::default(), None, std::sync::Arc::new(SystemClock));
        known.learn("default", "abc1");
        assert_ne!(known.current("default").as_deref(), Some("abc1"), "what is known here is not learnt");
    }
}
