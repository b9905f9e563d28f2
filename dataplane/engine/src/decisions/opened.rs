//! What we have opened in UFSs and must see to its end: the rows in memory, who
//! uses one now, and which upload that a UFS lists is one of ours. Absent: IO.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quickwater_proto::{BucketId, ObjectKey, OpenedUpload, UfsUploadSeen, UploadId};

/// Uploads noted at a time; more are told to slow down.
const OPENED_MAX: usize = 100_000;
/// How much earlier than we asked an upload of ours may seem to be begun: clocks
/// differ. A clock that differs more only makes us leave an upload alone.
const CLOCKS_DIFFER_MAX_MS: i64 = 60_000;

/// Names a note.
type Place = (BucketId, ObjectKey, UploadId);

struct Entry {
    opened: OpenedUpload,
    busy: bool,
}

/// All notes, shared by all shards.
#[derive(Default)]
pub struct Opened(Mutex<BTreeMap<Place, Entry>>);

/// The right to use or end an opened upload: nobody else does meanwhile.
pub(crate) struct Claim {
    all: Arc<Opened>,
    bucket: BucketId,
    pub(crate) opened: OpenedUpload,
}

impl Opened {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<Place, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a note that was found at start, or of a key that became ours.
    pub fn load(&self, bucket: BucketId, opened: OpenedUpload) {
        let place = (bucket, opened.key.clone(), opened.id);
        let busy = false;
        let mut entries = self.entries();
        // Who uses one knows more of it.
        entries.entry(place).or_insert(Entry { opened, busy });
    }

    /// Forgets the notes of some keys that nobody uses now: others may have changed them.
    pub fn forget(&self, of: impl Fn(BucketId, &ObjectKey) -> bool) {
        let stays = |(bucket, key, _): &Place, entry: &mut Entry| entry.busy || !of(*bucket, key);
        self.entries().retain(stays);
    }

    /// Notes in memory.
    #[must_use]
    pub fn count(&self) -> usize {
        self.entries().len()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.count() < OPENED_MAX
    }

    /// A new note, used by the caller.
    pub(crate) fn begin(self: &Arc<Self>, bucket: BucketId, opened: OpenedUpload) -> Claim {
        let place = (bucket, opened.key.clone(), opened.id);
        let entry = Entry {
            opened: opened.clone(),
            busy: true,
        };
        self.entries().insert(place, entry);
        Claim {
            all: Arc::clone(self),
            bucket,
            opened,
        }
    }

    /// A note for the caller alone; `None`: somebody uses it, or it is gone.
    pub(crate) fn claim(
        self: &Arc<Self>,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
    ) -> Option<Claim> {
        let mut entries = self.entries();
        let entry = entries.get_mut(&(bucket, key.clone(), id))?;
        if entry.busy {
            return None;
        }
        entry.busy = true;
        Some(Claim {
            all: Arc::clone(self),
            bucket,
            opened: entry.opened.clone(),
        })
    }

    /// Notes of a key, in order of id.
    pub(crate) fn of_key(&self, bucket: BucketId, key: &ObjectKey) -> Vec<OpenedUpload> {
        let entries = self.entries();
        if entries.is_empty() {
            return Vec::new();
        }
        let first = (bucket, key.clone(), UploadId(0));
        let last = (bucket, key.clone(), UploadId(u128::MAX));
        let of_key = entries.range(first..=last);
        of_key.map(|(_, entry)| entry.opened.clone()).collect()
    }

    /// How often the UFS was asked for uploads of a key without telling a name; none
    /// while it is being asked, or was not before `since_ms`.
    pub(crate) fn asked_before(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        own: UploadId,
        since_ms: i64,
    ) -> Option<usize> {
        let entries = self.entries();
        let first = (bucket, key.clone(), UploadId(0));
        let last = (bucket, key.clone(), UploadId(u128::MAX));
        let mut asked = 0;
        for (place, entry) in entries.range(first..=last) {
            if entry.opened.ufs_upload.is_some() {
                continue;
            }
            if place.2 != own && (entry.busy || entry.opened.asked_ms > since_ms) {
                return None;
            }
            asked += entry.opened.asked as usize;
        }
        Some(asked)
    }

    /// Notes after one, at most `limit`.
    pub(crate) fn page(
        &self,
        after: Option<(BucketId, ObjectKey, UploadId)>,
        limit: usize,
    ) -> Vec<(BucketId, OpenedUpload)> {
        let entries = self.entries();
        let shown = |(place, entry): (&Place, &Entry)| (place.0, entry.opened.clone());
        match after {
            Some(after) => {
                let rest =
                    entries.range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded));
                rest.take(limit).map(shown).collect()
            }
            None => entries.iter().take(limit).map(shown).collect(),
        }
    }

    /// The bucket is gone, and the rows of its notes with it.
    pub(crate) fn forget_bucket(&self, bucket: BucketId) {
        self.entries().retain(|(of, ..), _| *of != bucket);
    }
}

impl Claim {
    fn place(&self) -> Place {
        (self.bucket, self.opened.key.clone(), self.opened.id)
    }

