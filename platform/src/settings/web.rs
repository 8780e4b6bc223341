//! `[web]`: addresses, limits and access of the web server.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use bytesize::ByteSize;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, de::Error};

use super::{Webhook, is_name, units};

/// `[web]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Web {
    /// The address to listen on; port 0 chooses a free one.
    pub listen: SocketAddr,
    /// The file to which the bound address is written, for programs that start this one with port
    /// 0.
    pub address_file: Option<PathBuf>,
    /// The operator's address (metrics, status, the doorbell), separate from the one for uploads;
    /// an empty text serves everything on `listen`.
    #[serde(with = "optional_address")]
    pub admin_listen: Option<SocketAddr>,
    /// Host names that are permitted at the operator's address on the loopback interface, in
    /// addition to `localhost` and any IP address: those that a proxy passes on.
    pub admin_hosts: Vec<String>,
    /// The file to which the bound operator's address is written.
    pub admin_address_file: Option<PathBuf>,
    /// The audience of the live state, which is `/events` and the live half of the page. By default
    /// everyone if `listen` is a loopback address, and the operator otherwise.
    pub live: Option<Audience>,
    /// `[web.tls]`
    pub tls: Tls,
    /// The file of the tokens, one of which a client must send; without it, no token is needed.
    pub tokens: Option<PathBuf>,
    /// Maximum number of requests and images per second from one address; 0 is no limit.
    pub rate_per_address: f64,
    /// Maximum number of requests and images per second with one token, unless the token has its
    /// own; 0 is no limit.
    pub rate_per_token: f64,
    /// Maximum burst after a quiet time, if there is a rate.
    pub rate_burst: u32,
    /// The proxies whose `X-Forwarded-For` is trusted.
    #[serde(deserialize_with = "networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// The origins whose pages may read answers, in addition to the service's own page, such as
    /// `https://example.org`; `*` is everyone.
    pub cors_origins: Vec<String>,
    /// Maximum number of connections; beyond it, the one that has been idle the longest is closed.
    pub max_connections: usize,
    /// Maximum number of connections between two requests; beyond it, the one that has been idle
    /// the longest is closed.
    pub max_idle_connections: usize,
    /// Maximum number of connections of one address that is no trusted proxy; further ones are
    /// refused.
    pub max_connections_per_address: usize,
    /// Maximum time for the header of a request, from its first byte; for the first request, from
    /// the start of the connection.
    #[serde(with = "units::duration")]
    pub header_timeout: Duration,
    /// Maximum time between two requests on a connection.
    #[serde(with = "units::duration")]
    pub idle_timeout: Duration,
    /// Maximum time for which a client may accept no bytes of its answer.
    #[serde(with = "units::duration")]
    pub write_timeout: Duration,
    /// How long the rest of a refused body is read and discarded, so that its client can read the
    /// answer.
    #[serde(with = "units::duration")]
    pub linger: Duration,
    /// Number of threads; 0 is one per two cores, because the other half is for workers on the same
    /// machine.
    pub threads: usize,
    /// The unique name of this web host, also in the name of its response queue.
    pub host: Option<String>,
    /// How long an upload waits for its label before it is answered 202, unless it has `?wait=`.
    #[serde(with = "units::duration")]
    pub wait: Duration,
    /// Maximum value of `?wait=`.
    #[serde(with = "units::duration")]
    pub max_wait: Duration,
    /// Maximum size of an image.
    pub max_image: ByteSize,
    /// Maximum number of images in one upload.
    pub max_images_per_upload: usize,
    /// Maximum number of uploads in flight; further ones are answered 429.
    pub max_uploads: usize,
    /// Maximum number of uploads in flight from one address, or with one token; further ones are
    /// answered 429.
    pub max_uploads_per_client: usize,
    /// Memory for the bodies of arriving uploads together; what does not fit goes to files.
    pub upload_memory: ByteSize,
    /// Disk space for these files together; an upload that finds none is answered 503.
    pub upload_disk: ByteSize,
    /// The folder of these files; by default one in the state folder, or the system's folder for
    /// temporary files in a cloud.
    pub upload_folder: Option<PathBuf>,
    /// Maximum pause within an upload.
    #[serde(with = "units::duration")]
    pub read_timeout: Duration,
    /// Minimum rate of an upload in bytes per second, over half a minute; 0 is none.
    pub upload_min_rate: ByteSize,
    /// Maximum time for receiving an upload.
    #[serde(with = "units::duration")]
    pub upload_deadline: Duration,
    /// Maximum backlog; beyond it, uploads are answered 503.
    pub max_backlog: u64,
    /// Maximum number of pending jobs of one address, or one token; beyond it, its uploads are
    /// answered 503.
    pub max_backlog_per_client: usize,
    /// `[web.webhook]`
    pub webhook: Webhook,
    /// Maximum number of results in memory.
    pub cached_results: usize,
    /// How long held requests may continue after a signal to stop; then they are answered 202.
    #[serde(with = "units::duration")]
    pub drain_deadline: Duration,
}

