//! The endpoint's certificate and key. Absent: changing them.

use std::time::SystemTime;

use quickwater_worker::tls::Identity;

use super::Check;
use crate::certificate;
use crate::settings::{Settings, TlsSettings};

const NAME: &str = "certificate";
const ADVICE: &str =
    "give a PEM chain, the endpoint's own certificate first, and the PEM key that belongs to it";

/// Nothing when the endpoint speaks plain HTTP.
pub(super) fn checks(settings: &Settings) -> Vec<Check> {
    settings.s3.tls.iter().map(check).collect()
}

fn check(tls: &TlsSettings) -> Check {
    let pem = match certificate::read(tls) {
        Ok(pem) => pem,
        Err(error) => return Check::fail(NAME, format!("{error:#}"), ADVICE),
    };
    let validity = match Identity::new(&pem.chain, &pem.key) {
        Ok((_, validity)) => validity,
        Err(error) => return Check::fail(NAME, error.to_string(), ADVICE),
    };
    let now = SystemTime::now();
    let days = validity.left(now).as_secs() / (24 * 3600);
    let names = validity.names.join(", ");
    let found = format!("for {names}, {days} days left");
    let remarks = certificate::remarks(tls, &validity, now).join("; ");
    match remarks.is_empty() {
        true => Check::ok(NAME, found),
        false => Check::warn(NAME, found, &remarks),
    }
}
