//! Dates as text, for people and logs.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch as `YYYY-MM-DDThh:mm:ss.mmmZ` (RFC 3339).
pub(crate) fn text(ms: i64) -> String {
    let seconds = ms.div_euclid(1000);
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    let millis = ms.rem_euclid(1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// The date alone, in UTC.
pub(crate) fn day(time: SystemTime) -> String {
    text(milliseconds(time)).chars().take(10).collect()
}

/// Date and time of day to the second, in UTC, as people read them: `2026-11-23 01:02:03 UTC`.
pub(crate) fn readable(time: SystemTime) -> String {
    let text = text(milliseconds(time));
    let second: String = text.chars().take(19).collect();
    format!("{} UTC", second.replace('T', " "))
}

fn milliseconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
    }
}

/// Days since 1970-01-01 to a Gregorian date (Howard Hinnant, "chrono-compatible
/// low-level date algorithms", `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    (year, month, doy - (153 * mp + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_are_gregorian() {
        assert_eq!(text(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(text(1_709_164_800_123), "2024-02-29T00:00:00.123Z");
        assert_eq!(text(-1000), "1969-12-31T23:59:59.000Z");
        let time = UNIX_EPOCH + Duration::from_millis(1_709_164_799_999);
        assert_eq!(day(time), "2024-02-28");
        assert_eq!(readable(time), "2024-02-28 23:59:59 UTC");
        let before = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(readable(before), "1969-12-31 23:59:59 UTC");
    }
}
