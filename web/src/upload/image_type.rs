//! What an uploaded image may be called. Its first bytes decide what it is:
//! `eirs_platform::formats`.

use eirs_platform::formats::Format;

/// What the images that are read are called in a `Content-Type`.
pub(crate) const TYPES: [&str; Format::ALL.len()] = {
    let mut types = [""; Format::ALL.len()];
    let mut at = 0;
    while at < types.len() {
        types[at] = Format::ALL[at].media_type();
        at += 1;
    }
    types
};
