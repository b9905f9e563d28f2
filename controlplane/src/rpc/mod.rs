//! The admin service on the wire: authenticates and translates. No rules here,
//! and nothing that listens; the binary does that.

mod admin;
mod authenticate;
mod cluster;
mod convert;
pub mod identity;
mod jobs;
mod nodes;
mod persist;
mod persist_rows;
mod policies;
mod status;
#[cfg(test)]
mod tests;
mod views;

use axum::middleware;
use quickwater_rpc::admin::admin_server::AdminServer;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;

pub use admin::AdminService;
pub use authenticate::{AdminToken, Authenticator, WeakToken};
pub use cluster::cluster_routes;
pub(crate) use cluster::{
    SESSION_HEADER, bits, peers_from_wire, position_from_wire, position_to_wire, slots,
    table_from_wire,
};
pub(crate) use policies::by;
pub use views::{
    AdminViews, ClusterView, FileView, MountCheck, NodeView, PersistChange, PersistFilter,
    PersistPlace, PersistView,
};

use crate::Namespace;
use crate::jobs::Jobs;
use crate::store::Store;

/// Largest request taken, bytes.
const REQUEST_BYTES_MAX: usize = 1 << 20;

/// The admin service, gRPC and REST, ready to be added to a server that accepts
/// HTTP/1 too; every call must carry the token.
#[must_use]
pub fn admin_routes<S: Store>(
    namespace: Namespace<S>,
    jobs: Jobs<S>,
    views: AdminViews,
    token: AdminToken,
) -> Routes {
    let service = AdminService::new(namespace, jobs, views);
    let rest = crate::rest::routes(service.clone(), token.clone());
    let server = AdminServer::new(service).max_decoding_message_size(REQUEST_BYTES_MAX);
    let server = InterceptedService::new(server, Authenticator::new(token));
    let router = Routes::new(server).into_axum_router().merge(rest);
    router.layer(middleware::from_fn(crate::rest::plain)).into()
}
