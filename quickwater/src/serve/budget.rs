//! Splits the memory the service may use. Absent: who allocates it.

/// The program itself, thread stacks, TLS, connections: what no part below counts.
const BASE_BYTES: u64 = 64 << 20;
/// Of what the base leaves, the RAM tier gets at most one in this many.
pub(crate) const RAM_TIER_SHARE_LEAST: u64 = 4;
/// Of what the base leaves, TLS connections get one in this many, taken from the IO
/// buffers: 60 MiB of 1 GiB, which are some 3,800 idle connections.
const TLS_SHARE: u64 = 16;
/// Of what the base leaves, documents (listings, XML in requests) get one in this many,
/// taken from the IO buffers: 30 MiB of 1 GiB, which are some ninety full listings.
const DOCUMENT_SHARE: u64 = 32;
/// Of what the base leaves, connections between workers get one in this many, likewise:
/// 30 MiB of 1 GiB, which are some four hundred busy ones.
const PEER_SHARE: u64 = 32;
/// Of the IO buffers one part in this many is the persister's.
const PERSIST_SHARE: u64 = 5;
/// Pieces of UFS reads need no more than this, however much there is.
const UFS_READ_BYTES_MAX: u64 = 256 << 20;
/// What the base leaves is dealt out in this many shares.
const SHARES: u64 = 32;
/// fjall holds up to five memtables (see `EngineOptions`).
const MEMTABLES_HELD: u64 = 5;

/// Shares of the memory, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    /// IO buffers of each shard.
    pub(crate) buffers_per_shard: u64,
    /// Documents of each shard.
    pub(crate) documents_per_shard: u64,
    /// TLS connections of each shard.
    pub(crate) tls_per_shard: u64,
    /// Connections between workers of each shard.
    pub(crate) peers_per_shard: u64,
    /// Buffers of objects on their way from the store to a UFS.
    pub(crate) persist_buffers: u64,
    /// Whole small objects.
    pub(crate) ram_tier: u64,
    /// Object records the engine remembers.
    pub(crate) object_cache: u64,
    /// Where the records of the store lie.
    pub(crate) index: u64,
    /// Changes the UFS does not have yet.
    pub(crate) changes: u64,
    /// Block cache of the metadata engine.
    pub(crate) metadata_cache: u64,
    /// One memtable of the metadata engine.
    pub(crate) metadata_memtable: u64,
    /// Pieces of UFS reads on their way.
    pub(crate) ufs_reads: u64,
}

impl Budget {
    /// Half of what the base leaves for buffers and the RAM tier (an eighth of the
    /// rest unless `ram_tier` says otherwise, a quarter at most), an eighth each for
    /// metadata and UFS reads, three shares each for the records the engine remembers
    /// and the store's index, two for changes that are pending.
    pub(crate) fn split(
        memory_bytes: u64,
        shards: usize,
        ram_tier: Option<u64>,
        tls: bool,
        peers: bool,
    ) -> Self {
        let rest = memory_bytes.saturating_sub(BASE_BYTES);
        let eighth = rest / 8;
        let share = rest / SHARES;
        let ram_tier = ram_tier.unwrap_or(eighth).min(rest / RAM_TIER_SHARE_LEAST);
        let tls = if tls { rest / TLS_SHARE } else { 0 };
        let peers = if peers { rest / PEER_SHARE } else { 0 };
        let shards = shards.max(1) as u64;
        let documents = rest / DOCUMENT_SHARE;
        let buffers = rest / 2 - ram_tier - tls - peers - documents;
        let persist_buffers = buffers / PERSIST_SHARE;
        Self {
            buffers_per_shard: (buffers - persist_buffers) / shards,
            documents_per_shard: documents / shards,
            tls_per_shard: tls / shards,
            peers_per_shard: peers / shards,
            persist_buffers,
            ram_tier,
            object_cache: 3 * share,
            index: 3 * share,
            changes: 2 * share,
            metadata_cache: eighth / 2,
            metadata_memtable: eighth / 2 / MEMTABLES_HELD,
            ufs_reads: eighth.min(UFS_READ_BYTES_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_never_exceed_the_whole() {
        for memory in [256 << 20, 1 << 30, 7_777_777_777, 1 << 40] {
            for shards in [1, 2, 16, 255] {
                for tier in [None, Some(0), Some(100 << 20), Some(u64::MAX)] {
                    let (tls, peers) = (memory % 2 == 0, shards % 2 == 0);
                    let b = Budget::split(memory, shards, tier, tls, peers);
                    let each = b.buffers_per_shard + b.documents_per_shard;
                    let each = each + b.tls_per_shard + b.peers_per_shard;
                    let sum = each * shards as u64
                        + b.persist_buffers
                        + b.ram_tier
                        + b.object_cache
                        + b.index
                        + b.changes
                        + b.metadata_cache
                        + b.metadata_memtable * MEMTABLES_HELD
                        + b.ufs_reads;
                    assert!(BASE_BYTES + sum <= memory, "{memory} {shards} {tier:?}");
                }
            }
        }
    }
}
