//! Values as Alluxio writes them, written as ours: sizes are powers of 1024 under
//! any name, times without a unit are milliseconds.

/// Reads a length of time.
pub(super) fn duration(text: &str) -> Result<String, String> {
    let refuse = || format!("'{text}' is not a length of time");
    let (number, unit) = split(text);
    let number: u64 = number.parse().map_err(|_| refuse())?;
    let unit = match unit.to_ascii_lowercase().as_str() {
        "" | "ms" | "msec" | "millisecond" | "milliseconds" => "ms",
        "s" | "sec" | "second" | "seconds" => "s",
        "m" | "min" | "minute" | "minutes" => "m",
        "h" | "hr" | "hour" | "hours" => "h",
        "d" | "day" | "days" => "d",
        _ => return Err(refuse()),
    };
    Ok(format!("{number}{unit}"))
}

/// Reads a size: bytes.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let refuse = || format!("'{text}' is not a size");
    let (number, unit) = split(text);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" => 10,
        "m" | "mb" => 20,
        "g" | "gb" => 30,
        "t" | "tb" => 40,
        "p" | "pb" => 50,
        _ => return Err(refuse()),
    };
    let number: f64 = number.parse().map_err(|_| refuse())?;
    let bytes = number * (1_u64 << shift) as f64;
    // Beyond 2^53 bytes a fraction no longer counts exactly: nobody has that disk.
    match (0.0..9.0e15).contains(&bytes) {
        true => Ok(bytes as u64),
        false => Err(refuse()),
    }
}

/// Writes a size in its largest whole unit.
pub(super) fn size(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = units
        .iter()
        .find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1_u64 << shift));
    match whole {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

/// The sum of sizes with commas between.
pub(super) fn sum(text: &str) -> Result<String, String> {
    let mut all = 0_u64;
    for one in text.split(',') {
        all = all.saturating_add(bytes(one.trim())?);
    }
    Ok(size(all))
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    (number, unit.trim())
}
