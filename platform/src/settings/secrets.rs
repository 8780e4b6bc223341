//! Detects possible credentials in settings. Credentials are never settings, because a settings
//! file is read by more people and programs than its owner expects.

/// The end of every error.
const INSTEAD: &str =
    "credentials come from the SDK's own chain (instance role, profile, environment) and never from settings";

/// Returns an error for each line that may contain a credential, even in a comment. The error does
/// not repeat it.
pub(super) fn in_text(origin: &str, text: &str) -> Vec<String> {
    let suspicious = text.lines().enumerate().filter_map(|(index, line)| Some((index + 1, found_in(line)?)));
    suspicious.map(|(line, what)| format!("{origin}: line {line} holds {what}; {INSTEAD}")).collect()
}

/// Returns an error if a single value may be a credential.
pub(super) fn in_value(origin: &str, key: &str, value: &str) -> Option<String> {
    let what = found_in(&format!("{key} = {value:?}"))?;
    Some(format!("{origin}: {key} holds {what}; {INSTEAD}"))
}

fn found_in(line: &str) -> Option<&'static str> {
    let words = || line.split(|c: char| !(c.is_ascii_alphanumeric() || "/+=_-".contains(c)));
    if words().any(is_access_key_id) {
        return Some("what looks like an AWS access key id");
    }
    let (key, value) = line.trim_start_matches(['#', ' ', '\t']).split_once(['=', ':'])?;
    let (key, value) = (key.trim().trim_matches('"').to_lowercase(), value.trim().trim_matches(['"', '\'']));
    let is_secret_key = ["secret", "password", "passwd", "session_token", "private_key", "access_key"]
        .iter()
        .any(|word| key.ends_with(word) || key.contains("secret_access"));
    if is_secret_key && !value.is_empty() {
        return Some("what looks like a secret");
    }
    (looks_like_secret_access_key(value)).then_some("what looks like an AWS secret access key")
}

/// `AKIA` or `ASIA` and 16 capitals and digits (IAM user guide, "Unique identifiers").
fn is_access_key_id(word: &str) -> bool {
    let known = ["AKIA", "ASIA"].iter().any(|start| word.starts_with(start));
    known && word.len() == 20 && word.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
}

/// 40 characters of base64 that are neither a path nor a hex digest: with both cases and a digit.
fn looks_like_secret_access_key(value: &str) -> bool {
    value.len() == 40
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'/' || b == b'+')
        && value.bytes().any(|b| b.is_ascii_uppercase())
        && value.bytes().any(|b| b.is_ascii_lowercase())
        && value.bytes().any(|b| b.is_ascii_digit())
        && !value.starts_with('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    // Assembled here, so that secret scanners do not report the examples of AWS's documentation.
    fn key_id() -> String {
        ["AKIA", "IOSFODNN7", "EXAMPLE"].concat()
    }

    fn secret() -> String {
        ["wJalrXUtnFEMI/", "K7MDENG/bPxRfiCY", "EXAMPLEKEY"].concat()
    }

    #[test]
    fn keys_and_secrets_are_found_anywhere_and_are_not_repeated() {
        for (line, what) in [
            (format!("key = \"{}\"", key_id()), "access key id"),
            (format!("# formerly {}", key_id()), "access key id"),
            (format!("path = \"{}\"", secret()), "secret access key"),
            ("#aws_secret_access_key = \"x\"".to_owned(), "a secret"),
            ("password = \"hunter2\"".to_owned(), "a secret"),
        ] {
            let complaints = in_text("eirs.toml", &format!("[aws]\n{line}\n"));
            let [complaint] = complaints.as_slice() else { panic!("{line}: {complaints:?}") };
            assert!(
                complaint.starts_with("eirs.toml: line 2 holds") && complaint.contains(what),
                "{complaint}"
            );
            assert!(!complaint.contains(&key_id()) && !complaint.contains(&secret()), "{complaint}");
        }
    }

    #[test]
    fn ordinary_settings_are_not_suspected() {
        let text = "backend = \"aws\"\n[aws]\nprefix = \"eirs\"\n\
            input_bucket = \"eirs-123456789012-eu-central-1-input\"\n\
            # AKIA is how a key begins\n[models.dogs]\n\
            path = \"/usr/share/eirs/models/dogs/Model-Version-0123.onnx\"\n\
            labels = \"0123456789abcdef0123456789abcdef01234567\"\n";
        assert_eq!(in_text("eirs.toml", text), Vec::<String>::new());
        assert_eq!(in_text("default", include_str!("../../../policies/default.toml")), Vec::<String>::new());
    }
}
