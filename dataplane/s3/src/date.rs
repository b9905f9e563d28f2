//! Times as S3 writes them, from and to milliseconds since the Unix epoch.
//! Never reads a clock.

/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;
/// Years the text forms can hold (four digits).
const YEAR_MAX: i64 = 9999;
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];
/// Days from Thursday, 1 January 1970 on.
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];

struct Civil {
    year: i64,
    month: i64,
    day: i64,
    weekday: usize,
    hour: i64,
    minute: i64,
    second: i64,
    milli: i64,
}

/// ISO 8601 with milliseconds, as in S3 XML: `2013-05-24T00:00:00.000Z`.
#[must_use]
pub fn iso8601(ms: i64) -> IsoDate {
    let c = civil(ms);
    let mut text = *b"0000-00-00T00:00:00.000Z";
    digits(&mut text[..4], c.year);
    digits(&mut text[5..7], c.month);
    digits(&mut text[8..10], c.day);
    digits(&mut text[11..13], c.hour);
    digits(&mut text[14..16], c.minute);
    digits(&mut text[17..19], c.second);
    digits(&mut text[20..23], c.milli);
    IsoDate(text)
}

/// The text of a date in XML, without an allocation: a listing has a thousand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IsoDate([u8; 24]);

impl std::ops::Deref for IsoDate {
    type Target = str;

