//! What the store of a worker tells, as one file, for metadata of a cluster to be rebuilt
//! from. Absent: reading stores, and which of it counts.
//!
//! The file: [`MAGIC`]; messages, each with its kind (8 bits) and length (32 bits) before it:
//! a head, pieces of the names ([`crate::dump::export_names`]), facts, an end; xxh3 of all
//! bytes before (64 bits). Numbers have their highest byte first.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use xxhash_rust::xxh3::Xxh3;

use crate::records::{
    FACT_BYTES_MAX, FactRow, FactsEnd, FactsHead, RecordError, decode_fact, decode_facts_end,
    decode_facts_head, encode_fact, encode_facts_end, encode_facts_head,
};

/// What a file begins with; the number is that of the layout.
const MAGIC: &[u8] = b"quickwater-facts 1\n";
const HEAD: u8 = 1;
const NAMES: u8 = 2;
const FACT: u8 = 3;
const END: u8 = 4;
/// Bytes of the names in one message.
const NAMES_BYTES: usize = 256 << 10;
/// Most bytes of names: they are held in memory.
const NAMES_BYTES_MAX: usize = 256 << 20;

/// Why a file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// It cannot be read or written.
    #[error("{0}")]
    File(#[from] std::io::Error),
    /// It is none of ours, cut off, or damaged.
    #[error("the file is damaged, or not one of `metadata collect`: {0}")]
    Damaged(&'static str),
    /// A message of it is.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Writes a file.
pub struct Writer<F> {
    to: F,
    sum: Xxh3,
}

impl<F: Write> Writer<F> {
    /// Begins one.
    ///
    /// # Errors
    /// See [`FactsError`]; what was written is of no use. So for all of it.
    pub fn new(to: F, head: &FactsHead) -> Result<Self, FactsError> {
        let mut own = Self {
            to,
            sum: Xxh3::new(),
        };
        own.write(MAGIC)?;
        own.message(HEAD, &encode_facts_head(head)?)?;
        Ok(own)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), FactsError> {
        self.sum.update(bytes);
        Ok(self.to.write_all(bytes)?)
    }

    fn message(&mut self, kind: u8, bytes: &[u8]) -> Result<(), FactsError> {
        let len = u32::try_from(bytes.len());
        let len = len.map_err(|_| FactsError::Damaged("a message too long"))?;
        self.write(&[kind])?;
        self.write(&len.to_be_bytes())?;
        self.write(bytes)
    }

    /// The names, before the first fact.
    ///
    /// # Errors
    /// As [`Writer::new`].
    pub fn names(&mut self, names: &[u8]) -> Result<(), FactsError> {
        let mut pieces = names.chunks(NAMES_BYTES);
        pieces.try_for_each(|piece| self.message(NAMES, piece))
    }

    /// A fact.
    ///
    /// # Errors
    /// As [`Writer::new`].
    pub fn fact(&mut self, fact: &FactRow) -> Result<(), FactsError> {
        self.message(FACT, &encode_fact(fact)?)
    }

    /// Ends it; not flushed to the disk.
    ///
    /// # Errors
    /// As [`Writer::new`].
    pub fn end(mut self, end: &FactsEnd) -> Result<F, FactsError> {
        self.message(END, &encode_facts_end(end)?)?;
        let sum = self.sum.digest();
        self.to.write_all(&sum.to_be_bytes())?;
        self.to.flush()?;
        Ok(self.to)
    }
}

/// A file that was found whole.
pub struct Facts {
    from: BufReader<File>,
    /// Whose store tells.
    pub head: FactsHead,
    /// What all of it comes to.
    pub end: FactsEnd,
    /// xxh3 of all of it: which file it is.
    pub sum: u64,
    /// The names.
    pub names: Vec<u8>,
    /// Where the first fact lies.
    first: u64,
    /// Where the next message lies.
    at: u64,
}

impl Facts {
    /// Opens a file and reads all of it once, to see that it is whole.
    ///
    /// # Errors
    /// See [`FactsError`].
    pub fn open(path: &Path) -> Result<Self, FactsError> {
        let mut from = Summing {
            from: BufReader::new(File::open(path)?),
            sum: Xxh3::new(),
        };
        if from.take(MAGIC.len())? != MAGIC {
            return Err(FactsError::Damaged("it does not begin as one"));
        }
        let mut at = MAGIC.len() as u64;
        let (mut head, mut names, mut first, mut facts) = (None, Vec::new(), None, 0);
        let end = loop {
            let (kind, message) = from.message()?;
            match (kind, &head) {
                (HEAD, None) => head = Some(decode_facts_head(&message)?),
                (NAMES, Some(_)) if first.is_none() => {
                    if names.len() + message.len() > NAMES_BYTES_MAX {
                        return Err(FactsError::Damaged("too many names"));
                    }
                    names.extend(&message);
                }
                (FACT, Some(_)) => {
                    decode_fact(&message)?;
                    first.get_or_insert(at);
                    facts += 1;
                }
                (END, Some(_)) => break decode_facts_end(&message)?,
                _ => return Err(FactsError::Damaged("a message that does not belong there")),
            }
            at += 5 + message.len() as u64;
        };
        let sum = from.sum.digest();
        let told = from.take(8)?;
        if told != sum.to_be_bytes() || end.facts != facts {
            return Err(FactsError::Damaged("its sum is another"));
        }
        let first = first.unwrap_or(at);
        let mut from = from.from;
        from.seek(SeekFrom::Start(first))?;
        let head = head.ok_or(FactsError::Damaged("it has no head"))?;
        Ok(Self {
            from,
            head,
            end,
            sum,
            names,
            first,
            at: first,
        })
    }

    /// Begins with the first fact again.
    ///
    /// # Errors
    /// [`FactsError::File`].
    pub fn rewind(&mut self) -> Result<(), FactsError> {
        self.at = self.first;
        self.from.seek(SeekFrom::Start(self.first))?;
        Ok(())
    }

    /// The next fact, and where it lies.
    ///
    /// # Errors
    /// See [`FactsError`]: the file has changed.
    #[expect(clippy::should_implement_trait, reason = "it can fail")]
    pub fn next(&mut self) -> Result<Option<(u64, FactRow)>, FactsError> {
        let at = self.at;
        let (kind, message) = message(&mut self.from)?;
        if kind != FACT {
            return Ok(None);
        }
        self.at += 5 + message.len() as u64;
        Ok(Some((at, decode_fact(&message)?)))
    }

    /// The fact that lies there; [`Facts::rewind`] before [`Facts::next`].
    ///
    /// # Errors
    /// See [`FactsError`]: the file has changed.
    pub fn read(&mut self, at: u64) -> Result<FactRow, FactsError> {
        self.from.seek(SeekFrom::Start(at))?;
        match message(&mut self.from)? {
            (FACT, message) => Ok(decode_fact(&message)?),
            _ => Err(FactsError::Damaged("a fact is not where it was")),
        }
    }
}

fn take(from: &mut impl Read, bytes: usize) -> Result<Vec<u8>, FactsError> {
    let mut taken = vec![0; bytes];
    match from.read_exact(&mut taken) {
        Ok(()) => Ok(taken),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err(FactsError::Damaged("it is cut off"))
        }
        Err(error) => Err(error.into()),
    }
}

/// Kind and content of a message.
fn message(from: &mut impl Read) -> Result<(u8, Vec<u8>), FactsError> {
    let head = take(from, 5)?;
    let [kind, a, b, c, d] = head[..] else {
        return Err(FactsError::Damaged("it is cut off"));
    };
    let len = u32::from_be_bytes([a, b, c, d]) as usize;
    if len > FACT_BYTES_MAX {
        return Err(FactsError::Damaged("a message too long"));
    }
    Ok((kind, take(from, len)?))
}

/// A file whose bytes are summed up as they pass.
struct Summing {
    from: BufReader<File>,
    sum: Xxh3,
}

impl Summing {
    fn take(&mut self, bytes: usize) -> Result<Vec<u8>, FactsError> {
        let taken = take(&mut self.from, bytes)?;
        self.sum.update(&taken);
        Ok(taken)
    }

    fn message(&mut self) -> Result<(u8, Vec<u8>), FactsError> {
        let (kind, content) = message(&mut self.from)?;
        self.sum.update(&[kind]);
        let len = u32::try_from(content.len()).unwrap_or(u32::MAX);
        self.sum.update(&len.to_be_bytes());
        self.sum.update(&content);
        Ok((kind, content))
    }
}

#[cfg(test)]
mod tests {
    use quickwater_proto::{BlobId, NodeId, SLOTS, SlotTable};

    use super::*;
    use crate::cluster::Position;
    use crate::records::Witness;

    fn head() -> FactsHead {
        let node = NodeId::new("n1").unwrap();
        FactsHead {
            table: SlotTable::from_slots(4, |_| (Some(&node), None)),
            witness: Witness {
                node,
                directory: vec![7; 16],
                seen: Some(Position {
                    term: 9 << 90,
                    version: 12,
                }),
            },
            cluster: "c".into(),
            session: 3,
            epochs: (0..SLOTS as u64).collect(),
            untold_since: Some(0),
        }
    }

    fn fact(number: u128) -> FactRow {
        FactRow {
            blob: BlobId(number),
            is_note: number.is_multiple_of(2),
            has_ended: number.is_multiple_of(3),
            is_void: number.is_multiple_of(6),
            torn: number.is_multiple_of(5),
            data: vec![1; number as usize],
            whole: vec![BlobId(number), BlobId(1)],
        }
    }

    fn written(path: &Path, names: &[u8], facts: u128) {
        let mut writer = Writer::new(File::create(path).unwrap(), &head()).unwrap();
        writer.names(names).unwrap();
        for number in 0..facts {
            writer.fact(&fact(number)).unwrap();
        }
        let end = FactsEnd {
            after: 77,
            unreadable: 1,
            gaps: 2,
            facts: facts as u64,
        };
        writer.end(&end).unwrap();
    }

    #[test]
    fn what_is_written_is_read_in_any_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("facts");
        let names = vec![3; NAMES_BYTES + 7];
        written(&path, &names, 9);
        let mut facts = Facts::open(&path).unwrap();
        assert_eq!((&facts.head, &facts.names), (&head(), &names));
        assert_eq!((facts.end.after, facts.end.facts), (77, 9));
        for _ in 0..2 {
            let mut places = Vec::new();
            while let Some((at, found)) = facts.next().unwrap() {
                assert_eq!(found, fact(places.len() as u128));
                places.push(at);
            }
            assert_eq!(places.len(), 9);
            for (number, at) in places.iter().enumerate().rev() {
                assert_eq!(facts.read(*at).unwrap(), fact(number as u128));
            }
            facts.rewind().unwrap();
        }
        written(&path, &[], 0);
        let mut facts = Facts::open(&path).unwrap();
        assert!(facts.next().unwrap().is_none() && facts.names.is_empty());
    }

    #[test]
    fn no_damage_passes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("facts");
        written(&path, b"names", 3);
        let whole = std::fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(97).chain([whole.len() - 1]) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            std::fs::write(&path, &bytes).unwrap();
            assert!(Facts::open(&path).is_err(), "byte {at}");
            std::fs::write(&path, &whole[..at]).unwrap();
            assert!(Facts::open(&path).is_err(), "cut at {at}");
        }
    }
}
