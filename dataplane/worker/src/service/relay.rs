//! Requests whose keys another worker owns: sent there as they come, answered with what
//! comes back. Absent: what the owner does (`host.rs`), connections (`peer`).
//!
//! The signature of the head was judged before. Bodies pass as they are; of signed
//! chunks each signature is judged as it passes, for the owner does not have the key.

use std::time::{Duration, Instant};

use quickwater_engine::io::Disk;
use quickwater_engine::{CacheResult, World};
use quickwater_peer::{
    Answer, Capability, Header, Payload as PayloadMessage, PayloadKind, Promise, Relay, Task,
};
use quickwater_proto::NodeId;
use quickwater_s3::auth::{Identity, PayloadAuth};
use quickwater_s3::body::{PayloadDecoder, PayloadPlan};
use quickwater_s3::request::BodyKind;
use quickwater_s3::{Operation, Request, RequestView, S3Error, S3ErrorCode};

use super::answer::{Refusal, ServiceAnswer};
use super::dispatch::{Seen, slow_down};
use super::permits::SMALL_BODY_MAX;
use super::place::{Failed, Neighbours, Patience, client_failure, refusal};
use super::read::{ObjectBytes, Relayed};
use super::stripes::take_layout;
use super::{Observer, S3Service};
use crate::buffers::{LARGE_BYTES, PoolBuf};
use crate::handoff::Departure;
use crate::http::{ConnectionInfo, Payload, RequestBody, Response};
use crate::peer::{CallFailure, Failure, Outgoing, Reply, Where};

/// A piece that is not full goes out when its client was waited for so long.
const PIECE_AGE_MAX: Duration = Duration::from_secs(5);

/// A request to be relayed.
pub(super) struct Relaying<'a> {
    pub(super) neighbours: &'a Neighbours,
    pub(super) view: &'a RequestView<'a>,
    pub(super) info: &'a ConnectionInfo,
    pub(super) request: &'a Request,
    pub(super) identity: &'a Identity,
    pub(super) slot: usize,
}

