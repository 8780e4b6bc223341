//! The state folder: the one folder on a machine with everything of an installation. This module
//! names the files and folders in it, and has the locks ([`Lock`]) and atomic writes
//! ([`write_aside`]) for them. [`Stamp`], [`Changes`] and [`Wake`] detect changes of files in any
//! folder.

mod aside;
mod changes;
mod lock;
mod place;
mod stamp;
mod wake;

pub use self::{
    aside::{Writers, write_aside},
    changes::{Changes, Look, Stamps},
    lock::{Lock, NotLocked, Taken, holder},
    place::expect_local,
    stamp::Stamp,
    wake::Wake,
};

/// The version of the layout; marks a folder as a state folder.
pub const LAYOUT: &str = "layout";
/// The database of the queues, the results and the index of images; SQLite puts its log beside it.
pub const QUEUE: &str = "queue.db";
/// The suffix of SQLite's write-ahead log, ...
pub const LOG_SUFFIX: &str = "-wal";
/// ... and of the memory shared by its connections.
pub const SHARED_MEMORY_SUFFIX: &str = "-shm";
/// The lock for writing to the database.
pub const QUEUE_LOCK: &str = "queue.lock";
/// The folder of the pipes that wake receivers.
pub const BELLS: &str = "bells";
/// The folder of the segments that hold the images.
pub const IMAGES: &str = "images";
/// The folder of images and results as files, from layout 1.
pub const OLD_FILES: &str = "blobs";
/// The folder of arriving uploads that are not in memory.
pub const UPLOADS: &str = "uploads";
/// The policies that `eirs local` creates if there are none.
pub const POLICIES: &str = "policies";
/// The controller's status after its last pass.
pub const STATUS: &str = "status.json";
/// The inputs of the controller's last decision.
pub const INPUTS: &str = "inputs.json";
/// The values that the controller has learnt.
pub const LEARNT: &str = "learnt.json";
/// The operator's orders, ...
pub const OPERATOR: &str = "operator.json";
/// ... and the lock for changing them.
pub const OPERATOR_LOCK: &str = "operator.lock";
/// The folder of the controller's recording, ...
pub const RECORDING: &str = "recording";
/// ... and the file in it that is being written.
pub const OBSERVATIONS: &str = "observations.jsonl";
/// The folder of the running workers.
pub const INSTANCES: &str = "instances";
/// The address for uploads of `eirs local`, ...
pub const WEB_ADDRESS: &str = "web.address";
/// ... and its address for the operator.
pub const WEB_ADMIN_ADDRESS: &str = "web.admin.address";
/// Held by a running controller.
pub const CONTROLLER_LOCK: &str = "controller.lock";
/// Held by a running web server.
pub const WEB_LOCK: &str = "web.lock";
/// Held by a running `eirs local`.
pub const LOCAL_LOCK: &str = "local.lock";

/// Everything that EIRS puts into a state folder, in the order of deletion. The layout file goes
/// last, so that an interrupted deletion can be repeated.
const ALL: [&str; 20] = [
    OLD_FILES,
    IMAGES,
    UPLOADS,
    BELLS,
    QUEUE,
    QUEUE_LOCK,
    POLICIES,
    STATUS,
    WEB_ADDRESS,
    WEB_ADMIN_ADDRESS,
    INSTANCES,
    RECORDING,
    LEARNT,
    INPUTS,
    OPERATOR,
    OPERATOR_LOCK,
    CONTROLLER_LOCK,
    WEB_LOCK,
    LOCAL_LOCK,
    LAYOUT,
];

/// Returns whether EIRS put a file or folder of this name into its state folder. Others are left
/// alone, because the folder may be used for other things as well.
pub fn is_ours(name: &str) -> bool {
    rank(name).is_some()
}

/// Returns the names that are ours, in the order of deletion.
pub fn ours(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut ours: Vec<_> = names.into_iter().filter_map(|name| Some((rank(&name)?, name))).collect();
    ours.sort();
    ours.into_iter().map(|(_, name)| name).collect()
}

/// Returns the position of a name in [`ALL`]. Its temporary files, and those of SQLite, come before
/// it.
fn rank(name: &str) -> Option<(usize, bool)> {
    let is_beside = |known: &str| {
        name.strip_prefix(known).is_some_and(|rest| {
            rest == ".new"
                || rest.strip_prefix(".new.").is_some_and(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()))
                || (known == QUEUE && ([LOG_SUFFIX, SHARED_MEMORY_SUFFIX].contains(&rest)))
        })
    };
    let found = ALL.iter().position(|known| *known == name).map(|rank| (rank, true));
    found.or_else(|| ALL.iter().position(|known| is_beside(known)).map(|rank| (rank, false)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_eirs_and_their_temporary_files_are_ours() {
        for name in [
            "layout",
            "layout.new.17",
            "queue.db",
            "queue.db-wal",
            "queue.db-shm",
            "status.json",
            "status.json.new",
            "images",
            "blobs",
        ] {
            assert!(is_ours(name), "{name}");
        }
        for name in [
            "letter.txt",
            "layout.txt",
            "queue.db-backup",
            "status.json.newer",
            "queue.db.new.x",
            "image",
            "",
        ] {
            assert!(!is_ours(name), "{name}");
        }
    }

    #[test]
    fn the_layout_is_deleted_last_and_other_files_never() {
        let names = ["layout", "letter.txt", "queue.db", "images", "layout.new.7"].map(str::to_owned);
        assert_eq!(ours(names), ["images", "queue.db", "layout.new.7", "layout"]);
    }
}
