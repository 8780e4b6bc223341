//! Parses `Content-Disposition` and `Content-Type`: the parameters as clients really write them,
//! and the file name as its user sees it.
//!
//! A name comes in one of four forms:
//! - `filename="..."` as it is; curl escapes `"` with a backslash, browsers as `%22`.
//! - `filename*=utf-8''...` (RFC 5987); it takes precedence over `filename`.
//! - `filename*0*=...` in several pieces (RFC 2231).
//! - with encoded words of e-mail, `=?utf-8?B?...?=` (RFC 2047); .NET's `HttpClient` sends this
//!   beside a correct `filename*`.

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};

/// A header value: the main value and the parameters, whose names are in lower case.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Value {
    /// In lower case.
    pub(super) main: String,
    parameters: Vec<(String, Vec<u8>)>,
}

impl Value {
    /// Parses a header value; ignores what it cannot parse.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let mut rest = Scanner(bytes);
        let main = text(rest.until(b";").trim_ascii()).to_ascii_lowercase();
        let mut parameters = Vec::new();
        while rest.skip(b';') {
            let name = text(rest.until(b"=;").trim_ascii()).to_ascii_lowercase();
            let value = if rest.skip(b'=') { rest.value() } else { Vec::new() };
            if !name.is_empty() {
                parameters.push((name, value));
            }
        }
        Self { main, parameters }
    }

    fn parameter(&self, name: &str) -> Option<&[u8]> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| &value[..])
    }

    /// The boundary of a multipart body, if this is its `Content-Type`.
    pub(super) fn boundary(&self) -> Option<&[u8]> {
        self.parameter("boundary").filter(|boundary| !boundary.is_empty() && boundary.len() <= 200)
    }

    /// The name of the form field.
    pub(super) fn field(&self) -> Option<String> {
        self.extended("name").or_else(|| self.parameter("name").map(spoken))
    }

    /// Sets the field name unless the value has one.
    pub(super) fn name_field(&mut self, field: Option<&str>) {
        if let (None, Some(field)) = (self.field(), field) {
            self.parameters.push(("name".to_owned(), field.as_bytes().to_vec()));
        }
    }

    /// The file name.
    pub(super) fn file(&self) -> Option<String> {
        let extended = self.extended("filename").filter(|name| !name.is_empty());
        extended.or_else(|| self.parameter("filename").map(spoken))
    }

    /// A parameter of RFC 5987 or 2231: percent-encoded, in one piece or several.
    fn extended(&self, name: &str) -> Option<String> {
        if let Some(value) = self.parameter(&format!("{name}*")) {
            return decoded(charset_of(value)?, &unpercent(after_language(value)));
        }
        let mut charset = UTF_8;
        let mut all = Vec::new();
        for piece in 0.. {
            if let Some(value) = self.parameter(&format!("{name}*{piece}*")) {
                let value = if piece == 0 {
                    charset = charset_of(value)?;
                    after_language(value)
                } else {
                    value
                };
                all.extend(unpercent(value));
            } else if let Some(value) = self.parameter(&format!("{name}*{piece}")) {
                all.extend(value);
            } else {
                break;
            }
        }
        if all.is_empty() { None } else { decoded(charset, &all) }
    }
}

struct Scanner<'a>(&'a [u8]);

impl<'a> Scanner<'a> {
    fn until(&mut self, ends: &[u8]) -> &'a [u8] {
        let end = self.0.iter().position(|byte| ends.contains(byte)).unwrap_or(self.0.len());
        let (before, rest) = self.0.split_at(end);
        self.0 = rest;
        before
    }

    fn skip(&mut self, byte: u8) -> bool {
        let rest = self.0.strip_prefix(&[byte]);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    /// A token or a quoted string. In a quoted string, a backslash escapes a quote or another
    /// backslash; before any other character it is a plain backslash, as in `C:\x\y.bmp`.
    fn value(&mut self) -> Vec<u8> {
        self.0 = self.0.trim_ascii_start();
        if !self.skip(b'"') {
            return self.until(b";").trim_ascii().to_vec();
        }
        let mut value = Vec::new();
        loop {
            value.extend(self.until(b"\"\\"));
            if self.0.is_empty() || self.skip(b'"') {
                break;
            }
            self.skip(b'\\');
            match self.0.first() {
                Some(&escaped @ (b'"' | b'\\')) => {
                    value.push(escaped);
                    self.0 = &self.0[1..];
                }
                _ => value.push(b'\\'),
            }
        }
        self.until(b";");
        value
    }
}

/// Decodes UTF-8, or Windows-1252, which old browsers send.
fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => WINDOWS_1252.decode(bytes).0.into_owned(),
    }
}

