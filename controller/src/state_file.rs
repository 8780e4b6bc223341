//! Small JSON files in the state folder. They are written to a temporary file and renamed, so that
//! readers never see an incomplete one.
//!
//! They are not synced to the disk: they describe processes, which do not survive a power failure
//! either.

use std::{io, path::Path};

use eirs_platform::state_folder::{Writers, write_aside};
use serde::Serialize;

/// Writes a file that people read, too.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    move_to(path, serde_json::to_vec_pretty(value)?)
}

/// Writes a file that only programs read.
pub(crate) fn write_compact(path: &Path, value: &impl Serialize) -> io::Result<()> {
    move_to(path, serde_json::to_vec(value)?)
}

fn move_to(path: &Path, text: Vec<u8>) -> io::Result<()> {
    write_aside(path, &text, Writers::One, |_| Ok(()))
}