impl<W, O> S3Service<W, O>
where
    W: World,
    W::Disk: Disk<Buffer = PoolBuf> + Clone,
    O: Observer,
{
    /// Has the owner answer a request; `None`: that is this worker. What was not begun is
    /// tried again for a while, as slots move and workers restart.
    pub(super) async fn relay(
        &self,
        relaying: &Relaying<'_>,
        body: &mut RequestBody<'_>,
        seen: &mut Seen,
    ) -> Result<Option<ServiceAnswer<W>>, Refusal> {
        let mut patience = Patience::new(!relaying.request.operation.is_write());
        let mut revalidate = false;
        loop {
            let place = self.place(relaying.neighbours, relaying.slot);
            let asked = match &place {
                Ok(Where::There(node)) => Some(node.clone()),
                _ => None,
            };
            let failed = match place {
                Ok(Where::There(node)) => {
                    let relayed = self.relay_to(&node, relaying, revalidate, body, seen);
                    match relayed.await {
                        Ok(answer) => return Ok(Some(answer)),
                        // Nothing was sent yet: have the version that is there now.
                        Err(Failed::Here(Refusal::Changed)) if !revalidate => {
                            revalidate = true;
                            continue;
                        }
                        Err(Failed::Here(refusal)) => return Err(refusal),
                        Err(Failed::Call(failed)) => failed,
                    }
                }
                Ok(_) => return Ok(None),
                Err(failed) => {
                    if self.engine.permit_lease().is_err() {
                        return Ok(None);
                    }
                    failed
                }
            };
            if !patience.again(&failed).await {
                return Err(refusal(&failed, asked.as_ref()));
            }
        }
    }

    async fn relay_to(
        &self,
        node: &NodeId,
        relaying: &Relaying<'_>,
        revalidate: bool,
        body: &mut RequestBody<'_>,
        seen: &mut Seen,
    ) -> Result<ServiceAnswer<W>, Failed> {
        let has_body = relaying.request.operation.body() != BodyKind::None;
        let large = has_body && body.length().is_none_or(|bytes| bytes > SMALL_BODY_MAX);
        let permit = match large {
            true => Some(
                relaying
                    .neighbours
                    .relays
                    .enter()
                    .await
                    .ok_or_else(slow_down)?,
            ),
            false => None,
        };
        let message = {
            let read = matches!(relaying.request.operation, Operation::GetObject(_));
            let mut message = message(relaying, revalidate, body.length());
            if read && body.length() == Some(0) {
                self.offer(relaying.info, &mut message);
            }
            message
        };
        let message = quickwater_peer::encode(&message)
            .map_err(|_| S3Error::from(S3ErrorCode::RequestHeaderSectionTooLarge))?;
        let peers = &relaying.neighbours.peers;
        let mut call = peers
            .call(node, Task::Relay, right(relaying), &message)
            .await?;
        let mut upload = Upload::new(body, self.tap(relaying)?);
        let answer = loop {
            match call.reply().await {
                Ok(Reply::Answer(answer)) => break answer,
                Ok(Reply::More(pieces)) => self.upload(&mut call, &mut upload, pieces).await?,
                Err(failed) => {
                    // What was taken of the body does not come again.
                    let begun = failed.begun || upload.begun;
                    return Err(Failed::Call(CallFailure { begun, ..failed }));
                }
            }
        };
        if let Some(error) = upload.refused {
            // The owner only knows that the body broke off.
            return Err(error.into());
        }
        drop(permit);
        if let Ok(mac) = answer.hand_over.as_slice().try_into() {
            call.done();
            let to = Departure::new(node.clone(), mac, right(relaying));
            return Ok(Response {
                status: 200,
                headers: Vec::new(),
                body: Payload::Elsewhere(Box::new(to)),
                close: false,
            });
        }
        match answer.layout {
            true => {
                let permit = self.enter(answer.length).await?;
                let laid = take_layout(&mut call).await?;
                call.done();
                let laid = (laid, *answer);
                let read = self.read_layout(relaying.request, node, laid, permit, seen);
                let read = read.await;
                read.map_err(Failed::Here)
            }
            false => self.relayed(relaying, call, *answer, seen).await,
        }
    }

    /// Sends so many pieces of the body, or that there will be none.
    async fn upload(
        &self,
        call: &mut Outgoing,
        upload: &mut Upload<'_, '_>,
        pieces: u32,
    ) -> Result<(), Failed> {
        for _ in 0..pieces {
            if upload.over {
                break;
            }
            let sent = match self.piece(upload).await {
                Ok((piece, last)) => {
                    upload.over = last;
                    call.send(piece, last).await
                }
                Err(why) => {
                    upload.over = true;
                    call.cancel(why).await
                }
            };
            if let Err(failed) = sent {
                // The owner may have said why before it closed the connection, but
                // whatever it was, the body does not come again.
                return Err(Failed::Call(failed));
            }
        }
        Ok(())
    }

    /// The next piece of the client's body, and whether it is the last.
    async fn piece(&self, upload: &mut Upload<'_, '_>) -> Result<(PoolBuf, bool), Promise> {
        upload.begun = true;
        let known = upload.body.length();
        let left = known.map_or(LARGE_BYTES as u64, |length| {
            length - upload.taken.min(length)
        });
        let want = left.min(LARGE_BYTES as u64) as usize;
        let Ok(mut piece) = self.engine.disk().buffer(want.max(1)).await else {
            upload.refused = Some(slow_down());
            return Err(Promise::Gone);
        };
        let begun = Instant::now();
        let mut ended = want == 0;
        while piece.len() < want && begun.elapsed() < PIECE_AGE_MAX {
            let before = piece.len();
            let (back, result) = upload.body.read_into(piece, want - before).await;
            piece = back;
            let count = result.map_err(|error| client_failure(&error))?;
            if count == 0 {
                ended = true;
                break;
            }
            upload.tap(piece.as_slice().get(before..).unwrap_or_default())?;
        }
        upload.taken += piece.len() as u64;
        Ok((piece, ended || known == Some(upload.taken)))
    }

    /// Judges the signatures of chunks, if there are any to judge.
    fn tap(&self, relaying: &Relaying<'_>) -> Result<Option<PayloadDecoder>, S3Error> {
        match &relaying.identity.payload {
            PayloadAuth::Chunked {
                signer: Some(_), ..
            } if relaying.request.operation.body() != BodyKind::None => {
                let (request, identity) = (relaying.request, relaying.identity);
                let mut plan = PayloadPlan::new(request, identity, &self.config.dialect)?;
                // The owner judges all that needs no key.
                plan.content_md5 = None;
                plan.checksum = None;
                Ok(Some(PayloadDecoder::new(plan)))
            }
            _ => Ok(None),
        }
    }

    /// The owner's answer as ours.
    async fn relayed(
        &self,
        relaying: &Relaying<'_>,
        mut call: Outgoing,
        answer: Answer,
        seen: &mut Seen,
    ) -> Result<ServiceAnswer<W>, Failed> {
        let status = u16::try_from(answer.status).unwrap_or(0);
        if !(200..600).contains(&status) || (300..400).contains(&status) && status != 304 {
            let why = format!("an answer with status {}", answer.status);
            return Err(CallFailure {
                begun: true,
                ..CallFailure::new(Failure::Protocol, why)
            }
            .into());
        }
        seen.code = S3ErrorCode::named(&answer.code).map(S3ErrorCode::as_str);
        seen.cache = match answer.cache {
            1 => Some(CacheResult::Hit),
            2 => Some(CacheResult::Miss),
            3 => Some(CacheResult::Partial),
            _ => None,
        };
        let length = answer.length;
        let body = if answer.streams && length > 0 {
            let places = &relaying.neighbours.relays;
            let permit = match length > SMALL_BODY_MAX {
                true => Some(places.enter().await.ok_or_else(slow_down)?),
                false => None,
            };
            call.wire()
                .socket()
                .hold(crate::http::watch::Holding::Buffers);
            let mut relayed = Relayed::new(call, length, self.engine.disk().clone(), permit);
            // Until it has come an honest error is still possible.
            let first = relayed.next().await.map_err(|why| CallFailure {
                begun: relaying.request.operation.is_write(),
                ..CallFailure::new(Failure::Broken, why)
            })?;
            let body = ObjectBytes::relayed(first, relayed);
            Payload::Stream { length, body }
        } else {
            call.done();
            match (answer.not_modified, answer.head_of) {
                (true, _) => Payload::NotModified,
                (false, true) => Payload::HeadOf(length),
                (false, false) => Payload::Empty,
            }
        };
        Ok(Response {
            status,
            headers: answer.headers,
            body,
            close: answer.close,
        })
    }

    /// Whether a request was relayed, and its answer; otherwise it is for this worker.
    pub(super) async fn answer_elsewhere(
        &self,
        view: &RequestView<'_>,
        info: &ConnectionInfo,
        (request, identity): (&Request, &Identity),
        body: &mut RequestBody<'_>,
        seen: &mut Seen,
    ) -> Result<Option<ServiceAnswer<W>>, Refusal> {
        let Some(neighbours) = &self.neighbours else {
            return Ok(None);
        };
        let Some(slot) = self.slot_of_request(request).await? else {
            return Ok(None);
        };
        let relaying = Relaying {
            neighbours,
            view,
            info,
            request,
            identity,
            slot,
        };
        self.relay(&relaying, body, seen).await
    }
}

