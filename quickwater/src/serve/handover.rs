//! Connections of clients go to the worker that has the bytes, if the settings want that
//! and eBPF can be had; else every byte is relayed.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use quickwater_ebpf::{Device, Forwarding, Unavailable, pins_of};
use quickwater_handoff::probe;
use quickwater_worker::handoff::{Handoff, OUTCOMES};
use quickwater_worker::metrics::{Metric, Metrics};

use super::conditions::{Conditions, Part, State};
use crate::settings::EbpfSettings;

/// What becomes of requests without.
const WITHOUT: &str = "requests for other workers are relayed";

/// Attaches the program to the device that has `own`, an address at which other workers
/// reach this one. `service`: where the S3 endpoint listens.
pub(super) fn start(
    settings: &EbpfSettings,
    own: Option<IpAddr>,
    service: SocketAddr,
    (metrics, conditions): (&Metrics, &Conditions),
) -> Option<Arc<Handoff>> {
    let told = |state, detail: String| conditions.set(Part::Handoff, state, detail);
    let (true, Some(own)) = (settings.handoff, own) else {
        told(
            State::Off,
            format!("switched off, or there are no other workers: {WITHOUT}"),
        );
        return None;
    };
    match attach(settings, own, service) {
        Ok(forwarding) => {
            let device = forwarding.device().name.clone();
            told(
                State::On,
                format!("connections that come in by {device} may go to the owner"),
            );
            let handoff = Arc::new(Handoff::new(forwarding, settings.handoff_min));
            collect(metrics, Arc::clone(&handoff));
            Some(handoff)
        }
        Err(why) => {
            told(State::from(&why), format!("{why}: {WITHOUT}"));
            None
        }
    }
}

fn attach(
    settings: &EbpfSettings,
    own: IpAddr,
    service: SocketAddr,
) -> Result<Forwarding, Unavailable> {
    let refused = |what, why: String| Unavailable::Refused { what, why };
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
        let (entries, _) = handoff.forwarding().sweep();
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
