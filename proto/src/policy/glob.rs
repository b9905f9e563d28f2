//! Which paths a rule covers. Matching takes time in proportion to pattern times
//! path at worst, and no memory.

use std::str::Chars;

/// Why a pattern is not one; the text says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// It does not begin with `/`.
    #[error("must begin with '/', as in /bucket/prefix/**")]
    NotAbsolute,
    /// It is longer than [`super::POLICY_PATH_BYTES_MAX`].
    #[error("is longer than {} bytes", super::POLICY_PATH_BYTES_MAX)]
    TooLong,
    /// It holds control characters, which keys rarely do and typos often.
    #[error("holds a control character")]
    Control,
    /// `**` shares its segment with something else.
    #[error("'**' must stand alone between slashes, as in /bucket/**/name; use '*' within a name")]
    Recursive,
    /// A `[` without its `]`.
    #[error("has a '[' that no ']' closes; write [[] for the character itself")]
    Unclosed,
    /// A range such as `[z-a]`.
    #[error("has the range '{0}-{1}', whose end is before its begin")]
    Backwards(char, char),
    /// A class that names `/`.
    #[error("has a class that holds '/': classes match within a name only")]
    SlashInClass,
}

/// A compiled rule path.
///
/// The subject is `/bucket/key`, taken literally: the key is not decoded, and `//`
/// or a `/` at its end make empty segments. Case matters.
///
/// - Without a wildcard the path covers itself and everything below it: `/a/b`
///   covers `/a/b` and `/a/b/c`, not `/a/bc`. With a `/` at its end it covers
///   only what is below.
/// - With a wildcard it covers exactly the paths that match as a whole.
/// - `*`: any characters within a segment, none too. `?`: one character of a
///   segment. `[a-z_]`, `[!0-9]` (or `[^0-9]`): one character of a segment that is
///   (not) in the class; `]` stands first to be meant itself.
/// - `**`: any number of segments, none too; at the end everything below, at
///   least one segment: `/a/**` covers `/a/b` and `/a/`, not `/a`.
/// - There is no escape character: `[*]` is a star.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    /// Bytes of the text before the first wildcard.
    prefix_bytes: usize,
    /// Characters that stand for themselves, in all.
    literals: usize,
    shape: Shape,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Shape {
    /// No wildcard.
    Plain,
    /// A plain path, then `/**`.
    Below,
    /// The runs of segments between one `**` and the next.
    Runs(Vec<Run>),
}

type Run = Vec<Vec<Token>>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Char(char),
    One,
    Many,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Token {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Char(own) => *own == c,
            Self::One => true,
            Self::Many => false,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) != *negated
            }
        }
    }
}

