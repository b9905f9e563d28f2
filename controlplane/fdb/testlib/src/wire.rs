//! The words between the library and the test server: one question, one answer, each
//! a length (32 bits, the highest byte first) and that many bytes. For tests on one
//! machine: no version, no secrets.

use std::io::{Error, ErrorKind, Read, Result, Write};

use bytes::Bytes;
use quickwater_controlplane::store::{CommitVersion, KeyRange, Row, Rows, Scan};

/// Longest message, bytes: a transaction's largest page or value.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// What a session asks the server. Writes are answered too, so that all stays in
/// order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Question {
    /// A new transaction; what there was is dropped.
    Begin,
    /// See the function of that name of the store.
    ReadVersion,
    /// See the function of that name of the store.
    Get(Bytes, bool),
    /// See the function of that name of the store.
    Scan(Scan),
    /// See the function of that name of the store.
    Set(Bytes, Bytes),
    /// See the function of that name of the store.
    Clear(Bytes),
    /// See the function of that name of the store.
    ClearRange(KeyRange),
    /// See the function of that name of the store.
    Add(Bytes, i64),
    /// See the function of that name of the store.
    Stamp(Bytes, Bytes, u64),
    /// See the function of that name of the store.
    ReadConflict(KeyRange),
    /// See the function of that name of the store.
    WriteConflict(KeyRange),
    /// Affected bytes so far.
    Bytes,
    /// The end of the transaction.
    Commit,
}

/// What the server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Done.
    Done,
    /// An error code of the C API.
    Failed(i32),
    /// A version or a size.
    Number(u64),
    /// A value, or that there is none.
    Value(Option<Bytes>),
    /// A page.
    Rows(Rows),
    /// The version of a commit.
    Committed(CommitVersion),
}

/// Sends a message.
///
/// # Errors
/// The other side is gone.
pub(crate) fn send(to: &mut impl Write, message: &[u8]) -> Result<()> {
    let length = u32::try_from(message.len()).map_err(|_| too_long())?;
    to.write_all(&[&length.to_be_bytes(), message].concat())
}

/// Waits for a message.
///
/// # Errors
/// The other side is gone, or sends what is too long.
pub(crate) fn receive(from: &mut impl Read) -> Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| too_long())?;
    if length > MESSAGE_BYTES_MAX {
        return Err(too_long());
    }
    let mut message = vec![0; length];
    from.read_exact(&mut message)?;
    Ok(message)
}

fn too_long() -> Error {
    Error::new(ErrorKind::InvalidData, "a message too long")
}

/// Puts a message together.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn kind(kind: u8) -> Self {
        Self(vec![kind])
    }

    fn number(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    fn bytes(self, bytes: &[u8]) -> Self {
        let mut own = self.number(bytes.len() as u64);
        own.0.extend_from_slice(bytes);
        own
    }

    fn range(self, range: &KeyRange) -> Self {
        self.bytes(&range.start).bytes(&range.end)
    }
}

/// Takes a message apart.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take(&mut self, length: usize) -> Result<&[u8]> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or_else(|| Error::new(ErrorKind::InvalidData, "a message too short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn kind(&mut self) -> Result<u8> {
        Ok(self.take(1)?.first().copied().unwrap_or_default())
    }

    fn number(&mut self) -> Result<u64> {
        let mut number = [0; 8];
        number.copy_from_slice(self.take(8)?);
        Ok(u64::from_be_bytes(number))
    }

    fn size(&mut self) -> Result<usize> {
        usize::try_from(self.number()?).map_err(|_| too_long())
    }

    fn bytes(&mut self) -> Result<Bytes> {
        let length = self.size()?;
        Ok(Bytes::copy_from_slice(self.take(length)?))
    }

    fn range(&mut self) -> Result<KeyRange> {
        Ok(KeyRange {
            start: self.bytes()?,
            end: self.bytes()?,
        })
    }
}

impl Question {
    /// As a message.
    #[must_use]
    pub(crate) fn encode(&self) -> Vec<u8> {
        let writer = match self {
            Self::Begin => Writer::kind(0),
            Self::ReadVersion => Writer::kind(1),
            Self::Get(key, snapshot) => Writer::kind(2).number((*snapshot).into()).bytes(key),
            Self::Scan(scan) => Writer::kind(3)
                .number(scan.snapshot.into())
                .number(scan.reverse.into())
                .number(scan.rows_max as u64)
                .number(scan.bytes_max as u64)
                .range(&scan.range),
            Self::Set(key, value) => Writer::kind(4).bytes(key).bytes(value),
            Self::Clear(key) => Writer::kind(5).bytes(key),
            Self::ClearRange(range) => Writer::kind(6).range(range),
            Self::Add(key, delta) => Writer::kind(7).number(delta.cast_unsigned()).bytes(key),
            Self::Stamp(key, template, offset) => {
                Writer::kind(8).number(*offset).bytes(key).bytes(template)
            }
            Self::ReadConflict(range) => Writer::kind(9).range(range),
            Self::WriteConflict(range) => Writer::kind(10).range(range),
            Self::Bytes => Writer::kind(11),
            Self::Commit => Writer::kind(12),
        };
        writer.0
    }

