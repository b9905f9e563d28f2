//! What each metadata call does: its arguments, the namespace's method, its answer.
//! Absent: who may make it, and how often it is sent.

use quickwater_proto::{
    BlobId, BucketId, BucketName, Committed, Holders, MetadataError, ObjectKey, ObjectRecord,
    UploadId, Version,
};
use quickwater_rpc::cluster as wire;
use wire::Operation as O;

use super::wire::{
    Mistaken, condition, identity, key, line_to_wire, number, number_to_wire, object,
    object_to_wire, pairs, part_of, row_entry, upload_id,
};
use crate::Namespace;
use crate::namespace::PolicyError;
use crate::records::{
    decode_bucket, decode_journal_entry, decode_opened, decode_part, decode_upload, encode_bucket,
    encode_held, encode_opened, encode_part, encode_part_held, encode_upload,
};
use crate::store::Store;

type Done = Result<wire::Answer, MetadataError>;

/// Which key a change is about; `None`: none in particular.
pub(super) fn changed_key(
    operation: O,
    call: &wire::Call,
) -> Result<Option<(BucketId, ObjectKey)>, Mistaken> {
    let bucket = BucketId(call.bucket);
    Ok(match operation {
        O::CommitEntry => {
            let entry = decode_journal_entry(&call.row)?;
            Some((entry.bucket, entry.key))
        }
        O::NoteOpened => Some((bucket, decode_opened(&call.row)?.key)),
        O::CreateUpload | O::PutPart | O::HandOver | O::CompleteUpload => {
            Some((bucket, decode_upload(&call.row)?.key))
        }
        O::CommitObject
        | O::RemoveObject
        | O::RemoveObjectPending
        | O::EndPending
        | O::SetHolders
        | O::NoteRequest
        | O::ForgetOpened
        | O::AbortUpload => Some((bucket, key(&call.key)?)),
        _ => None,
    })
}

/// Makes a call.
pub(super) async fn make<S: Store>(names: &Namespace<S>, operation: O, call: &wire::Call) -> Done {
    match operation {
        // Members are the cluster's to know.
        O::Unspecified | O::Lost | O::CopyState => Err(Mistaken::new("no such operation").into()),
        O::Bucket | O::Buckets | O::CreateBucket | O::DeleteBucket | O::SetBucketTags => {
            buckets(names, operation, call).await
        }
        O::Object | O::CommitObject | O::RemoveObject | O::CommitEntry => {
            objects(names, operation, call).await
        }
        O::RemoveObjectPending
        | O::Pending
        | O::PendingChanges
        | O::EndPending
        | O::SetHolders
        | O::NoteRequest => pending(names, operation, call).await,
        O::Scan | O::ScanFolded => scans(names, operation, call).await,
        O::NoteOpened | O::ForgetOpened | O::Opened => opened(names, operation, call).await,
        O::CreateUpload
        | O::Upload
        | O::Uploads
        | O::CompleteUpload
        | O::Completed
        | O::AbortUpload
        | O::HandOver => uploads(names, operation, call).await,
        O::PutPart | O::Parts => parts(names, operation, call).await,
        O::Flush => names.flush().await.map(|()| nothing()),
        O::Policies => policies(names).await,
        O::Names => name_rows(names, &call.row, call.limit).await,
        O::Directory => {
            let text = names.directory(BucketId(call.bucket)).await?;
            Ok(wire::Answer { text, ..nothing() })
        }
        O::SetDirectory => {
            let identity = call.flag.then_some(call.text.as_str());
            let bucket = BucketId(call.bucket);
            names.set_directory(bucket, identity).await?;
            Ok(nothing())
        }
    }
}

fn nothing() -> wire::Answer {
    wire::Answer::default()
}

fn rows(entries: Vec<wire::Entry>) -> wire::Answer {
    wire::Answer {
        entries,
        ..nothing()
    }
}

fn too_large(error: crate::records::RecordError) -> MetadataError {
    Mistaken::from(error).into()
}

fn limit(call: &wire::Call) -> usize {
    usize::try_from(call.limit).unwrap_or(usize::MAX)
}

