//! Decides which environment variables are settings. EIRS does not own the prefix `EIRS_`: with a
//! Kubernetes service or a linked container called `eirs` or `eirs-web`, every container has
//! variables such as `EIRS_PORT` and `EIRS_WEB_SERVICE_HOST`. These must not keep a program from
//! starting.

use super::mistyped::known_keys;

/// The prefix of all settings.
const PREFIX: &str = "EIRS_";
/// Variables of EIRS that are no settings: the settings file, and the token of `eirs load`.
const OTHERS_OF_OURS: [&str; 2] = ["EIRS_CONFIG", "EIRS_TOKEN"];
/// Maximum edit distance from a setting for which a name counts as a typo.
const SLIP: usize = 2;

/// The kind of an environment variable.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Variable {
    /// A setting, or an attempt at one: its key is checked like that of a file.
    Setting(String),
    /// Not a setting, although it begins like one. It is ignored, and this sentence says so.
    Stray(String),
    /// Unrelated to EIRS.
    Foreign,
}

/// Classifies a variable by its name, and links also by their value.
pub(super) fn judge(name: &str, value: &str) -> Variable {
    let Some(rest) = name.strip_prefix(PREFIX).filter(|_| !OTHERS_OF_OURS.contains(&name)) else {
        return Variable::Foreign;
    };
    let key = rest.replace("__", ".").to_lowercase();
    let is_dotted = key.contains('.');
    if !is_dotted && known_keys().contains(&key) {
        return Variable::Setting(key);
    }
    // No setting has a name of this form, which a test checks.
    if is_link(rest, value) {
        return Variable::Foreign;
    }
    if is_dotted {
        return Variable::Setting(key);
    }
    let hint = match meant(rest).as_slice() {
        [] => "settings look like EIRS_WEB__LISTEN, with two underscores after the section".to_owned(),
        names => format!("did you mean {}?", names.join(" or ")),
    };
    Variable::Stray(format!("{name} is not a setting and is ignored; {hint}"))
}

/// Returns whether Kubernetes or Docker created the variable for a service or container whose name
/// begins with `eirs`. The rest of its name, if any, precedes these words.
///
/// Kubernetes (`envvars.FromServices`): `_SERVICE_HOST`, `_SERVICE_PORT`,
/// `_SERVICE_PORT_<NAME OF THE PORT>`, `_PORT` (with an address), `_PORT_<N>_<TCP|UDP|SCTP>` and
/// the same with `_PROTO`, `_PORT` and `_ADDR`. Docker's links: the last three kinds, `_NAME` (with
/// a path) and `_ENV_<A VARIABLE OF THE OTHER CONTAINER>`.
fn is_link(rest: &str, value: &str) -> bool {
    let words: Vec<_> = rest.split('_').collect();
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let is_port = |three: &[&str]| {
        three[0] == "PORT" && is_number(three[1]) && matches!(three[2], "TCP" | "UDP" | "SCTP")
    };
    words.windows(3).any(is_port)
        || words.windows(2).any(|two| two == ["SERVICE", "PORT"])
        || words.ends_with(&["SERVICE", "HOST"])
        || (words.ends_with(&["PORT"]) && value.contains("://"))
        || (words.ends_with(&["NAME"]) && value.starts_with('/'))
        || words[..words.len() - 1].contains(&"ENV")
}

/// Returns the variable of a setting.
fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_uppercase())
}

/// Returns the settings that were probably meant by a name without a section.
fn meant(rest: &str) -> Vec<String> {
    let rest = rest.to_lowercase();
    let known = known_keys();
    // `EIRS_MODELS_DOGS_PATH`: any model's name is possible.
    let of_model = known.iter().filter_map(|key| {
        let field = key.strip_prefix("models.default.")?;
        let name =
            rest.strip_prefix("models_")?.strip_suffix(&format!("_{}", with_single_underscores(field)))?;
        Some(format!("models.{name}.{field}"))
    });
    let exactly = known.iter().filter(|key| with_single_underscores(key) == rest).cloned();
    let found: Vec<_> = of_model.max_by_key(String::len).into_iter().chain(exactly).collect();
    if !found.is_empty() {
        return variables(found);
    }
    // The section is missing: `EIRS_MAX_UPLOADS`.
    let is_home =
        |key: &&String| !key.starts_with("models.") && key.rsplit('.').next() == Some(rest.as_str());
    let found: Vec<_> = known.iter().filter(is_home).cloned().collect();
    if !found.is_empty() {
        return variables(found);
    }
    let far = |key: &String| strsim::osa_distance(&with_single_underscores(key), &rest);
    let nearest = known.into_iter().min_by_key(far);
    variables(nearest.filter(|key| far(key) <= SLIP && rest.len() > 2 * SLIP).into_iter().collect())
}

