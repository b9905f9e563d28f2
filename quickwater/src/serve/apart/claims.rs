//! Which slots a worker has owned last, on its disk: should the metadata be lost, who has
//! owned a slot last of all knows what is pending of its keys. Absent: what is made of it.
//!
//! The file `slots` in the worker's directory: [`MAGIC`]; the session it was written in
//! (64 bits); the length of the row of the placement table (32 bits) and the row; for each
//! slot the epoch of the table by which it was taken, 0 = never (64 bits each); xxh3 of all
//! bytes before (64 bits). Numbers have their highest byte first.
//!
//! The file `slots-untold` beside it: slots were taken by the table of the epoch it says (64
//! bits), and by later ones, and what was pending of them then may not have been noted yet.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use quickwater_controlplane::records::{decode_slot_table, encode_slot_table};
use quickwater_engine::Notes;
use quickwater_proto::{SLOTS, SlotTable};
use xxhash_rust::xxh3::xxh3_64;

const FILE: &str = "slots";
const UNTOLD: &str = "slots-untold";
const MAGIC: &[u8] = b"quickwater-slots 1\n";
/// Far above every file: two numbers per slot and a table.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::serve) struct Claimed {
    /// The session of the worker.
    pub(in crate::serve) session: u64,
    /// The placement it went by.
    pub(in crate::serve) table: SlotTable,
    /// By which table it took each slot last; 0: never.
    pub(in crate::serve) epochs: Vec<u64>,
}

/// From which table on the worker of a directory may not have noted what was pending of slots
/// that it took; `None`: all is noted.
///
/// # Errors
/// That cannot be read.
pub(in crate::serve) fn untold_since(dir: &Path) -> Result<Option<u64>> {
    let path = dir.join(UNTOLD);
    match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        // In doubt all of them.
        Ok(bytes) => Ok(Some(
            <[u8; 8]>::try_from(&*bytes).map_or(0, u64::from_be_bytes),
        )),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

impl Claimed {
    fn none() -> Self {
        Self {
            session: 0,
            table: SlotTable::default(),
            epochs: vec![0; SLOTS],
        }
    }

    /// Reads the file of a worker's directory; `None`: there is none.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub(in crate::serve) fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        let damaged = || format!("{} is damaged", path.display());
        match std::fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Ok(found) if found.len() > FILE_BYTES_MAX => bail!(damaged()),
            _ => {}
        }
        let bytes =
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::decode(&bytes).with_context(damaged).map(Some)
    }

    fn encode(&self) -> Result<Vec<u8>> {
        let table = encode_slot_table(&self.table)?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.session.to_be_bytes());
        bytes.extend(u32::try_from(table.len())?.to_be_bytes());
        bytes.extend(table);
        bytes.extend(self.epochs.iter().flat_map(|epoch| epoch.to_be_bytes()));
        bytes.extend(xxh3_64(&bytes).to_be_bytes());
        Ok(bytes)
    }

    /// Reads what [`Claimed::read`] has read elsewhere.
    ///
    /// # Errors
    /// It is damaged.
    fn decode(bytes: &[u8]) -> Result<Self> {
        let (content, sum) = bytes.split_last_chunk::<8>().context("it is cut off")?;
        if xxh3_64(content) != u64::from_be_bytes(*sum) {
            bail!("its sum is another");
        }
        let rest = content.strip_prefix(MAGIC).context("it begins otherwise")?;
        let (session, rest) = rest.split_first_chunk::<8>().context("it is short")?;
        let (len, rest) = rest.split_first_chunk::<4>().context("it is short")?;
        let len = u32::from_be_bytes(*len) as usize;
        let (table, epochs) = rest.split_at_checked(len).context("it is short")?;
        let (epochs, rest) = epochs.as_chunks::<8>();
        if epochs.len() != SLOTS || !rest.is_empty() {
            bail!("it is not of {SLOTS} slots");
        }
        Ok(Self {
            session: u64::from_be_bytes(*session),
            table: decode_slot_table(table)?,
            epochs: epochs.iter().map(|e| u64::from_be_bytes(*e)).collect(),
        })
    }
}

/// The claims of a running worker.
pub(super) struct Claims {
    dir: PathBuf,
    known: Mutex<Known>,
}

struct Known {
    claimed: Claimed,
    /// Slots were taken from this table on, and [`Claims::told`] has not been said since.
    untold: Option<u64>,
}

impl Claims {
    /// Those of a directory.
    ///
    /// # Errors
    /// They cannot be read. Damaged ones are begun anew.
    pub(super) fn open(dir: &Path) -> Self {
        let known = Claimed::read(dir).unwrap_or_else(|error| {
            tracing::warn!(
                error = format!("{error:#}"),
                "which slots were owned is written anew"
            );
            None
        });
        Self {
            dir: dir.to_owned(),
            known: Mutex::new(Known {
                claimed: known.unwrap_or_else(Claimed::none),
                // Of the process before; it is in doubt until it was looked.
                untold: untold_since(dir).unwrap_or(Some(0)),
            }),
        }
    }

