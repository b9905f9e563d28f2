//! The rules of one document, compiled: which one decides for a path.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;

use super::{
    Glob, GlobError, OverLimit, POLICY_PATH_BYTES_MAX, POLICY_RULES_MAX, PathPolicy, PolicyMode,
    WRITE_REPLICAS_MAX,
};

/// Why rules make no table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rule {}: {problem}", match .rule { Some(rule) => rule.to_string(), None => "default".into() })]
pub struct PolicyError {
    /// The offending rule's place, from 0. `None`: the default rule.
    pub rule: Option<usize>,
    /// What is wrong with it.
    pub problem: PolicyProblem,
}

/// What is wrong with a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyProblem {
    /// Its path is no pattern.
    #[error("the path {0}")]
    Path(#[from] GlobError),
    /// An earlier rule, at this place, has the very same path.
    #[error("the path is that of rule {0}")]
    Duplicate(usize),
    /// Fewer than 1 copy, or more than [`WRITE_REPLICAS_MAX`].
    #[error("write replicas must be 1 to {WRITE_REPLICAS_MAX}")]
    Replicas,
    /// A TRANSIENT object must never reach the UFS, whatever is full.
    #[error("what is TRANSIENT cannot become WRITE_THROUGH")]
    TransientToUfs,
    /// More than [`POLICY_RULES_MAX`] rules.
    #[error("more than {POLICY_RULES_MAX} rules")]
    TooMany,
}

/// Which policy holds for which path: immutable, made once per document.
///
/// Of the rules that cover a path (see [`Glob`]) decides the one with
/// 1. the longest text before its first wildcard,
/// 2. then the most characters that stand for themselves,
/// 3. then the earliest place among the rules.
///
/// If none covers it, the default rule decides. Two rules of the same text are
/// refused. The default table answers WRITE_THROUGH with 1 copy for everything.
#[derive(Debug, Clone, Default)]
pub struct PolicyTable {
    fallback: PathPolicy,
    rules: Vec<Rule>,
    /// The distinct texts before the first wildcard, in byte order.
    prefixes: Vec<Prefix>,
}

#[derive(Debug, Clone)]
struct Rule {
    text: Box<str>,
    glob: Glob,
    policy: PathPolicy,
}

#[derive(Debug, Clone)]
struct Prefix {
    text: Box<str>,
    /// The longest other prefix that this one begins with.
    parent: Option<usize>,
    /// Rules with this text before their first wildcard, in order of precedence.
    rules: Vec<u16>,
}

impl PolicyTable {
    /// Compiles rules: paths with their policies, in order of the document. The
    /// field `rule` of the policies is set here.
    ///
    /// # Errors
    /// [`PolicyError`] names the first rule that cannot be.
    pub fn new(
        fallback: PathPolicy,
        rules: impl IntoIterator<Item = (String, PathPolicy)>,
    ) -> Result<Self, PolicyError> {
        let refuse = |rule, problem| PolicyError { rule, problem };
        check(&fallback).map_err(|problem| refuse(None, problem))?;
        let mut seen = HashMap::new();
        let mut compiled = Vec::new();
        for (place, (text, policy)) in rules.into_iter().enumerate() {
            let rule = compile(place, &text, policy).map_err(|p| refuse(Some(place), p))?;
            if let Some(first) = seen.insert(text, place) {
                return Err(refuse(Some(place), PolicyProblem::Duplicate(first)));
            }
            compiled.push(rule);
        }
        Ok(Self {
            fallback: PathPolicy {
                rule: None,
                ..fallback
            },
            prefixes: index(&compiled),
            rules: compiled,
        })
    }

    /// The policy of an object; of the bucket itself when `key` is empty, for
    /// which rules of the form `/bucket/**` count too. Allocates nothing.
    #[must_use]
    pub fn policy(&self, bucket: &str, key: &str) -> PathPolicy {
        if self.prefixes.is_empty() {
            return self.fallback;
        }
        let mut room = [0; POLICY_PATH_BYTES_MAX];
        self.decide(&join(&mut room, bucket, key))
    }

    /// The path of a rule as it was written, by [`PathPolicy::rule`].
    #[must_use]
    pub fn path_of(&self, rule: u16) -> Option<&str> {
        self.rules.get(usize::from(rule)).map(|rule| &*rule.text)
    }

