//! Every kernel against a library, for all shapes of input.

use md5::Digest;
use proptest::prelude::*;

use crate::{BLOCK_BYTES, Kernel, LANES_MAX, Lane, Md5};

fn expected(data: &[u8]) -> [u8; 16] {
    md5::Md5::digest(data).into()
}

/// Bytes that differ between streams and along each.
fn bytes(seed: u32, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9) | 1;
    std::iter::repeat_with(|| {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        x as u8
    })
    .take(len)
    .collect()
}

fn check(kernel: Kernel, streams: &[Vec<u8>], pieces: &[usize]) {
    let mut states = vec![Md5::new(); streams.len()];
    let mut at = vec![0; streams.len()];
    let mut sizes = pieces.iter().copied().cycle();
    while at.iter().zip(streams).any(|(at, data)| *at < data.len()) {
        let mut lanes: Vec<_> = states
            .iter_mut()
            .zip(streams)
            .zip(&mut at)
            .map(|((md5, data), at)| {
                let piece = sizes.next().unwrap_or(1).min(data.len() - *at);
                let data = &data[*at..*at + piece];
                *at += piece;
                Lane { md5, data }
            })
            .collect();
        kernel.update(&mut lanes);
    }
    for (index, (md5, data)) in states.into_iter().zip(streams).enumerate() {
        assert_eq!(md5.length(), data.len() as u64);
        let (got, expect) = (md5.finish(), expected(data));
        assert_eq!(
            got,
            expect,
            "{} lane {index} of {} bytes",
            kernel.name(),
            data.len()
        );
    }
}

#[test]
fn the_test_suite_of_the_rfc() {
    // RFC 1321, A.5.
    for (text, digest) in [
        ("", "d41d8cd98f00b204e9800998ecf8427e"),
        ("a", "0cc175b9c0f1b6a831c399e269772661"),
        ("message digest", "f96b697d7cb7938d525a2f31aaf161d0"),
        (
            "12345678901234567890123456789012345678901234567890123456789012345678901234567890",
            "57edf4a22be3c955ac49da2e2107b67a",
        ),
    ] {
        let hex: String = Md5::digest(text.as_bytes())
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(hex, digest);
    }
}

#[test]
fn all_lengths_around_block_borders() {
    for kernel in Kernel::available() {
        for len in (0..4 * BLOCK_BYTES + 2).chain([4095, 4096, 4097, 65_535, 65_537]) {
            let streams: Vec<_> = (0..3).map(|s| bytes(s, len)).collect();
            check(kernel, &streams, &[usize::MAX]);
        }
    }
}

#[test]
fn all_lane_counts_of_equal_and_mixed_lengths() {
    for kernel in Kernel::available() {
        for count in 0..=2 * LANES_MAX + 1 {
            let equal: Vec<_> = (0..count).map(|s| bytes(s as u32, 640)).collect();
            check(kernel, &equal, &[usize::MAX]);
            let mixed: Vec<_> = (0..count)
                .map(|s| bytes(s as u32, (s * 397) % 2011))
                .collect();
            check(kernel, &mixed, &[usize::MAX]);
            check(kernel, &mixed, &[64, 1, 200, 63, 65]);
        }
    }
}

#[test]
fn this_machine_tests_what_it_has() {
    let all = Kernel::available();
    assert_eq!(all.last().map(|k| k.name()), Some("scalar"));
    assert_eq!(all[0], Kernel::detect());
    assert!(all.iter().all(|k| k.lanes() <= LANES_MAX));
    #[cfg(target_arch = "x86_64")]
    assert_eq!(
        is_x86_feature_detected!("avx2"),
        all.iter().any(|k| k.name() == "avx2")
    );
}

proptest! {
    #[test]
    fn any_streams_in_any_pieces(
        lengths in proptest::collection::vec(0_usize..3000, 0..20),
        pieces in proptest::collection::vec(1_usize..1500, 1..7),
        seed in any::<u32>(),
    ) {
        let streams: Vec<_> = lengths
            .iter()
            .enumerate()
            .map(|(lane, len)| bytes(seed.wrapping_add(lane as u32), *len))
            .collect();
        for kernel in Kernel::available() {
            check(kernel, &streams, &pieces);
        }
    }

    #[test]
    fn one_stream_in_any_pieces(data in proptest::collection::vec(any::<u8>(), 0..1000), pieces in proptest::collection::vec(0_usize..200, 1..9)) {
        let mut md5 = Md5::new();
        let mut rest = data.as_slice();
        for piece in pieces {
            let (now, later) = rest.split_at(piece.min(rest.len()));
            md5.update(now);
            rest = later;
        }
        md5.update(rest);
        prop_assert_eq!(md5.finish(), expected(&data));
    }
}
