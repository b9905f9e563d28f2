//! Compiles the .proto files in-process; no `protoc` is looked for.

use std::error::Error;

const FILES: [&str; 3] = [
    "proto/quickwater/records.proto",
    "proto/quickwater/admin.proto",
    "proto/quickwater/cluster.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let descriptors = protox::compile(FILES, ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    for file in FILES {
        emit_rerun_if_changed(file)?;
    }
    Ok(())
}

fn emit_rerun_if_changed(file: &str) -> std::io::Result<()> {
    use std::io::Write;
    writeln!(std::io::stdout(), "cargo:rerun-if-changed={file}")
}
