//! A report as text for people or programs, and judged by budgets. Absent: files
//! but those `check` reads, terminals.

mod budgets;
mod charts;
mod check;
mod measures;
mod page;
mod plot;
mod show;
mod table;
#[cfg(test)]
mod tests;

pub use budgets::{Budget, BudgetError, Outcome, Verdict, judge, parse_budgets};
pub use check::{CheckArgs, CheckError, check};
pub use measures::{Measure, number};
pub use show::{ShowArgs, show};

use clap::ValueEnum;
use thiserror::Error;

use crate::model::{FORMAT_VERSION, Report};

/// Formats of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people at a terminal
    Table,
    /// For programs; one document
    Json,
    /// For people; one page that needs nothing else
    Html,
}

/// A report could not be written or read.
#[derive(Debug, Error)]
pub enum ReportError {
    /// Not the JSON of a report.
    #[error("not a report: {0}")]
    Json(#[from] serde_json::Error),
    /// Written by a later version of the tool.
    #[error("the report has format version {0}, this tool knows versions up to {FORMAT_VERSION}")]
    Version(u32),
}

/// Writes a report.
///
/// # Errors
/// [`ReportError::Json`], which would be a fault of the model.
pub fn render(report: &Report, format: Format) -> Result<String, ReportError> {
    match format {
        Format::Json => Ok(serde_json::to_string(report)? + "\n"),
        Format::Table => Ok(table::table(report)),
        Format::Html => Ok(page::page(report)),
    }
}

/// Reads the JSON of a report.
///
/// # Errors
/// [`ReportError::Json`], [`ReportError::Version`].
pub fn parse(text: &str) -> Result<Report, ReportError> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        format_version: u32,
    }
    let found: Versioned = serde_json::from_str(text)?;
    if found.format_version > FORMAT_VERSION {
        return Err(ReportError::Version(found.format_version));
    }
    Ok(serde_json::from_str(text)?)
}
