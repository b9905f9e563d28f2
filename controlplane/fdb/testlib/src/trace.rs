//! What transactions ask for: a line for each call in the file that [`TRACE_VARIABLE`]
//! names, there before the call returns. `ATTEMPT CALL KEY VALUE_BYTES`, the key in
//! hexadecimal digits; attempts are numbered in the process. Absent: answers.

use std::fs::File;
use std::io::{Result, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The environment variable that names the file.
pub(crate) const TRACE_VARIABLE: &str = "FDB_TEST_TRACE";

/// The trace of a process, or none.
#[derive(Debug, Default)]
pub(crate) struct Trace(Option<Mutex<File>>);

impl Trace {
    /// To the file that the environment names, behind what it holds.
    pub(crate) fn open() -> Result<Self> {
        let Some(path) = std::env::var_os(TRACE_VARIABLE) else {
            return Ok(Self(None));
        };
        let file = File::options().append(true).create(true).open(path)?;
        Ok(Self(Some(Mutex::new(file))))
    }

    pub(crate) fn note(&self, attempt: u64, call: &str, key: &[u8], value_bytes: usize) {
        let Some(file) = &self.0 else { return };
        let key: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let line = format!("{attempt} {call} {key} {value_bytes}\n");
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.write_all(line.as_bytes()) {
            eprintln!("{TRACE_VARIABLE}: {error}");
            std::process::abort();
        }
    }
}

/// The number of the next attempt.
pub(crate) fn next_attempt() -> u64 {
    static ATTEMPTS: AtomicU64 = AtomicU64::new(1);
    ATTEMPTS.fetch_add(1, Ordering::Relaxed)
}
