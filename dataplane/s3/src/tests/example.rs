//! What tests of all parts share: the credentials and the day of the published examples
//! of S3, and requests of literal headers.

use crate::auth::Credentials;

pub(crate) const ACCESS_KEY: &str = "AKIAIOSFODNN7EXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
/// 20130524T000000Z.
pub(crate) const NOW_MS: i64 = 1_369_353_600_000;

/// Knows the access key of the examples, no other.
pub(crate) struct Example;

impl Credentials for Example {
    fn secret(&self, access_key: &str) -> Option<&str> {
        (access_key == ACCESS_KEY).then_some(SECRET)
    }
}

/// Names and values, as they came off the wire.
pub(crate) fn headers<'a>(pairs: &[(&'a str, &'a str)]) -> Vec<httparse::Header<'a>> {
    let header = |&(name, value): &(&'a str, &'a str)| httparse::Header {
        name,
        value: value.as_bytes(),
    };
    pairs.iter().map(header).collect()
}
