//! `mount add|list|remove|accept`.

use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow};
use clap::Subcommand;
use quickwater_rpc::admin;
use serde_json::json;

use super::exit::Kind;
use super::output::table;
use super::remote::{Target, explain};
use crate::date;
use crate::settings::parse;

#[derive(Debug, Subcommand)]
pub(super) enum MountVerb {
    /// Serve an existing UFS location as a bucket
    #[command(after_help = ADD_HELP)]
    Add {
        /// Name clients will use
        bucket: String,
        /// file:///absolute/path, /absolute/path or s3://bucket/prefix
        uri: String,
        /// An option of the UFS, NAME=VALUE; may be repeated
        #[arg(long = "option", value_name = "NAME=VALUE")]
        options: Vec<String>,
        /// How long metadata read from the UFS is trusted: 10s, 0s (look always) or never
        #[arg(long, value_name = "TIME")]
        ttl: Option<String>,
        #[command(flatten)]
        target: Target,
    },
    /// List mounts
    #[command(after_help = "Examples:\n  quickwater mount list --dir ./data")]
    List {
        #[command(flatten)]
        target: Target,
    },
    /// Stop serving a UFS location; nothing in the UFS is touched
    #[command(after_help = "Examples:\n  quickwater mount remove corpus --dir ./data")]
    Remove {
        /// Name of the bucket
        bucket: String,
        #[command(flatten)]
        target: Target,
    },
    /// Say that the directory of a file:// mount is the right one, though its mark is not
    #[command(after_help = ACCEPT_HELP)]
    Accept {
        /// Name of the bucket
        bucket: String,
        #[command(flatten)]
        target: Target,
    },
}

const ACCEPT_HELP: &str = "\
The first write to a directory leaves a mark in it, .quickwater/identity, which is
compared whenever the directory is opened. A directory without it, or with another, is
taken for the bare mount point of a file system that is not mounted: it is neither
read nor written, writes under WRITE_BACK wait, and mounting the file system heals it
within seconds. Only if you have emptied or replaced the directory on purpose, accept
what is there now; objects that were in the old one and are not in this are gone then.

Examples:
  quickwater mount list --dir ./data
  quickwater mount accept photos --dir ./data";

const ADD_HELP: &str = "\
What is already at the location is listed and read at once; nothing is copied.

Options of s3:// locations: endpoint, region, path_style, credentials, min_part_size.
Credentials are a reference, never the secret itself: env:PREFIX (PREFIX_ACCESS_KEY_ID
and PREFIX_SECRET_ACCESS_KEY in the environment of the service), file:/path,
profile:NAME, default, anonymous. min_part_size is the smallest part, the last one
excepted, that the store completes an upload of: 5MiB (as S3) unless it takes smaller
ones. It counts beside the setting s3.min_part_size; the larger one holds.

Examples:
  quickwater mount add photos file:///mnt/nas/photos --dir ./data
  quickwater mount add corpus s3://training/corpus --option region=eu-central-1 --ttl 5m
  quickwater mount add lake s3://lake --option endpoint=http://10.0.0.5:9000 --option credentials=env:LAKE";

pub(super) fn run(verb: MountVerb) -> Result<ExitCode> {
    match verb {
        MountVerb::Add {
            bucket,
            uri,
            options,
            ttl,
            target,
        } => add(&bucket, &uri, &options, ttl.as_deref(), &target),
        MountVerb::List { target } => list(&target),
        MountVerb::Remove { bucket, target } => remove(bucket, &target),
        MountVerb::Accept { bucket, target } => accept(bucket, &target),
    }
}

