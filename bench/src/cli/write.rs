//! Runs and writes the reports.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use super::{BenchArgs, BenchVerb};
use crate::model::Report;
use crate::report::{self, Format, check, render};
use crate::run::{BenchError, run};

/// Flags whose values do not go into reports.
const SECRETS: [&str; 2] = ["--secret-access-key", "--vs-secret-access-key"];

/// Runs the verb. Exit code 1 when a request failed or was never sent though it was
/// due, and when a budget is missed.
///
/// # Errors
/// [`BenchError`].
pub fn main(args: &BenchArgs) -> Result<ExitCode, BenchError> {
    match &args.verb {
        Some(BenchVerb::Check(args)) => {
            let well = check(args, &mut std::io::stdout().lock())?;
            return Ok(ExitCode::from(u8::from(!well)));
        }
        Some(BenchVerb::Show(args)) => {
            report::show(args, &mut std::io::stdout().lock())?;
            return Ok(ExitCode::SUCCESS);
        }
        None => {}
    }
    let command = std::env::args_os().map(|a| a.to_string_lossy().into_owned());
    let output = &args.run.output;
    let report = run(&args.run, without_secrets(command))?;
    let written = output
        .report
        .iter()
        .try_for_each(|file| write_file(file, &report));
    // What was measured is shown even if a file could not be written.
    show(&render(&report, output.output)?)?;
    written?;
    Ok(if report.failures() + report.unsent() > 0 {
        ExitCode::from(1)
    } else {
        ExitCode::SUCCESS
    })
}

fn write_file(file: &Path, report: &Report) -> Result<(), BenchError> {
    let format = match file.extension().and_then(|e| e.to_str()) {
        Some("json") => Format::Json,
        Some("html" | "htm") => Format::Html,
        _ => Format::Table,
    };
    fs::write(file, render(report, format)?)
        .map_err(BenchError::io(format!("writing {}", file.display())))
}

/// A reader that went away (`| head`) is not an error.
fn show(text: &str) -> Result<(), BenchError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(BenchError::io("writing to stdout")(e))
        }
        _ => Ok(()),
    }
}

fn without_secrets(command: impl Iterator<Item = String>) -> Vec<String> {
    let mut hide = false;
    let clean = command.map(|word| {
        if std::mem::replace(&mut hide, SECRETS.contains(&word.as_str())) {
            return "***".to_owned();
        }
        let flag = SECRETS
            .iter()
            .find(|s| word.strip_prefix(**s).is_some_and(|r| r.starts_with('=')));
        flag.map_or(word, |flag| format!("{flag}=***"))
    });
    clean.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_stay_out_of_reports() {
        let words = [
            "b",
            "--secret-access-key",
            "s3",
            "--vs-secret-access-key=s3",
            "-c",
            "1",
        ];
        let clean = without_secrets(words.iter().map(|w| (*w).to_owned()));
        assert_eq!(
            clean,
            [
                "b",
                "--secret-access-key",
                "***",
                "--vs-secret-access-key=***",
                "-c",
                "1"
            ]
        );
    }
}
