//! The tokens of clients: owner, expiry and rate. The operator's tool writes the file, web reads
//! it.
//!
//! A token is 256 random bits, which can neither be guessed nor computed from their SHA-256. So the
//! file has that hash, and needs no slow one as for passwords.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt, fchown},
    path::Path,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{
    settings::is_rate,
    state_folder::{Writers, write_aside},
};

/// The version of the file.
const VERSION: u32 = 1;
/// The prefix of all tokens, by which people and secret scanners recognize them.
const PREFIX: &str = "eirs_";

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    v: u32,
    tokens: Vec<Token>,
}

/// A token, without its secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// A name for the token: its owner or purpose.
    pub name: String,
    /// The hash of the secret.
    sha256: Hash,
    /// When it was created.
    pub made: DateTime<Utc>,
    /// When it expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<DateTime<Utc>>,
    /// The maximum number of requests and images per second; without it, the setting applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
}

/// The SHA-256 of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hash([u8; 32]);

impl Default for Tokens {
    fn default() -> Self {
        Self { v: VERSION, tokens: Vec::new() }
    }
}

impl Tokens {
    /// Reads the file. An error is one sentence that names it.
    pub fn read(file: &Path) -> Result<Self, String> {
        let shown = file.display();
        let text = fs::read(file).map_err(|error| format!("{shown}: cannot be read: {error}"))?;
        Self::parse(&text).map_err(|what| format!("{shown}: {what}"))
    }

    /// Parses the content of the file.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let tokens: Self =
            serde_json::from_slice(text).map_err(|error| format!("is not a file of tokens: {error}"))?;
        if tokens.v != VERSION {
            return Err(format!("has version {}, this program knows {VERSION}", tokens.v));
        }
        for (place, token) in tokens.tokens.iter().enumerate() {
            token.check().map_err(|what| format!("`{}`: {what}", token.name))?;
            if tokens.tokens[..place].iter().any(|other| other.name == token.name) {
                return Err(format!("`{}` is listed twice", token.name));
            }
        }
        Ok(tokens)
    }

    /// Returns all tokens, in the order of their creation.
    pub fn all(&self) -> &[Token] {
        &self.tokens
    }

    /// Creates a token; returns the secret for its owner, which is not stored.
    pub fn add(
        &mut self,
        name: &str,
        made: DateTime<Utc>,
        expires: Option<DateTime<Utc>>,
        rate: Option<f64>,
    ) -> Result<String, String> {
        if let Some(other) = self.tokens.iter().find(|other| other.name == name) {
            let made = other.made.format("%Y-%m-%d");
            return Err(format!(
                "the token `{name}` exists since {made}; revoke it first, or choose another name"
            ));
        }
        let mut random = [0; 32];
        getrandom::fill(&mut random)
            .map_err(|error| format!("the system gives no random numbers: {error}"))?;
        let secret = format!("{PREFIX}{}", hex(&random));
        let token = Token { name: name.to_owned(), sha256: Hash::of(&secret), made, expires, rate };
        token.check()?;
        self.tokens.push(token);
        Ok(secret)
    }

    /// Removes a token; returns whether it existed.
    pub fn revoke(&mut self, name: &str) -> bool {
        let before = self.tokens.len();
        self.tokens.retain(|token| token.name != name);
        self.tokens.len() < before
    }

    /// Replaces the file atomically. It is readable by its owner and group, which are kept from an
    /// existing file; otherwise they are this process's user and `group`.
    pub fn write(&self, file: &Path, group: Option<u32>) -> io::Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(io::Error::other)? + "\n";
        let before = fs::metadata(file).ok();
        write_aside(file, text.as_bytes(), Writers::Several, |new| {
            let (user, group) = match &before {
                Some(before) => (Some(before.uid()), Some(before.gid())),
                None => (None, group),
            };
            fchown(new, user, group)?;
            // After changing the owner, so that the former owner cannot read it in between.
            let mode = before.as_ref().map_or(0o640, |before| before.mode() & 0o640);
            new.set_permissions(Permissions::from_mode(mode))?;
            new.sync_all()
        })
    }
}

impl Token {
    fn check(&self) -> Result<(), String> {
        if !is_token_name(&self.name) {
            return Err(format!(
                "`{}` is not a valid token name; use letters, digits and `-._@`, at most 60",
                self.name.escape_debug()
            ));
        }
        match self.rate {
            Some(rate) if !is_rate(rate) => {
                Err("its rate must be 0, or from 0.001 to 1000000 a second".into())
            }
            _ => Ok(()),
        }
    }

    /// Returns the hash of the secret.
    pub fn hash(&self) -> Hash {
        self.sha256
    }

    /// Returns whether it has expired.
    pub fn has_expired(&self, now: DateTime<Utc>) -> bool {
        self.expires.is_some_and(|end| end <= now)
    }
}

