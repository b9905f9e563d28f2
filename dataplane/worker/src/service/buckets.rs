//! Bucket operations: list, make, remove, tags, and the configurations that a
//! bucket without them answers.

use quickwater_engine::World;
use quickwater_proto::{Bucket, BucketId};
use quickwater_s3::request::{BUCKET_TAGS_MAX, ListBuckets};
use quickwater_s3::response::BucketEntry;
use quickwater_s3::{Operation, Request, S3ErrorCode, response, xml};

use super::answer::{Refusal, empty, xml as document};
use super::dispatch::{Answer, Call};
use super::{Observer, S3Service};
use crate::buffers::PoolBuf;

impl<W, O> S3Service<W, O>
where
    W: World,
    W::Disk: quickwater_engine::io::Disk<Buffer = PoolBuf> + Clone,
    O: Observer,
{
    pub(super) async fn list_buckets(&self, query: &ListBuckets) -> Answer<W> {
        let all = self.engine.buckets().await?;
        let mut shown: Vec<Bucket> = all
            .into_iter()
            .filter(|b| {
                let name = b.name.as_str();
                name.starts_with(&query.prefix) && name > query.after.as_str()
            })
            .collect();
        let limit = query.max_buckets.map_or(usize::MAX, usize::from);
        let more = shown.len() > limit;
        shown.truncate(limit);
        let entries: Vec<BucketEntry<'_>> = shown
            .iter()
            .map(|b| BucketEntry {
                name: &b.name,
                created_ms: b.created_ms,
            })
            .collect();
        let owner = &self.config.dialect.owner;
        Ok(document(
            200,
            response::list_buckets(query, &entries, more, owner),
        ))
    }

    pub(super) async fn create_bucket(&self, call: Call<'_, '_, '_>) -> Answer<W> {
        let request = call.request;
        let name = request.bucket()?.clone();
        let body = self.document(call).await?;
        xml::parse_create_bucket(&body)?;
        let root = self.config.default_ufs.trim_end_matches('/');
        let bucket = Bucket {
            id: BucketId(0),
            ufs: format!("{root}/{name}"),
            created_ms: self.now_ms(),
            metadata_ttl_ms: self.config.metadata_ttl_ms,
            options: self.config.default_ufs_options.clone(),
            tags: Vec::new(),
            owned: true,
            name,
        };
        self.engine.create_bucket(&bucket).await?;
        let mut headers = Vec::new();
        response::create_bucket_head(&mut headers, &bucket.name);
        Ok(empty(200, headers))
    }

    pub(super) async fn head_bucket(&self, request: &Request) -> Answer<W> {
        self.bucket_of(request).await?;
        let mut headers = Vec::new();
        response::head_bucket_head(&mut headers, &self.config.region);
        Ok(empty(200, headers))
    }

    pub(super) async fn delete_bucket(&self, request: &Request) -> Answer<W> {
        let bucket = self.bucket_of(request).await?;
        self.engine.delete_bucket(&bucket).await?;
        Ok(empty(204, Vec::new()))
    }

    pub(super) async fn bucket_configuration(&self, request: &Request) -> Answer<W> {
        self.bucket_of(request).await?;
        let answer = match &request.operation {
            Operation::GetBucketLocation => response::location(&self.config.region),
            Operation::GetBucketVersioning => response::versioning(),
            Operation::GetBucketAcl => response::owner_acl(&self.config.dialect.owner),
            Operation::GetBucketDefault(which) => response::bucket_default(*which),
            Operation::GetAbsentConfiguration(code) => return Err(Refusal::from(*code)),
            _ => return Ok(empty(204, Vec::new())),
        };
        Ok(document(200, answer))
    }

    pub(super) async fn bucket_tagging(&self, call: Call<'_, '_, '_>) -> Answer<W> {
        let request = call.request;
        let bucket = self.bucket_of(request).await?;
        match &request.operation {
            Operation::GetBucketTagging if bucket.tags.is_empty() => {
                Err(S3ErrorCode::NoSuchTagSet.into())
            }
            Operation::GetBucketTagging => Ok(document(200, response::tagging(&bucket.tags))),
            Operation::PutBucketTagging => {
                let body = self.document(call).await?;
                let tags = xml::parse_tagging(&body, BUCKET_TAGS_MAX)?;
                self.engine.set_bucket_tags(&bucket, &tags).await?;
                Ok(empty(204, Vec::new()))
            }
            _ => {
                self.engine.set_bucket_tags(&bucket, &[]).await?;
                Ok(empty(204, Vec::new()))
            }
        }
    }

    pub(super) fn now_ms(&self) -> i64 {
        use quickwater_engine::io::Environment;
        self.engine.environment().wall_ms()
    }
}
