//! For tests and fuzzing: the content of an upload's body as texts that can be compared.

use std::{
    cell::OnceCell,
    io::{self, Write},
};

use bytes::Bytes;
use eirs_platform::settings::Web;
use flate2::{Compression, write::GzEncoder};
use futures::stream;
use poem::http::{HeaderMap, HeaderValue, header};

use super::body::Images;
use crate::spool::Room;

/// Memory and disk for bodies, in bytes. The memory is small, so that larger bodies go to a file.
const ROOM: (u64, u64) = (64 << 10, 64 << 20);

thread_local! {
    static RUNTIME: OnceCell<tokio::runtime::Runtime> = const { OnceCell::new() };
}

/// Reads a body in these pieces; returns the images with their names, the refusals, and the error
/// of the whole body, if any.
///
/// # Panics
///
/// If any room is not returned, or if there are more images than the body can hold.
pub(crate) fn read(headers: &HeaderMap, pieces: Vec<Bytes>) -> Vec<String> {
    let bytes: usize = pieces.iter().map(Bytes::len).sum();
    let settings = Web { max_image: bytesize(1 << 20), ..Web::default() };
    let folder = std::env::temp_dir();
    let room = Room::new(ROOM.0, ROOM.1, &folder, None, 1 << 20).expect("a room");
    let read = async {
        let mut seen = Vec::new();
        let body = stream::iter(pieces.into_iter().map(Ok::<_, io::Error>));
        let mut images = match Images::of(body, headers, None, &settings, &room) {
            Ok(images) => images,
            Err(problem) => return vec![format!("{} {}", problem.status, problem.detail)],
        };
        loop {
            seen.push(match images.next().await {
                Ok(Some(Ok(image))) => {
                    let length = image.content.len();
                    let content = image
                        .content
                        .read(false, async |content| content.read().await)
                        .await
                        .expect("the content can be read");
                    assert_eq!(content.len() as u64, length);
                    assert_eq!(eirs_platform::job::JobId::of(&content), image.id);
                    format!("{} {}", image.name, image.id)
                }
                Ok(Some(Err(refused))) => format!("{}: {}", refused.name, refused.problem.detail),
                Ok(None) => {
                    seen.push(images.none().detail);
                    break;
                }
                Err(problem) => {
                    seen.push(format!("{} {}", problem.status, problem.detail));
                    break;
                }
            });
            assert!(seen.len() <= bytes + 2, "more images than bytes");
        }
        seen
    };
    let seen = RUNTIME.with(|runtime| {
        let new = || tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.get_or_init(new).block_on(read)
    });
    assert_eq!(room.free(), ROOM, "all of it is free again");
    seen
}

fn bytesize(bytes: u64) -> bytesize::ByteSize {
    bytesize::ByteSize::b(bytes)
}

/// The headers of a form, or of a `multipart/mixed`, with the boundary `XX` and an optional
/// encoding.
pub(crate) fn headers(is_mixed: bool, encoding: Option<&'static str>) -> HeaderMap {
    let kind = if is_mixed { "multipart/mixed; boundary=XX" } else { "multipart/form-data; boundary=XX" };
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Some(encoding) = encoding {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    headers
}

/// Splits a body into pieces of these lengths, repeated; 0 is an empty piece.
pub(crate) fn pieces(body: &[u8], lengths: &[u8]) -> Vec<Bytes> {
    let mut rest = Bytes::copy_from_slice(body);
    let mut pieces = Vec::new();
    let is_cut = lengths.iter().any(|length| *length > 0);
    for length in lengths.iter().cycle().take_while(|_| is_cut) {
        if rest.is_empty() {
            break;
        }
        pieces.push(rest.split_to(rest.len().min(usize::from(*length))));
    }
    pieces.push(rest);
    pieces
}

/// Compresses a body with gzip.
pub(crate) fn packed(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).and_then(|()| encoder.finish()).expect("writing to memory succeeds")
}
