//! Normalizes the path of a request. A letter and its percent-encoded form are the same (RFC 3986,
//! 6.2.2.2), so access and routes see only the letter.

use hyper::{Uri, http::uri::PathAndQuery};

/// Decodes the characters of the path that need no encoding.
pub(super) fn plain(uri: Uri) -> Uri {
    let path = uri.path();
    if !path.contains('%') {
        return uri;
    }
    let mut plain = unescaped(path);
    if plain == path {
        return uri;
    }
    if let Some(query) = uri.query() {
        plain = format!("{plain}?{query}");
    }
    let Ok(path_and_query) = plain.parse::<PathAndQuery>() else { return uri };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path_and_query);
    Uri::from_parts(parts).unwrap_or(uri)
}

/// Decodes once: an encoded `%` stays encoded.
fn unescaped(path: &str) -> String {
    let mut plain = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let (before, escape) = rest.split_at(at);
        plain.push_str(before);
        let byte = escape.get(1..3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let letter = byte.filter(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(byte));
        let taken = if let Some(letter) = letter {
            plain.push(char::from(letter));
            3
        } else {
            plain.push('%');
            1
        };
        rest = &escape[taken..];
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(uri: &str, expected: &str) {
        assert_eq!(plain(uri.parse().unwrap()).to_string(), expected, "{uri}");
    }

    #[test]
    fn only_needless_escapes_are_decoded_and_the_query_stays_as_it_is() {
        check("/uploa%64", "/upload");
        check("/%75%70load?model=%61&x=%2561", "/upload?model=%61&x=%2561");
        check("http://host:80/%75pload", "http://host:80/upload");
        check("/assets/..%2Fupload", "/assets/..%2Fupload");
        check("/a%2e%2E/%7e", "/a../~");
        for same in
            ["/", "/upload?x=%61", "/a%2Fb", "/a%25b", "/%2561", "/%", "/%4", "/%zz", "/%+4", "/a%3Fb", "*"]
        {
            check(same, same);
        }
    }

    proptest! {
        #[test]
        fn every_letter_may_be_percent_encoded(
            path in "/[a-zA-Z0-9._~-]{0,20}",
            escaped in prop::collection::vec(any::<bool>(), 21),
        ) {
            let mut uri = "/".to_owned();
            for (byte, is_escaped) in path.bytes().skip(1).zip(escaped) {
                uri += &if is_escaped { format!("%{byte:02x}") } else { char::from(byte).to_string() };
            }
            prop_assert_eq!(plain(uri.parse().unwrap()).to_string(), path);
        }
    }
}
