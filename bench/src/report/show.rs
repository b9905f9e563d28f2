//! `quickwater bench show`: a saved report again, in another format.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::check::{CheckError, report_of};
use super::{Format, render};

/// Print a saved report as a table or a page
#[derive(Debug, Clone, Args)]
pub struct ShowArgs {
    /// A report in JSON
    #[arg(value_name = "REPORT.json")]
    pub report: PathBuf,
    /// Format of what is printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// Prints the report.
///
/// # Errors
/// [`CheckError`]: the file is no report, or cannot be printed.
pub fn show(args: &ShowArgs, out: &mut impl Write) -> Result<(), CheckError> {
    let report = report_of(&args.report)?;
    let text = render(&report, args.output)
        .map_err(|error| CheckError::Report(args.report.clone(), error))?;
    Ok(out.write_all(text.as_bytes())?)
}
