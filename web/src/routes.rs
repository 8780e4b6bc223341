//! Which path leads where.

use std::sync::Arc;

use poem::{
    Endpoint, EndpointExt, IntoEndpoint, IntoResponse, Response, Route, RouteMethod,
    error::{MethodNotAllowedError, NotFoundError},
};

use crate::{
    App,
    api::{Admin, Description, Health, Public},
    live, page,
    problem::Problem,
    results, status, upload,
};

/// All of the HTTP interface.
pub fn routes(app: Arc<App>) -> impl Endpoint<Output = Response> + 'static {
    let description = Description::of::<(Public, Admin, Health)>();
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
        .at("/openapi.json", get(description.json()))
        .at("/docs", get(description.page()))
        .data(app)
        .catch_error(|_: NotFoundError| async {
            Problem::not_found("there is nothing at this address").into_response()
        })
        .map_to_response()
}

/// Takes GET, and HEAD as everything that takes GET does.
fn get<E: IntoEndpoint<Endpoint: 'static> + 'static>(endpoint: E) -> impl Endpoint<Output = Response> {
    only("GET, HEAD", poem::get(endpoint))
}

fn post<E: IntoEndpoint<Endpoint: 'static> + 'static>(endpoint: E) -> impl Endpoint<Output = Response> {
    only("POST", poem::post(endpoint))
}

/// Other methods are told which there are.
fn only(methods: &'static str, endpoint: RouteMethod) -> impl Endpoint<Output = Response> {
    endpoint.catch_error(move |_: MethodNotAllowedError| async move {
        Problem::method_not_allowed(methods).into_response()
    })
}
