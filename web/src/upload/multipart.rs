//! A parser of multipart bodies (RFC 2046, 7578). It is fed chunks and asked for events, and never
//! waits. It keeps a bounded number of bytes: the header of one part, or the start of a possible
//! boundary.

use bytes::{Bytes, BytesMut};
use memchr::memmem::{self, Finder};

use super::fields::Value;

/// Maximum number of bytes before the first boundary.
const PREAMBLE: usize = 16 * 1024;
/// Maximum number of bytes in the header of a part.
const HEADER: usize = 8 * 1024;
/// Maximum number of spaces after a boundary.
const PADDING: usize = 64;

/// The reason why a body is invalid, in words for its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken(pub(super) &'static str);

const NO_BOUNDARY: Broken = Broken(
    "no line of it is the boundary of the Content-Type; a form is the boundaries and parts of \
    multipart/form-data, with CR and LF at the end of each line",
);
const LONG_HEADER: Broken = Broken("the header of a part is too long");
const NO_END: Broken = Broken("it ends before its last boundary");

/// The next thing in a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A part begins.
    Part(Part),
    /// Some of its content.
    Content(Bytes),
    /// Its end.
    PartEnd,
    /// The body ends; bytes after it are ignored.
    End,
}

/// The header of a part.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) disposition: Value,
    pub(super) content_type: Value,
    /// The value of `Content-Transfer-Encoding`, in lower case.
    pub(super) transfer_encoding: String,
}

#[derive(Debug)]
pub(super) struct Parser {
    /// CR LF, two dashes and the boundary.
    delimiter: Finder<'static>,
    pending: Bytes,
    state: State,
    /// Number of bytes skipped as preamble.
    skipped: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Preamble,
    Header,
    Content,
    /// The last part is over, but `Event::End` is not returned yet.
    Ending,
    End,
}

/// The result of a search for a boundary.
enum Found {
    /// The boundary is at `place` and has this number of bytes. Another part follows unless
    /// `is_last`.
    At { place: usize, bytes: usize, is_last: bool },
    /// There is none before this place. The rest may be the start of one.
    NotBefore(usize),
}

impl Parser {
    pub(super) fn new(boundary: &[u8]) -> Self {
        Self {
            delimiter: Finder::new(&[b"\r\n--", boundary].concat()).into_owned(),
            // The first boundary needs no line end before it, so supply one.
            pending: Bytes::from_static(b"\r\n"),
            state: State::Preamble,
            skipped: 0,
        }
    }

    /// Appends a chunk.
    pub(super) fn feed(&mut self, chunk: Bytes) {
        if self.pending.is_empty() {
            self.pending = chunk;
            return;
        }
        let mut all = BytesMut::with_capacity(self.pending.len() + chunk.len());
        all.extend_from_slice(&self.pending);
        all.extend_from_slice(&chunk);
        self.pending = all.freeze();
    }

    /// Number of bytes that are kept.
    pub(super) fn kept(&self) -> usize {
        self.pending.len()
    }

    /// Returns the next event, or `None` if that needs more bytes.
    pub(super) fn next(&mut self) -> Result<Option<Event>, Broken> {
        loop {
            match self.state {
                State::Preamble => match self.find() {
                    Found::At { place, bytes, is_last } => {
                        self.skip(place + bytes);
                        self.state = if is_last { State::Ending } else { State::Header };
                    }
                    Found::NotBefore(place) => {
                        self.skip(place);
                        self.skipped += place;
                        return if self.skipped > PREAMBLE { Err(NO_BOUNDARY) } else { Ok(None) };
                    }
                },
                State::Header => {
                    // The header begins with the line end of the boundary, so an empty header also
                    // ends like this.
                    let Some(end) = memmem::find(&self.pending, b"\r\n\r\n").filter(|end| *end <= HEADER)
                    else {
                        return if self.pending.len() > HEADER { Err(LONG_HEADER) } else { Ok(None) };
                    };
                    let part = Part::parse(&self.pending[..end]);
                    self.skip(end + 4);
                    self.state = State::Content;
                    return Ok(Some(Event::Part(part)));
                }
                State::Content => match self.find() {
                    Found::At { place: 0, bytes, is_last } => {
                        self.skip(bytes);
                        self.state = if is_last { State::Ending } else { State::Header };
                        return Ok(Some(Event::PartEnd));
                    }
                    Found::NotBefore(0) => return Ok(None),
                    Found::At { place, .. } | Found::NotBefore(place) => {
                        return Ok(Some(Event::Content(self.pending.split_to(place))));
                    }
                },
                State::Ending => {
                    self.state = State::End;
                    return Ok(Some(Event::End));
                }
                State::End => {
                    self.pending = Bytes::new();
                    return Ok(None);
                }
            }
        }
    }

