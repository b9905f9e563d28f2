//! The calls of the admin service, one after the other.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use quickwater_proto::{Bucket, BucketName, ObjectKey};
use quickwater_rpc::admin::admin_server::Admin;
use quickwater_rpc::admin::{
    ClusterAcceptOlderReply, ClusterAcceptOlderRequest, FsListReply, FsListRequest, FsRemoveReply,
    FsRemoveRequest, FsStatReply, FsStatRequest, GetConfReply, GetConfRequest, JobListReply,
    JobListRequest, JobStartReply, JobStartRequest, JobStatusReply, JobStatusRequest, JobStopReply,
    JobStopRequest, MountAcceptReply, MountAcceptRequest, MountAddReply, MountAddRequest,
    MountListReply, MountListRequest, MountRemoveReply, MountRemoveRequest, NodeDrainReply,
    NodeDrainRequest, NodeLostReply, NodeLostRequest, NodeRemoveReply, NodeRemoveRequest,
    PathConfigCheckReply, PathConfigCheckRequest, PathConfigGetReply, PathConfigGetRequest,
    PathConfigHistoryReply, PathConfigHistoryRequest, PathConfigRollbackRequest,
    PathConfigSetReply, PathConfigSetRequest, PathConfigTestReply, PathConfigTestRequest,
    PersistListReply, PersistListRequest, PersistRetryReply, PersistRetryRequest, PersistStatReply,
    PersistStatRequest, PersistSumReply, PersistSumRequest, StatusReply, StatusRequest,
};
use tonic::{Request, Response, Status};

use super::persist_rows::RowSum;
use super::views::AdminViews;
use super::{convert, policies, status};
use crate::Namespace;
use crate::jobs::Jobs;
use crate::namespace::NewMount;
use crate::store::Store;

/// Longest a call waits for the UFS or for a listing.
const VIEW_WAIT_MAX: Duration = Duration::from_secs(60);
/// Most lines in one page of a listing.
pub(super) const PAGE_LINES_MAX: u32 = 1_000;

/// The admin service of `admin.proto`.
#[derive(Clone)]
pub struct AdminService<S> {
    pub(super) namespace: Namespace<S>,
    pub(super) jobs: Jobs<S>,
    pub(crate) views: AdminViews,
    /// The last sum over rows of the metadata, shared by all calls.
    pub(super) row_sum: Arc<tokio::sync::Mutex<Option<RowSum>>>,
}

impl<S: Store> AdminService<S> {
    pub(super) fn new(namespace: Namespace<S>, jobs: Jobs<S>, views: AdminViews) -> Self {
        Self {
            namespace,
            jobs,
            views,
            row_sum: Arc::default(),
        }
    }

    pub(super) async fn bucket(&self, name: &str) -> Result<Bucket, Status> {
        let name = BucketName::new(name).map_err(status::invalid_name)?;
        let bucket = self
            .namespace
            .bucket(&name)
            .await
            .map_err(status::metadata)?;
        bucket.ok_or_else(|| Status::not_found(format!("no bucket '{name}'")))
    }

    fn new_mount(&self, request: MountAddRequest) -> Result<NewMount, Status> {
        let mut options: Vec<_> = request.options.into_iter().collect();
        options.sort_unstable();
        let ttl = request.metadata_ttl_ms;
        Ok(NewMount {
            name: BucketName::new(&request.bucket).map_err(status::invalid_name)?,
            uri: request.uri,
            options,
            metadata_ttl_ms: ttl.unwrap_or_else(|| self.views.node.default_metadata_ttl_ms()),
        })
    }
}

#[tonic::async_trait]
impl<S: Store> Admin for AdminService<S> {
    async fn mount_add(
        &self,
        request: Request<MountAddRequest>,
    ) -> Result<Response<MountAddReply>, Status> {
        let new = self.new_mount(request.into_inner())?;
        let bucket = self
            .namespace
            .check_mount(new)
            .await
            .map_err(status::mount)?;
        let note = bounded(self.views.mounts.check(&bucket))
            .await?
            .map_err(status::ufs)?;
        let mounted = self
            .namespace
            .add_mount(&bucket)
            .await
            .map_err(status::mount)?;
        self.views.node.mounts_changed();
        Ok(Response::new(MountAddReply {
            mount: Some(convert::mount(mounted, None)),
            note,
        }))
    }

    async fn mount_list(
        &self,
        _: Request<MountListRequest>,
    ) -> Result<Response<MountListReply>, Status> {
        let buckets = self.namespace.buckets().await.map_err(status::metadata)?;
        let troubles = self.views.mounts.troubles(&buckets).await;
        let shown = buckets.into_iter().zip(troubles);
        let mounts = shown.map(|(bucket, trouble)| convert::mount(bucket, trouble));
        Ok(Response::new(MountListReply {
            mounts: mounts.collect(),
        }))
    }

