//! `quickwater bench`: an S3 load tool for any endpoint, and the reports it makes.
//!
//! Absent on purpose: anything of the service itself. The tool knows an endpoint
//! only by its address, a process only by `/proc`.

pub mod cli;
mod client;
mod machine;
pub mod model;
mod process;
pub mod report;
mod run;
mod workload;

pub use run::{BenchError, run};
