//! The link to the control plane: opens sessions one after the other, sends calls and
//! brings their answers. A session that fails in any way is given up whole, and what
//! it had not answered is sent again only by the next one, which fences it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use quickwater_proto::SlotTable;
use quickwater_rpc::cluster::cluster_client::ClusterClient;
use quickwater_rpc::cluster::{Answers, Calls as Batch, RegisterAnswer, RegisterRequest};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};

use super::attend::{self, Session};
use super::queue::{Calls, Queued};
use super::{Access, Attendant, Introduction, Peers, Registered, Shared};
use crate::cluster::boottime;
use crate::cluster::wire::{MESSAGE_BYTES_MAX, random_id};
use crate::rpc::identity::CONTROL_NAME;
use crate::rpc::{
    SESSION_HEADER, peers_from_wire, position_from_wire, position_to_wire, table_from_wire,
};

/// Streams of calls, each on a connection of its own.
const STREAMS: usize = 2;
/// Messages of calls that wait in a stream.
const STREAM_QUEUE: usize = 8;
/// Calls that travel in one message.
const CALLS_PER_MESSAGE: usize = 64;
/// Messages of answers that wait to be handed out.
const INBOX: usize = 64;
/// Longest wait for a connection, and then for a session.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// Silence after which a connection is asked whether it lives, and for its answer.
const KEEPALIVE: Duration = Duration::from_secs(3);
/// Pause before the next session, doubled up to the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How often it is looked what waits too long.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The files of certificates are no good.
    #[error("the certificates cannot be used: {0}")]
    Certificates(String),
    /// It does not answer.
    #[error("the control plane at {address} cannot be reached: {why}")]
    Unreached {
        /// Where it should be.
        address: String,
        /// What went wrong.
        why: String,
    },
    /// It does not want us.
    #[error("the control plane refuses this worker: {0}")]
    Refused(String),
    /// The session ended.
    #[error("the session with the control plane ended: {0}")]
    Ended(String),
}

impl LinkError {
    /// Whether another attempt may go better without anybody doing something.
    fn is_final(&self) -> bool {
        matches!(self, Self::Certificates(_) | Self::Refused(_))
    }
}

/// The link of a worker. Does nothing until it is run.
pub struct Link {
    access: Access,
    introduction: Introduction,
    shared: Arc<Shared>,
    incoming: mpsc::Receiver<Queued>,
    registered: watch::Sender<Option<Registered>>,
    calls: Calls,
    /// Random name of this process.
    process: Vec<u8>,
}

/// A session as it was opened.
struct Opened {
    client: ClusterClient<Channel>,
    others: Vec<ClusterClient<Channel>>,
    answer: RegisterAnswer,
    table: Arc<SlotTable>,
    peers: Option<Peers>,
}

impl Link {
    pub(super) fn new(
        access: Access,
        introduction: Introduction,
        shared: Arc<Shared>,
        incoming: mpsc::Receiver<Queued>,
        registered: watch::Sender<Option<Registered>>,
    ) -> Self {
        Self {
            access,
            introduction,
            shared,
            incoming,
            registered,
            calls: Calls::default(),
            process: process_name(),
        }
    }