    /// What is pending of all slots that were taken is noted, if `is_so` while nobody takes
    /// any. Blocks. Answers whether it is, now or since earlier.
    pub(super) fn told(&self, notes: &Notes, is_so: impl FnOnce() -> bool) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.untold.is_some() && is_so() {
            match std::fs::remove_file(self.dir.join(UNTOLD)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(%error, "that all slots are noted cannot be said: a rebuild of the metadata would take it for a loss");
                }
                _ => {}
            }
            known.untold = None;
            notes.end_search();
        }
        known.untold.is_none()
    }

    /// Notes, flushed, a table that is gone by, and that slots are this worker's by it; before
    /// anything of these is answered. Until [`Claims::told`] `notes` say that some wait. Blocks.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn take(
        &self,
        notes: &Notes,
        (session, table): (u64, &SlotTable),
        slots: &[usize],
    ) -> Result<()> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !slots.is_empty() {
            let since = known
                .untold
                .map_or(table.epoch, |since| since.min(table.epoch));
            known.untold = Some(since);
            crate::home::write_bytes(&self.dir.join(UNTOLD), &since.to_be_bytes())?;
        }
        if known.untold.is_some() {
            notes.begin_search();
        }
        let known = &mut known.claimed;
        known.session = known.session.max(session);
        // Of tables that took slots only, notes may come late.
        if known.table.epoch <= table.epoch {
            known.table = table.clone();
        }
        for slot in slots {
            if let Some(epoch) = known.epochs.get_mut(*slot) {
                *epoch = table.epoch;
            }
        }
        crate::home::write_bytes(&self.dir.join(FILE), &known.encode()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickwater_proto::NodeId;

    #[test]
    fn what_was_taken_last_is_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Claimed::read(dir.path()).unwrap(), None);
        let node = NodeId::new("n1").unwrap();
        let table = |epoch| SlotTable::from_slots(epoch, |_| (Some(&node), None));
        let (claims, notes) = (Claims::open(dir.path()), Notes::default());
        claims.take(&notes, (7, &table(3)), &[0, 5]).unwrap();
        claims
            .take(&notes, (8, &table(4)), &[5, SLOTS - 1])
            .unwrap();
        claims.take(&notes, (8, &table(2)), &[]).unwrap();
        drop(claims);
        Claims::open(dir.path())
            .take(&notes, (1, &table(6)), &[1])
            .unwrap();
        let found = Claimed::read(dir.path()).unwrap().unwrap();
        assert_eq!((found.session, found.table.epoch), (8, 6));
        let some = [0, 1, 2, 5, SLOTS - 1].map(|slot| found.epochs[slot]);
        assert_eq!(some, [3, 6, 0, 4, 4]);
        let path = dir.path().join(FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[40] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(Claimed::read(dir.path()).is_err());
        // A worker goes on, and knows of nothing before.
        Claims::open(dir.path())
            .take(&notes, (1, &table(7)), &[2])
            .unwrap();
        let found = Claimed::read(dir.path()).unwrap().unwrap();
        assert_eq!((found.epochs[0], found.epochs[2]), (0, 7));
    }

    #[test]
    fn it_is_on_disk_that_slots_are_not_noted_yet() {
        let dir = tempfile::tempdir().unwrap();
        let untold = || untold_since(dir.path()).unwrap();
        let node = NodeId::new("n1").unwrap();
        let table = |epoch| SlotTable::from_slots(epoch, |_| (Some(&node), None));
        let (claims, notes) = (Claims::open(dir.path()), Notes::default());
        assert!(claims.told(&notes, || panic!("nothing was taken")));
        claims.take(&notes, (1, &table(3)), &[]).unwrap();
        assert_eq!(untold(), None, "nothing was taken");
        claims.take(&notes, (1, &table(3)), &[7]).unwrap();
        assert!(!claims.told(&notes, || false));
        claims.take(&notes, (1, &table(4)), &[9]).unwrap();
        assert_eq!(untold(), Some(3));
        assert_eq!(notes.waiting(), 1);
        // A process that was killed then leaves that to the next.
        drop(claims);
        let (claims, notes) = (Claims::open(dir.path()), Notes::default());
        claims.take(&notes, (2, &table(3)), &[]).unwrap();
        assert_eq!(notes.waiting(), 1);
        assert!(!claims.told(&notes, || false) && claims.told(&notes, || true));
        assert_eq!(untold(), None);
        assert_eq!(notes.waiting(), 0);
        claims.take(&notes, (1, &table(5)), &[8]).unwrap();
        assert_eq!(untold(), Some(5), "these are others");
    }
}
