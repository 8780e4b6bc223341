//! The OpenAPI description of the service: `/openapi.json`, and the page `/docs` that shows it.
//!
//! It is written separately from the routes: poem-openapi's own extractors read a whole body before
//! a handler sees it, but an upload must be read piece by piece, within limits
//! (docs/decisions/0009-description-over-the-routes.md). Bodies of answers are described by the
//! types that are sent, with real values as examples. Paths, parameters and statuses are written
//! here; `cli/tests/service/api.rs` tests the service against them.

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
For operators and their tools. This address has neither tokens nor rates: access to it is permission to use it. Images are uploaded \
to another address, which has its own description.

A refusal is a `Problem` (`application/problem+json`, RFC 9457). A method that an address does not accept gets 405 with \
`Allow`; every address with GET also accepts HEAD.";

/// The content security policy of the page: everything is inline, and it may send requests to this
/// service.
const PAGE_MAY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src \
                        data:; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors \
                        'none'";

/// The paths for clients.
#[derive(Debug, Default)]
pub(crate) struct Public;

/// The live state, if clients may see it.
#[derive(Debug, Default)]
pub(crate) struct Watch;

/// The paths for operators, at a listener of their own.
#[derive(Debug, Default)]
pub(crate) struct Admin;

/// The paths for operators, at the listener for clients and with its access checks.
#[derive(Debug, Default)]
pub(crate) struct GuardedAdmin;

/// The paths of every listener.
#[derive(Debug, Default)]
pub(crate) struct Health;

/// Implements a set of paths, and the registration of the parts that they use. The routes are in
/// `routes.rs`.
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
set!(GuardedAdmin: guarded(operation::status(false)), guarded(operation::metrics()), guarded(operation::doorbell(false));
     parts::register_token, operation::register);
set!(Health: operation::livez(), operation::readyz(); operation::register);

/// The sets of one listener.
pub(crate) trait Listener: OpenApi + Default + 'static {
    /// The text of its description.
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

impl Listener for (Public, Watch, GuardedAdmin, Health) {
    const ABOUT: &'static str = ABOUT;
}

/// The description that one listener serves.
#[derive(Debug)]
pub(crate) struct Description {
    spec: Bytes,
    /// Built on first use, because it is large and rarely requested.
    page: Arc<OnceLock<Bytes>>,
    make_page: fn() -> String,
}

impl Description {
    /// Describes a listener that serves these sets.
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

    /// `/docs`: a single file that needs no other file and no other host.
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