/// A client's body on its way to the owner.
struct Upload<'b, 'c> {
    body: &'b mut RequestBody<'c>,
    tap: Option<PayloadDecoder>,
    /// Some of it was taken.
    begun: bool,
    /// Nothing more will be sent.
    over: bool,
    taken: u64,
    /// What the client is told, whatever the owner makes of it.
    refused: Option<S3Error>,
}

impl<'b, 'c> Upload<'b, 'c> {
    fn new(body: &'b mut RequestBody<'c>, tap: Option<PayloadDecoder>) -> Self {
        Self {
            body,
            tap,
            begun: false,
            over: false,
            taken: 0,
            refused: None,
        }
    }

    /// Judges bytes before they are sent on.
    fn tap(&mut self, mut bytes: &[u8]) -> Result<(), Promise> {
        let Some(decoder) = &mut self.tap else {
            return Ok(());
        };
        while !bytes.is_empty() {
            let run = decoder.next_run().min(bytes.len());
            let judged = match run {
                0 => decoder.decode(bytes, &mut []).map(|done| done.consumed),
                run => decoder.absorb(&bytes[..run]).map(|()| run),
            };
            match judged {
                Ok(count) => bytes = bytes.get(count.max(1)..).unwrap_or_default(),
                Err(error) => {
                    self.refused = Some(error);
                    return Err(Promise::Gone);
                }
            }
        }
        Ok(())
    }
}

