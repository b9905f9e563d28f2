//! A service whose answers are easy to check, and a server around it.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quickwater_peer::Capability;
use quickwater_proto::NodeId;
use quickwater_worker::buffers::{Pool, PoolBuf, PoolConfig};
use quickwater_worker::handoff::{Departure, Parting};
use quickwater_worker::http::*;
use quickwater_worker::listener;
use quickwater_worker::runtime::{self, DriverChoice, RuntimeConfig, Shards, Stop};

const PATIENCE: Duration = Duration::from_secs(5);

/// Byte `index` of every body the toy makes up.
pub(crate) fn pattern(index: u64) -> u8 {
    (index % 251) as u8
}

pub(crate) struct Toy {
    pool: Pool,
    intake: Intake,
}

/// How a made-up body ends.
#[derive(Clone, Copy, PartialEq)]
enum Flaw {
    None,
    Fails,
    Short,
    Long,
    Empty,
}

pub(crate) struct ToyBody {
    pool: Pool,
    sent: u64,
    end: u64,
    piece: u64,
    flaw: Flaw,
}

impl ResponseBody for ToyBody {
    async fn next(&mut self) -> Result<Option<PoolBuf>, BodyAborted> {
        let left = self.end - self.sent;
        if left == 0 {
            return match self.flaw {
                Flaw::Fails => Err(BodyAborted),
                Flaw::Empty => Ok(self.pool.acquire(1, PATIENCE).await.ok()),
                _ => Ok(None),
            };
        }
        let count = left.min(self.piece);
        let mut buffer = self.pool.acquire(count as usize, PATIENCE).await.unwrap();
        let bytes: Vec<u8> = (self.sent..self.sent + count).map(pattern).collect();
        assert_eq!(buffer.append(&bytes), bytes.len());
        self.sent += count;
        Ok(Some(buffer))
    }
}

impl Toy {
    fn stream(&self, length: u64, end: u64, piece: u64, flaw: Flaw) -> Payload<ToyBody> {
        let body = ToyBody {
            pool: self.pool.clone(),
            sent: 0,
            end,
            piece,
            flaw,
        };
        Payload::Stream { length, body }
    }

    /// All of the body, or why not; `most` bytes at a time.
    async fn read_all(
        &self,
        body: &mut RequestBody<'_>,
        most: usize,
    ) -> Result<Vec<u8>, TransportError> {
        let mut all = Vec::new();
        loop {
            let buffer = self.pool.acquire(most, PATIENCE).await.unwrap();
            let (buffer, result) = body.read_into(buffer, most).await;
            let count = result?;
            assert_eq!(buffer.as_slice().len(), count);
            if count == 0 {
                return Ok(all);
            }
            all.extend_from_slice(buffer.as_slice());
        }
    }

    /// As `read_all` through `fill`, a few bytes at a time.
    async fn fill_all(&self, body: &mut RequestBody<'_>) -> Result<Vec<u8>, TransportError> {
        let mut all = Vec::new();
        loop {
            let bytes = body.fill().await?;
            if bytes.is_empty() {
                return Ok(all);
            }
            let count = bytes.len().min(7);
            all.extend_from_slice(&bytes[..count]);
            body.consume(count);
        }
    }

    /// Alternates between both ways of reading, as aws-chunked does.
    async fn mixed(&self, body: &mut RequestBody<'_>) -> Result<Vec<u8>, TransportError> {
        let mut all = Vec::new();
        loop {
            let bytes = body.fill().await?;
            let count = bytes.len().min(5);
            all.extend_from_slice(&bytes[..count]);
            body.consume(count);
            let buffer = self.pool.acquire(100, PATIENCE).await.unwrap();
            let (buffer, result) = body.read_into(buffer, 100).await;
            all.extend_from_slice(buffer.as_slice());
            if result? == 0 {
                return Ok(all);
            }
        }
    }
}

fn plain<B>(status: u16, bytes: impl Into<Bytes>) -> Response<B> {
    Response {
        status,
        headers: b"Content-Type: text/plain\r\n".to_vec(),
        body: Payload::Bytes(bytes.into()),
        close: false,
    }
}

