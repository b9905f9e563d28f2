//! The lines of aws-chunked framing: chunk headers and trailers. Bounded; knows
//! nothing about signatures being right.

use quickwater_proto::{Checksum, ChecksumAlgorithm};

use crate::error::{S3Error, S3ErrorCode};

/// Longest line of the framing, bytes: a size, a signature, a checksum and room.
pub(super) const LINE_BYTES_MAX: usize = 512;
/// Most trailer lines.
pub(super) const TRAILERS_MAX: usize = 8;

const TRAILER_SIGNATURE: &str = "x-amz-trailer-signature";

/// Collects bytes up to a line feed.
#[derive(Debug, Default)]
pub(super) struct Line {
    bytes: Vec<u8>,
}

impl Line {
    /// Takes from `input` up to and including the line feed. Gives the bytes taken
    /// and, when the line is whole, its text without CR LF.
    pub(super) fn take(&mut self, input: &[u8]) -> Result<(usize, Option<String>), S3Error> {
        let end = input.iter().position(|b| *b == b'\n');
        let taken = end.map_or(input.len(), |at| at + 1);
        let room = LINE_BYTES_MAX.saturating_sub(self.bytes.len());
        if taken > room {
            return Err(bad_chunk("A line of the chunk framing is too long."));
        }
        self.bytes.extend_from_slice(&input[..taken]);
        if end.is_none() {
            return Ok((taken, None));
        }
        let mut line = std::mem::take(&mut self.bytes);
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        let text =
            String::from_utf8(line).map_err(|_| bad_chunk("The chunk framing is not text."))?;
        Ok((taken, Some(text)))
    }
}

/// `<hex size>[;name=value]*`.
pub(super) struct ChunkHeader<'a> {
    pub(super) size: u64,
    pub(super) signature: Option<&'a str>,
}

impl<'a> ChunkHeader<'a> {
    pub(super) fn parse(line: &'a str) -> Result<Self, S3Error> {
        let mut fields = line.split(';');
        let digits = fields.next().unwrap_or_default().trim();
        let hex = !digits.is_empty()
            && digits.len() <= 16
            && digits.bytes().all(|b| b.is_ascii_hexdigit());
        let size = u64::from_str_radix(digits, 16)
            .ok()
            .filter(|_| hex)
            .ok_or_else(|| bad_chunk("A chunk size is not a hexadecimal number."))?;
        let signature = fields
            .filter_map(|f| f.split_once('='))
            .find(|(name, _)| name.trim() == "chunk-signature")
            .map(|(_, value)| value.trim());
        Ok(Self { size, signature })
    }
}

/// Trailers as they come in.
#[derive(Debug, Default)]
pub(super) struct Trailers {
    count: usize,
    /// The `name:value\n` lines that the trailer signature covers.
    pub(super) canonical: String,
    pub(super) checksum: Option<Checksum>,
    pub(super) signature: Option<String>,
}

impl Trailers {
    /// Takes an empty line that ends nothing; counted, so that there is an end.
    pub(super) fn skip_blank(&mut self) -> Result<(), S3Error> {
        self.count += 1;
        if self.count > TRAILERS_MAX {
            return Err(S3ErrorCode::MalformedTrailer.into());
        }
        Ok(())
    }

    /// Takes one line that is not empty.
    pub(super) fn take(&mut self, line: &str) -> Result<(), S3Error> {
        let malformed = || S3Error::from(S3ErrorCode::MalformedTrailer);
        self.count += 1;
        let (name, value) = line.split_once(':').ok_or_else(malformed)?;
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        if self.count > TRAILERS_MAX || self.signature.is_some() {
            return Err(malformed());
        }
        if name == TRAILER_SIGNATURE {
            self.signature = Some(value.to_owned());
            return Ok(());
        }
        let algorithm = ChecksumAlgorithm::ALL
            .into_iter()
            .find(|a| a.header() == name)
            .ok_or_else(malformed)?;
        let checksum = crate::checksum::parse(algorithm, value).ok_or_else(|| {
            S3Error::request(format!("Value for {name} trailing header is invalid."))
        })?;
        if self.checksum.replace(checksum).is_some() {
            return Err(malformed());
        }
        self.canonical.push_str(&name);
        self.canonical.push(':');
        self.canonical.push_str(value);
        self.canonical.push('\n');
        Ok(())
    }
}

/// The framing itself is wrong.
pub(super) fn bad_chunk(why: &'static str) -> S3Error {
    S3Error::request(why)
}
