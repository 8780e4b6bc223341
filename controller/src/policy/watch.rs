//! Keeps the last good version of each policy file in force while the files change under us.
//!
//! The files themselves are looked at in every pass of the controller (a few `stat`s); [`Watch`] and SIGHUP only make
//! that look come earlier. So a missed notification, a replaced folder or a symbolic link costs a tick, not a change.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::CStr,
    io,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use eirs_platform::{settings::Settings, state_folder::Stamp};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::{io::unix::AsyncFd, time::Instant};

use super::{
    Complaint, Policies,
    load::{self, Folder},
    unknown_model,
};
use crate::descriptor;

/// A change is taken when the folder has looked the same for so long: editors write a file in several steps, and tools
/// write several files.
pub const SETTLE: Duration = Duration::from_millis(100);

/// The policies in force, and what is wrong with the files on disk.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    settings: Arc<Settings>,
    policies: Policies,
    complaints: Vec<Complaint>,
    read: Fingerprint,
    unsettled: Option<(Fingerprint, Instant)>,
}

/// What a look at the folder found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Nothing changed.
    Same,
    /// The files are changing; look again after [`SETTLE`].
    Changing,
    /// The files changed and were read.
    Read,
}

/// Tells two states of the folder apart without reading the files. `None` where the folder cannot be listed.
type Fingerprint = Option<Vec<(PathBuf, Stamp)>>;

impl Store {
    /// Reads the folder; the error is every complaint where not a single policy is good.
    pub fn open(settings: Arc<Settings>) -> Result<Self, Vec<Complaint>> {
        let folder = settings.controller.policies.clone();
        let read = fingerprint(&folder);
        let mut store = Self {
            policies: Policies::default().limited_by(&settings),
            folder,
            settings,
            complaints: Vec::new(),
            read,
            unsettled: None,
        };
        match load::read_folder(&store.folder) {
            Ok(found) => store.take(found),
            Err(complaint) => return Err(vec![complaint]),
        }
        if !store.policies.pools.is_empty() {
            return Ok(store);
        }
        if store.complaints.is_empty() {
            store.complaints.push(Complaint {
                file: store.folder,
                line: None,
                key: None,
                problem: "no policy file is in this folder; each *.toml in it is a pool".to_owned(),
            });
        }
        Err(store.complaints)
    }