fn echo<B>(result: Result<Vec<u8>, TransportError>) -> Response<B> {
    match result {
        Ok(bytes) => plain(200, bytes),
        Err(error) => plain(400, error.to_string()),
    }
}

fn describe(view: &RequestView<'_>, info: &ConnectionInfo, length: Option<u64>) -> String {
    let mut text = format!("{} {} {length:?}\n", view.method, view.target);
    for header in view.headers {
        text += &format!(
            "{}={}\n",
            header.name,
            String::from_utf8_lossy(header.value)
        );
    }
    text + &format!(
        "id={} {} {}\n",
        info.request_id,
        info.host_id.as_str(),
        info.peer
    )
}

impl Service for Toy {
    type Body = ToyBody;
    type Quick<'s> = NoQuick;

    fn quick(&self, _request: RequestView<'_>, _front: &[u8]) -> Option<NoQuick> {
        None
    }

    async fn call<'a>(
        &'a self,
        request: RequestView<'a>,
        info: &'a ConnectionInfo,
        body: &'a mut RequestBody<'_>,
    ) -> Response<ToyBody> {
        let path = request.target.split('?').next().unwrap();
        let words: Vec<&str> = path[1..].split('/').collect();
        let number = |at: usize| words.get(at).and_then(|w| w.parse().ok()).unwrap_or(0u64);
        let streamed = |body| Response {
            status: 200,
            headers: Vec::new(),
            body,
            close: false,
        };
        match words[0] {
            "view" => plain(200, describe(&request, info, body.length())),
            "echo" => echo(self.read_all(body, 1 << 20).await),
            "fill" => echo(self.fill_all(body).await),
            "mixed" => echo(self.mixed(body).await),
            "ignore" => plain(200, "ignored"),
            "half" => echo(match body.fill().await {
                Ok(bytes) => {
                    let bytes = bytes[..bytes.len().min(3)].to_vec();
                    body.consume(bytes.len());
                    Ok(bytes)
                }
                Err(error) => Err(error),
            }),
            "refuse" => plain(403, "no"),
            "close" => Response {
                close: true,
                ..plain(200, "bye")
            },
            "bytes" => plain(200, (0..number(1)).map(pattern).collect::<Vec<u8>>()),
            "stream" => streamed(self.stream(number(1), number(1), number(2), Flaw::None)),
            "fails" => streamed(self.stream(number(1), number(2), 100, Flaw::Fails)),
            "short" => streamed(self.stream(number(1), number(2), 100, Flaw::Short)),
            "long" => streamed(self.stream(number(1), number(2), 100, Flaw::Long)),
            "empty" => streamed(self.stream(number(1), number(2), 100, Flaw::Empty)),
            "headof" => streamed(Payload::HeadOf(number(1))),
            "304" => Response {
                status: 304,
                ..streamed(Payload::NotModified)
            },
            "204" => Response {
                status: 204,
                ..streamed(Payload::Empty)
            },
            "nothing" => streamed(Payload::Empty),
            "badhead" => Response {
                headers: b"X: no line end".to_vec(),
                ..streamed(Payload::Empty)
            },
            "elsewhere" if info.service.is_some() || words[1] == "again" => {
                let node = NodeId::new(words[1]).unwrap();
                let to = Departure::new(node, [0; 6], Capability::default());
                streamed(Payload::Elsewhere(Box::new(to)))
            }
            "elsewhere" => plain(200, "stayed"),
            "sleep" => {
                monoio::time::sleep(Duration::from_millis(number(1))).await;
                plain(200, "slept")
            }
            _ => plain(404, "what?"),
        }
    }

    fn may_leave(&self, _client: SocketAddr, _service: SocketAddr) -> bool {
        true
    }

    fn hands_over(&self) -> bool {
        true
    }

    /// Where it goes says what comes of it. `round`: it comes in again, with another
    /// request.
    async fn hand_over(
        &self,
        to: &Departure,
        info: &ConnectionInfo,
        socket: OwnedFd,
        unread: &[u8],
    ) -> Parting {
        assert!(unread.starts_with(b"GET /elsewhere/"));
        assert!(info.service.is_some_and(|at| at.ip().is_loopback()));
        match to.node().as_str() {
            "gone" => Parting::Gone,
            "lost" => Parting::Lost,
            "round" => {
                let request = b"GET /view HTTP/1.1\r\nhost: h\r\n\r\n";
                let end = unread.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
                let inbound = [request, &unread[end..]].concat();
                let Some(place) = self.intake.place() else {
                    return Parting::Stayed;
                };
                let arrival = Arrival {
                    socket,
                    peer: info.peer,
                    entry: info.entry.clone(),
                    inbound,
                };
                self.intake.welcome(arrival, place);
                Parting::Gone
            }
            _ => Parting::Stayed,
        }
    }

    fn error_body(&self, status: u16, code: &str, message: &str, info: &ConnectionInfo) -> Bytes {
        let id = info.request_id;
        format!("<Error status={status}><Code>{code}</Code><Message>{message}</Message><RequestId>{id}</RequestId></Error>").into()
    }
}

