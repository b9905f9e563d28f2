//! The text format of Java properties (java.util.Properties, "load").

/// Most lines of a file.
const LINES_MAX: usize = 100_000;

/// The text is no properties file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadProperties {
    /// An escape such as `\u12` is not complete.
    #[error("line {0}: a \\u escape needs four hex digits")]
    Escape(usize),
    /// More lines than any settings have.
    #[error("more than {LINES_MAX} lines; is it the right file?")]
    TooLong,
}

/// Names and values, the last of each name, in order of the file.
pub(super) fn parse(text: &str) -> Result<Vec<(String, String)>, BadProperties> {
    if text.lines().count() > LINES_MAX {
        return Err(BadProperties::TooLong);
    }
    let mut found: Vec<(String, String)> = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let line = line.trim_start_matches(blank);
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        let mut logical = line.to_owned();
        while continues(&logical) {
            logical.pop();
            let Some((_, next)) = lines.next() else { break };
            logical.push_str(next.trim_start_matches(blank));
        }
        let (name, value) = split(&logical);
        let name = unescape(name, at + 1)?;
        let value = unescape(value, at + 1)?;
        found.retain(|(other, _)| *other != name);
        found.push((name, value.trim_end().to_owned()));
    }
    Ok(found)
}

fn blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{c}')
}

/// An odd number of backslashes at the end.
fn continues(line: &str) -> bool {
    line.chars().rev().take_while(|c| *c == '\\').count() % 2 == 1
}

/// The name ends at the first `=`, `:` or blank that is not escaped.
fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line.find(|c: char| {
        let ends = !escaped && (blank(c) || c == '=' || c == ':');
        escaped = !escaped && c == '\\';
        ends
    });
    let Some(end) = end else { return (line, "") };
    let (name, rest) = line.split_at(end);
    let rest = rest.trim_start_matches(blank);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (name, rest.trim_start_matches(blank))
}

fn unescape(text: &str, line: usize) -> Result<String, BadProperties> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match rest.next() {
            Some('t') => out.push('\t'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('f') => out.push('\u{c}'),
            Some('u') => {
                let digits: String = rest.by_ref().take(4).collect();
                let code = u32::from_str_radix(&digits, 16).ok();
                let code = code.filter(|_| digits.len() == 4);
                let code = code.ok_or(BadProperties::Escape(line))?;
                out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
    Ok(out)
}
