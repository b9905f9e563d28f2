//! A scripted S3 server of a few lines: one fault per server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What the server does with a request once it has read it (or its head).
#[derive(Debug, Clone)]
pub(super) enum Script {
    /// Answers with these bytes, then closes.
    Say(String),
    /// Answers with the head, then sends the body a byte at a time.
    Drip {
        head: String,
        body: Vec<u8>,
        pause: Duration,
    },
    /// Reads and never answers.
    Hang,
    /// Does not even read the body.
    HangBeforeBody,
    /// Closes without an answer.
    Close,
}

/// A server that runs until the process ends; its threads only wait.
#[derive(Debug)]
pub(super) struct Fake {
    pub(super) endpoint: String,
    requests: Arc<AtomicUsize>,
    complete_bodies: Arc<AtomicUsize>,
}

impl Fake {
    pub(super) fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let fake = Self {
            endpoint,
            requests: Arc::default(),
            complete_bodies: Arc::default(),
        };
        let counters = (
            Arc::clone(&fake.requests),
            Arc::clone(&fake.complete_bodies),
        );
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (script, counters) = (script.clone(), counters.clone());
                std::thread::spawn(move || serve(stream.unwrap(), &script, &counters));
            }
        });
        fake
    }

    /// Requests whose head came.
    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Requests whose whole body came.
    pub(super) fn complete_bodies(&self) -> usize {
        self.complete_bodies.load(Ordering::SeqCst)
    }
}

fn serve(mut stream: TcpStream, script: &Script, counters: &(Arc<AtomicUsize>, Arc<AtomicUsize>)) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let line = line.trim().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    counters.0.fetch_add(1, Ordering::SeqCst);
    if matches!(script, Script::HangBeforeBody) {
        std::thread::sleep(Duration::from_secs(3_600));
    }
    let mut body = vec![0; length];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    counters.1.fetch_add(1, Ordering::SeqCst);
    match script {
        Script::Say(text) => {
            let _ = stream.write_all(text.as_bytes());
        }
        Script::Drip { head, body, pause } => {
            let _ = stream.write_all(head.as_bytes());
            for byte in body {
                if stream.write_all(&[*byte]).is_err() {
                    return;
                }
                std::thread::sleep(*pause);
            }
        }
        Script::Hang => std::thread::sleep(Duration::from_secs(3_600)),
        Script::HangBeforeBody | Script::Close => {}
    }
}