/// The audience of the live state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// All clients that may upload.
    Everybody,
    /// Only those with access to `admin_listen`.
    Operator,
}

/// `[web.tls]`: with both files, uploads are accepted over HTTPS only.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// The file with the certificate and its intermediate certificates, as PEM.
    pub certificate: Option<PathBuf>,
    /// The file with its private key, as PEM.
    pub key: Option<PathBuf>,
}

impl Default for Web {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8000)),
            address_file: None,
            admin_listen: Some(SocketAddr::from(([127, 0, 0, 1], 8001))),
            admin_hosts: Vec::new(),
            admin_address_file: None,
            live: None,
            tls: Tls::default(),
            tokens: None,
            rate_per_address: 0.0,
            rate_per_token: 0.0,
            rate_burst: 20,
            trusted_proxies: Vec::new(),
            cors_origins: Vec::new(),
            max_connections: 16_384,
            max_idle_connections: 1000,
            max_connections_per_address: 1024,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
            linger: Duration::from_secs(30),
            threads: 0,
            host: None,
            wait: Duration::from_secs(60),
            max_wait: Duration::from_secs(300),
            max_image: ByteSize::mib(16),
            max_images_per_upload: 1000,
            max_uploads: 1024,
            max_uploads_per_client: 512,
            upload_memory: ByteSize::mib(16),
            upload_disk: ByteSize::gib(4),
            upload_folder: None,
            read_timeout: Duration::from_secs(15),
            upload_min_rate: ByteSize::b(512),
            upload_deadline: Duration::from_secs(1800),
            max_backlog: 100_000,
            max_backlog_per_client: 25_000,
            webhook: Webhook::default(),
            cached_results: 4096,
            drain_deadline: Duration::from_secs(20),
        }
    }
}

impl Web {
    /// Returns whether clients see the live state.
    pub fn is_live_for_everybody(&self) -> bool {
        match self.live {
            Some(audience) => audience == Audience::Everybody,
            // Without an operator's listener, everything has the same access checks.
            None => self.listen.ip().is_loopback() || self.admin_listen.is_none(),
        }
    }

