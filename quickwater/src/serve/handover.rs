//! Connections of clients go to the worker that has the bytes, if the settings want that
//! and eBPF can be had; else every byte is relayed.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use quickwater_ebpf::{Device, Forwarding, Full, Unavailable, pins_of};
use quickwater_handoff::probe;
use quickwater_worker::handoff::{Handoff, OUTCOMES, Troubles};
use quickwater_worker::metrics::{Metric, Metrics};

use super::conditions::{Conditions, Part, State};
use crate::settings::EbpfSettings;

/// What becomes of requests without.
const WITHOUT: &str = "requests for other workers are relayed";

/// How often entries are looked at: soon after the five seconds of one that has ended.
const SWEEP_PERIOD: Duration = Duration::from_secs(5);

/// Ways on which this worker is not heard that are named.
const UNHEARD_NAMED: usize = 8;

/// What hands connections over. Dropped, entries are not looked at any more.
pub(super) struct Handover {
    pub(super) handoff: Arc<Handoff>,
    /// Nothing is ever sent: its end is what counts.
    _sweeps: SyncSender<()>,
}

/// Attaches the program to the device that has `own`, an address at which other workers
/// reach this one. `service`: where the S3 endpoint listens.
pub(super) fn start(
    settings: &EbpfSettings,
    own: Option<IpAddr>,
    service: SocketAddr,
    (metrics, conditions): (&Metrics, &Conditions),
) -> Option<Handover> {
    let told = |state, detail: String| conditions.set(Part::Handoff, state, detail);
    let (true, Some(own)) = (settings.handoff, own) else {
        let before = take_away(settings, service.port());
        told(
            State::Off,
            format!("switched off, or there are no other workers: {WITHOUT}{before}"),
        );
        return None;
    };
    let begun = attach(settings, own, service).and_then(|forwarding| {
        let device = forwarding.device().name.clone();
        let on = format!("connections that come in by {device} may go to the owner");
        let (told, shown) = (conditions.clone(), on.clone());
        let tell = Box::new(move |troubles: &Troubles| {
            let (state, detail) = condition(&shown, troubles);
            told.set(Part::Handoff, state, detail);
        });
        let handoff = Arc::new(Handoff::new(forwarding, settings.handoff_min, tell));
        // Before the first look, which may have more to say.
        conditions.set(Part::Handoff, State::On, on);
        let sweeps = begin_sweeps(&handoff)
            .map_err(|error| refused("the thread that looks at entries", error.to_string()))?;
        Ok((handoff, sweeps))
    });
    match begun {
        Ok((handoff, sweeps)) => {
            collect(metrics, Arc::clone(&handoff));
            Some(Handover {
                handoff,
                _sweeps: sweeps,
            })
        }
        Err(why) => {
            told(State::from(&why), format!("{why}: {WITHOUT}"));
            None
        }
    }
}

fn refused(what: &'static str, why: String) -> Unavailable {
    Unavailable::Refused { what, why }
}

/// Takes away what a start with hand-overs left, unless another process uses it: who switches
/// them off wants nothing of them on the host's packets. What became of it, in words.
fn take_away(settings: &EbpfSettings, port: u16) -> String {
    let Some(root) = settings.pins.as_deref() else {
        return String::new();
    };
    let found = match Forwarding::left_behind(root, port) {
        Ok(found) => found,
        Err(error) => {
            let root = root.display();
            return format!("; whether an earlier start left something in {root}: {error}");
        }
    };
    let mut told = String::new();
    for pins in found {
        let taken = match Forwarding::is_used(&pins) {
            Ok(true) => Ok("stays: another process uses it"),
            Ok(false) => Forwarding::detach(&pins)
                .map(|()| "was taken away: connections that it sent on are broken"),
            Err(error) => Err(error),
        };
        let became = match taken {
            Ok(became) => became.to_owned(),
            Err(error) => format!("stays, and goes on: {error}"),
        };
        let pins = pins.display();
        // A `String` takes all it is given.
        let _ = write!(told, "; what an earlier start left in {pins} {became}");
    }
    told
}

