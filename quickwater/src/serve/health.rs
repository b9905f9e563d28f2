//! `/metrics`, `/healthz` and `/readyz`: a small HTTP/1.1 server of its own, so
//! that nothing else can use up what it needs. One answer per connection.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use quickwater_worker::metrics::{Metric, Metrics};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use crate::store::MetadataStore;

/// Connections at a time that have not sent a whole head yet, or are told no more than a
/// line. One more pushes out the one that came first: who asks promptly is gone long before.
const CONNECTIONS_MAX: usize = 256;
/// Answers to `/metrics` on their way at a time, besides those. They are larger than what the
/// kernel takes at once, so who reads slowly keeps one for long.
const SCRAPES_MAX: usize = 16;
/// Time for a whole head and a short answer, and then for the answer to `/metrics`.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest request head, bytes.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// Pause after a failed accept (out of descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Media type of the OpenMetrics text format.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Media type of Prometheus' own text format.
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Media type of everything else.
const TEXT: &str = "text/plain; charset=utf-8";

/// Whether the service takes requests.
#[derive(Debug, Clone, Default)]
pub(crate) struct Readiness(Arc<State>);

#[derive(Debug, Default)]
struct State {
    serving: AtomicBool,
    metadata: OnceLock<MetadataStore>,
}

impl Readiness {
    /// Says whether it does.
    pub(crate) fn set(&self, ready: bool) {
        self.0.serving.store(ready, Ordering::Release);
    }

    /// From now on this store must be well, too. Called once.
    pub(crate) fn depend_on(&self, metadata: MetadataStore) {
        self.0.metadata.get_or_init(|| metadata);
    }

    /// Whether it does.
    pub(crate) fn get(&self) -> bool {
        self.0.serving.load(Ordering::Acquire) && !self.is_broken()
    }

    /// The metadata store takes no more commits until a restart.
    pub(crate) fn is_broken(&self) -> bool {
        let metadata = self.0.metadata.get();
        metadata.is_some_and(MetadataStore::has_failed)
    }

    /// Shows it as a metric.
    pub(crate) fn report(&self, metrics: &Metrics) {
        let own = self.clone();
        metrics.collect(move |samples| samples.count(Metric::Ready, &[], u64::from(own.get())));
    }
}

/// Serves until the runtime ends.
pub(crate) async fn serve(listener: TcpListener, metrics: Arc<Metrics>, readiness: Readiness) {
    let desk = Arc::new(Desk {
        metrics,
        readiness,
        scrapes: Arc::new(Semaphore::new(SCRAPES_MAX)),
    });
    // In the order they came.
    let mut open: VecDeque<AbortHandle> = VecDeque::with_capacity(CONNECTIONS_MAX);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the metrics listener cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        make_room(&mut open);
        open.push_back(tokio::spawn(exchange(stream, Arc::clone(&desk))).abort_handle());
        // Nobody is pushed out by a burst before having been looked at.
        tokio::task::yield_now().await;
    }
}

/// Forgets those that have ended; if there are too many still, ends the one that came first.
fn make_room(open: &mut VecDeque<AbortHandle>) {
    if open.len() < CONNECTIONS_MAX {
        return;
    }
    open.retain(|task| !task.is_finished());
    if open.len() >= CONNECTIONS_MAX
        && let Some(first) = open.pop_front()
    {
        first.abort();
    }
}

/// What answers are made of.
struct Desk {
    metrics: Arc<Metrics>,
    readiness: Readiness,
    scrapes: Arc<Semaphore>,
}

async fn exchange(mut stream: TcpStream, desk: Arc<Desk>) {
    // A client that goes away or dawdles is its own problem.
    let _ = tokio::time::timeout(EXCHANGE_TIMEOUT, async {
        let Some(head) = read_head(&mut stream).await? else {
            return Ok(());
        };
        let answer = respond(&head, &desk.readiness);
        let short = match answer {
            Answer::Short(status, body) => reply(&head, status, TEXT, body),
            Answer::Metrics => match Arc::clone(&desk.scrapes).try_acquire_owned() {
                Ok(place) => {
                    let (media, body) = match wants_openmetrics(&head) {
                        true => (OPENMETRICS, desk.metrics.encode()),
                        false => (PLAIN, desk.metrics.encode_plain()),
                    };
                    let all = reply(&head, "200 OK", media, &body);
                    // From here on it does not count among those that are pushed out.
                    tokio::spawn(async move {
                        let _ = tokio::time::timeout(EXCHANGE_TIMEOUT, send(stream, &all)).await;
                        drop(place);
                    });
                    return Ok(());
                }
                Err(_) => reply(&head, UNAVAILABLE, TEXT, "too many scrapes at a time\n"),
            },
        };
        send(stream, &short).await
    })
    .await;
}

async fn send(mut stream: TcpStream, reply: &str) -> std::io::Result<()> {
    stream.write_all(reply.as_bytes()).await?;
    stream.shutdown().await
}

