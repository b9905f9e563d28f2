//! A raw HTTP client that hides nothing.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// A response as it came.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self
            .headers
            .iter()
            .filter(|(other, _)| other.eq_ignore_ascii_case(name));
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} twice: {self:?}");
        value
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn closes(&self) -> bool {
        self.header("connection") == Some("close")
    }

    /// Without what differs from one time to the next.
    pub(crate) fn stripped(mut self) -> Reply {
        let id = self.header("x-amz-request-id").unwrap().to_owned();
        self.body = match self.status {
            400.. => self.text().replace(&id, "ID").into_bytes(),
            _ => self.body,
        };
        let volatile = ["date", "x-amz-request-id", "x-amz-id-2"];
        self.headers
            .retain(|(name, _)| !volatile.contains(&name.to_lowercase().as_str()));
        self
    }
}

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let patience = Some(Duration::from_secs(10));
        stream.set_read_timeout(patience).unwrap();
        stream.set_write_timeout(patience).unwrap();
        Client {
            stream,
            buffer: Vec::new(),
        }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.stream.write_all(bytes.as_ref()).unwrap();
        self
    }

    /// As `send`; the server may have gone.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    pub(crate) fn get(&mut self, target: &str) -> Reply {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        self.reply()
    }

    pub(crate) fn end_sending(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Receives more; false at the end.
    fn more(&mut self) -> bool {
        let mut piece = [0; 65_536];
        match self.stream.read(&mut piece) {
            Ok(count) => {
                self.buffer.extend_from_slice(&piece[..count]);
                count > 0
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) if error.kind() == ErrorKind::Interrupted => self.more(),
            Err(error) => panic!("{error}; received {:?}", self.received()),
        }
    }

    fn received(&self) -> String {
        String::from_utf8_lossy(&self.buffer).into_owned()
    }

    pub(crate) fn reply(&mut self) -> Reply {
        self.try_reply(false).expect("a whole reply")
    }

    pub(crate) fn reply_to_head(&mut self) -> Reply {
        self.try_reply(true).expect("a whole reply")
    }

    /// The next reply, or None if the connection ends before it is whole.
    pub(crate) fn try_reply(&mut self, to_head: bool) -> Option<Reply> {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.more() {
                return None;
            }
        };
        let head = String::from_utf8(self.buffer.drain(..end).collect()).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let first = lines.next().unwrap();
        assert!(first.starts_with("HTTP/1.1 "), "{first}");
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").expect(line))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut reply = Reply {
            status: first[9..12].parse().unwrap(),
            headers,
            body: Vec::new(),
        };
        let bodyless = to_head || matches!(reply.status, 100 | 204 | 304);
        let length = reply
            .header("content-length")
            .map(|text| text.parse().unwrap());
        if !bodyless {
            let length: usize = length.expect("Content-Length");
            while self.buffer.len() < length {
                if !self.more() {
                    return None;
                }
            }
            reply.body = self.buffer.drain(..length).collect();
        }
        Some(reply)
    }

    /// What comes in one `read`.
    pub(crate) fn one_read(&mut self) -> Vec<u8> {
        assert!(self.more());
        std::mem::take(&mut self.buffer)
    }

    /// Waits for the server to close; everything received was read before.
    pub(crate) fn assert_closed(&mut self) {
        while self.more() {}
        assert_eq!(self.received(), "");
    }

    /// Nothing comes for a moment and the connection stays open.
    pub(crate) fn assert_quiet(&mut self) {
        assert_eq!(self.received(), "");
        self.stream
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let error = self.stream.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        self.stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
    }
}
