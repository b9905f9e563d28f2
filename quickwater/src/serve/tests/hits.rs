//! Hits: what they allocate, and that the short way answers as the long one does.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::TempDir;

use super::super::{Service, control_runtime, start};
use super::allocations::of_threads_named;
use super::client::{Answer, Connection, request, signed};
use crate::home::{Credentials, Home};
use crate::settings::layers::Source;
use crate::settings::{Settings, keys, load};

/// Requests measured together.
const BURST: u64 = 50;
/// A timer of the shard, or the second after which the bucket's row is read again,
/// may fall into a burst; one burst of these has neither.
const BURSTS: usize = 50;

/// One at a time: threads are told apart by name.
static ALONE: Mutex<()> = Mutex::new(());

struct World {
    _alone: MutexGuard<'static, ()>,
    _dir: TempDir,
    runtime: tokio::runtime::Runtime,
    service: Option<Service>,
    credentials: Credentials,
}

impl World {
    /// A service of one thread over a directory with a bucket of small objects.
    fn start(ram_tier: &str) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir().unwrap();
        let bucket = dir.path().join("ufs/bucket");
        std::fs::create_dir_all(&bucket).unwrap();
        for (name, size) in [
            ("small", 10 << 10),
            ("one", 1),
            ("large", 200_000),
            ("empty", 0),
        ] {
            std::fs::write(bucket.join(name), content(size)).unwrap();
        }
        let flags = [
            ("dir", dir.path().join("data").display().to_string()),
            ("s3.listen", "127.0.0.1:0".into()),
            ("admin.listen", "127.0.0.1:0".into()),
            ("metrics.listen", "127.0.0.1:0".into()),
            ("store.threads", "1".into()),
            ("store.capacity", "64MiB".into()),
            ("store.ram_tier", ram_tier.into()),
            ("memory", "256MiB".into()),
            ("s3.anonymous", "true".into()),
            ("metadata_ttl", "never".into()),
            (
                "ufs.uri",
                format!("file://{}", dir.path().join("ufs").display()),
            ),
        ];
        let layer = flags.map(|(name, text)| {
            let key = keys::find(name).unwrap();
            (key, vec![text], Source::Flag(key.flag.into()))
        });
        let values = load(None, layer.to_vec(), std::iter::empty()).unwrap();
        let settings = Settings::from_values(&values).unwrap();
        let home = Home::open(&settings.dir).unwrap();
        let credentials = Credentials::load_or_make(home.dir(), |_| None).unwrap();
        let runtime = control_runtime(1).unwrap();
        let service = start(&runtime, &home, &settings, &values, &credentials).unwrap();
        Self {
            _alone: alone,
            _dir: dir,
            runtime,
            service: Some(service),
            credentials,
        }
    }

    fn connect(&self) -> Connection {
        Connection::open(self.service.as_ref().unwrap().data_plane.address)
    }

    /// Fewest allocations of the shard for a burst of one request.
    fn allocations(&self, request: &[u8]) -> u64 {
        let mut connection = self.connect();
        for _ in 0..BURST {
            assert_eq!(connection.exchange(request).status, 200);
        }
        let burst = |_| {
            let before = of_threads_named("shard-0");
            assert!(before > 0, "the shard's thread was not found");
            for _ in 0..BURST {
                connection.exchange(request);
            }
            of_threads_named("shard-0") - before
        };
        (0..BURSTS).map(burst).min().unwrap_or(u64::MAX)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let grace = std::time::Duration::from_secs(5);
        if let Some(service) = self.service.take() {
            assert!(service.stop(&self.runtime, grace) || std::thread::panicking());
        }
        let _inside = self.runtime.enter();
    }
}

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at * 31 % 251) as u8).collect()
}

#[test]
fn a_hit_in_memory_allocates_nothing() {
    let world = World::start("16MiB");
    let plain = request("GET", "/bucket/small", &[]);
    assert_eq!(world.allocations(&plain), 0, "anonymous");
    let checksums = [("x-amz-checksum-mode", "ENABLED"), ("User-Agent", "Boto3")];
    let checksums = request("GET", "/bucket/small", &checksums);
    assert_eq!(world.allocations(&checksums), 0, "with checksums");
    let head = request("HEAD", "/bucket/large", &[]);
    assert_eq!(world.allocations(&head), 0, "HEAD");
    let signed = signed(
        "GET",
        "/bucket/small",
        &world.credentials,
        &[("x-amz-checksum-mode", "ENABLED")],
    );
    assert_eq!(world.allocations(&signed), 0, "signed");
}