    async fn mount_remove(
        &self,
        request: Request<MountRemoveRequest>,
    ) -> Result<Response<MountRemoveReply>, Status> {
        let name = request.into_inner().bucket;
        let name = BucketName::new(&name).map_err(status::invalid_name)?;
        self.namespace
            .remove_mount(&name)
            .await
            .map_err(status::mount)?;
        self.views.node.mounts_changed();
        Ok(Response::new(MountRemoveReply {}))
    }

    async fn mount_accept(
        &self,
        request: Request<MountAcceptRequest>,
    ) -> Result<Response<MountAcceptReply>, Status> {
        let bucket = self.bucket(&request.into_inner().bucket).await?;
        let accepted = bounded(self.views.mounts.accept(&bucket)).await?;
        accepted.map_err(status::ufs)?;
        tracing::info!(bucket = %bucket.name, ufs = bucket.ufs, "the directory was accepted");
        Ok(Response::new(MountAcceptReply {}))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        let buckets = self.namespace.buckets().await.map_err(status::metadata)?;
        let node = &self.views.node;
        let troubles = self.views.mounts.troubles(&buckets).await;
        Ok(Response::new(StatusReply {
            version: node.version(),
            uptime_ms: u64::try_from(node.uptime().as_millis()).unwrap_or(u64::MAX),
            nodes: node.nodes(),
            counters: node.counters().into_iter().collect(),
            mounts: buckets.len() as u64,
            troubles: troubles.into_iter().flatten().collect(),
            conditions: node.conditions(),
            refused: self.refused_workers(),
        }))
    }

