//! Tests of the admin service over a loopback connection.

mod jobs;
mod persist;
mod policies;
mod rest;
mod status_page;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quickwater_proto::{
    BlobId, Bucket, BucketId, BucketName, Checksum, ChecksumAlgorithm, ChecksumKind, ETag, Extent,
    ObjectHeaders, ObjectKey, ObjectRecord, PersistState, PolicyMode, PolicyTable, PutCondition,
    UfsError, UfsErrorKind, Version,
};
use quickwater_rpc::admin::admin_client::AdminClient;
use quickwater_rpc::admin::{
    FsListRequest, FsStatRequest, GetConfRequest, MountAcceptRequest, MountAddRequest,
    MountListRequest, MountRemoveRequest, Node, Setting, StatusRequest,
};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Status};

use super::*;
use crate::cluster::History;
use crate::store::EmbeddedStore;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

#[derive(Default)]
struct World {
    pending: persist::Queue,
    /// A cluster before its first worker.
    workerless: AtomicBool,
    /// What its workers told.
    history: Mutex<Option<History>>,
    mount_changes: AtomicUsize,
    accepted: Mutex<Vec<String>>,
    policies: Mutex<(u64, PolicyTable)>,
}

impl NodeView for World {
    fn version(&self) -> String {
        "1.2.3".into()
    }
    fn uptime(&self) -> Duration {
        Duration::from_millis(1_500)
    }
    fn nodes(&self) -> Vec<Node> {
        if self.workerless.load(Ordering::Relaxed) {
            return Vec::new();
        }
        vec![Node {
            name: "n1".into(),
            state: "ready".into(),
            ..Node::default()
        }]
    }
    fn history(&self) -> Option<History> {
        self.history.lock().unwrap().clone()
    }
    fn counters(&self) -> Vec<(String, f64)> {
        vec![("requests_total".into(), 3.0)]
    }
    fn settings(&self, defaults: bool) -> Vec<Setting> {
        let value = if defaults { "10s" } else { "1s" };
        let setting = |key: &str| Setting {
            key: key.into(),
            value: value.into(),
            source: "flag".into(),
        };
        vec![setting("metadata_ttl"), setting("dir")]
    }
    fn default_metadata_ttl_ms(&self) -> u64 {
        10_000
    }
    fn mounts_changed(&self) {
        self.mount_changes.fetch_add(1, Ordering::Relaxed);
    }
    fn policies_changed(&self, version: u64, table: &PolicyTable) {
        *self.policies.lock().unwrap() = (version, table.clone());
    }
}

#[tonic::async_trait]
impl MountCheck for World {
    async fn check(&self, bucket: &Bucket) -> Result<String, UfsError> {
        match bucket.ufs.contains("missing") {
            true => Err(UfsError::new(UfsErrorKind::NotFound, "no such directory")),
            false => Ok("3 objects".into()),
        }
    }
    async fn accept(&self, bucket: &Bucket) -> Result<(), UfsError> {
        self.accepted.lock().unwrap().push(bucket.name.to_string());
        Ok(())
    }
    async fn troubles(&self, buckets: &[Bucket]) -> Vec<Option<String>> {
        let accepted = self.accepted.lock().unwrap();
        let trouble = |bucket: &Bucket| {
            let odd = bucket.ufs.contains("elsewhere");
            let odd = odd && !accepted.contains(&bucket.name.to_string());
            odd.then(|| format!("{} is elsewhere", bucket.name))
        };
        buckets.iter().map(trouble).collect()
    }
}

type WithToken = fn(Request<()>) -> Result<Request<()>, Status>;
type Client = AdminClient<InterceptedService<Channel, WithToken>>;

