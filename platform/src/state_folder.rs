//! The state folder: the one place on a machine where everything of an installation is. What each
//! file and folder in it is called stands here, and how such files are locked ([`Lock`]), written
//! ([`write_aside`]). Files of any folder that change while a program runs are looked at in one way
//! ([`Stamp`], [`Changes`], [`Wake`]).

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

/// The number of the layout; what makes a folder a state folder.
pub const LAYOUT: &str = "layout";
/// The database of the queues, the results and the index of the images; SQLite puts its log beside
/// it.
pub const QUEUE: &str = "queue.db";
/// What SQLite adds to the name of a database for its write-ahead log, ...
pub const LOG_SUFFIX: &str = "-wal";
/// ... and for the memory that those share who have it open.
pub const SHARED_MEMORY_SUFFIX: &str = "-shm";
/// The turn of those who write to the database.
pub const QUEUE_LOCK: &str = "queue.lock";
/// The folder of the pipes that wake receivers.
pub const BELLS: &str = "bells";
/// The folder of the segments that hold the images.
pub const IMAGES: &str = "images";
/// The folder of images and results as files, which layout 1 had.
pub const OLD_FILES: &str = "blobs";
/// The folder of uploads that arrive and find no room in memory.
pub const UPLOADS: &str = "uploads";
/// The policies that `eirs local` makes where there are none.
pub const POLICIES: &str = "policies";
/// What the controller saw and did last.
pub const STATUS: &str = "status.json";
/// What the controller's last decision was made from.
pub const INPUTS: &str = "inputs.json";
/// What the controller learnt.
pub const LEARNT: &str = "learnt.json";
/// The operator's orders, ...
pub const OPERATOR: &str = "operator.json";
/// ... and the turn of those who give them.
pub const OPERATOR_LOCK: &str = "operator.lock";
/// The folder of the controller's recording, ...
pub const RECORDING: &str = "recording";
/// ... and the file in it that is being written.
pub const OBSERVATIONS: &str = "observations.jsonl";
/// The folder of the workers that run.
pub const INSTANCES: &str = "instances";
/// Where the service of `eirs local` takes uploads, ...
pub const WEB_ADDRESS: &str = "web.address";
/// ... and where it answers the operator.
pub const WEB_ADMIN_ADDRESS: &str = "web.admin.address";
/// Held by every controller as long as it runs.
pub const CONTROLLER_LOCK: &str = "controller.lock";
/// Held by every web server as long as it runs.
pub const WEB_LOCK: &str = "web.lock";
/// Held by `eirs local` as long as it runs.
pub const LOCAL_LOCK: &str = "local.lock";

/// Everything that EIRS itself puts into a state folder. What makes the folder ours goes last, so
/// that a deletion that was interrupted can be done again.
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

/// Whether a file or folder of this name is one that EIRS put into its state folder. What is beside
/// it is somebody else's: a state folder may have been set to one that was used for other things.
pub fn is_ours(name: &str) -> bool {
    rank(name).is_some()
}

/// The names in the order in which they may be deleted, without those that are not ours.
pub fn ours(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut ours: Vec<_> = names.into_iter().filter_map(|name| Some((rank(&name)?, name))).collect();
    ours.sort();
    ours.into_iter().map(|(_, name)| name).collect()
}

/// Where in [`ALL`] a name is, behind the files that were being written aside for it, or that
/// SQLite puts beside it.
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
    fn what_eirs_puts_there_is_ours_with_what_stands_beside_it_for_a_moment() {
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
    fn what_makes_a_folder_ours_is_deleted_last_and_the_letters_of_others_never() {
        let names = ["layout", "letter.txt", "queue.db", "images", "layout.new.7"].map(str::to_owned);
        assert_eq!(ours(names), ["images", "queue.db", "layout.new.7", "layout"]);
    }
}
