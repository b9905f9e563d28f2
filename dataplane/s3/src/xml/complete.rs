//! The body of CompleteMultipartUpload.

use quickwater_proto::{Checksum, ChecksumAlgorithm, ETag, PART_NUMBER_MAX};

use super::walk::{Step, malformed, walk};
use crate::error::{S3Error, S3ErrorCode};

/// Most parts of an upload.
pub const COMPLETED_PARTS_MAX: usize = PART_NUMBER_MAX as usize;

/// One part the client names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompletedPart {
    /// 1 to 10,000, ascending.
    pub number: u16,
    /// What UploadPart answered.
    pub etag: ETag,
    /// `Checksum*`, as far as given.
    pub checksums: Vec<Checksum>,
}

#[derive(Default)]
struct Draft {
    number: Option<u16>,
    etag: Option<ETag>,
    checksums: Vec<Checksum>,
}

/// Reads a `CompleteMultipartUpload`: 1 to 10,000 parts in ascending order.
///
/// # Errors
/// `MalformedXML`, `InvalidPartOrder`.
pub fn parse_complete(body: &[u8]) -> Result<Vec<CompletedPart>, S3Error> {
    const PART: &str = "CompleteMultipartUpload/Part";
    let mut parts: Vec<CompletedPart> = Vec::new();
    let mut draft = Draft::default();
    walk(body, |path, step| match (path, step) {
        ("CompleteMultipartUpload", _) => Ok(()),
        (PART, Step::Open) => {
            draft = Draft::default();
            Ok(())
        }
        (PART, Step::Close(_)) => {
            let part = std::mem::take(&mut draft).finish()?;
            if parts.len() == COMPLETED_PARTS_MAX {
                return Err(malformed());
            }
            if parts
                .last()
                .is_some_and(|before| before.number >= part.number)
            {
                return Err(S3ErrorCode::InvalidPartOrder.into());
            }
            parts.push(part);
            Ok(())
        }
        (path, step) => {
            let name = path
                .strip_prefix(PART)
                .and_then(|p| p.strip_prefix('/'))
                .ok_or_else(malformed)?;
            draft.field(name, step)
        }
    })?;
    if parts.is_empty() {
        return Err(malformed());
    }
    Ok(parts)
}

impl Draft {
    fn field(&mut self, name: &str, step: Step<'_>) -> Result<(), S3Error> {
        let checksum = name
            .strip_prefix("Checksum")
            .and_then(ChecksumAlgorithm::parse);
        let Step::Close(text) = step else {
            let known = checksum.is_some() || matches!(name, "PartNumber" | "ETag");
            return if known { Ok(()) } else { Err(malformed()) };
        };
        let text = text.trim();
        match (name, checksum) {
            ("PartNumber", _) => {
                let number = text
                    .parse()
                    .ok()
                    .filter(|n| (1..=PART_NUMBER_MAX).contains(n));
                self.number = Some(number.ok_or_else(malformed)?);
            }
            ("ETag", _) => self.etag = Some(ETag::new(text)),
            (_, Some(algorithm)) => {
                let value = crate::checksum::parse(algorithm, text).ok_or_else(malformed)?;
                self.checksums.retain(|c| c.algorithm != algorithm);
                self.checksums.push(value);
            }
            _ => return Err(malformed()),
        }
        Ok(())
    }

    fn finish(self) -> Result<CompletedPart, S3Error> {
        Ok(CompletedPart {
            number: self.number.ok_or_else(malformed)?,
            etag: self.etag.ok_or_else(malformed)?,
            checksums: self.checksums,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(parts: &[(u32, &str)]) -> String {
        let inner: String = parts
            .iter()
            .map(|(n, more)| {
                format!(
                    "<Part><PartNumber>{n}</PartNumber><ETag>&quot;e{n}&quot;</ETag>{more}</Part>"
                )
            })
            .collect();
        format!("<CompleteMultipartUpload>{inner}</CompleteMultipartUpload>")
    }

    fn code(body: &str) -> S3ErrorCode {
        parse_complete(body.as_bytes()).unwrap_err().code
    }

    #[test]
    fn parts_with_their_checksums() {
        let text = body(&[(1, "<ChecksumCRC32>AAAAAA==</ChecksumCRC32>"), (7, "")]);
        let parts = parse_complete(text.as_bytes()).unwrap();
        assert_eq!(parts.len(), 2);
        assert_eq!(parts[0].etag.as_str(), "e1");
        assert_eq!(parts[0].checksums[0].value, [0; 4]);
        assert_eq!(parts[1].number, 7);
    }

    #[test]
    fn the_limits() {
        let full: Vec<_> = (1..=10_000).map(|n| (n, "")).collect();
        assert_eq!(
            parse_complete(body(&full).as_bytes()).unwrap().len(),
            10_000
        );
        assert_eq!(code(&body(&[(0, "")])), S3ErrorCode::MalformedXml);
        assert_eq!(code(&body(&[(10_001, "")])), S3ErrorCode::MalformedXml);
        assert_eq!(code(&body(&[])), S3ErrorCode::MalformedXml);
        assert_eq!(
            code(&body(&[(2, ""), (1, "")])),
            S3ErrorCode::InvalidPartOrder
        );
        assert_eq!(
            code(&body(&[(1, ""), (1, "")])),
            S3ErrorCode::InvalidPartOrder
        );
        assert_eq!(code(&body(&[(1, "<X/>")])), S3ErrorCode::MalformedXml);
        let bad = body(&[(1, "<ChecksumCRC32>AA==</ChecksumCRC32>")]);
        assert_eq!(code(&bad), S3ErrorCode::MalformedXml);
        let no_etag = "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber></Part></CompleteMultipartUpload>";
        assert_eq!(code(no_etag), S3ErrorCode::MalformedXml);
    }
}
