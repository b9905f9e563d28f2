//! How long the certificates of the cluster hold that a process goes by: told by metrics,
//! `status` and the log. They were read at its start, so what the files hold by now is not
//! told here. Absent: TLS.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use quickwater_worker::metrics::{Metric, Metrics};
use quickwater_worker::tls::Validity;

use super::Certificates;
use crate::cluster_certificate::{Standing, until};

/// How often the log says that a certificate is to be renewed.
const REMIND_EVERY: Duration = Duration::from_secs(24 * 3600);
/// As `status` calls it.
const NAME: &str = "cluster.certificate";

/// Until when the certificates in use hold.
#[derive(Debug, Clone)]
pub(super) struct Expiry {
    own: Validity,
    /// That of the authorities which ends first; none: the file is one that only TLS can read.
    authority: Option<Validity>,
    dir: PathBuf,
}

impl Expiry {
    /// Of what was read from `dir`.
    ///
    /// # Errors
    /// The process's own certificate cannot be read.
    pub(super) fn of(certificates: &Certificates, dir: &Path) -> Result<Self> {
        let all = Validity::of_pem(&certificates.certificate)
            .with_context(|| dir.join("cert.pem").display().to_string())?;
        let own = all.into_iter().next();
        let authority = match Validity::of_pem(&certificates.authority) {
            Ok(all) => all.into_iter().min_by_key(|validity| validity.until),
            Err(error) => {
                tracing::warn!(%error, "how long the cluster's authority holds is not known");
                None
            }
        };
        Ok(Self {
            own: own.with_context(|| format!("{} holds no certificate", dir.display()))?,
            authority,
            dir: dir.to_owned(),
        })
    }

    /// Shows them as a metric.
    pub(super) fn report(&self, metrics: &Metrics) {
        let held = [
            ("own", Some(&self.own)),
            ("authority", self.authority.as_ref()),
        ];
        let until: Vec<_> = held
            .into_iter()
            .filter_map(|(name, validity)| Some((name, seconds(validity?.until))))
            .collect();
        metrics.collect(move |samples| {
            for (name, until) in &until {
                samples.count(Metric::ClusterCertificateNotAfter, &[name], *until);
            }
        });
    }

    /// Name, state and a sentence, as of other conditions of a process.
    pub(super) fn condition(&self, now: SystemTime) -> (&'static str, &'static str, String) {
        let standing = Standing::of(&self.own, now);
        (NAME, standing.word(), until(&self.own, now))
    }

    /// Says in the log that it is to be renewed, once a day, for ever.
    pub(super) async fn remind(self) {
        loop {
            self.remind_once(SystemTime::now());
            tokio::time::sleep(REMIND_EVERY).await;
        }
    }

    fn remind_once(&self, now: SystemTime) {
        let (_, state, holds) = self.condition(now);
        if state != Standing::Valid.word() {
            tracing::warn!(
                state, dir = %self.dir.display(),
                "the certificate of this process in the cluster is {holds}: make another with `quickwater cluster renew`, put it there and restart this process"
            );
        }
    }
}

fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}
