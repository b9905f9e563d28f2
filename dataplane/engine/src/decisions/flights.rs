//! Single flight: of all who want a missing chunk, one fetches it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use event_listener::{Event, EventListener};

use crate::io::ChunkId;

/// Chunks being fetched, shared by all shards.
#[derive(Default)]
pub(crate) struct Flights {
    under_way: Mutex<HashMap<ChunkId, Arc<Event>>>,
}

/// The duty to fetch one chunk; dropping it wakes those who wait.
pub(crate) struct Flight {
    flights: Arc<Flights>,
    chunk: ChunkId,
}

impl Flights {
    /// `Ok`: fetch it. `Err`: somebody does; listen and look again.
    pub(crate) fn begin(self: &Arc<Self>, chunk: ChunkId) -> Result<Flight, EventListener> {
        let mut under_way = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(event) = under_way.get(&chunk) {
            return Err(event.listen());
        }
        under_way.insert(chunk, Arc::new(Event::new()));
        Ok(Flight {
            flights: Arc::clone(self),
            chunk,
        })
    }
}

impl Flight {
    pub(crate) fn chunk(&self) -> ChunkId {
        self.chunk
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let event = {
            let mut map = self
                .flights
                .under_way
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            map.remove(&self.chunk)
        };
        if let Some(event) = event {
            event.notify(usize::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use quickwater_proto::BlobId;

    use super::*;

    #[test]
    fn one_leads_and_the_others_are_woken() {
        let flights = Arc::new(Flights::default());
        let chunk = ChunkId {
            blob: BlobId(1),
            index: 0,
        };
        let lead = flights.begin(chunk).ok().unwrap();
        let waiter = flights.begin(chunk).err().unwrap();
        drop(lead);
        assert!(waiter.now_or_never().is_some());
        assert!(flights.begin(chunk).is_ok());
    }
}