    /// Checks that the body is complete; no more chunks follow.
    pub(super) fn finish(&self) -> Result<(), Broken> {
        match self.state {
            State::Ending | State::End => Ok(()),
            State::Preamble => Err(NO_BOUNDARY),
            State::Header | State::Content => Err(NO_END),
        }
    }

    fn skip(&mut self, bytes: usize) {
        let _skipped = self.pending.split_to(bytes);
    }

    fn find(&self) -> Found {
        let delimiter = self.delimiter.needle();
        let mut from = 0;
        while let Some(at) = self.delimiter.find(&self.pending[from..]) {
            let place = from + at;
            match after_boundary(&self.pending[place + delimiter.len()..]) {
                After::Last => return Found::At { place, bytes: delimiter.len() + 2, is_last: true },
                After::Part(padding) => {
                    return Found::At { place, bytes: delimiter.len() + padding, is_last: false };
                }
                After::More => return Found::NotBefore(place),
                // A longer boundary that begins like this one, such as that of a nested multipart
                // body.
                After::Other => from = place + 2,
            }
        }
        let longest = self.pending.len().min(delimiter.len() - 1);
        let tail = (1..=longest).rev().find(|n| self.pending.ends_with(&delimiter[..*n])).unwrap_or(0);
        Found::NotBefore(self.pending.len() - tail)
    }
}

/// The bytes after a possible boundary.
#[derive(Debug, PartialEq, Eq)]
enum After {
    /// Two dashes.
    Last,
    /// The end of the line, after a number of spaces.
    Part(usize),
    /// More bytes are needed to decide.
    More,
    /// Anything else: it is not a boundary.
    Other,
}

fn after_boundary(rest: &[u8]) -> After {
    if rest.starts_with(b"--") {
        return After::Last;
    }
    let padding = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    match &rest[padding..] {
        [b'\r', b'\n', ..] if padding <= PADDING => After::Part(padding),
        [] | [b'\r'] if padding <= PADDING => After::More,
        [b'-'] if padding == 0 => After::More,
        _ => After::Other,
    }
}

