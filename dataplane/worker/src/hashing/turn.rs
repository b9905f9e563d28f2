//! One turn for everything else on this shard: tasks that are ready and IO that
//! has ended. Absent: time; a turn costs a system call and no waiting.

use std::cell::OnceCell;

use monoio::net::UnixStream;

/// Lets other work go on.
///
/// A task that wakes itself is put in front of the queue and starves the others,
/// and a ring with DEFER_TASKRUN delivers completions only to a thread that waits
/// for one. So the task waits for an operation of the ring that has always ended
/// already: whether a socket nobody uses can be written to.
#[derive(Default)]
pub(super) struct Turn {
    /// None: no socket to be had.
    socket: OnceCell<Option<(UnixStream, UnixStream)>>,
}

impl Turn {
    pub(super) async fn pass(&self) {
        if !monoio::utils::is_legacy() {
            let socket = self.socket.get_or_init(|| UnixStream::pair().ok());
            if let Some((socket, _)) = socket
                && socket.writable(false).await.is_ok()
            {
                return;
            }
        }
        // Behind all that is ready; the loop polls epoll when it has run them.
        monoio::spawn(async {}).await;
    }
}