fn right(relaying: &Relaying<'_>) -> Capability {
    let request = relaying.request;
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    Capability {
        bucket: text(request.bucket.as_ref().map(|bucket| bucket.as_str())),
        key: text(request.key.as_ref().map(|key| key.as_str())),
        operation: request.operation.name().to_owned(),
        slot: u32::try_from(relaying.slot).unwrap_or(u32::MAX),
        ..Capability::default()
    }
}

fn message(relaying: &Relaying<'_>, revalidate: bool, body_bytes: Option<u64>) -> Relay {
    let (view, identity) = (relaying.view, relaying.identity);
    let headers = view.headers.iter().filter(|header| matters(header.name));
    let headers = headers.map(|header| Header {
        name: header.name.to_owned(),
        value: header.value.to_vec(),
    });
    Relay {
        method: view.method.to_owned(),
        target: view.target.to_owned(),
        headers: headers.collect(),
        access_key: identity.access_key.clone(),
        presigned: identity.presigned,
        payload: Some(payload(&identity.payload)),
        body_bytes,
        request_id: relaying.info.request_id.to_string(),
        host_id: relaying.info.host_id.as_str().to_owned(),
        client: relaying.info.peer.to_string(),
        reads_stripes: matches!(relaying.request.operation, Operation::GetObject(_)),
        revalidate,
        service: String::new(),
        held: None,
    }
}

/// Credentials are judged and done with, and stay here.
fn matters(name: &str) -> bool {
    let secret = ["authorization", "x-amz-security-token", "cookie"];
    !secret
        .iter()
        .any(|secret| name.eq_ignore_ascii_case(secret))
}

fn payload(promised: &PayloadAuth) -> PayloadMessage {
    let plain = PayloadMessage {
        kind: PayloadKind::Plain.into(),
        sha256: Vec::new(),
        signed: false,
        trailer: false,
    };
    match promised {
        PayloadAuth::Unsigned => plain,
        PayloadAuth::Sha256(hash) => PayloadMessage {
            sha256: hash.to_vec(),
            ..plain
        },
        PayloadAuth::Chunked {
            signed, trailer, ..
        } => PayloadMessage {
            kind: PayloadKind::Chunked.into(),
            signed: *signed,
            trailer: *trailer,
            ..plain
        },
    }
}

/// What a relayed request's body must be, for the owner.
pub(super) fn promised(payload: &PayloadMessage) -> Option<PayloadAuth> {
    match (payload.kind(), payload.sha256.as_slice()) {
        (PayloadKind::Plain, []) => Some(PayloadAuth::Unsigned),
        (PayloadKind::Plain, hash) => Some(PayloadAuth::Sha256(hash.try_into().ok()?)),
        (PayloadKind::Chunked, _) => Some(PayloadAuth::Chunked {
            signed: payload.signed,
            trailer: payload.trailer,
            // Judged on the way.
            signer: None,
        }),
    }
}