/// The operation: it outlives a caller that is dropped while the kernel still
/// writes to the buffer. The keeper of all reads may begin and count time beside it.
#[test]
fn a_hit_on_disk_allocates_for_its_read_only() {
    let world = World::start("0");
    let plain = request("GET", "/bucket/small", &[]);
    let each = world.allocations(&plain) as f64 / BURST as f64;
    assert!(each < 1.5, "{each} allocations a request");
}

/// The same request on the short way, and with a header that sends it the long
/// way without meaning anything.
fn both_ways(world: &World, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut connection = world.connect();
    let short = request(method, path, headers);
    // Into every memory there is.
    connection.exchange(&short);
    let short = connection.exchange(&short);
    let mut more = headers.to_vec();
    more.push(("x-custom", "1"));
    let long = connection.exchange(&request(method, path, &more));
    if short.status < 300 {
        assert_eq!(short, long, "{method} {path} {headers:?}");
    } else {
        // Documents of errors name the request.
        assert_eq!(short.lines, long.lines, "{method} {path} {headers:?}");
    }
    short
}

#[test]
fn both_ways_of_answering_give_the_same() {
    let world = World::start("16MiB");
    let mut writer = world.connect();
    let put = [
        ("Content-Length", "5"),
        ("Content-Type", "text/plain"),
        ("Cache-Control", "max-age=60"),
        ("x-amz-meta-color", "blue"),
        ("x-amz-tagging", "a=b&c=d"),
        (
            "x-amz-checksum-sha256",
            "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=",
        ),
    ];
    let mut whole = request("PUT", "/bucket/rich", &put);
    whole.extend_from_slice(b"hello");
    assert_eq!(writer.exchange(&whole).status, 200);
    for key in ["rich", "small", "one", "large", "empty"] {
        let path = format!("/bucket/{key}");
        for headers in [&[][..], &[("x-amz-checksum-mode", "ENABLED")]] {
            assert_eq!(both_ways(&world, "GET", &path, headers).status, 200);
            assert_eq!(both_ways(&world, "HEAD", &path, headers).status, 200);
        }
    }
    for path in [
        "/bucket/absent",
        "/nobucket/small",
        "/bucket/",
        "/bucket//small",
    ] {
        both_ways(&world, "GET", path, &[]);
    }
    let rich = both_ways(
        &world,
        "GET",
        "/bucket/rich",
        &[("x-amz-checksum-mode", "ENABLED")],
    );
    assert_eq!(rich.body, b"hello");
    for line in [
        "Content-Type: text/plain",
        "x-amz-meta-color: blue",
        "x-amz-tagging-count: 2",
    ] {
        assert!(rich.lines.iter().any(|l| l == line), "{line}: {rich:?}");
    }
}

#[test]
fn a_hit_is_never_older_than_the_last_write() {
    let world = World::start("16MiB");
    let (mut writer, mut reader) = (world.connect(), world.connect());
    let get = request("GET", "/bucket/changing", &[]);
    for round in 0..50u32 {
        let body = format!("round {round}");
        let length = body.len().to_string();
        let mut put = request("PUT", "/bucket/changing", &[("Content-Length", &length)]);
        put.extend_from_slice(body.as_bytes());
        assert_eq!(writer.exchange(&put).status, 200);
        for _ in 0..3 {
            assert_eq!(reader.exchange(&get).body, body.as_bytes());
        }
        if round % 10 == 9 {
            let delete = request("DELETE", "/bucket/changing", &[]);
            assert_eq!(writer.exchange(&delete).status, 204);
            assert_eq!(reader.exchange(&get).status, 404);
        }
    }
}

#[test]
fn a_wrong_signature_is_refused_however_hot_the_object_is() {
    let world = World::start("16MiB");
    let mut connection = world.connect();
    let good = signed("GET", "/bucket/small", &world.credentials, &[]);
    for _ in 0..10 {
        assert_eq!(connection.exchange(&good).status, 200);
    }
    let text = String::from_utf8(good).unwrap();
    let (front, signature) = text.rsplit_once("Signature=").unwrap();
    let flipped = if signature.starts_with('0') { "1" } else { "0" };
    let bad = format!("{front}Signature={flipped}{}", &signature[1..]);
    assert_eq!(connection.exchange(bad.as_bytes()).status, 403);
    let other = text.replace("/bucket/small", "/bucket/one");
    assert_eq!(connection.exchange(other.as_bytes()).status, 403);
    let added = text.replace(
        "Host: test\r\n",
        "Host: test\r\nx-amz-checksum-mode: ENABLED\r\n",
    );
    assert_eq!(connection.exchange(added.as_bytes()).status, 403);
}
