//! What goes wrong in a world, and what is done wrong in it on purpose.

use std::time::Duration;

/// Leases control may grant; another one after each of its starts.
const LEASES: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(12)];
/// The lease in worlds of [`Trouble::LongCuts`], and how long workers are cut off there.
const CUT_LEASE: Duration = Duration::from_secs(8);
const CUT: Duration = Duration::from_secs(11);

/// What is done wrong on purpose, to see that it is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mistake {
    /// Workers answer without a lease.
    NoLease,
    /// Workers rely upon more than the lease.
    LeaseIsTooLong,
    /// What was remembered before a time without a lease counts after it.
    NoLapse,
    /// Workers say that they let go of slots before they do.
    SaysItLetGo,
    /// What is answered after a time without a lease is remembered.
    LateIsRemembered,
    /// A table that was heard in one session is gone by in the next one.
    FollowsOn,
    /// Workers that said goodbye answer for a while.
    AnswersAfterGoodbye,
    /// Slots are given away with bytes that nobody else has, which are let go of.
    GivesDirty,
    /// What is to be given away is written back as ever.
    ClearsNothing,
    /// When a session ends, slots that were being given away count as given.
    BreaksOff,
}

/// What goes wrong with the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Everything.
    Any,
    /// One worker after the other is cut off for longer than its lease, and clients wait for
    /// none of them. With [`Trouble::Any`] a lease that is trusted too long is seen in one
    /// world of forty to eighty, by chance: a short lease leaves a moment between the next
    /// owner's first write and the end of that trust, and with a long one all clients have
    /// come to wait at the worker that is cut off, for a write that makes it forget the key.
    LongCuts,
    /// Workers are away for moments that make them lose their slots, and get them back from
    /// others that live. Clients read much: the first write that fails at a worker which has
    /// let go makes it forget the key, too.
    Moves,
    /// Who should have a key ends and comes back, and whoever has it meanwhile is cut off while
    /// it gives it back. By chance that, with a write under way, comes once in thousands of
    /// worlds of [`Trouble::Alone`].
    Returns,
    /// Everything, and workers have what no UFS has: it is away for a while, workers are ended
    /// and hand over what they have, and one key is written seldom.
    Alone,
}

impl Trouble {
    /// Whether workers keep what no UFS has.
    pub(super) fn keeps(self) -> bool {
        self == Self::Alone
    }

    pub(super) fn leases(self) -> &'static [Duration] {
        match self {
            Self::Any | Self::Alone => &LEASES,
            Self::LongCuts => &[CUT_LEASE],
            Self::Moves => &LEASES[..1],
            // It has to outlast the session: who lost its lease forgets everything.
            Self::Returns => &LEASES[1..],
        }
    }

    /// How long a client waits for an answer.
    pub(super) fn patience(self) -> Duration {
        match self {
            Self::Any | Self::Alone => Duration::from_secs(30),
            Self::LongCuts | Self::Moves | Self::Returns => Duration::from_secs(1),
        }
    }

    /// One request in so many is a write.
    pub(super) fn writes_one_in(self) -> u64 {
        match self {
            Self::Any | Self::LongCuts | Self::Alone => 3,
            Self::Moves => 8,
            Self::Returns => 2,
        }
    }

    /// At the end each key is served within this time. So long that it is by chance in no world
    /// that none of the clients writes it at its owner.
    pub(super) fn served_within(self) -> Duration {
        match self {
            Self::Any | Self::LongCuts | Self::Alone => Duration::from_secs(15),
            Self::Moves | Self::Returns => Duration::from_secs(30),
        }
    }

    /// How long workers are cut off.
    pub(super) fn cut(self) -> Duration {
        match self {
            Self::Any | Self::LongCuts | Self::Alone => CUT,
            Self::Moves => LEASES[0] + Duration::from_secs(2),
            // Longer than an answer is waited for.
            Self::Returns => Duration::from_millis(3_500),
        }
    }
}

/// All of them.
pub(super) const MISTAKES: [Mistake; 10] = [
    Mistake::NoLease,
    Mistake::LeaseIsTooLong,
    Mistake::NoLapse,
    Mistake::SaysItLetGo,
    Mistake::LateIsRemembered,
    Mistake::FollowsOn,
    Mistake::AnswersAfterGoodbye,
    Mistake::GivesDirty,
    Mistake::ClearsNothing,
    Mistake::BreaksOff,
];
