//! Tests of the body reader as a whole: the result does not depend on how a body is split into
//! chunks, nor on how it is broken.

use poem::http::HeaderMap;
use proptest::prelude::*;

use super::reading::{headers, packed, pieces, read};

/// Content of a part: an image or not, and bytes that resemble a boundary.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        3 => Just(b"\xff\xd8\xff\xe0".to_vec()),
        1 => Just(b"GIF89a".to_vec()),
        1 => Just(b"\r\n--X".to_vec()),
        1 => Just(b"\r\n--YY".to_vec()),
        1 => Just(b"\r".to_vec()),
        2 => prop::collection::vec(any::<u8>(), 0..40),
        1 => prop::collection::vec(any::<u8>(), 9000..12_000),
    ];
    prop::collection::vec(piece, 0..5).prop_map(|pieces| pieces.concat())
}

/// The header of a part, valid or not.
fn head() -> impl Strategy<Value = String> {
    let field = prop_oneof![3 => Just("myfile"), 1 => Just("file"), 1 => Just("note"), 1 => Just("")];
    let name = prop_oneof![
        Just(String::new()),
        Just("; filename=\"a.jpg\"".to_owned()),
        Just("; filename=a.jpg".to_owned()),
        Just("; filename=\"a \\\"b\\\".jpg\"".to_owned()),
        Just("; filename*=UTF-8''%C3%A4.jpg".to_owned()),
        Just("; filename=\"=?utf-8?B?w6Q=?=\"".to_owned()),
        Just("; filename=\"=?iso-8859-1?Q?=E4.jpg?=\"".to_owned()),
        Just("; filename=\"../../a.jpg\"".to_owned()),
        "[ -~]{0,12}".prop_map(|text| format!("; filename={text}")),
    ];
    let other = prop_oneof![
        3 => Just(String::new()),
        1 => Just("\r\nContent-Type: image/jpeg".to_owned()),
        1 => Just("\r\nContent-Transfer-Encoding: base64".to_owned()),
        1 => Just("\r\nX: y\r\n z".to_owned()),
    ];
    (field, name, other).prop_map(|(field, name, other)| {
        format!("Content-Disposition: form-data; name=\"{field}\"{name}{other}")
    })
}

/// A whole body, some with parts nested in a part, as `curl -F 'myfile=@a.jpg,b.jpg'` sends them.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let part = || (head(), content());
    prop::collection::vec((part(), prop::collection::vec(part(), 0..3)), 0..4).prop_map(|parts| {
        let mut body = Vec::new();
        for ((head, content), inner) in parts {
            body.extend_from_slice(b"--XX\r\n");
            if inner.is_empty() {
                body.extend_from_slice(format!("{head}\r\n\r\n").as_bytes());
                body.extend_from_slice(&content);
            } else {
                let nested = "Content-Type: multipart/mixed; boundary=YY";
                body.extend_from_slice(format!("{head}\r\n{nested}\r\n\r\n").as_bytes());
                for (head, content) in inner {
                    let head = head.replacen("form-data; name=\"myfile\"", "attachment", 1);
                    body.extend_from_slice(format!("--YY\r\n{head}\r\n\r\n").as_bytes());
                    body.extend_from_slice(&content);
                    body.extend_from_slice(b"\r\n");
                }
                body.extend_from_slice(b"--YY--");
            }
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"--XX--\r\n");
        body
    })
}

fn whole(headers: &HeaderMap, body: &[u8]) -> Vec<String> {
    read(headers, pieces(body, &[]))
}

/// A form with one part for each of these heads and contents.
fn form(parts: &[(&str, &[u8])]) -> Vec<String> {
    let mut body = Vec::new();
    for (head, content) in parts {
        body.extend(format!("--XX\r\nContent-Disposition: form-data; {head}\r\n\r\n").bytes());
        body.extend(*content);
        body.extend(b"\r\n");
    }
    body.extend(b"--XX--\r\n");
    whole(&headers(false, None), &body)
}

#[test]
fn the_field_of_an_image_may_be_written_in_any_case_and_as_a_list() {
    for field in ["myfile", "MyFile", "myfile[]", "IMAGE", "file[]"] {
        let seen = form(&[(&format!("name=\"{field}\"; filename=\"a.gif\""), b"GIF89a")]);
        assert!(seen[0].starts_with("a.gif "), "{field}: {seen:?}");
    }
    for field in ["myfile2", "[]", "myfile[0]", "my file"] {
        let seen = form(&[(&format!("name=\"{field}\"; filename=\"a.gif\""), b"GIF89a")]);
        assert!(
            seen.len() == 1 && seen[0].contains(&format!("the field `{field}` has no image")),
            "{seen:?}"
        );
    }
}

#[test]
fn a_field_without_a_chosen_file_is_no_image_but_an_empty_file_is() {
    let unchosen = ("name=myfile; filename=\"\"", &b""[..]);
    let seen = form(&[unchosen, ("name=myfile; filename=a.gif", b"GIF89a"), unchosen]);
    assert!(seen.len() == 2 && seen[0].starts_with("a.gif "), "{seen:?}");
    let seen = form(&[unchosen]);
    assert!(seen.len() == 1 && seen[0].contains("the request has no image"), "{seen:?}");
    let seen = form(&[("name=myfile; filename=a.gif", b"")]);
    assert_eq!(seen[0], "a.gif: the image is empty");
}

#[test]
fn a_form_with_bare_line_feeds_is_refused_with_the_cause() {
    let body = b"--XX\nContent-Disposition: form-data; name=myfile\n\nGIF89a\n--XX--\n";
    let seen = whole(&headers(false, None), body);
    assert!(seen.len() == 1 && seen[0].contains("with CR and LF at the end of each line"), "{seen:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_form_has_the_same_images_however_it_is_split(
        body in body(),
        cuts in prop::collection::vec(any::<u8>(), 1..6),
        is_mixed: bool,
    ) {
        let plain = headers(is_mixed, None);
        let expected = whole(&plain, &body);
        prop_assert_eq!(&read(&plain, pieces(&body, &cuts)), &expected);
        prop_assert_eq!(&read(&plain, pieces(&body, &[1])), &expected);
        let gzip = headers(is_mixed, Some("gzip"));
        prop_assert_eq!(&read(&gzip, pieces(&packed(&body), &cuts)), &expected);
    }

    #[test]
    fn a_broken_form_reads_the_same_however_it_is_split(
        mut body in body(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 1..8),
        cuts in prop::collection::vec(any::<u8>(), 1..6),
        is_packed: bool,
    ) {
        if is_packed {
            body = packed(&body);
        }
        for (place, byte, kind) in changes {
            let place = place.index(body.len().max(1));
            match kind {
                0 => body.truncate(place),
                1 => body.insert(place.min(body.len()), byte),
                2 if place < body.len() => _ = body.remove(place),
                _ => if let Some(at) = body.get_mut(place) { *at = byte },
            }
        }
        let headers = headers(false, is_packed.then_some("gzip"));
        let (cut, whole) = (read(&headers, pieces(&body, &cuts)), whole(&headers, &body));
        // A damaged compressed stream yields more bytes if it arrives in smaller pieces.
        prop_assert!(is_packed || cut == whole, "{:?}, and as a whole {:?}", cut, whole);
    }

    #[test]
    fn a_bare_image_is_the_same_however_it_is_split(
        content in content(),
        cuts in prop::collection::vec(any::<u8>(), 1..6),
    ) {
        let none = HeaderMap::new();
        prop_assert_eq!(read(&none, pieces(&content, &cuts)), whole(&none, &content));
    }
}