    /// From a message.
    ///
    /// # Errors
    /// It is none.
    pub(crate) fn decode(message: &[u8]) -> Result<Self> {
        let mut reader = Reader(message);
        Ok(match reader.kind()? {
            0 => Self::Begin,
            1 => Self::ReadVersion,
            2 => {
                let snapshot = reader.number()? != 0;
                Self::Get(reader.bytes()?, snapshot)
            }
            3 => Self::Scan(Scan {
                snapshot: reader.number()? != 0,
                reverse: reader.number()? != 0,
                rows_max: reader.size()?,
                bytes_max: reader.size()?,
                range: reader.range()?,
            }),
            4 => Self::Set(reader.bytes()?, reader.bytes()?),
            5 => Self::Clear(reader.bytes()?),
            6 => Self::ClearRange(reader.range()?),
            7 => {
                let delta = reader.number()?.cast_signed();
                Self::Add(reader.bytes()?, delta)
            }
            8 => {
                let offset = reader.number()?;
                Self::Stamp(reader.bytes()?, reader.bytes()?, offset)
            }
            9 => Self::ReadConflict(reader.range()?),
            10 => Self::WriteConflict(reader.range()?),
            11 => Self::Bytes,
            12 => Self::Commit,
            _ => return Err(Error::new(ErrorKind::InvalidData, "no question")),
        })
    }
}

impl Reply {
    /// As a message.
    #[must_use]
    pub(crate) fn encode(&self) -> Vec<u8> {
        let writer = match self {
            Self::Done => Writer::kind(0),
            Self::Failed(code) => Writer::kind(1).number(i64::from(*code).cast_unsigned()),
            Self::Number(number) => Writer::kind(2).number(*number),
            Self::Value(None) => Writer::kind(3),
            Self::Value(Some(value)) => Writer::kind(4).bytes(value),
            Self::Rows(page) => {
                let writer = Writer::kind(5)
                    .number(page.more.into())
                    .number(page.rows.len() as u64);
                page.rows.iter().fold(writer, |writer, row| {
                    writer.bytes(&row.key).bytes(&row.value)
                })
            }
            Self::Committed(version) => Writer::kind(6).bytes(version.as_bytes()),
        };
        writer.0
    }

    /// From a message.
    ///
    /// # Errors
    /// It is none.
    pub(crate) fn decode(message: &[u8]) -> Result<Self> {
        let wrong = |_| Error::new(ErrorKind::InvalidData, "no answer");
        let mut reader = Reader(message);
        Ok(match reader.kind()? {
            0 => Self::Done,
            1 => Self::Failed(i32::try_from(reader.number()?.cast_signed()).map_err(wrong)?),
            2 => Self::Number(reader.number()?),
            3 => Self::Value(None),
            4 => Self::Value(Some(reader.bytes()?)),
            5 => {
                let more = reader.number()? != 0;
                let count = reader.size()?;
                let mut rows = Vec::new();
                for _ in 0..count {
                    rows.push(Row {
                        key: reader.bytes()?,
                        value: reader.bytes()?,
                    });
                }
                Self::Rows(Rows { rows, more })
            }
            6 => {
                let bytes = reader.bytes()?;
                let bytes = bytes[..].try_into();
                Self::Committed(CommitVersion(bytes.map_err(
                    |_: std::array::TryFromSliceError| {
                        Error::new(ErrorKind::InvalidData, "no version")
                    },
                )?))
            }
            _ => return Err(Error::new(ErrorKind::InvalidData, "no answer")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_and_garbage_does_not() {
        let range = KeyRange::new("a", "b");
        let questions = [
            Question::Begin,
            Question::ReadVersion,
            Question::Get("k".into(), true),
            Question::Scan(Scan::new(range.clone(), 7).reverse()),
            Question::Set("k".into(), "v".into()),
            Question::Clear("k".into()),
            Question::ClearRange(range.clone()),
            Question::Add("k".into(), -5),
            Question::Stamp("k".into(), "0123456789".into(), 0),
            Question::ReadConflict(range.clone()),
            Question::WriteConflict(range),
            Question::Bytes,
            Question::Commit,
        ];
        for question in questions {
            let message = question.encode();
            assert_eq!(Question::decode(&message).unwrap(), question);
            for end in 0..message.len() {
                assert!(Question::decode(&message[..end]).is_err());
            }
        }
        let row = Row {
            key: "k".into(),
            value: "v".into(),
        };
        let replies = [
            Reply::Done,
            Reply::Failed(-1),
            Reply::Number(9),
            Reply::Value(None),
            Reply::Value(Some("v".into())),
            Reply::Rows(Rows {
                rows: vec![row.clone(), row],
                more: true,
            }),
            Reply::Committed(CommitVersion::new(5, 6)),
        ];
        for reply in replies {
            let message = reply.encode();
            assert_eq!(Reply::decode(&message).unwrap(), reply);
            for end in 0..message.len() {
                assert!(Reply::decode(&message[..end]).is_err());
            }
        }
        assert!(Question::decode(&[99]).is_err() && Reply::decode(&[99]).is_err());
    }
}
