//! Path policies for admins, the same for gRPC and REST: check, set, tell the
//! data plane, answer. Rules are those of `crate::policies`.

use std::collections::HashSet;
use std::net::SocketAddr;

use quickwater_proto::MetadataError;
use quickwater_rpc::admin::{
    PathConfigCheckReply, PathConfigGetReply, PathConfigOrigin, PathConfigProblem,
    PathConfigSetReply, PathConfigTestReply,
};

use super::AdminService;
use crate::namespace::{PolicyChange, PolicyError, StoredPolicies};
use crate::policies::{Document, Problem};
use crate::records::PolicyVersion;
use crate::store::Store;

/// Policies that were set.
pub(crate) struct Set {
    /// Their version.
    pub(crate) version: u64,
    /// What in them is hardly meant.
    pub(crate) warnings: Vec<Problem>,
}

impl<S: Store> AdminService<S> {
    /// A version of the policies; without one, that in force.
    pub(crate) async fn policies(
        &self,
        version: Option<u64>,
    ) -> Result<StoredPolicies, PolicyError> {
        self.namespace.policies(version).await
    }

    pub(super) async fn check_policies(
        &self,
        text: &str,
    ) -> Result<PathConfigCheckReply, MetadataError> {
        let document = match Document::parse(text, Some(self.workers())) {
            Ok(document) => document,
            Err(error) => {
                return Ok(PathConfigCheckReply {
                    problems: problems(error.0),
                    ..PathConfigCheckReply::default()
                });
            }
        };
        let written = document.to_text();
        Ok(PathConfigCheckReply {
            problems: Vec::new(),
            warnings: problems(self.warnings(&document).await?),
            document: written.map_err(|error| MetadataError::Unavailable(error.to_string()))?,
        })
    }

    /// Sets a document; when this answers, every shard of this process decides
    /// by it.
    pub(crate) async fn set_policies(
        &self,
        text: &str,
        expected: Option<u64>,
        by: &str,
    ) -> Result<Set, PolicyError> {
        let set = self.namespace.set_policies(text, self.change(expected, by));
        let (version, document) = set.await?;
        self.put_in_force(version, &document).await
    }

    pub(super) async fn rollback_policies(
        &self,
        version: u64,
        expected: Option<u64>,
        by: &str,
    ) -> Result<Set, PolicyError> {
        let change = self.change(expected, by);
        let (version, document) = self.namespace.rollback_policies(version, change).await?;
        self.put_in_force(version, &document).await
    }

    pub(super) async fn test_policies(
        &self,
        path: &Subject<'_>,
        text: &str,
    ) -> Result<PathConfigTestReply, PolicyError> {
        let (document, version) = match text {
            "" => {
                let stored = self.policies(None).await?;
                (Document::parse(&stored.text, None)?, Some(stored.version))
            }
            text => (Document::parse(text, Some(self.workers()))?, None),
        };
        let (rule, place) = document.decide(path.bucket, path.key);
        Ok(PathConfigTestReply {
            policy_mode: rule.policy.mode.as_str().into(),
            write_replicas: rule.policy.write_replicas.into(),
            on_dirty_limit: rule.policy.over_limit.as_str().into(),
            rule: place.map(u32::from),
            rule_path: rule.path.clone().unwrap_or_default(),
            description: rule.description.clone().unwrap_or_default(),
            version,
        })
    }

    async fn put_in_force(&self, version: u64, document: &Document) -> Result<Set, PolicyError> {
        self.views.node.policies_changed(version, &document.table);
        tracing::info!(
            version,
            rules = document.path_rules.len(),
            "path policies set"
        );
        // They are set: what cannot be looked up now must not look like a failure.
        let warnings = self.warnings(document).await;
        Ok(Set {
            version,
            warnings: warnings.unwrap_or_else(|_| document.warnings()),
        })
    }

    /// Warnings of the document, and of rules for buckets that are not there.
    async fn warnings(&self, document: &Document) -> Result<Vec<Problem>, MetadataError> {
        let buckets = self.namespace.buckets().await?;
        let names: HashSet<&str> = buckets.iter().map(|bucket| bucket.name.as_str()).collect();
        let mut warnings = document.warnings();
        warnings.extend(document.missing_buckets(&names));
        Ok(warnings)
    }

    fn change<'a>(&self, expected: Option<u64>, by: &'a str) -> PolicyChange<'a> {
        PolicyChange {
            by,
            expected,
            workers: self.workers(),
        }
    }

    fn workers(&self) -> u8 {
        self.views.node.copies_max()
    }
}

/// The path that a policy is asked for.
pub(super) struct Subject<'a> {
    bucket: &'a str,
    key: &'a str,
}

impl<'a> Subject<'a> {
    /// Takes `/bucket` or `/bucket/key` apart.
    pub(super) fn parse(path: &'a str) -> Result<Self, String> {
        let inner = path.strip_prefix('/').unwrap_or_default();
        let (bucket, key) = inner.split_once('/').unwrap_or((inner, ""));
        match bucket.is_empty() {
            true => Err(format!("{path:?} is not a path; write /bucket/key")),
            false => Ok(Self { bucket, key }),
        }
    }
}

/// Who made a call, for the history.
pub(crate) fn by(told: &str, from: Option<SocketAddr>) -> String {
    let told = match told.trim() {
        "" => "unnamed",
        told => told,
    };
    match from {
        Some(from) => format!("{told} (from {from})"),
        None => told.to_owned(),
    }
}

pub(super) fn stored(stored: StoredPolicies) -> PathConfigGetReply {
    let origin = match stored.origin {
        Some(row) => origin((stored.version, row)),
        None => PathConfigOrigin {
            version: stored.version,
            by: "built in".into(),
            ..PathConfigOrigin::default()
        },
    };
    PathConfigGetReply {
        document: stored.text,
        origin: Some(origin),
    }
}

pub(super) fn origin((version, row): (u64, PolicyVersion)) -> PathConfigOrigin {
    PathConfigOrigin {
        version,
        set_ms: row.set_ms,
        by: row.by,
        rollback_of: row.rollback_of.unwrap_or(0),
        rules: row.rules,
    }
}

pub(super) fn set(set: Set) -> PathConfigSetReply {
    PathConfigSetReply {
        version: set.version,
        warnings: problems(set.warnings),
    }
}

fn problems(problems: Vec<Problem>) -> Vec<PathConfigProblem> {
    let wire = |problem: Problem| PathConfigProblem {
        field: problem.field,
        message: problem.message,
    };
    problems.into_iter().map(wire).collect()
}
