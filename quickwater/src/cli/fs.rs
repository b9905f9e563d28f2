//! `fs ls|stat|rm`.

use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow};
use clap::Subcommand;
use quickwater_rpc::admin::{self, FsEntry};
use serde_json::json;

use super::exit::Kind;
use super::output::{emit, size, table};
use super::remote::{Target, explain};
use crate::date;

/// Entries of one page asked for.
const PAGE_ENTRIES: u32 = 1000;

#[derive(Debug, Subcommand)]
pub(super) enum FsVerb {
    /// List buckets, or the objects of one: BUCKET or BUCKET/PREFIX
    #[command(
        after_help = "Examples:\n  quickwater fs ls --dir ./data\n  quickwater fs ls corpus --dir ./data\n  quickwater fs ls corpus/2026/ --recursive --limit 50"
    )]
    Ls {
        /// BUCKET or BUCKET/PREFIX; none or `/` lists the buckets
        #[arg(default_value = "/", hide_default_value = true)]
        path: String,
        /// Every object below, not one level
        #[arg(long, short)]
        recursive: bool,
        /// Stop after so many entries
        #[arg(long, default_value_t = 10_000, value_name = "N")]
        limit: usize,
        #[command(flatten)]
        target: Target,
    },
    /// Show one object: BUCKET/KEY
    #[command(
        after_help = "Examples:\n  quickwater fs stat corpus/2026/shard-0001.tar --dir ./data"
    )]
    Stat {
        /// BUCKET/KEY
        path: String,
        #[command(flatten)]
        target: Target,
    },
    /// Delete one object, or with -r all below a path
    #[command(after_help = RM_HELP)]
    Rm {
        /// BUCKET/KEY; with -r BUCKET or BUCKET/PATH
        path: String,
        /// The key itself and all below it, as a job
        #[arg(long, short)]
        recursive: bool,
        /// Do not wait for the end of the job
        #[arg(long, requires = "recursive")]
        detach: bool,
        #[command(flatten)]
        target: Target,
    },
}

const RM_HELP: &str = "\
With -r a job deletes what was there when it began, one key after the other, each as
its path policy says; it goes on after a restart of the service, and running it again
is harmless. What is written later stays. BUCKET/a/b means the key a/b and those
below a/b/. Exits with 1 when something could not be deleted.

Examples:
  quickwater fs rm corpus/2026/shard-0001.tar --dir ./data
  quickwater fs rm -r checkpoints/run-7 --dir ./data
  quickwater fs rm -r checkpoints/run-7 --detach";

pub(super) fn run(verb: FsVerb) -> Result<ExitCode> {
    match verb {
        FsVerb::Ls {
            path,
            recursive,
            limit,
            target,
        } => list(&path, recursive, limit, &target),
        FsVerb::Stat { path, target } => stat(&path, &target),
        FsVerb::Rm {
            path,
            recursive: false,
            target,
            ..
        } => remove(&path, &target),
        FsVerb::Rm {
            path,
            detach,
            target,
            ..
        } => super::job::delete(&path, !detach, &target),
    }
}

/// `s3://` or `/` in front is welcome too.
pub(super) fn split(path: &str) -> (&str, &str) {
    let bare = path.strip_prefix("s3://").or(path.strip_prefix('/'));
    let path = bare.unwrap_or(path);
    path.split_once('/').unwrap_or((path, ""))
}

fn list(path: &str, recursive: bool, limit: usize, target: &Target) -> Result<ExitCode> {
    let (bucket, prefix) = split(path);
    if bucket.is_empty() && prefix.is_empty() {
        return buckets(recursive, limit, target);
    }
    let first = admin::FsListRequest {
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
        delimiter: if recursive { "" } else { "/" }.to_owned(),
        page_token: String::new(),
        page_size: PAGE_ENTRIES,
    };
    let (entries, more) = target.with(|remote| pages(remote, first, limit))?;
    let json = json!({
        "entries": entries.iter().map(entry_json).collect::<Vec<_>>(),
        "more": more,
    });
    let rows = entries.iter().map(entry_row).collect();
    let more = more.then(|| format!("{limit} entries; raise --limit or narrow the prefix"));
    show_rows(target, &json, rows, more)
}

fn buckets(recursive: bool, limit: usize, target: &Target) -> Result<ExitCode> {
    if recursive {
        return Err(
            anyhow!("--recursive needs a bucket; write BUCKET or BUCKET/PREFIX")
                .context(Kind::Usage),
        );
    }
    let mut found = target.with(|mut remote| async move {
        let reply = remote.mount_list(admin::MountListRequest {}).await;
        Ok(reply.map_err(|s| explain(&s))?.into_inner().mounts)
    })?;
    let more = found.len() > limit;
    found.truncate(limit);
    let json = json!({
        "buckets": found.iter().map(bucket_json).collect::<Vec<_>>(),
        "more": more,
    });
    let row = |m: &admin::Mount| vec![date::text(m.created_ms), m.bucket.clone()];
    let rows = found.iter().map(row).collect();
    let more = more.then(|| format!("{limit} buckets; raise --limit"));
    show_rows(target, &json, rows, more)
}

