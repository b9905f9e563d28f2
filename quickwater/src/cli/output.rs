//! What verbs print: text for people, JSON for programs, both on stdout.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};

/// The choice of format.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct Output {
    /// What to print
    #[arg(long = "output", value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    format: Format,
}

/// Formats of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs; one JSON document.
    Json,
}

impl Output {
    /// Whether a program reads it.
    pub(crate) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// Prints the value in the format asked for.
    ///
    /// # Errors
    /// Stdout cannot be written.
    pub(crate) fn show(
        self,
        json: &serde_json::Value,
        text: impl FnOnce() -> String,
    ) -> Result<ExitCode> {
        match self.format {
            Format::Text => emit(&text())?,
            Format::Json => emit(&format!("{json:#}\n"))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Writes to stdout. A reader that went away (`| head`) is not an error.
///
/// # Errors
/// Stdout cannot be written.
pub(crate) fn emit(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(()),
    }
}

/// Lines up columns; the first row is the heading.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| {
        rows.iter()
            .filter_map(|r| r.get(c))
            .map(|v| v.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(v, w)| format!("{v:w$}"));
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// A number of things for people: `one` is what a single one is called, and an s makes it many.
pub(crate) fn count(number: u64, one: &str) -> String {
    counted(number, one, &format!("{one}s"))
}

/// The same of a word whose plural is another one.
pub(crate) fn counted(number: u64, one: &str, many: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        _ => format!("{number} {many}"),
    }
}

/// A number of bytes for people.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        return format!("{bytes} B");
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_not_many() {
        let texts = [0, 1, 2].map(|number| count(number, "TRANSIENT object"));
        let wanted = [
            "0 TRANSIENT objects",
            "1 TRANSIENT object",
            "2 TRANSIENT objects",
        ];
        assert_eq!(texts, wanted);
    }
}