    /// The policies in force: the default rule's first, then those of the rules in
    /// order of the document.
    pub fn policies(&self) -> impl Iterator<Item = PathPolicy> + '_ {
        let own = self.rules.iter().map(|rule| rule.policy);
        std::iter::once(self.fallback).chain(own)
    }

    /// Every prefix of the path in the index lies on the chain of parents of the
    /// greatest entry not after the path: between a prefix and the path, in byte
    /// order, everything begins with that prefix.
    fn decide(&self, path: &str) -> PathPolicy {
        let bytes = path.as_bytes();
        let after = self
            .prefixes
            .partition_point(|prefix| prefix.text.as_bytes() <= bytes);
        let mut next = after.checked_sub(1);
        let nearest = next.and_then(|place| self.prefixes.get(place));
        let shared = nearest.map_or(0, |prefix| shared_bytes(&prefix.text, path));
        while let Some(prefix) = next.and_then(|place| self.prefixes.get(place)) {
            if prefix.text.len() <= shared
                && let Some(policy) = self.first_match(prefix, path)
            {
                return policy;
            }
            next = prefix.parent;
        }
        self.fallback
    }

    fn first_match(&self, prefix: &Prefix, path: &str) -> Option<PathPolicy> {
        let rules = prefix.rules.iter();
        rules
            .filter_map(|rule| self.rules.get(usize::from(*rule)))
            .find(|rule| rule.glob.covers_from_prefix(path))
            .map(|rule| rule.policy)
    }
}

fn compile(place: usize, text: &str, policy: PathPolicy) -> Result<Rule, PolicyProblem> {
    let number = u16::try_from(place).ok();
    let number = number.filter(|_| place < POLICY_RULES_MAX);
    let number = number.ok_or(PolicyProblem::TooMany)?;
    check(&policy)?;
    Ok(Rule {
        glob: Glob::new(text)?,
        text: text.into(),
        policy: PathPolicy {
            rule: Some(number),
            ..policy
        },
    })
}

fn check(policy: &PathPolicy) -> Result<(), PolicyProblem> {
    if !(1..=WRITE_REPLICAS_MAX).contains(&policy.write_replicas) {
        return Err(PolicyProblem::Replicas);
    }
    if policy.mode == PolicyMode::Transient && policy.over_limit == OverLimit::WriteThrough {
        return Err(PolicyProblem::TransientToUfs);
    }
    Ok(())
}

fn index(rules: &[Rule]) -> Vec<Prefix> {
    let head = |rule: &Rule| rule.text[..rule.glob.prefix_bytes()].to_owned();
    let mut order: Vec<(String, Reverse<usize>, u16)> = (0..)
        .zip(rules)
        .map(|(place, rule)| (head(rule), Reverse(rule.glob.literals()), place))
        .collect();
    order.sort();
    let mut found: Vec<Prefix> = Vec::new();
    for (text, _, rule) in order {
        match found.last_mut() {
            Some(last) if *last.text == *text => last.rules.push(rule),
            _ => {
                let parent = parent_of(&found, &text);
                found.push(Prefix {
                    text: text.into(),
                    parent,
                    rules: vec![rule],
                });
            }
        }
    }
    found
}

/// The longest entry that `text`, greater than all of them, begins with.
fn parent_of(found: &[Prefix], text: &str) -> Option<usize> {
    let mut next = found.len().checked_sub(1);
    while let Some(prefix) = next.and_then(|place| found.get(place)) {
        if text.starts_with(&*prefix.text) {
            return next;
        }
        next = prefix.parent;
    }
    None
}

fn shared_bytes(left: &str, right: &str) -> usize {
    let pairs = left.bytes().zip(right.bytes());
    pairs.take_while(|(left, right)| left == right).count()
}

/// `/bucket/key`, in `room` as long as it fits (names within their limits do).
fn join<'a>(room: &'a mut [u8], bucket: &str, key: &str) -> Cow<'a, str> {
    let mut end = 0;
    for piece in ["/", bucket, "/", key] {
        let Some(place) = room.get_mut(end..end + piece.len()) else {
            return Cow::Owned(format!("/{bucket}/{key}"));
        };
        place.copy_from_slice(piece.as_bytes());
        end += piece.len();
    }
    match std::str::from_utf8(&room[..end]) {
        Ok(path) => Cow::Borrowed(path),
        Err(_) => Cow::Owned(format!("/{bucket}/{key}")),
    }
}