async fn buckets<S: Store>(names: &Namespace<S>, operation: O, call: &wire::Call) -> Done {
    let entry = |bucket: &quickwater_proto::Bucket| {
        Ok(row_entry(encode_bucket(bucket).map_err(too_large)?))
    };
    let id = BucketId(call.bucket);
    match operation {
        O::Bucket => {
            let name = BucketName::new(&call.text).map_err(Mistaken::new)?;
            let found = names.bucket(&name).await?;
            let found: Result<_, MetadataError> = found.iter().map(entry).collect();
            Ok(rows(found?))
        }
        O::Buckets => {
            let all = names.buckets().await?;
            let all: Result<_, MetadataError> = all.iter().map(entry).collect();
            Ok(rows(all?))
        }
        O::CreateBucket => {
            let bucket = decode_bucket(&call.row).map_err(Mistaken::from)?;
            let made = names.create_bucket(&bucket).await?;
            Ok(rows(vec![entry(&made)?]))
        }
        O::DeleteBucket => {
            names.delete_bucket(id, call.flag).await?;
            Ok(nothing())
        }
        _ => {
            names.set_bucket_tags(id, &pairs(&call.pairs)).await?;
            Ok(nothing())
        }
    }
}

async fn objects<S: Store>(names: &Namespace<S>, operation: O, call: &wire::Call) -> Done {
    let bucket = BucketId(call.bucket);
    match operation {
        O::Object => found(names.object(bucket, &key(&call.key)?).await?.as_ref()),
        O::CommitObject => {
            let record = call.object.as_ref();
            let record = object(record.ok_or_else(|| Mistaken::new("no object"))?)?;
            let condition = condition(call.condition.as_ref())?;
            let key = key(&call.key)?;
            let done = names.commit_object(bucket, &key, &record, &condition).await;
            committed(&done?)
        }
        O::CommitEntry => committed(&names.commit_entry(&call.row).await?),
        _ => {
            let condition = condition(call.condition.as_ref())?;
            let key = key(&call.key)?;
            let removed = names.remove_object(bucket, &key, &condition).await?;
            found(removed.as_ref())
        }
    }
}

fn found(record: Option<&ObjectRecord>) -> Done {
    let object = record.map(object_to_wire).transpose().map_err(too_large)?;
    Ok(wire::Answer {
        object,
        ..nothing()
    })
}

fn committed(committed: &Committed) -> Done {
    versioned(committed.version, committed.replaced.as_ref())
}

fn versioned(version: Version, record: Option<&ObjectRecord>) -> Done {
    Ok(wire::Answer {
        version: number_to_wire(version.0),
        ..found(record)?
    })
}

async fn pending<S: Store>(names: &Namespace<S>, operation: O, call: &wire::Call) -> Done {
    let bucket = BucketId(call.bucket);
    match operation {
        O::RemoveObjectPending => {
            let condition = condition(call.condition.as_ref())?;
            let key = key(&call.key)?;
            let done = names.remove_object_pending(bucket, &key, &condition).await;
            let (version, record) = done?;
            versioned(version, record.as_ref())
        }
        O::Pending => {
            let found = names.pending_held(bucket, &key(&call.key)?).await?;
            let row = found.as_ref().map(|(row, held)| encode_held(row, held));
            let row = row.transpose();
            Ok(rows(
                row.map_err(too_large)?.map(row_entry).into_iter().collect(),
            ))
        }
        O::PendingChanges => {
            let after = call.positioned.then(|| key(&call.key)).transpose()?;
            let after = after.as_ref().map(|key| (bucket, key));
            let page = names.pending_changes(after, limit(call)).await?;
            let entry = |((bucket, key, record), held): (&(BucketId, ObjectKey, _), Holders)| {
                Ok(wire::Entry {
                    bucket: bucket.0,
                    key: key.as_str().to_owned(),
                    row: encode_held(record, &held).map_err(too_large)?,
                    ..wire::Entry::default()
                })
            };
            let holders = page.holders.into_iter().zip(page.copies);
            let holders = holders.map(|(nodes, copies)| Holders { nodes, copies });
            let entries = page.entries.iter().zip(holders).map(entry);
            let entries: Result<_, MetadataError> = entries.collect();
            Ok(wire::Answer {
                more: page.more,
                ..rows(entries?)
            })
        }
        O::EndPending => {
            let (key, version) = (key(&call.key)?, Version(number(&call.version)?));
            let ufs = call.ufs.as_ref().map(identity);
            let ended = names.end_pending(bucket, &key, version, ufs.as_ref(), call.time_ms);
            Ok(wire::Answer {
                flag: ended.await?,
                ..nothing()
            })
        }
        O::SetHolders if let Some(part) = part_of(call)? => {
            let blob = BlobId(number(&call.blob)?);
            Ok(wire::Answer {
                flag: names.set_part_holders(bucket, part, blob).await?,
                ..nothing()
            })
        }
        O::SetHolders => {
            let (key, version) = (key(&call.key)?, Version(number(&call.version)?));
            Ok(wire::Answer {
                flag: names.set_holders(bucket, &key, version, call.flag).await?,
                ..nothing()
            })
        }
        _ => {
            let until_ms = call.time_ms.unwrap_or(i64::MAX);
            let key = key(&call.key)?;
            versioned(names.note_request(bucket, &key, until_ms).await?, None)
        }
    }
}

