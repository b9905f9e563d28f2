//! The endpoints of a run, with their keys and processes.

use super::BenchError;
use crate::cli::RunArgs;
use crate::client::{Address, Keys, Target, Trust};
use crate::model::Endpoint;
use crate::process::Processes;

/// Longest bucket name (the limit of S3).
const BUCKET_BYTES_MAX: usize = 63;

/// An endpoint under test.
#[derive(Debug)]
pub(crate) struct Site {
    /// `a` or `b`.
    pub(crate) label: &'static str,
    pub(crate) target: Target,
    /// Where objects are written before the round; none: they are there.
    pub(crate) prepare: Option<Target>,
    pub(crate) processes: Processes,
    pids: Vec<String>,
}

impl Site {
    /// The endpoint, and the second one if there is one.
    pub(super) fn all(args: &RunArgs) -> Result<Vec<Self>, BenchError> {
        let (target, versus) = (&args.target, &args.versus);
        let key = |own: &Option<String>| own.clone();
        let first = Self::new(
            "a",
            args,
            Raw {
                url: &target.endpoint,
                bucket: &target.bucket,
                id: key(&target.access_key_id),
                secret: key(&target.secret_access_key),
                anonymous: target.anonymous,
                pids: &target.server_pid,
                no_prepare: target.no_prepare,
            },
        )?;
        let Some(url) = &versus.vs else {
            return Ok(vec![first]);
        };
        let second = Self::new(
            "b",
            args,
            Raw {
                url,
                bucket: versus.vs_bucket.as_ref().unwrap_or(&target.bucket),
                id: key(&versus.vs_access_key_id).or_else(|| key(&target.access_key_id)),
                secret: key(&versus.vs_secret_access_key)
                    .or_else(|| key(&target.secret_access_key)),
                anonymous: versus.vs_anonymous,
                pids: &versus.vs_server_pid,
                no_prepare: versus.vs_no_prepare,
            },
        )?;
        Ok(vec![first, second])
    }

    fn new(label: &'static str, args: &RunArgs, raw: Raw<'_>) -> Result<Self, BenchError> {
        let usage = |e: &dyn std::fmt::Display| BenchError::Usage(e.to_string());
        let processes = Processes::parse(raw.pids).map_err(|e| usage(&e))?;
        processes.cost().map_err(|e| usage(&e))?;
        let trust = Trust {
            ca: args.target.ca.clone(),
            insecure: args.target.insecure,
        };
        let target = Target {
            address: Address::parse(raw.url, &trust).map_err(|e| usage(&e))?,
            bucket: bucket(raw.bucket)?,
            region: args.target.region.clone(),
            keys: raw.keys()?,
            sign_payload: args.target.sign_payload,
        };
        let prepare = match &args.objects.prepare_endpoint {
            _ if raw.no_prepare => None,
            None => Some(target.clone()),
            Some(url) => Some(Target {
                address: Address::parse(url, &trust).map_err(|e| usage(&e))?,
                ..target.clone()
            }),
        };
        Ok(Self {
            label,
            target,
            prepare,
            processes,
            pids: raw.pids.to_vec(),
        })
    }

    /// For the report.
    pub(super) fn described(&self) -> Endpoint {
        Endpoint {
            label: self.label.to_owned(),
            url: self.target.address.url.clone(),
            bucket: self.target.bucket.clone(),
            signed: self.target.keys.is_some(),
            server_pids: self.pids.clone(),
        }
    }
}

struct Raw<'a> {
    url: &'a str,
    bucket: &'a str,
    id: Option<String>,
    secret: Option<String>,
    anonymous: bool,
    pids: &'a [String],
    no_prepare: bool,
}

impl Raw<'_> {
    fn keys(&self) -> Result<Option<Keys>, BenchError> {
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        match (&self.id, &self.secret) {
            _ if self.anonymous => Ok(None),
            (Some(id), Some(secret)) if plain(id) => Ok(Some(Keys {
                access_key_id: id.clone(),
                secret_access_key: secret.clone(),
            })),
            (Some(_), Some(_)) => Err(BenchError::Usage(
                "the access key has odd characters".into(),
            )),
            _ => Err(BenchError::Usage(format!(
                "no keys for {}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or say --anonymous",
                self.url
            ))),
        }
    }
}

fn bucket(name: &str) -> Result<String, BenchError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if name.is_empty() || name.len() > BUCKET_BYTES_MAX || !name.bytes().all(plain) {
        return Err(BenchError::Usage(format!(
            "`{name}` is not the name of a bucket"
        )));
    }
    Ok(name.to_owned())
}