fn add(
    bucket: &str,
    uri: &str,
    options: &[String],
    ttl: Option<&str>,
    target: &Target,
) -> Result<ExitCode> {
    let usage = |why: String| anyhow!(why).context(Kind::Usage);
    let options = options
        .iter()
        .map(|text| parse::option(text))
        .collect::<Result<Vec<_>, _>>()
        .map_err(usage)?;
    absolute(uri).map_err(usage)?;
    let mount = parse::mount_of(bucket, uri, options).map_err(usage)?;
    let ttl = match ttl {
        Some(text) => Some(parse::ttl(text).map_err(usage)?),
        None => mount.ttl,
    };
    let request = admin::MountAddRequest {
        bucket: mount.bucket,
        uri: mount.uri,
        options: mount.options.into_iter().collect(),
        metadata_ttl_ms: ttl.map(parse::Ttl::as_ms),
    };
    let reply = target.with(|mut remote| async move {
        let reply = remote.mount_add(request).await;
        Ok(reply.map_err(|s| explain(&s))?.into_inner())
    })?;
    let added = reply
        .mount
        .context("the service answered without the mount")?;
    let json = json!({ "mount": mount_json(&added), "note": reply.note });
    target.output.show(&json, || {
        let note = if reply.note.is_empty() {
            String::new()
        } else {
            format!("{}\n", reply.note)
        };
        format!("mounted {} as bucket {}\n{note}", added.uri, added.bucket)
    })
}

/// The service may have another working directory, or be on another machine.
pub(super) fn absolute(place: &str) -> Result<(), String> {
    if place.is_empty() || place.contains("://") || place.starts_with('/') {
        return Ok(());
    }
    Err(format!(
        "'{place}' is a relative path; write an absolute path or a URI: file:///ABSOLUTE/PATH or s3://BUCKET/PREFIX"
    ))
}

fn list(target: &Target) -> Result<ExitCode> {
    let mounts = target.with(|mut remote| async move {
        let reply = remote.mount_list(admin::MountListRequest {}).await;
        Ok(reply.map_err(|s| explain(&s))?.into_inner().mounts)
    })?;
    let json = json!({ "mounts": mounts.iter().map(mount_json).collect::<Vec<_>>() });
    target.output.show(&json, || {
        let heading = ["BUCKET", "UFS", "TTL", "CREATED", "OPTIONS"];
        let mut rows = vec![heading.map(str::to_owned).to_vec()];
        rows.extend(mounts.iter().map(mount_row));
        let mut text = table(&rows);
        for mount in mounts.iter().filter(|mount| !mount.trouble.is_empty()) {
            text.push_str(&format!("\n{}\n", mount.trouble));
        }
        text
    })
}

fn remove(bucket: String, target: &Target) -> Result<ExitCode> {
    let request = admin::MountRemoveRequest {
        bucket: bucket.clone(),
    };
    target.with(|mut remote| async move {
        remote
            .mount_remove(request)
            .await
            .map_err(|s| explain(&s))?;
        Ok(())
    })?;
    let json = json!({ "removed": bucket });
    target.output.show(&json, || {
        format!("bucket {bucket} is no longer mounted; its UFS location is untouched\n")
    })
}

fn accept(bucket: String, target: &Target) -> Result<ExitCode> {
    let request = admin::MountAcceptRequest {
        bucket: bucket.clone(),
    };
    target.with(|mut remote| async move {
        let reply = remote.mount_accept(request).await;
        reply.map_err(|s| explain(&s))?;
        Ok(())
    })?;
    let json = json!({ "accepted": bucket });
    target.output.show(&json, || {
        format!("the directory of bucket {bucket} is taken as it is\n")
    })
}

fn mount_json(mount: &admin::Mount) -> serde_json::Value {
    json!({
        "bucket": mount.bucket,
        "uri": mount.uri,
        "options": mount.options,
        "metadata_ttl": ttl_text(mount.metadata_ttl_ms),
        "created": date::text(mount.created_ms),
        "owned": mount.owned,
        "trouble": (!mount.trouble.is_empty()).then_some(&mount.trouble),
    })
}

fn mount_row(mount: &admin::Mount) -> Vec<String> {
    let mut options: Vec<String> = mount
        .options
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    options.sort();
    vec![
        mount.bucket.clone(),
        mount.uri.clone(),
        ttl_text(mount.metadata_ttl_ms),
        date::text(mount.created_ms),
        options.join(","),
    ]
}

fn ttl_text(ms: u64) -> String {
    match ms {
        u64::MAX => "never".into(),
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    }
}