    /// Keeps a session open for as long as there are clients. Ends at once when the
    /// very first session is refused.
    ///
    /// # Errors
    /// [`LinkError::Certificates`], [`LinkError::Refused`].
    pub async fn run(mut self, attendant: Arc<dyn Attendant>) -> Result<(), LinkError> {
        let mut pause = PAUSE_FIRST;
        let mut healthy = true;
        while !self.shared.leaving() {
            let error = match self.session(&attendant, &mut healthy).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            self.shared.stats.connected.store(false, Ordering::Relaxed);
            self.calls.session_ended();
            let known = self.registered.borrow().is_some();
            if error.is_final() && !known {
                return Err(error);
            }
            if std::mem::take(&mut healthy) {
                tracing::warn!(%error, "no session with the control plane; tried again");
                pause = PAUSE_FIRST;
            }
            self.waiting(tokio::time::sleep(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        Ok(())
    }

    fn request(&self) -> RegisterRequest {
        let introduction = self.introduction.clone();
        let seen = *self.shared.seen.borrow();
        RegisterRequest {
            node: introduction.node.to_string(),
            advertise: introduction.advertise,
            zone: introduction.zone,
            capacity_bytes: introduction.capacity_bytes,
            s3_address: introduction.s3_address,
            store: introduction.store,
            shards: introduction.shards,
            cluster: introduction.cluster,
            version: introduction.version,
            process: self.process.clone(),
            seen: seen.as_ref().map(position_to_wire),
            begins: self.registered.borrow().is_none(),
        }
    }

    /// Runs `work` while calls come in and expire.
    async fn waiting<F: Future>(&mut self, work: F) -> F::Output {
        let mut work = std::pin::pin!(work);
        let mut looks = tokio::time::interval(LOOK_PAUSE);
        loop {
            tokio::select! {
                output = &mut work => return output,
                Some(call) = self.incoming.recv(), if self.calls.has_room() => self.calls.push(call),
                _ = looks.tick() => self.expire(),
            }
        }
    }

    fn expire(&mut self) {
        let given_up = self.calls.expire(Instant::now());
        let stats = &self.shared.stats;
        stats.unknown.fetch_add(given_up.unknown, Ordering::Relaxed);
        stats
            .unreached
            .fetch_add(given_up.unreached, Ordering::Relaxed);
    }

    /// One session, from its opening to its end. `Ok`: nobody needs another.
    async fn session(
        &mut self,
        attendant: &Arc<dyn Attendant>,
        healthy: &mut bool,
    ) -> Result<(), LinkError> {
        let sent = boottime();
        let opening = open(self.access.clone(), self.request());
        let opened = self.waiting(opening).await?;
        let position = opened.answer.position.as_ref().and_then(position_from_wire);
        let lease = Duration::from_millis(opened.answer.lease_ms);
        let session = Session {
            number: opened.answer.session,
            lease,
        };
        // From here on this directory is that cluster's.
        self.introduction.cluster.clone_from(&opened.answer.cluster);
        if let Some(position) = position {
            self.shared.saw(position);
        }
        // First of all: a copy taken in after others know of this session must not be
        // looked at as one of before.
        if !attendant.opened(session.number, &opened.table) {
            self.calls.begin_anew(session.number);
        }
        let epoch = opened.table.epoch;
        self.shared.epoch.store(epoch, Ordering::Release);
        if let Some(peers) = opened.peers.clone() {
            attendant.met(peers);
        }
        attendant.granted(sent + session.trusted());
        self.registered.send_replace(Some(Registered {
            session: session.number,
            cluster: opened.answer.cluster.clone(),
            table: Arc::clone(&opened.table),
            position,
            undone: opened.answer.undone,
        }));
        let mut tasks = JoinSet::new();
        let (mut streams, mut answers) = self.streams(&opened, &mut tasks).await?;
        let (tables, seen) = watch::channel(opened.table);
        let (went, gone_by) = watch::channel((0, Vec::new()));
        tasks.spawn(attend::follow(seen, Arc::clone(attendant), went));
        tasks.spawn(attend::attend(
            opened.client,
            session,
            tables,
            gone_by,
            Arc::clone(attendant),
            Arc::clone(&self.shared),
        ));
        self.shared.stats.sessions.fetch_add(1, Ordering::Relaxed);
        self.shared.stats.connected.store(true, Ordering::Relaxed);
        tracing::info!(session = session.number, control = %self.access.address, "session opened");
        *healthy = true;
        let ended = self.pump(&mut streams, &mut answers, &mut tasks).await;
        // The next session must not begin while a table of this one is gone by.
        tasks.shutdown().await;
        ended
    }

    async fn streams(
        &mut self,
        opened: &Opened,
        tasks: &mut JoinSet<Result<(), LinkError>>,
    ) -> Result<(Vec<mpsc::Sender<Batch>>, mpsc::Receiver<Answers>), LinkError> {
        let (inbox, answers) = mpsc::channel(INBOX);
        let mut streams = Vec::new();
        let clients = std::iter::once(&opened.client).chain(&opened.others);
        for client in clients.cloned() {
            let (sender, receiver) = mpsc::channel(STREAM_QUEUE);
            let mut request = Request::new(ReceiverStream::new(receiver));
            let number = MetadataValue::from(opened.answer.session);
            request.metadata_mut().insert(SESSION_HEADER, number);
            let mut client = client;
            let asking = async move { client.metadata(request).await };
            let asking = tokio::time::timeout(CONNECT_WAIT, asking);
            let mut stream = match self.waiting(asking).await {
                Ok(Ok(answer)) => answer.into_inner(),
                Ok(Err(status)) => return Err(ended(&status)),
                Err(_) => return Err(LinkError::Ended("no stream in time".into())),
            };
            let inbox = inbox.clone();
            tasks.spawn(async move {
                loop {
                    match stream.message().await {
                        Ok(Some(batch)) => {
                            if inbox.send(batch).await.is_err() {
                                return Ok(());
                            }
                        }
                        Ok(None) => return Err(LinkError::Ended("a stream of calls ended".into())),
                        Err(status) => return Err(ended(&status)),
                    }
                }
            });
            streams.push(sender);
        }
        Ok((streams, answers))
    }

    /// Sends calls and hands out answers until something ends. The streams take
    /// turns.
    async fn pump(
        &mut self,
        streams: &mut [mpsc::Sender<Batch>],
        answers: &mut mpsc::Receiver<Answers>,
        tasks: &mut JoinSet<Result<(), LinkError>>,
    ) -> Result<(), LinkError> {
        let mut looks = tokio::time::interval(LOOK_PAUSE);
        let mut turn = 0;
        loop {
            let stream = &streams[turn % streams.len()];
            tokio::select! {
                Some(batch) = answers.recv() => {
                    for answer in batch.answers {
                        self.calls.answered(answer);
                    }
                }
                permit = stream.reserve(), if self.calls.any_wait() => {
                    let Ok(permit) = permit else {
                        return Err(LinkError::Ended("a stream of calls ended".into()));
                    };
                    let calls = self.calls.take(CALLS_PER_MESSAGE, Instant::now());
                    let again = calls.iter().filter(|call| call.again).count() as u64;
                    self.shared.stats.repeated.fetch_add(again, Ordering::Relaxed);
                    permit.send(Batch { calls });
                    turn = turn.wrapping_add(1);
                }
                call = self.incoming.recv(), if self.calls.has_room() => match call {
                    Some(call) => {
                        self.calls.push(call);
                        while self.calls.has_room() && let Ok(call) = self.incoming.try_recv() {
                            self.calls.push(call);
                        }
                    }
                    None => return Ok(()),
                },
                Some(ended) = tasks.join_next() => {
                    return match ended {
                        Ok(ended) => ended,
                        Err(error) => Err(LinkError::Ended(error.to_string())),
                    };
                }
                _ = looks.tick() => {
                    self.expire();
                    if self.calls.is_overdue(Instant::now()) {
                        return Err(LinkError::Ended("a call was not answered in time".into()));
                    }
                }
            }
        }
    }
}

fn ended(status: &Status) -> LinkError {
    LinkError::Ended(status.message().to_owned())
}

async fn open(access: Access, request: RegisterRequest) -> Result<Opened, LinkError> {
    let endpoint = endpoint(&access)?;
    let unreached = |why: String| unreached(&access, why);
    let mut channels = Vec::with_capacity(STREAMS);
    for _ in 0..STREAMS {
        let connecting = tokio::time::timeout(CONNECT_WAIT, endpoint.connect()).await;
        let channel = connecting.map_err(|_| unreached("no answer in time".into()))?;
        channels.push(channel.map_err(|error| unreached(causes(&error)))?);
    }
    let mut clients: Vec<_> = channels.into_iter().map(client).collect();
    let mut first = clients.remove(0);
    let registering = tokio::time::timeout(CONNECT_WAIT, first.register(request));
    let answer = registering
        .await
        .map_err(|_| unreached("no answer in time".into()))?
        .map_err(|status| match status.code() {
            Code::Unauthenticated
            | Code::PermissionDenied
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::InvalidArgument => LinkError::Refused(status.message().to_owned()),
            // With TLS 1.3 a refused certificate shows with the first answer.
            _ => unreached(causes(&status)),
        })?
        .into_inner();
    let table = table_from_wire(&answer.table.clone().unwrap_or_default());
    let table = table.map_err(|error| LinkError::Ended(error.to_string()))?;
    let peers = answer.peers.as_ref().and_then(peers_from_wire);
    Ok(Opened {
        peers,
        client: first,
        others: clients,
        answer,
        table: Arc::new(table),
    })
}

/// What time it is at the control plane, as the `Date` of an answer (RFC 9110, 5.6.7): to a
/// call that it refuses, since it is of no session. `None`: it does not say.
///
/// # Errors
/// [`LinkError::Certificates`], [`LinkError::Unreached`].
pub async fn clock_of(access: &Access) -> Result<Option<String>, LinkError> {
    let channel = endpoint(access)?.connect().await;
    let channel = channel.map_err(|error| unreached(access, causes(&error)))?;
    let nothing = tokio_stream::empty::<Batch>();
    let date = match client(channel).metadata(Request::new(nothing)).await {
        Ok(answer) => answer.metadata().get("date").cloned(),
        Err(status) if status.metadata().is_empty() => {
            return Err(unreached(access, causes(&status)));
        }
        Err(status) => status.metadata().get("date").cloned(),
    };
    Ok(date.and_then(|date| Some(date.to_str().ok()?.to_owned())))
}

fn unreached(access: &Access, why: String) -> LinkError {
    match is_about_certificates(&why) {
        true => LinkError::Certificates(why),
        false => LinkError::Unreached {
            address: access.address.clone(),
            why,
        },
    }
}

/// Tells this process from another one with a copy of the directory. Without randomness
/// it does not say.
fn process_name() -> Vec<u8> {
    let id = random_id();
    id.map_or_else(|_| Vec::new(), |id| id.to_be_bytes().to_vec())
}

fn client(channel: Channel) -> ClusterClient<Channel> {
    ClusterClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

fn endpoint(access: &Access) -> Result<Endpoint, LinkError> {
    let bad = |error: tonic::transport::Error| LinkError::Certificates(causes(&error));
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&access.authority))
        .identity(Identity::from_pem(&access.certificate, &access.key))
        .domain_name(CONTROL_NAME);
    let endpoint = Endpoint::from_shared(format!("https://{}", access.address)).map_err(bad)?;
    let endpoint = endpoint.tls_config(tls).map_err(bad)?;
    Ok(endpoint
        .connect_timeout(CONNECT_WAIT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true))
}

/// Whether TLS refused one side's certificate; its errors have no other mark than
/// their text (`InvalidCertificate`, and the alerts of RFC 8446, section 6.2).
fn is_about_certificates(why: &str) -> bool {
    let marks = [
        "invalid peer certificate",
        "UnknownCA",
        "BadCertificate",
        "CertificateRequired",
        "CertificateUnknown",
        "CertificateExpired",
        "DecryptError",
    ];
    marks.iter().any(|mark| why.contains(mark))
}

/// An error with its causes: the outermost says nothing.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
