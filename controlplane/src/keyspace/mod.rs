//! The only place that builds and takes apart keys. No values, no rules here.
//!
//! The first byte is the table, numbers are big-endian. S3 keys stand as they
//! are where nothing follows them, so that rows are in S3's byte order, and are
//! escaped where something does (see [`escape`]). Keys that only grow with time
//! begin with a shard, so that no range of the store takes all writes.
//!
//! | byte | table | key after it |
//! | --- | --- | --- |
//! | 01 | meta | name |
//! | 02 | bucket by name | name |
//! | 03 | bucket by id | bucket |
//! | 04 | trash: buckets whose rows are still to be removed | bucket |
//! | 05 | identity of the directory a bucket was written to | bucket |
//! | 10 | object | bucket, S3 key |
//! | 11 | detail of an object | bucket, detail id, piece |
//! | 20 | upload | bucket, escaped S3 key, upload id |
//! | 21 | part | bucket, upload id, number |
//! | 22 | completed upload | bucket, upload id |
//! | 23 | completed upload by expiry | shard, ms, bucket, upload id |
//! | 24 | opened: uploads in a UFS that are to be ended | bucket, escaped S3 key, upload id |
//! | 30 | operation | shard, minute, operation id |
//! | 31 | journaled operation | shard, sequence, operation id |
//! | 40 | counter | bucket, counter, shard |
//! | 50 | pending: what the UFS has still to be told | bucket, S3 key |
//! | 60 | fence: whose commits are taken | node |
//! | 61 | member of the cluster | node |
//! | 70 | path policies | version |
//! | 71 | text of path policies | version, piece |
//! | 72 | job | number |
//! | 7e | which stores have a blob, while metadata are rebuilt | blob, number of a store |
//! | 7f | newest known change of a key, while metadata are rebuilt | bucket, S3 key |
//!
//! Kept free: 12 versions of an object; 51 to 5f
//! dirty copies by blob and by worker; 62 to 6f.

mod escape;
mod key;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use quickwater_proto::{BlobId, BucketId, BucketName, NodeId, ObjectKey, UploadId};

use self::key::{Key, Parser};
use crate::store::{KeyRange, successor};

const META: u8 = 0x01;
const BUCKET: u8 = 0x02;
const BUCKET_ID: u8 = 0x03;
const TRASH: u8 = 0x04;
const DIRECTORY: u8 = 0x05;
const OBJECT: u8 = 0x10;
const DETAIL: u8 = 0x11;
const UPLOAD: u8 = 0x20;
const PART: u8 = 0x21;
const COMPLETED: u8 = 0x22;
const COMPLETED_EXPIRY: u8 = 0x23;
const OPENED: u8 = 0x24;
const OPERATION: u8 = 0x30;
const JOURNALED: u8 = 0x31;
const COUNTER: u8 = 0x40;
const PENDING: u8 = 0x50;
const FENCE: u8 = 0x60;
const MEMBER: u8 = 0x61;
const POLICY: u8 = 0x70;
const POLICY_TEXT: u8 = 0x71;
const JOB: u8 = 0x72;
const REBUILD_BLOB: u8 = 0x7e;
const REBUILD: u8 = 0x7f;

/// Shards of tables that grow with time, and of counters.
pub const SHARDS: u8 = 16;

/// Counters kept per bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// Objects.
    Objects = 1,
    /// Bytes of objects.
    Bytes = 2,
}

/// The version of this keyspace and its records.
#[must_use]
pub fn format() -> Vec<u8> {
    Key::new(META).raw(b"format")
}

/// The random name of these metadata.
#[must_use]
pub fn cluster_name() -> Vec<u8> {
    Key::new(META).raw(b"cluster-name")
}

/// Which control processes wrote these metadata.
#[must_use]
pub fn cluster_terms() -> Vec<u8> {
    Key::new(META).raw(b"cluster-terms")
}

/// Whose files these metadata were rebuilt from.
#[must_use]
pub fn cluster_rebuilt() -> Vec<u8> {
    Key::new(META).raw(b"cluster-rebuilt")
}

