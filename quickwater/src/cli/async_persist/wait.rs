//! `wait`: until the UFS has what was pending.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use quickwater_rpc::admin::{PersistSumReply, PersistSumRequest, PersistTotals};
use serde_json::json;

use super::{place, totals_json, unheard_text};
use crate::cli::exit::Kind;
use crate::cli::output::{count, size};
use crate::cli::remote::{Remote, Target, explain};
use crate::settings::parse;

/// Wait between two looks, at least; longer when a look takes long.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// A look that took a while is not repeated for so many times as long.
const LOOK_SHARE: u32 = 9;
/// Progress is told this often.
const PROGRESS_PAUSE: Duration = Duration::from_secs(2);

pub(super) fn run(path: &str, timeout: &str, target: &Target) -> Result<ExitCode> {
    let (bucket, below) = place(path)?;
    let longest =
        parse::duration(timeout).map_err(|why| anyhow!("--timeout: {why}").context(Kind::Usage))?;
    let request = PersistSumRequest {
        bucket,
        path: below,
        until_ms: 0,
    };
    let begun = Instant::now();
    let left = target.with(|remote| look(remote, request, begun, longest))?;
    let Some(left) = left else {
        return Err(anyhow!(
            "nothing at '{path}': no object, none below it, and no change of one is pending"
        ));
    };
    let waited_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (transient, never) = (left.transient, left.transient_objects);
    let left = left.pending.unwrap_or_default();
    let done = is_done(&left) && !transient;
    let json = json!({
        "path": path,
        "persisted": done,
        "transient": transient,
        "transient_objects": never,
        "waited_ms": waited_ms,
        "pending": totals_json(&left),
        "lost": left.lost,
    });
    let code = target.output.show(&json, || match done {
        true if never > 0 => format!(
            "the UFS has everything that goes there; TRANSIENT, so never there: {}\n",
            count(never, "object")
        ),
        true => "the UFS has everything that goes there\n".into(),
        false if transient => {
            let objects = count(never, "object");
            format!("'{path}' is TRANSIENT: the UFS never gets it ({objects})\n")
        }
        false if are_all_lost(&left) => format!(
            "the UFS has everything but what is lost: {} ({}); these are sent if a removed worker \
             comes back with them, and end when they are written again or deleted (`quickwater \
             async-persist list --state failing`)\n",
            count(left.lost, "object"),
            size(left.bytes),
        ),
        false => format!("time is up; {}\n", left_text(&left)),
    })?;
    Ok(if done { code } else { ExitCode::FAILURE })
}

/// Looks until nothing is left or time is up; what is left then. `None`: there never
/// was anything.
async fn look(
    mut remote: Remote,
    mut request: PersistSumRequest,
    begun: Instant,
    longest: Duration,
) -> Result<Option<PersistSumReply>> {
    let (mut told, mut was_pending) = (begun, false);
    loop {
        let asked = Instant::now();
        let reply = remote.persist_sum(request.clone()).await;
        let reply = reply.map_err(|s| explain(&s))?.into_inner();
        request.until_ms = reply.until_ms;
        let left = reply.pending.clone().unwrap_or_default();
        let time = longest.saturating_sub(begun.elapsed());
        if is_done(&left) && !was_pending && !reply.found {
            return Ok(None);
        }
        if is_done(&left) || are_all_lost(&left) || time.is_zero() {
            return Ok(Some(reply));
        }
        was_pending = true;
        if told.elapsed() >= PROGRESS_PAUSE {
            told = Instant::now();
            progress(&left);
        }
        let pause = LOOK_PAUSE.max(asked.elapsed() * LOOK_SHARE);
        tokio::time::sleep(pause.min(time)).await;
    }
}

fn is_done(left: &PersistTotals) -> bool {
    left.puts + left.deletes == 0
}

/// Whether waiting helps no more: what is left has no bytes that could be sent.
fn are_all_lost(left: &PersistTotals) -> bool {
    left.lost > 0 && left.puts + left.deletes == left.lost && left.unheard.is_empty()
}

fn left_text(left: &PersistTotals) -> String {
    let failing = match left.failing {
        0 => String::new(),
        many => format!(", {many} failing (`quickwater async-persist list --state failing`)"),
    };
    let lost = match left.lost {
        0 => String::new(),
        many => format!(", {many} of them lost"),
    };
    let unheard = match unheard_text(left) {
        none if none.is_empty() => none,
        unheard => format!("; {unheard}"),
    };
    format!(
        "{} ({}) and {} are not in the UFS{failing}{lost}{unheard}",
        count(left.puts, "object"),
        size(left.bytes),
        count(left.deletes, "delete")
    )
}

#[expect(
    clippy::print_stderr,
    reason = "progress is for the person at the terminal"
)]
fn progress(left: &PersistTotals) {
    eprintln!("{}", left_text(left));
}
