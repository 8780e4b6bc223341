//! Small JSON files in the state folder. Written aside and moved: no reader ever sees half of one.
//!
//! They are not synced to the disk: they describe processes, and no process outlives what a sync
//! guards against.

use std::{io, path::Path};

use eirs_platform::state_folder::{Writers, write_aside};
use serde::Serialize;

/// For people to read too.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    move_to(path, serde_json::to_vec_pretty(value)?)
}

/// For programs alone.
pub(crate) fn write_compact(path: &Path, value: &impl Serialize) -> io::Result<()> {
    move_to(path, serde_json::to_vec(value)?)
}

fn move_to(path: &Path, text: Vec<u8>) -> io::Result<()> {
    write_aside(path, &text, Writers::One, |_| Ok(()))
}