/// The placement table.
#[must_use]
pub fn slot_table() -> Vec<u8> {
    Key::new(META).raw(b"slot-table")
}

/// Whose commits are taken: of which session of a node, and since which table.
#[must_use]
pub fn fence(node: &NodeId) -> Vec<u8> {
    Key::new(FENCE).raw(node.as_str().as_bytes())
}

/// A member of the cluster.
#[must_use]
pub fn member(node: &NodeId) -> Vec<u8> {
    Key::new(MEMBER).raw(node.as_str().as_bytes())
}

/// All members in order of name.
#[must_use]
pub fn members() -> KeyRange {
    KeyRange::prefix(&[MEMBER])
}

/// The counter from which bucket ids are taken.
#[must_use]
pub fn last_bucket_id() -> Vec<u8> {
    Key::new(META).raw(b"last-bucket-id")
}

/// The version of the path policies in force.
#[must_use]
pub fn policy_version() -> Vec<u8> {
    Key::new(META).raw(b"policy-version")
}

/// One version of the path policies.
#[must_use]
pub fn policy(version: u64) -> Vec<u8> {
    Key::new(POLICY).u64(version).done()
}

/// All versions of the path policies that are kept, oldest first.
#[must_use]
pub fn policies() -> KeyRange {
    KeyRange::prefix(&[POLICY])
}

/// Takes a [`policy`] key apart.
#[must_use]
pub fn parse_policy(key: &[u8]) -> Option<u64> {
    let mut rest = Parser::of(key, POLICY)?;
    let version = u64::from_be_bytes(rest.take()?);
    rest.end(version)
}

/// A piece of the text of a version of the path policies.
#[must_use]
pub fn policy_text(version: u64, piece: u32) -> Vec<u8> {
    Key::new(POLICY_TEXT).u64(version).raw(&piece.to_be_bytes())
}

/// All pieces of the text of a version, in order.
#[must_use]
pub fn policy_texts(version: u64) -> KeyRange {
    KeyRange::prefix(&Key::new(POLICY_TEXT).u64(version).done())
}

/// The counter from which numbers of jobs are taken.
#[must_use]
pub fn last_job() -> Vec<u8> {
    Key::new(META).raw(b"last-job")
}

/// A job.
#[must_use]
pub fn job(number: u64) -> Vec<u8> {
    Key::new(JOB).u64(number).done()
}

/// All jobs that are kept, oldest first.
#[must_use]
pub fn jobs() -> KeyRange {
    KeyRange::prefix(&[JOB])
}

/// Takes a [`job`] key apart.
#[must_use]
pub fn parse_job(key: &[u8]) -> Option<u64> {
    let mut rest = Parser::of(key, JOB)?;
    let number = u64::from_be_bytes(rest.take()?);
    rest.end(number)
}

/// The sequence up to which all entries of the journal are settled.
#[must_use]
pub fn journal_through() -> Vec<u8> {
    Key::new(META).raw(b"journal-through")
}

/// A number that every start raises, so that its commit is newer than all before.
#[must_use]
pub fn starts() -> Vec<u8> {
    Key::new(META).raw(b"starts")
}

/// Says that a store has a blob, while metadata are rebuilt.
#[must_use]
pub fn rebuild_blob(blob: BlobId, source: u32) -> Vec<u8> {
    Key::new(REBUILD_BLOB)
        .u128(blob.0)
        .raw(&source.to_be_bytes())
}

/// All that is said of one blob so.
#[must_use]
pub fn rebuild_blobs(blob: BlobId) -> KeyRange {
    KeyRange::prefix(&Key::new(REBUILD_BLOB).u128(blob.0).done())
}

/// All that is said of blobs so.
#[must_use]
pub fn all_rebuild_blobs() -> KeyRange {
    KeyRange::prefix(&[REBUILD_BLOB])
}

/// The store of a [`rebuild_blob`] key.
#[must_use]
pub fn parse_rebuild_blob(key: &[u8]) -> Option<u32> {
    let (_, source) = key.split_last_chunk::<4>()?;
    Some(u32::from_be_bytes(*source))
}

