//! Why a program does not run.

/// Why a program does not run. Without it everything works, slower.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// This binary was built without the programs (`ebpf/build`).
    #[error("eBPF: not built")]
    NotBuilt,
    /// The kernel refused, for want of a right, of a feature, or by its verifier.
    #[error("{what}: {why}")]
    Refused {
        /// What was tried.
        what: &'static str,
        /// The kernel's words.
        why: String,
    },
    /// More than the layouts hold.
    #[error("{what} is more than a program can know")]
    TooMany {
        /// Of what there is too much.
        what: &'static str,
    },
    /// Another process uses what is pinned.
    #[error("another process uses the pinned {name}")]
    Used {
        /// What it uses.
        name: String,
    },
    /// No other process has loaded the programs for this one.
    #[error("{found}")]
    NotPinned {
        /// What there is instead.
        found: String,
    },
    /// The programs in the binary are not those that the loader expects.
    #[error("the eBPF programs of this binary have no {name}")]
    Missing {
        /// The map or program.
        name: &'static str,
    },
}

impl Unavailable {
    /// Why the process's own programs do not run; what is pinned does not, either.
    #[must_use]
    pub fn and(self, pinned: &Unavailable) -> Self {
        match self {
            Unavailable::Refused { what, why } => Unavailable::Refused {
                what,
                why: format!("{why} ({pinned})"),
            },
            other => other,
        }
    }

    /// For `map_err`: the kernel refused `what`.
    pub(crate) fn refused<E: std::error::Error>(what: &'static str) -> impl Fn(E) -> Self {
        move |error| Unavailable::Refused {
            what,
            why: chain(&error),
        }
    }
}

/// An error with its causes on one line: only the last one is the kernel's. The
/// verifier's log is cut off, it has thousands of lines.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = first_line(&error.to_string());
    let mut next = error.source();
    while let Some(cause) = next {
        let line = first_line(&cause.to_string());
        if !text.ends_with(&line) {
            text = format!("{text}: {line}");
        }
        next = cause.source();
    }
    text
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the program is refused\nverifier line 1\nverifier line 2")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn both_reasons_are_told() {
        let own = Unavailable::Refused {
            what: "loading",
            why: "no right".into(),
        };
        let found = "nothing is pinned".into();
        let both = own.and(&Unavailable::NotPinned { found }).to_string();
        assert_eq!(both, "loading: no right (nothing is pinned)");
    }

    #[test]
    fn a_refusal_is_one_line_with_its_cause() {
        let error = Outer(std::io::Error::from_raw_os_error(1));
        let told = Unavailable::refused("loading")(error).to_string();
        assert_eq!(
            told,
            "loading: the program is refused: Operation not permitted (os error 1)"
        );
    }
}
