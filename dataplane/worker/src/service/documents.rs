//! How much memory a request's documents may take, taken before the work begins and
//! cut to what the answer needs after it. Absent: waiting in line (see `http`).

use quickwater_engine::World;
use quickwater_s3::request::BodyKind;
use quickwater_s3::xml::BODY_BYTES_MAX;
use quickwater_s3::{Operation, Request, S3Error};

use super::answer::{Refusal, ServiceAnswer};
use super::dispatch::{Answer, slow_down};
use super::incoming::Incoming;
use super::listings::UPLOADS_READ;
use super::{Observer, S3Service};
use crate::buffers::PoolBuf;
use crate::http::{DOCUMENT_BYTES_FREE, DocumentCharge, INLINE_BODY_BYTES_MAX, Payload};

/// An entry of a listing: its record from the metadata and its lines of XML.
const LISTED_BYTES: usize = 1024;
/// A part in a listing, as above.
const LISTED_PART_BYTES: usize = 512;
/// A received document: its text, what is read from it twice (as sent and as found in
/// the metadata), its answer.
const RECEIVED_FACTOR: usize = 4;

impl<W, O> S3Service<W, O>
where
    W: World,
    W::Disk: quickwater_engine::io::Disk<Buffer = PoolBuf> + Clone,
    O: Observer,
{
    /// Takes the memory that the documents of a request may need; waits for it as
    /// long as for any place.
    pub(super) async fn charge(
        &self,
        request: &Request,
        body: &Incoming<'_, '_>,
    ) -> Result<DocumentCharge, S3Error> {
        let bytes = bytes_expected(request, body.length());
        let charge = self.documents.charge(bytes).await.ok_or_else(slow_down)?;
        if bytes > DOCUMENT_BYTES_FREE {
            body.hold_documents();
        }
        Ok(charge)
    }

    /// Takes the memory for a page of objects; asked for once it can be read.
    pub(super) async fn charge_page(&self, entries: u16) -> Result<DocumentCharge, Refusal> {
        let bytes = usize::from(entries) * LISTED_BYTES;
        let charge = self.documents.charge(bytes).await;
        charge.ok_or_else(|| slow_down().into())
    }
}

fn bytes_expected(request: &Request, body_length: Option<u64>) -> usize {
    match &request.operation {
        // Taken later: comparing with the UFS may take long and needs none.
        Operation::ListObjects(_) | Operation::ListObjectsV2(_) => 0,
        // Reads whole pages, however few are shown.
        Operation::ListMultipartUploads(_) => usize::from(UPLOADS_READ) * LISTED_BYTES,
        Operation::ListParts(query) => usize::from(query.max_parts) * LISTED_PART_BYTES,
        Operation::GetObjectAttributes(query) => usize::from(query.max_parts) * LISTED_PART_BYTES,
        operation if operation.body() == BodyKind::Xml => {
            let length = body_length.and_then(|length| usize::try_from(length).ok());
            let length = length.map_or(BODY_BYTES_MAX, |length| length.min(BODY_BYTES_MAX));
            length * RECEIVED_FACTOR
        }
        _ => 0,
    }
}

/// Counts the answer's document until it is sent.
pub(super) fn count_document<W: World>(
    mut answer: ServiceAnswer<W>,
    mut charge: DocumentCharge,
) -> Answer<W> {
    let Payload::Bytes(bytes) = answer.body else {
        return Ok(answer);
    };
    if bytes.len() <= DOCUMENT_BYTES_FREE {
        answer.body = Payload::Bytes(bytes);
        return Ok(answer);
    }
    // Its first bytes are copied behind the head.
    if !charge.resize(bytes.len() + bytes.len().min(INLINE_BODY_BYTES_MAX)) {
        return Err(slow_down().into());
    }
    answer.body = Payload::Document { bytes, charge };
    Ok(answer)
}
