//! The bearer token of admin calls.

use std::hint::black_box;
use std::sync::Arc;

use tonic::service::Interceptor;
use tonic::{Request, Status};

/// Shortest token, bytes: 128 bits in hex.
const TOKEN_BYTES_MIN: usize = 32;
/// Longest token, bytes.
const TOKEN_BYTES_MAX: usize = 1024;

/// The token is no good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the admin token must have {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} visible ASCII characters"
)]
pub struct WeakToken;

/// The secret that admin calls carry. Never shown.
#[derive(Clone)]
pub struct AdminToken(Arc<str>);

impl AdminToken {
    /// Takes a token of 32 to 1,024 visible ASCII characters; white space around
    /// it, as files have, does not count.
    ///
    /// # Errors
    /// [`WeakToken`].
    pub fn new(token: &str) -> Result<Self, WeakToken> {
        let token = token.trim();
        let fits = (TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&token.len());
        match fits && token.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(Self(token.into())),
            false => Err(WeakToken),
        }
    }
}

impl AdminToken {
    /// Judges the value of an `authorization` header.
    ///
    /// # Errors
    /// A text for the caller.
    pub(crate) fn admit(&self, authorization: Option<&[u8]>) -> Result<(), &'static str> {
        let Some(given) = authorization else {
            return Err("the call carries no admin token");
        };
        match bearer(given) {
            Some(token) if same(token, self.0.as_bytes()) => Ok(()),
            _ => Err("wrong admin token"),
        }
    }
}

impl std::fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdminToken")
    }
}

/// Lets calls through that carry `authorization: Bearer <token>`.
#[derive(Debug, Clone)]
pub struct Authenticator(AdminToken);

impl Authenticator {
    pub(super) fn new(token: AdminToken) -> Self {
        Self(token)
    }
}

impl Interceptor for Authenticator {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let given = request
            .metadata()
            .get("authorization")
            .map(|value| value.as_bytes());
        match self.0.admit(given) {
            Ok(()) => Ok(request),
            Err(why) => Err(Status::unauthenticated(why)),
        }
    }
}

/// The credentials behind the scheme, which is case-insensitive (RFC 9110,
/// section 11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
}

/// Compares in a time that depends on the lengths only.
fn same(given: &[u8], wanted: &[u8]) -> bool {
    let both = given.iter().zip(wanted);
    let difference = both.fold(0, |difference, (a, b)| black_box(difference | (a ^ b)));
    given.len() == wanted.len() && difference == 0
}
