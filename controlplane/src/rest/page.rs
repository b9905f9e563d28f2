//! `GET /status`: the status page, three files that are part of the program. They hold
//! no data: the page asks `/api/v1/status` with the token it is given.

use axum::body::Body;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, Response};

/// Nothing but these three files and calls of this very service: what a key, an error or
/// a rule says cannot become a script, and no other site may put the page into a frame.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; \
                      connect-src 'self'; img-src data:; form-action 'none'; \
                      base-uri 'none'; frame-ancestors 'none'";

pub(super) async fn html() -> Response<Body> {
    file("text/html; charset=utf-8", include_str!("page/status.html"))
}

pub(super) async fn style() -> Response<Body> {
    file("text/css; charset=utf-8", include_str!("page/status.css"))
}

pub(super) async fn script() -> Response<Body> {
    let media = "text/javascript; charset=utf-8";
    file(media, include_str!("page/status.js"))
}

fn file(media: &'static str, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, media),
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
