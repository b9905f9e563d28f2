//! The short way of a request that the service answers without waiting for more
//! than one read: nothing boxed, nothing allocated, one send. Absent: bodies of
//! requests, closing, errors; all of that goes the long way (`converse`).

use std::net::SocketAddr;

use quickwater_s3::RequestView;

use super::converse::Room;
use super::count::bump;
use super::parse::{BodyKind, header_slots, parse};
use super::respond::{Keeping, ResponseHead, Sent, settle};
use super::service::{QuickAnswer, Service};
use super::transfer::{Pace, Socket};
use super::watch::Holding;

/// Answers the request whose head is `front`. `None`: nothing was sent or counted;
/// it has to go the long way. `Some(false)`: the connection is done with.
pub(crate) async fn answer_quickly<S: Service>(
    room: &Room<S>,
    socket: &mut Socket,
    peer: SocketAddr,
    front: &[u8],
) -> Option<bool> {
    if socket.watchdog().is_stopping() {
        return None;
    }
    let mut answer = understand(room, front)?;
    let mut buffer = answer.body().await?;
    let info = room.info(peer);
    {
        let mut text = room.scratch.borrow_mut();
        text.clear();
        let head = ResponseHead {
            status: answer.status(),
            headers: &[],
            info: &info,
            keeping: Keeping::Default,
        };
        head.begin(&mut text, Some(answer.length()), socket.watchdog());
        answer.write_lines(&mut text);
        text.extend_from_slice(b"\r\n");
        if !buffer.write_front(&text) {
            return None;
        }
    }
    bump(&socket.stats().requests);
    answer.answered(front, &info);
    drop(answer);
    socket.hold(Holding::Buffers);
    let mut pace = Pace::new(room.config.write_timeout, room.config.min_rate);
    let sent = socket.send(buffer, &mut pace).await;
    Some(settle(socket, Keeping::Default, sent) == Sent::Whole)
}

/// Nothing of the parsed head outlives this: an idle connection holds none of it.
fn understand<'r, S: Service>(room: &'r Room<S>, front: &[u8]) -> Option<S::Quick<'r>> {
    // The long way parses again: do not begin what will not be finished.
    if !matches!(front.first(), Some(b'G' | b'H')) {
        return None;
    }
    let mut slots = header_slots();
    let head = parse(front, &mut slots).ok()?;
    let plain = head.body == BodyKind::Length(0)
        && !head.expect_continue
        && head.keep_alive
        && !head.old_version;
    let view = RequestView {
        method: head.method,
        target: head.target,
        headers: head.headers,
    };
    plain.then(|| room.service.quick(view, front)).flatten()
}
