//! Jobs over gRPC.

use quickwater_proto::{JobAction, JobOutcome, LeftAlone};
use quickwater_rpc::admin::{
    FsRemoveRequest, Job, JobListRequest, JobStartRequest, JobStatusRequest, JobStopRequest,
};

use super::*;
use crate::jobs::{JobFailure, JobWorker, JobsConfig, Retry, StopFlag};
use crate::namespace::{JobLimits, PolicyChange};

/// Finds every object gone, but for `there` and `refused`.
struct Toy;

#[tonic::async_trait]
impl JobWorker for Toy {
    async fn compare(
        &self,
        _: &BucketName,
        _: BucketId,
        _: &str,
        _: &StopFlag,
    ) -> Result<(), JobFailure> {
        Ok(())
    }

    async fn act(
        &self,
        _: &BucketName,
        _: BucketId,
        key: &ObjectKey,
        action: JobAction,
        _: &StopFlag,
    ) -> Result<JobOutcome, JobFailure> {
        assert_eq!(action, JobAction::Delete { through: None });
        match key.as_str() {
            "there" => Ok(JobOutcome::Done { bytes: 7 }),
            "refused" => Err(JobFailure {
                message: "READ_ONLY".into(),
                retry: Retry::Final,
            }),
            _ => Ok(JobOutcome::Left(LeftAlone::Gone)),
        }
    }
}

/// Jobs that are kept and never run.
pub(super) fn start(namespace: &Namespace<EmbeddedStore>) -> Jobs<EmbeddedStore> {
    let config = JobsConfig {
        running_max: 1,
        concurrency: 1,
        limits: JobLimits {
            kept_max: 2,
            keep: Duration::from_secs(60),
        },
    };
    Jobs::new(namespace.clone(), Arc::new(Toy), config)
}

fn wish(kind: &str, path: &str) -> JobStartRequest {
    JobStartRequest {
        kind: kind.into(),
        bucket: "data".into(),
        path: path.into(),
        ..JobStartRequest::default()
    }
}

async fn code(client: &mut Client, request: JobStartRequest) -> Code {
    client.job_start(request).await.unwrap_err().code()
}

#[tokio::test]
async fn jobs_are_started_listed_looked_at_and_stopped() {
    let served = Served::start().await;
    served.bucket("data").await;
    let mut client = served.client();
    let mut request = wish("load", "a/b");
    (request.verify, request.skip_if_exists) = (true, true);
    let started = client
        .job_start(request.clone())
        .await
        .unwrap()
        .into_inner();
    let job = started.job.unwrap();
    assert_eq!((job.id, started.existing), (1, false));
    assert_eq!((job.kind.as_str(), job.state.as_str()), ("load", "waiting"));
    assert_eq!((job.bucket.as_str(), job.path.as_str()), ("data", "a/b"));
    assert!(job.verify && job.skip_if_exists && job.found.is_none());
    let again = client.job_start(request).await.unwrap().into_inner();
    assert_eq!((again.job, again.existing), (Some(job.clone()), true));

    client.job_start(wish("delete", "")).await.unwrap();
    let refused = code(&mut client, wish("free", "")).await;
    assert_eq!(refused, Code::ResourceExhausted, "two are kept");
    let list = |state: &str| JobListRequest {
        state: state.into(),
    };
    let listed = client.job_list(list("")).await.unwrap().into_inner().jobs;
    let ids: Vec<u64> = listed.iter().map(|job: &Job| job.id).collect();
    assert_eq!(ids, [2, 1]);
    let none = client.job_list(list("done")).await.unwrap().into_inner();
    assert!(none.jobs.is_empty());
    let wrong = client.job_list(list("lost")).await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);

    let stopped = client.job_stop(JobStopRequest { id: 1 }).await.unwrap();
    assert_eq!(stopped.into_inner().job.unwrap().state, "stopped");
    let status = client.job_status(JobStatusRequest { id: 1 }).await.unwrap();
    let job = status.into_inner().job.unwrap();
    assert_eq!((job.state.as_str(), job.stopping), ("stopped", false));
    for id in [0, 3] {
        let missing = client.job_status(JobStatusRequest { id }).await;
        assert_eq!(missing.unwrap_err().code(), Code::NotFound);
        let missing = client.job_stop(JobStopRequest { id }).await;
        assert_eq!(missing.unwrap_err().code(), Code::NotFound);
    }
}

#[tokio::test]
async fn what_cannot_be_a_job_is_refused() {
    let served = Served::start().await;
    served.bucket("data").await;
    let mut client = served.client();
    let missing = JobStartRequest {
        bucket: "other".into(),
        ..wish("load", "")
    };
    assert_eq!(code(&mut client, missing).await, Code::NotFound);
    let options = JobStartRequest {
        verify: true,
        ..wish("free", "")
    };
    for request in [wish("copy", ""), options, wish("load", &"k".repeat(1_025))] {
        assert_eq!(code(&mut client, request).await, Code::InvalidArgument);
    }
    let text = r#"{"apiVersion":"v1.0","defaultRule":{"policyMode":"WRITE_THROUGH"},
        "pathRules":[{"path":"/data/ro/**","policyMode":"READ_ONLY"},
                     {"path":"/data/nc/**","policyMode":"NO_CACHE"}]}"#;
    let change = PolicyChange {
        by: "test",
        expected: None,
        workers: 1,
    };
    served.namespace.set_policies(text, change).await.unwrap();
    for request in [
        wish("delete", "ro/a"),
        wish("delete", "ro/"),
        wish("load", "nc/a/b"),
        wish("load", "nc/"),
    ] {
        assert_eq!(code(&mut client, request).await, Code::FailedPrecondition);
    }
    client.job_start(wish("load", "ro/")).await.unwrap();
    client.job_start(wish("delete", "nc/")).await.unwrap();
}

#[tokio::test]
async fn one_object_is_removed_and_told_truthfully() {
    let served = Served::start().await;
    served.bucket("data").await;
    let mut client = served.client();
    let remove = |key: &str| FsRemoveRequest {
        bucket: "data".into(),
        key: key.into(),
    };
    let deleted = client.fs_remove(remove("there")).await.unwrap();
    assert!(deleted.into_inner().deleted);
    let deleted = client.fs_remove(remove("not there")).await.unwrap();
    assert!(!deleted.into_inner().deleted);
    let refused = client.fs_remove(remove("refused")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let empty = client.fs_remove(remove("")).await.unwrap_err();
    assert_eq!(empty.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn nothing_of_it_goes_without_the_token() {
    let served = Served::start().await;
    let mut client = AdminClient::new(served.channel.clone());
    let refused = [
        client.job_start(wish("load", "")).await.err(),
        client.job_list(JobListRequest::default()).await.err(),
        client.job_status(JobStatusRequest { id: 1 }).await.err(),
        client.job_stop(JobStopRequest { id: 1 }).await.err(),
        client.fs_remove(FsRemoveRequest::default()).await.err(),
    ];
    for status in refused {
        assert_eq!(status.unwrap().code(), Code::Unauthenticated);
    }
}
