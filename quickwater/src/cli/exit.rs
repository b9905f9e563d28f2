//! Exit codes and the last message.

use std::fmt;
use std::process::ExitCode;

/// Attached to an error as context: decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Wrong usage or setting.
    Usage,
    /// The service is not there.
    Unreachable,
    /// Done, but something that was acked is lost.
    Losses,
}

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Losses => 4,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Usage => "wrong settings",
            Self::Unreachable => "the service cannot be reached",
            Self::Losses => "done, with losses",
        })
    }
}

/// The exit code of an error.
pub(super) fn code_of(error: &anyhow::Error) -> u8 {
    error.downcast_ref::<Kind>().map_or(1, |kind| kind.code())
}

/// Prints an error with its causes and returns its code.
#[expect(
    clippy::print_stderr,
    reason = "the last words go to the person at the terminal"
)]
pub(super) fn report(error: &anyhow::Error) -> ExitCode {
    eprintln!("quickwater: {error:#}");
    ExitCode::from(code_of(error))
}
