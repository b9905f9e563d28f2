//! What a change costs in memory, so that the queue can have a budget. Absent: the
//! rows of the metadata, which are on the disk.

use quickwater_proto::KEY_BYTES_MAX;

use super::Place;
use super::lanes::{Lane, Past};

/// Memory of a change with no failed attempt, bytes, but for its key's text: the lane
/// and its places in the trees, with what the allocator and half-full nodes add.
/// `a_million_changes` measures it.
pub const CHANGE_BYTES: u64 = 330;
/// Most bytes kept of the text of an error.
pub(super) const ERROR_BYTES_MAX: usize = 256;
/// What shows that a text was cut.
const CUT: &str = " ...";
/// What must be free for a change whose key is not known yet.
pub(super) const NEXT_BYTES: u64 = CHANGE_BYTES + KEY_BYTES_MAX as u64;

/// Bytes of a change. The same for the same lane: what is added is taken off again.
pub(super) fn of((_, key): &Place, lane: &Lane) -> u64 {
    let past = lane.past.as_deref().map_or(0, |past| {
        let error = past.error.as_ref().map_or(0, String::capacity);
        size_of::<Past>() + error
    });
    CHANGE_BYTES + (key.as_str().len() + past) as u64
}

/// The text of an error, cut between words if it has any: with a UFS that is down every
/// change has one.
pub(super) fn bounded(mut error: String) -> String {
    if error.len() > ERROR_BYTES_MAX {
        let room = ERROR_BYTES_MAX - CUT.len();
        let room = (0..=room).rfind(|at| error.is_char_boundary(*at));
        let room = room.unwrap_or(0);
        let words = error.get(..room).and_then(|text| text.rfind(' '));
        error.truncate(words.unwrap_or(room));
        error.push_str(CUT);
    }
    error.shrink_to_fit();
    error
}
