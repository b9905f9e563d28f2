//! `admin-token`: prints the token that admin calls and the status page ask for, to who
//! may read it anyway.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use quickwater_controlplane::rpc::AdminToken;
use serde_json::json;

use super::output::Output;
use crate::home;

/// Whose token.
#[derive(Debug, Args)]
pub(crate) struct AdminTokenArgs {
    /// Directory of a service or control plane on this machine
    #[arg(
        long,
        value_name = "DIR",
        env = "QUICKWATER_DIR",
        default_value = "./quickwater-data"
    )]
    dir: PathBuf,
    #[command(flatten)]
    output: Output,
}

/// Prints it.
///
/// # Errors
/// There is none, this user may not read it, or it is one that no service takes.
pub(super) fn run(args: &AdminTokenArgs) -> Result<ExitCode> {
    let token = home::token_of(&args.dir, "")?;
    AdminToken::new(token.reveal()).with_context(|| {
        format!(
            "{} holds no token that a service takes",
            home::token_path(&args.dir).display()
        )
    })?;
    let json = json!({ "admin_token": token.reveal() });
    args.output.show(&json, || format!("{}\n", token.reveal()))
}
