//! The REST side of the admin service: translates, and nothing else.

mod conf;
mod page;
mod status;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Redirect, Response};
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
        .route("/status/", get(async || Redirect::temporary("/status")))
        .route("/status.css", get(page::style))
        .route("/status.js", get(page::script))
        // gRPC shares the port, and its answer to an unknown path is a 200.
        .route("/api", any(conf::nowhere))
        .route("/api/", any(conf::nowhere))
        .route("/api/{*rest}", any(conf::nowhere))
        .method_not_allowed_fallback(conf::not_so)
        .with_state(conf::Desk {
            service,
            token,
            turn: Arc::default(),
        })
}

/// Who does not speak gRPC gets a plain answer to a path that nobody has: that of gRPC is
/// a 200 of a type that browsers save to a file.
pub(crate) async fn plain(request: Request, next: Next) -> Response {
    let speaks = is_grpc(request.headers().get(CONTENT_TYPE));
    let answer = next.run(request).await;
    match !speaks && is_grpc(answer.headers().get(CONTENT_TYPE)) {
        true => (StatusCode::NOT_FOUND, "nothing is here; see /status\n").into_response(),
        false => answer,
    }
}

fn is_grpc(media: Option<&axum::http::HeaderValue>) -> bool {
    media.is_some_and(|media| media.as_bytes().starts_with(b"application/grpc"))
}
