//! The service's description of itself, in OpenAPI: `/openapi.json`, and the page `/docs` that shows it.
//!
//! It is laid over the routes, not under them: poem-openapi's own extractors read a body whole before a handler sees it, and
//! an upload is read piece by piece, within limits (docs/decisions/0009-description-over-the-routes.md). Bodies of answers are
//! described by the very types that are sent, and examples are made from real values. Paths, parameters and statuses are
//! written down here, and `cli/tests/service/api.rs` drives the service by them.

mod images;
mod operation;
mod parts;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use poem::{
    Endpoint, Response,
    endpoint::{BoxEndpoint, make_sync},
    http::Method,
};
use poem_openapi::{
    LicenseObject, OpenApi, OpenApiService,
    registry::{MetaApi, Registry},
};

const ABOUT: &str = "\
Images in, labels out. Images are named by their content, so that uploading the same image again is always safe, and answered \
from the stored result.

```
curl -F myfile=@heart.jpg http://127.0.0.1:8000/upload
```

A refusal is a `Problem` (`application/problem+json`, RFC 9457). An address that does not take a method answers 405 with \
`Allow`; whatever takes GET takes HEAD.";

/// What the page may load: all of its parts are in it, and it may try what it describes.
const PAGE_MAY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; \
                        connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

/// What clients ask for.
#[derive(Debug, Default)]
pub(crate) struct Public;

/// What operators and their tools ask for.
#[derive(Debug, Default)]
pub(crate) struct Admin;

/// What every listener is asked.
#[derive(Debug, Default)]
pub(crate) struct Health;

/// A set of paths. The routes are in `routes.rs`.
macro_rules! set {
    ($set:ty: $($path:path),+) => {
        impl OpenApi for $set {
            fn meta() -> Vec<MetaApi> {
                vec![MetaApi { paths: vec![$($path()),+] }]
            }

            fn register(registry: &mut Registry) {
                parts::register(registry);
                images::register(registry);
                operation::register(registry);
            }

            fn add_routes(self, _: &mut HashMap<String, HashMap<Method, BoxEndpoint<'static>>>) {}
        }
    };
}

set!(Public: images::upload, images::result, operation::events);
set!(Admin: operation::status, operation::metrics, operation::doorbell);
set!(Health: operation::livez, operation::readyz);

/// What one listener serves of itself.
#[derive(Debug)]
pub(crate) struct Description {
    spec: Bytes,
    /// It is large and seldom asked for: made when it is.
    page: Arc<OnceLock<Bytes>>,
    make_page: fn() -> String,
}

impl Description {
    /// Of a listener that serves these sets.
    pub(crate) fn of<Api: OpenApi + Default + 'static>() -> Self {
        fn service<Api: OpenApi + Default>() -> OpenApiService<Api, ()> {
            OpenApiService::new(Api::default(), "EIRS", env!("CARGO_PKG_VERSION"))
                .description(ABOUT)
                .license(LicenseObject::new("Apache-2.0"))
                .server("/")
        }
        Self {
            spec: service::<Api>().spec().into(),
            page: Arc::default(),
            make_page: || service::<Api>().swagger_ui_html(),
        }
    }

    /// `/openapi.json`
    pub(crate) fn json(&self) -> impl Endpoint<Output = Response> + 'static {
        let spec = self.spec.clone();
        make_sync(move |_| Response::builder().content_type("application/json").body(spec.clone()))
    }

    /// `/docs`: one file that needs no other, and no other host.
    pub(crate) fn page(&self) -> impl Endpoint<Output = Response> + 'static {
        let (page, make) = (self.page.clone(), self.make_page);
        make_sync(move |_| {
            let page = page.get_or_init(|| make().into()).clone();
            Response::builder()
                .content_type("text/html; charset=utf-8")
                .header("content-security-policy", PAGE_MAY)
                .body(page)
        })
    }
}
