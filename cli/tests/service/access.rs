//! Tokens, rates, other origins, and security headers.

use std::fs;

use rustix::process::Signal;

use eirs_harness::{Answer, Site, Web, eventually, form, image, request, sample};

/// Uploads an image without waiting, with these headers.
fn upload(web: &Web, number: u32, headers: &[(&str, &str)]) -> Answer {
    let headers = [&[("content-type", "image/bmp")], headers].concat();
    request(&web.address, "POST", "/upload?wait=0", &headers, &image(number)).expect("an answer")
}

fn with_token(web: &Web, number: u32, token: &str) -> Answer {
    upload(web, number, &[("authorization", &format!("Bearer {token}"))])
}

/// Returns the output of `eirs token`.
fn eirs_token(site: &Site, arguments: &[&str]) -> String {
    let output = site.command("eirs").arg("token").args(arguments).output().expect("it runs");
    let aside = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {aside}");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

fn site_with_tokens() -> Site {
    Site::new().set("EIRS_WEB__TOKENS", "tokens.json")
}

#[test]
fn requests_without_a_valid_token_are_refused() {
    let site = site_with_tokens();
    let token = eirs_token(&site, &["add", "ci"]);
    let web = site.web();
    assert_eq!(with_token(&web, 1, &token).status, 202);
    let result = |headers: &[(&str, &str)]| {
        request(&web.address, "GET", "/results/1", headers, b"").expect("an answer")
    };
    for (refused, hint) in [
        (upload(&web, 2, &[]), "needs a token"),
        (with_token(&web, 2, "eirs_0"), "unknown or revoked token"),
        (upload(&web, 2, &[("authorization", &format!("Basic {token}"))]), "needs a token"),
        (result(&[]), "needs a token"),
        (web.get("/no/such/path"), "needs a token"),
    ] {
        assert_eq!(
            (refused.status, refused.header("www-authenticate")),
            (401, Some("Bearer")),
            "{refused:?}"
        );
        assert!(refused.problem().contains(hint), "{refused:?}");
    }
    for open in ["/", "/livez", "/readyz"] {
        assert_eq!(web.get(open).status, 200, "{open}");
    }
    assert!(web.get("/metrics").body.contains("eirs_requests_turned_away_total{why=\"token\"} 5"));
}

#[test]
fn the_command_line_classifies_with_a_token_of_its_environment_or_of_a_file() {
    let site = site_with_tokens();
    let token = eirs_token(&site, &["add", "ci"]);
    let (web, _worker) = (site.web(), site.worker());
    let folder = site.folder.path();
    fs::write(folder.join("heart.jpg"), sample("heart_0.jpg")).expect("an image");
    fs::write(folder.join("token.txt"), &token).expect("a token");
    let url = format!("http://{}", web.address);
    let classify = |arguments: &[&str], token: &str| {
        let mut command = site.command("eirs");
        command.args(["classify", "heart.jpg", "--url", &url]).args(arguments);
        if !token.is_empty() {
            command.env("EIRS_TOKEN", token);
        }
        let output = command.output().expect("it runs");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    };
    let (code, said) = classify(&[], "");
    assert!(code == Some(1) && said.contains("needs a token"), "{said}");
    for (arguments, token) in [(&[][..], token.as_str()), (&["--token-file", "token.txt"], "")] {
        let (code, said) = classify(arguments, token);
        assert!(code == Some(0) && said.starts_with("heart.jpg: noop"), "{said}");
    }
}

/// An escaped and a plain path are the same, also for access control.
#[test]
fn an_escaped_path_has_the_same_access_control_as_the_plain_one() {
    let site = site_with_tokens();
    let token = eirs_token(&site, &["add", "ci"]);
    let web = site.web();
    let bearer = format!("Bearer {token}");
    let post = |path: &str, headers: &[(&str, &str)]| {
        let headers = [&[("content-type", "image/bmp")], headers].concat();
        request(&web.address, "POST", path, &headers, &image(1)).expect("an answer").status
    };
    for escaped in ["/uploa%64?wait=0", "/%75%70%6C%6f%61%64?wait=0", "/%75pload?wait=%30"] {
        assert_eq!(post(escaped, &[]), 401, "{escaped}");
        assert_eq!(post(escaped, &[("authorization", &bearer)]), 202, "{escaped}");
    }
    for closed in ["/%72esults/1", "/assets%2F..%2Fupload", "/uploa%2564", "/%2Flivez", "//livez"] {
        assert_eq!(web.get(closed).status, 401, "{closed}");
    }
    for nothing in ["/assets/../upload", "/assets/%2e%2e/upload", "/docs/%2E./upload"] {
        assert_eq!(post(nothing, &[]), 404, "{nothing}");
    }
    assert_eq!(post("/assets/%2e%2e%2fupload", &[]), 405, "it may be the name of a file of the page");
    assert_eq!(web.get("/%6Civez").status, 200);
}

#[test]
fn added_and_revoked_tokens_take_effect_without_a_restart() {
    let site = site_with_tokens();
    let first = eirs_token(&site, &["add", "first"]);
    let web = site.web();
    let second = eirs_token(&site, &["add", "second"]);
    eventually("the second one is known", || (with_token(&web, 1, &second).status == 202).then_some(()));
    eirs_token(&site, &["revoke", "first"]);
    eventually("the first one is refused", || (with_token(&web, 1, &first).status == 401).then_some(()));
    assert_eq!(with_token(&web, 1, &second).status, 202);
    let listed: serde_json::Value =
        serde_json::from_str(&eirs_token(&site, &["list", "--json"])).expect("JSON");
    assert_eq!(
        (listed["tokens"].as_array().map(Vec::len), &listed["tokens"][0]["name"]),
        (Some(1), &"second".into())
    );
    assert!(!fs::read_to_string(site.folder.path().join("tokens.json")).expect("it").contains(&second[5..]));
}

#[test]
fn a_token_expires() {
    let site = site_with_tokens();
    let token = eirs_token(&site, &["add", "brief", "--expires", "1s"]);
    let web = site.web();
    let refused = eventually("it has expired", || {
        Some(with_token(&web, 1, &token)).filter(|answer| answer.status == 401)
    });
    assert_eq!(refused.problem(), "the token `brief` has expired");
}

#[test]
fn a_broken_token_file_keeps_the_last_valid_one_in_force() {
    let site = site_with_tokens();
    let token = eirs_token(&site, &["add", "ci"]);
    let web = site.web();
    let file = site.folder.path().join("tokens.json");
    for (text, why) in [("{ half a file", "key must be a string"), ("", "EOF while parsing")] {
        fs::write(&file, text).expect("it is written");
        web.process.signal(Signal::HUP);
        eventually("it is logged", || web.process.log().contains(why).then_some(()));
        assert_eq!(with_token(&web, 1, &token).status, 202);
        assert_eq!(upload(&web, 1, &[]).status, 401);
    }
    assert!(web.process.log().contains("the last good version stays in force"), "{}", web.process.log());
    assert!(web.process.log().contains("tokens.json: is not a file of tokens"), "{}", web.process.log());
}

#[test]
fn a_token_file_that_is_broken_at_start_is_78_and_named() {
    let site = site_with_tokens();
    let ends = |arguments: &[&str]| {
        let mut process = site.start("eirs-web", arguments);
        assert_eq!(process.exit().code(), Some(78), "{}", process.log());
        process.log()
    };
    for arguments in [&["--check"][..], &[]] {
        assert!(ends(arguments).contains("web.tokens: tokens.json: cannot be read"));
    }
    fs::write(site.folder.path().join("tokens.json"), "[]").expect("it is written");
    assert!(ends(&["--check"]).contains("web.tokens: tokens.json: is not a file of tokens"));
}

/// Sends until the first refusal; returns the number of successes and the refusal.
fn passing(mut send: impl FnMut(u32) -> Answer) -> (u32, Answer) {
    let mut passed = 0;
    loop {
        let answer = send(passed);
        match answer.status {
            202 => passed += 1,
            _ => return (passed, answer),
        }
        assert!(passed < 50, "nothing is refused");
    }
}

fn assert_too_often(refused: &Answer, who: &str) {
    assert_eq!(refused.status, 429, "{refused:?}");
    // One passes every hundred seconds.
    let wait: u64 = refused.header("retry-after").expect("a time").parse().expect("seconds");
    assert!((1..=100).contains(&wait), "{refused:?}");
    assert!(refused.problem().starts_with(who), "{refused:?}");
}

#[test]
fn an_address_above_its_rate_is_refused_with_retry_after_and_others_are_served() {
    let site = Site::new()
        .set("EIRS_WEB__RATE_PER_ADDRESS", "0.01")
        .set("EIRS_WEB__RATE_BURST", "3")
        .set("EIRS_WEB__TRUSTED_PROXIES", "[\"127.0.0.0/8\"]");
    let web = site.web();
    let from = |client: &'static str| {
        let web = &web;
        move |number| upload(web, number, &[("x-forwarded-for", client)])
    };
    let (passed, refused) = passing(from("198.51.100.9, 192.0.2.1"));
    assert_eq!(passed, 3);
    assert_too_often(&refused, "your address");
    assert_eq!(from("198.51.100.8, 192.0.2.1")(1).status, 429, "the forwarded addresses do not matter");
    assert_eq!(passing(from("192.0.2.2")).0, 3);
    assert_eq!(web.get("/readyz").status, 200, "cheap requests are not counted");

    // Two of three: the request counts as one, so two further images are one too many.
    let parts: Vec<_> = (10..14).map(image).collect();
    let parts: Vec<_> = parts.iter().map(|part| ("myfile", "x", part.as_slice())).collect();
    let headers = [("content-type", "multipart/form-data; boundary=XX"), ("x-forwarded-for", "192.0.2.3")];
    let answer = request(&web.address, "POST", "/upload?wait=0", &headers, &form(&parts)).expect("an answer");
    let refused = answer.body.lines().filter(|line| line.contains("\"status\":429")).count();
    assert_eq!((answer.body.lines().count(), refused), (4, 1), "{answer:?}");
}

