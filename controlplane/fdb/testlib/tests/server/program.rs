//! The test server as a program: it says where it is, and comes back there.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const START_MAX: Duration = Duration::from_secs(20);

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().expect("it runs");
        self.0.wait().expect("it ends");
    }
}

/// Starts it and waits until it takes connections; its address.
fn start(cluster_file: &Path) -> (Server, String) {
    let program = env!("CARGO_BIN_EXE_quickwater-foundationdb-testserver");
    let server = Server(
        Command::new(program)
            .arg(cluster_file)
            .spawn()
            .expect("started"),
    );
    let began = Instant::now();
    while began.elapsed() < START_MAX {
        let text = std::fs::read_to_string(cluster_file).unwrap_or_default();
        if let Some(address) = text.trim().strip_prefix("test:remote@")
            && TcpStream::connect(address).is_ok()
        {
            return (server, address.to_owned());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the test server does not start");
}

#[test]
fn it_writes_its_cluster_file_and_comes_back_to_its_port() {
    let dir = tempfile::tempdir().expect("a directory");
    let cluster_file = dir.path().join("fdb.cluster");
    let (first, address) = start(&cluster_file);
    drop(first);
    let (_second, again) = start(&cluster_file);
    assert_eq!(address, again);
}

#[test]
fn it_wants_a_file() {
    let program = env!("CARGO_BIN_EXE_quickwater-foundationdb-testserver");
    let status = Command::new(program).status().expect("started");
    assert!(!status.success());
}
