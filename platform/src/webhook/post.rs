//! One request to the receiver, and what its answer means.

use std::{sync::Arc, time::Duration};

use rustls::crypto::ring;
use ureq::{
    Agent,
    http::{Uri, header},
    tls::{Certificate, RootCerts, TlsConfig},
};

use super::Message;
use crate::telemetry::trusted_certificates;

/// How long a receiver may take to take a batch.
const PATIENCE: Duration = Duration::from_secs(15);

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The receiver has the events.
    Taken,
    /// It does not want what is in it. Words that follow the address.
    Refused(String),
    /// It cannot take anything now; perhaps it says when.
    Later {
        /// Words that follow the address.
        why: String,
        /// When it wants to be asked again.
        after: Option<Duration>,
    },
}

/// Sends to one address.
#[derive(Debug)]
pub struct Poster {
    agent: Agent,
    url: String,
}

impl Poster {
    /// Goes nowhere else, whatever is answered: a redirect may lead to somebody else.
    pub fn to(url: &str) -> Result<Self, String> {
        let is_encrypted = url.parse::<Uri>().is_ok_and(|uri| uri.scheme_str() == Some("https"));
        let trusted = if is_encrypted { trusted_certificates()? } else { Vec::new() };
        let trusted: Vec<_> = trusted.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&trusted))
            .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()));
        let config = Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("eirs/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls.build());
        Ok(Self { agent: config.build().into(), url: url.to_owned() })
    }

    /// The address, without what may be secret in it.
    pub fn url(&self) -> &str {
        self.url.split('?').next().unwrap_or_default()
    }

    /// Sends once. `timestamp` is in seconds since 1970, and part of what was
    /// [signed](super::Keys::sign).
    pub async fn post(&self, message: &Message, timestamp: i64, signature: String) -> Ended {
        let request = self
            .agent
            .post(&self.url)
            .header(header::CONTENT_TYPE, "application/json")
            .header("webhook-id", &message.id)
            .header("webhook-timestamp", timestamp.to_string())
            .header("webhook-signature", signature);
        let body = message.body.clone();
        // It blocks, for as long as the receiver takes: a thread of its own, that no answer to a
        // client waits for.
        let sent = tokio::task::spawn_blocking(move || {
            request.send(&body[..]).map(|answer| {
                let after = answer.headers().get(header::RETRY_AFTER).and_then(|after| after.to_str().ok());
                (answer.status().as_u16(), after.and_then(|after| after.trim().parse().ok()))
            })
        });
        match sent.await {
            Ok(Ok((status, after_s))) => of_status(status, after_s.map(Duration::from_secs)),
            Ok(Err(error)) => Ended::Later { why: format!("cannot be reached: {error}"), after: None },
            Err(panic) => Ended::Later { why: format!("could not be asked: {panic}"), after: None },
        }
    }
}

/// What a status means. Only what speaks of the body itself is a reason to send others without it.
fn of_status(status: u16, after: Option<Duration>) -> Ended {
    match status {
        200..300 => Ended::Taken,
        300..400 => Ended::Later {
            why: format!("redirects ({status}), and that is not followed; name the address where it leads"),
            after,
        },
        400 | 413 | 415 | 422 => Ended::Refused(format!("refuses what is sent ({status})")),
        _ => Ended::Later { why: format!("takes no events ({status})"), after },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_taken_or_refused_or_sent_again() {
        for taken in [200, 202, 204] {
            assert_eq!(of_status(taken, None), Ended::Taken);
        }
        for refused in [400, 413, 422] {
            assert!(matches!(of_status(refused, None), Ended::Refused(_)), "{refused}");
        }
        for later in [301, 302, 307, 401, 403, 404, 408, 410, 429, 500, 502, 503, 504] {
            assert!(matches!(of_status(later, None), Ended::Later { .. }), "{later}");
        }
        let said = of_status(503, Some(Duration::from_secs(7)));
        assert!(matches!(said, Ended::Later { after: Some(after), .. } if after.as_secs() == 7));
    }

    #[test]
    fn what_may_be_secret_in_the_address_is_not_shown() {
        assert_eq!(Poster::to("http://127.0.0.1:1/hook?token=abc").unwrap().url(), "http://127.0.0.1:1/hook");
    }
}
