//! Parses the query of a request: `?wait=`, `?model=`, `?top=`, `?name=`, `?fresh=`, `?version=`.
//! A parameter that looks like a typo is refused, because ignoring it would silently change what
//! the request does. Other unknown ones are ignored: proxies, trackers and caches add theirs.

use std::{collections::BTreeMap, num::IntErrorKind, sync::Arc, time::Duration};

use eirs_platform::settings::{Model, units};
use poem::Request;

use super::{Uploads, body::shown_name};
use crate::problem::Problem;

/// What a request with a query asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// `POST /upload`
    Upload,
    /// `GET /results/{id}`
    Result,
}

impl Call {
    const fn parameters(self) -> [&'static str; 5] {
        match self {
            Self::Upload => ["wait", "model", "top", "name", "fresh"],
            Self::Result => ["wait", "model", "top", "name", "version"],
        }
    }

    const fn other(self) -> (Self, &'static str) {
        match self {
            Self::Upload => (Self::Result, "GET /results/{id}"),
            Self::Result => (Self::Upload, "POST /upload"),
        }
    }
}

/// Refuses a query that does not do what its client means: with a typo in a name, with a parameter
/// of the other call, or with two values for one parameter.
pub(super) fn check(request: &Request, call: Call) -> Result<(), Problem> {
    let pairs: Vec<(String, String)> = request.params().unwrap_or_default();
    checked(&pairs, call).map_err(Problem::bad_request)
}

fn checked(pairs: &[(String, String)], call: Call) -> Result<(), String> {
    let (other, of_other) = call.other();
    let mut values = BTreeMap::new();
    for (name, value) in pairs {
        if call.parameters().contains(&name.as_str()) {
            if values.insert(name, value).is_some_and(|earlier| earlier != value) {
                return Err(format!("query parameter `{name}` has several values; it must have one"));
            }
        } else if other.parameters().contains(&name.as_str()) {
            return Err(format!("query parameter `{name}` must be left out; only `{of_other}` has it"));
        } else if let Some(meant) = meant(name, &call.parameters()) {
            let name = name.escape_debug();
            return Err(format!("unknown query parameter `{name}`; did you mean `{meant}`?"));
        }
    }
    Ok(())
}

/// Returns the parameter of which `name` is a misspelling: but for case, separators and the `[]` of
/// some libraries, it differs by one edit, or by two in a long name that begins alike.
fn meant<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    const LONGEST: usize = 16;
    if name.len() > LONGEST {
        return None;
    }
    let name = name.trim_end_matches("[]").replace(['-', '_'], "").to_lowercase();
    let edits = |known: &str| strsim::osa_distance(&name, known);
    let is_meant = |known: &str| {
        let begins_alike = known.len() >= 5 && name.chars().next() == known.chars().next();
        edits(known) <= if begins_alike { 2 } else { 1 }
    };
    known.iter().copied().filter(|known| is_meant(known)).min_by_key(|known| edits(known))
}

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

/// Returns a parameter of the query.
pub(super) fn query(request: &Request, name: &str) -> Option<String> {
    let pairs: Vec<(String, String)> = request.params().unwrap_or_default();
    pairs.into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(query: &str, call: Call) -> Result<(), String> {
        let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let pairs: Vec<_> = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        super::checked(&pairs, call)
    }

    #[test]
    fn typos_in_names_are_refused_with_the_name_that_was_meant() {
        for (typo, name) in [
            ("modle", "model"),
            ("models", "model"),
            ("Model", "model"),
            ("mdel", "model"),
            ("modell[]", "model"),
            ("wiat", "wait"),
            ("WAIT", "wait"),
            ("wait_", "wait"),
            ("tpo", "top"),
            ("nmae", "name"),
        ] {
            let why = format!("unknown query parameter `{typo}`; did you mean `{name}`?");
            assert_eq!(checked(&format!("a=b&{typo}=1"), Call::Upload), Err(why), "{typo}");
        }
        assert_eq!(
            checked("versoin=1", Call::Result),
            Err("unknown query parameter `versoin`; did you mean `version`?".to_owned())
        );
    }

    #[test]
    fn what_proxies_trackers_and_caches_add_is_ignored() {
        for name in [
            "utm_source",
            "utm_medium",
            "gclid",
            "fbclid",
            "_",
            "t",
            "v",
            "ts",
            "cb",
            "r",
            "rnd",
            "nocache",
            "cachebuster",
            "timestamp",
            "time",
            "date",
            "lang",
            "token",
            "access_token",
            "api_key",
            "user",
            "session",
            "code",
            "page",
            "id",
            "format",
            "size",
            "type",
            "width",
            "label",
            "source",
            "",
        ] {
            for call in [Call::Upload, Call::Result] {
                assert_eq!(checked(&format!("{name}=1&{name}=2"), call), Ok(()), "{name}");
            }
        }
    }

    #[test]
    fn a_parameter_has_one_value_and_may_repeat_it() {
        assert_eq!(checked("model=a&top=1&model=a", Call::Upload), Ok(()));
        let several =
            |name: &str| Err(format!("query parameter `{name}` has several values; it must have one"));
        assert_eq!(checked("model=a&top=1&model=b", Call::Upload), several("model"));
        assert_eq!(checked("wait=0&wait=", Call::Result), several("wait"));
    }

    #[test]
    fn a_parameter_of_the_other_call_is_refused() {
        let only = |name: &str, call: &str| {
            Err(format!("query parameter `{name}` must be left out; only `{call}` has it"))
        };
        assert_eq!(checked("fresh=1", Call::Result), only("fresh", "POST /upload"));
        assert_eq!(checked("version=x", Call::Upload), only("version", "GET /results/{id}"));
    }

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
