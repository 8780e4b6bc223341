//! Keeps the last good version of each policy file in force while the files change under us.
//!
//! The files themselves are looked at in every pass of the controller (a few `stat`s);
//! [`Wake`](eirs_platform::state_folder::Wake) and SIGHUP only make that look come earlier. So a
//! missed notification, a replaced folder or a symbolic link costs a tick, not a change.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use eirs_platform::{
    settings::Settings,
    state_folder::{Changes, Look, Stamps},
};

use super::{
    Complaint, Policies, Policy,
    load::{self, Folder},
    unknown_model,
};

/// A change is taken when the folder has looked the same for so long: editors write a file in
/// several steps, and tools write several files.
pub const SETTLE: Duration = Duration::from_millis(100);

/// The policies in force, and what is wrong with the files on disk.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    settings: Arc<Settings>,
    policies: Policies,
    /// Those that say `observe = true`.
    trials: BTreeMap<String, Policy>,
    complaints: Vec<Complaint>,
    files: Changes<Option<Stamps>>,
}

impl Store {
    /// Reads the folder; the error is every complaint where not a single policy is good.
    pub fn open(settings: Arc<Settings>) -> Result<Self, Vec<Complaint>> {
        let folder = settings.controller.policies.clone();
        let files = Changes::since(stamps(&folder), SETTLE);
        let mut store = Self {
            policies: Policies::default().limited_by(&settings),
            folder,
            settings,
            trials: BTreeMap::new(),
            complaints: Vec::new(),
            files,
        };
        match load::read_folder(&store.folder) {
            Ok(found) => store.take(found),
            Err(complaint) => return Err(vec![complaint]),
        }
        if !store.policies.pools.is_empty() || !store.trials.is_empty() {
            return Ok(store);
        }
        if store.complaints.is_empty() {
            store.complaints.push(Complaint::no_policy(&store.folder));
        }
        Err(store.complaints)
    }

    /// The policies in force.
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// The pools whose files are on trial.
    pub fn trials(&self) -> impl Iterator<Item = &String> {
        self.trials.keys()
    }

    /// The policies as they would be if those on trial were in force; none where none is on trial.
    pub fn on_trial(&self) -> Option<Policies> {
        let mut policies = self.policies.clone();
        for (pool, policy) in &self.trials {
            policies.unreadable.remove(pool);
            policies.pools.insert(pool.clone(), policy.clone());
        }
        (!self.trials.is_empty()).then_some(policies)
    }

    /// The folder that they come from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file of a pool.
    pub fn file(&self, pool: &str) -> PathBuf {
        self.folder.join(format!("{pool}.toml"))
    }

    /// Everything that is wrong with the files as they are on disk.
    pub fn complaints(&self) -> &[Complaint] {
        &self.complaints
    }

    /// Looks at the files, and reads them again if they changed and have settled. While they are
    /// changing, look again after [`SETTLE`].
    pub fn look(&mut self) -> Look {
        let look = self.files.look(stamps(&self.folder));
        if look == Look::Changed {
            self.reload();
        }
        look
    }

    /// Reads the files again, whatever they look like.
    pub fn reload(&mut self) {
        // Taken before the files are read: a change in between is seen by the next look.
        self.files.read(stamps(&self.folder));
        match load::read_folder(&self.folder) {
            Ok(found) => self.take(found),
            // A folder that is being replaced is gone for a moment, and one that is lost is an
            // accident: what is in force stays. To remove a pool, delete its file.
            Err(complaint) => self.complain(vec![complaint]),
        }
    }

