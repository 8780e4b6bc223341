//! Signs requests as specified by Standard Webhooks (standardwebhooks.com): HMAC-SHA256 over id,
//! time and body. A receiver can verify the sender and the content, and refuse replays.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The prefix of a key, by which it is recognized.
const PREFIX: &str = "whsec_";
/// Permitted lengths of a key in bytes: shorter ones can be guessed, longer ones are no better.
const BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// The keys in force. During a rotation there are two, and each message is signed with both.
pub struct Keys(Vec<Hmac<Sha256>>);

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

impl Keys {
    /// Reads keys, one per line. Errors do not contain any key.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        const SHOULD: &str = "each line must be a key as made by `echo whsec_$(openssl rand -base64 32)`";
        let text = std::str::from_utf8(text).map_err(|_| format!("is not text; {SHOULD}"))?;
        let mut keys = Vec::new();
        for (n, line) in text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty()) {
            let n = n + 1;
            let coded = line.strip_prefix(PREFIX);
            let coded = coded.ok_or_else(|| format!("line {n} does not begin with `{PREFIX}`; {SHOULD}"))?;
            let key = STANDARD.decode(coded).map_err(|_| format!("line {n} is not Base64; {SHOULD}"))?;
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

    /// Returns the value of `webhook-signature`.
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
    fn the_example_of_standard_webhooks_is_reproduced() {
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
    fn an_invalid_key_is_refused_with_its_line_but_not_shown() {
        for (text, said) in [
            ("", "holds no key"),
            ("secret-thing", "line 1 does not begin with `whsec_`"),
            ("\nwhsec_s*cret", "line 2 is not Base64"),
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
