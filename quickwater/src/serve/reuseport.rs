//! Connections go to the shard with the fewest, if eBPF can be had; else the kernel
//! spreads them by a hash, as it does by itself.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use quickwater_ebpf::{Balancer, Pins, ShardLoad, Unavailable};
use quickwater_worker::http::Door;
use quickwater_worker::metrics::{Metric, Metrics};

use super::conditions::{Conditions, Part, State};
use crate::settings::Wish;

/// What becomes of connections without the program.
const WITHOUT: &str = "the kernel's hash spreads connections over the shards";

/// The attached program.
#[derive(Clone)]
pub(super) struct Spreading(Arc<Balancer>);

/// Attaches it, or the one that is pinned there, to the listeners, by shard. Nothing is left
/// of a try that failed.
///
/// # Errors
/// It is required and cannot be had.
pub(super) fn attach(
    (wish, pins): (Wish, Option<&Path>),
    doors: &[Vec<Door>],
    conditions: &Conditions,
) -> Result<Option<Spreading>> {
    let told = |state, detail| conditions.set(Part::Reuseport, state, detail);
    if wish == Wish::Off {
        told(State::Off, format!("switched off: {WITHOUT}"));
        return Ok(None);
    }
    if doors.len() < 2 && wish == Wish::Auto {
        told(State::Off, "there is one shard only".into());
        return Ok(None);
    }
    match balancer(doors, pins) {
        Ok(balancer) => {
            let detail = "new connections go to the shard with the fewest";
            told(State::On, detail.into());
            Ok(Some(Spreading(Arc::new(balancer))))
        }
        Err(why) if wish == Wish::Required => Err(anyhow!("{why}")),
        Err(why) => {
            told(State::from(&why), format!("{why}: {WITHOUT}"));
            Ok(None)
        }
    }
}

/// From shards with their doors to doors with their listeners.
fn balancer(doors: &[Vec<Door>], pins: Option<&Path>) -> Result<Balancer, Unavailable> {
    let count = doors.first().map_or(0, Vec::len);
    let listeners = |door: usize| -> Result<Vec<TcpListener>, std::io::Error> {
        let of_all = doors.iter().filter_map(|shard| shard.get(door));
        of_all.map(|door| door.listener.try_clone()).collect()
    };
    let all: Result<Vec<_>, _> = (0..count).map(listeners).collect();
    let all = all.map_err(|error| Unavailable::Refused {
        what: "handles of the listeners",
        why: error.to_string(),
    })?;
    let slices: Vec<&[TcpListener]> = all.iter().map(Vec::as_slice).collect();
    let Some(root) = pins else {
        return Balancer::attach(&slices);
    };
    Balancer::open(&Pins::below(root), &slices)
        .or_else(|pinned| Balancer::attach(&slices).map_err(|own| own.and(&pinned)))
}

impl Spreading {
    /// What shard `index` counts with.
    pub(super) fn shard(&self, index: usize) -> ShardLoad {
        self.0.shard(index)
    }

    /// Shows who chose the shards.
    pub(super) fn collect(&self, metrics: &Metrics) {
        let balancer = Arc::clone(&self.0);
        metrics.collect(move |samples| {
            let (chosen, left) = balancer.counts();
            samples.count(Metric::EbpfConnections, &["program"], chosen);
            samples.count(Metric::EbpfConnections, &["kernel"], left);
        });
    }
}

#[cfg(test)]
mod tests {
    use quickwater_worker::listener;

    use super::*;

    fn doors(shards: usize) -> Vec<Vec<Door>> {
        let listeners = listener::bind("127.0.0.1:0".parse().unwrap(), shards).unwrap();
        let doors = listeners.sockets.into_iter().map(Door::plain);
        doors.map(|door| vec![door]).collect()
    }

    fn state(conditions: &Conditions) -> &'static str {
        conditions.all()[0].1
    }

    #[test]
    fn nothing_is_attached_where_there_is_nothing_to_choose() {
        let conditions = Conditions::default();
        let one = attach((Wish::Auto, None), &doors(1), &conditions).unwrap();
        assert!(one.is_none() && state(&conditions) == "off");
        let off = attach((Wish::Off, None), &doors(2), &conditions).unwrap();
        assert!(off.is_none() && state(&conditions) == "off");
    }

    #[test]
    fn what_cannot_be_had_is_told_and_stops_nothing_unless_required() {
        let three = || doors(2).into_iter().map(three_of).collect::<Vec<_>>();
        let conditions = Conditions::default();
        let auto = attach((Wish::Auto, None), &three(), &conditions).unwrap();
        assert!(auto.is_none());
        let (_, state, detail) = conditions.all().remove(0);
        assert!(state == "refused" && detail.contains("hash"), "{detail}");
        let required = attach((Wish::Required, None), &three(), &conditions).map(|_| ());
        assert!(required.unwrap_err().to_string().contains("listeners"));
    }

    /// More doors than a program knows.
    fn three_of(mut shard: Vec<Door>) -> Vec<Door> {
        while shard.len() < 3 {
            let again = shard[0].listener.try_clone().unwrap();
            shard.push(Door::plain(again));
        }
        shard
    }
}
