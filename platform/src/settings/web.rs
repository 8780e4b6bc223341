//! `[web]`: what the web server takes, from whom, and where it listens.

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
    /// The address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where to write the address that was bound, for programs that started this one with port 0.
    pub address_file: Option<PathBuf>,
    /// The address of the operator's side (metrics, status, the doorbell), apart from the one that
    /// takes uploads; an empty text serves all of it on `listen`.
    #[serde(with = "optional_address")]
    pub admin_listen: Option<SocketAddr>,
    /// Names by which the operator's side may be called where it is on the loopback, besides
    /// `localhost` and any address: those that a proxy before it passes on.
    pub admin_hosts: Vec<String>,
    /// Where to write the address that was bound for it.
    pub admin_address_file: Option<PathBuf>,
    /// Who sees the live state of the service: `/events`, and what the page makes of it; unless
    /// set, everybody where `listen` is the loopback, and the operator where others reach it.
    pub live: Option<Audience>,
    /// `[web.tls]`
    pub tls: Tls,
    /// The file of the tokens, one of which a client must show; without it, nobody needs one.
    pub tokens: Option<PathBuf>,
    /// How many requests and images each address may send each second; 0 is as many as it likes.
    pub rate_per_address: f64,
    /// How many requests and images may come with each token each second, unless the token says
    /// another number; 0 is as many as there are.
    pub rate_per_token: f64,
    /// How many may come at once after a quiet time, where there is a rate.
    pub rate_burst: u32,
    /// The proxies whose word is taken for who a client is (`X-Forwarded-For`).
    #[serde(deserialize_with = "networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// Whose pages may read answers, besides the service's own: origins like `https://example.org`,
    /// or `*`, which is everybody.
    pub cors_origins: Vec<String>,
    /// The most connections at once; one more closes the one that has been idle the longest.
    pub max_connections: usize,
    /// The most connections that are kept between two requests; one more closes the one that has
    /// been idle the longest.
    pub max_idle_connections: usize,
    /// The most connections of one address that is no trusted proxy; one more is refused.
    pub max_connections_per_address: usize,
    /// How long the header of a request may take, from its first byte; of the first one, from the
    /// connection.
    #[serde(with = "units::duration")]
    pub header_timeout: Duration,
    /// How long a connection may be open between two requests.
    #[serde(with = "units::duration")]
    pub idle_timeout: Duration,
    /// How long a client may take none of its answer.
    #[serde(with = "units::duration")]
    pub write_timeout: Duration,
    /// How long the rest of a refused body is read and thrown away, so that its client lives to
    /// read why.
    #[serde(with = "units::duration")]
    pub linger: Duration,
    /// Threads that serve; 0 is one for each two cores: on one machine, the other half is the
    /// workers'.
    pub threads: usize,
    /// A name for this web host, unlike that of any other; its response queue is named after it.
    pub host: Option<String>,
    /// How long an upload waits for its label before it is answered 202, unless it says `?wait=`.
    #[serde(with = "units::duration")]
    pub wait: Duration,
    /// The longest `?wait=` that is honoured.
    #[serde(with = "units::duration")]
    pub max_wait: Duration,
    /// The largest image.
    pub max_image: ByteSize,
    /// The most images in one upload.
    pub max_images_per_upload: usize,
    /// The most uploads at once; one more is answered 429.
    pub max_uploads: usize,
    /// The most uploads at once from one address, or with one token; one more is answered 429.
    pub max_uploads_per_client: usize,
    /// How much memory the bodies of arriving uploads may take together; what has no room there
    /// goes to files.
    pub upload_memory: ByteSize,
    /// How much disk these files may take together; an upload that finds none left is answered 503.
    pub upload_disk: ByteSize,
    /// The folder for them; by default one in the state folder, or the system's for temporary files
    /// where the backend is a cloud.
    pub upload_folder: Option<PathBuf>,
    /// How long a client may pause in the middle of an upload.
    #[serde(with = "units::duration")]
    pub read_timeout: Duration,
    /// How many bytes a client must send each second over half a minute; 0 asks for none.
    pub upload_min_rate: ByteSize,
    /// How long the sending of an upload may take in all.
    #[serde(with = "units::duration")]
    pub upload_deadline: Duration,
    /// The longest backlog (visible and in flight); above it, uploads are answered 503.
    pub max_backlog: u64,
    /// The most jobs of one address, or of one token, that wait for their answers; above it, its
    /// uploads are answered 503.
    pub max_backlog_per_client: usize,
    /// `[web.webhook]`
    pub webhook: Webhook,
    /// How many results are kept in memory.
    pub cached_results: usize,
    /// How long held requests may go on after a signal to stop; then they get their 202.
    #[serde(with = "units::duration")]
    pub drain_deadline: Duration,
}

/// Who may see something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// Clients that may upload.
    Everybody,
    /// Everybody who reaches `admin_listen`.
    Operator,
}

