//! `eirs cleanup` on one machine: the state folder.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::Context;
use bytesize::ByteSize;
use eirs_platform::{
    backend::Backend,
    blobs::SharedBlobs,
    job, results,
    settings::Settings,
    state_folder::{CONTROLLER_LOCK, LOCAL_LOCK, Lock, NotLocked, WEB_LOCK, is_ours, ours},
};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use walkdir::WalkDir;

use super::{Cleanup, Mode};
use crate::{
    Exit, Stop,
    show::count,
    state::{self, Kind, PAGE, Stored, stored},
};

/// Runs the command for the state folder of these settings.
pub(super) async fn run(cleanup: &Cleanup, settings: &Settings) -> Result<Exit, Stop> {
    let folder = settings.local.state.as_path();
    let shown = folder.display();
    match state::kind(folder) {
        Kind::Nothing => {
            let nothing = json!({ "state": folder, "mode": cleanup.mode, "done": !cleanup.plan });
            cleanup.voice.show(&nothing, || format!("Nothing to clean up: nothing has run on {shown}."));
            return Ok(Exit::Ok);
        }
        Kind::Foreign => {
            return Err(Stop::Failed(anyhow::anyhow!(
                "{shown} is not a state folder of EIRS (it has no `layout` file of EIRS); nothing \
                was changed"
            )));
        }
        Kind::Ours => {}
    }
    let _no_program_can_start = [LOCAL_LOCK, CONTROLLER_LOCK, WEB_LOCK]
        .into_iter()
        .map(|name| match Lock::take(folder, name) {
            Ok(lock) => Ok(lock),
            Err(NotLocked::Taken(taken)) => Err(anyhow::anyhow!(
                "a service is running on {shown} ({name} is held{}); stop it first",
                taken.who()
            )),
            Err(failed) => Err(failed.into()),
        })
        .collect::<anyhow::Result<Vec<_>>>()?;

    let plan = Plan::of(cleanup.mode, settings).await?;
    cleanup.carry_out(plan.sentence(folder), plan.json(folder), plan.carry_out(folder)).await
}

/// The planned actions.
#[expect(clippy::large_enum_variant, reason = "there is one of them")]
enum Plan {
    Clear { backend: Backend, queues: Vec<String>, messages: u64, images: Stored, results: Stored },
    Delete { ours: Vec<PathBuf>, others: Vec<String>, files: u64, bytes: u64 },
}

impl Plan {
    async fn of(mode: Mode, settings: &Settings) -> anyhow::Result<Self> {
        match mode {
            Mode::Clear => {
                let backend = state::open(settings).await?;
                let queues = backend.queue_names().await?;
                let mut messages = 0;
                for name in &queues {
                    messages += backend.any_queue(name).await?.depth().await?.backlog();
                }
                let images = stored(backend.images(), "images/", |_| {}).await?;
                let results = stored(backend.results(), "results/", |_| {}).await?;
                Ok(Self::Clear { backend, queues, messages, images, results })
            }
            Mode::Delete => Self::delete(&settings.local.state),
        }
    }

    fn delete(folder: &Path) -> anyhow::Result<Self> {
        let unreadable = || format!("{} cannot be read", folder.display());
        let mut there = Vec::new();
        for entry in fs::read_dir(folder).with_context(unreadable)? {
            there.push(entry.with_context(unreadable)?.file_name());
        }
        let names = there.iter().map(|name| name.to_string_lossy().into_owned());
        let mut others: Vec<_> = names.filter(|name| !is_ours(name)).collect();
        others.sort();
        let names = there.iter().filter_map(|name| name.to_str().map(str::to_owned));
        let ours: Vec<_> = ours(names).into_iter().map(|name| folder.join(name)).collect();
        let (mut files, mut bytes) = (0, 0);
        let spinner = ProgressBar::new_spinner();
        // Entries that cannot be read are reported when they cannot be deleted.
        for entry in ours.iter().flat_map(WalkDir::new).flatten().filter(|entry| entry.file_type().is_file())
        {
            files += 1;
            bytes += entry.metadata().map_or(0, |data| data.len());
            if files % 1000 == 0 {
                spinner.set_message(format!("looking: {}", count(files, "file")));
                spinner.tick();
            }
        }
        spinner.finish_and_clear();
        Ok(Self::Delete { ours, others, files, bytes })
    }

