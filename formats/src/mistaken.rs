//! What else people upload by mistake, and what they should have sent.

use crate::Kind;

/// Why what begins with these bytes (the first [`HEAD_BYTES`](crate::HEAD_BYTES) are enough) is
/// turned away at the door, as a sentence; `None` for an image that is read.
pub fn refusal(bytes: &[u8]) -> Option<String> {
    let kind = Kind::of(bytes);
    let why = kind.refusal()?;
    Some(match hint(bytes).filter(|_| kind == Kind::NoImage) {
        Some(hint) => format!("{why}; {hint}"),
        None => why,
    })
}

fn hint(bytes: &[u8]) -> Option<&'static str> {
    const BASE64: &str = "this looks like base64, send the bytes of the image themselves";
    const HTML: &str = "this is a web page, not the image on it";
    const JSON: &str = "this looks like JSON, send the bytes of the image as the body, or in a form";
    const FORM: &str =
        "this looks like a form, which needs its Content-Type: multipart/form-data; boundary=...";
    const GZIP: &str = "this is compressed with gzip, which needs Content-Encoding: gzip";
    const VIDEO: &str = "this is a video, send its frames as images";
    const STARTS: [(&[u8], &str); 19] = [
        (b"data:image/", BASE64),
        (b"/9j/", BASE64),
        (b"iVBORw0KGgo", BASE64),
        (b"R0lGOD", BASE64),
        (b"UklGR", BASE64),
        (b"<!doctype html", HTML),
        (b"<html", HTML),
        (b"<head", HTML),
        (b"{\"", JSON),
        (b"[\"", JSON),
        (b"[{", JSON),
        (b"--", FORM),
        (b"content-disposition:", FORM),
        (b"myfile=", FORM),
        (b"\x1f\x8b", GZIP),
        (b"\x1a\x45\xdf\xa3", VIDEO),
        (b"%PDF-", "this is a PDF document, convert its pages to JPEG or PNG"),
        (b"PK\x03\x04", "this is a ZIP archive, send its images one by one, or several in a form"),
        (b"http", "this looks like an address, which EIRS does not fetch"),
    ];
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    match bytes {
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => Some(VIDEO),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'A', b'V', b'I', b' ', ..] => Some(VIDEO),
        _ => {
            let is_like =
                |start: &[u8]| text.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start));
            STARTS.into_iter().find(|(start, _)| is_like(start)).map(|(_, hint)| hint)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_send_by_mistake_is_called_by_its_name() {
        let heads: [(&[u8], &str); 14] = [
            (b"/9j/4AAQSkZJRgABAQ", "base64"),
            (b"data:image/png;base64,iVBORw0", "base64"),
            (b"\n<!DOCTYPE html>\n<html>", "a web page"),
            (b"{\"image\": \"...\"}", "JSON"),
            (b"------WebKitFormBoundary7MA\r\nContent-Disposition", "multipart/form-data"),
            (b"myfile=%FF%D8", "multipart/form-data"),
            (b"\x1f\x8b\x08\0", "Content-Encoding: gzip"),
            (b"%PDF-1.7", "a PDF document"),
            (b"PK\x03\x04\x14\0", "a ZIP archive"),
            (b"\0\0\0\x18ftypmp42\0\0\0\0isom", "a video"),
            (b"RIFF\x01\x02\x03\x04AVI LIST", "a video"),
            (b"\x1a\x45\xdf\xa3\x01", "a video"),
            (b"https://example.org/cat.jpg", "an address"),
            (b"\xef\xbb\xbf<html>", "a web page"),
        ];
        for (head, part) in heads {
            let why = refusal(head).unwrap();
            let general = Kind::NoImage.refusal().unwrap();
            assert!(why.starts_with(&general) && why.contains(part), "{head:?}: {why}");
        }
    }

    #[test]
    fn anything_else_is_refused_in_general_and_an_image_is_not() {
        for head in [&b"hello"[..], b"", b"{", b"\0\0\0\0", b"RIFF\x01\x02\x03\x04WAVE"] {
            assert_eq!(refusal(head), Kind::NoImage.refusal(), "{head:?}");
        }
        assert_eq!(refusal(b"8BPS\0\x01"), Kind::NotRead("a Photoshop document").refusal());
        assert_eq!(refusal(b"\xFF\xD8\xFF\xE0..JFIF"), None);
    }
}
