//! The media types of images. The first bytes of an image decide its format:
//! `eirs_platform::formats`.

use eirs_platform::formats::Format;

/// The `Content-Type` of each format that is read.
pub(crate) const TYPES: [&str; Format::ALL.len()] = {
    let mut types = [""; Format::ALL.len()];
    let mut at = 0;
    while at < types.len() {
        types[at] = Format::ALL[at].media_type();
        at += 1;
    }
    types
};
