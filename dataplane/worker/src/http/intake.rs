//! Connections that another worker began and this shard goes on with. Absent: how they
//! come.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use super::limit::ConnectionPermit;

/// A server's side.
pub(super) trait Reception {
    /// A place for one more.
    fn permit(&self) -> Option<ConnectionPermit>;
    /// Goes on with a connection whose first bytes are these.
    fn welcome(&self, socket: OwnedFd, peer: SocketAddr, inbound: Vec<u8>, place: Place);
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
    pub fn welcome(&self, socket: OwnedFd, peer: SocketAddr, inbound: Vec<u8>, at: Place) {
        if let Some(reception) = self.0.borrow().as_ref() {
            reception.welcome(socket, peer, inbound, at);
        }
    }
}