async fn scans<S: Store>(names: &Namespace<S>, operation: O, call: &wire::Call) -> Done {
    let (bucket, limit) = (BucketId(call.bucket), limit(call));
    let page = match operation {
        O::Scan => names.scan(bucket, &call.text, &call.from, limit).await?,
        _ => {
            let (prefix, from) = (&call.text, &call.from);
            names
                .scan_folded(bucket, prefix, from, &call.delimiter, limit)
                .await?
        }
    };
    let lines = page.entries.iter();
    let lines: Result<_, _> = lines
        .map(|(key, record)| line_to_wire(key, record))
        .collect();
    Ok(wire::Answer {
        more: page.more,
        ..rows(lines.map_err(too_large)?)
    })
}

async fn opened<S: Store>(names: &Namespace<S>, operation: O, call: &wire::Call) -> Done {
    let bucket = BucketId(call.bucket);
    match operation {
        O::NoteOpened => {
            let noted = decode_opened(&call.row).map_err(Mistaken::from)?;
            names.note_opened(bucket, &noted).await?;
            Ok(nothing())
        }
        O::ForgetOpened => {
            let (key, id) = (key(&call.key)?, upload_id(&call.upload)?);
            names.forget_opened(bucket, &key, id).await?;
            Ok(nothing())
        }
        _ => {
            let after = match call.positioned {
                true => Some((key(&call.key)?, upload_id(&call.upload)?)),
                false => None,
            };
            let after = after.as_ref().map(|(key, id)| (bucket, key, *id));
            let page = names.opened(after, limit(call)).await?;
            let entry = |(bucket, opened): &(BucketId, _)| {
                Ok(wire::Entry {
                    bucket: bucket.0,
                    key: String::new(),
                    row: encode_opened(opened).map_err(too_large)?,
                    ..wire::Entry::default()
                })
            };
            let entries: Result<_, MetadataError> = page.iter().map(entry).collect();
            Ok(rows(entries?))
        }
    }
}

async fn uploads<S: Store>(names: &Namespace<S>, operation: O, call: &wire::Call) -> Done {
    let bucket = BucketId(call.bucket);
    match operation {
        O::CreateUpload => {
            let upload = decode_upload(&call.row).map_err(Mistaken::from)?;
            names.create_upload(bucket, &upload).await?;
            Ok(nothing())
        }
        O::HandOver => {
            let upload = decode_upload(&call.row).map_err(Mistaken::from)?;
            let opened = upload_id(&call.opened)?;
            names.hand_over(bucket, &upload, opened).await?;
            Ok(nothing())
        }
        O::Uploads => list_uploads(names, bucket, call).await,
        O::CompleteUpload => {
            let upload = decode_upload(&call.row).map_err(Mistaken::from)?;
            let record = call.object.as_ref();
            let record = object(record.ok_or_else(|| Mistaken::new("no object"))?)?;
            let condition = condition(call.condition.as_ref())?;
            let done = names.complete_upload(bucket, &upload, &record, &condition);
            committed(&done.await?)
        }
        _ => {
            let (key, id) = (key(&call.key)?, upload_id(&call.upload)?);
            one_upload(names, operation, (bucket, &key, id)).await
        }
    }
}

async fn list_uploads<S: Store>(names: &Namespace<S>, bucket: BucketId, call: &wire::Call) -> Done {
    let id = match call.upload.is_empty() {
        true => None,
        false => Some(upload_id(&call.upload)?),
    };
    let after = call.positioned.then_some((call.from.as_str(), id));
    let found = names
        .uploads(bucket, &call.text, after, limit(call))
        .await?;
    let found = found
        .iter()
        .map(|upload| encode_upload(upload).map(row_entry));
    Ok(rows(found.collect::<Result<_, _>>().map_err(too_large)?))
}

