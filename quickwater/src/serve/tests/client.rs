//! Raw requests, signed by the book, and their answers as they came.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::home::Credentials;

/// An answer, without what differs from one to the next.
#[derive(PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Lines of the head but Date and the ids.
    pub(super) lines: Vec<String>,
    pub(super) body: Vec<u8>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} and {} bytes", self.lines, self.body.len())
    }
}

/// A kept connection.
pub(super) struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    pub(super) fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let patience = Some(Duration::from_secs(30));
        stream.set_read_timeout(patience).unwrap();
        Self {
            stream,
            received: Vec::new(),
        }
    }

    pub(super) fn exchange(&mut self, request: &[u8]) -> Answer {
        self.stream.write_all(request).unwrap();
        let end = loop {
            let found = self.received.windows(4).position(|w| w == b"\r\n\r\n");
            match found {
                Some(end) => break end + 4,
                None => self.receive(),
            }
        };
        let head = String::from_utf8(self.received[..end].to_vec()).unwrap();
        let mut lines: Vec<String> = head.lines().map(str::to_owned).collect();
        let status = lines[0].split(' ').nth(1).unwrap().parse().unwrap();
        let length = lines
            .iter()
            .find_map(|line| line.strip_prefix("Content-Length: "));
        let bodyless = request.starts_with(b"HEAD");
        let length = match length {
            Some(length) if !bodyless => length.parse().unwrap(),
            _ => 0,
        };
        while self.received.len() < end + length {
            self.receive();
        }
        let body = self.received[end..end + length].to_vec();
        self.received.drain(..end + length);
        let volatile = ["Date:", "x-amz-request-id:", "x-amz-id-2:"];
        lines.retain(|line| !line.is_empty() && !volatile.iter().any(|v| line.starts_with(v)));
        Answer {
            status,
            lines,
            body,
        }
    }

    fn receive(&mut self) {
        let mut some = [0; 64 << 10];
        let count = self.stream.read(&mut some).unwrap();
        assert!(count > 0, "the connection was closed");
        self.received.extend_from_slice(&some[..count]);
    }
}

/// A request head.
pub(super) fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: test\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.into_bytes()
}

/// A request head signed now (S3: "Authenticating Requests: Using the
/// Authorization Header"); the path must need no escapes.
pub(super) fn signed(
    method: &str,
    path: &str,
    credentials: &Credentials,
    more: &[(&str, &str)],
) -> Vec<u8> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = quickwater_s3::date::AmzDate::new(since.as_millis() as i64);
    let (now, day) = (now.as_str(), &now.as_str()[..8]);
    let mut fields = vec![
        ("host", "test"),
        ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
        ("x-amz-date", now),
    ];
    fields.extend_from_slice(more);
    fields.sort_unstable();
    let lines: String = fields.iter().map(|(n, v)| format!("{n}:{v}\n")).collect();
    let names = fields.iter().map(|(n, _)| *n).collect::<Vec<_>>().join(";");
    let canonical = format!("{method}\n{path}\n\n{lines}\n{names}\nUNSIGNED-PAYLOAD");
    let hash = hex::encode(Sha256::digest(canonical));
    let scope = format!("{day}/us-east-1/s3/aws4_request");
    let to_sign = format!("AWS4-HMAC-SHA256\n{now}\n{scope}\n{hash}");
    let mut key = format!("AWS4{}", credentials.secret_access_key.reveal()).into_bytes();
    for piece in [day, "us-east-1", "s3", "aws4_request", &to_sign] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
        mac.update(piece.as_bytes());
        key = mac.finalize().into_bytes().to_vec();
    }
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={}",
        credentials.access_key_id,
        hex::encode(key)
    );
    fields.retain(|(name, _)| *name != "host");
    fields.push(("authorization", &authorization));
    request(method, path, &fields)
}
