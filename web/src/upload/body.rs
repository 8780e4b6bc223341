//! Reads the images out of a request, one after another, within the limits: bytes for each image, the room for all arriving
//! bodies together (`room.rs`), and the patience for a client that sends slowly (`pace.rs`).

use std::{error::Error as _, io, sync::Arc};

use bytes::Bytes;
use eirs_platform::{job::JobId, settings::Web};
use futures::{Stream, StreamExt, stream::BoxStream};
use multer::{Field, Multipart};
use sha2::{Digest, Sha256};

use super::{
    image_type::{HEAD_BYTES, is_image},
    pace::Paced,
    portions::Portions,
    room::{Held, Room, Whole},
};
use crate::problem::Problem;

/// The names under which forms send an image.
pub(crate) const FIELDS: [&str; 4] = ["myfile", "file", "image", "inputFile"];
/// How much of a name is kept.
const LONGEST_NAME: usize = 255;

/// An image as it came in.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) id: JobId,
    pub(crate) name: String,
    pub(crate) content: Whole,
}

/// An image that cannot be taken.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) name: String,
    pub(crate) problem: Problem,
}

/// The body of an upload.
pub(crate) struct Images {
    source: Source,
    limits: Limits,
    /// Fields that hold no image, to be named when there is none at all.
    others: Vec<String>,
}

enum Source {
    Multipart(Multipart<'static>),
    Bare { body: BoxStream<'static, io::Result<Bytes>>, name: String },
    End,
}

#[derive(Debug, Clone)]
struct Limits {
    max_image: u64,
    room: Arc<Room>,
}

impl Images {
    /// Of a request with this `Content-Type`, and name for a bare image.
    pub(crate) fn of(
        body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
        content_type: Option<&str>,
        bare_name: Option<String>,
        settings: &Web,
        room: Arc<Room>,
    ) -> Result<Self, Problem> {
        let limits = Limits { max_image: settings.max_image.as_u64(), room };
        let body = Portions::of(Paced::of(body, settings));
        let is_multipart =
            content_type.is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("multipart/"));
        let source = if is_multipart {
            let boundary = multer::parse_boundary(content_type.unwrap_or_default()).map_err(|error| {
                Problem::bad_request(format!("the Content-Type of the form is broken: {error}"))
            })?;
            Source::Multipart(Multipart::new(body, boundary))
        } else {
            Source::Bare { body: body.boxed(), name: shown_name(bare_name.as_deref()) }
        };
        Ok(Self { source, limits, others: Vec::new() })
    }

    /// The next image; `None` after the last. An `Err` outside ends the request, one inside only this image.
    pub(crate) async fn next(&mut self) -> Result<Option<Result<Image, Refused>>, Problem> {
        match std::mem::replace(&mut self.source, Source::End) {
            Source::End => Ok(None),
            Source::Bare { body, name } => {
                let read = self.limits.read(name, body.map(|chunk| chunk.map_err(broken_body))).await;
                read.map(Some)
            }
            Source::Multipart(mut form) => loop {
                let Some(field) = form.next_field().await.map_err(broken_form)? else { return Ok(None) };
                if field.name().is_some_and(|name| FIELDS.contains(&name)) {
                    let name = shown_name(field.file_name());
                    let read = self.limits.read(name, chunks(field)).await;
                    self.source = Source::Multipart(form);
                    return read.map(Some);
                }
                self.others.push(shown_name(field.name()));
            },
        }
    }

    /// What to say when there was no image.
    pub(crate) fn none(&self) -> Problem {
        let expected = "send it in the field `myfile` of a form, or as the bare body";
        if self.others.is_empty() {
            Problem::no_image(format!("there is no image in this request; {expected}"))
        } else {
            Problem::no_image(format!(
                "there is no image in the field `{}`; {expected}",
                self.others.join("`, `")
            ))
        }
    }
}

fn chunks(field: Field<'static>) -> impl Stream<Item = Result<Bytes, Problem>> + Send + Unpin {
    field.map(|chunk| chunk.map_err(broken_form))
}

fn broken_form(error: multer::Error) -> Problem {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    match cause.filter(|cause| cause.kind() == io::ErrorKind::TimedOut) {
        Some(slow) => Problem::too_slow(slow.to_string()),
        None => Problem::bad_request(format!("the form is broken: {error}")),
    }
}

fn broken_body(error: io::Error) -> Problem {
    match error.kind() {
        io::ErrorKind::TimedOut => Problem::too_slow(error.to_string()),
        _ => Problem::bad_request(format!("the body ended early: {error}")),
    }
}

impl Limits {
    /// Reads one image to its end, hashing it on the way. One that is too large is read to its end all the same, but not
    /// kept: a client that is cut off in the middle of its sending never sees the answer.
    async fn read(
        &self,
        name: String,
        mut chunks: impl Stream<Item = Result<Bytes, Problem>> + Send + Unpin,
    ) -> Result<Result<Image, Refused>, Problem> {
        let mut held = Held::new(&self.room);
        let mut head = Vec::with_capacity(HEAD_BYTES);
        let mut hasher = Sha256::new();
        let mut seen: u64 = 0;
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            seen += chunk.len() as u64;
            if seen <= self.max_image {
                head.extend_from_slice(&chunk[..chunk.len().min(HEAD_BYTES - head.len())]);
                hasher.update(&chunk);
                held.add(chunk).await.map_err(no_room)?;
            } else if seen > 16 * self.max_image {
                return Err(self.too_large());
            } else {
                held = Held::new(&self.room);
            }
        }
        let problem = match &head[..] {
            _ if seen > self.max_image => self.too_large(),
            [] => Problem::no_image("the image is empty"),
            head if !is_image(head) => Problem::not_an_image(),
            _ => return Ok(Ok(Image { id: JobId::from_digest(hasher), name, content: held.whole() })),
        };
        Ok(Err(Refused { name, problem }))
    }

    fn too_large(&self) -> Problem {
        Problem::too_large(format!("an image may have at most {} bytes", self.max_image))
    }
}

fn no_room(error: eirs_platform::Error) -> Problem {
    tracing::warn!(%error, "an upload could not be taken in");
    Problem::no_room()
}

/// A name is only shown, but it is shown in logs and on terminals, too: one line, and not endless.
fn shown_name(name: Option<&str>) -> String {
    let name: String =
        name.unwrap_or_default().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let end =
        name.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= LONGEST_NAME).last();
    match name[..end.unwrap_or(0)].trim() {
        "" => "image".to_owned(),
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
