//! The endpoint's certificate while it serves: loaded, and loaded again when its
//! files change. Absent: handshakes.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use quickwater_worker::metrics::{Metric, Metrics};
use quickwater_worker::tls::{Identity, Validity};

use crate::certificate;
use crate::settings::TlsSettings;

/// How often an operator is told of a certificate that needs care.
const REMIND_EVERY: Duration = Duration::from_secs(24 * 3600);

/// A certificate in use, and what its files were when it was read.
pub(super) struct Loaded {
    pub(super) identity: Arc<Identity>,
    validity: Validity,
    stamp: certificate::Stamp,
}

/// Loads certificate and key.
///
/// # Errors
/// They cannot be read or do not belong together.
pub(super) fn load(tls: &TlsSettings) -> Result<Loaded> {
    // Before the files, so that a change meanwhile is noticed.
    let stamp = certificate::stamp(tls);
    let pem = certificate::read(tls)?;
    let (identity, validity) =
        Identity::new(&pem.chain, &pem.key).with_context(|| describe(tls))?;
    remind(tls, &validity);
    Ok(Loaded {
        identity,
        validity,
        stamp,
    })
}

/// Reports the certificate.
pub(super) fn collect(metrics: &Metrics, identity: Arc<Identity>) {
    metrics.collect(move |samples| {
        let until = identity.until_seconds();
        samples.count(Metric::TlsCertificateExpirySeconds, &[], until);
        let reloads = Metric::TlsCertificateReloads;
        samples.count(reloads, &["ok"], identity.replaced.load(Relaxed));
        samples.count(reloads, &["failed"], identity.failed.load(Relaxed));
    });
}

/// Looks at the files every `s3.tls.reload`; a pair that cannot be used leaves the
/// old one in place.
pub(super) async fn follow(mut loaded: Loaded, tls: TlsSettings) {
    let mut reminded = Instant::now();
    loop {
        tokio::time::sleep(tls.reload).await;
        let looked = tokio::task::spawn_blocking({
            let (tls, before) = (tls.clone(), loaded.stamp.clone());
            move || look(&tls, &before)
        });
        let Ok(changed) = looked.await else {
            return;
        };
        if let Some((stamp, pem)) = changed {
            // A pair that was half-written changes once more.
            loaded.stamp = stamp;
            match renew(&loaded.identity, &tls, pem) {
                Ok(validity) => {
                    tracing::info!(certificate = %tls.certificate.display(), "the new certificate is in use");
                    remind(&tls, &validity);
                    loaded.validity = validity;
                }
                Err(error) => {
                    loaded.identity.failed.fetch_add(1, Relaxed);
                    let error = format!("{error:#}");
                    tracing::error!(
                        error,
                        "the changed certificate cannot be used; the old one stays"
                    );
                }
            }
        }
        if reminded.elapsed() >= REMIND_EVERY {
            reminded = Instant::now();
            remind(&tls, &loaded.validity);
        }
    }
}

/// The files, if they are not what they were.
fn look(
    tls: &TlsSettings,
    before: &certificate::Stamp,
) -> Option<(certificate::Stamp, Result<certificate::Pem>)> {
    let stamp = certificate::stamp(tls);
    (stamp != *before).then(|| (stamp, certificate::read(tls)))
}

fn renew(
    identity: &Identity,
    tls: &TlsSettings,
    pem: Result<certificate::Pem>,
) -> Result<Validity> {
    let pem = pem?;
    let validity = identity.replace(&pem.chain, &pem.key);
    validity.with_context(|| describe(tls))
}

fn describe(tls: &TlsSettings) -> String {
    let (certificate, key) = (tls.certificate.display(), tls.key.display());
    format!("certificate {certificate} (s3.tls.certificate) and key {key} (s3.tls.key)")
}

fn remind(tls: &TlsSettings, validity: &Validity) {
    for remark in certificate::remarks(tls, validity, SystemTime::now()) {
        tracing::warn!("{remark}");
    }
}
