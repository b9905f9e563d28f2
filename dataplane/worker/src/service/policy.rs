//! What the path policies forbid before anything else is looked at. Absent: how a
//! policy is chosen (`proto`) and what the writing modes do (the engine).

use std::borrow::Cow;

use quickwater_engine::World;
use quickwater_proto::{ObjectKey, PolicyMode};
use quickwater_s3::{Operation, Request, S3Error, S3ErrorCode};

use super::{Observer, S3Service};
use crate::buffers::PoolBuf;

impl<W, O> S3Service<W, O>
where
    W: World,
    W::Disk: quickwater_engine::io::Disk<Buffer = PoolBuf> + Clone,
    O: Observer,
{
    /// Refuses what would change a READ_ONLY path: before the bucket is looked up
    /// and before a byte of the body is asked for. Each key of a batch delete is
    /// judged when the batch is known ([`Self::forbid_write`]).
    pub(super) fn forbid(&self, request: &Request) -> Result<(), S3Error> {
        if !request.operation.is_write() || request.operation == Operation::DeleteObjects {
            return Ok(());
        }
        let bucket = request.bucket()?.as_str();
        let key = request.key.as_ref().map_or("", ObjectKey::as_str);
        self.forbid_write(bucket, key)?;
        let makes_version = matches!(
            request.operation,
            Operation::PutObject(_) | Operation::CopyObject(_)
        );
        if makes_version && request.wait_persisted.is_some() {
            let policy = self.engine.shared().policies.policy(bucket, key);
            return forbid_waiting(policy.mode == PolicyMode::Transient);
        }
        Ok(())
    }

    /// Refuses a write to an object of a READ_ONLY path; with an empty key, to
    /// the bucket itself.
    pub(super) fn forbid_write(&self, bucket: &str, key: &str) -> Result<(), S3Error> {
        let policies = &self.engine.shared().policies;
        let policy = policies.policy(bucket, key);
        if policy.mode != PolicyMode::ReadOnly {
            return Ok(());
        }
        // The table may have been replaced since: then the rule goes unnamed.
        let path = policies.read(|table| {
            let path = policy.rule.and_then(|rule| table.path_of(rule));
            path.map(str::to_owned)
        });
        let text: Cow<'static, str> = match path {
            Some(path) => format!("The path policy of {path} is READ_ONLY.").into(),
            None => "The path policy is READ_ONLY.".into(),
        };
        Err(S3Error::new(S3ErrorCode::AccessDenied, text))
    }
}

/// Refuses to wait for what never comes.
pub(super) fn forbid_waiting(transient: bool) -> Result<(), S3Error> {
    match transient {
        false => Ok(()),
        true => Err(S3Error::request(
            "x-quickwater-wait-persisted: the object is TRANSIENT by the policy of its path and \
             never reaches the under file system.",
        )),
    }
}
