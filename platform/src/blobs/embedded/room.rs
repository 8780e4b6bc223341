//! The free space on the disk of the state folder. New images are refused below a floor, so that
//! queued jobs can still be finished and their results stored.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytesize::ByteSize;
use rustix::fs::statvfs;

use crate::error::{Error, Result};

/// The floor is at most one part in this number of the file system.
const FLOOR_DIVISOR: u64 = 10;
/// New images are accepted again above the floor plus one part in this number of it, so that the
/// state does not change at every byte.
const HYSTERESIS_DIVISOR: u64 = 16;

/// The room on the file system of a state folder. Clones share their state.
#[derive(Debug, Clone)]
pub struct Room(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Box<Path>,
    keep_free: u64,
    /// True while new images are refused.
    below: AtomicBool,
}

/// The result of a look at the room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct RoomSeen {
    /// Free bytes.
    pub free: u64,
    /// Bytes to keep free; below them, new images are refused.
    pub floor: u64,
    /// True if new images are refused.
    pub below: bool,
}

impl Room {
    pub(super) fn new(state: &Path, keep_free: ByteSize) -> Self {
        Self(Arc::new(Inner {
            state: state.into(),
            keep_free: keep_free.as_u64(),
            below: AtomicBool::new(false),
        }))
    }

    /// Checks the room. A file system that does not report its size is never below.
    pub fn look(&self) -> RoomSeen {
        let Ok(found) = statvfs(&*self.0.state) else { return RoomSeen { free: 0, floor: 0, below: false } };
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        let floor = floor(self.0.keep_free, found.f_blocks.saturating_mul(found.f_frsize));
        let was = self.0.below.load(Ordering::Relaxed);
        let below = is_below(free, floor, was);
        if below != was && self.0.below.swap(below, Ordering::Relaxed) != below {
            if below {
                tracing::error!(
                    "only {} are free on the disk of the state folder, and {} must stay free \
                    (`local.keep_free`): new images are refused, queued jobs are still finished",
                    ByteSize(free),
                    ByteSize(floor)
                );
            } else {
                tracing::info!(
                    "{} are free on the disk of the state folder: new images are accepted again",
                    ByteSize(free)
                );
            }
        }
        RoomSeen { free, floor, below }
    }

    /// Returns an error if there is no room for a new image.
    pub(super) fn for_an_image(&self) -> Result<()> {
        refusal(self.look()).map_or(Ok(()), Err)
    }
}

fn refusal(RoomSeen { free, floor, below }: RoomSeen) -> Option<Error> {
    let (free, floor) = (ByteSize(free), ByteSize(floor));
    below.then(|| Error::Full {
        what: "storing an image".to_owned(),
        why: format!("{free} are free, and {floor} must stay free, see `local.keep_free`"),
    })
}

fn floor(keep_free: u64, all: u64) -> u64 {
    keep_free.min(all / FLOOR_DIVISOR)
}

fn is_below(free: u64, floor: u64, was: bool) -> bool {
    free < if was { floor + floor / HYSTERESIS_DIVISOR } else { floor }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_of_a_small_file_system_is_a_part_of_it() {
        assert_eq!(floor(1 << 30, 1 << 40), 1 << 30);
        assert_eq!(floor(1 << 30, 1000), 100);
        assert_eq!(floor(0, 1000), 0);
    }

    #[test]
    fn images_are_refused_until_there_is_clearly_more_room_than_the_floor() {
        assert!(is_below(1599, 1600, false));
        assert!(!is_below(1600, 1600, false));
        assert!(is_below(1600, 1600, true) && is_below(1699, 1600, true));
        assert!(!is_below(1700, 1600, true));
        assert!(!is_below(0, 0, false) && !is_below(0, 0, true), "no floor");
    }

    #[test]
    fn an_image_is_refused_below_the_floor_with_both_figures() {
        assert!(refusal(RoomSeen { free: 2048, floor: 1024, below: false }).is_none());
        let error = refusal(RoomSeen { free: 512, floor: 1024, below: true }).unwrap();
        assert!(matches!(error, Error::Full { .. }));
        assert!(error.to_string().contains("512 B are free, and 1.0 KiB must stay free"), "{error}");
    }

    #[test]
    fn the_room_of_a_real_file_system_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let seen = Room::new(folder.path(), ByteSize(1)).look();
        assert!(seen.free > 0 && seen.floor == 1 && !seen.below, "{seen:?}");
    }
}
