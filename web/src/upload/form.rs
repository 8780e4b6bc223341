//! Reads the parts of a form as they arrive. The files of a nested `multipart/mixed`, which curl
//! sends for `-F 'myfile=@a.jpg,b.jpg'` (RFC 2388, 4.2), become parts of the same field.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};

use super::{
    body::{broken_body, no_room},
    multipart::{Broken, Event, Parser},
};
use crate::{
    problem::Problem,
    spool::{Room, Taken},
};

pub(super) struct Form {
    body: BoxStream<'static, io::Result<Bytes>>,
    parser: Parser,
    /// The parser of the current part if that is a nested multipart body, and the part's field
    /// name.
    nested: Option<(Parser, Option<String>)>,
    /// The memory reserved for the bytes that the parsers keep.
    taken: Taken,
}

impl Form {
    pub(super) fn new(
        body: BoxStream<'static, io::Result<Bytes>>,
        boundary: &[u8],
        room: &Arc<Room>,
    ) -> Self {
        Self { body, parser: Parser::new(boundary), nested: None, taken: room.memory() }
    }

    /// Returns the next event, or `None` at the end of the form.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, Problem> {
        loop {
            if let Some((nested, field)) = &mut self.nested {
                match nested.next().map_err(broken_form)? {
                    Some(Event::Part(part)) if part.content_type.main.starts_with("multipart/") => {
                        return Err(broken_form(Broken(
                            "the files of a field may stand together in one multipart part, and not in \
                            another within it",
                        )));
                    }
                    Some(Event::Part(mut part)) => {
                        part.disposition.name_field(field.as_deref());
                        return Ok(Some(Event::Part(part)));
                    }
                    Some(event @ (Event::Content(_) | Event::PartEnd)) => return Ok(Some(event)),
                    Some(Event::End) | None => {}
                }
            }
            match (self.parser.next().map_err(broken_form)?, &mut self.nested) {
                (Some(Event::Part(part)), None) if part.content_type.main.starts_with("multipart/") => {
                    let boundary = part.content_type.boundary();
                    let boundary = boundary.ok_or_else(|| broken_form(Broken("a part has no boundary")))?;
                    self.nested = Some((Parser::new(boundary), part.disposition.field()));
                }
                (Some(Event::Content(content)), Some((nested, _))) => nested.feed(content),
                (Some(Event::PartEnd), Some((nested, _))) => {
                    nested.finish().map_err(broken_form)?;
                    self.nested = None;
                }
                (Some(Event::End), _) => return Ok(None),
                (Some(event), _) => return Ok(Some(event)),
                (None, _) => match self.body.next().await {
                    Some(chunk) => self.parser.feed(chunk.map_err(broken_body)?),
                    None => return self.parser.finish().map(|()| None).map_err(broken_form),
                },
            }
            let kept = self.parser.kept() + self.nested.as_ref().map_or(0, |(nested, _)| nested.kept());
            if !self.taken.set(kept as u64) {
                return Err(no_room(&eirs_platform::Error::unavailable(
                    "reading a form",
                    "other uploads take all of `web.upload_memory`",
                )));
            }
        }
    }
}

fn broken_form(Broken(why): Broken) -> Problem {
    Problem::bad_request(format!("the form is broken: {why}"))
}