    fn sentence(&self, folder: &Path) -> String {
        let folder = folder.display();
        match self {
            Self::Clear { messages, images, results, .. } => format!(
                "In {folder}: delete {}, {} ({}) and {} ({}).",
                count(*messages, "message"),
                count(images.count, "image"),
                ByteSize(images.bytes),
                count(results.count, "result"),
                ByteSize(results.bytes)
            ),
            Self::Delete { others, files, bytes, .. } => {
                let all = format!("Delete {folder}: {} ({}).", count(*files, "file"), ByteSize(*bytes));
                match others.as_slice() {
                    [] => all,
                    others => format!("{all} Other files stay: {}.", others.join(", ")),
                }
            }
        }
    }

    /// Returns the plan as JSON.
    fn json(&self, folder: &Path) -> Value {
        match self {
            Self::Clear { messages, images, results, .. } => json!({
                "state": folder, "mode": Mode::Clear, "messages": messages, "images": images,
                "results": results,
            }),
            Self::Delete { others, files, bytes, .. } => json!({
                "state": folder, "mode": Mode::Delete, "files": files, "bytes": bytes, "kept": others,
            }),
        }
    }

    async fn carry_out(self, folder: &Path) -> anyhow::Result<()> {
        match self {
            Self::Clear { backend, queues, images, results, .. } => {
                for name in &queues {
                    backend.any_queue(name).await?.purge().await?;
                }
                let bar = ProgressBar::new(images.count + results.count);
                delete_all(backend.images(), "images/", &bar).await?;
                delete_all(backend.results(), "results/", &bar).await?;
                // Notes about them: for which models images were uploaded, and which versions have
                // results.
                let notes = ProgressBar::hidden();
                delete_all(backend.images(), job::ASKED, &notes).await?;
                delete_all(backend.results(), results::NOTES, &notes).await?;
                bar.finish_and_clear();
            }
            Self::Delete { ours, others, .. } => {
                let spinner = ProgressBar::new_spinner();
                for path in &ours {
                    spinner.set_message(format!("deleting {}", path.display()));
                    spinner.tick();
                    let is_folder = fs::symlink_metadata(path).is_ok_and(|data| data.is_dir());
                    let deleted = if is_folder { fs::remove_dir_all(path) } else { fs::remove_file(path) };
                    match deleted {
                        // The database removes its journal when the last reader closes it.
                        Err(error) if error.kind() == ErrorKind::NotFound => {}
                        other => other.with_context(|| format!("{} cannot be deleted", path.display()))?,
                    }
                }
                spinner.finish_and_clear();
                if others.is_empty() {
                    fs::remove_dir(folder)
                        .with_context(|| format!("{} cannot be deleted", folder.display()))?;
                }
            }
        }
        Ok(())
    }
}

