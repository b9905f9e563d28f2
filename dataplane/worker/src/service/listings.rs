//! Listings: objects (V1, V2), uploads and parts.

use quickwater_engine::{ListQuery, World};
use quickwater_proto::UploadId;
use quickwater_s3::request::{ListObjects, ListObjectsV2, ListParts, ListUploads};
use quickwater_s3::response::{ListedObject, PartsPage};
use quickwater_s3::{Request, response};

use super::answer::xml as document;
use super::dispatch::Answer;
use super::documents::count_document;
use super::{Observer, S3Service};
use crate::buffers::PoolBuf;

impl<W, O> S3Service<W, O>
where
    W: World,
    W::Disk: quickwater_engine::io::Disk<Buffer = PoolBuf> + Clone,
    O: Observer,
{
    pub(super) async fn list_objects(&self, request: &Request, query: &ListObjects) -> Answer<W> {
        let bucket = self.bucket_of(request).await?;
        let page = ListQuery {
            prefix: query.prefix.clone(),
            delimiter: query.delimiter.clone().unwrap_or_default(),
            after: query.marker.clone(),
            limit: usize::from(query.max_keys),
            folders: self.config.folder_objects,
            revalidate: request.revalidate,
        };
        let room = async || self.charge_page(query.max_keys).await;
        let (page, charge) = self.engine.list_within(&bucket, &page, room).await?;
        let owner = &self.config.dialect.owner;
        let objects = listed(&page);
        let answer = document(
            200,
            response::list_objects(&bucket.name, query, &view(&page, &objects), owner),
        );
        count_document(answer, charge)
    }

    pub(super) async fn list_objects_v2(
        &self,
        request: &Request,
        query: &ListObjectsV2,
    ) -> Answer<W> {
        let bucket = self.bucket_of(request).await?;
        let page = ListQuery {
            prefix: query.prefix.clone(),
            delimiter: query.delimiter.clone().unwrap_or_default(),
            after: query.after.clone(),
            limit: usize::from(query.max_keys),
            folders: self.config.folder_objects,
            revalidate: request.revalidate,
        };
        let room = async || self.charge_page(query.max_keys).await;
        let (page, charge) = self.engine.list_within(&bucket, &page, room).await?;
        let owner = &self.config.dialect.owner;
        let objects = listed(&page);
        let view = view(&page, &objects);
        let answer = document(
            200,
            response::list_objects_v2(&bucket.name, query, &view, owner),
        );
        count_document(answer, charge)
    }

    pub(super) async fn list_parts(&self, request: &Request, query: &ListParts) -> Answer<W> {
        let bucket = self.bucket_of(request).await?;
        let upload = self
            .engine
            .upload(&bucket, request.key()?, query.upload)
            .await?;
        let limit = usize::from(query.max_parts);
        let parts = self
            .engine
            .parts(&bucket, &upload.key, upload.id, query.after, limit + 1)
            .await?;
        let more = parts.len() > limit;
        let shown = &parts[..limit.min(parts.len())];
        let owner = &self.config.dialect.owner;
        let page = PartsPage { parts: shown, more };
        Ok(document(
            200,
            response::list_parts(&bucket.name, query, &upload, &page, owner),
        ))
    }
}

/// The objects of a page in the dialect's words.
fn listed(page: &quickwater_engine::ListPage) -> Vec<ListedObject<'_>> {
    let objects = page.objects.iter();
    let listed = objects.map(|(key, record)| ListedObject {
        key: key.as_str(),
        etag: &record.etag,
        size: record.size,
        modified_ms: record.modified_ms,
        checksums: &record.checksums,
    });
    listed.collect()
}

fn view<'a>(
    page: &'a quickwater_engine::ListPage,
    objects: &'a [ListedObject<'a>],
) -> response::ListPage<'a> {
    let next = page.last.as_deref().filter(|_| page.truncated);
    response::ListPage {
        objects,
        prefixes: &page.prefixes,
        next,
    }
}

/// A page of uploads with those behind a delimiter rolled up.
#[derive(Default)]
struct UploadsPage {
    uploads: Vec<quickwater_proto::UploadRecord>,
    prefixes: Vec<String>,
    truncated: bool,
}

/// Uploads read from the metadata at a time.
pub(super) const UPLOADS_READ: u16 = 1_000;

impl<W, O> S3Service<W, O>
where
    W: World,
    W::Disk: quickwater_engine::io::Disk<Buffer = PoolBuf> + Clone,
    O: Observer,
{
    pub(super) async fn list_uploads(&self, request: &Request, query: &ListUploads) -> Answer<W> {
        let bucket = self.bucket_of(request).await?;
        let limit = usize::from(query.max_uploads);
        let mut page = UploadsPage::default();
        let mut after = match query.key_marker.as_str() {
            "" => None,
            key => Some((key.to_owned(), query.upload_id_marker)),
        };
        'pages: loop {
            let from = after.as_ref().map(|(key, id)| (key.as_str(), *id));
            let rows = self
                .engine
                .uploads(&bucket, &query.prefix, from, UPLOADS_READ.into())
                .await?;
            let at_end = rows.len() < usize::from(UPLOADS_READ);
            after = rows.last().map(|u| (u.key.as_str().to_owned(), Some(u.id)));
            for upload in rows {
                let group = group_of(upload.key.as_str(), query);
                if group
                    .as_ref()
                    .is_some_and(|g| page.prefixes.last() == Some(g) || *g == query.key_marker)
                {
                    continue;
                }
                if page.uploads.len() + page.prefixes.len() == limit {
                    // S3: max-uploads=0 is an empty page, not a truncated one.
                    page.truncated = limit > 0;
                    break 'pages;
                }
                match group {
                    Some(group) => page.prefixes.push(group),
                    None => page.uploads.push(upload),
                }
            }
            if at_end || after.is_none() {
                break;
            }
        }
        let shown = response::UploadsPage {
            uploads: &page.uploads,
            prefixes: &page.prefixes,
            next: page.next(),
        };
        let owner = &self.config.dialect.owner;
        Ok(document(
            200,
            response::list_uploads(&bucket.name, query, &shown, owner),
        ))
    }
}

impl UploadsPage {
    /// Where the next page begins, if there is one.
    fn next(&self) -> Option<(&str, Option<UploadId>)> {
        if !self.truncated {
            return None;
        }
        let upload = self.uploads.last().map(|u| (u.key.as_str(), Some(u.id)));
        let prefix = self.prefixes.last().map(|p| (p.as_str(), None));
        match (upload, prefix) {
            (Some(upload), Some(prefix)) if prefix.0 > upload.0 => Some(prefix),
            (Some(upload), _) => Some(upload),
            (None, prefix) => prefix,
        }
    }
}

fn group_of(key: &str, query: &ListUploads) -> Option<String> {
    let delimiter = query.delimiter.as_deref().filter(|d| !d.is_empty())?;
    let rest = key.get(query.prefix.len()..)?;
    let at = rest.find(delimiter)?;
    Some(key[..query.prefix.len() + at + delimiter.len()].to_owned())
}