    /// The policies in force.
    pub fn policies(&self) -> &Policies {
        &self.policies
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

    /// Reads the files again if they changed and have settled.
    pub fn look(&mut self) -> Look {
        let now = fingerprint(&self.folder);
        if now == self.read {
            self.unsettled = None;
            return Look::Same;
        }
        match &self.unsettled {
            Some((seen, since)) if *seen == now => {
                if since.elapsed() < SETTLE {
                    return Look::Changing;
                }
                self.reload();
                Look::Read
            }
            _ => {
                self.unsettled = Some((now, Instant::now()));
                Look::Changing
            }
        }
    }

    /// Reads the files again, whatever they look like.
    pub fn reload(&mut self) {
        self.unsettled = None;
        // Taken before the files are read: a change in between is seen by the next look.
        self.read = fingerprint(&self.folder);
        match load::read_folder(&self.folder) {
            Ok(found) => self.take(found),
            // A folder that is being replaced is gone for a moment, and one that is lost is an accident: what is in
            // force stays. Whoever wants a pool gone deletes its file.
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

fn fingerprint(folder: &Path) -> Fingerprint {
    let files = load::policy_files(folder).ok()?;
    Some(files.into_iter().map(|path| (path.clone(), Stamp::now(&path))).collect())
}

/// Wakes whoever waits when a file of a folder may have changed.
#[derive(Debug)]
pub struct Watch {
    folder: PathBuf,
    /// The one file that matters, where not all do.
    only: Option<String>,
    notifications: Option<AsyncFd<OwnedFd>>,
}

impl Watch {
    /// Watches a folder. Where the kernel has no watch to give, [`changed`](Self::changed) never ends and the ticks must do.
    pub fn new(folder: &Path) -> Self {
        let open = || -> io::Result<_> {
            let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
            descriptor::readable(inotify)
        };
        let notifications = open()
            .inspect_err(|error| {
                tracing::warn!(%error, "inotify is not available: changed policies are \
                    seen at the next tick")
            })
            .ok();
        let watch = Self { folder: folder.to_owned(), only: None, notifications };
        watch.arm();
        watch
    }

    /// Watches one file of a folder, there or not: what happens to the others wakes nobody.
    pub fn of_file(folder: &Path, name: &str) -> Self {
        Self { only: Some(name.to_owned()), ..Self::new(folder) }
    }

    /// Watches the folder that has the name now; it may have been replaced. Doing it again changes nothing.
    pub fn arm(&self) {
        // Nothing is reported while a file is being written, only when it was closed, moved or linked.
        let changes = WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF;
        if let Some(notifications) = &self.notifications {
            // A folder that is gone for a moment is watched again after the tick that sees it.
            let _gone = inotify::add_watch(notifications.get_ref(), &self.folder, changes);
        }
    }

    /// Ends when a file may have changed since the last call. Dropping it loses nothing.
    pub async fn changed(&self) {
        let Some(notifications) = &self.notifications else { return std::future::pending().await };
        loop {
            let Ok(mut ready) = notifications.readable().await else { return std::future::pending().await };
            let mut unread = [MaybeUninit::uninit(); 4096];
            let read = ready.try_io(|inotify| {
                let mut any = false;
                let mut events = inotify::Reader::new(inotify.get_ref(), &mut unread);
                // What exactly happened does not matter: whoever is woken looks at the files.
                loop {
                    match events.next() {
                        Ok(event) => any |= self.concerns(event.file_name()),
                        Err(rustix::io::Errno::INTR) => {}
                        Err(_) if any => return Ok(()),
                        Err(error) => return Err(error.into()),
                    }
                }
            });
            match read {
                Ok(Ok(())) => return,
                Ok(Err(_broken)) => return std::future::pending().await,
                Err(_would_block) => {}
            }
        }
    }

    /// What has no name happened to the folder itself.
    fn concerns(&self, file: Option<&CStr>) -> bool {
        match (&self.only, file) {
            (Some(only), Some(file)) => only.as_bytes() == file.to_bytes(),
            _ => true,
        }
    }
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
        assert_eq!(store.look(), Look::Read);
        assert_eq!(max_of(&store, "a"), Some(12));
        assert_eq!(store.look(), Look::Same);
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

    #[tokio::test]
    async fn a_watch_of_one_file_is_woken_by_that_file_alone() {
        let rig = Rig::new(&[("a.toml", "")]);
        let watch = Watch::of_file(rig.folder.path(), "b.toml");
        rig.write("a.toml", "[pool]");
        tokio::time::timeout(Duration::from_millis(50), watch.changed()).await.unwrap_err();
        rig.write("b.toml", "[pool]");
        tokio::time::timeout(Duration::from_secs(10), watch.changed()).await.unwrap();
    }

    #[tokio::test]
    async fn a_changed_file_wakes_the_watch_at_once_also_in_a_replaced_folder() {
        let rig = Rig::new(&[("a.toml", "")]);
        let watch = Watch::new(rig.folder.path());
        let soon = |changed| tokio::time::timeout(Duration::from_secs(10), changed);
        rig.write("a.toml", "[pool]");
        soon(watch.changed()).await.unwrap();

        let aside = rig.folder.path().with_extension("aside");
        fs::rename(rig.folder.path(), &aside).unwrap();
        fs::create_dir(rig.folder.path()).unwrap();
        soon(watch.changed()).await.unwrap();
        watch.arm();
        rig.write("a.toml", "[pool]");
        soon(watch.changed()).await.unwrap();
        fs::remove_dir_all(aside).unwrap();
    }
}
