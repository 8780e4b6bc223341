//! The routes of both listeners.

use std::sync::Arc;

use poem::{
    Endpoint, EndpointExt, IntoEndpoint, IntoResponse, Response, Route, RouteMethod,
    error::{MethodNotAllowedError, NotFoundError},
};

use crate::{
    Access, App,
    api::{Admin, Description, GuardedAdmin, Health, Public, Watch},
    operator::{
        live::{self, Watchers},
        page::{self, Half, Home},
        ready, status,
    },
    problem::Problem,
    upload::{self, erase, results},
};

/// Returns the routes for clients, with the checks of `access`. Includes the operator's routes if
/// the operator has no listener of its own.
pub fn routes(app: &App, access: Arc<Access>) -> impl Endpoint<Output = Response> + use<> + 'static {
    let is_live = app.uploads.settings.web.is_live_for_everybody();
    let is_apart = app.uploads.settings.web.admin_listen.is_some();
    let routes = with_page(Route::new(), app, if is_live { Half::Both } else { Half::Uploads })
        .at("/upload", post(upload::upload))
        .at("/results/:id", get_or_delete(results::result, erase::erase))
        .at("/livez", get(ready::livez))
        .at("/readyz", get(ready::readyz));
    let routes =
        if is_live { routes.at("/events", get(live::events.data(Watchers::Clients))) } else { routes };
    let routes = match (is_live, is_apart) {
        (true, true) => described(routes, &Description::of::<(Public, Watch, Health)>()),
        // Settings are only valid like this if the operator has a listener of its own.
        (false, _) => described(routes, &Description::of::<(Public, Health)>()),
        (true, false) => {
            described(with_admin(routes), &Description::of::<(Public, Watch, GuardedAdmin, Health)>())
        }
    };
    access.guard(app.uploads.clock.clone(), app.metrics.clone(), with_problems(routes, app))
}

/// Returns the routes for the operator.
pub fn admin_routes(app: &App) -> impl Endpoint<Output = Response> + use<> + 'static {
    let routes = with_page(Route::new(), app, Half::Live)
        .at("/events", get(live::events.data(Watchers::Operator)))
        .at("/livez", get(ready::livez))
        .at("/readyz", get(ready::readyz));
    with_problems(described(with_admin(routes), &Description::of::<(Admin, Health)>()), app)
}

fn with_page(routes: Route, app: &App, half: Half) -> Route {
    let models: Vec<_> = app.jobs.models().collect();
    let home = Home::new(half, &models, app.uploads.settings.web.max_image.as_u64());
    routes.at("/", get(page::home.data(home))).at("/assets/:name", get(page::file))
}

fn with_admin(routes: Route) -> Route {
    routes
        .at("/status", get(status::status))
        .at("/metrics", get(status::metrics))
        .at("/doorbell", post(status::doorbell))
}

fn described(routes: Route, description: &Description) -> Route {
    routes.at("/openapi.json", get(description.json())).at("/docs", get(description.page()))
}

fn with_problems(routes: Route, app: &App) -> impl Endpoint<Output = Response> + use<> + 'static {
    let counting = app.metrics.clone();
    routes
        .data(app.uploads.clone())
        .data(app.operator.clone())
        .catch_error(|_: NotFoundError| async {
            Problem::not_found("nothing is at this address").into_response()
        })
        .map_to_response()
        .after(move |answered: poem::Result<Response>| {
            let status = answered.as_ref().map_or_else(|error| error.status(), Response::status);
            counting.responded(status.as_u16());
            std::future::ready(answered)
        })
}

/// Accepts GET and HEAD.
fn get<E: IntoEndpoint<Endpoint: 'static> + 'static>(endpoint: E) -> impl Endpoint<Output = Response> {
    only("GET, HEAD", poem::get(endpoint))
}

/// Accepts GET, HEAD and DELETE.
fn get_or_delete<G, D>(look: G, delete: D) -> impl Endpoint<Output = Response>
where
    G: IntoEndpoint<Endpoint: 'static> + 'static,
    D: IntoEndpoint<Endpoint: 'static> + 'static,
{
    only("GET, HEAD, DELETE", poem::get(look).delete(delete))
}

fn post<E: IntoEndpoint<Endpoint: 'static> + 'static>(endpoint: E) -> impl Endpoint<Output = Response> {
    only("POST", poem::post(endpoint))
}

/// Answers other methods with 405 and the list of allowed ones.
fn only(methods: &'static str, endpoint: RouteMethod) -> impl Endpoint<Output = Response> {
    endpoint.catch_error(move |_: MethodNotAllowedError| async move {
        Problem::method_not_allowed(methods).into_response()
    })
}