    /// Puts each good file in force; a bad one leaves its last good version there.
    fn take(&mut self, found: Folder) {
        let mut complaints = found.misnamed;
        let mut good = BTreeMap::new();
        let mut bad = BTreeSet::new();
        for (name, read) in found.files {
            let file = self.file(&name);
            let known = read.and_then(|policy| match unknown_model(&file, &policy, &self.settings) {
                None => Ok(policy),
                Some(complaint) => Err(vec![complaint]),
            });
            match known {
                Ok(policy) => drop(good.insert(name, policy)),
                Err(found) => {
                    complaints.extend(found);
                    bad.insert(name);
                }
            }
        }

        // Who is on trial is left as it is: by its last version, or alone where there is none.
        let (trials, good): (BTreeMap<_, _>, BTreeMap<_, _>) =
            good.into_iter().partition(|(_, policy)| policy.pool.observe);
        bad.extend(trials.keys().cloned());
        for pool in trials.keys().filter(|pool| !self.trials.contains_key(*pool)) {
            tracing::info!(%pool, "the policy of {pool} is on trial: it is decided by, and nothing is done");
        }
        self.trials = trials;
        let before = std::mem::take(&mut self.policies.pools);
        let last_good = |name: &String| before.get(name).map(|policy| (name.clone(), policy.clone()));
        let mut pools: BTreeMap<_, _> = bad.iter().filter_map(last_good).collect();
        // Who keeps its policy keeps its model; a new claim on the same one is the mistake.
        let (kept, claims): (Vec<_>, Vec<_>) = good.into_iter().partition(|(name, policy)| {
            before.get(name).is_some_and(|old| old.pool.model == policy.pool.model)
        });
        for (name, policy) in kept.into_iter().chain(claims) {
            let Some(other) = load::same_model(&pools, &name, &policy) else {
                pools.insert(name, policy);
                continue;
            };
            complaints.push(load::shared_model(&self.file(&name), &policy, &other));
            let fallback =
                last_good(&name).filter(|(name, old)| load::same_model(&pools, name, old).is_none());
            pools.extend(fallback);
            bad.insert(name);
        }

        for (pool, policy) in &pools {
            if before.get(pool) != Some(policy) {
                let file = self.file(pool);
                tracing::info!(%pool, file = %file.display(), "policy of {pool} in force");
            }
        }
        for pool in before.keys().filter(|pool| !pools.contains_key(*pool)) {
            tracing::info!(%pool, "the policy of {pool} was deleted: its instances are drained");
        }
        self.policies.unreadable = bad.into_iter().filter(|name| !pools.contains_key(name)).collect();
        self.policies.pools = pools;
        self.complain(complaints);
    }

    /// Logs what is newly wrong; what was wrong already was logged then.
    fn complain(&mut self, complaints: Vec<Complaint>) {
        for complaint in complaints.iter().filter(|complaint| !self.complaints.contains(complaint)) {
            let pool = complaint.file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let has_former = self.policies.pools.contains_key(pool);
            let remains = if has_former {
                "the last good version stays in force"
            } else {
                "and no earlier good version exists"
            };
            tracing::error!(
                file = %complaint.file.display(),
                key = complaint.key.as_deref().unwrap_or_default(),
                reason = complaint.problem,
                "wrong policy, {remains}: {complaint}"
            );
        }
        if complaints.is_empty() && !self.complaints.is_empty() {
            tracing::info!("every policy file is good again");
        }
        self.complaints = complaints;
    }
}

