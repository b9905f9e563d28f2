//! The test server: one database in memory for several processes that load the test
//! library. A thread for each connection; a connection is one transaction at a time.

use std::io::Result;
use std::net::{TcpListener, TcpStream};

use quickwater_controlplane::store::{EmbeddedStore, MemoryEngine};

use crate::local::Local;
use crate::wire::{Question, Reply, receive, send};

/// Where versions begin: a cluster's rise by a million a second.
const FIRST_VERSION: u64 = 1_000_000_000_000;

/// Serves until the process ends.
///
/// # Errors
/// No connection can be taken, or no thread be started.
pub fn serve(listener: &TcpListener) -> Result<()> {
    let store = EmbeddedStore::new_at_least(MemoryEngine::default(), FIRST_VERSION);
    let store = store.map_err(std::io::Error::other)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()?;
    loop {
        let (stream, _) = listener.accept()?;
        let (store, handle) = (store.clone(), runtime.handle().clone());
        std::thread::Builder::new()
            .name("connection".into())
            .spawn(move || {
                // It ends when the client goes.
                let ended = connection(&store, &handle, stream);
                drop(ended);
            })?;
    }
}

fn connection(
    store: &EmbeddedStore,
    runtime: &tokio::runtime::Handle,
    mut stream: TcpStream,
) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut local = Local::begin(store);
    loop {
        let reply = match Question::decode(&receive(&mut stream)?)? {
            Question::Begin => {
                local = Local::begin(store);
                Reply::Done
            }
            Question::Commit => {
                let done = std::mem::replace(&mut local, Local::begin(store));
                runtime.block_on(done.commit())
            }
            question => local.answer(question),
        };
        send(&mut stream, &reply.encode())?;
    }
}