impl Glob {
    /// Compiles the path of a rule.
    ///
    /// # Errors
    /// [`GlobError`] says what is wrong with it.
    pub fn new(text: &str) -> Result<Self, GlobError> {
        let inner = text.strip_prefix('/').ok_or(GlobError::NotAbsolute)?;
        if text.len() > super::POLICY_PATH_BYTES_MAX {
            return Err(GlobError::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(GlobError::Control);
        }
        let Some(prefix_bytes) = text.find(['*', '?', '[']) else {
            return Ok(Self {
                prefix_bytes: text.len(),
                literals: text.chars().count(),
                shape: Shape::Plain,
            });
        };
        let mut runs = vec![Run::new()];
        let mut literals = 1;
        for (place, segment) in inner.split('/').enumerate() {
            literals += usize::from(place > 0);
            if segment == "**" {
                runs.push(Run::new());
                continue;
            }
            let tokens = tokens(segment).map_err(|error| name_slash(error, inner))?;
            literals += count_chars(&tokens);
            if let Some(run) = runs.last_mut() {
                run.push(tokens);
            }
        }
        let below = text.len() == prefix_bytes + 2 && text.ends_with("/**");
        Ok(Self {
            prefix_bytes,
            literals,
            shape: if below {
                Shape::Below
            } else {
                Shape::Runs(runs)
            },
        })
    }

    /// Bytes of the rule's text before its first wildcard. Every path it covers
    /// begins with them.
    #[must_use]
    pub fn prefix_bytes(&self) -> usize {
        self.prefix_bytes
    }

    /// Characters of the rule's text that stand for themselves, slashes among them.
    #[must_use]
    pub fn literals(&self) -> usize {
        self.literals
    }

    /// Whether it covers `path`, which begins with [`Self::prefix_bytes`] bytes of
    /// the rule's text (the table's index has compared them).
    pub(super) fn covers_from_prefix(&self, path: &str) -> bool {
        match &self.shape {
            Shape::Below => true,
            Shape::Plain => {
                let (path, end) = (path.as_bytes(), self.prefix_bytes);
                let slash = |at: usize| path.get(at) == Some(&b'/');
                path.len() == end || slash(end) || slash(end.saturating_sub(1))
            }
            Shape::Runs(runs) => path.strip_prefix('/').is_some_and(|p| covers(runs, p)),
        }
    }
}

/// A class left open by its segment but closed further on holds a slash.
fn name_slash(error: GlobError, text: &str) -> GlobError {
    let class = text.rsplit('[').next().unwrap_or_default();
    let closed = class.split_once('/').is_some_and(|(_, t)| t.contains(']'));
    match error {
        GlobError::Unclosed if closed => GlobError::SlashInClass,
        other => other,
    }
}

fn count_chars(tokens: &[Token]) -> usize {
    let literal = |token: &&Token| matches!(token, Token::Char(_));
    tokens.iter().filter(literal).count()
}

fn tokens(segment: &str) -> Result<Vec<Token>, GlobError> {
    let mut found = Vec::new();
    let mut rest = segment.chars();
    while let Some(c) = rest.next() {
        let token = match c {
            '*' if found.last() == Some(&Token::Many) => return Err(GlobError::Recursive),
            '*' => Token::Many,
            '?' => Token::One,
            '[' => class(&mut rest)?,
            other => Token::Char(other),
        };
        found.push(token);
    }
    Ok(found)
}

/// A class, behind its `[`.
fn class(rest: &mut Chars<'_>) -> Result<Token, GlobError> {
    let mut ahead = rest.clone();
    let negated = matches!(ahead.next(), Some('!' | '^'));
    if negated {
        *rest = ahead;
    }
    let mut ranges = Vec::new();
    loop {
        let from = match rest.next() {
            None => return Err(GlobError::Unclosed),
            Some(']') if !ranges.is_empty() => return Ok(Token::Class { negated, ranges }),
            Some(c) => c,
        };
        let mut ahead = rest.clone();
        let to = match (ahead.next(), ahead.next()) {
            (Some('-'), Some(to)) if to != ']' => {
                *rest = ahead;
                to
            }
            _ => from,
        };
        if to < from {
            return Err(GlobError::Backwards(from, to));
        }
        ranges.push((from, to));
    }
}

/// Whether the runs, with any number of segments between one and the next, cover
/// `path`. Each run between two `**` takes its first fit: whatever follows may
/// begin anywhere after it, so an earlier end never costs a match.
fn covers(runs: &[Run], path: &str) -> bool {
    let Some((first, others)) = runs.split_first() else {
        return false;
    };
    let Some(mut rest) = take_run(first, Some(path)) else {
        return false;
    };
    let Some((last, between)) = others.split_last() else {
        return rest.is_none();
    };
    for run in between {
        loop {
            if let Some(after) = take_run(run, rest) {
                rest = after;
                break;
            }
            let Some(text) = rest else { return false };
            rest = take_segment(text).1;
        }
    }
    if last.is_empty() {
        return rest.is_some();
    }
    let remaining = rest.map_or(0, |text| text.split('/').count());
    let Some(skip) = remaining.checked_sub(last.len()) else {
        return false;
    };
    for _ in 0..skip {
        rest = rest.and_then(|text| take_segment(text).1);
    }
    take_run(last, rest) == Some(None)
}

/// What remains of the path behind the run, if it begins with it. A path of no
/// more segments is `None`.
fn take_run<'a>(run: &Run, path: Option<&'a str>) -> Option<Option<&'a str>> {
    let mut rest = path;
    for tokens in run {
        let (segment, after) = take_segment(rest?);
        if !covers_segment(tokens, segment) {
            return None;
        }
        rest = after;
    }
    Some(rest)
}

fn take_segment(path: &str) -> (&str, Option<&str>) {
    match path.split_once('/') {
        Some((segment, rest)) => (segment, Some(rest)),
        None => (path, None),
    }
}

/// Only the last `*` is ever reconsidered: earlier ones took as little as they
/// could, which leaves the most for those behind.
fn covers_segment(tokens: &[Token], segment: &str) -> bool {
    let mut text = segment.chars();
    let mut place = 0;
    let mut retry: Option<(usize, Chars<'_>)> = None;
    loop {
        if tokens.get(place) == Some(&Token::Many) {
            place += 1;
            retry = Some((place, text.clone()));
            continue;
        }
        let mut ahead = text.clone();
        match (tokens.get(place), ahead.next()) {
            (None, None) => return true,
            (Some(token), Some(c)) if token.takes(c) => {
                text = ahead;
                place += 1;
                continue;
            }
            _ => {}
        }
        let Some((after, from)) = &mut retry else {
            return false;
        };
        if from.next().is_none() {
            return false;
        }
        place = *after;
        text = from.clone();
    }
}
