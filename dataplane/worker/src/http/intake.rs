//! Connections that another worker began and this shard goes on with. Absent: how they
//! come.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use quickwater_proto::NodeId;

use super::limit::ConnectionPermit;

/// A server's side.
pub(super) trait Reception {
    /// A place for one more.
    fn permit(&self) -> Option<ConnectionPermit>;
    /// Goes on with a connection.
    fn welcome(&self, arrival: Arrival, place: Place);
}

/// A connection that another worker gave.
pub struct Arrival {
    /// Its socket.
    pub socket: OwnedFd,
    /// The other end.
    pub peer: SocketAddr,
    /// The worker whose host the client's packets reach; `None`: this one.
    pub entry: Option<NodeId>,
    /// Bytes that were received and not answered.
    pub inbound: Vec<u8>,
}

/// A place for a connection.
pub struct Place(pub(super) ConnectionPermit);

/// The way into a shard's server, open while it accepts.
#[derive(Clone, Default)]
pub struct Intake(Rc<RefCell<Option<Box<dyn Reception>>>>);

impl Intake {
    pub(super) fn open(&self, reception: Box<dyn Reception>) {
        *self.0.borrow_mut() = Some(reception);
    }

    pub(super) fn close(&self) {
        self.0.borrow_mut().take();
    }

    /// A place for one more; `None`: too many, or the server stops.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        self.0.borrow().as_ref()?.permit().map(Place)
    }

    /// Goes on with a connection. Of a server that stopped meanwhile it is closed.
    pub fn welcome(&self, arrival: Arrival, at: Place) {
        if let Some(reception) = self.0.borrow().as_ref() {
            reception.welcome(arrival, at);
        }
    }
}
