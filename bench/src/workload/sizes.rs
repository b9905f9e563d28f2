//! Sizes of objects: a function of seed and index, so that nothing needs to be
//! remembered to know how long an object must be.

use std::fmt::Write as _;

use super::random::{below, mix, normal};
use crate::cli::bytes;

/// Largest object, bytes (the limit of S3).
pub(crate) const OBJECT_BYTES_MAX: u64 = 5 << 40;
/// Entries of a weighted list.
const ENTRIES_MAX: usize = 64;
/// A log-normal size is cut off at this many times its median.
const TAIL_FACTOR_MAX: f64 = 1000.0;

/// A distribution of sizes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Sizes {
    Fixed(u64),
    /// Both ends are drawn too.
    Uniform(u64, u64),
    LogNormal {
        median: u64,
        sigma: f64,
    },
    /// Sizes with the sum of weights up to and including theirs.
    List(Vec<(u64, u64)>),
}

impl Sizes {
    /// Reads `SIZE`, `fixed:SIZE`, `uniform:A-B`, `lognormal:MEDIAN,SIGMA` or
    /// `list:SIZE=WEIGHT,...`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (kind, rest) = text.split_once(':').unwrap_or(("fixed", text));
        let sizes = match kind {
            "fixed" => Self::Fixed(bytes(rest)?),
            "uniform" => uniform(rest)?,
            "lognormal" => log_normal(rest)?,
            "list" => list(rest)?,
            _ => {
                return Err(format!(
                    "`{kind}` is no size distribution: fixed, uniform, lognormal or list"
                ));
            }
        };
        if sizes.max() > OBJECT_BYTES_MAX {
            return Err(format!("`{text}` goes beyond 5 TiB, the largest object"));
        }
        Ok(sizes)
    }

    /// The size of the object with this index.
    pub(crate) fn size(&self, seed: u64, index: u64) -> u64 {
        let random = mix(seed, index);
        match self {
            Self::Fixed(size) => *size,
            Self::Uniform(low, high) => low + below(random, high - low + 1),
            Self::LogNormal { median, sigma } => {
                let factor = (sigma * normal(random)).exp().min(TAIL_FACTOR_MAX);
                (*median as f64 * factor).round() as u64
            }
            Self::List(entries) => {
                let total = entries.last().map_or(1, |e| e.1);
                let drawn = below(random, total);
                let entry = entries.iter().find(|e| drawn < e.1);
                entry.map_or(0, |e| e.0)
            }
        }
    }

    /// The largest size that can be drawn.
    pub(crate) fn max(&self) -> u64 {
        match self {
            Self::Fixed(size) => *size,
            Self::Uniform(_, high) => *high,
            Self::LogNormal { median, .. } => (*median as f64 * TAIL_FACTOR_MAX) as u64,
            Self::List(entries) => entries.iter().map(|e| e.0).max().unwrap_or(0),
        }
    }

    /// A short text for names of objects: other sizes, other names.
    pub(crate) fn slug(&self) -> String {
        match self {
            Self::Fixed(size) => size.to_string(),
            Self::Uniform(low, high) => format!("u{low}-{high}"),
            Self::LogNormal { median, sigma } => format!("n{median}-{sigma}"),
            Self::List(entries) => entries
                .iter()
                .fold("l".to_owned(), |mut all, (size, upto)| {
                    // Writing to a String cannot fail.
                    let _ = write!(all, "{size}-{upto}.");
                    all
                }),
        }
    }
}

fn uniform(text: &str) -> Result<Sizes, String> {
    let ends = text
        .split_once('-')
        .ok_or("uniform needs two sizes: uniform:4KiB-1MiB")?;
    let (low, high) = (bytes(ends.0)?, bytes(ends.1)?);
    if low > high {
        return Err(format!("uniform: {} is more than {}", ends.0, ends.1));
    }
    Ok(Sizes::Uniform(low, high))
}

