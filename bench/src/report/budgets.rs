//! Budgets: what figures must be, as ratios within a round, and the judgement of
//! reports by them. Absent: printing, files.

use serde::Deserialize;
use thiserror::Error;

use super::measures::Measure;
use crate::model::{Report, Round, Scenario, median};

/// Most budgets of a file.
const BUDGETS_MAX: usize = 1_000;

/// A budget file is not usable.
#[derive(Debug, Error)]
pub enum BudgetError {
    /// Not the TOML we expect.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// A budget without a bound, or with one no value can meet.
    #[error("budget `{0}`: at_most or at_least must be given, and be numbers a value can meet")]
    Bounds(String),
    /// No round at all would do.
    #[error("rounds must be at least 1")]
    Rounds,
    /// No budgets, or too many.
    #[error("a file has 1 to {BUDGETS_MAX} budgets, this one has {0}")]
    Count(usize),
}

/// One budget.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Name of the scenario of a report.
    pub row: String,
    /// What it is, for people.
    pub what: String,
    /// What is judged.
    pub measure: Measure,
    /// Label of the endpoint that is judged.
    pub of: String,
    /// Labels of those it is divided by: the smallest value of those that took
    /// part. Empty: the value itself is judged.
    #[serde(default)]
    pub to: Vec<String>,
    /// Upper bound.
    pub at_most: Option<f64>,
    /// Lower bound.
    pub at_least: Option<f64>,
    /// Rounds that a judgement takes at least; those of the file unless it says others.
    #[serde(default)]
    pub rounds: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// For budgets that have none of their own.
    #[serde(default = "one")]
    rounds: u32,
    budget: Vec<Budget>,
}

const fn one() -> u32 {
    1
}

/// Reads a budget file.
///
/// # Errors
/// [`BudgetError`]: unknown fields, no bounds, no budgets, no rounds.
pub fn parse_budgets(text: &str) -> Result<Vec<Budget>, BudgetError> {
    let File {
        rounds,
        budget: mut budgets,
    } = toml::from_str(text)?;
    for budget in &mut budgets {
        budget.rounds.get_or_insert(rounds);
    }
    if budgets.iter().any(|b| b.rounds == Some(0)) {
        return Err(BudgetError::Rounds);
    }
    if budgets.is_empty() || budgets.len() > BUDGETS_MAX {
        return Err(BudgetError::Count(budgets.len()));
    }
    match budgets.iter().find(|b| !b.bounded()) {
        Some(wrong) => Err(BudgetError::Bounds(wrong.what.clone())),
        None => Ok(budgets),
    }
}

/// How a budget came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The median is within the bounds.
    Met,
    /// It is not.
    Missed,
    /// Not judged: it was measured in fewer rounds than it takes.
    TooFew,
    /// No round of any report measured it.
    Unmeasured,
}

/// A budget and what was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict<'a> {
    /// The budget.
    pub budget: &'a Budget,
    /// One value a round, of all reports.
    pub values: Vec<f64>,
}

impl Verdict<'_> {
    /// The value that is judged.
    #[must_use]
    pub fn median(&self) -> Option<f64> {
        median(self.values.clone())
    }

    /// The judgement; of fewer rounds than the budget wants if `any_rounds`.
    #[must_use]
    pub fn outcome(&self, any_rounds: bool) -> Outcome {
        let Some(value) = self.median() else {
            return Outcome::Unmeasured;
        };
        let wanted = self.budget.rounds.unwrap_or(one());
        if !any_rounds && self.values.len() < wanted as usize {
            return Outcome::TooFew;
        }
        let low = self.budget.at_least.is_none_or(|least| value >= least);
        let high = self.budget.at_most.is_none_or(|most| value <= most);
        match low && high {
            true => Outcome::Met,
            false => Outcome::Missed,
        }
    }
}

/// Judges reports by budgets; ratios are taken within a round of one report.
#[must_use]
pub fn judge<'a>(budgets: &'a [Budget], reports: &[Report]) -> Vec<Verdict<'a>> {
    let verdict = |budget: &'a Budget| Verdict {
        budget,
        values: reports.iter().flat_map(|r| budget.values(r)).collect(),
    };
    budgets.iter().map(verdict).collect()
}

impl Budget {
    fn bounded(&self) -> bool {
        let bounds = [self.at_least, self.at_most];
        let sane = bounds.iter().flatten().all(|b| b.is_finite() && *b >= 0.0);
        let possible = self.at_least.zip(self.at_most).is_none_or(|(l, h)| l <= h);
        sane && possible && bounds.iter().any(Option::is_some)
    }

    fn values(&self, report: &Report) -> Vec<f64> {
        let scenarios = report.scenarios.iter().filter(|s| s.name == self.row);
        scenarios.flat_map(|s| self.values_in(report, s)).collect()
    }

    fn values_in(&self, report: &Report, scenario: &Scenario) -> Vec<f64> {
        let named = |round: &&Round, label: &str| {
            let endpoint = report.endpoints.get(round.endpoint);
            endpoint.is_some_and(|e| e.label == label)
        };
        let mine = scenario.rounds.iter().filter(|r| named(r, &self.of));
        let values = mine.filter_map(|round| {
            let value = self.measure.of(round)?;
            if self.to.is_empty() {
                return Some(value);
            }
            let others = scenario.rounds.iter().filter(|other| {
                other.number == round.number && self.to.iter().any(|l| named(other, l))
            });
            let others = others.filter_map(|other| self.measure.of(other));
            let smallest = others.filter(|v| *v > 0.0).min_by(f64::total_cmp)?;
            Some(value / smallest)
        });
        values.collect()
    }
}
