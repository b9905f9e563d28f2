//! The one binary: settings, assembly and the command line.
//!
//! Absent on purpose: rules of caching, metadata or S3; this crate only puts the
//! rooms together and talks to people.

mod certificate;
mod cli;
mod cluster_certificate;
mod date;
mod doctor;
mod home;
mod logging;
mod serve;
mod settings;
mod store;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