fn log_normal(text: &str) -> Result<Sizes, String> {
    let wrong = "lognormal needs a median and a sigma from 0 to 5: lognormal:64KiB,1.2";
    let (median, sigma) = text.split_once(',').ok_or(wrong)?;
    let sigma: f64 = sigma.trim().parse().map_err(|_| wrong)?;
    if !(0.0..=5.0).contains(&sigma) {
        return Err(wrong.to_owned());
    }
    let median = bytes(median)?;
    Ok(Sizes::LogNormal { median, sigma })
}

fn list(text: &str) -> Result<Sizes, String> {
    let wrong = "list needs sizes with whole weights: list:4KiB=70,1MiB=30";
    let mut entries = Vec::new();
    let mut sum = 0u64;
    for entry in text.split(',') {
        let (size, weight) = entry.split_once('=').ok_or(wrong)?;
        let weight: u32 = weight.trim().parse().map_err(|_| wrong)?;
        sum += u64::from(weight);
        entries.push((bytes(size)?, sum));
    }
    if sum == 0 || entries.len() > ENTRIES_MAX {
        return Err(format!(
            "{wrong}; at most {ENTRIES_MAX}, not all of weight 0"
        ));
    }
    Ok(Sizes::List(entries))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(text: &str) -> Vec<u64> {
        let sizes = Sizes::parse(text).unwrap();
        (0..20_000).map(|i| sizes.size(9, i)).collect()
    }

    #[test]
    fn fixed_is_fixed() {
        assert!(drawn("10KiB").iter().all(|s| *s == 10_240));
        assert_eq!(Sizes::parse("fixed:1MB"), Ok(Sizes::Fixed(1_000_000)));
    }

    #[test]
    fn uniform_fills_its_range() {
        let all = drawn("uniform:100-199");
        assert!(all.iter().all(|s| (100..=199).contains(s)));
        assert!(all.contains(&100) && all.contains(&199));
        let mean = all.iter().sum::<u64>() as f64 / all.len() as f64;
        assert!((mean - 149.5).abs() < 1.0, "{mean}");
    }

    #[test]
    fn lognormal_has_its_median_and_spread() {
        let mut all = drawn("lognormal:64KiB,1");
        all.sort_unstable();
        let at = |share: f64| all[(share * 20_000.0) as usize] as f64 / 65_536.0;
        assert!((at(0.5) - 1.0).abs() < 0.05, "{}", at(0.5));
        // One deviation above the median is a factor of e.
        assert!(
            (at(0.8413) / std::f64::consts::E - 1.0).abs() < 0.06,
            "{}",
            at(0.8413)
        );
        let sizes = Sizes::parse("lognormal:64KiB,5").unwrap();
        assert!((0..100_000).all(|i| sizes.size(1, i) <= sizes.max()));
    }

    #[test]
    fn lists_follow_their_weights() {
        let all = drawn("list:4KiB=70,1MiB=30,9=0");
        let small = all.iter().filter(|s| **s == 4096).count();
        assert!((13_600..14_400).contains(&small), "{small}");
        assert!(all.iter().all(|s| [4096, 1 << 20].contains(s)));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "huge",
            "uniform:2-1",
            "uniform:5",
            "lognormal:1MB",
            "lognormal:1MB,-1",
            "list:",
            "list:4KiB=0",
            "list:4KiB",
            "zipf:1,2",
            "6000GiB",
            "lognormal:1GiB,nan",
            "lognormal:1TiB,1",
        ] {
            assert!(Sizes::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn other_sizes_other_slugs() {
        let slugs = [
            "1",
            "2",
            "uniform:1-2",
            "uniform:1-3",
            "lognormal:1,1",
            "list:1=1",
            "list:1=1,2=1",
        ]
        .map(|t| Sizes::parse(t).unwrap().slug());
        let unique: std::collections::BTreeSet<_> = slugs.iter().collect();
        assert_eq!(unique.len(), slugs.len());
    }
}
