//! A real S3 server for the tests: moto, found by QW_MOTO_SERVER or PATH.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Runs the server until its own input ends: with this process, however it ends.
const UNTIL_END_OF_INPUT: &str =
    r#""$0" -H 127.0.0.1 -p "$1" >/dev/null 2>&1 & server=$!; cat; kill $server"#;

/// A running server; ends when dropped or with this process.
pub(super) struct Moto {
    child: Child,
    pub(super) endpoint: String,
    address: String,
}

impl Moto {
    /// `None` (said loudly) when there is no moto server on this machine.
    pub(super) fn start() -> Option<Self> {
        let program = std::env::var("QW_MOTO_SERVER").unwrap_or_else(|_| "moto_server".into());
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script, &program]).stdout(Stdio::null());
            command
        };
        if !shell("command -v \"$0\"")
            .status()
            .is_ok_and(|s| s.success())
        {
            eprintln!("SKIPPED: no S3 server: no {program} (set QW_MOTO_SERVER)");
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let child = shell(UNTIL_END_OF_INPUT)
            .arg(port.to_string())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let address = format!("127.0.0.1:{port}");
        let moto = Self {
            child,
            endpoint: format!("http://{address}"),
            address,
        };
        let begun = Instant::now();
        while TcpStream::connect(&moto.address).is_err() {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "moto does not start"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(moto)
    }

    /// Sends an unsigned request, which moto accepts, and returns the answer.
    pub(super) fn raw(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}",
            self.address
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 2"), "{answer}");
        answer
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