    /// Keeps what is known of it by now.
    pub(crate) fn update(&mut self, opened: OpenedUpload) {
        self.opened = opened;
        let mut entries = self.all.entries();
        if let Some(entry) = entries.get_mut(&self.place()) {
            entry.opened = self.opened.clone();
        }
    }

    /// It has ended.
    pub(crate) fn end(self) {
        self.all.entries().remove(&self.place());
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(entry) = self.all.entries().get_mut(&self.place()) {
            entry.busy = false;
        }
    }
}

/// Which of the uploads that a UFS lists for the key may be what an answer that
/// never came would have named: begun when we asked. `late_max`: how long after it
/// was sent a request may be applied.
pub(crate) fn begun_by_us<'s>(
    opened: &OpenedUpload,
    seen: &'s [UfsUploadSeen],
    late_max: Duration,
) -> Vec<&'s UfsUploadSeen> {
    let late_ms = i64::try_from(late_max.as_millis()).unwrap_or(i64::MAX);
    let from = opened.begun_ms.saturating_sub(CLOCKS_DIFFER_MAX_MS);
    let until = opened.asked_ms.saturating_add(late_ms);
    let until = until.saturating_add(CLOCKS_DIFFER_MAX_MS);
    let ours = seen.iter().filter(|s| (from..=until).contains(&s.begun_ms));
    ours.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(id: u128, asked_ms: i64) -> OpenedUpload {
        OpenedUpload {
            id: UploadId(id),
            key: ObjectKey::new("k").unwrap(),
            version: None,
            ufs_upload: None,
            begun_ms: 1_000_000,
            asked_ms,
            asked: 1,
        }
    }

    #[test]
    fn one_at_a_time_uses_a_note() {
        let all = Arc::new(Opened::default());
        let (bucket, key) = (BucketId(1), note(1, 0).key);
        let mut first = all.begin(bucket, note(1, 0));
        assert!(all.claim(bucket, &key, UploadId(1)).is_none());
        first.update(OpenedUpload {
            ufs_upload: Some("n".into()),
            ..first.opened.clone()
        });
        drop(first);
        let again = all.claim(bucket, &key, UploadId(1)).unwrap();
        assert_eq!(again.opened.ufs_upload.as_deref(), Some("n"));
        again.end();
        assert!(all.claim(bucket, &key, UploadId(1)).is_none());
        assert_eq!(all.count(), 0);
    }

    #[test]
    fn notes_are_found_by_key_and_in_pages() {
        let all = Opened::default();
        for (bucket, id) in [(1, 1), (1, 2), (2, 3)] {
            all.load(BucketId(bucket), note(id, 0));
        }
        let key = note(1, 0).key;
        assert_eq!(all.of_key(BucketId(1), &key).len(), 2);
        let first = all.page(None, 2);
        let (bucket, last) = first.last().unwrap();
        let rest = all.page(Some((*bucket, last.key.clone(), last.id)), 2);
        assert_eq!(rest, [(BucketId(2), note(3, 0))]);
        all.forget_bucket(BucketId(1));
        assert_eq!(all.count(), 1);
    }

    #[test]
    fn notes_of_keys_that_were_anothers_are_read_anew_but_for_those_in_use() {
        let all = Arc::new(Opened::default());
        let bucket = BucketId(1);
        all.load(bucket, note(1, 100));
        all.load(BucketId(2), note(3, 100));
        let used = all.begin(bucket, note(2, 100));
        all.forget(|of, _| of == bucket);
        let left = || all.page(None, 9).into_iter().map(|(_, opened)| opened);
        assert_eq!(left().map(|o| o.id.0).collect::<Vec<_>>(), [2, 3]);
        all.load(bucket, note(1, 200));
        all.load(bucket, note(2, 200));
        assert_eq!(
            left().map(|o| o.asked_ms).collect::<Vec<_>>(),
            [200, 100, 100]
        );
        assert!(all.claim(bucket, &note(2, 0).key, UploadId(2)).is_none());
        drop(used);
    }

    #[test]
    fn nothing_is_judged_while_the_ufs_is_asked() {
        let all = Arc::new(Opened::default());
        let (bucket, key) = (BucketId(1), note(1, 0).key);
        all.load(bucket, note(1, 100));
        all.load(bucket, note(2, 200));
        let asked = |since| all.asked_before(bucket, &key, UploadId(1), since);
        assert_eq!(asked(200), Some(2));
        assert_eq!(asked(199), None);
        let claim = all.claim(bucket, &key, UploadId(2)).unwrap();
        assert_eq!(asked(200), None);
        drop(claim);
        assert_eq!(asked(200), Some(2));
    }

    #[test]
    fn only_what_was_begun_when_we_asked_may_be_ours() {
        let seen = |begun_ms: i64| UfsUploadSeen {
            name: begun_ms.to_string(),
            begun_ms,
        };
        let all = [900_000, 941_000, 1_000_000, 1_169_000, 1_171_000].map(seen);
        let found = begun_by_us(&note(1, 1_100_000), &all, Duration::from_secs(10));
        assert_eq!(found, [&all[1], &all[2], &all[3]]);
    }
}