async fn delete_all(blobs: &SharedBlobs, prefix: &str, bar: &ProgressBar) -> anyhow::Result<()> {
    loop {
        let page = blobs.list(prefix, None, PAGE).await?;
        for blob in &page {
            blobs.delete(&blob.key).await?;
            bar.inc(1);
        }
        if page.len() < PAGE {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{Global, show::Voice};

    fn settings(folder: &Path) -> (Global, Settings) {
        let global = Global { config: None, state: Some(folder.to_owned()) };
        let mut settings = Settings::default();
        settings.local.state = folder.to_owned();
        (global, settings)
    }

    fn cleanup(mode: Mode) -> Cleanup {
        Cleanup { mode, plan: false, yes: true, voice: Voice::default() }
    }

    /// A state folder with a message, an image and two results.
    async fn some_state(settings: &Settings) -> Backend {
        let backend = state::open(settings).await.unwrap();
        backend.requests("default").await.unwrap().send(vec![Bytes::from("job")]).await.unwrap();
        backend.images().put("images/1", Bytes::from("image")).await.unwrap();
        for key in ["results/default/1.json", "results/dogs/1.json"] {
            backend.results().put(key, Bytes::from("{}")).await.unwrap();
        }
        backend
    }

    #[tokio::test]
    async fn clearing_empties_queues_and_stores_and_keeps_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let (global, settings) = settings(folder.path());
        let backend = some_state(&settings).await;
        assert_eq!(cleanup(Mode::Clear).run(&global).await.unwrap(), Exit::Ok);
        assert_eq!(backend.requests("default").await.unwrap().depth().await.unwrap().backlog(), 0);
        assert_eq!(stored(backend.images(), "images/", |_| {}).await.unwrap().count, 0);
        assert_eq!(stored(backend.results(), "results/", |_| {}).await.unwrap().count, 0);
        assert_eq!(state::kind(folder.path()), Kind::Ours);
    }

    #[tokio::test]
    async fn deleting_removes_all_files_of_eirs_and_no_others() {
        let parent = tempfile::tempdir().unwrap();
        for (name, with_letter) in [("own", false), ("shared", true)] {
            let folder = parent.path().join(name);
            let (global, settings) = settings(&folder);
            drop(some_state(&settings).await);
            if with_letter {
                fs::write(folder.join("letter.txt"), "dear").unwrap();
            }
            assert_eq!(cleanup(Mode::Delete).run(&global).await.unwrap(), Exit::Ok);
            let left: Vec<_> =
                fs::read_dir(&folder).into_iter().flatten().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!((folder.exists(), left.len()), (with_letter, usize::from(with_letter)), "{left:?}");
        }
    }

    #[tokio::test]
    async fn a_foreign_folder_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("letter.txt"), "dear").unwrap();
        let (global, _) = settings(folder.path());
        for mode in [Mode::Clear, Mode::Delete] {
            let stop = cleanup(mode).run(&global).await.unwrap_err();
            assert!(stop.to_string().contains("is not a state folder of EIRS"), "{stop}");
        }
        let names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["letter.txt"]);
    }

    #[tokio::test]
    async fn a_missing_folder_is_clean() {
        let folder = tempfile::tempdir().unwrap();
        let (global, settings) = settings(&folder.path().join("none"));
        assert_eq!(cleanup(Mode::Delete).run(&global).await.unwrap(), Exit::Ok);
        assert!(!settings.local.state.exists());
    }

    #[tokio::test]
    async fn a_state_folder_in_use_by_any_role_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (global, settings) = settings(folder.path());
        drop(some_state(&settings).await);
        for lock in [LOCAL_LOCK, CONTROLLER_LOCK, WEB_LOCK] {
            let _held = Lock::take(folder.path(), lock).unwrap();
            let stop = cleanup(Mode::Delete).run(&global).await.unwrap_err();
            let pid = std::process::id();
            assert!(
                stop.to_string().contains(&format!("({lock} is held, process {pid}); stop it first")),
                "{stop}"
            );
        }
        assert_eq!(state::kind(folder.path()), Kind::Ours);
    }

    #[tokio::test]
    async fn a_plan_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (global, settings) = settings(folder.path());
        let backend = some_state(&settings).await;
        let plan = Plan::of(Mode::Clear, &settings).await.unwrap();
        assert!(
            plan.sentence(folder.path()).ends_with("delete 1 message, 1 image (5 B) and 2 results (4 B).")
        );
        assert_eq!(Cleanup { plan: true, ..cleanup(Mode::Delete) }.run(&global).await.unwrap(), Exit::Ok);
        assert_eq!(stored(backend.images(), "images/", |_| {}).await.unwrap().count, 1);
    }
}
