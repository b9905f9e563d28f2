//! How long a certificate of the cluster holds, in words. Absent: files, and TLS itself.

use std::time::{Duration, SystemTime};

use quickwater_worker::tls::Validity;

use crate::date;

/// From here on it should be renewed. Processes read it at their start only, so there has to
/// be time to restart them one by one.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * DAY_SECONDS);
const DAY_SECONDS: u64 = 24 * 3600;

/// How a certificate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It holds for long.
    Valid,
    /// It is time to renew it.
    Expiring,
    /// Nobody takes it any more.
    Expired,
    /// Nobody takes it yet.
    NotYetValid,
}

impl Standing {
    /// That of a certificate.
    pub(crate) fn of(validity: &Validity, now: SystemTime) -> Self {
        let left = validity.left(now);
        match () {
            () if now < validity.from => Self::NotYetValid,
            () if left.is_zero() => Self::Expired,
            () if left < RENEW_BEFORE => Self::Expiring,
            () => Self::Valid,
        }
    }

    /// As `status` says it.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Expiring => "expiring",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
        }
    }
}

/// Until when it holds, and how long that is: `until 2029-01-31, 824 days`.
pub(crate) fn until(validity: &Validity, now: SystemTime) -> String {
    let day = date::day(validity.until);
    match now.duration_since(validity.until) {
        Ok(over) => format!("until {day}, {} days ago", over.as_secs() / DAY_SECONDS),
        Err(_) => {
            let days = validity.left(now).as_secs() / DAY_SECONDS;
            format!("until {day}, {days} days")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_to_be_renewed_in_time() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let days = |days: u64| Duration::from_secs(days * DAY_SECONDS);
        let validity = |from, until| Validity {
            from,
            until,
            names: Vec::new(),
        };
        for (from, until, word) in [
            (now - days(1), now + days(30), "valid"),
            (now, now + days(29), "expiring"),
            (now - days(2), now, "expired"),
            (now - days(2), now - days(1), "expired"),
            (now + days(1), now + days(9), "not_yet_valid"),
        ] {
            assert_eq!(Standing::of(&validity(from, until), now).word(), word);
        }
        let said = until(&validity(now, now + days(29)), now);
        assert_eq!(said, "until 2027-02-13, 29 days");
        let said = until(&validity(now - days(9), now - days(2)), now);
        assert_eq!(said, "until 2027-01-13, 2 days ago");
    }
}
