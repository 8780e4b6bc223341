use eirs_harness::{Site, form, image, request, sample};

#[test]
fn other_files_are_refused_before_anything_is_stored() {
    let site = Site::new();
    let web = site.web();
    for (body, status, hint) in [
        (&b"hello, world"[..], 415, "not an image of a type that EIRS reads"),
        (b"", 400, "image"),
        (b"%PDF-1.7", 415, "JPEG, PNG, WebP, GIF, BMP"),
        (b"\xff\x0a\xfa", 415, "JPEG XL is not supported; convert it to JPEG"),
    ] {
        let answer = web.upload_bare(body);
        assert_eq!(answer.status, status);
        assert!(answer.problem().contains(hint), "{answer:?}");
        assert_eq!(web.upload("", "x", body).status, status, "the same as a form");
    }
    assert_eq!(site.stored_images(), 0, "nothing was stored");
}

#[test]
fn a_form_without_an_image_is_refused_with_the_name_of_the_field() {
    let site = Site::new();
    let web = site.web();
    let headers = [("content-type", "multipart/form-data; boundary=XX")];
    let wrong = form(&[("photo", "x", &image(1))]);
    let answer = request(&web.address, "POST", "/upload", &headers, &wrong).expect("an answer");
    assert_eq!(answer.status, 400);
    assert!(answer.problem().contains("`photo`") && answer.problem().contains("`myfile`"), "{answer:?}");
    let answer = request(&web.address, "POST", "/upload", &headers, b"--XX\r\nnonsense").expect("an answer");
    assert_eq!(answer.status, 400, "{answer:?}");
    let headers = [("content-type", "multipart/form-data")];
    let answer = request(&web.address, "POST", "/upload", &headers, &wrong).expect("an answer");
    assert_eq!(answer.status, 400, "no boundary: {answer:?}");
}

#[test]
fn files_that_share_a_field_are_each_an_image() {
    let site = Site::new();
    let (web, _worker) = (site.web(), site.worker());
    // As sent by curl for `-F 'myfile=@a.bmp,b.bmp'`.
    let mut body = b"--XX\r\nContent-Disposition: form-data; name=\"myfile\"\r\n\
        Content-Type: multipart/mixed; boundary=YY\r\n\r\n"
        .to_vec();
    for (number, name) in [(1, "a.bmp"), (2, "b.bmp")] {
        let head = format!("--YY\r\nContent-Disposition: attachment; filename=\"{name}\"\r\n\r\n");
        body.extend([head.as_bytes(), &image(number), b"\r\n"].concat());
    }
    body.extend(b"--YY--\r\n\r\n--XX--\r\n");
    let headers = [("content-type", "multipart/form-data; boundary=XX")];
    let answer = request(&web.address, "POST", "/upload", &headers, &body).expect("an answer");
    let mut names: Vec<_> = answer.body.lines().map(line).map(|line| line["name"].clone()).collect();
    names.sort_by_key(ToString::to_string);
    assert_eq!(names, ["a.bmp", "b.bmp"], "{answer:?}");
    let mixed = |boundary: &str| format!("Content-Type: multipart/mixed; boundary={boundary}\r\n\r\n");
    let deep = format!(
        "--XX\r\nContent-Disposition: form-data; name=myfile\r\n{}--YY\r\n{}--ZZ\r\n\r\nBM\r\n--ZZ--\r\n\
        --YY--\r\n\
        --XX--\r\n",
        mixed("YY"),
        mixed("ZZ")
    );
    let answer = request(&web.address, "POST", "/upload", &headers, deep.as_bytes()).expect("an answer");
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(answer.problem().contains("another within it"), "{answer:?}");
}

fn line(line: &str) -> serde_json::Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[test]
fn names_are_decoded_in_any_encoding() {
    let site = Site::new();
    let (web, _worker) = (site.web(), site.worker());
    for written in [
        "filename=\"=?utf-8?B?w7wuanBn?=\"; filename*=utf-8''%C3%BC.jpg",
        "filename*=utf-8''%C3%BC.jpg",
        "filename=\"=?utf-8?Q?=C3=BC.jpg?=\"",
        "filename=\"\u{fc}.jpg\"",
    ] {
        let mut body = format!("--XX\r\nContent-Disposition: form-data; name=\"myfile\"; {written}\r\n\r\n")
            .into_bytes();
        body.extend([&image(1)[..], b"\r\n--XX--\r\n"].concat());
        let headers = [("content-type", "multipart/form-data; boundary=XX"), ("accept", "application/json")];
        let answer = request(&web.address, "POST", "/upload", &headers, &body).expect("an answer");
        assert_eq!(answer.json()["name"], "\u{fc}.jpg", "{written}: {answer:?}");
    }
}

