//! What was probably meant by a name that nobody knows.

use config::{Config, ConfigError};

use super::{Model, Settings, load::sentence};

/// The word that was probably meant.
pub fn nearest<'w>(text: &str, words: &[&'w str]) -> Option<&'w str> {
    let likeness = |word: &str| strsim::jaro(text, word);
    let nearest = words.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    if likeness(nearest) > 0.7 {
        return Some(nearest);
    }
    // Short words have little in common with what they were mistyped as: `p59` is one slip away
    // from `p95`.
    let is_slip = |word: &&str| word.len() > 2 && strsim::osa_distance(text, word) == 1;
    words.iter().copied().find(is_slip)
}

/// The complaint about a key of the settings that nobody knows, with the one that was probably
/// meant; `None` where another thing is wrong. `told` is the output of the attempt.
pub(super) fn unknown_key(key: &str, told: &str) -> Option<String> {
    let (unknown, known) = unknown_field(told)?;
    let parts: Vec<_> = key.split('.').collect();
    // What stands before the unknown part is right, and what stands behind it was not looked at.
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

/// The keys that are called so in any section.
fn homes(name: &str) -> Vec<String> {
    let mut homes = known_keys();
    homes.retain(|key| key.rsplit('.').next() == Some(name));
    homes
}

/// Every key there is; those of models, with the name of the one that there always is. The settings
/// themselves are asked: the error about an unknown name lists the known ones.
pub(super) fn known_keys() -> Vec<String> {
    const NOBODY: &str = "nobody-knows-it";
    let below = |section: &str| -> Option<Vec<String>> {
        let probe = if section.is_empty() { NOBODY.to_owned() } else { format!("{section}.{NOBODY}") };
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

/// What is said against a key.
fn attempt(key: &str) -> Option<String> {
    let built = Config::builder().set_override(key, true).and_then(|builder| builder.build());
    let tried: Result<Settings, ConfigError> = built.and_then(Config::try_deserialize);
    tried.err().map(|error| sentence(&error))
}

/// The field that serde refused, and those that it would have taken.
fn unknown_field(told: &str) -> Option<(&str, Vec<&str>)> {
    let (unknown, known) = told.strip_prefix("unknown field `")?.split_once("`, expected")?;
    Some((unknown, known.split('`').skip(1).step_by(2).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_is_asked_for_its_keys() {
        let keys = known_keys();
        for key in
            ["backend", "controller.tick", "web.tls.certificate", "models.default.labels", "queue.visibility"]
        {
            assert!(keys.iter().any(|known| known == key), "{key}: {keys:#?}");
        }
        assert!(keys.iter().all(|key| !key.is_empty()));
    }

    #[test]
    fn a_slip_is_recognized_in_short_words_and_in_long_ones() {
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
