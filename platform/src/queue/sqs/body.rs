//! The encoding of message bodies. SQS carries text, and refuses characters that XML 1.0 does not
//! allow (API reference, SendMessage). Everything that EIRS sends is JSON and needs no encoding;
//! any other body is encoded as Base64 after a marker.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;

/// The marker of a body that is encoded as Base64. A body that happens to begin with it is encoded
/// too.
const MARK: &str = "base64:";

/// Encodes a body as text.
pub(super) fn to_text(body: &[u8]) -> String {
    match std::str::from_utf8(body) {
        Ok(text) if !text.is_empty() && !text.starts_with(MARK) && text.chars().all(is_carried) => {
            text.to_owned()
        }
        _ => format!("{MARK}{}", STANDARD.encode(body)),
    }
}

/// Decodes the body from a text. A text after the marker that is not Base64 was sent by another
/// program, and is returned unchanged.
pub(super) fn from_text(text: String) -> Bytes {
    match text.strip_prefix(MARK).map(|encoded| STANDARD.decode(encoded)) {
        Some(Ok(body)) => body.into(),
        Some(Err(_)) | None => text.into(),
    }
}

fn is_carried(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn json_is_sent_unencoded() {
        assert_eq!(to_text("{\"name\":\"a,b/\u{1F415}\"}".as_bytes()), "{\"name\":\"a,b/\u{1F415}\"}");
    }

    proptest! {
        #[test]
        fn every_body_survives_in_text_that_sqs_accepts(body: Vec<u8>) {
            let text = to_text(&body);
            prop_assert!(!text.is_empty() && text.chars().all(is_carried));
            prop_assert_eq!(from_text(text), body);
        }

        #[test]
        fn every_text_survives_in_text_that_sqs_accepts(body in "\\PC{0,40}|base64:.{0,20}|[\u{0}-\u{20}\u{fffe}\u{ffff}]{1,5}") {
            let text = to_text(body.as_bytes());
            prop_assert!(text.chars().all(is_carried));
            prop_assert_eq!(from_text(text), body.as_bytes());
        }
    }
}