/// Of all policy files. `None` where the folder cannot be listed.
fn stamps(folder: &Path) -> Option<Stamps> {
    load::policy_files(folder).ok().map(Stamps::now)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct Rig {
        folder: tempfile::TempDir,
    }

    impl Rig {
        fn new(files: &[(&str, &str)]) -> Self {
            let rig = Self { folder: tempfile::tempdir().unwrap() };
            files.iter().for_each(|(name, text)| rig.write(name, text));
            rig
        }

        /// As careful tools do it: written aside and moved.
        fn write(&self, name: &str, text: &str) {
            let path = self.folder.path().join(name);
            let beside = path.with_extension("new");
            fs::write(&beside, text).unwrap();
            fs::rename(beside, path).unwrap();
        }

        fn open(&self) -> Result<Store, Vec<Complaint>> {
            let mut settings = Settings::default();
            settings.controller.policies = self.folder.path().to_owned();
            settings.models.insert("dogs".into(), settings.models["default"].clone());
            Store::open(Arc::new(settings))
        }
    }

    fn max_of(store: &Store, pool: &str) -> Option<u32> {
        store.policies().pools.get(pool).map(|policy| policy.pool.max)
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_read_when_it_has_settled_and_never_sooner() {
        let rig = Rig::new(&[("a.toml", "")]);
        let mut store = rig.open().unwrap();
        assert_eq!(store.look(), Look::Same);
        rig.write("a.toml", "[pool]\nmax = 3");
        assert_eq!(store.look(), Look::Changing);
        rig.write("a.toml", "[pool]\nmax = 12");
        tokio::time::advance(SETTLE).await;
        assert_eq!(store.look(), Look::Changing);
        tokio::time::advance(SETTLE).await;
        assert_eq!(store.look(), Look::Changed);
        assert_eq!(max_of(&store, "a"), Some(12));
        assert_eq!(store.look(), Look::Same);
    }

    #[tokio::test(start_paused = true)]
    async fn a_policy_on_trial_leaves_its_last_version_in_force_and_is_decided_by_beside_it() {
        let rig = Rig::new(&[("a.toml", "[pool]\nmax = 3")]);
        let mut store = rig.open().unwrap();
        assert!(store.on_trial().is_none());
        rig.write("a.toml", "[pool]\nmax = 7\nobserve = true");
        store.reload();
        assert_eq!(max_of(&store, "a"), Some(3));
        assert_eq!(store.on_trial().unwrap().pools["a"].pool.max, 7);
        assert!(store.complaints().is_empty());
        rig.write("a.toml", "[pool]\nmax = 7");
        store.reload();
        assert_eq!(max_of(&store, "a"), Some(7));
        assert!(store.on_trial().is_none());

        // Nobody knows what was in force before, and the pool is left as it is.
        rig.write("a.toml", "[pool]\nmax = 9\nobserve = true");
        let store = rig.open().unwrap();
        assert_eq!(max_of(&store, "a"), None);
        assert!(store.policies().unreadable.contains("a"));
        assert!(!store.on_trial().unwrap().unreadable.contains("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_bad_file_leaves_its_last_good_version_in_force_and_the_other_files_change() {
        let rig = Rig::new(&[("a.toml", "[pool]\nmax = 3"), ("b.toml", "[pool]\nmodel = 'dogs'")]);
        let mut store = rig.open().unwrap();
        rig.write("a.toml", "[pool]\nmax = 'x'");
        rig.write("b.toml", "[pool]\nmodel = 'dogs'\nmax = 4");
        store.reload();
        assert_eq!((max_of(&store, "a"), max_of(&store, "b")), (Some(3), Some(4)));
        assert!(
            store.complaints()[0].to_string().contains("a.toml:2: pool.max: is 'x'"),
            "{:?}",
            store.complaints()
        );
        rig.write("a.toml", "[pool]\nmax = 5");
        store.reload();
        assert_eq!((max_of(&store, "a"), store.complaints()), (Some(5), &[][..]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_that_was_never_good_is_known_as_unreadable() {
        let rig = Rig::new(&[("a.toml", "[pool]\nmax = 'x'"), ("b.toml", "[pool]\nmodel = 'dogs'")]);
        let store = rig.open().unwrap();
        assert_eq!(store.policies().unreadable, BTreeSet::from(["a".to_owned()]));
        assert_eq!(max_of(&store, "b"), Some(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_goes_with_its_file_but_not_with_the_whole_folder() {
        let rig = Rig::new(&[("a.toml", ""), ("b.toml", "[pool]\nmodel = 'dogs'")]);
        let mut store = rig.open().unwrap();
        fs::remove_file(rig.folder.path().join("b.toml")).unwrap();
        store.reload();
        assert_eq!(store.policies().pools.keys().collect::<Vec<_>>(), ["a"]);
        fs::remove_dir_all(rig.folder.path()).unwrap();
        store.reload();
        assert_eq!(max_of(&store, "a"), Some(10));
        assert_eq!(store.complaints().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_claims_the_model_of_another_pool_is_refused_and_pools_may_swap() {
        let rig = Rig::new(&[("b.toml", "[pool]\nmodel = 'dogs'")]);
        let mut store = rig.open().unwrap();
        rig.write("a.toml", "[pool]\nmodel = 'dogs'");
        store.reload();
        assert_eq!((max_of(&store, "a"), max_of(&store, "b")), (None, Some(10)));
        assert!(
            store.complaints()[0].to_string().contains("a.toml: pool.model: is \"dogs\""),
            "{:?}",
            store.complaints()
        );
        rig.write("a.toml", "");
        store.reload();
        rig.write("a.toml", "[pool]\nmodel = 'dogs'");
        rig.write("b.toml", "");
        store.reload();
        assert_eq!(store.complaints(), []);
        assert_eq!(store.policies().pools["a"].pool.model, "dogs");
    }

    #[tokio::test]
    async fn no_good_policy_at_the_start_is_refused_with_every_complaint() {
        assert!(
            Rig::new(&[]).open().unwrap_err()[0].to_string().contains("no policy file is in this folder")
        );
        let complaints = Rig::new(&[("a.toml", "x = 1"), ("b.toml", "y = 1")]).open().unwrap_err();
        assert_eq!(complaints.len(), 2);
    }
}
