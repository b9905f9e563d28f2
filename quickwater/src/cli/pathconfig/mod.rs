//! `pathconfig get|edit|apply|test|history|rollback`.

mod change;
mod edit;
mod show;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;

use super::remote::Target;

/// Largest document read from a file, bytes; the service takes less.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Subcommand)]
pub(super) enum PathconfigVerb {
    /// Print the policies in force, or an earlier version
    #[command(after_help = GET_HELP)]
    Get {
        /// An earlier version, as `history` shows them
        #[arg(long, value_name = "N")]
        version: Option<u64>,
        #[command(flatten)]
        target: Target,
    },
    /// Edit the policies in $VISUAL or $EDITOR
    #[command(after_help = EDIT_HELP)]
    Edit {
        /// Do not ask before the change is made
        #[arg(long, short)]
        yes: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Set the policies of a file; `-` reads stdin
    #[command(after_help = APPLY_HELP)]
    Apply {
        /// JSON document
        file: PathBuf,
        /// Check and show the difference, change nothing
        #[arg(long)]
        dry_run: bool,
        /// Only if this version is in force
        #[arg(long, value_name = "N")]
        expect: Option<u64>,
        #[command(flatten)]
        target: Target,
    },
    /// Show which rule decides for a path
    #[command(after_help = TEST_HELP)]
    Test {
        /// /BUCKET/KEY; s3://BUCKET/KEY is welcome too
        #[arg(long, value_name = "PATH")]
        path: String,
        /// Decide by this document instead of the policies in force
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        #[command(flatten)]
        target: Target,
    },
    /// List the versions that are kept
    #[command(after_help = "Examples:\n  quickwater pathconfig history --dir ./data")]
    History {
        #[command(flatten)]
        target: Target,
    },
    /// Set the content of an earlier version again
    #[command(after_help = ROLLBACK_HELP)]
    Rollback {
        /// Which, as `history` shows them; 0: built in
        version: u64,
        #[command(flatten)]
        target: Target,
    },
}

const GET_HELP: &str = "\
Examples:
  quickwater pathconfig get --dir ./data > policies.json
  quickwater pathconfig get --version 3 --output json";

const EDIT_HELP: &str = "\
What cannot be used is told, and the editor opens again. If somebody else changes
the policies meanwhile, nothing is set and your text is kept in a file.

Examples:
  EDITOR=nano quickwater pathconfig edit --dir ./data";

const APPLY_HELP: &str = "\
The difference to the policies in force is shown; they must not change between
that and the change itself.

Examples:
  quickwater pathconfig apply policies.json --dir ./data
  quickwater pathconfig apply policies.json --dry-run
  generate-policies | quickwater pathconfig apply - --expect 7";

const TEST_HELP: &str = "\
Of the rules that cover a path decides the one with the longest text before its
first wildcard, then the one with more characters that are no wildcards, then the
first in the document.

Examples:
  quickwater pathconfig test --path /checkpoints/epoch-1/model.pt --dir ./data
  quickwater pathconfig test --path /logs/a --file policies.json --output json";

const ROLLBACK_HELP: &str = "\
The content becomes a new version; nothing is lost. If it is in force already,
nothing changes. Version 0 is what is built in: WRITE_THROUGH everywhere.

Examples:
  quickwater pathconfig rollback 3 --dir ./data
  quickwater pathconfig rollback 0 --dir ./data";

pub(super) fn run(verb: PathconfigVerb) -> Result<ExitCode> {
    match verb {
        PathconfigVerb::Get { version, target } => show::get(version, &target),
        PathconfigVerb::Edit { yes, target } => edit::edit(yes, &target),
        PathconfigVerb::Apply {
            file,
            dry_run,
            expect,
            target,
        } => change::apply(&file, dry_run, expect, &target),
        PathconfigVerb::Test { path, file, target } => show::test(&path, file.as_deref(), &target),
        PathconfigVerb::History { target } => show::history(&target),
        PathconfigVerb::Rollback { version, target } => change::rollback(version, &target),
    }
}

/// The document in a file, or on stdin for `-`.
fn read_document(file: &std::path::Path) -> Result<String> {
    use std::io::Read as _;
    let name = file.display();
    let mut text = String::new();
    let read = match file.as_os_str() == "-" {
        true => std::io::stdin()
            .lock()
            .take(FILE_BYTES_MAX + 1)
            .read_to_string(&mut text),
        false => std::fs::File::open(file)
            .with_context(|| format!("cannot open {name}"))?
            .take(FILE_BYTES_MAX + 1)
            .read_to_string(&mut text),
    };
    read.with_context(|| format!("cannot read {name}"))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        bail!("{name} is larger than 1 MiB");
    }
    if text.trim().is_empty() {
        bail!("{name} is empty; `quickwater pathconfig get` prints a document to start from");
    }
    Ok(text)
}
