//! The REST side of the admin service: translates, and nothing else.

mod conf;

use axum::Router;
use axum::routing::get;

use crate::rpc::{AdminService, AdminToken};
use crate::store::Store;

/// The routes; every call must carry `Authorization: Bearer <admin token>`.
pub(crate) fn routes<S: Store>(service: AdminService<S>, token: AdminToken) -> Router {
    Router::new()
        .route("/api/v1/conf", get(conf::get::<S>).put(conf::put::<S>))
        .with_state(conf::Desk { service, token })
}