/// Deadlines long enough not to matter.
pub(crate) fn relaxed() -> HttpConfig {
    HttpConfig {
        linger: Duration::from_millis(500),
        ..HttpConfig::default()
    }
}

/// A running server.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) stats: Arc<HttpStats>,
    pub(crate) limit: Arc<ConnectionLimit>,
    pub(crate) stop: Stop,
    pub(crate) pool: Pool,
    shards: Option<Shards>,
}

impl Running {
    pub(crate) fn start(driver: DriverChoice, config: HttpConfig) -> Running {
        Running::start_limited(driver, config, 1000)
    }

    pub(crate) fn start_limited(driver: DriverChoice, config: HttpConfig, most: usize) -> Running {
        let listeners = listener::bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let stats = Arc::new(HttpStats::default());
        let limit = ConnectionLimit::new(most);
        let stop = Stop::new();
        let pool = Pool::new(PoolConfig::new(32 << 20)).unwrap();
        let mains = listeners
            .sockets
            .into_iter()
            .map(|socket| {
                let (pool, config) = (pool.clone(), config.clone());
                let (limit, stats, stop) = (limit.clone(), stats.clone(), stop.clone());
                move |_| async move {
                    let intake = Intake::default();
                    let server = Server {
                        service: Toy {
                            pool,
                            intake: intake.clone(),
                        },
                        config,
                        limit,
                        stats,
                        load: None,
                        intake,
                        bypass: None,
                    };
                    server.run(vec![Door::plain(socket)], stop).await.unwrap();
                }
            })
            .collect();
        let runtime_config = RuntimeConfig {
            driver,
            ..RuntimeConfig::default()
        };
        let shards = runtime::start(&runtime_config, mains).unwrap();
        Running {
            address: listeners.address,
            stats,
            limit,
            stop,
            pool,
            shards: Some(shards),
        }
    }

    /// Stops it; all shards must end within `most`.
    pub(crate) fn finish(&mut self, most: Duration) {
        self.stop.request();
        if let Some(shards) = self.shards.take() {
            assert_eq!(shards.join(most), Vec::<usize>::new());
        }
    }

    pub(crate) fn count(&self, counter: impl Fn(&HttpStats) -> &AtomicU64) -> u64 {
        counter(&self.stats).load(Ordering::Relaxed)
    }

    /// Waits until a counter has a value.
    pub(crate) fn await_count(&self, value: u64, counter: impl Fn(&HttpStats) -> &AtomicU64) {
        for _ in 0..500 {
            if self.count(&counter) == value {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{value} expected: {:?}", self.stats);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.stop.request();
            return;
        }
        self.finish(Duration::from_secs(10));
        // Nothing leaks: every buffer and every place came back.
        assert_eq!(self.limit.open(), 0);
        assert_eq!(self.count(|s| &s.connections_open), 0);
        let stats = self.pool.available();
        assert_eq!(stats.large_free, stats.large_total, "{stats:?}");
        assert_eq!(stats.small_free, stats.small_total, "{stats:?}");
    }
}

/// Runs a test on both drivers.
pub(crate) fn on_both(config: HttpConfig, test: impl Fn(&mut Running)) {
    for driver in [DriverChoice::Auto, DriverChoice::Epoll] {
        test(&mut Running::start(driver, config.clone()));
    }
}
