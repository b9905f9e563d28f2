//! The verb `bench`: its arguments and its way from them to a report.

mod args;
mod parse;
mod write;

pub use args::{BenchArgs, Profile, RunArgs, ScenarioName};
pub(crate) use parse::bytes;

pub use write::main;