/// Prints a listing and, for people, that it was cut.
fn show_rows(
    target: &Target,
    json: &serde_json::Value,
    rows: Vec<Vec<String>>,
    more: Option<String>,
) -> Result<ExitCode> {
    let code = target.output.show(json, || table(&rows))?;
    if let Some(more) = more.filter(|_| !target.output.is_json()) {
        emit(&format!("... more than {more}\n"))?;
    }
    Ok(code)
}

async fn pages(
    mut remote: super::Remote,
    mut request: admin::FsListRequest,
    limit: usize,
) -> Result<(Vec<FsEntry>, bool)> {
    let mut entries = Vec::new();
    loop {
        let left = limit.saturating_sub(entries.len()).max(1);
        request.page_size = PAGE_ENTRIES.min(u32::try_from(left).unwrap_or(PAGE_ENTRIES));
        let reply = remote.fs_list(request.clone()).await;
        let page = reply.map_err(|s| explain(&s))?.into_inner();
        entries.extend(page.entries);
        let more = !page.next_page_token.is_empty();
        if !more || entries.len() >= limit {
            let cut = entries.len() > limit;
            entries.truncate(limit);
            return Ok((entries, more || cut));
        }
        request.page_token = page.next_page_token;
    }
}

fn stat(path: &str, target: &Target) -> Result<ExitCode> {
    let (bucket, key) = split(path);
    if key.is_empty() {
        return Err(anyhow!("'{path}' names no object; write BUCKET/KEY").context(Kind::Usage));
    }
    let request = admin::FsStatRequest {
        bucket: bucket.to_owned(),
        key: key.to_owned(),
    };
    let mut reply = target.with(|mut remote| async move {
        let reply = remote.fs_stat(request).await;
        Ok(reply.map_err(|s| explain(&s))?.into_inner())
    })?;
    if reply.content_type.is_empty() {
        reply.content_type = "binary/octet-stream".into();
    }
    let entry = reply
        .entry
        .clone()
        .context("the service answered without the object")?;
    let mut json = entry_json(&entry);
    json["content_type"] = json!(reply.content_type);
    json["user_metadata"] = json!(reply.user_metadata);
    json["checksums"] = json!(reply.checksums);
    json["parts"] = json!(reply.parts);
    json["version"] = json!(reply.version);
    json["persist_state"] = json!(reply.persist_state);
    target.output.show(&json, || stat_text(&entry, &reply))
}

fn remove(path: &str, target: &Target) -> Result<ExitCode> {
    let (bucket, key) = split(path);
    if key.is_empty() {
        let text = format!("'{path}' names no object; write BUCKET/KEY, or -r for all of a bucket");
        return Err(anyhow!(text).context(Kind::Usage));
    }
    let request = admin::FsRemoveRequest {
        bucket: bucket.to_owned(),
        key: key.to_owned(),
    };
    let deleted = target.with(|mut remote| async move {
        let reply = remote.fs_remove(request).await;
        Ok(reply.map_err(|s| explain(&s))?.into_inner().deleted)
    })?;
    let json = json!({ "path": path, "deleted": deleted });
    target.output.show(&json, || match deleted {
        true => format!("deleted {}\n", path.escape_debug()),
        false => format!("{} was gone already\n", path.escape_debug()),
    })
}

fn stat_text(entry: &FsEntry, reply: &admin::FsStatReply) -> String {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        row("key", entry.name.escape_debug().to_string()),
        row("size", format!("{} ({})", entry.size, size(entry.size))),
        row("etag", entry.etag.clone()),
        row("modified", date::text(entry.modified_ms)),
        row(
            "content-type",
            reply.content_type.escape_debug().to_string(),
        ),
        row("parts", reply.parts.to_string()),
        row("version", reply.version.clone()),
        row("state", reply.persist_state.clone()),
    ];
    let mut extra: Vec<_> = reply
        .user_metadata
        .iter()
        .map(|(k, v)| row(&format!("x-amz-meta-{k}"), v.escape_debug().to_string()))
        .chain(reply.checksums.iter().map(|(k, v)| row(k, v.clone())))
        .collect();
    extra.sort();
    rows.extend(extra);
    table(&rows)
}

fn bucket_json(mount: &admin::Mount) -> serde_json::Value {
    json!({ "bucket": mount.bucket, "created": date::text(mount.created_ms) })
}

fn entry_json(entry: &FsEntry) -> serde_json::Value {
    if entry.is_prefix {
        return json!({ "prefix": entry.name });
    }
    json!({
        "key": entry.name,
        "size": entry.size,
        "etag": entry.etag,
        "modified": date::text(entry.modified_ms),
        "persist_state": entry.persist_state,
    })
}

/// Keys may hold any character, so they are escaped on a terminal.
fn entry_row(entry: &FsEntry) -> Vec<String> {
    let name = entry.name.escape_debug().to_string();
    if entry.is_prefix {
        return vec!["PRE".into(), String::new(), String::new(), name];
    }
    vec![
        date::text(entry.modified_ms),
        entry.size.to_string(),
        entry.persist_state.clone(),
        name,
    ]
}
