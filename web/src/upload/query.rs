//! Parses the query of a request: `?wait=`, `?model=`, `?top=`, `?name=`, `?fresh=`.

use std::{num::IntErrorKind, sync::Arc, time::Duration};

use eirs_platform::settings::{Model, units};
use poem::Request;

use super::{Uploads, body::shown_name};
use crate::problem::Problem;

/// Returns `?wait=`, at most `longest`, or `default` if it is missing.
pub(super) fn wait(request: &Request, default: Duration, longest: Duration) -> Result<Duration, Problem> {
    let Some(text) = query(request, "wait") else { return Ok(default) };
    let wait = wait_of(&text).map_err(|why| Problem::bad_request(format!("wait: {why}")))?;
    Ok(wait.min(longest))
}

/// Returns the name that the client gives the image (`?name=`).
pub(super) fn named(request: &Request) -> String {
    shown_name(query(request, "name").as_deref())
}

/// Returns `?model=` and `?top=`, which uploads and results share.
pub(super) fn model_and_top(request: &Request, uploads: &Uploads) -> Result<(Arc<str>, usize), Problem> {
    let name = query(request, "model").unwrap_or_else(|| Model::DEFAULT.to_owned());
    let Some((model, _)) = uploads.jobs.model(&name) else {
        let known: Vec<_> = uploads.jobs.models().collect();
        let detail = format!("unknown model `{}`; the models are {}", name.escape_debug(), known.join(", "));
        return Err(Problem::not_found(detail));
    };
    let top = query(request, "top").map_or(Some(usize::MAX), |text| top_of(&text));
    match top {
        Some(top) => Ok((model, top)),
        None => Err(Problem::bad_request("top: must be a number from 1, like `?top=3`")),
    }
}

/// Parses a switch; one without a value is on.
pub(super) fn switch(text: &str) -> Option<bool> {
    match text {
        "" | "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

/// Parses a number of guesses. A number beyond `usize` means all of them.
fn top_of(text: &str) -> Option<usize> {
    match text.parse() {
        Ok(top) => Some(top).filter(|top| *top >= 1),
        Err(error) => (*error.kind() == IntErrorKind::PosOverflow).then_some(usize::MAX),
    }
}

/// Parses a duration such as `60s` or `1m`; a bare number is seconds, as in `Retry-After`.
fn wait_of(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).or_else(|_| units::duration::parse(text))
}

/// Returns a parameter of the query; the first one if there are several.
pub(super) fn query(request: &Request, name: &str) -> Option<String> {
    let pairs: Vec<(String, String)> = request.params().unwrap_or_default();
    pairs.into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_durations_or_seconds() {
        assert_eq!(wait_of("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(wait_of("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(wait_of("0"), Ok(Duration::ZERO));
        assert_eq!(wait_of("5"), Ok(Duration::from_secs(5)));
        assert!(wait_of("-1").is_err() && wait_of("soon").is_err() && wait_of("").is_err());
    }

    #[test]
    fn a_number_of_guesses_is_at_least_one_and_may_be_of_any_size() {
        assert_eq!((top_of("1"), top_of("3")), (Some(1), Some(3)));
        assert_eq!(top_of("726328847470390673408"), Some(usize::MAX));
        for text in ["0", "-1", "2.5", "", "many", "-726328847470390673408"] {
            assert_eq!(top_of(text), None, "{text}");
        }
    }
}