#[test]
fn without_a_trusted_proxy_a_client_is_its_connection() {
    let site = Site::new().set("EIRS_WEB__RATE_PER_ADDRESS", "0.01").set("EIRS_WEB__RATE_BURST", "3");
    let web = site.web();
    let claims = |number| upload(&web, number, &[("x-forwarded-for", &format!("192.0.2.{number}"))]);
    assert_eq!(passing(claims).0, 3);
}

#[test]
fn each_token_has_its_own_rate() {
    let site = site_with_tokens().set("EIRS_WEB__RATE_PER_TOKEN", "0.01").set("EIRS_WEB__RATE_BURST", "2");
    let (usual, other) = (eirs_token(&site, &["add", "usual"]), eirs_token(&site, &["add", "other"]));
    let free = eirs_token(&site, &["add", "free", "--rate", "0"]);
    let web = site.web();
    let (passed, refused) = passing(|number| with_token(&web, number, &usual));
    assert_eq!(passed, 2);
    assert_too_often(&refused, "this token");
    assert_eq!(passing(|number| with_token(&web, number, &other)).0, 2);
    assert!((0..10).all(|number| with_token(&web, number, &free).status == 202));
    // A change of the file does not reset the rates.
    let newest = eirs_token(&site, &["add", "newest"]);
    eventually("the new one is known", || (with_token(&web, 1, &newest).status == 202).then_some(()));
    assert_eq!(with_token(&web, 1, &usual).status, 429);
}

