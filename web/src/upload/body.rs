//! Reads the images out of a request one after another, within the limits: bytes per image, the
//! room for all arriving bodies together (`spool.rs`), and the time for a slow client (`pace.rs`).

use std::{io, sync::Arc};

use bytes::Bytes;
use bytesize::ByteSize;
use eirs_platform::{
    formats::{HEAD_BYTES, mistaken},
    job::JobId,
    settings::Web,
};
use futures::{Stream, StreamExt, stream::BoxStream};
use poem::http::{HeaderMap, HeaderName, header};
use sha2::{Digest, Sha256};

use super::answer::UNNAMED;
use super::{
    encoding::{Encoding, Unpacked},
    fields::Value,
    form::Form,
    multipart::{Event, Part},
    pace::Paced,
};
use crate::{
    jobs::Image,
    problem::Problem,
    spool::{Held, Room},
};

/// The names under which forms send an image.
pub(crate) const FIELDS: [&str; 4] = ["myfile", "file", "image", "inputFile"];

/// Returns whether the field `name` holds images. Some libraries append `[]` to the name of a field
/// that occurs several times.
fn is_for_images(name: &str) -> bool {
    let name = name.strip_suffix("[]").unwrap_or(name);
    FIELDS.iter().any(|field| field.eq_ignore_ascii_case(name))
}

/// Maximum length of a name, in bytes; the rest is cut off.
const LONGEST_NAME: usize = 255;
/// Maximum number of fields without an image in one form.
const MOST_OTHERS: usize = 256;
/// Maximum number of bytes skipped in a form, as a multiple of `max_image`. They are not kept and
/// only take time.
const MOST_SKIPPED: u64 = 16;

/// An image that is refused.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) name: String,
    pub(crate) problem: Problem,
}

/// The body of an upload.
pub(crate) struct Images {
    source: Source,
    max_image: u64,
    room: Arc<Room>,
    /// Names of the fields without an image, for the message if no image comes.
    others: Vec<String>,
    skipped: u64,
}

enum Source {
    /// A form, or a body such as `multipart/mixed` whose parts are not fields.
    Form {
        form: Box<Form>,
        has_fields: bool,
    },
    Bare {
        body: BoxStream<'static, io::Result<Bytes>>,
        name: String,
    },
    End,
}

impl Images {
    /// Reads a request with these headers. `bare_name` is the name of an image that is the whole
    /// body.
    pub(crate) fn of(
        body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
        headers: &HeaderMap,
        bare_name: Option<String>,
        settings: &Web,
        room: &Arc<Room>,
    ) -> Result<Self, Problem> {
        let encodings = headers.get_all(header::CONTENT_ENCODING).iter();
        let encoding = Encoding::of(encodings.map(|value| value.to_str().unwrap_or("?")));
        let body = Paced::of(body, settings);
        let encoding = encoding.map_err(|name| Problem::unknown_encoding(&name))?;
        let body = match encoding {
            Some(encoding) => Unpacked::of(body, encoding).boxed(),
            None => body.boxed(),
        };
        let value = |name: HeaderName| headers.get(name).map(|value| Value::parse(value.as_bytes()));
        let content_type = value(header::CONTENT_TYPE).unwrap_or_default();
        let source = if content_type.main.starts_with("multipart/") {
            let boundary = content_type
                .boundary()
                .ok_or_else(|| Problem::bad_request("the Content-Type of the form has no boundary"))?;
            let has_fields = content_type.main == "multipart/form-data";
            Source::Form { form: Box::new(Form::new(body, boundary, room)), has_fields }
        } else {
            let said = || value(header::CONTENT_DISPOSITION).and_then(|value| value.file());
            Source::Bare { body, name: shown_name(bare_name.or_else(said).as_deref()) }
        };
        let max_image = settings.max_image.as_u64();
        // A client that announces too much need not send any of it.
        let announced =
            headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let is_bare = matches!(source, Source::Bare { .. }) && encoding.is_none();
        if is_bare && announced.is_some_and(|bytes: u64| bytes > max_image) {
            return Err(too_large(max_image));
        }
        Ok(Self { source, max_image, room: room.clone(), others: Vec::new(), skipped: 0 })
    }

    /// Returns the next image, or `None` after the last one. The outer `Err` ends the request, the
    /// inner one only this image.
    pub(crate) async fn next(&mut self) -> Result<Option<Result<Image, Refused>>, Problem> {
        match std::mem::replace(&mut self.source, Source::End) {
            Source::End => Ok(None),
            Source::Bare { mut body, name } => {
                let mut image = Arriving::new(&self.room, self.max_image);
                while let Some(chunk) = body.next().await {
                    image.add(chunk.map_err(broken_body)?).await?;
                    if image.is_too_large() {
                        break;
                    }
                }
                Ok(Some(image.end(name)))
            }
            Source::Form { mut form, has_fields } => {
                let image = self.next_of(&mut form, has_fields).await?;
                self.source = Source::Form { form, has_fields };
                Ok(image)
            }
        }
    }

    async fn next_of(
        &mut self,
        form: &mut Form,
        has_fields: bool,
    ) -> Result<Option<Result<Image, Refused>>, Problem> {
        while let Some(event) = form.next().await? {
            match event {
                Event::Part(part) => {
                    let field = part.disposition.field();
                    if field.as_deref().map_or(!has_fields, is_for_images) {
                        match self.image_of(form, &part).await? {
                            Some(image) => return Ok(Some(image)),
                            None => continue,
                        }
                    }
                    if self.others.len() == MOST_OTHERS {
                        let detail = format!("a form may have at most {MOST_OTHERS} fields without an image");
                        return Err(Problem::too_large(detail));
                    }
                    self.others
                        .push(field.map_or_else(|| "(no name)".to_owned(), |name| shown_name(Some(&name))));
                }
                Event::Content(content) => self.skip(&content)?,
                Event::PartEnd | Event::End => {}
            }
        }
        Ok(None)
    }