    async fn fs_list(
        &self,
        request: Request<FsListRequest>,
    ) -> Result<Response<FsListReply>, Status> {
        let request = request.into_inner();
        let bucket = self.bucket(&request.bucket).await?;
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(convert::marker(token).ok_or_else(unknown_token)?),
        };
        let limit = match request.page_size {
            0 => PAGE_LINES_MAX,
            size => size.min(PAGE_LINES_MAX),
        };
        let (prefix, delimiter) = (&request.prefix, &request.delimiter);
        let files = &self.views.files;
        let listing = files.list(&bucket, prefix, delimiter, after.as_ref(), limit as usize);
        let mut page = bounded(listing).await?.map_err(status::metadata)?;
        self.show_running(bucket.id, &mut page.entries);
        Ok(Response::new(FsListReply {
            entries: page.entries.into_iter().map(convert::line).collect(),
            next_page_token: convert::page_token(page.next),
        }))
    }

    async fn fs_stat(
        &self,
        request: Request<FsStatRequest>,
    ) -> Result<Response<FsStatReply>, Status> {
        let request = request.into_inner();
        let bucket = self.bucket(&request.bucket).await?;
        let key = ObjectKey::new(&request.key).map_err(status::invalid_name)?;
        let found = bounded(self.views.files.stat(&bucket, &key)).await?;
        let mut record = found
            .map_err(status::metadata)?
            .ok_or_else(|| Status::not_found(format!("no object '{key}'")))?;
        record.persist = self.persist_state(bucket.id, &key, record.persist);
        Ok(Response::new(convert::stat(&key, record)))
    }

    async fn get_conf(
        &self,
        request: Request<GetConfRequest>,
    ) -> Result<Response<GetConfReply>, Status> {
        let GetConfRequest { key, defaults } = request.into_inner();
        let mut settings = self.views.node.settings(defaults);
        if !key.is_empty() {
            settings.retain(|setting| setting.key == key);
            if settings.is_empty() {
                return Err(Status::not_found(format!("no setting '{key}'")));
            }
        }
        settings.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Response::new(GetConfReply { settings }))
    }

    async fn path_config_get(
        &self,
        request: Request<PathConfigGetRequest>,
    ) -> Result<Response<PathConfigGetReply>, Status> {
        let stored = self.policies(request.into_inner().version).await;
        let stored = stored.map_err(status::policy)?;
        Ok(Response::new(policies::stored(stored)))
    }

    async fn path_config_check(
        &self,
        request: Request<PathConfigCheckRequest>,
    ) -> Result<Response<PathConfigCheckReply>, Status> {
        let checked = self.check_policies(&request.into_inner().document).await;
        Ok(Response::new(checked.map_err(status::metadata)?))
    }

    async fn path_config_set(
        &self,
        request: Request<PathConfigSetRequest>,
    ) -> Result<Response<PathConfigSetReply>, Status> {
        let from = request.remote_addr();
        let request = request.into_inner();
        let by = policies::by(&request.by, from);
        let set = self.set_policies(&request.document, request.expected_version, &by);
        let set = set.await.map_err(status::policy)?;
        Ok(Response::new(policies::set(set)))
    }

    async fn path_config_test(
        &self,
        request: Request<PathConfigTestRequest>,
    ) -> Result<Response<PathConfigTestReply>, Status> {
        let request = request.into_inner();
        let path = policies::Subject::parse(&request.path).map_err(Status::invalid_argument)?;
        let tested = self.test_policies(&path, &request.document).await;
        Ok(Response::new(tested.map_err(status::policy)?))
    }

    async fn path_config_history(
        &self,
        _: Request<PathConfigHistoryRequest>,
    ) -> Result<Response<PathConfigHistoryReply>, Status> {
        let history = self.namespace.policy_history().await;
        let versions = history.map_err(status::metadata)?.into_iter();
        let versions = versions.map(policies::origin).collect();
        Ok(Response::new(PathConfigHistoryReply { versions }))
    }

    async fn path_config_rollback(
        &self,
        request: Request<PathConfigRollbackRequest>,
    ) -> Result<Response<PathConfigSetReply>, Status> {
        let from = request.remote_addr();
        let request = request.into_inner();
        let by = policies::by(&request.by, from);
        let set = self.rollback_policies(request.version, request.expected_version, &by);
        let set = set.await.map_err(status::policy)?;
        Ok(Response::new(policies::set(set)))
    }

    async fn persist_list(
        &self,
        request: Request<PersistListRequest>,
    ) -> Result<Response<PersistListReply>, Status> {
        let listed = self.list_pending(request.into_inner()).await;
        listed.map(Response::new)
    }

    async fn persist_stat(
        &self,
        request: Request<PersistStatRequest>,
    ) -> Result<Response<PersistStatReply>, Status> {
        let found = bounded(self.stat_pending(request.into_inner())).await?;
        found.map(Response::new)
    }

    async fn persist_retry(
        &self,
        request: Request<PersistRetryRequest>,
    ) -> Result<Response<PersistRetryReply>, Status> {
        let retried = self.retry_pending(request.into_inner()).await;
        retried.map(Response::new)
    }

    async fn persist_sum(
        &self,
        request: Request<PersistSumRequest>,
    ) -> Result<Response<PersistSumReply>, Status> {
        let summed = self.sum_pending(request.into_inner()).await;
        summed.map(Response::new)
    }

    async fn job_start(
        &self,
        request: Request<JobStartRequest>,
    ) -> Result<Response<JobStartReply>, Status> {
        let started = self.start_job(request.into_inner()).await;
        started.map(Response::new)
    }

    async fn job_list(
        &self,
        request: Request<JobListRequest>,
    ) -> Result<Response<JobListReply>, Status> {
        let listed = self.list_jobs(request.into_inner()).await;
        listed.map(Response::new)
    }

    async fn job_status(
        &self,
        request: Request<JobStatusRequest>,
    ) -> Result<Response<JobStatusReply>, Status> {
        let job = self.job_status(request.into_inner().id).await?;
        Ok(Response::new(JobStatusReply { job }))
    }

    async fn job_stop(
        &self,
        request: Request<JobStopRequest>,
    ) -> Result<Response<JobStopReply>, Status> {
        let job = self.stop_job(request.into_inner().id).await?;
        Ok(Response::new(JobStopReply { job }))
    }

    async fn fs_remove(
        &self,
        request: Request<FsRemoveRequest>,
    ) -> Result<Response<FsRemoveReply>, Status> {
        let removed = bounded(self.remove_object(request.into_inner())).await?;
        removed.map(Response::new)
    }

    async fn node_drain(
        &self,
        request: Request<NodeDrainRequest>,
    ) -> Result<Response<NodeDrainReply>, Status> {
        let drained = self.drain_node(request.into_inner()).await;
        drained.map(Response::new)
    }

    async fn node_remove(
        &self,
        request: Request<NodeRemoveRequest>,
    ) -> Result<Response<NodeRemoveReply>, Status> {
        let removed = self.remove_node(request.into_inner()).await;
        removed.map(Response::new)
    }

    async fn node_lost(
        &self,
        request: Request<NodeLostRequest>,
    ) -> Result<Response<NodeLostReply>, Status> {
        let lost = bounded(self.lost_objects(request.into_inner())).await?;
        lost.map(Response::new)
    }

    async fn cluster_accept_older(
        &self,
        request: Request<ClusterAcceptOlderRequest>,
    ) -> Result<Response<ClusterAcceptOlderReply>, Status> {
        let accepted = self.accept_older(request.into_inner()).await;
        accepted.map(Response::new)
    }
}

pub(super) fn unknown_token() -> Status {
    Status::invalid_argument("the page token is not from a page before")
}

pub(super) async fn bounded<T>(view: impl Future<Output = T>) -> Result<T, Status> {
    let answer = tokio::time::timeout(VIEW_WAIT_MAX, view).await;
    answer.map_err(|_| Status::deadline_exceeded("no answer within 60 seconds"))
}