/// A key with single underscores only.
fn with_single_underscores(key: &str) -> String {
    key.replace('.', "_")
}

fn variables(mut keys: Vec<String>) -> Vec<String> {
    keys.dedup();
    keys.iter().map(|key| variable(key)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignored_with(name: &str, hint: &str) {
        let judged = judge(name, "x");
        let Variable::Stray(sentence) = &judged else { panic!("{name}: {judged:?}") };
        assert!(sentence.starts_with(&format!("{name} is not a setting and is ignored; ")), "{sentence}");
        assert!(sentence.ends_with(hint), "{sentence}");
    }

    #[test]
    fn links_to_services_and_containers_are_foreign() {
        for (name, value) in [
            ("EIRS_SERVICE_HOST", "10.96.12.34"),
            ("EIRS_SERVICE_PORT", "8000"),
            ("EIRS_SERVICE_PORT_HTTP_ADMIN", "8001"),
            ("EIRS_PORT", "tcp://10.96.12.34:8000"),
            ("EIRS_PORT_8000_TCP", "tcp://10.96.12.34:8000"),
            ("EIRS_PORT_8000_TCP_ADDR", "10.96.12.34"),
            ("EIRS_PORT_53_UDP_PROTO", "udp"),
            ("EIRS_NAME", "/web/eirs"),
            ("EIRS_ENV_EIRS_WEB__LISTEN", "0.0.0.0:80"),
            ("EIRS_WEB_SERVICE_HOST", "10.96.12.35"),
            ("EIRS_WEB_PORT", "tcp://10.96.12.35:80"),
            ("EIRS_WEB_PORT_80_TCP_PORT", "80"),
            ("EIRS_WEB_ENV_PATH", "/bin"),
            // Of a service called `eirs-web--1`.
            ("EIRS_WEB__1_SERVICE_HOST", "10.96.12.36"),
            ("EIRS_WEB__1_PORT_80_TCP", "tcp://10.96.12.36:80"),
            ("EIRS_TOKEN", "secret"),
            ("EIRS_CONFIG", "/etc/eirs/eirs.toml"),
            ("PATH", "/bin"),
            ("EIRSX_WEB", "x"),
        ] {
            assert_eq!(judge(name, value), Variable::Foreign, "{name}");
        }
    }

    #[test]
    fn no_setting_is_taken_for_a_link() {
        for key in known_keys() {
            let name = variable(&key);
            for value in ["tcp://10.96.12.34:80", "/a/path", "80"] {
                assert_eq!(judge(&name, value), Variable::Setting(key.clone()), "{name}={value}");
            }
        }
    }

    #[test]
    fn a_mistyped_name_in_the_form_of_a_setting_is_one() {
        assert_eq!(judge("EIRS_WEB__LISTN", "x"), Variable::Setting("web.listn".into()));
        assert_eq!(judge("EIRS_TELEMTRY__FILTER", "x"), Variable::Setting("telemtry.filter".into()));
        assert_eq!(judge("EIRS_BACKEND", "aws"), Variable::Setting("backend".into()));
    }

    #[test]
    fn a_setting_written_with_one_underscore_is_ignored_with_the_right_spelling() {
        ignored_with("EIRS_WEB_LISTEN", "did you mean EIRS_WEB__LISTEN?");
        ignored_with("EIRS_WEB_LISTN", "did you mean EIRS_WEB__LISTEN?");
        ignored_with("EIRS_WEB_TLS_CERTIFICATE", "did you mean EIRS_WEB__TLS__CERTIFICATE?");
        ignored_with("EIRS_CONTROLLER_INSTANCE_LIMIT", "did you mean EIRS_CONTROLLER__INSTANCE_LIMIT?");
        ignored_with("EIRS_MODELS_BIG_DOGS_PATH", "did you mean EIRS_MODELS__BIG_DOGS__PATH?");
        ignored_with("EIRS_MAX_UPLOADS", "did you mean EIRS_WEB__MAX_UPLOADS?");
        ignored_with("EIRS_THREADS", "did you mean EIRS_WEB__THREADS or EIRS_WORKER__THREADS?");
        ignored_with("EIRS_BACKND", "did you mean EIRS_BACKEND?");
    }

    #[test]
    fn a_name_that_resembles_no_setting_is_ignored_with_an_example() {
        for name in ["EIRS_VERSION", "EIRS_PORT", "EIRS_WEB", "EIRS_IMAGE_TAG", "EIRS_"] {
            ignored_with(name, "with two underscores after the section");
        }
    }
}
