//! `ebpf load|show|unload`: programs in the kernel that are loaded by one process with
//! rights and used by a worker that has none.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, Subcommand};
use quickwater_ebpf::{Balancer, Pinned, Pins, Unavailable};
use serde_json::json;

use super::SettingsArgs;
use super::exit::Kind;
use super::output::Output;
use crate::serve::Road;
use crate::settings::{EbpfSettings, Settings, Wish};

#[derive(Debug, Subcommand)]
pub(super) enum EbpfVerb {
    /// Load what the settings want into the kernel, attach it, and pin it for a worker
    #[command(after_help = LOAD_HELP)]
    Load(Asked),
    /// Print what is pinned, for whom, and whether a worker uses it
    #[command(after_help = SHOW_HELP)]
    Show(Asked),
    /// Detach and remove all that is pinned
    #[command(after_help = UNLOAD_HELP)]
    Unload(Asked),
}

const LOAD_HELP: &str = "\
Give it the settings of the worker, `threads` as a number: the program that spreads connections
is loaded for so many shards, which needs CAP_BPF and CAP_PERFMON; ebpf.service needs CAP_BPF and
CAP_NET_ADMIN. The worker needs no capability, only the files, which are in a BPF file system and
for the group of this process.
What was pinned before is removed first, unless a worker uses it.

Examples:
  quickwater ebpf load --threads 8
  quickwater ebpf load --ebpf-reuseport off --ebpf-service 10.0.0.1:80 --ebpf-local 10.0.0.11:29998";

const SHOW_HELP: &str = "\
Examples:
  quickwater ebpf show
  quickwater ebpf show --output json";

const UNLOAD_HELP: &str = "\
Refused while a worker uses some of it: stop that first.

Examples:
  quickwater ebpf unload";

#[derive(Debug, Args)]
pub(super) struct Asked {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(verb: EbpfVerb) -> Result<ExitCode> {
    match verb {
        EbpfVerb::Load(asked) => load(&asked),
        EbpfVerb::Show(asked) => show(&asked),
        EbpfVerb::Unload(asked) => unload(&asked),
    }
}

impl Asked {
    fn settings(&self) -> Result<Settings> {
        Settings::from_values(&self.settings.values()?).context(Kind::Usage)
    }
}

fn pins(settings: &EbpfSettings) -> Result<Pins> {
    let root: Option<&PathBuf> = settings.pins.as_ref();
    let root = root.ok_or_else(|| anyhow!("ebpf.pins is off").context(Kind::Usage))?;
    Ok(Pins::below(root))
}

fn load(asked: &Asked) -> Result<ExitCode> {
    let settings = asked.settings()?;
    let pins = pins(&settings.ebpf)?;
    let shards = settings.store.threads;
    let spreads = match settings.ebpf.reuseport {
        Wish::Off => false,
        Wish::Auto => shards > 1,
        Wish::Required => true,
    };
    let road = Road::of(&settings.ebpf, settings.s3.listen);
    if !spreads && road.is_none() {
        bail!(
            "the settings want no program: one shard, or ebpf.reuseport off, and no ebpf.service"
        );
    }
    pins.clear()?;
    let doors = match &settings.s3.tls {
        Some(tls) if tls.listen.is_some() => 2,
        _ => 1,
    };
    let balance = spreads.then_some((shards, doors));
    if let Err(why) = pin(&pins, balance, road.as_ref()) {
        // Half of it would be taken for all. Why it failed counts more than why it stays.
        let _ = pins.clear();
        return Err(why.into());
    }
    tell(&pins, asked.output)
}

/// Loads and pins what is wanted: `balance` for so many shards and doors.
fn pin(
    pins: &Pins,
    balance: Option<(usize, usize)>,
    road: Option<&Road>,
) -> Result<(), Unavailable> {
    if let Some((shards, doors)) = balance {
        Balancer::pin(pins, shards, doors)?;
    }
    road.map_or(Ok(()), |road| road.pin(pins))
}

fn show(asked: &Asked) -> Result<ExitCode> {
    tell(&pins(&asked.settings()?.ebpf)?, asked.output)
}

fn unload(asked: &Asked) -> Result<ExitCode> {
    let pins = pins(&asked.settings()?.ebpf)?;
    pins.clear()?;
    tell(&pins, asked.output)
}

fn tell(pins: &Pins, output: Output) -> Result<ExitCode> {
    let root = pins.root().display();
    let all = pins.list().with_context(|| format!("cannot read {root}"))?;
    let one = |pinned: &Pinned| {
        json!({
            "name": pinned.name,
            "version": pinned.version,
            "usable": pinned.is_own,
            "used": pinned.is_used,
            "notes": pinned.notes.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        })
    };
    let json =
        json!({ "directory": root.to_string(), "pinned": all.iter().map(one).collect::<Vec<_>>() });
    output.show(&json, || match all.is_empty() {
        true => format!("nothing is pinned in {root}\n"),
        false => all.iter().map(line).collect(),
    })
}

fn line(pinned: &Pinned) -> String {
    let whose = match (pinned.is_own, pinned.is_used) {
        (false, _) => "of another version of Quickwater",
        (true, true) => "in use",
        (true, false) => "for the next worker",
    };
    let notes = pinned.notes.iter();
    let notes: String = notes
        .map(|(name, word)| format!(", {name} {word}"))
        .collect();
    format!("{} ({}): {whose}{notes}\n", pinned.name, pinned.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_who_can_use_it() {
        let mut pinned = Pinned {
            name: "connect".into(),
            version: "0f".into(),
            is_own: true,
            is_used: false,
            notes: vec![("service".into(), "10.0.0.1:80".into())],
        };
        assert_eq!(
            line(&pinned),
            "connect (0f): for the next worker, service 10.0.0.1:80\n"
        );
        pinned.is_used = true;
        assert!(line(&pinned).contains("in use"));
        pinned.is_own = false;
        assert!(line(&pinned).contains("another version"));
    }
}
