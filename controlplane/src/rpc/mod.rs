//! The admin service on the wire: authenticates and translates. No rules here,
//! and nothing that listens; the binary does that.

mod admin;
mod authenticate;
mod convert;
mod status;
#[cfg(test)]
mod tests;
mod views;

use quickwater_rpc::admin::admin_server::AdminServer;
use tonic::service::interceptor::InterceptedService;

pub use admin::AdminService;
pub use authenticate::{AdminToken, Authenticator, WeakToken};
pub use views::{AdminViews, FileView, MountCheck, NodeView};

use crate::Namespace;
use crate::store::Store;

/// Largest request taken, bytes.
const REQUEST_BYTES_MAX: usize = 1 << 20;

/// The admin service, ready to be added to a server; every call must carry the
/// token.
#[must_use]
pub fn admin_server<S: Store>(
    namespace: Namespace<S>,
    views: AdminViews,
    token: AdminToken,
) -> InterceptedService<AdminServer<AdminService<S>>, Authenticator> {
    let server = AdminServer::new(AdminService::new(namespace, views))
        .max_decoding_message_size(REQUEST_BYTES_MAX);
    InterceptedService::new(server, Authenticator::new(token))
}
