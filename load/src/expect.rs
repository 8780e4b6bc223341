//! Recognises a good response and finds its label, for EIRS and for other services.

use std::str::FromStr;

use hyper::header;
use regex::Regex;

use crate::{failure::Failure, http::Answer};

/// The form of a good response.
#[derive(Debug, Clone, Default)]
pub enum Expect {
    /// Status 200, with the label as plain text, or a result in JSON.
    #[default]
    Eirs,
    /// JSON with the label at this pointer (RFC 6901).
    Pointer(String),
    /// Text that matches; the label is the first group, or else the whole match.
    Match(Regex),
}

impl FromStr for Expect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            return Ok(Self::Pointer(text.to_owned()));
        }
        let regex = Regex::new(text);
        regex
            .map(Self::Match)
            .map_err(|error| format!("`{text}` is neither a JSON pointer nor a pattern: {error}"))
    }
}

impl Expect {
    /// Returns whether a response with this status may have a label.
    pub(crate) fn wants(&self, status: u16) -> bool {
        match self {
            Self::Eirs => status == 200,
            Self::Pointer(_) | Self::Match(_) => (200..300).contains(&status),
        }
    }

    /// Returns the label in a response.
    pub(crate) fn label(&self, answer: &Answer) -> Result<String, Failure> {
        match self {
            Self::Eirs => eirs(answer).ok_or_else(|| Failure::NoLabel(answer.detail())),
            Self::Pointer(place) => {
                let label = answer.json().pointer(place).and_then(|value| match value {
                    serde_json::Value::String(text) => Some(text.clone()),
                    serde_json::Value::Number(_) | serde_json::Value::Bool(_) => Some(value.to_string()),
                    _ => None,
                });
                label.ok_or_else(|| Failure::Unexpected(format!("nothing at {place}: {}", answer.detail())))
            }
            Self::Match(regex) => {
                let text = String::from_utf8_lossy(&answer.body);
                let label = regex.captures(&text).and_then(|found| found.get(1).or_else(|| found.get(0)));
                let label = label.map(|label| label.as_str().trim().to_owned());
                label
                    .ok_or_else(|| Failure::Unexpected(format!("no match of `{regex}`: {}", answer.detail())))
            }
        }
    }
}

fn eirs(answer: &Answer) -> Option<String> {
    let is_json =
        answer.header(header::CONTENT_TYPE).is_some_and(|kind| kind.starts_with("application/json"));
    if is_json {
        return answer.json().get("label")?.as_str().map(str::to_owned);
    }
    let text = std::str::from_utf8(&answer.body).map(str::trim).unwrap_or_default();
    let is_label = !text.is_empty() && text.lines().nth(1).is_none() && !text.starts_with('<');
    is_label.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hyper::{HeaderMap, StatusCode};

    use super::*;

    #[track_caller]
    fn check(expect: &str, body: &str, expected: Result<&str, &str>) {
        let expect: Expect = expect.parse().unwrap();
        let body = Bytes::copy_from_slice(body.as_bytes());
        let answer = Answer { status: StatusCode::OK, headers: HeaderMap::new(), body };
        let found = expect.label(&answer).map_err(|failure| failure.to_string());
        assert_eq!(found.as_deref().map_err(String::as_str), expected);
    }

    #[test]
    fn a_pointer_finds_the_label_in_json() {
        let body = r#"{"predictions":[{"class":"cat","id":281}]}"#;
        check("/predictions/0/class", body, Ok("cat"));
        check("/predictions/0/id", body, Ok("281"));
        check(
            "/predictions/1/class",
            "{}",
            Err("not what was expected: nothing at /predictions/1/class: {}"),
        );
        check("/label", "oops", Err("not what was expected: nothing at /label: oops"));
    }

    #[test]
    fn a_pattern_finds_its_first_group_or_the_whole_match() {
        check("cat|dog", "it is a cat!", Ok("cat"));
        check(r"class=(\w+)", "id=3 class=dog", Ok("dog"));
        check("(?s)^OK(.*)$", "OK \n", Ok(""));
        check("^cat$", "dog", Err("not what was expected: no match of `^cat$`: dog"));
    }

    #[test]
    fn other_services_may_respond_201_but_eirs_may_not() {
        assert!(Expect::Eirs.wants(200) && !Expect::Eirs.wants(201));
        let other: Expect = "/label".parse().unwrap();
        assert!(other.wants(201) && !other.wants(302));
    }

    #[test]
    fn an_invalid_pattern_is_refused() {
        assert!(
            "(".parse::<Expect>().unwrap_err().starts_with("`(` is neither a JSON pointer nor a pattern: ")
        );
    }
}