/// What is known of a key while metadata are rebuilt.
#[must_use]
pub fn rebuild(bucket: BucketId, key: &ObjectKey) -> Vec<u8> {
    Key::of(REBUILD, bucket).raw(key.as_str().as_bytes())
}

/// All of it, after one key.
#[must_use]
pub fn rebuilds(after: Option<(BucketId, &ObjectKey)>) -> KeyRange {
    let range = KeyRange::prefix(&[REBUILD]);
    match after {
        Some((bucket, key)) => start_at(range, successor(&rebuild(bucket, key))),
        None => range,
    }
}

/// Takes a [`rebuild`] key apart.
#[must_use]
pub fn parse_rebuild(key: &[u8]) -> Option<(BucketId, ObjectKey)> {
    parse_keyed(key, REBUILD)
}

/// What no object tells: buckets, mounts, policies. Few rows, seldom changed.
#[must_use]
pub fn names() -> Vec<KeyRange> {
    let numbers = [last_bucket_id(), policy_version()];
    let tables = [BUCKET, BUCKET_ID, DIRECTORY, POLICY, POLICY_TEXT];
    let numbers = numbers.iter().map(|key| KeyRange::point(key));
    let tables = tables.iter().map(|table| KeyRange::prefix(&[*table]));
    numbers.chain(tables).collect()
}

/// The store whose journal belongs to this metadata.
#[must_use]
pub fn journal_of() -> Vec<u8> {
    Key::new(META).raw(b"journal-of")
}

/// A bucket by its name.
#[must_use]
pub fn bucket(name: &BucketName) -> Vec<u8> {
    Key::new(BUCKET).raw(name.as_str().as_bytes())
}

/// All buckets in order of name.
#[must_use]
pub fn buckets() -> KeyRange {
    KeyRange::prefix(&[BUCKET])
}

/// A bucket by its id.
#[must_use]
pub fn bucket_id(bucket: BucketId) -> Vec<u8> {
    Key::of(BUCKET_ID, bucket).done()
}

/// A bucket whose rows are to be removed.
#[must_use]
pub fn trash(bucket: BucketId) -> Vec<u8> {
    Key::of(TRASH, bucket).done()
}

/// The identity of the directory a bucket was written to.
#[must_use]
pub fn directory(bucket: BucketId) -> Vec<u8> {
    Key::of(DIRECTORY, bucket).done()
}

/// All buckets whose rows are to be removed.
#[must_use]
pub fn trashes() -> KeyRange {
    KeyRange::prefix(&[TRASH])
}

/// Takes a [`trash`] key apart.
#[must_use]
pub fn parse_trash(key: &[u8]) -> Option<BucketId> {
    let mut rest = Parser::of(key, TRASH)?;
    let bucket = rest.bucket()?;
    rest.end(bucket)
}

/// Every table that holds rows of one bucket, but for the bucket's own.
#[must_use]
pub fn bucket_rows(bucket: BucketId) -> [KeyRange; 8] {
    [
        OBJECT, DETAIL, UPLOAD, PART, COMPLETED, OPENED, COUNTER, PENDING,
    ]
    .map(|table| KeyRange::prefix(&Key::of(table, bucket).done()))
}

/// An object.
#[must_use]
pub fn object(bucket: BucketId, key: &ObjectKey) -> Vec<u8> {
    Key::of(OBJECT, bucket).raw(key.as_str().as_bytes())
}

/// Objects whose S3 key begins with `prefix` and is at least `from`.
#[must_use]
pub fn objects(bucket: BucketId, prefix: &str, from: &str) -> KeyRange {
    let range = KeyRange::prefix(&Key::of(OBJECT, bucket).raw(prefix.as_bytes()));
    let from = Key::of(OBJECT, bucket).raw(from.as_bytes());
    start_at(range, from.into())
}

/// Takes an [`object`] key apart.
#[must_use]
pub fn parse_object(key: &[u8]) -> Option<(BucketId, ObjectKey)> {
    parse_keyed(key, OBJECT)
}

/// A piece of an object's detail.
#[must_use]
pub fn detail(bucket: BucketId, id: u128, piece: u32) -> Vec<u8> {
    Key::of(DETAIL, bucket).u128(id).raw(&piece.to_be_bytes())
}