    fn deref(&self) -> &str {
        // All ASCII, so the default is never used.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// IMF-fixdate, as in HTTP headers (RFC 9110 5.6.7): `Fri, 24 May 2013 00:00:00 GMT`.
#[must_use]
pub fn http_date(ms: i64) -> HttpDate {
    let c = civil(ms);
    let month = MONTHS.get(c.month as usize - 1).copied().unwrap_or("Jan");
    let weekday = WEEKDAYS.get(c.weekday).copied().unwrap_or("Thu");
    let mut text = *b"Thu, 00 Jan 0000 00:00:00 GMT";
    text[..3].copy_from_slice(weekday.as_bytes());
    digits(&mut text[5..7], c.day);
    text[8..11].copy_from_slice(month.as_bytes());
    digits(&mut text[12..16], c.year);
    digits(&mut text[17..19], c.hour);
    digits(&mut text[20..22], c.minute);
    digits(&mut text[23..25], c.second);
    HttpDate(text)
}

/// The text of a date in an HTTP header, without an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpDate([u8; 29]);

impl std::ops::Deref for HttpDate {
    type Target = str;

    fn deref(&self) -> &str {
        // All ASCII, so the default is never used.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// Parses the three forms of RFC 9110 5.6.7 (IMF-fixdate, RFC 850, asctime).
#[must_use]
pub fn parse_http_date(text: &str) -> Option<i64> {
    let mut words = text.split([' ', ',', '-']).filter(|w| !w.is_empty());
    let _weekday = words.next()?;
    let second = words.next()?;
    if second.bytes().all(|b| b.is_ascii_digit()) {
        let day = number(second, 2)?;
        let month = month_of(words.next()?)?;
        let year = year_of(words.next()?)?;
        let clock = clock_of(words.next()?)?;
        let zone = words.next()?;
        return ((zone == "GMT" || zone == "UTC" || zone == "+0000") && words.next().is_none())
            .then(|| from_civil(year, month, day, clock))?;
    }
    let month = month_of(second)?;
    let day = number(words.next()?, 2)?;
    let clock = clock_of(words.next()?)?;
    let year = year_of(words.next()?)?;
    words
        .next()
        .is_none()
        .then(|| from_civil(year, month, day, clock))?
}

/// Parses the basic form of SigV4: `20130524T000000Z`.
#[must_use]
pub fn parse_amz_date(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() != 16 || bytes.get(8) != Some(&b'T') || bytes.get(15) != Some(&b'Z') {
        return None;
    }
    let at = |from: usize, to: usize| number(text.get(from..to)?, to - from);
    let clock = (at(9, 11)?, at(11, 13)?, at(13, 15)?);
    from_civil(at(0, 4)?, at(4, 6)?, at(6, 8)?, clock)
}

/// The basic form of SigV4, `20130524T000000Z`, without an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AmzDate([u8; 16]);

impl AmzDate {
    /// That point in time.
    #[must_use]
    pub fn new(ms: i64) -> Self {
        let c = civil(ms);
        let mut text = *b"00000000T000000Z";
        digits(&mut text[..4], c.year);
        digits(&mut text[4..6], c.month);
        digits(&mut text[6..8], c.day);
        digits(&mut text[9..11], c.hour);
        digits(&mut text[11..13], c.minute);
        digits(&mut text[13..15], c.second);
        Self(text)
    }

    /// A text that [`parse_amz_date`] has read, as it is.
    #[must_use]
    pub fn verbatim(text: &str) -> Option<Self> {
        parse_amz_date(text)?;
        text.as_bytes().try_into().ok().map(Self)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // All ASCII, so the default is never used.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// Fills `field` with the decimal digits of `value`, leading zeros included.
fn digits(field: &mut [u8], mut value: i64) {
    for digit in field.iter_mut().rev() {
        *digit = b'0' + (value.rem_euclid(10)) as u8;
        value /= 10;
    }
}

fn number(text: &str, digits_max: usize) -> Option<i64> {
    let ok =
        !text.is_empty() && text.len() <= digits_max && text.bytes().all(|b| b.is_ascii_digit());
    ok.then(|| text.parse().ok())?
}

fn month_of(name: &str) -> Option<i64> {
    let at = MONTHS.iter().position(|m| m.eq_ignore_ascii_case(name))?;
    Some(at as i64 + 1)
}

/// Two-digit years (RFC 850) are 1970 to 2069.
fn year_of(text: &str) -> Option<i64> {
    let year = number(text, 4)?;
    Some(match text.len() {
        2 if year < 70 => 2000 + year,
        2 => 1900 + year,
        _ => year,
    })
}

fn clock_of(text: &str) -> Option<(i64, i64, i64)> {
    let mut parts = text.split(':');
    let clock = (
        number(parts.next()?, 2)?,
        number(parts.next()?, 2)?,
        number(parts.next()?, 2)?,
    );
    parts.next().is_none().then_some(clock)
}

/// Howard Hinnant's `days_from_civil`, checked for dates that do not exist.
fn from_civil(year: i64, month: i64, day: i64, clock: (i64, i64, i64)) -> Option<i64> {
    let (hour, minute, second) = clock;
    let valid = (0..=YEAR_MAX).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !valid {
        return None;
    }
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y - era * 400;
    let doy = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    let days = era * 146_097 + doe - 719_468;
    let ms = days * DAY_MS + ((hour * 60 + minute) * 60 + second) * 1000;
    let back = civil(days * DAY_MS);
    (back.day == day && back.month == month).then_some(ms)
}

/// Howard Hinnant's `civil_from_days`; times outside year 0 to 9999 are moved to
/// the nearest end.
fn civil(ms: i64) -> Civil {
    const FIRST_MS: i64 = -62_167_219_200_000;
    const LAST_MS: i64 = 253_402_300_799_999;
    let ms = ms.clamp(FIRST_MS, LAST_MS);
    let (days, rest) = (ms.div_euclid(DAY_MS), ms.rem_euclid(DAY_MS));
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    Civil {
        year: yoe + era * 400 + i64::from(month <= 2),
        month,
        day: doy - (153 * mp + 2) / 5 + 1,
        weekday: days.rem_euclid(7) as usize,
        hour: rest / 3_600_000,
        minute: rest / 60_000 % 60,
        second: rest / 1000 % 60,
        milli: rest % 1000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXAMPLE_MS: i64 = 1_369_353_600_000;

    #[test]
    fn the_example_of_the_documentation() {
        assert_eq!(&*iso8601(EXAMPLE_MS), "2013-05-24T00:00:00.000Z");
        assert_eq!(&*http_date(EXAMPLE_MS), "Fri, 24 May 2013 00:00:00 GMT");
        assert_eq!(AmzDate::new(EXAMPLE_MS).as_str(), "20130524T000000Z");
        assert_eq!(parse_amz_date("20130524T000000Z"), Some(EXAMPLE_MS));
        for form in [
            "Fri, 24 May 2013 00:00:00 GMT",
            "Friday, 24-May-13 00:00:00 GMT",
            "Fri May 24 00:00:00 2013",
        ] {
            assert_eq!(parse_http_date(form), Some(EXAMPLE_MS), "{form}");
        }
    }

    #[test]
    fn dates_that_do_not_exist_are_refused() {
        for bad in [
            "20130230T000000Z",
            "20131301T000000Z",
            "20130524T240000Z",
            "2013052xT000000Z",
            "20130524T000000",
            "",
        ] {
            assert_eq!(parse_amz_date(bad), None, "{bad}");
        }
        assert_eq!(parse_http_date("Fri, 31 Feb 2013 00:00:00 GMT"), None);
        assert_eq!(parse_http_date("Fri, 24 May 2013 00:00:00 PST"), None);
    }

    proptest! {
        #[test]
        fn agrees_with_the_time_crate(ms in -62_167_219_200_000_i64..253_402_300_799_999) {
            let t = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).unwrap();
            let expect = format!(
                "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
                t.year(), u8::from(t.month()), t.day(), t.hour(), t.minute(), t.second(), t.millisecond()
            );
            prop_assert_eq!(&*iso8601(ms), expect);
            prop_assert!(http_date(ms).starts_with(&t.weekday().to_string()[..3]));
        }

        #[test]
        fn round_trips(seconds in 0_i64..253_402_300_799) {
            let ms = seconds * 1000;
            prop_assert_eq!(parse_amz_date(AmzDate::new(ms).as_str()), Some(ms));
            prop_assert_eq!(parse_http_date(&http_date(ms)), Some(ms));
        }

        #[test]
        fn never_panics(text in ".{0,40}", ms in any::<i64>()) {
            let _ = (parse_amz_date(&text), parse_http_date(&text), iso8601(ms), http_date(ms));
        }
    }
}
