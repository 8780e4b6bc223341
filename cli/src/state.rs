//! Inspects the state folder of the local backend from outside: whether it belongs to EIRS, and
//! whether a program uses it.

use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

use eirs_platform::{
    backend::Backend,
    blobs::{BlobInfo, SharedBlobs},
    clock::SystemClock,
    settings::{BackendKind, Settings},
    state_folder::{CONTROLLER_LOCK, LAYOUT},
};
use indicatif::ProgressBar;
use serde::Serialize;

/// The kind of a path that should be a state folder.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// The path does not exist, or is an empty folder.
    Nothing,
    /// A state folder.
    Ours,
    /// Anything else.
    Foreign,
}

/// Returns the kind of a path. A state folder has a file `layout` with a number.
pub fn kind(state: &Path) -> Kind {
    let layout = std::fs::read_to_string(state.join(LAYOUT));
    let is_number =
        |text: &str| !text.trim().is_empty() && text.trim().bytes().all(|byte| byte.is_ascii_digit());
    match layout {
        Ok(text) if is_number(&text) => Kind::Ours,
        Err(error) if error.kind() == io::ErrorKind::NotFound && is_empty(state) => Kind::Nothing,
        _ => Kind::Foreign,
    }
}

/// The folder may be created by an installation before anything has run.
fn is_empty(folder: &Path) -> bool {
    match std::fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Returns the error for a folder of another kind.
pub fn foreign(state: &Path) -> String {
    let shown = state.display();
    if is_closed(state) {
        return format!("{shown} may be read by its service and by root only; try again as root");
    }
    format!("{shown} is not a state folder of EIRS; name another one with --state")
}

/// Returns the error for a folder on which nothing has run.
pub fn nothing(state: &Path) -> String {
    format!(
        "nothing has run on the state folder {} yet; start the service, or name another one with --state",
        state.display()
    )
}

/// Returns whether this user has no permission to read the folder.
pub fn is_closed(state: &Path) -> bool {
    std::fs::read_dir(state).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// Returns whether a controller has ever run on the folder: it leaves its lock file.
pub fn had_controller(state: &Path) -> bool {
    state.join(CONTROLLER_LOCK).exists()
}

/// Refuses a folder on which nothing has run yet, or of another kind. In a cloud, the queue is
/// elsewhere; then the folder must be the controller's.
pub fn expect_ours(settings: &Settings) -> anyhow::Result<()> {
    let state = settings.local.state.as_path();
    let shown = state.display();
    if settings.backend == BackendKind::Aws {
        if had_controller(state) || kind(state) == Kind::Ours {
            return Ok(());
        }
        anyhow::ensure!(!is_closed(state), foreign(state));
        anyhow::bail!(
            "no controller has run here with the state folder {shown}; run this on the web host, \
            or name its folder with --state"
        );
    }
    match kind(state) {
        Kind::Ours => Ok(()),
        Kind::Nothing => anyhow::bail!(nothing(state)),
        Kind::Foreign => anyhow::bail!(foreign(state)),
    }
}

/// Opens the queues and stores of an installation. On one machine, the state folder must exist: an
/// inspection must not create one.
pub async fn open(settings: &Settings) -> anyhow::Result<Backend> {
    Ok(Backend::open(settings, std::sync::Arc::new(SystemClock)).await?)
}

/// Number of blobs per listing.
pub const PAGE: usize = 1000;

/// The amount of stored data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Stored {
    /// The number of blobs.
    pub count: u64,
    /// The total size in bytes.
    pub bytes: u64,
}

/// Counts the blobs with a prefix and passes each to `look`. A long count shows its progress.
pub async fn stored(
    blobs: &SharedBlobs,
    prefix: &str,
    mut look: impl FnMut(&BlobInfo),
) -> anyhow::Result<Stored> {
    let (mut all, mut after) = (Stored::default(), None::<String>);
    let (spinner, start) = (ProgressBar::new_spinner(), Instant::now());
    loop {
        let page = blobs.list(prefix, after.as_deref(), PAGE).await?;
        all.count += page.len() as u64;
        all.bytes += page.iter().map(|blob| blob.bytes).sum::<u64>();
        page.iter().for_each(&mut look);
        if start.elapsed() > Duration::from_secs(1) {
            spinner.set_message(format!("counting {prefix}: {}", all.count));
            spinner.tick();
        }
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(last.key.clone()),
            _ => {
                spinner.finish_and_clear();
                return Ok(all);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use eirs_platform::state_folder::Lock;

    use super::*;

    #[test]
    fn only_a_folder_with_a_layout_file_is_a_state_folder() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(kind(&folder.path().join("none")), Kind::Nothing);
        assert_eq!(kind(folder.path()), Kind::Nothing);
        std::fs::write(folder.path().join("layout"), "[keyboard]\n").unwrap();
        assert_eq!(kind(folder.path()), Kind::Foreign);
        std::fs::write(folder.path().join("layout"), "1\n").unwrap();
        assert_eq!(kind(folder.path()), Kind::Ours);
        assert_eq!(kind(&folder.path().join("layout")), Kind::Foreign);
    }

    #[test]
    fn in_a_cloud_the_folder_must_be_a_controllers() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings { backend: BackendKind::Aws, ..Settings::default() };
        settings.local.state = folder.path().to_owned();
        let refused = expect_ours(&settings).unwrap_err().to_string();
        assert!(refused.starts_with("no controller has run here with the state folder"), "{refused}");
        drop(Lock::take(folder.path(), CONTROLLER_LOCK).unwrap());
        expect_ours(&settings).unwrap();
        settings.backend = BackendKind::Local;
        assert!(expect_ours(&settings).is_err(), "one machine's has a layout");
    }
}
