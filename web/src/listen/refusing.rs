//! Refusals that do not come from the routes: of connections without a place, and of requests that
//! hyper refuses as invalid HTTP. hyper's own refusal has a status and no body, so it is withheld
//! (`stream.rs`), and our own is sent once hyper is done.

use std::{error::Error, io, time::Duration};

use chrono::Utc;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::server::BUFFER;
use crate::problem::Problem;

/// Maximum number of bytes read and discarded after a refusal.
const MOST: usize = 64 * 1024 * 1024;
/// The first byte of a TLS client; no HTTP request begins with it.
const TLS: u8 = 22;
/// Maximum length of a refusal by hyper, in bytes.
const LONGEST: usize = 256;

/// Finds the start of hyper's own refusal in the bytes that it sends (hyper 1.12). A refusal is the
/// last thing on a connection: a 4xx with no headers but the ones below. Every answer of the routes
/// has others.
pub(super) fn own_of_hyper(sent: &[u8]) -> Option<usize> {
    if !sent.ends_with(b"\r\n\r\n") {
        return None;
    }
    let tail = sent.len().saturating_sub(LONGEST);
    let at = tail + sent[tail..].windows(7).rposition(|window| window == b"HTTP/1.")?;
    let head = std::str::from_utf8(&sent[at..]).ok()?.strip_suffix("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let is_refusal = lines.next()?.get(8..)?.starts_with(" 4");
    let is_of_hyper = |line: &str| {
        line == "content-length: 0" || line.starts_with("connection: ") || line.starts_with("date: ")
    };
    (is_refusal && lines.all(is_of_hyper)).then_some(at)
}

/// Returns our refusal for an error of hyper, if hyper refused the request.
pub(super) fn problem_of(error: &(dyn Error + 'static), first: Option<u8>) -> Option<Problem> {
    let error = error.downcast_ref::<hyper::Error>()?;
    if !error.is_parse() {
        return None;
    }
    if first == Some(TLS) {
        return Some(Problem::bad_request("this port speaks plain HTTP; use http:// in the address"));
    }
    if error.is_parse_too_large() {
        return Some(Problem::header_too_large(BUFFER));
    }
    // hyper distinguishes these only by their text; a test has each of them.
    let what = match error.to_string().as_str() {
        "invalid HTTP version parsed" => return Some(Problem::unknown_version()),
        "URI too long" => return Some(Problem::address_too_long()),
        "invalid HTTP method parsed" => "the request does not begin with a method of HTTP, such as POST",
        "invalid URI" => "the address of the request is not a URI; escape other characters as %XX",
        "invalid HTTP header parsed" => "a header of the request is not `name: value`",
        "invalid content-length parsed" => "the Content-Length header is not one number",
        "invalid transfer-encoding parsed" => "Transfer-Encoding does not end with `chunked`",
        "unexpected transfer-encoding parsed" => "a request of HTTP/1.0 cannot have a Transfer-Encoding",
        other => return Some(Problem::bad_request(format!("the request is not HTTP: {other}"))),
    };
    Some(Problem::bad_request(what))
}

/// The refusal as sent to a client of HTTP/1; it closes the connection.
fn text(problem: &Problem) -> String {
    let status = problem.status;
    let body = serde_json::to_string(&problem.document()).expect("a problem is strings and numbers") + "\n";
    let after = problem.retry_after_s().map(|seconds| format!("retry-after: {seconds}\r\n"));
    format!(
        "HTTP/1.1 {} {}\r\ncontent-type: application/problem+json\r\n{}x-content-type-options: \
         nosniff\r\nconnection: close\r\ncontent-length: {}\r\ndate: {}\r\n\r\n{body}",
        status.as_str(),
        status.canonical_reason().unwrap_or_default(),
        after.unwrap_or_default(),
        body.len(),
        Utc::now().format("%a, %d %b %Y %H:%M:%S GMT")
    )
}

/// Sends a refusal, then reads on for at most `patience`: a client that still sends when the
/// connection is closed would see a reset instead of the refusal.
pub(super) async fn refuse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    problem: &Problem,
    patience: Duration,
) {
    let said = async {
        stream.write_all(text(problem).as_bytes()).await?;
        stream.shutdown().await?;
        let (mut rest, mut seen) = (vec![0; 4096], 0);
        while seen < MOST {
            match stream.read(&mut rest).await? {
                0 => break,
                bytes => seen += bytes,
            }
        }
        Ok::<_, io::Error>(())
    };
    let _in_time = timeout(patience, said).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hypers_own_refusal_is_found_at_the_end_of_its_bytes() {
        let own = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\
             date: Mon, 30 Nov 2026 15:00:00 GMT\r\n\r\n";
        let ok = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n";
        assert_eq!(own_of_hyper(own.as_bytes()), Some(0));
        assert_eq!(own_of_hyper(format!("{ok}{own}").as_bytes()), Some(ok.len()));
        assert_eq!(own_of_hyper(format!("{}{own}", ok.repeat(999)).as_bytes()), Some(999 * ok.len()));
        for other in [
            ok.to_owned(),
            format!("{own}{ok}"),
            own.replace("400 Bad Request", "200 OK"),
            own.replace("date: ", "x-content-type-options: nosniff\r\ndate: "),
            own.replace("length: 0", "length: 7"),
            own[..own.len() - 1].to_owned(),
            "\r\n\r\n".to_owned(),
            String::new(),
        ] {
            assert_eq!(own_of_hyper(other.as_bytes()), None, "{other:?}");
        }
    }

    #[test]
    fn a_refusal_is_a_whole_response_that_ends_the_connection() {
        let text = text(&Problem::too_many_connections("your address"));
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{head}");
        assert!(head.contains(&format!("\r\ncontent-length: {}\r\n", body.len())), "{head}");
        assert!(
            head.contains("\r\nretry-after: 1\r\n") && head.contains("\r\nconnection: close\r\n"),
            "{head}"
        );
        let document: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(document["detail"], "your address has too many connections; try again shortly");
    }
}
