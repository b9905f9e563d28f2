//! Tests end or stop a worker at a step of a hand-over (decisions/0035). In builds without
//! debug assertions, as those for release are, nothing is looked for and nothing happens.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use rustix::process::{Signal, getpid, kill_process};

/// Names a directory. A file in it by the name of a step says what happens there, once.
const VARIABLE: &str = "QUICKWATER_TEST_STEPS";

/// A step, by what was done last.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// The owner was asked, and answers that it wants the connection.
    Asked,
    /// Packets of it do not reach this host any more.
    KeptAway,
    /// It is frozen.
    Frozen,
    /// Its packets go to the next worker.
    Turned,
    /// Another worker said that it has it.
    Given,
    /// Its state came.
    Received,
    /// It is restored, nobody was told.
    Restored,
    /// Who gave it was told.
    Told,
    /// Whoever has it asked to have its packets sent elsewhere.
    Guiding,
    /// They are.
    Guided,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Step::Asked => "asked",
            Step::KeptAway => "kept-away",
            Step::Frozen => "frozen",
            Step::Turned => "turned",
            Step::Given => "given",
            Step::Received => "received",
            Step::Restored => "restored",
            Step::Told => "told",
            Step::Guiding => "guiding",
            Step::Guided => "guided",
        }
    }

    /// A hand-over is at this step.
    pub(super) fn reached(self) {
        if cfg!(debug_assertions) {
            self.obey();
        }
    }

    fn obey(self) {
        static DIRECTORY: OnceLock<Option<PathBuf>> = OnceLock::new();
        let directory = DIRECTORY.get_or_init(|| std::env::var_os(VARIABLE).map(PathBuf::from));
        let Some(order) = directory.as_ref().map(|path| path.join(self.name())) else {
            return;
        };
        let signal = match fs::read_to_string(&order).as_deref() {
            Ok("kill") => Signal::KILL,
            Ok("stop") => Signal::STOP,
            _ => return,
        };
        // It goes first: whoever gave the order waits for that.
        let sent = fs::remove_file(&order).and_then(|()| Ok(kill_process(getpid(), signal)?));
        if let Err(error) = sent {
            tracing::error!(%error, step = self.name(), "an order of a test is not obeyed");
        }
    }
}