const PREFLIGHT: [(&str, &str); 3] = [
    ("origin", "https://a.example"),
    ("access-control-request-method", "POST"),
    ("access-control-request-headers", "authorization, content-type"),
];

#[test]
fn other_origins_may_read_nothing_unless_they_are_listed() {
    let site = Site::new();
    let web = site.web();
    let preflight = request(&web.address, "OPTIONS", "/upload", &PREFLIGHT, b"").expect("an answer");
    assert!(
        preflight.status >= 400 && preflight.header("access-control-allow-origin").is_none(),
        "{preflight:?}"
    );
    let served = upload(&web, 1, &[("origin", "https://a.example")]);
    assert_eq!((served.status, served.header("access-control-allow-origin")), (202, None), "{served:?}");
}

#[test]
fn listed_origins_may_read_answers_and_refusals() {
    let site = site_with_tokens().set("EIRS_WEB__CORS_ORIGINS", "[\"https://a.example\"]");
    let token = eirs_token(&site, &["add", "page"]);
    let web = site.web();
    let preflight = request(&web.address, "OPTIONS", "/upload", &PREFLIGHT, b"").expect("an answer");
    assert_eq!(
        (preflight.status, preflight.header("access-control-allow-origin")),
        (204, Some("https://a.example"))
    );
    assert!(preflight.header("access-control-allow-methods").is_some_and(|methods| methods.contains("POST")));
    assert!(
        preflight.header("access-control-allow-headers").is_some_and(|names| names.contains("authorization"))
    );
    let bearer = format!("Bearer {token}");
    for (headers, status) in [(&[("authorization", bearer.as_str())][..], 202), (&[], 401)] {
        let answer = upload(&web, 1, &[headers, &[("origin", "https://a.example")]].concat());
        assert_eq!(
            (answer.status, answer.header("access-control-allow-origin")),
            (status, Some("https://a.example"))
        );
        assert_eq!(answer.header("vary"), Some("origin"));
        let other = upload(&web, 1, &[headers, &[("origin", "https://b.example")]].concat());
        assert_eq!((other.status, other.header("access-control-allow-origin")), (status, None));
    }
}

