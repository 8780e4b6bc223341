//! The service's description of itself, in OpenAPI: `/openapi.json`, and the page `/docs` that
//! shows it.
//!
//! It is laid over the routes, not under them: poem-openapi's own extractors read a body whole
//! before a handler sees it, and an upload is read piece by piece, within limits
//! (docs/decisions/0009-description-over-the-routes.md). Bodies of answers are described by the
//! very types that are sent, and examples are made from real values. Paths, parameters and statuses
//! are written down here, and `cli/tests/service/api.rs` drives the service by them.

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

use self::parts::guarded;

const ABOUT: &str = "\
Upload images, get their labels. An image is identified by its content: uploading it again is always safe, and returns the \
stored result.

```
curl -F myfile=@heart.jpg http://127.0.0.1:8000/upload
```

A refusal is a `Problem` (`application/problem+json`, RFC 9457). A method that an address does not accept gets 405 with \
`Allow`; every address with GET also accepts HEAD.";

const ABOUT_ADMIN: &str = "\
For operators and their tools. Everybody who reaches this address may use it: it has neither tokens nor rates. Images are uploaded \
to another address, which has its own description.

A refusal is a `Problem` (`application/problem+json`, RFC 9457). A method that an address does not accept gets 405 with \
`Allow`; every address with GET also accepts HEAD.";

/// What the page may load: all of its parts are in it, and it may try what it describes.
const PAGE_MAY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; \
                        connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

/// What clients ask for.
#[derive(Debug, Default)]
pub(crate) struct Public;

/// The live state, if clients that upload may see it.
#[derive(Debug, Default)]
pub(crate) struct Watch;

/// What operators and their tools ask for, at a listener of their own.
#[derive(Debug, Default)]
pub(crate) struct Admin;

/// The same where clients ask, too, behind the same door.
#[derive(Debug, Default)]
pub(crate) struct AdminAtTheDoor;

/// What every listener is asked.
#[derive(Debug, Default)]
pub(crate) struct Health;

/// A set of paths, and what registers the parts that they name. The routes are in `routes.rs`.
macro_rules! set {
    ($set:ty: $($path:expr),+; $($register:path),+) => {
        impl OpenApi for $set {
            fn meta() -> Vec<MetaApi> {
                vec![MetaApi { paths: vec![$($path),+] }]
            }

            fn register(registry: &mut Registry) {
                parts::register(registry);
                $($register(registry);)+
            }

            fn add_routes(self, _: &mut HashMap<String, HashMap<Method, BoxEndpoint<'static>>>) {}
        }
    };
}

set!(Public: guarded(images::upload()), guarded(images::result()); parts::register_token, images::register);
set!(Watch: guarded(operation::events(false)); parts::register_token, operation::register);
set!(Admin: operation::events(true), operation::status(true), operation::metrics(), operation::doorbell(true);
     operation::register);
set!(AdminAtTheDoor: guarded(operation::status(false)), guarded(operation::metrics()), guarded(operation::doorbell(false));
     parts::register_token, operation::register);
set!(Health: operation::livez(), operation::readyz(); operation::register);

/// Several of them, for one listener.
pub(crate) trait Listener: OpenApi + Default + 'static {
    /// What is said of it.
    const ABOUT: &'static str;
}

impl Listener for (Public, Watch, Health) {
    const ABOUT: &'static str = ABOUT;
}

impl Listener for (Public, Health) {
    const ABOUT: &'static str = ABOUT;
}

impl Listener for (Admin, Health) {
    const ABOUT: &'static str = ABOUT_ADMIN;
}

impl Listener for (Public, Watch, AdminAtTheDoor, Health) {
    const ABOUT: &'static str = ABOUT;
}

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
    pub(crate) fn of<Api: Listener>() -> Self {
        fn service<Api: Listener>() -> OpenApiService<Api, ()> {
            OpenApiService::new(Api::default(), "EIRS", env!("CARGO_PKG_VERSION"))
                .description(Api::ABOUT)
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
