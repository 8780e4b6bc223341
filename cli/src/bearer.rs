//! The token that a command sends to a service.

use std::{fs, path::Path};

use anyhow::Context;
use hyper::header::HeaderValue;

/// The variable with the token, unless a file contains it.
const VARIABLE: &str = "EIRS_TOKEN";

/// Returns the header `Authorization` with the token of `file`, or else of `$EIRS_TOKEN`; none if
/// there is neither. There is no flag for the token itself, because other users can see the
/// arguments of a process.
///
/// # Errors
/// If the file cannot be read, or what is there cannot be a token.
pub fn header(file: Option<&Path>) -> anyhow::Result<Option<HeaderValue>> {
    let (text, from) = match file {
        Some(file) => {
            let text = fs::read_to_string(file);
            let from = file.display().to_string();
            (text.with_context(|| format!("--token-file {from}: cannot be read"))?, from)
        }
        None => match std::env::var(VARIABLE) {
            Ok(text) => (text, format!("${VARIABLE}")),
            Err(_not_set) => return Ok(None),
        },
    };
    let token = text.trim();
    anyhow::ensure!(!token.is_empty(), "{from}: contains no token");
    let mut header = HeaderValue::from_str(&format!("Bearer {token}"))
        .ok()
        .with_context(|| format!("{from}: its content cannot be sent as a header"))?;
    header.set_sensitive(true);
    Ok(Some(header))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_from_a_file_without_its_line_end_and_is_not_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, "s3cret\n").unwrap();
        let token = header(Some(file.path())).unwrap().unwrap();
        assert_eq!(token, "Bearer s3cret");
        assert!(!format!("{token:?}").contains("s3cret"));
        fs::write(&file, "\n").unwrap();
        let said = header(Some(file.path())).unwrap_err().to_string();
        assert!(said.ends_with("contains no token"), "{said}");
    }
}
