//! Which path leads where.

use std::sync::Arc;

use poem::{
    Endpoint, EndpointExt, IntoResponse, Response, Route,
    error::{MethodNotAllowedError, NotFoundError},
    get, post,
};

use crate::{App, live, page, problem::Problem, results, status, upload};

/// All of the HTTP interface.
pub fn routes(app: Arc<App>) -> impl Endpoint<Output = Response> + 'static {
    Route::new()
        .at("/", get(page::home))
        .at("/assets/:name", get(page::file))
        .at("/upload", post(upload::upload))
        .at("/results/:id", get(results::result))
        .at("/status", get(status::status))
        .at("/events", get(live::events))
        .at("/livez", get(status::livez))
        .at("/readyz", get(status::readyz))
        .at("/metrics", get(status::metrics))
        .data(app)
        .catch_error(|_: NotFoundError| async {
            Problem::not_found("there is nothing at this address").into_response()
        })
        .catch_error(|_: MethodNotAllowedError| async {
            Problem::method_not_allowed("this address does not take that method").into_response()
        })
        .map_to_response()
}