/// `[web.tls]`: with both, uploads are taken over HTTPS and not otherwise.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// The file of the certificate and those between it and its authority, as PEM.
    pub certificate: Option<PathBuf>,
    /// The file of its private key, as PEM.
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
    /// Whether those who may upload see the live state.
    pub fn is_live_for_everybody(&self) -> bool {
        match self.live {
            Some(audience) => audience == Audience::Everybody,
            // Where the operator has no listener, all of it is behind the same tokens.
            None => self.listen.ip().is_loopback() || self.admin_listen.is_none(),
        }
    }

    /// What is wrong, as `key: what is wrong`.
    pub(super) fn complaints(&self) -> Vec<String> {
        let rules = [
            (self.wait <= self.max_wait, "web.wait: must be at most web.max_wait"),
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

/// Whether this many a second can be counted: 0 is no limit, and less than one in a quarter of an
/// hour is none that anybody means.
pub fn is_rate(per_second: f64) -> bool {
    per_second == 0.0 || (0.001..=1e6).contains(&per_second)
}

/// Whether a browser would call a page's origin this: a scheme, a host, perhaps a port, and nothing
/// behind.
fn is_origin(text: &str) -> bool {
    let is_part = |rest: &str| {
        !rest.is_empty()
            && rest.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:[]".contains(&b))
    };
    text == "*"
        || ["https://", "http://"].into_iter().filter_map(|scheme| text.strip_prefix(scheme)).any(is_part)
}

/// Networks as people write them; an address by itself is a network of one.
fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let network = |text: String| {
        let alone = || text.parse::<IpAddr>().map(IpNet::from);
        text.parse::<IpNet>().or_else(|_| alone()).map_err(|_| {
            D::Error::custom(format!("`{text}` is no network; write one like \"10.0.0.0/8\" or \"fd00::/8\""))
        })
    };
    texts.into_iter().map(network).collect()
}

/// An address, where an empty text is none.
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
    fn networks_may_be_single_addresses_and_nothing_that_is_none() {
        let web = load("trusted_proxies = [\"10.0.0.0/8\", \"192.0.2.7\", \"fd00::/8\"]").unwrap().web;
        assert_eq!(
            web.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.0.0.0/8", "192.0.2.7/32", "fd00::/8"]
        );
        for wrong in ["10.0.0.0/33", "proxy.example.org", ""] {
            let said = complaint(&format!("trusted_proxies = [\"{wrong}\"]"));
            assert!(
                said.contains("web.trusted_proxies: ") && said.contains(&format!("`{wrong}` is no network")),
                "{said}"
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
            let said = load(alone).unwrap_err();
            assert!(said.contains("web.webhook: needs both, `url` and `key`"), "{said}");
        }
        for wrong in ["example.org/labels", "ftp://example.org/", "https://", "/labels", ""] {
            let said = load(&format!("url = \"{wrong}\"\nkey = \"key\"")).unwrap_err();
            assert!(said.contains("web.webhook.url: should be an address"), "{wrong}: {said}");
        }
    }

    #[test]
    fn the_address_for_the_operator_can_be_none_and_not_the_one_for_uploads() {
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
    fn the_live_state_is_the_operators_where_others_reach_the_service_unless_it_is_said() {
        let is_for_everybody = |text: &str| load(text).unwrap().web.is_live_for_everybody();
        assert!(is_for_everybody("") && is_for_everybody("listen = \"[::1]:80\""));
        assert!(!is_for_everybody("listen = \"0.0.0.0:80\"") && !is_for_everybody("live = \"operator\""));
        assert!(is_for_everybody("listen = \"0.0.0.0:80\"\nlive = \"everybody\""));
        assert!(is_for_everybody("listen = \"0.0.0.0:80\"\nadmin_listen = \"\""), "there is no other place");
    }

    #[test]
    fn origins_are_what_browsers_send() {
        assert!(load("cors_origins = [\"https://example.org\", \"http://localhost:3000\", \"http://[::1]:80\", \"*\"]").is_ok());
        for wrong in [
            "https://example.org/",
            "example.org",
            "https://",
            "https://*.example.org",
            "https://Example.org",
        ] {
            let said = complaint(&format!("cors_origins = [\"{wrong}\"]"));
            assert!(said.contains("is not an origin"), "{wrong}: {said}");
        }
    }

    #[test]
    fn rates_and_certificates_that_make_no_sense_are_refused() {
        assert!(load("rate_per_address = 0.5\nrate_per_token = 3").is_ok());
        assert!(complaint("rate_per_address = -1").contains("web.rate_per_address: must be 0"));
        assert!(complaint("rate_per_token = 1e300").contains("web.rate_per_token: must be 0"));
        assert!(complaint("rate_burst = 0").contains("web.rate_burst"));
        assert!(complaint("[web.tls]\ncertificate = \"a.pem\"").contains("needs both"));
    }
}