/// All pieces of an object's detail, in order.
#[must_use]
pub fn details(bucket: BucketId, id: u128) -> KeyRange {
    KeyRange::prefix(&Key::of(DETAIL, bucket).u128(id).done())
}

/// An upload.
#[must_use]
pub fn upload(bucket: BucketId, key: &ObjectKey, id: UploadId) -> Vec<u8> {
    Key::of(UPLOAD, bucket)
        .escaped(key.as_str())
        .u128(id.0)
        .done()
}

/// Uploads whose S3 key begins with `prefix`, after a key (and upload of it).
/// Without an upload id, all uploads of that key are passed over.
#[must_use]
pub fn uploads(
    bucket: BucketId,
    prefix: &str,
    after: Option<(&str, Option<UploadId>)>,
) -> KeyRange {
    let mut begin = Key::of(UPLOAD, bucket).done();
    escape::append(&mut begin, prefix.as_bytes());
    let range = KeyRange::prefix(&begin);
    let Some((key, id)) = after else { return range };
    let after = Key::of(UPLOAD, bucket).escaped(key);
    let from = match id {
        Some(id) => successor(&after.u128(id.0).done()),
        None => KeyRange::prefix(&after.done()).end,
    };
    start_at(range, from)
}

/// All uploads of a bucket.
#[must_use]
pub fn all_uploads(bucket: BucketId) -> KeyRange {
    KeyRange::prefix(&Key::of(UPLOAD, bucket).done())
}

/// A part of an upload.
#[must_use]
pub fn part(bucket: BucketId, upload: UploadId, number: u16) -> Vec<u8> {
    Key::of(PART, bucket)
        .u128(upload.0)
        .raw(&number.to_be_bytes())
}

/// Parts of an upload with a number greater than `after`, in order.
#[must_use]
pub fn parts(bucket: BucketId, upload: UploadId, after: u16) -> KeyRange {
    let range = KeyRange::prefix(&Key::of(PART, bucket).u128(upload.0).done());
    start_at(range, successor(&part(bucket, upload, after)))
}

/// A completed upload.
#[must_use]
pub fn completed(bucket: BucketId, upload: UploadId) -> Vec<u8> {
    Key::of(COMPLETED, bucket).u128(upload.0).done()
}

/// A completed upload by the time it may be forgotten, ms since the Unix epoch.
#[must_use]
pub fn completed_expiry(expires_ms: i64, bucket: BucketId, upload: UploadId) -> Vec<u8> {
    Key::new(COMPLETED_EXPIRY)
        .u8(shard(upload.0))
        .time(expires_ms)
        .u64(bucket.0)
        .u128(upload.0)
        .done()
}

/// Completed uploads of a shard that may be forgotten at `now_ms`.
#[must_use]
pub fn completed_expired(shard: u8, now_ms: i64) -> KeyRange {
    let shard = Key::new(COMPLETED_EXPIRY).u8(shard).done();
    let end = Key(shard.clone()).time(now_ms).done();
    KeyRange::new(shard, KeyRange::prefix(&end).end)
}

/// Takes a [`completed_expiry`] key apart.
#[must_use]
pub fn parse_completed_expiry(key: &[u8]) -> Option<(BucketId, UploadId)> {
    let mut rest = Parser::of(key, COMPLETED_EXPIRY)?;
    rest.take::<1>()?;
    rest.take::<8>()?;
    let bucket = rest.bucket()?;
    let upload = UploadId(u128::from_be_bytes(rest.take()?));
    rest.end((bucket, upload))
}

/// An upload that we have opened in a UFS.
#[must_use]
pub fn opened(bucket: BucketId, key: &ObjectKey, id: UploadId) -> Vec<u8> {
    Key::of(OPENED, bucket)
        .escaped(key.as_str())
        .u128(id.0)
        .done()
}

