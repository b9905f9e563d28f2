//! Hashes bytes as they pass: MD5 and the checksums that were asked for. Absent:
//! MD5 of many streams at once (`quickwater-hash`), for which the two are apart.

use crc_fast::Digest as Crc;
use quickwater_hash::Md5;
use quickwater_proto::{Checksum, ChecksumAlgorithm, ChecksumKind};
use sha2::Digest;

use crate::checksum::{crc_algorithm, crc_bytes};

/// MD5 and any of the checksums of S3 over the same bytes.
#[derive(Debug, Clone)]
pub struct Hasher {
    md5: Md5,
    checksums: Checksums,
}

impl Hasher {
    /// Computes MD5 and these; naming one twice is the same as once.
    #[must_use]
    pub fn new(algorithms: impl IntoIterator<Item = ChecksumAlgorithm>) -> Self {
        Self {
            md5: Md5::new(),
            checksums: Checksums::new(algorithms),
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, data: &[u8]) {
        self.md5.update(data);
        self.checksums.update(data);
    }

    /// MD5 and the checksums, in the order of [`ChecksumAlgorithm::ALL`].
    #[must_use]
    pub fn finish(self) -> ([u8; 16], Vec<Checksum>) {
        (self.md5.finish(), self.checksums.finish())
    }
}

/// Any of the checksums of S3, without MD5: cheap enough to compute while the
/// bytes are received.
#[derive(Clone)]
pub struct Checksums {
    crcs: Vec<(ChecksumAlgorithm, Crc)>,
    sha1: Option<sha1::Sha1>,
    sha256: Option<sha2::Sha256>,
}

impl std::fmt::Debug for Checksums {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Checksums(..)")
    }
}

impl Checksums {
    /// Computes these; naming one twice is the same as once.
    #[must_use]
    pub fn new(algorithms: impl IntoIterator<Item = ChecksumAlgorithm>) -> Self {
        let mut all = Self {
            crcs: Vec::new(),
            sha1: None,
            sha256: None,
        };
        for algorithm in algorithms {
            all.add(algorithm);
        }
        all
    }

    fn add(&mut self, algorithm: ChecksumAlgorithm) {
        match (algorithm, crc_algorithm(algorithm)) {
            (_, Some(crc)) => {
                if !self.crcs.iter().any(|(a, _)| *a == algorithm) {
                    self.crcs.push((algorithm, Crc::new(crc)));
                }
            }
            (ChecksumAlgorithm::Sha1, None) => self.sha1 = Some(sha1::Sha1::new()),
            (_, None) => self.sha256 = Some(sha2::Sha256::new()),
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, data: &[u8]) {
        for (_, crc) in &mut self.crcs {
            crc.update(data);
        }
        if let Some(sha1) = &mut self.sha1 {
            sha1.update(data);
        }
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(data);
        }
    }

    /// The checksums, in the order of [`ChecksumAlgorithm::ALL`].
    #[must_use]
    pub fn finish(self) -> Vec<Checksum> {
        let mut values: Vec<(ChecksumAlgorithm, Vec<u8>)> = self
            .crcs
            .iter()
            .map(|(a, crc)| (*a, crc_bytes(*a, crc.finalize())))
            .collect();
        if let Some(sha1) = self.sha1 {
            values.push((ChecksumAlgorithm::Sha1, sha1.finalize().to_vec()));
        }
        if let Some(sha256) = self.sha256 {
            values.push((ChecksumAlgorithm::Sha256, sha256.finalize().to_vec()));
        }
        values.sort_by_key(|(a, _)| *a);
        values
            .into_iter()
            .map(|(algorithm, value)| Checksum {
                algorithm,
                kind: ChecksumKind::FullObject,
                value,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::of_bytes;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_same_for_any_split(data in proptest::collection::vec(any::<u8>(), 0..2000), at in any::<proptest::sample::Index>()) {
            let mut hasher = Hasher::new(ChecksumAlgorithm::ALL.into_iter().chain(ChecksumAlgorithm::ALL));
            let at = at.index(data.len() + 1);
            hasher.update(&data[..at]);
            hasher.update(&data[at..]);
            let (md5, checksums) = hasher.finish();
            prop_assert_eq!(md5, <[u8; 16]>::from(md5::Md5::digest(&data)));
            prop_assert_eq!(checksums.len(), 5);
            for (checksum, algorithm) in checksums.iter().zip(ChecksumAlgorithm::ALL) {
                prop_assert_eq!(checksum.algorithm, algorithm);
                prop_assert_eq!(&checksum.value, &of_bytes(algorithm, &data));
            }
        }
    }
}
