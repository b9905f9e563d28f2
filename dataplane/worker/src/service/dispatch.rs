//! From a request head to the operation that answers it.

use quickwater_engine::{CacheResult, World};
use quickwater_peer::Layout;
use quickwater_proto::BucketName;
use quickwater_s3::auth::{Identity, authenticate};
use quickwater_s3::{Operation, Request, RequestView, S3Error, S3ErrorCode};

use super::answer::{Refusal, ServiceAnswer};
use super::documents::count_document;
use super::incoming::Incoming;
use super::{Observer, S3Service};
use crate::buffers::PoolBuf;
use crate::handoff::Guest;
use crate::http::{ConnectionInfo, RequestBody};

/// What was learnt of a request on the way, for logs and metrics.
pub(super) struct Seen {
    pub(super) operation: &'static str,
    pub(super) bucket: Option<BucketName>,
    pub(super) access_key: Option<String>,
    pub(super) cache: Option<CacheResult>,
    /// S3 error code of an answer that came from elsewhere.
    pub(super) code: Option<&'static str>,
    /// Who asks is another worker that can read stripes, if it is told where they are.
    pub(super) reads_stripes: bool,
    /// What it is told, instead of the bytes.
    pub(super) layout: Option<Layout>,
    /// The connection of who asks, if it could come here.
    pub(super) guest: Option<Guest>,
    /// It is to come, instead of the bytes going there.
    pub(super) invited: bool,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            operation: "Refused",
            bucket: None,
            access_key: None,
            cache: None,
            code: None,
            reads_stripes: false,
            layout: None,
            guest: None,
            invited: false,
        }
    }
}

/// A request that was let in and understood, with its body still to come.
pub(super) struct Call<'a, 'b, 'c> {
    pub(super) request: &'a Request,
    pub(super) identity: &'a Identity,
    pub(super) body: Incoming<'b, 'c>,
}

pub(super) type Answer<W> = Result<ServiceAnswer<W>, Refusal>;

impl<W, O> S3Service<W, O>
where
    W: World,
    W::Disk: quickwater_engine::io::Disk<Buffer = PoolBuf> + Clone,
    O: Observer,
{
    pub(super) async fn dispatch(
        &self,
        view: &RequestView<'_>,
        info: &ConnectionInfo,
        body: &mut RequestBody<'_>,
        seen: &mut Seen,
    ) -> Answer<W> {
        let identity = self.identify(view)?;
        seen.access_key.clone_from(&identity.access_key);
        let request = Request::parse(view, &self.config.dialect)?;
        seen.operation = request.operation.name();
        seen.bucket.clone_from(&request.bucket);
        request.check_identity(&identity)?;
        self.forbid(&request)?;
        let asked = (&request, &identity);
        let elsewhere = self.answer_elsewhere(view, info, asked, body, seen).await?;
        if let Some(answer) = elsewhere {
            return Ok(answer);
        }
        let body = Incoming::Client(body);
        let charge = self.charge(&request, &body).await?;
        let call = Call {
            request: &request,
            identity: &identity,
            body,
        };
        let answer = self.perform(call, seen).await?;
        count_document(answer, charge)
    }

    pub(super) fn identify(&self, view: &RequestView<'_>) -> Result<Identity, S3Error> {
        use quickwater_engine::io::Environment;
        let now_ms = self.engine.environment().wall_ms();
        let mut keys = self.signing_keys.borrow_mut();
        authenticate(
            view,
            self.config.policy,
            &self.access_key,
            now_ms,
            &mut keys,
        )
    }

    pub(super) async fn perform(&self, call: Call<'_, '_, '_>, seen: &mut Seen) -> Answer<W> {
        let request = call.request;
        match &request.operation {
            Operation::ListBuckets(query) => self.list_buckets(query).await,
            Operation::CreateBucket => self.create_bucket(call).await,
            Operation::HeadBucket => self.head_bucket(request).await,
            Operation::DeleteBucket => self.delete_bucket(request).await,
            Operation::GetBucketLocation
            | Operation::GetBucketVersioning
            | Operation::GetBucketAcl
            | Operation::GetBucketDefault(_)
            | Operation::GetAbsentConfiguration(_)
            | Operation::DeleteAbsentConfiguration => self.bucket_configuration(request).await,
            Operation::GetBucketTagging
            | Operation::PutBucketTagging
            | Operation::DeleteBucketTagging => self.bucket_tagging(call).await,
            Operation::ListObjects(query) => self.list_objects(request, query).await,
            Operation::ListObjectsV2(query) => self.list_objects_v2(request, query).await,
            Operation::ListMultipartUploads(query) => self.list_uploads(request, query).await,
            Operation::DeleteObjects => self.delete_objects(call).await,
            Operation::GetObject(read) => self.get_object(request, read, seen).await,
            Operation::HeadObject(read) => self.head_object(request, read).await,
            Operation::PutObject(put) => self.put_object(call, put).await,
            Operation::CopyObject(copy) => self.copy_object(request, copy).await,
            Operation::DeleteObject { condition } => self.delete_object(request, condition).await,
            Operation::GetObjectAcl => self.object_acl(request).await,
            Operation::GetObjectAttributes(query) => self.object_attributes(request, query).await,
            Operation::GetObjectTagging
            | Operation::PutObjectTagging
            | Operation::DeleteObjectTagging => self.object_tagging(call).await,
            Operation::CreateMultipartUpload(new) => self.create_upload(request, new).await,
            Operation::UploadPart { upload, number } => {
                self.upload_part(call, *upload, *number).await
            }
            Operation::UploadPartCopy(copy) => self.upload_part_copy(request, copy).await,
            Operation::CompleteMultipartUpload(complete) => {
                self.complete_upload(call, complete).await
            }
            Operation::AbortMultipartUpload { upload } => self.abort_upload(request, *upload).await,
            Operation::ListParts(query) => self.list_parts(request, query).await,
        }
    }

    /// The bucket a request names.
    pub(super) async fn bucket_of(
        &self,
        request: &Request,
    ) -> Result<std::sync::Arc<quickwater_proto::Bucket>, Refusal> {
        Ok(self.engine.bucket(request.bucket()?).await?)
    }
}

/// No place, no buffer: come back later.
pub(super) fn slow_down() -> S3Error {
    S3ErrorCode::SlowDown.into()
}
