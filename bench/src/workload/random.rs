//! Numbers that look random and depend on a seed and a position alone.

/// SplitMix64's finaliser over seed and position: every bit depends on both.
pub(crate) const fn mix(seed: u64, position: u64) -> u64 {
    let mut z = seed ^ position.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number below `limit` (0 when `limit` is 0), uniform but for one part in 2^64.
pub(crate) const fn below(random: u64, limit: u64) -> u64 {
    ((random as u128 * limit as u128) >> 64) as u64
}

/// A number in [0, 1) with 53 random bits.
pub(crate) const fn unit(random: u64) -> f64 {
    (random >> 11) as f64 / (1u64 << 53) as f64
}

/// A number of the standard normal distribution (Box-Muller).
pub(crate) fn normal(random: u64) -> f64 {
    // Never the logarithm of zero.
    let radius = (-2.0 * (1.0 - unit(random)).ln()).sqrt();
    radius * (std::f64::consts::TAU * unit(mix(random, 1))).cos()
}

/// A seed from text (FNV-1a, then mixed).
pub(crate) fn text_seed(text: &str) -> u64 {
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    mix(text.bytes().fold(0xcbf2_9ce4_8422_2325, fold), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_stays_below_and_reaches_both_ends() {
        let drawn: Vec<u64> = (0..10_000).map(|i| below(mix(7, i), 10)).collect();
        for value in 0..10 {
            let hits = drawn.iter().filter(|d| **d == value).count();
            assert!((850..1150).contains(&hits), "{value}: {hits}");
        }
        assert_eq!(below(u64::MAX, 10), 9);
        assert_eq!(below(u64::MAX, 0), 0);
    }

    #[test]
    fn normal_has_mean_zero_and_deviation_one() {
        let drawn: Vec<f64> = (0..20_000).map(|i| normal(mix(3, i))).collect();
        let mean = drawn.iter().sum::<f64>() / 20_000.0;
        let variance = drawn.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.03, "{mean}");
        assert!((variance - 1.0).abs() < 0.05, "{variance}");
    }
}
