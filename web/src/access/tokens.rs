//! Authenticates clients by their token. The file is read again when it changes, so a revocation
//! takes effect within two or three seconds.

use std::{path::Path, sync::Arc};

use chrono::{DateTime, Utc};
use eirs_platform::{
    settings::Web,
    tokens::{Hash, Token, Tokens},
};
use poem::http::{HeaderMap, header};

use super::limits::Meter;
use crate::{
    problem::Problem,
    renewal::{Renewal, Watched},
};

/// The tokens in force.
#[derive(Debug)]
pub(super) struct Keyring {
    holders: Watched<Holders>,
}

type Holders = Vec<Arc<Holder>>;

/// A token and its rate counter.
#[derive(Debug)]
pub(super) struct Holder {
    token: Token,
    pub(super) meter: Option<Meter>,
}

impl Holder {
    pub(super) fn name(&self) -> &str {
        &self.token.name
    }
}

impl Keyring {
    pub(super) fn open(file: &Path, settings: &Web) -> Result<Self, String> {
        let (rate, burst) = (settings.rate_per_token, settings.rate_burst);
        let shown = file.display().to_string();
        let read = move |before: Option<&Holders>, files: &[Vec<u8>]| {
            let text = files.first().map(Vec::as_slice).unwrap_or_default();
            let tokens = Tokens::parse(text).map_err(|what| format!("{shown}: {what}"))?;
            Ok(holders(&tokens, before, rate, burst))
        };
        Ok(Self { holders: Watched::open("web.tokens", &[file], read)? })
    }

    pub(super) fn renewal(&self) -> Box<dyn Renewal> {
        self.holders.renewal()
    }

    /// Returns the holder of the token in the request, or the refusal.
    pub(super) fn holder(&self, headers: &HeaderMap, now: DateTime<Utc>) -> Result<Arc<Holder>, Problem> {
        let secret = secret(headers).ok_or_else(Problem::no_token)?;
        let shown = Hash::of(secret);
        let holders = self.holders.get();
        // Compare all of them, each in constant time, so that the time taken reveals nothing.
        let found = holders
            .iter()
            .fold(None, |found, holder| if holder.token.hash().is(&shown) { Some(holder) } else { found });
        let holder = found.ok_or_else(|| Problem::wrong_token("unknown or revoked token"))?;
        if holder.token.has_expired(now) {
            return Err(Problem::wrong_token(format!("the token `{}` has expired", holder.token.name)));
        }
        Ok(holder.clone())
    }
}

/// The credentials after `Bearer`; the scheme is case-insensitive.
fn secret(headers: &HeaderMap) -> Option<&str> {
    let (scheme, secret) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
}

/// Builds the holders. An unchanged token keeps its counter, so that a change of the file does not
/// reset the limits of others.
fn holders(tokens: &Tokens, before: Option<&Holders>, rate: f64, burst: u32) -> Holders {
    let known =
        |token: &Token| before.and_then(|all| all.iter().find(|holder| holder.token == *token)).cloned();
    let new = |token: &Token| {
        let meter = Meter::new(token.rate.unwrap_or(rate), burst);
        Arc::new(Holder { token: token.clone(), meter })
    };
    tokens.all().iter().map(|token| known(token).unwrap_or_else(|| new(token))).collect()
}

#[cfg(test)]
mod tests {
    use poem::http::HeaderValue;

    use super::*;

    fn now() -> DateTime<Utc> {
        DateTime::UNIX_EPOCH
    }

    fn keyring(tokens: &Tokens) -> Keyring {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens.json");
        tokens.write(&file, None).unwrap();
        Keyring::open(&file, &Web::default()).unwrap()
    }

    fn shown(text: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_str(text).unwrap())])
    }

    #[test]
    fn a_client_is_known_by_its_token_and_by_nothing_else() {
        let mut tokens = Tokens::default();
        let (a, b) =
            (tokens.add("a", now(), None, None).unwrap(), tokens.add("b", now(), None, None).unwrap());
        let keyring = keyring(&tokens);
        let name = |text: &str| keyring.holder(&shown(text), now()).map(|holder| holder.token.name.clone());
        assert_eq!(name(&format!("Bearer {a}")).unwrap(), "a");
        assert_eq!(name(&format!("bearer   {b} ")).unwrap(), "b");
        for wrong in [
            a.clone(),
            format!("Basic {a}"),
            "Bearer".into(),
            "Bearer ".into(),
            format!("Bearer {a}{b}"),
            format!("Bearer {}", &a[..68]),
        ] {
            assert!(name(&wrong).is_err(), "{wrong}");
        }
        assert!(keyring.holder(&HeaderMap::new(), now()).is_err());
    }

    #[test]
    fn an_expired_token_is_refused_with_the_reason() {
        let mut tokens = Tokens::default();
        let secret = tokens.add("a", now(), Some(now()), None).unwrap();
        let refused = keyring(&tokens).holder(&shown(&format!("Bearer {secret}")), now()).unwrap_err();
        assert_eq!(refused.detail, "the token `a` has expired");
    }

    #[test]
    fn an_unchanged_token_keeps_its_counter_when_the_file_changes() {
        let mut tokens = Tokens::default();
        tokens.add("a", now(), None, Some(1.0)).unwrap();
        let first = holders(&tokens, None, 0.0, 1);
        tokens.add("b", now(), None, None).unwrap();
        let second = holders(&tokens, Some(&first), 5.0, 1);
        assert!(Arc::ptr_eq(&first[0], &second[0]));
        assert!(second[1].meter.is_some());
        tokens.revoke("a");
        tokens.add("a", now(), None, Some(1.0)).unwrap();
        let third = holders(&tokens, Some(&second), 5.0, 1);
        assert!(
            !third.iter().any(|holder| Arc::ptr_eq(holder, &first[0])),
            "a new token of the same name has a new counter"
        );
    }
}
