//! Tests of the test server.

#[cfg(test)]
mod program;