fn with_token(mut request: Request<()>) -> Result<Request<()>, Status> {
    let value = format!("Bearer {TOKEN}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    Ok(request)
}

struct Served {
    namespace: Namespace<EmbeddedStore>,
    world: Arc<World>,
    channel: Channel,
    address: SocketAddr,
    server: tokio::task::JoinHandle<()>,
}

impl Served {
    async fn start() -> Self {
        Self::start_with(None).await
    }

    async fn start_with(cluster: Option<Arc<dyn ClusterView>>) -> Self {
        let namespace = Namespace::new(EmbeddedStore::in_memory().unwrap());
        let world = Arc::new(World::default());
        let views = AdminViews {
            node: world.clone(),
            mounts: world.clone(),
            files: Arc::new(namespace.clone()),
            persist: world.clone(),
            cluster,
        };
        let token = AdminToken::new(TOKEN).unwrap();
        let jobs = jobs::start(&namespace);
        let routes = admin_routes(namespace.clone(), jobs.clone(), views, token);
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = incoming.local_addr().unwrap();
        let serving = Server::builder()
            .accept_http1(true)
            .add_routes(routes)
            .serve_with_incoming(incoming);
        let server = tokio::spawn(async move { serving.await.unwrap() });
        let channel = Endpoint::try_from(format!("http://{address}"))
            .unwrap()
            .connect()
            .await
            .unwrap();
        Self {
            namespace,
            world,
            channel,
            address,
            server,
        }
    }

    fn client(&self) -> Client {
        AdminClient::with_interceptor(self.channel.clone(), with_token)
    }

    async fn bucket(&self, name: &str) -> BucketId {
        let bucket = Bucket {
            id: BucketId(0),
            name: BucketName::new(name).unwrap(),
            ufs: format!("file:///ufs/{name}"),
            created_ms: 1,
            metadata_ttl_ms: 1,
            options: Vec::new(),
            tags: Vec::new(),
            owned: true,
        };
        self.namespace.create_bucket(&bucket).await.unwrap().id
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn mount(bucket: &str, uri: &str) -> MountAddRequest {
    MountAddRequest {
        bucket: bucket.into(),
        uri: uri.into(),
        options: HashMap::from([("region".into(), "eu".into())]),
        metadata_ttl_ms: None,
    }
}

fn object() -> ObjectRecord {
    ObjectRecord {
        version: Version(0),
        size: 3,
        etag: ETag::new("tag-1"),
        modified_ms: 77,
        headers: ObjectHeaders {
            content_type: Some("text/plain".into()),
            user: vec![("who".into(), "me".into())],
            ..ObjectHeaders::default()
        },
        checksums: vec![Checksum {
            algorithm: ChecksumAlgorithm::Crc32,
            kind: ChecksumKind::FullObject,
            value: vec![1, 2, 3, 255],
        }],
        tags: Vec::new(),
        extents: vec![Extent {
            blob: BlobId(1),
            size: 3,
        }],
        parts: Vec::new(),
        ufs: None,
        persist: PersistState::Persisted,
        partial: false,
    }
}

#[tokio::test]
async fn every_call_needs_the_token() {
    let served = Served::start().await;
    let mut client = AdminClient::new(served.channel.clone());
    let codes = [
        client
            .mount_add(mount("data", "file:///a"))
            .await
            .map(|_| ()),
        client.mount_list(MountListRequest {}).await.map(|_| ()),
        client
            .mount_remove(MountRemoveRequest::default())
            .await
            .map(|_| ()),
        client.status(StatusRequest {}).await.map(|_| ()),
        client.fs_list(FsListRequest::default()).await.map(|_| ()),
        client.fs_stat(FsStatRequest::default()).await.map(|_| ()),
        client.get_conf(GetConfRequest::default()).await.map(|_| ()),
    ];
    for code in codes {
        assert_eq!(code.unwrap_err().code(), Code::Unauthenticated);
    }
    assert!(served.namespace.buckets().await.unwrap().is_empty());
}

#[tokio::test]
async fn only_the_right_token_will_do() {
    let served = Served::start().await;
    let mut client = AdminClient::new(served.channel.clone());
    let status = async |client: &mut AdminClient<Channel>, value: &str| {
        let mut request = Request::new(StatusRequest {});
        request
            .metadata_mut()
            .insert("authorization", value.parse().unwrap());
        client
            .status(request)
            .await
            .map(|_| ())
            .map_err(|status| status.code())
    };
    let wrong = format!("Bearer {}", TOKEN.replace('f', "e"));
    let short = format!("Bearer {}", &TOKEN[1..]);
    let long = format!("Bearer {TOKEN}0");
    for value in [
        "",
        "Bearer",
        "Bearer ",
        "Basic eDp5",
        TOKEN,
        &wrong,
        &short,
        &long,
    ] {
        assert_eq!(
            status(&mut client, value).await,
            Err(Code::Unauthenticated),
            "{value}"
        );
    }
    assert_eq!(
        status(&mut client, &format!("Bearer {TOKEN}")).await,
        Ok(())
    );
    assert_eq!(
        status(&mut client, &format!("bearer {TOKEN}")).await,
        Ok(())
    );
}

#[test]
fn tokens_are_long_and_never_shown() {
    assert_eq!(AdminToken::new("short").unwrap_err(), WeakToken);
    assert_eq!(AdminToken::new(&"ü".repeat(32)).unwrap_err(), WeakToken);
    assert_eq!(AdminToken::new(&"a b ".repeat(32)).unwrap_err(), WeakToken);
    let token = AdminToken::new(&format!("{TOKEN}\n")).unwrap();
    assert!(!format!("{token:?} {:?}", Authenticator::new(token.clone())).contains("0123"));
}

#[tokio::test]
async fn a_directory_that_is_not_the_right_one_is_shown_until_it_is_accepted() {
    let served = Served::start().await;
    served.bucket("elsewhere").await;
    served.bucket("right").await;
    let mut client = served.client();
    let text = "elsewhere is elsewhere";
    let status = client.status(StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.troubles, [text]);
    let mounts = client.mount_list(MountListRequest {}).await.unwrap();
    let mounts = mounts.into_inner().mounts;
    let troubles: Vec<_> = mounts.iter().map(|mount| mount.trouble.as_str()).collect();
    assert_eq!(troubles, [text, ""]);
    let accept = |bucket: &str| MountAcceptRequest {
        bucket: bucket.into(),
    };
    let refused = client.mount_accept(accept("none")).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    client.mount_accept(accept("elsewhere")).await.unwrap();
    let status = client.status(StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.troubles, [""; 0]);
}

#[tokio::test]
async fn mounts_are_added_listed_and_removed() {
    let served = Served::start().await;
    let mut client = served.client();
    let added = client
        .mount_add(mount("data", "s3://b/p"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(added.note, "3 objects");
    let made = added.mount.unwrap();
    assert_eq!(
        (made.bucket.as_str(), made.uri.as_str()),
        ("data", "s3://b/p")
    );
    assert_eq!((made.metadata_ttl_ms, made.owned), (10_000, false));
    assert_eq!(
        made.options,
        HashMap::from([("region".into(), "eu".into())])
    );

    let listed = client
        .mount_list(MountListRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(listed.mounts, [made]);
    let remove = || MountRemoveRequest {
        bucket: "data".into(),
    };
    client.mount_remove(remove()).await.unwrap();
    let again = client.mount_remove(remove()).await.unwrap_err();
    assert_eq!(again.code(), Code::NotFound);
    assert!(served.world.mount_changes.load(Ordering::Relaxed) >= 2);
}

#[tokio::test]
async fn bad_mounts_are_refused_with_the_right_code() {
    let served = Served::start().await;
    served.bucket("one").await;
    let mut client = served.client();
    let cases = [
        (
            "Bad_Name",
            "file:///a",
            Code::InvalidArgument,
            "bucket name",
        ),
        ("data", "gs://b", Code::InvalidArgument, "file:// or s3://"),
        ("one", "file:///a", Code::AlreadyExists, "exists"),
        (
            "data",
            "file:///ufs/one/in",
            Code::FailedPrecondition,
            "'one'",
        ),
        (
            "data",
            "file:///missing",
            Code::NotFound,
            "no such directory",
        ),
    ];
    for (bucket, uri, code, text) in cases {
        let refused = client.mount_add(mount(bucket, uri)).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused:?}");
        assert!(refused.message().contains(text), "{refused:?}");
    }
    let owned = client
        .mount_remove(MountRemoveRequest {
            bucket: "one".into(),
        })
        .await;
    assert_eq!(owned.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(served.namespace.buckets().await.unwrap().len(), 1);
}

#[tokio::test]
async fn files_are_listed_page_by_page() {
    let served = Served::start().await;
    let id = served.bucket("one").await;
    for text in ["a", "d/1", "d/2", "e"] {
        let key = ObjectKey::new(text).unwrap();
        let none = PutCondition::None;
        served
            .namespace
            .commit_object(id, &key, &object(), &none)
            .await
            .unwrap();
    }
    let mut client = served.client();
    let mut request = FsListRequest {
        bucket: "one".into(),
        delimiter: "/".into(),
        page_size: 1,
        ..FsListRequest::default()
    };
    let mut lines = Vec::new();
    loop {
        let page = client.fs_list(request.clone()).await.unwrap().into_inner();
        lines.extend(
            page.entries
                .into_iter()
                .map(|line| (line.name, line.is_prefix, line.size)),
        );
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let wanted = [("a", false, 3), ("d/", true, 0), ("e", false, 3)];
    assert_eq!(
        lines,
        wanted.map(|(name, prefix, size)| (name.to_owned(), prefix, size))
    );

    request.page_token = "x".into();
    assert_eq!(
        client.fs_list(request).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let nowhere = FsListRequest {
        bucket: "two".into(),
        ..FsListRequest::default()
    };
    assert_eq!(
        client.fs_list(nowhere).await.unwrap_err().code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn a_file_is_shown_in_full() {
    let served = Served::start().await;
    let id = served.bucket("one").await;
    let key = ObjectKey::new("k").unwrap();
    let none = PutCondition::None;
    let done = served
        .namespace
        .commit_object(id, &key, &object(), &none)
        .await
        .unwrap();
    let mut client = served.client();
    let stat = |key: &str| FsStatRequest {
        bucket: "one".into(),
        key: key.into(),
    };
    let reply = client.fs_stat(stat("k")).await.unwrap().into_inner();
    let entry = reply.entry.unwrap();
    assert_eq!(
        (entry.name.as_str(), entry.size, entry.modified_ms),
        ("k", 3, 77)
    );
    assert_eq!(
        (entry.etag.as_str(), reply.content_type.as_str()),
        ("tag-1", "text/plain")
    );
    assert_eq!(reply.user_metadata["who"], "me");
    assert_eq!(reply.checksums["CRC32"], "010203ff");
    assert_eq!(reply.version, format!("{:024x}", done.version.0));
    assert_eq!(reply.persist_state, "PERSISTED");
    assert_eq!(
        client.fs_stat(stat("x")).await.unwrap_err().code(),
        Code::NotFound
    );
    assert_eq!(
        client.fs_stat(stat("")).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn status_and_settings_are_shown() {
    let served = Served::start().await;
    served.bucket("one").await;
    let mut client = served.client();
    let status = client.status(StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(
        (status.version.as_str(), status.uptime_ms, status.mounts),
        ("1.2.3", 1_500, 1)
    );
    assert_eq!(
        (
            status.nodes[0].name.as_str(),
            status.counters["requests_total"]
        ),
        ("n1", 3.0)
    );

    let all = client
        .get_conf(GetConfRequest::default())
        .await
        .unwrap()
        .into_inner();
    let keys: Vec<_> = all
        .settings
        .iter()
        .map(|setting| setting.key.as_str())
        .collect();
    assert_eq!(keys, ["dir", "metadata_ttl"]);
    let one = GetConfRequest {
        key: "metadata_ttl".into(),
        defaults: true,
    };
    let one = client.get_conf(one).await.unwrap().into_inner();
    assert_eq!(
        (one.settings.len(), one.settings[0].value.as_str()),
        (1, "10s")
    );
    let none = GetConfRequest {
        key: "nope".into(),
        defaults: false,
    };
    assert_eq!(
        client.get_conf(none).await.unwrap_err().code(),
        Code::NotFound
    );
}