async fn one_upload<S: Store>(
    names: &Namespace<S>,
    operation: O,
    (bucket, key, id): (BucketId, &ObjectKey, UploadId),
) -> Done {
    match operation {
        O::Upload => {
            let found = names.upload(bucket, key, id).await?;
            let row = found.as_ref().map(encode_upload).transpose();
            Ok(rows(
                row.map_err(too_large)?.map(row_entry).into_iter().collect(),
            ))
        }
        O::Completed => {
            let etag = names.completed(bucket, key, id).await?;
            Ok(wire::Answer {
                text: etag.map(|etag| etag.as_str().to_owned()),
                ..nothing()
            })
        }
        _ => {
            let freed = names.abort_upload(bucket, key, id).await?;
            let freed = freed.iter().map(|part| encode_part(part).map(row_entry));
            Ok(rows(freed.collect::<Result<_, _>>().map_err(too_large)?))
        }
    }
}

async fn parts<S: Store>(names: &Namespace<S>, operation: O, call: &wire::Call) -> Done {
    let bucket = BucketId(call.bucket);
    let found = match operation {
        O::PutPart => {
            let upload = decode_upload(&call.row).map_err(Mistaken::from)?;
            let part = decode_part(&call.part).map_err(Mistaken::from)?;
            let replaced = names.put_part(bucket, &upload, &part).await?;
            let replaced = replaced.map(|part| (part, Holders::default()));
            replaced.into_iter().collect()
        }
        _ => {
            let (key, id) = (key(&call.key)?, upload_id(&call.upload)?);
            let after = call.from.parse().map_err(Mistaken::new)?;
            let limit = limit(call);
            names.parts_held(bucket, &key, id, after, limit).await?
        }
    };
    let found = found.iter();
    let found = found.map(|(part, held)| encode_part_held(part, held).map(row_entry));
    Ok(rows(found.collect::<Result<_, _>>().map_err(too_large)?))
}

async fn policies<S: Store>(names: &Namespace<S>) -> Done {
    let stored = names.policies(None).await.map_err(|error| match error {
        PolicyError::Metadata(error) => error,
        other => MetadataError::Unavailable(other.to_string()),
    })?;
    Ok(wire::Answer {
        number: stored.version,
        text: Some(stored.text),
        ..nothing()
    })
}

/// Rows in one answer, and their bytes, last one apart.
const NAMES_ROWS: usize = 1_000;
const NAMES_BYTES: usize = 512 << 10;

async fn name_rows<S: Store>(names: &Namespace<S>, after: &[u8], known: u64) -> Done {
    let mark = names.names_mark().to_string();
    if after.is_empty() && mark == known.to_string() {
        return Ok(wire::Answer {
            flag: true,
            ..nothing()
        });
    }
    let unavailable = |error: crate::dump::DumpError| MetadataError::Unavailable(error.to_string());
    let store = names.store();
    let (mut entries, mut bytes, mut more) = (Vec::new(), 0, false);
    let mut ranges = crate::keyspace::names();
    ranges.sort_unstable_by(|a, b| a.start.cmp(&b.start));
    for mut range in ranges {
        if *range.end <= *after {
            continue;
        }
        if *range.start <= *after {
            range.start = crate::store::successor(after);
        }
        while !more {
            let (rows, rest) = crate::dump::page(store, &range, NAMES_ROWS)
                .await
                .map_err(unavailable)?;
            for row in rows {
                if entries.len() == NAMES_ROWS || bytes >= NAMES_BYTES {
                    more = true;
                    break;
                }
                range.start = crate::store::successor(&row.key);
                bytes += row.key.len() + row.value.len();
                entries.push(wire::Entry {
                    raw_key: row.key.to_vec(),
                    row: row.value.to_vec(),
                    ..wire::Entry::default()
                });
            }
            if !rest {
                break;
            }
        }
    }
    // After the rows: what they are of is no newer.
    let number = crate::dump::version(store).await.map_err(unavailable)?;
    Ok(wire::Answer {
        number,
        more,
        text: Some(mark),
        ..rows(entries)
    })
}
