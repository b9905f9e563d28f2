//! The REST side of the admin service: translates, and nothing else.

mod conf;
mod page;
mod status;

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::response::Redirect;
use axum::routing::{any, get, post};

use crate::rpc::{AdminService, AdminToken};
use crate::store::Store;

/// The routes; every call of the API must carry `Authorization: Bearer <admin token>`. The
/// status page itself needs none: it is the same for all and holds no data.
pub(crate) fn routes<S: Store>(service: AdminService<S>, token: AdminToken) -> Router {
    Router::new()
        .route("/api/v1/conf", get(conf::get::<S>).put(conf::put::<S>))
        .route("/api/v1/conf/test", post(status::test_path::<S>))
        .route("/api/v1/status", get(status::get::<S>))
        // Whoever types the address alone means the page.
        .route("/", get(async || Redirect::temporary("/status")))
        .route("/status", get(page::html))
        .route("/status.css", get(page::style))
        .route("/status.js", get(page::script))
        // gRPC shares the port, and its answer to an unknown path is a 200.
        .route("/api/{*rest}", any(async || StatusCode::NOT_FOUND))
        .with_state(conf::Desk {
            service,
            token,
            turn: Arc::default(),
        })
}
