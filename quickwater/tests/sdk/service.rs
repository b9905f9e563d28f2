//! Starts the binary on free ports and makes a client for it.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{BehaviorVersion, Config, Credentials, Region};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use tempfile::TempDir;

/// How long the service may take to be ready.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long one call may take, its body excepted.
const CALL_LIMIT: Duration = Duration::from_secs(60);

/// The bucket every test works in.
pub const BUCKET: &str = "sdk-test";

/// A running service with a directory of its own; killed when dropped.
pub struct Service {
    child: Child,
    dir: TempDir,
    /// Where its S3 endpoint listens.
    pub s3: SocketAddr,
}

impl Service {
    /// Starts a service and waits until it is ready.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_quickwater"))
            .args(["serve", "--s3-listen", "127.0.0.1:0"])
            .args(["--admin-listen", "127.0.0.1:0"])
            .args(["--metrics-listen", "127.0.0.1:0"])
            .args(["--capacity", "256MiB", "--threads", "2"])
            .args(["--memory", "512MiB", "--dir"])
            .arg(dir.path().join("data"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let s3 = SocketAddr::from(([127, 0, 0, 1], 0));
        // Owned by now, so that a failed wait kills it as well.
        let mut service = Self { child, dir, s3 };
        service.s3 = service.wait_ready();
        service
    }

    fn wait_ready(&mut self) -> SocketAddr {
        let run = self.dir.path().join("data/run.json");
        let start = Instant::now();
        loop {
            if let Ok(text) = fs::read_to_string(&run) {
                let run: serde_json::Value = serde_json::from_str(&text).unwrap();
                return run["s3"].as_str().unwrap().parse().unwrap();
            }
            let ended = self.child.try_wait().unwrap();
            if ended.is_some() || start.elapsed() > START_LIMIT {
                let log = fs::read_to_string(self.dir.path().join("log")).unwrap();
                panic!("not ready, exit {ended:?}, log:\n{log}");
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// A client with the defaults of the SDK, except that it repeats nothing:
    /// an answer to repeat would be a finding.
    pub fn client(&self) -> Client {
        let pair = read_pairs(&self.dir.path().join("data/credentials"));
        let (id, secret) = (&pair["access_key_id"], &pair["secret_access_key"]);
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .endpoint_url(format!("http://{}", self.s3))
            .credentials_provider(Credentials::new(id, secret, None, None, "file"))
            .force_path_style(true)
            .retry_config(RetryConfig::disabled())
            .timeout_config(
                TimeoutConfig::builder()
                    .operation_timeout(CALL_LIMIT)
                    .build(),
            );
        Client::from_conf(config.build())
    }

    /// A client, and the bucket made with it.
    pub async fn client_with_bucket(&self) -> Client {
        let client = self.client();
        client.create_bucket().bucket(BUCKET).send().await.unwrap();
        client
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Fails only when it has ended already; the wait then reaps it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_pairs(path: &Path) -> HashMap<String, String> {
    let text = fs::read_to_string(path).unwrap();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs
        .map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned()))
        .collect()
}

/// Bytes that repeat at no power of two, so that a block in a wrong place shows.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// Asserts the bytes are equal, without printing megabytes when they are not.
#[track_caller]
pub fn assert_same(found: &[u8], wanted: &[u8]) {
    assert_eq!(found.len(), wanted.len(), "length");
    let differs = found.iter().zip(wanted).position(|(a, b)| a != b);
    assert_eq!(differs, None, "first byte that differs");
}

/// Asserts the service refused with this status and code.
#[track_caller]
pub fn assert_refused<T, E>(answer: Result<T, SdkError<E>>, status: u16, code: &str)
where
    T: std::fmt::Debug,
    E: ProvideErrorMetadata + std::fmt::Debug,
{
    let error = answer.unwrap_err();
    let found = error.raw_response().map(|r| r.status().as_u16());
    assert_eq!(
        (found, error.code()),
        (Some(status), Some(code)),
        "{error:?}"
    );
}
