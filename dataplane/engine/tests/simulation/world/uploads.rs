//! Rows of uploads that are open. Absent: what was completed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use quickwater_proto::*;

type Place = (ObjectKey, UploadId);
type Row = (UploadRecord, BTreeMap<u16, PartRecord>);

type Holders = BTreeMap<(UploadId, u16), Vec<NodeId>>;

/// Uploads and their parts by number, and who has the bytes of parts.
#[derive(Clone, Default)]
pub struct Uploads(Rc<RefCell<BTreeMap<Place, Row>>>, Rc<RefCell<Holders>>);

impl Uploads {
    pub fn create(&self, upload: &UploadRecord) {
        let place = (upload.key.clone(), upload.id);
        let row = (upload.clone(), BTreeMap::new());
        self.0.borrow_mut().insert(place, row);
    }

    pub fn find(&self, id: UploadId) -> Option<UploadRecord> {
        let rows = self.0.borrow();
        let found = rows.iter().find(|((_, of), _)| *of == id);
        found.map(|(_, (upload, _))| upload.clone())
    }

    pub fn put_part(
        &self,
        id: UploadId,
        part: &PartRecord,
    ) -> Result<Option<PartRecord>, MetadataError> {
        let mut rows = self.0.borrow_mut();
        let found = rows.iter_mut().find(|((_, of), _)| *of == id);
        let (_, (_, parts)) = found.ok_or(MetadataError::NoSuchUpload)?;
        Ok(parts.insert(part.number, part.clone()))
    }

    /// Says who has the bytes of a part, if they are these.
    pub fn hold(&self, of: PartOf, blob: BlobId, nodes: Vec<NodeId>) -> bool {
        let parts = self.parts(of.upload, of.number - 1, 1).unwrap_or_default();
        let same = parts
            .iter()
            .any(|p| p.number == of.number && p.blob == blob && p.held);
        if same {
            self.1.borrow_mut().insert((of.upload, of.number), nodes);
        }
        same
    }

    /// Who has the bytes of a part, if they are these and its upload is open.
    pub fn holders(&self, of: PartOf, blob: BlobId) -> Vec<NodeId> {
        let parts = self.parts(of.upload, of.number - 1, 1).unwrap_or_default();
        let same = parts
            .iter()
            .any(|p| p.number == of.number && p.blob == blob && p.held);
        let rows = self.1.borrow();
        let nodes = rows.get(&(of.upload, of.number)).filter(|_| same);
        nodes.cloned().unwrap_or_default()
    }

    pub fn parts(
        &self,
        id: UploadId,
        after: u16,
        limit: usize,
    ) -> Result<Vec<PartRecord>, MetadataError> {
        let rows = self.0.borrow();
        let found = rows.iter().find(|((_, of), _)| *of == id);
        let (_, (_, parts)) = found.ok_or(MetadataError::NoSuchUpload)?;
        let later = parts.range(after + 1..).map(|(_, part)| part.clone());
        Ok(later.take(limit).collect())
    }

    pub fn page(
        &self,
        prefix: &str,
        after: Option<(&str, Option<UploadId>)>,
        limit: usize,
    ) -> Vec<UploadRecord> {
        let rows = self.0.borrow();
        let later = |(key, id): &Place| match after {
            None => true,
            Some((last, None)) => key.as_str() > last,
            Some((last, Some(of))) => (key.as_str(), *id) > (last, of),
        };
        let found = rows
            .iter()
            .filter(|(place, _)| place.0.as_str().starts_with(prefix) && later(place));
        let found = found.map(|(_, (upload, _))| upload.clone());
        found.take(limit).collect()
    }

    /// Ends one; its parts.
    pub fn end(&self, id: UploadId) -> Result<Vec<PartRecord>, MetadataError> {
        let upload = self.find(id).ok_or(MetadataError::NoSuchUpload)?;
        let ended = self.0.borrow_mut().remove(&(upload.key, id));
        Ok(ended
            .into_iter()
            .flat_map(|(_, parts)| parts.into_values())
            .collect())
    }
}