impl Hash {
    /// Hashes a secret.
    pub fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }

    /// Compares in constant time.
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> Self {
        hex(&hash.0)
    }
}

impl TryFrom<String> for Hash {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digit = |c: u8| char::from(c).to_digit(16).map(|digit| digit as u8);
        let wrong = "a SHA-256 has 64 hexadecimal digits";
        let mut bytes = [0; 32];
        if text.len() != 64 {
            return Err(wrong.into());
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = digit(pair[0]).ok_or(wrong)? << 4 | digit(pair[1]).ok_or(wrong)?;
        }
        Ok(Self(bytes))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_token_name(name: &str) -> bool {
    (1..=60).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._@".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        DateTime::UNIX_EPOCH
    }

    #[test]
    fn only_the_hash_of_a_token_is_written() {
        let mut tokens = Tokens::default();
        let secret = tokens.add("ci", now(), None, Some(2.0)).unwrap();
        assert_eq!((secret.len(), secret.starts_with("eirs_")), (5 + 64, true));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens.json");
        tokens.write(&file, None).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert!(!text.contains(&secret[5..]), "{text}");
        let read = Tokens::read(&file).unwrap();
        assert_eq!(read, tokens);
        assert!(read.all()[0].hash().is(&Hash::of(&secret)));
        assert!(!read.all()[0].hash().is(&Hash::of(&secret[1..])));
        let other = Tokens::default().add("ci", now(), None, None).unwrap();
        assert_ne!(other, secret);
    }

    #[test]
    fn the_file_is_readable_by_owner_and_group_at_most_and_stays_as_restricted() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens.json");
        let mode = || fs::metadata(&file).unwrap().mode() & 0o777;
        Tokens::default().write(&file, None).unwrap();
        assert_eq!(mode(), 0o640);
        for (made, kept) in [(0o600, 0o600), (0o666, 0o640)] {
            fs::set_permissions(&file, Permissions::from_mode(made)).unwrap();
            Tokens::default().write(&file, None).unwrap();
            assert_eq!(mode(), kept);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        assert!(Tokens::default().write(&folder.path().join("none/tokens.json"), None).is_err());
    }

    #[test]
    fn names_are_unique_and_can_be_reused_after_a_revocation() {
        let mut tokens = Tokens::default();
        tokens.add("ci", now(), None, None).unwrap();
        let refused = tokens.add("ci", now(), None, None).unwrap_err();
        assert_eq!(
            refused,
            "the token `ci` exists since 1970-01-01; revoke it first, or choose another name"
        );
        assert!(tokens.revoke("ci") && !tokens.revoke("ci"));
        tokens.add("ci", now(), None, None).unwrap();
        for wrong in ["", "a b", "a/b", "a\n", &"x".repeat(61)] {
            assert!(tokens.add(wrong, now(), None, None).unwrap_err().contains("is not a valid token name"));
        }
        assert!(tokens.add("fast", now(), None, Some(-1.0)).unwrap_err().contains("its rate"));
        assert_eq!(tokens.all().len(), 1);
    }

    #[test]
    fn a_token_is_valid_until_it_expires() {
        let mut tokens = Tokens::default();
        let end = now() + chrono::Duration::hours(1);
        tokens.add("ci", now(), Some(end), None).unwrap();
        let token = &tokens.all()[0];
        assert!(!token.has_expired(end - chrono::Duration::seconds(1)) && token.has_expired(end));
    }

    #[test]
    fn an_invalid_file_is_refused_with_a_sentence() {
        let entry = |name: &str, hash: &str| {
            format!("{{\"name\":\"{name}\",\"sha256\":\"{hash}\",\"made\":\"2026-01-01T00:00:00Z\"}}")
        };
        let file = |entries: &[String]| format!("{{\"v\":1,\"tokens\":[{}]}}", entries.join(","));
        let good = entry("a", &"0".repeat(64));
        assert!(Tokens::parse(file(std::slice::from_ref(&good)).as_bytes()).is_ok());
        for (text, hint) in [
            (String::new(), "EOF"),
            (file(&[good.clone(), good.clone()]), "`a` is listed twice"),
            (file(&[entry("a", "12")]), "64 hexadecimal digits"),
            (file(&[entry("a", &"+0".repeat(32))]), "64 hexadecimal digits"),
            (file(&[entry("a b", &"0".repeat(64))]), "is not a valid token name"),
            ("{\"v\":2,\"tokens\":[]}".into(), "has version 2"),
            ("{\"v\":1,\"tokens\":[],\"more\":1}".into(), "unknown field"),
        ] {
            let error = Tokens::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(hint), "{hint}: {error}");
        }
        let missing = Tokens::read(Path::new("/nowhere/tokens.json")).unwrap_err();
        assert!(missing.starts_with("/nowhere/tokens.json: cannot be read"), "{missing}");
    }
}