/// All uploads that we have opened in UFSs, after one.
#[must_use]
pub fn all_opened(after: Option<(BucketId, &ObjectKey, UploadId)>) -> KeyRange {
    let range = KeyRange::prefix(&[OPENED]);
    match after {
        Some((bucket, key, id)) => start_at(range, successor(&opened(bucket, key, id))),
        None => range,
    }
}

/// The bucket of an [`opened`] key.
#[must_use]
pub fn parse_opened_bucket(key: &[u8]) -> Option<BucketId> {
    Parser::of(key, OPENED)?.bucket()
}

/// An operation begun in `minute` since the Unix epoch.
#[must_use]
pub fn operation(minute: u64, id: u128) -> Vec<u8> {
    Key::new(OPERATION)
        .u8(shard(id))
        .u64(minute)
        .u128(id)
        .done()
}

/// Operations of a shard begun before `minute`.
#[must_use]
pub fn operations_before(shard: u8, minute: u64) -> KeyRange {
    let shard = Key::new(OPERATION).u8(shard).done();
    let end = Key(shard.clone()).u64(minute).done();
    KeyRange::new(shard, end)
}

/// An operation that a journal has as entry `sequence`.
#[must_use]
pub fn journaled(sequence: u64, id: u128) -> Vec<u8> {
    Key::new(JOURNALED)
        .u8(shard(id))
        .u64(sequence)
        .u128(id)
        .done()
}

/// Operations of a shard that a journal has as entries up to `sequence`.
#[must_use]
pub fn journaled_through(shard: u8, sequence: u64) -> KeyRange {
    let shard = Key::new(JOURNALED).u8(shard).done();
    let last = Key(shard.clone()).u64(sequence).done();
    KeyRange::new(shard, KeyRange::prefix(&last).end)
}

/// One shard of a bucket's counter, a little-endian 64-bit number.
#[must_use]
pub fn counter(bucket: BucketId, counter: Counter, shard: u8) -> Vec<u8> {
    Key::of(COUNTER, bucket).u8(counter as u8).u8(shard).done()
}

/// All shards of a bucket's counter.
#[must_use]
pub fn counters(bucket: BucketId, counter: Counter) -> KeyRange {
    KeyRange::prefix(&Key::of(COUNTER, bucket).u8(counter as u8).done())
}

/// The change of a key that the UFS does not have yet.
#[must_use]
pub fn pending(bucket: BucketId, key: &ObjectKey) -> Vec<u8> {
    Key::of(PENDING, bucket).raw(key.as_str().as_bytes())
}

/// All pending changes of a bucket.
#[must_use]
pub fn bucket_pendings(bucket: BucketId) -> KeyRange {
    KeyRange::prefix(&Key::of(PENDING, bucket).done())
}

/// Pending changes of the keys of a bucket that begin with `prefix`.
#[must_use]
pub fn pendings_below(bucket: BucketId, prefix: &str) -> KeyRange {
    KeyRange::prefix(&Key::of(PENDING, bucket).raw(prefix.as_bytes()))
}

/// Pending changes in order of bucket and key, after one.
#[must_use]
pub fn pendings(after: Option<(BucketId, &ObjectKey)>) -> KeyRange {
    let range = KeyRange::prefix(&[PENDING]);
    match after {
        Some((bucket, key)) => start_at(range, successor(&pending(bucket, key))),
        None => range,
    }
}

/// Takes a [`pending`] key apart.
#[must_use]
pub fn parse_pending(key: &[u8]) -> Option<(BucketId, ObjectKey)> {
    parse_keyed(key, PENDING)
}

/// The shard of a random id.
#[must_use]
pub fn shard(id: u128) -> u8 {
    (id % u128::from(SHARDS)) as u8
}

/// Takes apart a key of a table by bucket and S3 key.
fn parse_keyed(key: &[u8], table: u8) -> Option<(BucketId, ObjectKey)> {
    let mut rest = Parser::of(key, table)?;
    let bucket = rest.bucket()?;
    let key = std::str::from_utf8(rest.0).ok()?;
    Some((bucket, ObjectKey::new(key).ok()?))
}

/// `range` without the keys before `start`.
fn start_at(mut range: KeyRange, start: Bytes) -> KeyRange {
    range.start = range.start.max(start);
    range
}
