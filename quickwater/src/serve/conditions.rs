//! Optional parts of the process: whether they are in use, for `status`, the metrics
//! and the log. Absent on purpose: the parts.

use std::sync::{Arc, Mutex, PoisonError};

use quickwater_ebpf::Unavailable;
use quickwater_worker::metrics::{Metric, Metrics};

/// Whether an optional part is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    On,
    Off,
    NotBuilt,
    Refused,
}

impl State {
    const ALL: [State; 4] = [State::On, State::Off, State::NotBuilt, State::Refused];

    fn word(self) -> &'static str {
        match self {
            State::On => "on",
            State::Off => "off",
            State::NotBuilt => "not_built",
            State::Refused => "refused",
        }
    }
}

impl From<&Unavailable> for State {
    fn from(why: &Unavailable) -> Self {
        match why {
            Unavailable::NotBuilt => State::NotBuilt,
            _ => State::Refused,
        }
    }
}

/// An eBPF program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Reuseport,
    Connect,
    Handoff,
    Bypass,
}

impl Part {
    /// As `status` calls it.
    fn name(self) -> &'static str {
        match self {
            Part::Reuseport => "ebpf.reuseport",
            Part::Connect => "ebpf.connect",
            Part::Handoff => "ebpf.handoff",
            Part::Bypass => "ebpf.bypass",
        }
    }

    /// As the metrics call it.
    fn label(self) -> &'static str {
        self.name().trim_start_matches("ebpf.")
    }
}

/// The states of all parts that were told of.
#[derive(Debug, Clone, Default)]
pub(super) struct Conditions(Arc<Mutex<Vec<(Part, State, String)>>>);

impl Conditions {
    /// None yet; `metrics` shows them.
    pub(super) fn report(metrics: &Metrics) -> Self {
        let own = Conditions::default();
        let shown = own.clone();
        metrics.collect(move |samples| {
            for (part, state) in shown.states() {
                for other in State::ALL {
                    let labels = [part.label(), other.word()];
                    samples.count(Metric::EbpfState, &labels, u64::from(state == other));
                }
            }
        });
        own
    }

    /// A part is in this state from now on; one line of the log.
    pub(super) fn set(&self, part: Part, state: State, detail: String) {
        let (name, word) = (part.name(), state.word());
        tracing::info!(part = name, state = word, "{detail}");
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(other, ..)| *other != part);
        all.push((part, state, detail));
    }

    /// Name, state and a sentence of each.
    pub(super) fn all(&self) -> Vec<(&'static str, &'static str, String)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = all.iter();
        shown
            .map(|(part, state, detail)| (part.name(), state.word(), detail.clone()))
            .collect()
    }

    fn states(&self) -> Vec<(Part, State)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(part, state, _)| (*part, *state)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_on_a_part_counts() {
        let conditions = Conditions::default();
        conditions.set(Part::Reuseport, State::Refused, "no".into());
        conditions.set(Part::Reuseport, State::On, "yes".into());
        assert_eq!(
            conditions.all(),
            [("ebpf.reuseport", "on", "yes".to_owned())]
        );
    }

    #[test]
    fn a_binary_without_programs_is_told_from_a_kernel_that_refuses() {
        assert_eq!(State::from(&Unavailable::NotBuilt), State::NotBuilt);
        let refused = Unavailable::Refused {
            what: "loading",
            why: "no".into(),
        };
        assert_eq!(State::from(&refused), State::Refused);
    }
}
