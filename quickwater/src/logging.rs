//! Log lines to stderr, as text or JSON.
//!
//! Secrets cannot get here: they live in [`crate::home::Secret`], which has no
//! `Display` and an empty `Debug`.

use anyhow::{Result, anyhow};
use tracing_subscriber::EnvFilter;

/// Crates below us that say too much at `debug` and `trace`.
const QUIET: &str = "h2=info,hyper=info,hyper_util=info,tower=info,rustls=info,aws_smithy_runtime=info,aws_smithy_runtime_api=info,aws_sigv4=info,aws_sdk_s3=info,aws_config=info,fjall=info,lsm_tree=info,tonic=info,value_log=info";

/// Starts logging for the life of the process.
///
/// # Errors
/// It was started before.
pub(crate) fn start(level: &str, json: bool) -> Result<()> {
    let quiet = if matches!(level, "debug" | "trace") {
        QUIET
    } else {
        ""
    };
    let filter = EnvFilter::try_new(format!("{level},{quiet}").trim_end_matches(','))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let started = if json {
        builder.json().flatten_event(true).try_init()
    } else {
        use std::io::IsTerminal as _;
        builder
            .with_ansi(std::io::stderr().is_terminal())
            .try_init()
    };
    started.map_err(|e| anyhow!("logging cannot start: {e}"))
}