/// Decodes a plain parameter: the escapes of browsers, and encoded words (RFC 2047).
fn spoken(value: &[u8]) -> String {
    let text = text(value);
    if text.contains("=?")
        && let Some(decoded) = words(&text)
    {
        return decoded;
    }
    // The three characters that browsers percent-encode in a quoted name (HTML, "multipart form
    // data"). They encode no others, not even `%`.
    text.replace("%22", "\"").replace("%0D", "\r").replace("%0A", "\n")
}

fn charset_of(value: &[u8]) -> Option<&'static Encoding> {
    let label = &value[..value.iter().position(|byte| *byte == b'\'')?];
    Encoding::for_label(label)
}

fn after_language(value: &[u8]) -> &[u8] {
    value.splitn(3, |byte| *byte == b'\'').nth(2).unwrap_or_default()
}

fn decoded(charset: &'static Encoding, bytes: &[u8]) -> Option<String> {
    charset.decode_without_bom_handling_and_without_replacement(bytes).map(Into::into)
}

fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// Decodes escaped bytes such as `%C3` or `=C3`; an invalid escape stays as it is.
fn unescaped(text: &[u8], escape: u8) -> Vec<u8> {
    let (mut rest, mut bytes) = (text, Vec::with_capacity(text.len()));
    while let Some((first, after)) = rest.split_first() {
        match (after.first(), after.get(1)) {
            (Some(high), Some(low)) if *first == escape && hex(*high, *low).is_some() => {
                bytes.extend(hex(*high, *low));
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

fn unpercent(text: &[u8]) -> Vec<u8> {
    unescaped(text, b'%')
}

/// Decodes a text with encoded words (RFC 2047), or returns `None` if it has none. Space between
/// two of them is dropped. A character may begin in one word and end in the next.
fn words(text: &str) -> Option<String> {
    let mut all = String::new();
    let mut open: Option<(&'static Encoding, Vec<u8>)> = None;
    let mut rest = text;
    let close = |all: &mut String, open: &mut Option<(&'static Encoding, Vec<u8>)>| {
        if let Some((charset, bytes)) = open.take() {
            all.push_str(&charset.decode_without_bom_handling(&bytes).0);
        }
    };
    let mut is_any = false;
    while let Some(start) = rest.find("=?") {
        let (before, candidate) = rest.split_at(start);
        match word(candidate) {
            Some((charset, bytes, after)) => {
                is_any = true;
                let goes_on =
                    before.trim().is_empty() && open.as_ref().is_some_and(|(last, _)| *last == charset);
                if goes_on {
                    if let Some((_, gathered)) = &mut open {
                        gathered.extend(bytes);
                    }
                } else {
                    let between_words = open.is_some() && before.trim().is_empty();
                    close(&mut all, &mut open);
                    if !between_words {
                        all.push_str(before);
                    }
                    open = Some((charset, bytes));
                }
                rest = after;
            }
            None => {
                close(&mut all, &mut open);
                all.push_str(before);
                all.push_str("=?");
                rest = &candidate[2..];
            }
        }
    }
    close(&mut all, &mut open);
    all.push_str(rest);
    is_any.then_some(all)
}

/// Decodes `=?charset?B?text?=` at the start of `text`; returns its charset, its bytes and the
/// rest.
fn word(text: &str) -> Option<(&'static Encoding, Vec<u8>, &str)> {
    let mut parts = text.strip_prefix("=?")?.splitn(3, '?');
    let (charset, kind, rest) = (parts.next()?, parts.next()?, parts.next()?);
    let (content, after) = rest.split_once("?=")?;
    // A language may follow (RFC 2231).
    let charset = Encoding::for_label(charset.split('*').next()?.as_bytes())?;
    let bytes = match kind {
        "B" | "b" => STANDARD_NO_PAD.decode(content.trim_end_matches('=')).ok()?,
        "Q" | "q" => unescaped(content.replace('_', " ").as_bytes(), b'='),
        _ => return None,
    };
    Some((charset, bytes, after))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(disposition: &str) -> Option<String> {
        Value::parse(format!("form-data; name=\"myfile\"; {disposition}").as_bytes()).file()
    }

    #[test]
    fn file_names_are_decoded_as_their_user_sees_them() {
        for (written, seen) in [
            // Plain, as browsers and libraries quote it.
            ("filename=\"a b;c.jpg\"", "a b;c.jpg"),
            ("filename=plain.jpg", "plain.jpg"),
            ("filename = \"spaced.jpg\" ; x=y", "spaced.jpg"),
            ("filename=\"\u{fc}.jpg\"", "\u{fc}.jpg"),
            ("filename=\"say %22hi%22.jpg\"", "say \"hi\".jpg"),
            ("filename=\"say \\\"hi\\\".jpg\"", "say \"hi\".jpg"),
            ("filename=\"a\\\\b.jpg\"", "a\\b.jpg"),
            ("filename=\"C:\\x\\y.bmp\"", "C:\\x\\y.bmp"),
            ("filename=\"100%25.jpg\"", "100%25.jpg"),
            // RFC 5987, alone and together with `filename`, in any order.
            ("filename*=utf-8''%C3%BC%20x.jpg", "\u{fc} x.jpg"),
            ("filename*=UTF-8'de'%e2%82%ac.jpg; filename=\"EUR.jpg\"", "\u{20ac}.jpg"),
            ("filename=\"?.jpg\"; filename*=iso-8859-1''%FC.jpg", "\u{fc}.jpg"),
            ("filename=\"kept.jpg\"; filename*=nonsense", "kept.jpg"),
            ("filename=\"kept.jpg\"; filename*=klingon''%FC.jpg", "kept.jpg"),
            ("filename=\"kept.jpg\"; filename*=utf-8''", "kept.jpg"),
            // RFC 2231.
            ("filename*0*=utf-8''%C3; filename*1*=%BC; filename*2=\".jpg\"", "\u{fc}.jpg"),
            // RFC 2047.
            ("filename=\"=?utf-8?B?w7wuanBn?=\"", "\u{fc}.jpg"),
            ("filename=\"=?utf-8?B?w7wuanBn?=\"; filename*=utf-8''%C3%BC.jpg", "\u{fc}.jpg"),
            ("filename=\"=?UTF-8?q?=C3=BC_x.jpg?=\"", "\u{fc} x.jpg"),
            ("filename=\"=?utf-8?B?w7w=?= =?utf-8?B?LmpwZw==?=\"", "\u{fc}.jpg"),
            ("filename=\"=?utf-8?B?ww==?= =?utf-8?B?vC5qcGc=?=\"", "\u{fc}.jpg"),
            ("filename=\"=?iso-8859-1?Q?=FC?= =?utf-8?Q?=C3=A4?=.jpg\"", "\u{fc}\u{e4}.jpg"),
            ("filename=\"=?iso-2022-jp?B?GyRCJUYlOSVIGyhCLmpwZw==?=\"", "\u{30c6}\u{30b9}\u{30c8}.jpg"),
            ("filename=\"=?koi8-r?B?1MXT1C5qcGc=?=\"", "\u{442}\u{435}\u{441}\u{442}.jpg"),
            ("filename=\"x =?utf-8?Q?=C3=BC?= y\"", "x \u{fc} y"),
            // Not an encoded word, although it begins like one.
            ("filename=\"=?what?.jpg\"", "=?what?.jpg"),
            ("filename=\"a=?b\"", "a=?b"),
        ] {
            assert_eq!(file(written).as_deref(), Some(seen), "{written}");
        }
        assert_eq!(file("x=y"), None);
    }

    #[test]
    fn a_name_that_is_not_utf_8_is_read_as_windows_1252() {
        assert_eq!(Value::parse(b"form-data; filename=\"\xFC.jpg\"").file().as_deref(), Some("\u{fc}.jpg"));
    }

    #[test]
    fn boundaries_may_be_in_quotes() {
        let boundary = |text: &str| Value::parse(text.as_bytes()).boundary().map(<[u8]>::to_vec);
        assert_eq!(boundary("multipart/form-data; boundary=XX"), Some(b"XX".to_vec()));
        assert_eq!(boundary("Multipart/Mixed; charset=x; BOUNDARY=\"a b;c\""), Some(b"a b;c".to_vec()));
        assert_eq!(boundary("multipart/form-data"), None);
        assert_eq!(boundary("multipart/form-data; boundary="), None);
    }

    proptest! {
        #[test]
        fn no_input_causes_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let value = Value::parse(&bytes);
            let _names = (value.field(), value.file(), value.boundary());
        }

        #[test]
        fn every_name_is_restored_from_each_form(name in "[^\r\n]{1,30}") {
            let escaped = name.replace('\\', "\\\\").replace('"', "\\\"");
            if !name.contains("=?") && !name.contains('%') {
                prop_assert_eq!(file(&format!("filename=\"{escaped}\"")), Some(name.clone()));
            }
            let percents: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
            prop_assert_eq!(file(&format!("filename*=utf-8''{percents}")), Some(name.clone()));
            let base64 = base64::engine::general_purpose::STANDARD.encode(&name);
            prop_assert_eq!(file(&format!("filename=\"=?utf-8?B?{base64}?=\"")), Some(name));
        }
    }
}
