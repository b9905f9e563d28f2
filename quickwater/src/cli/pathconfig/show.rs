//! `get`, `test` and `history`: what there is.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use quickwater_rpc::admin::{
    PathConfigGetReply, PathConfigGetRequest, PathConfigHistoryRequest, PathConfigOrigin,
    PathConfigTestReply, PathConfigTestRequest,
};
use serde_json::{Value, json};

use crate::cli::output::table;
use crate::cli::remote::{Target, explain};
use crate::date;

pub(super) fn get(version: Option<u64>, target: &Target) -> Result<ExitCode> {
    let stored = fetch(version, target)?;
    let origin = stored.origin.unwrap_or_default();
    let document: Value = serde_json::from_str(&stored.document)
        .context("the service answered with a document that is no JSON")?;
    let mut json = origin_json(&origin);
    json["document"] = document;
    target.output.show(&json, || stored.document)
}

/// A version; without one, that in force.
pub(super) fn fetch(version: Option<u64>, target: &Target) -> Result<PathConfigGetReply> {
    target.with(|mut remote| async move {
        let reply = remote.path_config_get(PathConfigGetRequest { version });
        Ok(reply.await.map_err(|s| explain(&s))?.into_inner())
    })
}

pub(super) fn test(path: &str, file: Option<&Path>, target: &Target) -> Result<ExitCode> {
    let path = match path.strip_prefix("s3://") {
        Some(bare) => format!("/{bare}"),
        None if path.starts_with('/') => path.to_owned(),
        None => format!("/{path}"),
    };
    let document = file.map(super::read_document).transpose()?;
    let request = PathConfigTestRequest {
        path: path.clone(),
        document: document.unwrap_or_default(),
    };
    let reply = target.with(|mut remote| async move {
        let reply = remote.path_config_test(request).await;
        Ok(reply.map_err(|s| explain(&s))?.into_inner())
    })?;
    let rule = reply.rule.map(|_| &reply.rule_path);
    let json = json!({
        "path": path,
        "policyMode": reply.policy_mode,
        "properties": {
            "writeReplicas": reply.write_replicas,
            "onDirtyLimit": reply.on_dirty_limit,
        },
        "rule": rule,
        "ruleIndex": reply.rule,
        "description": reply.description,
        "version": reply.version,
    });
    target.output.show(&json, || test_text(&path, &reply))
}

fn test_text(path: &str, reply: &PathConfigTestReply) -> String {
    let rule = match reply.rule {
        Some(place) => format!("{}  (pathRules[{place}])", reply.rule_path),
        None => "default rule".into(),
    };
    let by = match reply.version {
        Some(version) => format!("version {version}, in force"),
        None => "the file, not in force".into(),
    };
    let mut rows = vec![
        ("path", path.to_owned()),
        ("policyMode", reply.policy_mode.clone()),
        ("writeReplicas", reply.write_replicas.to_string()),
        ("onDirtyLimit", reply.on_dirty_limit.clone()),
        ("rule", rule),
    ];
    if !reply.description.is_empty() {
        rows.push(("description", reply.description.clone()));
    }
    rows.push(("decided by", by));
    let row = |(name, value): (&str, String)| vec![name.to_owned(), value];
    table(&rows.into_iter().map(row).collect::<Vec<_>>())
}

pub(super) fn history(target: &Target) -> Result<ExitCode> {
    let versions = target.with(|mut remote| async move {
        let reply = remote
            .path_config_history(PathConfigHistoryRequest {})
            .await;
        Ok(reply.map_err(|s| explain(&s))?.into_inner().versions)
    })?;
    let json = json!({ "versions": versions.iter().map(origin_json).collect::<Vec<_>>() });
    target.output.show(&json, || {
        if versions.is_empty() {
            return "nobody has set path policies yet; WRITE_THROUGH holds everywhere\n".into();
        }
        let heading = ["VERSION", "SET", "RULES", "BY"];
        let mut rows = vec![heading.map(str::to_owned).to_vec()];
        rows.extend(versions.iter().map(row));
        table(&rows)
    })
}

fn row(origin: &PathConfigOrigin) -> Vec<String> {
    let by = match origin.rollback_of {
        0 => origin.by.clone(),
        of => format!("{} (version {of} again)", origin.by),
    };
    vec![
        origin.version.to_string(),
        date::text(origin.set_ms),
        origin.rules.to_string(),
        by,
    ]
}

fn origin_json(origin: &PathConfigOrigin) -> Value {
    let set = (origin.version > 0).then(|| date::text(origin.set_ms));
    json!({
        "version": origin.version,
        "set": set,
        "by": origin.by,
        "rollbackOf": Some(origin.rollback_of).filter(|of| *of > 0),
        "rules": origin.rules,
    })
}