/// Entries that are over go again and again, until what this returns is dropped.
fn begin_sweeps(handoff: &Arc<Handoff>) -> io::Result<SyncSender<()>> {
    let (sweeps, ended) = sync_channel(0);
    let handoff = Arc::downgrade(handoff);
    let thread = thread::Builder::new().name("qw-handoff".into());
    thread.spawn(move || {
        while let Some(handoff) = Weak::upgrade(&handoff) {
            if let Err(error) = handoff.look() {
                tracing::warn!(%error, "connections that have ended here are not found");
            }
            drop(handoff);
            if ended.recv_timeout(SWEEP_PERIOD) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    })?;
    Ok(sweeps)
}

/// Whether connections move, and which stay though they could.
fn condition(on: &str, troubles: &Troubles) -> (State, String) {
    match &troubles.detached {
        Some(why) => {
            let detail = format!(
                "the program is on no device any more, because somebody took it off or the device \
                 is gone, and was not attached again ({why}): {WITHOUT}, and connections that had \
                 gone elsewhere break"
            );
            (State::Refused, detail)
        }
        None => (State::On, with_troubles(on, troubles)),
    }
}

/// Says which connections stay though they could move.
fn with_troubles(on: &str, troubles: &Troubles) -> String {
    let mut told = with_unheard(on, &troubles.unheard);
    for full in &troubles.full {
        told.push_str(match full {
            Full::Forwards => {
                "; as many as can be (65,536) have gone or just ended: others are relayed"
            }
            Full::Expected => "; too many are expected here at a time: others are relayed",
            Full::Arrivals => {
                "; so many begin and are not accepted (a flood?) that of others this is not \
                 known: they are relayed"
            }
        });
    }
    if let Some(why) = &troubles.unpinned {
        told.push_str(
            "; connections that have gone break when this worker ends, because what sends them \
             on cannot be pinned: ",
        );
        told.push_str(why);
    }
    if troubles.attached_again > 0 {
        // A `String` takes all it is given.
        let _ = write!(
            told,
            "; somebody took the program off the device (so far: {}), it was attached again, and \
             connections that had gone elsewhere may have broken",
            troubles.attached_again
        );
    }
    told
}

/// Says which clients are relayed though connections could move.
fn with_unheard(on: &str, unheard: &[String]) -> String {
    let named = unheard.len().min(UNHEARD_NAMED);
    let more = match unheard.len() - named {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    match unheard {
        [] => on.to_owned(),
        _ => format!(
            "{on}, but clients do not hear this worker, and are relayed: {}{more}",
            unheard[..named].join(", ")
        ),
    }
}

fn attach(
    settings: &EbpfSettings,
    own: IpAddr,
    service: SocketAddr,
) -> Result<Forwarding, Unavailable> {
    probe().map_err(|why| refused("a probe connection", why.to_string()))?;
    let device = Device::with(own);
    let device = device.map_err(|why| refused("the device of other workers", why.to_string()))?;
    let pins = settings.pins.as_deref();
    let pins = pins.ok_or_else(|| refused("the directory of pins", "ebpf.pins is off".into()))?;
    let pins = pins_of(pins, &device.name, service.port());
    Forwarding::attach(&device, service.port(), &pins)
}

fn collect(metrics: &Metrics, handoff: Arc<Handoff>) {
    metrics.collect(move |samples| {
        for (name, count) in OUTCOMES.iter().zip(handoff.outcomes()) {
            samples.count(Metric::EbpfHandoffs, &[*name], count);
        }
        let entries = handoff.forwarding().entries();
        samples.count(Metric::EbpfForwardEntries, &[], entries as u64);
        let packets = handoff.forwarding().counts();
        for (name, count) in [
            ("forwarded", packets.forwarded),
            ("kept_away", packets.kept_away),
            ("too_old", packets.too_old),
            ("failed", packets.failed),
        ] {
            samples.count(Metric::EbpfForwardPackets, &[name], count);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condition_says_what_is_full() {
        let mut troubles = Troubles::default();
        assert_eq!(with_troubles("on", &troubles), "on");
        troubles.unheard = vec!["10.0.0.0/24 by n1".into()];
        troubles.full = vec![Full::Forwards, Full::Arrivals];
        let told = with_troubles("on", &troubles);
        assert!(
            told.contains("10.0.0.0/24 by n1; as many as can be"),
            "{told}"
        );
        assert!(told.contains("a flood?"), "{told}");
    }

    #[test]
    fn without_the_program_nothing_is_on() {
        let mut troubles = Troubles {
            detached: Some("no device e0".into()),
            ..Troubles::default()
        };
        let (state, detail) = condition("on", &troubles);
        assert_eq!(state, State::Refused);
        assert!(detail.contains("(no device e0)"), "{detail}");
        (troubles.detached, troubles.attached_again) = (None, 2);
        let (state, detail) = condition("on", &troubles);
        assert_eq!(state, State::On);
        assert!(detail.contains("(so far: 2)"), "{detail}");
    }

    #[test]
    fn the_condition_names_some_who_do_not_hear() {
        let paths: Vec<_> = (0..10).map(|at| format!("10.0.{at}.0/24 by n1")).collect();
        assert_eq!(with_unheard("on", &[]), "on");
        let one = with_unheard("on", &paths[..1]);
        assert!(one.ends_with("are relayed: 10.0.0.0/24 by n1"), "{one}");
        let all = with_unheard("on", &paths);
        assert!(all.ends_with("10.0.7.0/24 by n1 and 2 more"), "{all}");
    }
}
