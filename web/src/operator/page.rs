//! `GET /`: the page, embedded in this program, so that it needs no build, no other host and no
//! file. Other programs get a line of text. If the live state is for the operator only, clients get
//! the half that uploads, and the operator's listener has the other one.

use std::sync::Arc;

use bytes::Bytes;
use poem::{
    IntoResponse, Request, Response, handler,
    http::{StatusCode, header},
    web::{Data, Path},
};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::problem::Problem;

const TEXT: &str = "Web Tier is running.";
const PAGE: &str = include_str!("../../page/index.html");
static ASSETS: [Asset; 10] = [
    Asset::css("page.css", include_str!("../../page/page.css")),
    Asset::js("page.js", include_str!("../../page/page.js")),
    Asset::js("api.js", include_str!("../../page/api.js")),
    Asset::js("files.js", include_str!("../../page/files.js")),
    Asset::js("uploads.js", include_str!("../../page/uploads.js")),
    Asset::js("save.js", include_str!("../../page/save.js")),
    Asset::js("live.js", include_str!("../../page/live.js")),
    Asset::js("charts.js", include_str!("../../page/charts.js")),
    Asset::js("words.js", include_str!("../../page/words.js")),
    Asset {
        name: "icon.svg",
        kind: "image/svg+xml",
        body: Bytes::from_static(include_bytes!("../../page/icon.svg")),
    },
];

/// The part of the page that a listener shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    /// Uploads and the live state.
    Both,
    /// Uploads only.
    Uploads,
    /// The live state only.
    Live,
}

/// The page of one listener.
#[derive(Debug)]
pub(crate) struct Home(Asset);

impl Home {
    /// Builds the page. The mark on its body says which half to show; without a live state, it also
    /// has what an upload needs to know.
    pub(crate) fn new(half: Half, models: &[&str], max_image_bytes: u64) -> Arc<Self> {
        let body = match half {
            Half::Both => "<body>".to_owned(),
            Half::Uploads => {
                let hints = json!({ "models": models, "max_image_bytes": max_image_bytes }).to_string();
                // Model names are letters, digits and dashes, so only the quotes of the JSON need
                // escaping.
                let hints = hints.replace('"', "&quot;");
                format!("<body data-half=\"uploads\" data-hints=\"{hints}\">")
            }
            Half::Live => "<body data-half=\"live\">".to_owned(),
        };
        let body = PAGE.replacen("<body>", &body, 1).into();
        Arc::new(Self(Asset { name: "", kind: "text/html; charset=utf-8", body }))
    }
}

/// A file of the page.
#[derive(Debug)]
struct Asset {
    name: &'static str,
    kind: &'static str,
    body: Bytes,
}

impl Asset {
    const fn css(name: &'static str, body: &'static str) -> Self {
        Self { name, kind: "text/css; charset=utf-8", body: Bytes::from_static(body.as_bytes()) }
    }

    const fn js(name: &'static str, body: &'static str) -> Self {
        Self { name, kind: "text/javascript; charset=utf-8", body: Bytes::from_static(body.as_bytes()) }
    }

    /// Browsers ask each time and get the file only if it changed, so that an upgrade never mixes
    /// two versions.
    fn response(&self, request: &Request) -> Response {
        let tag = format!("\"{:.16}\"", hex(&Sha256::digest(&self.body)));
        let known = request.header(header::IF_NONE_MATCH).is_some_and(|known| known.contains(&tag));
        let response = Response::builder()
            .header(header::CACHE_CONTROL, "no-cache")
            .header(header::ETAG, tag)
            .header(header::VARY, "accept");
        if known {
            return response.status(StatusCode::NOT_MODIFIED).finish();
        }
        response.content_type(self.kind).body(self.body.clone())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The page for browsers, a line of text for other clients.
#[handler]
pub(crate) fn home(request: &Request, Data(page): Data<&Arc<Home>>) -> Response {
    if request.header(header::ACCEPT).is_some_and(|accept| accept.contains("text/html")) {
        page.0.response(request)
    } else {
        Response::builder()
            .header(header::VARY, "accept")
            .content_type("text/plain; charset=utf-8")
            .body(TEXT)
    }
}

/// Serves the files of the page.
#[handler]
pub(crate) fn file(request: &Request, Path(name): Path<String>) -> Response {
    match ASSETS.iter().find(|asset| asset.name == name) {
        Some(asset) => asset.response(request),
        None => Problem::not_found("nothing is at this address").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Maximum size of the page in bytes, for slow mobile connections.
    const MOST_BYTES: usize = 100_000;

    fn text(asset: &Asset) -> &str {
        std::str::from_utf8(&asset.body).unwrap()
    }

    fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
        std::iter::once(("", PAGE)).chain(ASSETS.iter().map(|asset| (asset.name, text(asset))))
    }

    #[test]
    fn each_half_has_its_mark_and_the_whole_page_has_none() {
        let mark = |half: Half| {
            let page = Home::new(half, &["default", "dogs"], 16);
            let (_, rest) = text(&page.0).split_once("<body").unwrap();
            rest.split('>').next().unwrap().to_owned()
        };
        assert_eq!(mark(Half::Both), "");
        let hints =
            "{&quot;max_image_bytes&quot;:16,&quot;models&quot;:[&quot;default&quot;,&quot;dogs&quot;]}";
        assert_eq!(mark(Half::Uploads), format!(" data-half=\"uploads\" data-hints=\"{hints}\""));
        assert_eq!(mark(Half::Live), " data-half=\"live\"");
    }

    #[test]
    fn the_whole_page_is_small() {
        let bytes: usize = all().map(|(_, body)| body.len()).sum();
        assert!(bytes <= MOST_BYTES, "{bytes}");
    }

    #[test]
    fn the_page_refers_to_files_of_this_server_only_and_to_every_one() {
        for (name, body) in all() {
            let text = body.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("http://") && !text.contains("https://"), "{name} asks a foreign host");
        }
        let everything: String = all().map(|(_, body)| body).collect();
        for asset in &ASSETS {
            let (by_page, by_module) = (format!("/assets/{}", asset.name), format!("./{}", asset.name));
            assert!(
                everything.contains(&by_page) || everything.contains(&by_module),
                "{} is not used",
                asset.name
            );
        }
        let asked = everything.split("from \"./").skip(1).filter_map(|rest| rest.split('"').next());
        for name in asked {
            assert!(ASSETS.iter().any(|asset| asset.name == name), "{name} does not exist");
        }
    }
}
