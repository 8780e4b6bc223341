//! Sends a request to the receiver and interprets its answer.

use std::{sync::Arc, time::Duration};

use rustls::crypto::ring;
use ureq::{
    Agent,
    http::{Uri, header},
    tls::{Certificate, RootCerts, TlsConfig},
};

use super::Message;
use crate::telemetry::trusted_certificates;

/// Timeout for a request.
const PATIENCE: Duration = Duration::from_secs(15);

/// The outcome of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The receiver has accepted the events.
    Taken,
    /// It refuses the content. The text follows the address in messages.
    Refused(String),
    /// It cannot accept events now.
    Later {
        /// The reason; the text follows the address in messages.
        why: String,
        /// The time after which it wants the next request, if it said so.
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
    /// Creates a sender that follows no redirects, because they may lead elsewhere.
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

    /// Returns the address without its query, which may be secret.
    pub fn url(&self) -> &str {
        self.url.split('?').next().unwrap_or_default()
    }

    /// Sends a message once. `timestamp` is in Unix seconds, and part of what was
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
        // A blocking call, so run it on a blocking thread; answers to clients do not wait for it.
        let sent = tokio::task::spawn_blocking(move || {
            request.send(&body[..]).map(|answer| {
                let after = answer.headers().get(header::RETRY_AFTER).and_then(|after| after.to_str().ok());
                (answer.status().as_u16(), after.and_then(|after| after.trim().parse().ok()))
            })
        });
        match sent.await {
            Ok(Ok((status, after_s))) => of_status(status, after_s.map(Duration::from_secs)),
            Ok(Err(error)) => Ended::Later { why: format!("cannot be reached: {error}"), after: None },
            Err(panic) => Ended::Later { why: format!("could not be called: {panic}"), after: None },
        }
    }
}

/// Interprets a status. Only a status about the content is a reason to send other events without
/// these.
fn of_status(status: u16, after: Option<Duration>) -> Ended {
    match status {
        200..300 => Ended::Taken,
        300..400 => Ended::Later {
            why: format!("redirects ({status}), which is not followed; set the address to which it leads"),
            after,
        },
        400 | 413 | 415 | 422 => Ended::Refused(format!("refuses the events ({status})")),
        _ => Ended::Later { why: format!("accepts no events ({status})"), after },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_means_accepted_refused_or_retried() {
        for taken in [200, 202, 204] {
            assert_eq!(of_status(taken, None), Ended::Taken);
        }
        for refused in [400, 413, 422] {
            assert!(matches!(of_status(refused, None), Ended::Refused(_)), "{refused}");
        }
        for later in [301, 302, 307, 401, 403, 404, 408, 410, 429, 500, 502, 503, 504] {
            assert!(matches!(of_status(later, None), Ended::Later { .. }), "{later}");
        }
        let ended = of_status(503, Some(Duration::from_secs(7)));
        assert!(matches!(ended, Ended::Later { after: Some(after), .. } if after.as_secs() == 7));
    }

    #[test]
    fn the_query_of_the_address_is_not_shown() {
        assert_eq!(Poster::to("http://127.0.0.1:1/hook?token=abc").unwrap().url(), "http://127.0.0.1:1/hook");
    }
}
