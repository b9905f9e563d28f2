//! The REST side of the admin service: translates, and nothing else.

mod conf;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{any, get};

use crate::rpc::{AdminService, AdminToken};
use crate::store::Store;

/// The routes; every call must carry `Authorization: Bearer <admin token>`.
pub(crate) fn routes<S: Store>(service: AdminService<S>, token: AdminToken) -> Router {
    Router::new()
        .route("/api/v1/conf", get(conf::get::<S>).put(conf::put::<S>))
        // gRPC shares the port, and its answer to an unknown path is a 200.
        .route("/api/{*rest}", any(async || StatusCode::NOT_FOUND))
        .with_state(conf::Desk { service, token })
}