#[test]
fn compressed_bodies_are_decoded_within_limits_or_refused_by_name() {
    let site = Site::new().set("EIRS_WEB__MAX_IMAGE", "1MiB");
    let (web, _worker) = (site.web(), site.worker());
    let send = |encoding: &str, body: &[u8]| {
        let headers =
            [("content-type", "image/bmp"), ("content-encoding", encoding), ("accept", "application/json")];
        request(&web.address, "POST", "/upload", &headers, body).expect("an answer")
    };
    assert_eq!(send("gzip", &stored(&image(1))).json()["label"], "noop");
    assert_eq!(send("gzip", b"no gzip").status, 400);
    let mut large = image(2);
    large.resize(2_000_000, 0);
    assert_eq!(send("gzip", &stored(&large)).status, 413);
    let answer = send("br", &image(1));
    assert_eq!((answer.status, answer.header("accept-encoding")), (415, Some("gzip, deflate, identity")));
    assert!(answer.problem().contains("`br`"), "{answer:?}");
}

/// A gzip file (RFC 1952) whose blocks are not compressed.
fn stored(bytes: &[u8]) -> Vec<u8> {
    let mut file = b"\x1f\x8b\x08\0\0\0\0\0\0\xff".to_vec();
    let mut blocks = bytes.chunks(0xffff).peekable();
    while let Some(block) = blocks.next() {
        let length = block.len() as u16;
        file.push(u8::from(blocks.peek().is_none()));
        file.extend([length.to_le_bytes(), (!length).to_le_bytes()].concat());
        file.extend(block);
    }
    file.extend(crc32(bytes).to_le_bytes());
    file.extend((bytes.len() as u32).to_le_bytes());
    file
}

#[test]
fn twenty_megabytes_are_refused_and_the_client_can_read_the_answer() {
    let site = Site::new();
    let web = site.web();
    let mut large = image(1);
    large.resize(20_000_000, 0);
    for answer in [web.upload_bare(&large), web.upload("", "x", &large)] {
        assert_eq!(answer.status, 413);
        assert!(answer.problem().contains("at most 16777216 bytes (16 MiB)"), "{answer:?}");
    }
}

#[test]
fn a_truncated_jpeg_and_a_bomb_are_rejected_by_the_worker_with_a_reason() {
    let site = Site::with_model();
    let (web, _worker) = (site.web(), site.worker());
    let whole = sample("heart_0.jpg");
    let answer = web.upload_bare(&whole[..whole.len() / 2]);
    assert_eq!(answer.status, 422, "{answer:?}");
    assert!(!answer.problem().contains("panic"), "{answer:?}");

    let answer = web.upload_bare(&bomb());
    assert_eq!(answer.status, 422, "{answer:?}");
    assert!(answer.problem().contains("30000"), "it names the size: {answer:?}");
    assert_eq!(web.upload_bare(&bomb()).status, 422, "and so does the stored result");
    assert_eq!(web.upload_bare(&whole).body, "heart", "the worker is alive");
}

/// A PNG that announces 30,000 x 30,000 pixels.
fn bomb() -> Vec<u8> {
    let mut file = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    let header = [&30_000u32.to_be_bytes()[..], &30_000u32.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    let crc = crc32(&[b"IHDR", &header[..]].concat());
    file.extend_from_slice(&header);
    file.extend_from_slice(&crc.to_be_bytes());
    // An empty image chunk, which no decoder should reach.
    file.extend_from_slice(b"\0\0\0\0IDAT\x35\xaf\x06\x1e\0\0\0\0IEND\xae\x42\x60\x82");
    file
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

#[test]
fn unusual_names_are_returned_and_break_nothing() {
    let site = Site::new();
    let (web, _worker) = (site.web(), site.worker());
    for (number, name) in (0..).zip([
        "a,b,c.jpg",
        "../../etc/passwd",
        "tab\there.png",
        "\u{1F415} hund.jpg",
        "semi;colon='x'.gif",
        "C:\\x\\y.bmp",
    ]) {
        let answer = web.upload("", name, &image(number));
        assert_eq!(answer.status, 200, "{name}: {answer:?}");
        assert_eq!(answer.json()["label"], "noop");
        assert_eq!(answer.json()["name"], name.replace('\t', " "), "control characters become spaces");
    }
    let answer = web.upload("", "two\nlines.jpg", &image(99)).json();
    assert!(!answer["name"].as_str().expect("a name").contains('\n'), "{answer}");
}

#[test]
fn invalid_parameters_are_explained() {
    let site = Site::new();
    let web = site.web();
    for (query, status, hint) in [
        ("?wait=soon", 400, "duration"),
        ("?top=0", 400, "top"),
        ("?model=dogs", 404, "unknown model `dogs`"),
    ] {
        let answer = web.upload(query, "x", &image(1));
        assert_eq!(answer.status, status, "{query}");
        assert!(answer.problem().contains(hint), "{query}: {answer:?}");
    }
}
