//! The `Date` header (IMF-fixdate, RFC 9110 §5.6.7), formatted once a second.
//! Absent: parsing, and reading the clock.

use std::time::{SystemTime, UNIX_EPOCH};

const DAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
const MONTHS: [&[u8; 3]; 12] = [
    b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
];
const SECONDS_PER_DAY: u64 = 86_400;

/// A formatted second.
#[derive(Debug)]
pub(crate) struct HttpDate {
    second: u64,
    text: [u8; 29],
}

impl HttpDate {
    pub(crate) fn new(now: SystemTime) -> Self {
        let second = unix_second(now);
        HttpDate {
            second,
            text: format(second),
        }
    }

    pub(crate) fn update(&mut self, now: SystemTime) {
        let second = unix_second(now);
        if second != self.second {
            self.second = second;
            self.text = format(second);
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.text
    }
}

/// A clock before 1970 shows 1970.
fn unix_second(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn format(second: u64) -> [u8; 29] {
    let (days, rest) = (second / SECONDS_PER_DAY, second % SECONDS_PER_DAY);
    let (year, month, day) = civil(days);
    let mut text = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    text[0..3].copy_from_slice(DAYS[(days % 7) as usize]);
    put(&mut text[5..7], day);
    text[8..11].copy_from_slice(MONTHS[(month - 1) as usize % 12]);
    put(&mut text[12..16], year);
    put(&mut text[17..19], rest / 3600);
    put(&mut text[20..22], rest / 60 % 60);
    put(&mut text[23..25], rest % 60);
    text
}

fn put(field: &mut [u8], mut value: u64) {
    for digit in field.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Days since 1970 to (year, month, day): years run from March, so that the leap
/// day comes last.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn known_dates() {
        for (second, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_399, "Mon, 28 Feb 2000 23:59:59 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_709_251_199, "Thu, 29 Feb 2024 23:59:59 GMT"),
            (4_102_444_799, "Thu, 31 Dec 2099 23:59:59 GMT"),
        ] {
            assert_eq!(std::str::from_utf8(&format(second)).unwrap(), text);
        }
    }

    #[test]
    fn it_follows_the_clock() {
        let mut date = HttpDate::new(UNIX_EPOCH);
        date.update(UNIX_EPOCH + Duration::from_secs(1));
        assert_eq!(date.as_bytes(), b"Thu, 01 Jan 1970 00:00:01 GMT");
        date.update(UNIX_EPOCH - Duration::from_secs(1));
        assert_eq!(date.as_bytes(), b"Thu, 01 Jan 1970 00:00:00 GMT");
    }
}
