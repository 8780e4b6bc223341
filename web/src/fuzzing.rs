//! Entry points for `fuzz/`; only compiled with `--cfg fuzzing`, which cargo-fuzz sets.

use poem::http::HeaderMap;

use crate::upload::reading::{headers, packed, pieces, read};

/// Reads a form, whole and in pieces whose lengths are in the first bytes; both must have the same
/// result.
pub fn form(data: &[u8]) {
    let Some((cuts, body)) = data.split_at_checked(4) else { return };
    let is_mixed = cuts[3] & 1 == 1;
    let (body, encoding) = match cuts[3] >> 1 & 3 {
        0 => (body.to_vec(), None),
        1 => (packed(body), Some("gzip")),
        2 => (body.to_vec(), Some("gzip")),
        _ => (body.to_vec(), Some("deflate")),
    };
    let headers = headers(is_mixed, encoding);
    let (cut, whole) = (read(&headers, pieces(&body, &cuts[..3])), read(&headers, pieces(&body, &[])));
    // A damaged compressed stream yields more bytes if it arrives in smaller pieces.
    let is_damaged = cuts[3] >> 1 & 3 > 1;
    assert!(is_damaged || cut == whole, "{cut:?}, and as a whole {whole:?}");
}

/// The same for a bare body.
pub fn bare(data: &[u8]) {
    let Some((cuts, body)) = data.split_at_checked(3) else { return };
    let headers = HeaderMap::new();
    assert_eq!(read(&headers, pieces(body, cuts)), read(&headers, pieces(body, &[])));
}
