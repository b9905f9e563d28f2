//! Answers to clients of this node go from socket to socket, if the settings want that,
//! eBPF can be had and a test at the start succeeds; else by TCP.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use quickwater_ebpf::{Bypass, Unavailable, cgroup_root, own_addresses};
use quickwater_worker::http::{BypassGate, BypassNews};
use quickwater_worker::metrics::{Metric, Metrics};

use super::conditions::{Conditions, Part, State};
use crate::settings::EbpfSettings;

/// How often somebody looks whether the programs are attached and have room.
const LOOK_PERIOD: Duration = Duration::from_secs(5);
/// What becomes of answers without.
const WITHOUT: &str = "answers to clients of this node go by TCP";

/// Attaches and tests the programs. `address`: where HTTP without TLS is spoken, if it is.
pub(super) fn start(
    settings: &EbpfSettings,
    address: Option<SocketAddr>,
    metrics: &Metrics,
    conditions: &Conditions,
) -> Option<Arc<BypassGate>> {
    let told = |state, detail: String| conditions.set(Part::Bypass, state, detail);
    let (true, Some(address)) = (settings.bypass, address) else {
        let why = match settings.bypass {
            true => "the S3 endpoint speaks TLS only",
            false => "switched off",
        };
        told(State::Off, format!("{why}: {WITHOUT}"));
        return None;
    };
    match attach(settings, address) {
        Ok(bypass) => {
            let conditions = conditions.clone();
            let tell = move |news| {
                let (state, detail) = condition(news);
                conditions.set(Part::Bypass, state, detail);
            };
            tell(BypassNews::Open);
            let gate = BypassGate::new(bypass, Box::new(tell));
            collect(metrics, Arc::clone(&gate));
            begin_looks(&gate);
            Some(gate)
        }
        Err(why) => {
            told(State::from(&why), format!("{why}: {WITHOUT}"));
            None
        }
    }
}

/// What `status` says of it.
fn condition(news: BypassNews) -> (State, String) {
    let on = "answers to clients of this node go from socket to socket";
    let from_now_on = format!("from now on {WITHOUT}");
    match news {
        BypassNews::Open => (State::On, on.to_owned()),
        BypassNews::Full => {
            let full = "as many connections as can be (16,384) do, others go by TCP";
            (State::On, format!("{on}; {full}"))
        }
        BypassNews::Stalled => {
            let why = "several clients in a row stalled";
            (State::Refused, format!("{why}: {from_now_on}"))
        }
        BypassNews::Detached => {
            let why = "somebody detached the programs, or their cgroup is gone";
            (
                State::Refused,
                format!("{why}: {from_now_on}, until the next start"),
            )
        }
    }
}

/// Looks after the programs until the gate is closed or gone.
fn begin_looks(gate: &Arc<BypassGate>) {
    let gate = Arc::downgrade(gate);
    let thread = thread::Builder::new().name("qw-bypass".into());
    let begun = thread.spawn(move || {
        while let Some(gate) = Weak::upgrade(&gate) {
            match gate.look() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => tracing::debug!(%error, "whether programs are attached"),
            }
            drop(gate);
            thread::sleep(LOOK_PERIOD);
        }
    });
    if let Err(error) = begun {
        tracing::warn!(%error, "nobody looks whether the programs of ebpf.bypass stay attached");
    }
}

fn attach(settings: &EbpfSettings, address: SocketAddr) -> Result<Arc<Bypass>, Unavailable> {
    let refused = |what, why: String| Unavailable::Refused { what, why };
    let cgroup = settings.cgroup.clone().or_else(cgroup_root);
    let cgroup =
        cgroup.ok_or_else(|| refused("ebpf.bypass", "no cgroup2 is mounted here".into()))?;
    let own = own_addresses();
    let own = own.map_err(|error| refused("the addresses of this host", error.to_string()))?;
    let addresses = reached_by(address.ip(), &own);
    let bypass = Arc::new(Bypass::attach(address.port(), &addresses, &cgroup)?);
    let first = addresses.first().copied().unwrap_or(address.ip());
    bypass.prove(first)?;
    Ok(bypass)
}

/// The addresses by which a listener is reached that may listen everywhere.
fn reached_by(listen: IpAddr, own: &[IpAddr]) -> Vec<IpAddr> {
    match listen {
        IpAddr::V4(ip) if ip.is_unspecified() => {
            own.iter().copied().filter(IpAddr::is_ipv4).collect()
        }
        IpAddr::V6(ip) if ip.is_unspecified() => own.to_vec(),
        ip => vec![ip],
    }
}

fn collect(metrics: &Metrics, gate: Arc<BypassGate>) {
    metrics.collect(move |samples| {
        let totals = gate.totals();
        let [taken, stalled, starved] = gate.connections();
        let mut put = |outcome, count| {
            samples.count(Metric::EbpfBypassConnections, &[outcome], count);
        };
        put("taken", taken);
        put("stalled", stalled);
        put("starved", starved);
        put("refused", totals.refused_connections);
        samples.count(Metric::EbpfBypassBytes, &[], totals.bytes);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_everywhere_is_reached_by_all_addresses_of_its_family() {
        let own: Vec<IpAddr> = ["127.0.0.1", "10.0.0.1", "::1"]
            .map(|text| text.parse().unwrap())
            .to_vec();
        let by = |text: &str| reached_by(text.parse().unwrap(), &own);
        assert_eq!(by("0.0.0.0"), own[..2]);
        assert_eq!(by("::"), own);
        assert_eq!(by("10.0.0.1"), own[1..2]);
    }
}