impl Part {
    fn parse(header: &[u8]) -> Self {
        // A line that begins with a space or tab continues the line before it.
        let mut lines: Vec<Vec<u8>> = Vec::new();
        for line in header.split(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            match (line.first(), lines.last_mut()) {
                (Some(b' ' | b'\t'), Some(last)) => last.extend(line),
                _ => lines.push(line.to_vec()),
            }
        }
        let value = |wanted: &str| {
            lines.iter().find_map(|line| {
                let colon = line.iter().position(|byte| *byte == b':')?;
                line[..colon].trim_ascii().eq_ignore_ascii_case(wanted.as_bytes()).then(|| &line[colon + 1..])
            })
        };
        Self {
            disposition: value("content-disposition").map(Value::parse).unwrap_or_default(),
            content_type: value("content-type").map(Value::parse).unwrap_or_default(),
            transfer_encoding: value("content-transfer-encoding").map(Value::parse).unwrap_or_default().main,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Parses a body split into these chunks; returns the field name and the content of each part.
    fn parts<'a>(
        boundary: &str,
        chunks: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Vec<(String, Vec<u8>)>, Broken> {
        let mut parser = Parser::new(boundary.as_bytes());
        let mut parts = Vec::new();
        for chunk in chunks {
            parser.feed(Bytes::copy_from_slice(chunk));
            while let Some(event) = parser.next()? {
                match event {
                    Event::Part(part) => {
                        parts.push((part.disposition.field().unwrap_or_default(), Vec::new()));
                    }
                    Event::Content(content) => {
                        assert!(!content.is_empty());
                        parts.last_mut().expect("a part").1.extend(content);
                    }
                    Event::PartEnd | Event::End => {}
                }
            }
            assert!(parser.kept() <= HEADER + 4 + chunk.len(), "it keeps {}", parser.kept());
        }
        parser.finish().map(|()| parts)
    }

    fn written(boundary: &str, parts: &[(String, Vec<u8>)]) -> Vec<u8> {
        let mut body = Vec::new();
        for (name, content) in parts {
            body.extend(
                format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n").bytes(),
            );
            body.extend(content);
            body.extend(b"\r\n");
        }
        body.extend(format!("--{boundary}--\r\n").bytes());
        body
    }

    #[test]
    fn valid_bodies_are_parsed_in_every_usual_form() {
        let read = |body: &str| parts("XX", [body.as_bytes()]);
        let one = |content: &str| Ok(vec![("a".to_owned(), content.as_bytes().to_vec())]);
        let head = "Content-Disposition: form-data; name=a";
        assert_eq!(read(&format!("--XX\r\n{head}\r\n\r\nhello\r\n--XX--\r\n")), one("hello"));
        assert_eq!(read(&format!("--XX\r\n{head}\r\n\r\nhello\r\n--XX--")), one("hello"), "no last line end");
        assert_eq!(read(&format!("--XX\r\n{head}\r\n\r\n\r\n--XX--")), one(""), "no content");
        assert_eq!(
            read(&format!("for old mail readers\r\n--XX  \r\n{head}\r\n\r\nhello\r\n--XX--bye")),
            one("hello")
        );
        assert_eq!(
            read(&format!("--XX\r\nX: y\r\n\tz\r\n{}\r\n\r\nhello\r\n--XX--", head.replace("; ", ";\r\n "))),
            one("hello")
        );
        assert_eq!(
            read(&format!("--XX\r\n{head}\r\n\r\na\r\n--XXY\r\n--XX--Z")),
            one("a\r\n--XXY"),
            "a longer boundary is none"
        );
        assert_eq!(
            read("--XX\r\n\r\nhello\r\n--XX--"),
            Ok(vec![(String::new(), b"hello".to_vec())]),
            "no header"
        );
        assert_eq!(read("--XX--"), Ok(vec![]));
    }

    #[test]
    fn a_broken_body_is_refused_with_the_reason() {
        let read = |body: &[u8]| parts("XX", [body]);
        assert_eq!(read(b""), Err(NO_BOUNDARY));
        assert_eq!(read(&[b'x'; 20_000]), Err(NO_BOUNDARY));
        assert_eq!(read(b"--XX\r\nContent-Disposition: form-data; name=a\r\n\r\nhello"), Err(NO_END));
        assert_eq!(read(b"--XX\r\nContent-Disposition: form-data; name=a\r\n\r\nhello\r\n--XX"), Err(NO_END));
        let endless: Vec<&[u8]> =
            std::iter::once(&b"--XX\r\nX: "[..]).chain(std::iter::repeat_n(&[b'y'; 1000][..], 20)).collect();
        assert_eq!(parts("XX", endless), Err(LONG_HEADER));
    }

    /// Content that often resembles a boundary.
    fn content() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"\r\n--X".to_vec()),
            Just(b"\r\n--".to_vec()),
            Just(b"\r".to_vec()),
            Just(b"--XX".to_vec()),
            Just(b"\r\n--XXY".to_vec()),
            prop::collection::vec(any::<u8>(), 0..20),
        ];
        prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    fn split(body: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (body.len() + 1)).chain([0, body.len()]).collect();
        cuts.sort_unstable();
        cuts.windows(2).map(|pair| body[pair[0]..pair[1]].to_vec()).collect()
    }

    proptest! {
        #[test]
        fn a_body_has_the_same_parts_however_it_is_split(
            given in prop::collection::vec(("[a-z]{0,8}", content()), 0..4),
            cuts in prop::collection::vec(any::<usize>(), 0..12),
        ) {
            let has_boundary = |content: &[u8]| {
                let framed = [b"\r\n", content, b"\r\n"].concat();
                [&b"\r\n--XX\r\n"[..], b"\r\n--XX--"].iter().any(|end| memmem::find(&framed, end).is_some())
            };
            prop_assume!(!given.iter().any(|(_, content)| has_boundary(content)));
            let body = written("XX", &given);
            let chunks = split(&body, &cuts);
            prop_assert_eq!(parts("XX", chunks.iter().map(|chunk| &chunk[..])), Ok(given.clone()));
            prop_assert_eq!(parts("XX", body.chunks(1)), Ok(given));
        }

        #[test]
        fn a_broken_body_causes_no_panic_and_reads_the_same_however_it_is_split(
            given in prop::collection::vec(("[a-z]{0,8}", content()), 0..4),
            changes in prop::collection::vec((any::<usize>(), any::<u8>(), any::<bool>()), 1..6),
            cuts in prop::collection::vec(any::<usize>(), 0..12),
        ) {
            let mut body = written("XX", &given);
            for (place, byte, is_removal) in changes {
                let place = place % body.len().max(1);
                if is_removal { body.truncate(place) } else if let Some(at) = body.get_mut(place) { *at = byte }
            }
            let chunks = split(&body, &cuts);
            let whole = parts("XX", [&body[..]]);
            prop_assert_eq!(parts("XX", chunks.iter().map(|chunk| &chunk[..])), whole);
        }
    }
}
