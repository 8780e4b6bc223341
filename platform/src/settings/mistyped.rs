//! Suggestions for unknown names.

use config::{Config, ConfigError};

use super::{Model, Settings, load::sentence};

/// Returns the most similar word, if one is similar enough.
pub fn nearest<'w>(text: &str, words: &[&'w str]) -> Option<&'w str> {
    let likeness = |word: &str| strsim::jaro(text, word);
    let nearest = words.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    if likeness(nearest) > 0.7 {
        return Some(nearest);
    }
    // Short words score low even for one typo, such as `p59` for `p95`.
    let is_slip = |word: &&str| word.len() > 2 && strsim::osa_distance(text, word) == 1;
    words.iter().copied().find(is_slip)
}

/// Converts an error about an unknown key into one with a suggestion; `None` if `error` is a
/// different error.
pub(super) fn unknown_key(key: &str, error: &str) -> Option<String> {
    let (unknown, known) = unknown_field(error)?;
    let parts: Vec<_> = key.split('.').collect();
    // The parts before the unknown one are right, those after it were not checked.
    let place = parts.iter().rposition(|part| *part == unknown)?;
    let whole = |name: &str| [&parts[..place], &[name]].concat().join(".");
    let elsewhere = if place + 1 == parts.len() { homes(unknown) } else { Vec::new() };
    let hint = match (elsewhere.as_slice(), nearest(unknown, &known)) {
        ([_, ..], _) => {
            let homes: Vec<_> = elsewhere.iter().map(|home| format!("`{home}`")).collect();
            format!("did you mean {}?", homes.join(" or "))
        }
        ([], Some(nearest)) => {
            let rest = parts[place + 1..].iter().map(|part| format!(".{part}")).collect::<String>();
            format!("did you mean `{}{rest}`?", whole(nearest))
        }
        ([], None) => {
            format!("the known ones are {}", known.iter().copied().map(whole).collect::<Vec<_>>().join(", "))
        }
    };
    Some(format!("unknown key `{key}`; {hint}"))
}

/// Returns the keys with this name in any section.
fn homes(name: &str) -> Vec<String> {
    let mut homes = known_keys();
    homes.retain(|key| key.rsplit('.').next() == Some(name));
    homes
}

/// Returns all keys, with `default` as the name of the model. Found by asking the settings: the
/// error for an unknown name lists the known ones.
pub(super) fn known_keys() -> Vec<String> {
    const UNKNOWN: &str = "no-such-key";
    let below = |section: &str| -> Option<Vec<String>> {
        let probe = if section.is_empty() { UNKNOWN.to_owned() } else { format!("{section}.{UNKNOWN}") };
        let refusal = attempt(&probe)?;
        let (_, names) = unknown_field(&refusal)?;
        Some(names.into_iter().map(|name| format!("{section}.{name}").trim_matches('.').to_owned()).collect())
    };
    let (mut keys, mut waiting) = (Vec::new(), vec![String::new()]);
    while let Some(place) = waiting.pop() {
        let named = format!("{place}.{}", Model::DEFAULT);
        match below(&place).or_else(|| below(&named)) {
            Some(inner) => waiting.extend(inner),
            None => keys.push(place),
        }
    }
    keys.sort();
    keys
}

/// Returns the error for a key, if there is one.
fn attempt(key: &str) -> Option<String> {
    let built = Config::builder().set_override(key, true).and_then(|builder| builder.build());
    let tried: Result<Settings, ConfigError> = built.and_then(Config::try_deserialize);
    tried.err().map(|error| sentence(&error))
}

/// Parses serde's error for an unknown field: the field, and the known ones.
fn unknown_field(error: &str) -> Option<(&str, Vec<&str>)> {
    let (unknown, known) = error.strip_prefix("unknown field `")?.split_once("`, expected")?;
    Some((unknown, known.split('`').skip(1).step_by(2).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_keys_include_every_section() {
        let keys = known_keys();
        for key in
            ["backend", "controller.tick", "web.tls.certificate", "models.default.labels", "queue.visibility"]
        {
            assert!(keys.iter().any(|known| known == key), "{key}: {keys:#?}");
        }
        assert!(keys.iter().all(|key| !key.is_empty()));
    }

    #[test]
    fn typos_are_recognized_in_short_and_long_words() {
        for (typed, words, meant) in [
            ("p59", &["kind", "p95"][..], Some("p95")),
            ("visibilty", &["visibility", "max"], Some("visibility")),
            ("mni", &["max", "min"], Some("min")),
            ("zzz", &["max", "min"], None),
        ] {
            assert_eq!(nearest(typed, words), meant, "{typed}");
        }
    }
}
