//! The verb `bench`: its arguments and its way from them to a report.

mod args;
mod parse;

pub use args::{BenchArgs, RunArgs, ScenarioName};
