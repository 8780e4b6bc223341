//! Keeps the last valid version of each policy file in force while the files change.
//!
//! Every pass of the controller checks the files (a few `stat` calls).
//! [`Wake`](eirs_platform::state_folder::Wake) and SIGHUP only make this check earlier, so a missed
//! notification, a replaced folder or a symbolic link delays a change by one tick at most.

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

/// Time for which the folder must be unchanged before a change is read: editors write a file in
/// several steps, and tools write several files.
pub const SETTLE: Duration = Duration::from_millis(100);

/// The policies in force, and the complaints about the files on disk.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    settings: Arc<Settings>,
    policies: Policies,
    /// Policies with `observe = true`, by pool.
    trials: BTreeMap<String, Policy>,
    complaints: Vec<Complaint>,
    files: Changes<Option<Stamps>>,
}

impl Store {
    /// Reads the folder. Fails with all complaints if not a single policy is valid.
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

    /// Names of the pools whose policy is on trial.
    pub fn trials(&self) -> impl Iterator<Item = &String> {
        self.trials.keys()
    }

    /// The policies as if those on trial were in force; `None` if none is on trial.
    pub fn on_trial(&self) -> Option<Policies> {
        let mut policies = self.policies.clone();
        for (pool, policy) in &self.trials {
            policies.unreadable.remove(pool);
            policies.pools.insert(pool.clone(), policy.clone());
        }
        (!self.trials.is_empty()).then_some(policies)
    }

    /// The folder of the policy files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Path of a pool's file.
    pub fn file(&self, pool: &str) -> PathBuf {
        self.folder.join(format!("{pool}.toml"))
    }

    /// All complaints about the files as they are on disk.
    pub fn complaints(&self) -> &[Complaint] {
        &self.complaints
    }

    /// Checks the files, and reads them again if they changed and have settled. If it returns
    /// [`Look::Changing`], check again after [`SETTLE`].
    pub fn look(&mut self) -> Look {
        let look = self.files.look(stamps(&self.folder));
        if look == Look::Changed {
            self.reload();
        }
        look
    }

    /// Reads the files again, changed or not.
    pub fn reload(&mut self) {
        // Taken before the files are read, so that the next check sees a change in between.
        self.files.read(stamps(&self.folder));
        match load::read_folder(&self.folder) {
            Ok(found) => self.take(found),
            // A folder that is being replaced is missing for a moment, and a lost one is an
            // accident: the policies stay in force. To remove a pool, delete its file.
            Err(complaint) => self.complain(vec![complaint]),
        }
    }

    /// Puts each valid policy in force. An invalid one leaves its last valid version in force.
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

        // A pool on trial keeps its last version, or is left alone if there is none.
        let (trials, good): (BTreeMap<_, _>, BTreeMap<_, _>) =
            good.into_iter().partition(|(_, policy)| policy.pool.observe);
        bad.extend(trials.keys().cloned());
        for pool in trials.keys().filter(|pool| !self.trials.contains_key(*pool)) {
            tracing::info!(
                %pool,
                "the policy of {pool} is on trial: its decisions are explained and not carried out"
            );
        }
        self.trials = trials;
        let before = std::mem::take(&mut self.policies.pools);
        let last_good = |name: &String| before.get(name).map(|policy| (name.clone(), policy.clone()));
        let mut pools: BTreeMap<_, _> = bad.iter().filter_map(last_good).collect();
        // A pool that keeps its model has precedence over one that newly claims it.
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

    /// Logs the complaints that are new.
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
            tracing::info!("all policy files are valid again");
        }
        self.complaints = complaints;
    }
}

/// The stamps of all policy files; `None` if the folder cannot be listed.
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

        /// Writes a file as careful tools do: to a temporary name first, then renamed.
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
    async fn a_change_is_read_once_it_has_settled_and_not_before() {
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
    async fn a_policy_on_trial_is_evaluated_while_its_last_version_stays_in_force() {
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

        // After a restart the previous version is unknown, and the pool is left as it is.
        rig.write("a.toml", "[pool]\nmax = 9\nobserve = true");
        let store = rig.open().unwrap();
        assert_eq!(max_of(&store, "a"), None);
        assert!(store.policies().unreadable.contains("a"));
        assert!(!store.on_trial().unwrap().unreadable.contains("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_invalid_file_leaves_its_last_valid_version_in_force_and_other_files_are_read() {
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
    async fn a_pool_whose_file_was_never_valid_is_unreadable() {
        let rig = Rig::new(&[("a.toml", "[pool]\nmax = 'x'"), ("b.toml", "[pool]\nmodel = 'dogs'")]);
        let store = rig.open().unwrap();
        assert_eq!(store.policies().unreadable, BTreeSet::from(["a".to_owned()]));
        assert_eq!(max_of(&store, "b"), Some(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_is_removed_with_its_file_but_not_with_the_whole_folder() {
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
    async fn a_pool_with_the_model_of_another_is_refused_and_pools_may_swap_models() {
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
    async fn a_start_without_a_valid_policy_is_refused_with_all_complaints() {
        assert!(
            Rig::new(&[]).open().unwrap_err()[0].to_string().contains("no policy file is in this folder")
        );
        let complaints = Rig::new(&[("a.toml", "x = 1"), ("b.toml", "y = 1")]).open().unwrap_err();
        assert_eq!(complaints.len(), 2);
    }
}
