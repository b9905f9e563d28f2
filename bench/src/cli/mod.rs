//! The verb `bench`: its arguments and its way from them to a report.

mod args;
mod parse;
mod write;

pub use args::{
    BenchArgs, BenchVerb, LoadArgs, ObjectArgs, OutputArgs, Profile, RunArgs, ScenarioName,
    TargetArgs, VersusArgs,
};
pub(crate) use parse::bytes;

pub use write::main;