#[test]
fn every_answer_has_security_headers() {
    let site = site_with_tokens();
    let token = eirs_token(&site, &["add", "ci"]);
    let web = site.web();
    let admin = web.admin.clone().expect("it has one");
    let bearer = [("authorization", format!("Bearer {token}"))];
    let headers = bearer.each_ref().map(|(name, value)| (*name, value.as_str()));
    for (address, method, path, headers) in [
        (&web.address, "GET", "/", &[][..]),
        (&web.address, "GET", "/readyz", &[]),
        (&web.address, "GET", "/docs", &[]),
        (&web.address, "POST", "/upload", &[]),
        (&web.address, "POST", "/upload", &headers),
        (&web.address, "PUT", "/upload", &headers),
        (&web.address, "GET", "/no/such/path", &headers),
        (&admin, "GET", "/status", &[]),
        (&admin, "GET", "/metrics", &[]),
        (&admin, "GET", "/docs", &[]),
        (&admin, "GET", "/no/such/path", &[]),
    ] {
        let answer = request(address, method, path, headers, b"").expect("an answer");
        let policy = answer.header("content-security-policy").unwrap_or_default();
        assert!(
            policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{path}: {answer:?}"
        );
        assert_eq!(policy.contains("'unsafe-inline'"), path == "/docs", "{path}: {answer:?}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}: {answer:?}");
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"), "{path}: {answer:?}");
        assert_eq!(answer.header("x-frame-options"), Some("DENY"), "{path}: {answer:?}");
        for absent in ["server", "strict-transport-security", "access-control-allow-origin"] {
            assert_eq!(answer.header(absent), None, "{path}: {answer:?}");
        }
    }
}
