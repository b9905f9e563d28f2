//! `edit`: an editor, again and again until the document can be used.

use std::io::{BufRead as _, IsTerminal as _};
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use quickwater_rpc::admin::PathConfigCheckReply;

use super::change::{self, check, diff, done, keep, lines, told};
use super::{read_document, show};
use crate::cli::output::emit;
use crate::cli::remote::Target;

/// Times the editor is opened at most: an editor that exits at once must not
/// turn into an endless loop.
const ROUNDS_MAX: usize = 100;

pub(super) fn edit(yes: bool, target: &Target) -> Result<ExitCode> {
    let now = show::fetch(None, target)?;
    let version = now.origin.map_or(0, |origin| origin.version);
    let file = keep(&now.document)?;
    let edited = rounds(&file, &now.document, target)?;
    let Some((text, checked)) = edited else {
        remove(&file);
        let json = serde_json::json!({ "version": version, "changed": false });
        return target.output.show(&json, || "nothing changed\n".into());
    };
    if !target.output.is_json() {
        emit(&told(
            &diff(&now.document, &checked.document),
            &checked.warnings,
        ))?;
    }
    if !yes && std::io::stdin().is_terminal() && !agreed("Set this? [Y/n] ")? {
        bail!("nothing changed; your text is in {}", file.display());
    }
    let set = change::set(text, version, "pathconfig edit", target);
    let set = set.with_context(|| format!("your text is in {}", file.display()))?;
    remove(&file);
    done(&set, target)
}

/// The text that can be used, with what the service says of it; none when it is
/// what it was.
fn rounds(
    file: &Path,
    before: &str,
    target: &Target,
) -> Result<Option<(String, PathConfigCheckReply)>> {
    for _ in 0..ROUNDS_MAX {
        open_editor(file)?;
        let text = read_document(file)?;
        if text == before {
            return Ok(None);
        }
        let checked = check(&text, target).with_context(|| kept(file))?;
        if checked.problems.is_empty() {
            return Ok(Some((text, checked)));
        }
        let problems = lines(&checked.problems);
        if !std::io::stdin().is_terminal() {
            bail!("the document cannot be used; {}:\n{problems}", kept(file));
        }
        emit(&format!("the document cannot be used:\n{problems}\n"))?;
        if !agreed("Edit again? [Y/n] ")? {
            bail!("nothing changed; {}", kept(file));
        }
    }
    bail!("still not usable after {ROUNDS_MAX} rounds; {}", kept(file))
}

fn kept(file: &Path) -> String {
    format!("your text is in {}", file.display())
}

/// Editors are commands with arguments (`code -w`), so a shell splits them.
fn open_editor(file: &Path) -> Result<()> {
    let given = ["VISUAL", "EDITOR"]
        .iter()
        .filter_map(|name| std::env::var(name).ok());
    let editor = given.into_iter().find(|editor| !editor.trim().is_empty());
    let editor = editor.unwrap_or_else(|| "vi".into());
    let status = Command::new("sh")
        .arg("-c")
        .arg(format!("{editor} \"$1\""))
        .arg("sh")
        .arg(file)
        .status()
        .context("cannot start a shell for the editor")?;
    if !status.success() {
        bail!(
            "the editor '{editor}' ended with {status}; nothing changed, {}. Set EDITOR to another one",
            kept(file)
        );
    }
    Ok(())
}

/// Asks a person; the end of input is a no.
fn agreed(question: &str) -> Result<bool> {
    emit(question)?;
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer)?;
    let answer = answer.trim().to_ascii_lowercase();
    Ok(read > 0 && (answer.is_empty() || answer == "y" || answer == "yes"))
}

fn remove(file: &Path) {
    if let Err(error) = std::fs::remove_file(file) {
        tracing::debug!(%error, file = %file.display(), "a temporary file stays");
    }
}