    /// Reads the current part of a form to its end. An image that is too large is read but not
    /// kept, because others may follow. Returns `None` for an empty part with an empty file name: a
    /// browser sends that if no file was chosen.
    async fn image_of(
        &mut self,
        form: &mut Form,
        part: &Part,
    ) -> Result<Option<Result<Image, Refused>>, Problem> {
        let mut image = Arriving::new(&self.room, self.max_image);
        while let Some(event) = form.next().await? {
            match event {
                Event::Content(content) if image.is_too_large() => self.skip(&content)?,
                Event::Content(content) => image.add(content).await?,
                Event::PartEnd | Event::Part(_) | Event::End => break,
            }
        }
        let name = part.disposition.file();
        if image.bytes == 0 && name.as_deref() == Some("") {
            return Ok(None);
        }
        let name = shown_name(name.as_deref());
        Ok(Some(match &*part.transfer_encoding {
            "base64" | "quoted-printable" => {
                let problem = Problem::encoded_part(&part.transfer_encoding);
                Err(Refused { name, problem })
            }
            _ => image.end(name),
        }))
    }

    fn skip(&mut self, content: &Bytes) -> Result<(), Problem> {
        self.skipped += content.len() as u64;
        let most = MOST_SKIPPED.saturating_mul(self.max_image);
        if self.skipped <= most {
            return Ok(());
        }
        Err(Problem::too_large(format!("a field without an image may have at most {}", shown_bytes(most))))
    }

    /// The error for a request without an image.
    pub(crate) fn none(&self) -> Problem {
        let expected = "send it in the form field `myfile`, or as the whole body";
        if self.others.is_empty() {
            Problem::no_image(format!("the request has no image; {expected}"))
        } else {
            Problem::no_image(format!("the field `{}` has no image; {expected}", self.others.join("`, `")))
        }
    }
}

pub(super) fn broken_body(error: io::Error) -> Problem {
    match error.kind() {
        io::ErrorKind::TimedOut => Problem::too_slow(error.to_string()),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
            Problem::bad_request(format!("the body is broken: {error}"))
        }
        _ => Problem::bad_request(format!("the body ended early: {error}")),
    }
}

/// Formats as `16777216 bytes (16 MiB)`.
fn shown_bytes(bytes: u64) -> String {
    let size = ByteSize(bytes).display().iec().to_string().replace(".0 ", " ");
    if bytes < 1024 { format!("{bytes} bytes") } else { format!("{bytes} bytes ({size})") }
}

fn too_large(max_image: u64) -> Problem {
    Problem::too_large(format!("an image may have at most {}", shown_bytes(max_image)))
}

pub(super) fn no_room(error: &eirs_platform::Error) -> Problem {
    tracing::warn!(%error, "an upload could not be received");
    Problem::no_room()
}

/// An image that is being read, hashed as it arrives.
struct Arriving {
    held: Held,
    head: Vec<u8>,
    hasher: Sha256,
    bytes: u64,
    max_image: u64,
}

impl Arriving {
    fn new(room: &Arc<Room>, max_image: u64) -> Self {
        let (held, head) = (Held::new(room), Vec::with_capacity(HEAD_BYTES));
        Self { held, head, hasher: Sha256::new(), bytes: 0, max_image }
    }

    async fn add(&mut self, chunk: Bytes) -> Result<(), Problem> {
        self.bytes += chunk.len() as u64;
        if self.is_too_large() {
            self.held.clear();
            return Ok(());
        }
        self.head.extend_from_slice(&chunk[..chunk.len().min(HEAD_BYTES - self.head.len())]);
        self.hasher.update(&chunk);
        self.held.add(chunk).await.map_err(|error| no_room(&error))
    }

    fn is_too_large(&self) -> bool {
        self.bytes > self.max_image
    }

    fn end(self, name: String) -> Result<Image, Refused> {
        let problem = match &self.head[..] {
            _ if self.is_too_large() => too_large(self.max_image),
            [] => Problem::no_image("the image is empty"),
            head => match mistaken::refusal(head) {
                Some(why) => Problem::not_read(why),
                None => {
                    return Ok(Image {
                        id: JobId::from_digest(self.hasher),
                        name,
                        content: self.held.whole(),
                    });
                }
            },
        };
        Err(Refused { name, problem })
    }
}

/// Makes a name fit for logs and terminals: a single line of limited length, `UNNAMED` if it is
/// empty.
pub(super) fn shown_name(name: Option<&str>) -> String {
    let name: String =
        name.unwrap_or_default().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let end =
        name.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= LONGEST_NAME).last();
    match name[..end.unwrap_or(0)].trim() {
        "" => UNNAMED.to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_commas_slashes_and_emoji_but_not_their_newlines() {
        assert_eq!(shown_name(Some("a,b/\u{1F415}\n\"c\".jpg")), "a,b/\u{1F415} \"c\".jpg");
        assert_eq!(shown_name(Some(" \n ")), "image");
        assert_eq!(shown_name(None), "image");
        assert_eq!(shown_name(Some(&"\u{1F415}".repeat(100))).len(), 252);
    }
}