fn reply(head: &str, status: &str, media: &str, body: &str) -> String {
    let length = body.len();
    let mut reply = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {media}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    if !head.starts_with("HEAD ") {
        reply.push_str(body);
    }
    reply
}

/// The request head as text, `None` when the client ended first. What is too
/// long is cut and answered as a bad request.
async fn read_head(stream: &mut TcpStream) -> std::io::Result<Option<String>> {
    let mut head = Vec::with_capacity(1024);
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        if head.len() >= HEAD_BYTES_MAX {
            return Ok(Some(String::new()));
        }
        let mut piece = [0u8; 1024];
        let read = stream.read(&mut piece).await?;
        if read == 0 {
            return Ok(None);
        }
        head.extend_from_slice(&piece[..read]);
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

const UNAVAILABLE: &str = "503 Service Unavailable";

enum Answer {
    /// Status and body.
    Short(&'static str, &'static str),
    Metrics,
}

fn respond(head: &str, readiness: &Readiness) -> Answer {
    let line = head.lines().next().unwrap_or_default();
    let mut words = line.split(' ');
    let (method, target) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    if !words
        .next()
        .is_some_and(|version| version.starts_with("HTTP/1."))
    {
        return Answer::Short("400 Bad Request", "bad request\n");
    }
    if method != "GET" && method != "HEAD" {
        return Answer::Short("405 Method Not Allowed", "use GET\n");
    }
    match target.split('?').next().unwrap_or_default() {
        "/metrics" => Answer::Metrics,
        "/healthz" => Answer::Short("200 OK", "ok\n"),
        "/readyz" if readiness.get() => Answer::Short("200 OK", "ready\n"),
        "/readyz" if readiness.is_broken() => Answer::Short(
            UNAVAILABLE,
            "not ready: the metadata store failed to write; restart when the disk is well\n",
        ),
        "/readyz" => Answer::Short(UNAVAILABLE, "not ready\n"),
        _ => Answer::Short("404 Not Found", "here are /metrics, /healthz and /readyz\n"),
    }
}

/// Whether `Accept` names OpenMetrics, and prefers it to plain text or likes both as well. What
/// does not name it, as `*/*`, gets what every reader of metrics understands.
fn wants_openmetrics(head: &str) -> bool {
    let (mut openmetrics, mut plain) = (0.0_f32, 0.0_f32);
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let accepted = fields.filter(|(name, _)| name.eq_ignore_ascii_case("accept"));
    for range in accepted.flat_map(|(_, value)| value.split(',')) {
        let mut parameters = range.split(';').map(str::trim);
        let media = parameters.next().unwrap_or_default();
        let quality = parameters
            .find_map(|p| p.strip_prefix("q=").or_else(|| p.strip_prefix("Q=")))
            .map_or(1.0, |quality| quality.parse().unwrap_or(0.0));
        if media.eq_ignore_ascii_case("application/openmetrics-text") {
            openmetrics = openmetrics.max(quality);
        } else if media.eq_ignore_ascii_case("text/plain") {
            plain = plain.max(quality);
        }
    }
    openmetrics > 0.0 && openmetrics >= plain
}

#[cfg(test)]
mod tests {
    use quickwater_controlplane::store::{
        Batch, Durability, EmbeddedStore, Engine, EngineError, MemoryEngine, Snapshot, Store,
        Transaction,
    };

    use super::*;

    async fn start() -> (std::net::SocketAddr, Readiness) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let readiness = Readiness::default();
        let metrics = Arc::new(Metrics::new());
        readiness.report(&metrics);
        tokio::spawn(serve(listener, metrics, readiness.clone()));
        (address, readiness)
    }

    async fn ask(address: std::net::SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        reply
    }

    #[tokio::test]
    async fn health_readiness_and_metrics_answer() {
        let (address, readiness) = start().await;
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(
            ask(address, &get("/healthz"))
                .await
                .starts_with("HTTP/1.1 200 OK")
        );
        assert!(
            ask(address, &get("/readyz"))
                .await
                .starts_with("HTTP/1.1 503 ")
        );
        assert!(
            ask(address, &get("/metrics"))
                .await
                .contains("\nquickwater_ready 0\n")
        );
        readiness.set(true);
        assert!(
            ask(address, &get("/readyz"))
                .await
                .starts_with("HTTP/1.1 200 OK")
        );
        let metrics = ask(address, &get("/metrics")).await;
        assert!(metrics.contains("\nquickwater_ready 1\n"));
        let head = ask(address, "HEAD /metrics HTTP/1.0\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 OK") && head.ends_with("\r\n\r\n"));
    }

    #[tokio::test]
    async fn metrics_are_told_in_the_format_that_is_asked_for() {
        const BOTH: &str = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.1";
        let (address, _) = start().await;
        for (accept, is_openmetrics) in [
            (format!("Accept: {BOTH}\r\n"), true),
            ("accept: application/openmetrics-text\r\n".into(), true),
            (
                "Accept: text/plain;q=0.2\r\nACCEPT: Application/OpenMetrics-Text; q=0.2\r\n"
                    .into(),
                true,
            ),
            (String::new(), false),
            ("Accept: */*\r\n".into(), false),
            ("Accept: text/plain;version=0.0.4\r\n".into(), false),
            (
                "Accept: application/openmetrics-text;q=0.3,text/plain\r\n".into(),
                false,
            ),
            (
                "Accept: application/openmetrics-text; q=0\r\n".into(),
                false,
            ),
            ("Accept: application/openmetrics-text;q=x\r\n".into(), false),
            ("X-Accept: application/openmetrics-text\r\n".into(), false),
        ] {
            let reply = ask(address, &format!("GET /metrics HTTP/1.1\r\n{accept}\r\n")).await;
            let media = if is_openmetrics { OPENMETRICS } else { PLAIN };
            assert!(
                reply.contains(&format!("\r\nContent-Type: {media}\r\n")),
                "{accept}"
            );
            assert_eq!(reply.ends_with("# EOF\n"), is_openmetrics, "{accept}");
            let counter = "\n# TYPE process_cpu_seconds_total counter\n";
            assert_eq!(reply.contains(counter), !is_openmetrics, "{accept}");
        }
    }

    /// Reads, but never writes.
    struct BrokenEngine(MemoryEngine);

    impl Engine for BrokenEngine {
        fn snapshot(&self) -> Result<Arc<dyn Snapshot>, EngineError> {
            self.0.snapshot()
        }

        fn apply(&self, _: Batch, _: Durability) -> Result<(), EngineError> {
            Err(EngineError("broken".into()))
        }

        fn flush(&self) -> Result<(), EngineError> {
            Err(EngineError("broken".into()))
        }
    }

    #[tokio::test]
    async fn a_failed_metadata_store_is_not_ready() {
        let (address, readiness) = start().await;
        let store = EmbeddedStore::new(BrokenEngine(MemoryEngine::default())).unwrap();
        let store = MetadataStore::Embedded(store);
        readiness.set(true);
        readiness.depend_on(store.clone());
        let get = "GET /readyz HTTP/1.1\r\n\r\n";
        assert!(ask(address, get).await.starts_with("HTTP/1.1 200 OK"));
        let mut transaction = store.begin();
        transaction.set(b"a", b"1");
        transaction.commit().await.unwrap_err();
        let reply = ask(address, get).await;
        assert!(reply.starts_with("HTTP/1.1 503 ") && reply.contains("metadata store"));
        let metrics = ask(address, "GET /metrics HTTP/1.1\r\n\r\n").await;
        assert!(metrics.contains("\nquickwater_ready 0\n"));
        assert!(
            ask(address, "GET /healthz HTTP/1.1\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 200 OK")
        );
    }

    #[tokio::test]
    async fn bad_requests_are_told_so() {
        let (address, _) = start().await;
        assert!(
            ask(address, "GET / HTTP/1.1\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 404")
        );
        assert!(
            ask(address, "POST /metrics HTTP/1.1\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 405")
        );
        assert!(
            ask(address, "nonsense\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 400")
        );
        let long = format!("GET /{} HTTP/1.1", "x".repeat(HEAD_BYTES_MAX));
        assert!(ask(address, &long).await.starts_with("HTTP/1.1 400"));
    }

    #[tokio::test]
    async fn idle_connections_do_not_keep_others_out() {
        let (address, _) = start().await;
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS_MAX + 9 {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        for path in ["/healthz", "/metrics"].repeat(5) {
            let reply = ask(address, &format!("GET {path} HTTP/1.1\r\n\r\n")).await;
            assert!(reply.starts_with("HTTP/1.1 200 OK"), "{path}");
        }
        // Those that came first had to go.
        for stream in &mut idle[..9] {
            let gone = stream.read(&mut [0]).await;
            assert!(!matches!(gone, Ok(1..)));
        }
    }

    #[tokio::test]
    async fn slow_scrapers_take_no_places_of_others() {
        let desk = |places| {
            Arc::new(Desk {
                metrics: Arc::new(Metrics::new()),
                readiness: Readiness::default(),
                scrapes: Arc::new(Semaphore::new(places)),
            })
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (full, free) = (desk(0), desk(1));
        for (desk, path, status) in [
            (&full, "/metrics", "503"),
            (&full, "/healthz", "200"),
            (&free, "/metrics", "200"),
        ] {
            let request = format!("GET {path} HTTP/1.1\r\n\r\n");
            let asked = tokio::spawn(async move { ask(address, &request).await });
            let (stream, _) = listener.accept().await.unwrap();
            exchange(stream, Arc::clone(desk)).await;
            let reply = asked.await.unwrap();
            assert!(reply.starts_with(&format!("HTTP/1.1 {status} ")), "{reply}");
        }
        // The place is free again.
        let waiting = free.scrapes.acquire();
        let place = tokio::time::timeout(Duration::from_secs(60), waiting).await;
        assert!(place.unwrap().is_ok());
    }
}
