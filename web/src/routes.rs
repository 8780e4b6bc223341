//! Which path leads where.

use std::sync::Arc;

use poem::{
    Endpoint, EndpointExt, IntoResponse, Response, Route,
    error::{MethodNotAllowedError, NotFoundError},
    get, post,
};

use crate::{App, live, page, problem::Problem, results, status, upload};

/// What clients see. Where the operator's side has no listener of its own, that as well.
pub fn routes(app: Arc<App>) -> impl Endpoint<Output = Response> + 'static {
    let routes = Route::new()
        .at("/", get(page::home))
        .at("/assets/:name", get(page::file))
        .at("/upload", post(upload::upload))
        .at("/results/:id", get(results::result))
        .at("/events", get(live::events))
        .at("/livez", get(status::livez))
        .at("/readyz", get(status::readyz));
    let is_apart = app.settings.web.admin_listen.is_some();
    with_problems(if is_apart { routes } else { with_admin(routes) }, app)
}

/// What the operator sees.
pub fn admin_routes(app: Arc<App>) -> impl Endpoint<Output = Response> + 'static {
    let routes = Route::new().at("/livez", get(status::livez)).at("/readyz", get(status::readyz));
    with_problems(with_admin(routes), app)
}

fn with_admin(routes: Route) -> Route {
    routes
        .at("/status", get(status::status))
        .at("/metrics", get(status::metrics))
        .at("/doorbell", post(status::doorbell))
}

fn with_problems(routes: Route, app: Arc<App>) -> impl Endpoint<Output = Response> + 'static {
    let counting = app.clone();
    routes
        .data(app)
        .catch_error(|_: NotFoundError| async {
            Problem::not_found("there is nothing at this address").into_response()
        })
        .catch_error(|_: MethodNotAllowedError| async {
            Problem::method_not_allowed("this address does not take that method").into_response()
        })
        .map_to_response()
        .after(move |answered: poem::Result<Response>| {
            let status = answered.as_ref().map_or_else(|error| error.status(), Response::status);
            counting.metrics.responded(status.as_u16());
            std::future::ready(answered)
        })
}
