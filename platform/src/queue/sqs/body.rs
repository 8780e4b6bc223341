//! SQS carries text, and not every text: what XML 1.0 does not know is refused (API reference,
//! SendMessage). Everything that EIRS sends is JSON and passes as it is; a body that would not is
//! carried as base64 behind a mark.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;

/// Begins a body that is carried as base64. One that begins like this by chance is carried so, too.
const MARK: &str = "base64:";

/// The text that carries a body.
pub(super) fn to_text(body: &[u8]) -> String {
    match std::str::from_utf8(body) {
        Ok(text) if !text.is_empty() && !text.starts_with(MARK) && text.chars().all(is_carried) => {
            text.to_owned()
        }
        _ => format!("{MARK}{}", STANDARD.encode(body)),
    }
}

/// The body that a text carries. What only looks marked was sent by somebody else, and is taken as
/// it is.
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
    fn json_is_readable_on_its_way() {
        assert_eq!(to_text("{\"name\":\"a,b/\u{1F415}\"}".as_bytes()), "{\"name\":\"a,b/\u{1F415}\"}");
    }

    proptest! {
        #[test]
        fn every_body_comes_back_and_its_text_is_one_that_sqs_takes(body: Vec<u8>) {
            let text = to_text(&body);
            prop_assert!(!text.is_empty() && text.chars().all(is_carried));
            prop_assert_eq!(from_text(text), body);
        }

        #[test]
        fn so_does_every_text(body in "\\PC{0,40}|base64:.{0,20}|[\u{0}-\u{20}\u{fffe}\u{ffff}]{1,5}") {
            let text = to_text(body.as_bytes());
            prop_assert!(text.chars().all(is_carried));
            prop_assert_eq!(from_text(text), body.as_bytes());
        }
    }
}
