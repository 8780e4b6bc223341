//! Reads the images out of a request, one after another, within the limits: bytes for each image, memory for all arriving
//! bodies together, and the patience for a client that pauses.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use eirs_platform::{job::JobId, settings::Web};
use futures::{Stream, StreamExt, stream::BoxStream};
use multer::{Field, Multipart};
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{MEMORY_UNIT, portions::Portions, problem::Problem};

/// The names under which forms send an image.
pub(crate) const FIELDS: [&str; 4] = ["myfile", "file", "image", "inputFile"];
/// How much of a name is kept.
const LONGEST_NAME: usize = 255;

/// An image as it came in, with the permit for the memory that it takes.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) id: JobId,
    pub(crate) name: String,
    pub(crate) bytes: Bytes,
    pub(crate) memory: OwnedSemaphorePermit,
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
    Bare { body: BoxStream<'static, std::io::Result<Bytes>>, name: String },
    End,
}

#[derive(Debug, Clone)]
struct Limits {
    max_image: u64,
    read_timeout: Duration,
    memory: Arc<Semaphore>,
    /// As far as the client says.
    body_bytes: Option<u64>,
}

impl Images {
    /// Of a request with this `Content-Type`, `Content-Length`, and name for a bare image.
    pub(crate) fn of(
        body: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
        content_type: Option<&str>,
        body_bytes: Option<u64>,
        bare_name: Option<String>,
        settings: &Web,
        memory: Arc<Semaphore>,
    ) -> Result<Self, Problem> {
        let limits = Limits {
            max_image: settings.max_image.as_u64(),
            read_timeout: settings.read_timeout,
            memory,
            body_bytes,
        };
        let body = Portions::of(body);
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
                let next = self.limits.in_time(form.next_field()).await?.map_err(broken_form)?;
                let Some(field) = next else { return Ok(None) };
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
    Problem::bad_request(format!("the form is broken: {error}"))
}

fn broken_body(error: std::io::Error) -> Problem {
    Problem::bad_request(format!("the body ended early: {error}"))
}

impl Limits {
    async fn in_time<T>(&self, reading: impl Future<Output = T>) -> Result<T, Problem> {
        let late = |_| Problem::too_slow(format!("nothing came for {} seconds", self.read_timeout.as_secs()));
        tokio::time::timeout(self.read_timeout, reading).await.map_err(late)
    }

    /// Reads one image to its end, hashing it on the way. One that is too large is read to its end all the same, but not
    /// kept: a client that is cut off in the middle of its sending never sees the answer.
    async fn read(
        &self,
        name: String,
        mut chunks: impl Stream<Item = Result<Bytes, Problem>> + Send + Unpin,
    ) -> Result<Result<Image, Refused>, Problem> {
        let expected = self.body_bytes.unwrap_or(self.max_image).min(self.max_image);
        let mut memory = self.take_memory(expected).await?;
        let mut bytes = Gathered::default();
        let mut hasher = Sha256::new();
        let mut seen: u64 = 0;
        while let Some(chunk) = self.in_time(chunks.next()).await? {
            let chunk = chunk?;
            seen += chunk.len() as u64;
            if seen <= self.max_image {
                hasher.update(&chunk);
                bytes.add(chunk, expected);
            } else if seen > 16 * self.max_image {
                return Err(self.too_large());
            } else {
                bytes = Gathered::default();
            }
        }
        let bytes = bytes.into_bytes();
        let problem = match &bytes[..] {
            _ if seen > self.max_image => self.too_large(),
            [] => Problem::no_image("the image is empty"),
            image if !crate::image_type::is_image(image) => Problem::not_an_image(),
            _ => {
                let unused = memory.num_permits().saturating_sub(units(seen) as usize);
                drop(memory.split(unused));
                return Ok(Ok(Image { id: JobId::from_digest(hasher), name, bytes, memory }));
            }
        };
        Ok(Err(Refused { name, problem }))
    }

    fn too_large(&self) -> Problem {
        Problem::too_large(format!("an image may have at most {} bytes", self.max_image))
    }

    async fn take_memory(&self, bytes: u64) -> Result<OwnedSemaphorePermit, Problem> {
        let taken = self.memory.clone().acquire_many_owned(units(bytes)).await;
        taken.map_err(|_closed| Problem::draining())
    }
}

/// The bytes of an image. One that came in one piece, as small ones do, is not copied.
#[derive(Debug, Default)]
struct Gathered {
    first: Bytes,
    all: BytesMut,
}

impl Gathered {
    fn add(&mut self, chunk: Bytes, expected: u64) {
        if self.first.is_empty() && self.all.is_empty() {
            self.first = chunk;
            return;
        }
        if self.all.is_empty() {
            self.all.reserve(usize::try_from(expected).unwrap_or(0));
            self.all.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.all.extend_from_slice(&chunk);
    }

    fn into_bytes(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(MEMORY_UNIT)).unwrap_or(u32::MAX)
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
