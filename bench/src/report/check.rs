//! `quickwater bench check`: reports against budgets, one line a budget. Absent:
//! the judgement itself (`budgets.rs`).

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use thiserror::Error;

use super::budgets::{BudgetError, Outcome, Verdict, judge, parse_budgets};
use super::measures::{number, spread};
use super::table::{aligned, failure_lines, plain};
use super::{ReportError, parse};
use crate::model::Report;

/// Most bytes of a report or a budget file that are read.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Compare reports with budgets; ends with 1 when one is missed, was not measured or
/// in too few rounds, and when a report has failed requests or was interrupted
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// Budgets in TOML, see bench/budgets.toml
    #[arg(long, value_name = "FILE", default_value = "bench/budgets.toml")]
    pub budgets: PathBuf,
    /// Budgets that no report measured are no fault
    #[arg(long)]
    pub allow_missing: bool,
    /// Judge also reports of --quick, and by any number of rounds
    #[arg(long)]
    pub allow_quick: bool,
    /// Reports in JSON
    #[arg(required = true, value_name = "REPORT.json")]
    pub reports: Vec<PathBuf>,
}

/// The check could not be done.
#[derive(Debug, Error)]
pub enum CheckError {
    /// A file could not be read.
    #[error("{0}: {1}")]
    Read(PathBuf, io::Error),
    /// A file is too long to be one.
    #[error("{0}: longer than {FILE_BYTES_MAX} bytes")]
    TooLong(PathBuf),
    /// No report.
    #[error("{0}: {1}")]
    Report(PathBuf, ReportError),
    /// No budgets.
    #[error("{0}: {1}")]
    Budgets(PathBuf, BudgetError),
    /// The verdicts could not be printed.
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
}

/// Prints every budget with what was measured of it, and what else is wrong with the
/// reports. Whether all is well: every budget is met, and no report has failed,
/// unsent or resent requests, was interrupted or is a quick one.
///
/// # Errors
/// [`CheckError`].
pub fn check(args: &CheckArgs, out: &mut impl Write) -> Result<bool, CheckError> {
    let budgets = parse_budgets(&text(&args.budgets)?)
        .map_err(|e| CheckError::Budgets(args.budgets.clone(), e))?;
    let mut reports = Vec::with_capacity(args.reports.len());
    for path in &args.reports {
        reports.push(report_of(path)?);
    }
    let verdicts = judge(&budgets, &reports);
    out.write_all(lines(&verdicts, args.allow_quick).as_bytes())?;
    let outcomes = verdicts.iter().map(|v| v.outcome(args.allow_quick));
    let count = |outcome| outcomes.clone().filter(|o| *o == outcome).count();
    let (met, missed) = (count(Outcome::Met), count(Outcome::Missed));
    let (few, unmeasured) = (count(Outcome::TooFew), count(Outcome::Unmeasured));
    let mut sound = true;
    for (path, report) in args.reports.iter().zip(&reports) {
        for flaw in flaws(report, args.allow_quick) {
            sound = false;
            writeln!(out, "{}: {}", path.display(), plain(&flaw))?;
        }
    }
    writeln!(
        out,
        "{met} met, {missed} missed, {few} in too few rounds, {unmeasured} not measured"
    )?;
    let all = missed + few == 0 && (args.allow_missing || unmeasured == 0);
    Ok(sound && all && met > 0)
}

/// What makes the figures of a report no proof, whatever they are.
fn flaws(report: &Report, allow_quick: bool) -> Vec<String> {
    let mut found = Vec::new();
    if report.interrupted {
        found.push("interrupted: not all of it was measured".to_owned());
    }
    if report.settings.quick && !allow_quick {
        found.push("a --quick run, which measures nothing (--allow-quick)".to_owned());
    }
    for scenario in &report.scenarios {
        let lines = failure_lines(report, scenario);
        found.extend(
            lines
                .iter()
                .map(|line| format!("{}: {line}", scenario.name)),
        );
    }
    found
}

/// Reads a report.
pub(super) fn report_of(path: &Path) -> Result<Report, CheckError> {
    parse(&text(path)?).map_err(|error| CheckError::Report(path.to_owned(), error))
}

fn text(path: &Path) -> Result<String, CheckError> {
    let failed = |e| CheckError::Read(path.to_owned(), e);
    let file = File::open(path).map_err(failed)?;
    let mut text = String::new();
    let limited = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
    if limited.map_err(failed)? as u64 > FILE_BYTES_MAX {
        return Err(CheckError::TooLong(path.to_owned()));
    }
    Ok(text)
}

fn lines(verdicts: &[Verdict<'_>], any_rounds: bool) -> String {
    let heading = ["row", "budget", "bound", "measured", "rounds", ""];
    let mut rows = vec![heading.map(String::from).to_vec()];
    rows.extend(verdicts.iter().map(|v| line(v, any_rounds)));
    aligned(&rows, 2)
}

fn line(verdict: &Verdict<'_>, any_rounds: bool) -> Vec<String> {
    let budget = verdict.budget;
    let bound = |sign: &str, b: Option<f64>| b.map(|v| format!("{sign} {}", number(v)));
    let bounds = [bound(">=", budget.at_least), bound("<=", budget.at_most)];
    let bounds: Vec<String> = bounds.into_iter().flatten().collect();
    let (measured, rounds) = match spread(&verdict.values) {
        Some((middle, low, high)) => (
            number(middle),
            format!("{} .. {}", number(low), number(high)),
        ),
        None => ("-".into(), "-".into()),
    };
    let word = match verdict.outcome(any_rounds) {
        Outcome::Met => "met".to_owned(),
        Outcome::Missed => "MISSED".to_owned(),
        Outcome::TooFew => format!(
            "{} OF {} ROUNDS",
            verdict.values.len(),
            budget.rounds.unwrap_or_default()
        ),
        Outcome::Unmeasured => "NOT MEASURED".to_owned(),
    };
    vec![
        budget.row.clone(),
        budget.what.clone(),
        bounds.join(", "),
        measured,
        rounds,
        word,
    ]
}
