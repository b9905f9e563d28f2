//! One HTTP/1.1 request over a bare socket, for presigned URLs.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long the service may leave the socket silent.
const SILENCE_LIMIT: Duration = Duration::from_secs(20);

/// An answer.
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    /// Everything behind the head.
    pub body: Vec<u8>,
}

/// Sends one request, reads until the service closes the connection.
pub fn fetch<'a>(
    service: SocketAddr,
    method: &str,
    uri: &str,
    headers: impl Iterator<Item = (&'a str, &'a str)>,
    body: Option<&[u8]>,
) -> Answer {
    let authority = service.to_string();
    let path = uri
        .strip_prefix("http://")
        .and_then(|rest| rest.strip_prefix(authority.as_str()))
        .unwrap_or_else(|| panic!("not of this service: {uri}"));
    let mut head =
        format!("{method} {path} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n");
    for (name, value) in headers.filter(|(name, _)| !is_ours(name)) {
        head += &format!("{name}: {value}\r\n");
    }
    if let Some(body) = body {
        head += &format!("content-length: {}\r\n", body.len());
    }
    head += "\r\n";
    let mut stream = TcpStream::connect_timeout(&service, SILENCE_LIMIT).unwrap();
    stream.set_read_timeout(Some(SILENCE_LIMIT)).unwrap();
    stream.set_write_timeout(Some(SILENCE_LIMIT)).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.unwrap_or_default()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    parse(&answer)
}

fn is_ours(name: &str) -> bool {
    ["host", "connection", "content-length"]
        .iter()
        .any(|ours| name.eq_ignore_ascii_case(ours))
}

fn parse(answer: &[u8]) -> Answer {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer[end + 4..].to_vec();
    Answer { status, head, body }
}
