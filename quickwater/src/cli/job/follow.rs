//! Follows a job to its end: one line that is written over at a terminal, a line
//! every few seconds elsewhere, all on stderr.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::Result;
use quickwater_rpc::admin::{Job, JobStatusRequest};
use tonic::Code;

use super::show::{handled, is_end, path, verb};
use crate::cli::output::size;
use crate::cli::remote::{Remote, Target, explain};

/// Between two looks at the start; longer the longer the job takes.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause between two looks.
const LOOK_PAUSE_MAX: Duration = Duration::from_millis(500);
/// Between lines where there is no terminal.
const LINE_PAUSE: Duration = Duration::from_secs(5);
/// Looks in a row that may get no answer: the service is being restarted.
const SILENT_MAX: u32 = 20;
/// Characters of the bar.
const BAR_CHARS: usize = 30;
/// Wipes the rest of a terminal's line.
const WIPE: &str = "\r\x1b[K";

/// Shows the job until it has ended.
pub(super) fn run(id: u64, target: &Target) -> Result<Job> {
    let mut view = View::new();
    let job = target.with(|remote| follow(remote, id, &mut view));
    view.wipe();
    job
}

async fn follow(mut remote: Remote, id: u64, view: &mut View) -> Result<Job> {
    let mut pause = LOOK_PAUSE;
    let mut silent = 0;
    loop {
        match remote.job_status(JobStatusRequest { id }).await {
            Ok(reply) => {
                silent = 0;
                match reply.into_inner().job {
                    Some(job) if is_end(&job) => return Ok(job),
                    Some(job) => view.show(&job),
                    None => anyhow::bail!("the service answered without the job"),
                }
            }
            Err(status) if status.code() == Code::Unavailable && silent < SILENT_MAX => silent += 1,
            Err(status) => {
                let text = format!("job {id} goes on, but cannot be followed");
                return Err(explain(&status).context(text));
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 5 / 4).min(LOOK_PAUSE_MAX);
    }
}

/// What people see meanwhile.
struct View {
    terminal: bool,
    begun: Instant,
    told: Option<Instant>,
}

impl View {
    fn new() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            begun: Instant::now(),
            told: None,
        }
    }

    fn show(&mut self, job: &Job) {
        let line = line(job, self.begun.elapsed(), self.terminal);
        if self.terminal {
            return write(&format!("{WIPE}{line}"));
        }
        let due = self.told.is_none_or(|told| told.elapsed() >= LINE_PAUSE);
        // The first line only when it takes a while.
        if due && self.begun.elapsed() >= LOOK_PAUSE_MAX {
            self.told = Some(Instant::now());
            write(&format!("{line}\n"));
        }
    }

    fn wipe(&self) {
        if self.terminal {
            write(WIPE);
        }
    }
}

/// Stderr that is gone is no reason to stop following.
fn write(text: &str) {
    let mut out = std::io::stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn line(job: &Job, elapsed: Duration, bar: bool) -> String {
    let title = format!("job {} {} {}", job.id, job.kind, path(job));
    let (Some(found), "running") = (job.found, job.state.as_str()) else {
        let what = match job.state.as_str() {
            "waiting" => "waits for other jobs",
            _ => "finds out what is there",
        };
        return format!("{title}: {what}");
    };
    let handled = handled(job);
    let all = found.objects.max(handled);
    let percent = (handled * 100).checked_div(all).unwrap_or(100);
    let done = job.done.unwrap_or_default();
    let rate = done.bytes as f64 / elapsed.as_secs_f64().max(0.001);
    let bar = if bar { drawn(percent) } else { String::new() };
    let failed = match job.failed {
        0 => String::new(),
        many => format!(", {many} failed"),
    };
    format!(
        "{title}: {bar}{percent}% {handled}/{all} objects, {} {} ({}/s){failed}",
        size(done.bytes),
        verb(job),
        size(rate as u64),
    )
}

fn drawn(percent: u64) -> String {
    let full = usize::try_from(percent).unwrap_or(100).min(100) * BAR_CHARS / 100;
    format!("[{}{}] ", "#".repeat(full), ".".repeat(BAR_CHARS - full))
}

#[cfg(test)]
mod tests {
    use quickwater_rpc::admin::JobTally;

    use super::*;

    fn running(found: Option<u64>, done: u64) -> Job {
        let tally = |objects| JobTally {
            objects,
            bytes: objects << 20,
        };
        Job {
            id: 7,
            kind: "load".into(),
            bucket: "data".into(),
            path: "a".into(),
            state: "running".into(),
            found: found.map(tally),
            done: Some(tally(done)),
            ..Job::default()
        }
    }

    #[test]
    fn a_line_tells_how_far_it_is() {
        let second = Duration::from_secs(1);
        let text = line(&running(None, 0), second, false);
        assert_eq!(text, "job 7 load /data/a: finds out what is there");
        let text = line(&running(Some(10), 5), second, false);
        assert_eq!(
            text,
            "job 7 load /data/a: 50% 5/10 objects, 5.0 MiB loaded (5.0 MiB/s)"
        );
        // Nothing to do is all done; more than was found is not more than all.
        assert!(line(&running(Some(0), 0), second, false).contains("100% 0/0"));
        assert!(line(&running(Some(1), 5), second, true).contains("100% 5/5"));
        let mut failing = running(Some(10), 5);
        failing.failed = 2;
        assert!(
            line(&failing, second, false)
                .ends_with("70% 7/10 objects, 5.0 MiB loaded (5.0 MiB/s), 2 failed")
        );
        assert_eq!(
            drawn(50),
            format!("[{}{}] ", "#".repeat(15), ".".repeat(15))
        );
        assert_eq!(drawn(250), format!("[{}] ", "#".repeat(30)));
    }
}
