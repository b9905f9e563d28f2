//! Text of the command line into numbers: sizes, durations.

use std::time::Duration;

/// Longest duration that can be asked for.
const DURATION_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

const UNITS: [(&str, u64); 13] = [
    ("", 1),
    ("b", 1),
    ("k", 1000),
    ("kb", 1000),
    ("m", 1_000_000),
    ("mb", 1_000_000),
    ("g", 1_000_000_000),
    ("gb", 1_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("ki", 1 << 10),
    ("mi", 1 << 20),
];

/// Bytes: `4096`, `10KiB`, `2.8MB`. KB, MB and GB are decimal, KiB, MiB and GiB
/// binary; case does not matter.
///
/// # Errors
/// Says what was wrong, for people.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a size such as 4096, 10KiB or 2.8MB");
    let (number, unit) = split(text);
    let unit = unit.trim().to_ascii_lowercase();
    let (_, factor) = UNITS.iter().find(|(u, _)| *u == unit).ok_or_else(wrong)?;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(*factor).ok_or_else(wrong);
    }
    let value = number.parse::<f64>().map_err(|_| wrong())? * *factor as f64;
    // Above 2^53 a float is not exact; nobody asks for such an object.
    if !(0.0..9e15).contains(&value) {
        return Err(wrong());
    }
    Ok(value.round() as u64)
}

/// A duration: `500ms`, `10s`, `2m`, `1h`; a bare number is seconds.
///
/// # Errors
/// Says what was wrong, for people.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration such as 500ms, 10s or 2m, at most 7 days");
    let (number, unit) = split(text);
    let factor = match unit.trim() {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let seconds = number.parse::<f64>().map_err(|_| wrong())? * factor;
    if !(0.0..=DURATION_MAX.as_secs_f64()).contains(&seconds) {
        return Err(wrong());
    }
    Ok(Duration::from_secs_f64(seconds))
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, want) in [
            ("0", 0),
            ("4096", 4096),
            ("10KiB", 10_240),
            ("150 kB", 150_000),
            ("2.8MB", 2_800_000),
            ("1.5gib", 1_610_612_736),
        ] {
            assert_eq!(bytes(text), Ok(want), "{text}");
        }
        for text in [
            "",
            "KiB",
            "-1",
            "1.2.3",
            "1e9",
            "10 parsecs",
            "99999999999GiB",
            "nan",
        ] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        for text in ["", "s", "-1s", "1d", "inf", "8000h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