    /// Returns errors, as `key: what is wrong`.
    pub(super) fn complaints(&self) -> Vec<String> {
        let rules = [
            (self.wait <= self.max_wait, "web.wait: must be at most web.max_wait"),
            (
                self.max_image.as_u64() >= 1,
                "web.max_image: must be at least 1 byte, or every image is refused",
            ),
            (self.max_images_per_upload >= 1, "web.max_images_per_upload: must be at least 1"),
            (self.max_uploads >= 1, "web.max_uploads: must be at least 1"),
            (self.max_uploads_per_client >= 1, "web.max_uploads_per_client: must be at least 1"),
            (self.max_connections >= 1, "web.max_connections: must be at least 1"),
            (self.max_connections_per_address >= 1, "web.max_connections_per_address: must be at least 1"),
            (!self.header_timeout.is_zero(), "web.header_timeout: must be more than 0"),
            (!self.idle_timeout.is_zero(), "web.idle_timeout: must be more than 0"),
            (!self.write_timeout.is_zero(), "web.write_timeout: must be more than 0"),
            (
                self.host.as_deref().is_none_or(|host| is_name(host) && host.len() <= 30),
                "web.host: must be letters, digits and dashes, at most 30 of them",
            ),
            (
                self.tls.certificate.is_some() == self.tls.key.is_some(),
                "web.tls: needs both `certificate` and `key`",
            ),
            (
                self.admin_listen.is_none_or(|admin| admin.port() == 0 || admin != self.listen),
                "web.admin_listen: must differ from web.listen; \"\" serves both on web.listen",
            ),
            (
                self.live != Some(Audience::Operator) || self.admin_listen.is_some(),
                "web.live: \"operator\" needs web.admin_listen",
            ),
            (
                is_rate(self.rate_per_address),
                "web.rate_per_address: must be 0, or from 0.001 to 1000000 a second",
            ),
            (
                is_rate(self.rate_per_token),
                "web.rate_per_token: must be 0, or from 0.001 to 1000000 a second",
            ),
            (self.rate_burst >= 1, "web.rate_burst: must be at least 1, or every request is refused"),
        ];
        let broken = rules.into_iter().filter(|(holds, _)| !holds).map(|(_, complaint)| complaint.to_owned());
        let origins = self.cors_origins.iter().filter(|origin| !is_origin(origin)).map(|origin| {
            format!(
                "web.cors_origins: `{origin}` is not an origin; write one like \
                \"https://example.org\", or \"*\""
            )
        });
        broken.chain(origins).chain(self.webhook.complaint()).collect()
    }
}

/// Returns whether a rate is valid: 0 is no limit, and less than one in about a quarter of an hour
/// must be a mistake.
pub fn is_rate(per_second: f64) -> bool {
    per_second == 0.0 || (0.001..=1e6).contains(&per_second)
}

/// Returns whether a text is an origin as browsers send it: scheme, host, optional port, and
/// nothing else.
fn is_origin(text: &str) -> bool {
    let is_part = |rest: &str| {
        !rest.is_empty()
            && rest.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:[]".contains(&b))
    };
    text == "*"
        || ["https://", "http://"].into_iter().filter_map(|scheme| text.strip_prefix(scheme)).any(is_part)
}

/// Parses networks; a single address is a network of one.
fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let network = |text: String| {
        let alone = || text.parse::<IpAddr>().map(IpNet::from);
        text.parse::<IpNet>().or_else(|_| alone()).map_err(|_| {
            D::Error::custom(format!(
                "`{text}` is not a network; write one like \"10.0.0.0/8\" or \"fd00::/8\""
            ))
        })
    };
    texts.into_iter().map(network).collect()
}

