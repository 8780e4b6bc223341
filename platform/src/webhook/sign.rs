//! Signs what is sent, as Standard Webhooks says (standardwebhooks.com): HMAC-SHA256 over id, time
//! and body. A receiver that checks it knows who sent it, that it is whole, and that it is not an
//! old one that somebody sends again.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// What a key begins with, so that it is known for what it is.
const PREFIX: &str = "whsec_";
/// A shorter one can be guessed; a longer one is no better.
const BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// The keys in force. While one replaces another, there are two, and each message is signed with
/// both.
pub struct Keys(Vec<Hmac<Sha256>>);

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

impl Keys {
    /// Reads keys, one in a line. What is wrong is said without showing any of them.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        const SHOULD: &str =
            "each line should be a key such as `echo whsec_$(openssl rand -base64 32)` makes it";
        let text = std::str::from_utf8(text).map_err(|_| format!("is no text; {SHOULD}"))?;
        let mut keys = Vec::new();
        for (n, line) in text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty()) {
            let n = n + 1;
            let coded = line.strip_prefix(PREFIX);
            let coded = coded.ok_or_else(|| format!("line {n} does not begin with `{PREFIX}`; {SHOULD}"))?;
            let key = STANDARD.decode(coded).map_err(|_| format!("line {n} is no Base64; {SHOULD}"))?;
            if !BYTES.contains(&key.len()) {
                return Err(format!(
                    "line {n} is a key of {} bytes, and it must be 24 to 64; {SHOULD}",
                    key.len()
                ));
            }
            keys.push(Hmac::new_from_slice(&key).map_err(|error| format!("line {n}: {error}"))?);
        }
        if keys.is_empty() { Err(format!("holds no key; {SHOULD}")) } else { Ok(Self(keys)) }
    }

    /// The value of `webhook-signature`.
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let signatures = self.0.iter().map(|key| {
            let mut mac = key.clone();
            mac.update(format!("{id}.{timestamp}.").as_bytes());
            mac.update(body);
            format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
        });
        signatures.collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn it_signs_as_the_example_of_standard_webhooks_does() {
        let keys = Keys::parse(KEY.as_bytes()).unwrap();
        let signed = keys.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn with_two_keys_there_are_two_signatures() {
        let both =
            Keys::parse(format!("{KEY}\n\nwhsec_a2tra2tra2tra2tra2tra2tra2tra2tr\n").as_bytes()).unwrap();
        let one = Keys::parse(KEY.as_bytes()).unwrap();
        let signed = both.sign("msg", 1, b"body");
        assert_eq!(signed.split(' ').count(), 2);
        assert!(signed.starts_with(&one.sign("msg", 1, b"body")));
    }

    #[test]
    fn what_is_no_key_is_refused_with_its_line_and_without_showing_it() {
        for (text, said) in [
            ("", "holds no key"),
            ("secret-thing", "line 1 does not begin with `whsec_`"),
            ("\nwhsec_s*cret", "line 2 is no Base64"),
            ("whsec_c2VjcmV0", "line 1 is a key of 6 bytes"),
        ] {
            let why = Keys::parse(text.as_bytes()).unwrap_err();
            assert!(why.starts_with(said) && why.contains("openssl rand"), "{why}");
            assert!(
                !why.contains("secret-thing") && !why.contains("s*cret") && !why.contains("c2Vj"),
                "{why}"
            );
        }
    }
}