/// An address; an empty text is none.
mod optional_address {
    use std::net::SocketAddr;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(
        address: &Option<SocketAddr>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match address {
            Some(address) => serializer.collect_str(address),
            None => serializer.serialize_str(""),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SocketAddr>, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|_| {
            D::Error::custom(format!(
                "`{text}` is not an address; write one like \"127.0.0.1:8001\", or \"\" for none"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::settings::{Layers, Settings};

    fn load(text: &str) -> Result<Settings, Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("eirs.toml");
        std::fs::write(&file, format!("[web]\n{text}")).unwrap();
        Layers::of(Some(Path::new(&file)), &[]).load().map_err(|complaints| complaints.0)
    }

    fn complaint(text: &str) -> String {
        load(text).expect_err(text).join("\n")
    }

    #[test]
    fn networks_may_be_single_addresses_and_invalid_ones_are_refused() {
        let web = load("trusted_proxies = [\"10.0.0.0/8\", \"192.0.2.7\", \"fd00::/8\"]").unwrap().web;
        assert_eq!(
            web.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.0.0.0/8", "192.0.2.7/32", "fd00::/8"]
        );
        for wrong in ["10.0.0.0/33", "proxy.example.org", ""] {
            let message = complaint(&format!("trusted_proxies = [\"{wrong}\"]"));
            assert!(
                message.contains("web.trusted_proxies: ")
                    && message.contains(&format!("`{wrong}` is not a network")),
                "{message}"
            );
        }
    }

    #[test]
    fn a_webhook_is_an_address_and_a_key() {
        let table = |text: &str| format!("[web.webhook]\n{text}");
        let load = |text: &str| {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("eirs.toml");
            std::fs::write(&file, table(text)).unwrap();
            Layers::of(Some(Path::new(&file)), &[]).load().map_err(|complaints| complaints.0.join("\n"))
        };
        let web = load("url = \"https://example.org/labels\"\nkey = \"key\"").unwrap().web;
        assert_eq!(web.webhook.url.as_deref(), Some("https://example.org/labels"));
        for alone in ["url = \"https://example.org/\"", "key = \"key\""] {
            let message = load(alone).unwrap_err();
            assert!(message.contains("web.webhook: needs both, `url` and `key`"), "{message}");
        }
        for wrong in ["example.org/labels", "ftp://example.org/", "https://", "/labels", ""] {
            let message = load(&format!("url = \"{wrong}\"\nkey = \"key\"")).unwrap_err();
            assert!(message.contains("web.webhook.url: must be an address"), "{wrong}: {message}");
        }
    }

    #[test]
    fn the_operators_address_may_be_none_but_not_that_for_uploads() {
        assert_eq!(load("admin_listen = \"\"").unwrap().web.admin_listen, None);
        assert!(load("listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"").is_ok());
        assert!(
            complaint("listen = \"127.0.0.1:8001\"")
                .contains("web.admin_listen: must differ from web.listen")
        );
        assert!(load("live = \"operator\"").is_ok());
        assert!(
            complaint("live = \"operator\"\nadmin_listen = \"\"").contains("web.live: \"operator\" needs")
        );
        assert!(complaint("admin_listen = \"here\"").contains("web.admin_listen: `here` is not an address"));
    }

    #[test]
    fn the_live_state_is_for_the_operator_unless_the_service_is_local_or_set_otherwise() {
        let is_for_everybody = |text: &str| load(text).unwrap().web.is_live_for_everybody();
        assert!(is_for_everybody("") && is_for_everybody("listen = \"[::1]:80\""));
        assert!(!is_for_everybody("listen = \"0.0.0.0:80\"") && !is_for_everybody("live = \"operator\""));
        assert!(is_for_everybody("listen = \"0.0.0.0:80\"\nlive = \"everybody\""));
        assert!(is_for_everybody("listen = \"0.0.0.0:80\"\nadmin_listen = \"\""), "there is no other place");
    }

    #[test]
    fn origins_must_be_as_browsers_send_them() {
        assert!(load("cors_origins = [\"https://example.org\", \"http://localhost:3000\", \"http://[::1]:80\", \"*\"]").is_ok());
        for wrong in [
            "https://example.org/",
            "example.org",
            "https://",
            "https://*.example.org",
            "https://Example.org",
        ] {
            let message = complaint(&format!("cors_origins = [\"{wrong}\"]"));
            assert!(message.contains("is not an origin"), "{wrong}: {message}");
        }
    }

    #[test]
    fn invalid_rates_and_certificates_are_refused() {
        assert!(load("rate_per_address = 0.5\nrate_per_token = 3").is_ok());
        assert!(complaint("rate_per_address = -1").contains("web.rate_per_address: must be 0"));
        assert!(complaint("rate_per_token = 1e300").contains("web.rate_per_token: must be 0"));
        assert!(complaint("rate_burst = 0").contains("web.rate_burst"));
        assert!(complaint("[web.tls]\ncertificate = \"a.pem\"").contains("needs both"));
    }
}
