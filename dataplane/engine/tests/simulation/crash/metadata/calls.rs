//! What the engine asks of the metadata.

use super::*;

impl Metadata for CrashMetadata {
    async fn bucket(&self, _: &BucketName) -> Result<Option<Bucket>, MetadataError> {
        Ok(Some(self.bucket.clone()))
    }
    async fn buckets(&self) -> Result<Vec<Bucket>, MetadataError> {
        Ok(vec![self.bucket.clone()])
    }
    async fn create_bucket(&self, _: &Bucket) -> Result<Bucket, MetadataError> {
        Err(MetadataError::BucketExists)
    }
    async fn delete_bucket(&self, _: BucketId, _: bool) -> Result<(), MetadataError> {
        Err(MetadataError::BucketNotEmpty)
    }
    async fn set_bucket_tags(
        &self,
        _: BucketId,
        _: &[(String, String)],
    ) -> Result<(), MetadataError> {
        Err(MetadataError::Unavailable("not simulated".into()))
    }

    async fn object(
        &self,
        _: BucketId,
        key: &ObjectKey,
    ) -> Result<Option<ObjectRecord>, MetadataError> {
        Ok(self.read(|rows| rows.objects.get(key).cloned()).await)
    }

    async fn commit_object(
        &self,
        _: BucketId,
        key: &ObjectKey,
        record: &ObjectRecord,
        condition: &PutCondition,
    ) -> Result<Committed, MetadataError> {
        self.order_of(content_of_etag(&record.etag));
        let change = |rows: &mut Rows, at: i64| {
            holds(condition, rows.objects.get(key))?;
            Ok(rows.make_current(key, record, at))
        };
        self.commit(change).await
    }

    async fn remove_object(
        &self,
        _: BucketId,
        key: &ObjectKey,
        _: &PutCondition,
    ) -> Result<Option<ObjectRecord>, MetadataError> {
        let change = |rows: &mut Rows, _: i64| {
            let ended =
                |row: &PendingRecord| row.change != PendingChange::Delete && !is_unanswered(row);
            if rows.pending.get(key).is_some_and(ended) {
                rows.pending.remove(key);
            }
            Ok(rows.objects.remove(key))
        };
        self.commit(change).await
    }

    fn journal_entry(
        &self,
        _: BucketId,
        key: &ObjectKey,
        record: &ObjectRecord,
        sequence: u64,
    ) -> Result<Bytes, MetadataError> {
        let operation = self.sim.random_u128();
        let journaled = Journaled {
            sequence,
            key: key.clone(),
            record: record.clone(),
        };
        let mut state = self.state.borrow_mut();
        state.journaled.insert(operation, journaled);
        Ok(Bytes::copy_from_slice(&operation.to_be_bytes()))
    }

    async fn commit_journaled(
        &self,
        entry: Bytes,
        _: Option<&CopyAt>,
    ) -> Result<Committed, MetadataError> {
        self.sim.jitter().await;
        let faults = self.faults.get();
        if self.sim.below(100) < faults.metadata_refuses {
            return Err(MetadataError::Unavailable("simulated".into()));
        }
        let lost = self.sim.below(100) < faults.metadata_unknown;
        if lost && self.sim.below(2) == 0 {
            return unknown();
        }
        let committed = self.commit_entry(&entry);
        self.sim.jitter().await;
        if lost {
            return unknown();
        }
        let key = self.decode(&entry).map(|(_, key, _)| key);
        // Its operation is known.
        let known = key.and_then(|key| self.current(&key));
        let known = known.map(|record| Committed {
            version: record.version,
            replaced: None,
        });
        committed.or(known).map_or_else(unknown, Ok)
    }

    async fn remove_object_pending(
        &self,
        _: BucketId,
        key: &ObjectKey,
        _: &PutCondition,
    ) -> Result<(Version, Option<ObjectRecord>), MetadataError> {
        let dropped = self.faults.get().broken == Some(Break::DeleteIsNotPending);
        let order = self.next_order();
        let change = |rows: &mut Rows, at: i64| {
            let version = rows.next_version();
            rows.deletes.insert(key.clone(), order);
            match dropped {
                true => drop(rows.pending.remove(key)),
                false => rows.note(key, version, PendingChange::Delete, at),
            }
            Ok((version, rows.objects.remove(key)))
        };
        self.commit(change).await
    }

    async fn pending(
        &self,
        _: BucketId,
        key: &ObjectKey,
    ) -> Result<Option<PendingRecord>, MetadataError> {
        Ok(self.read(|rows| rows.pending.get(key).cloned()).await)
    }

    async fn pending_changes(
        &self,
        after: Option<(BucketId, &ObjectKey)>,
        limit: usize,
    ) -> Result<PendingPage, MetadataError> {
        let page = self.read(|rows| {
            let wanted = |key: &ObjectKey| after.is_none_or(|(_, after)| key > after);
            let found = rows.pending.iter().filter(|(key, _)| wanted(key));
            let found = found.map(|(key, row)| (BucketId(1), key.clone(), row.clone()));
            let mut entries: Vec<_> = found.take(limit + 1).collect();
            let more = entries.len() > limit;
            entries.truncate(limit);
            PendingPage {
                entries,
                more,
                ..PendingPage::default()
            }
        });
        Ok(page.await)
    }

    async fn end_pending(
        &self,
        _: BucketId,
        key: &ObjectKey,
        version: Version,
        ufs: Option<&UfsIdentity>,
        settling: Option<i64>,
    ) -> Result<bool, MetadataError> {
        let change = |rows: &mut Rows, _: i64| {
            let held = |p: &PendingRecord| matches!(p.change, PendingChange::Hold { .. });
            let Some(pending) = rows.pending.get_mut(key) else {
                return Ok(false);
            };
            if pending.version != version || held(pending) {
                return Ok(false);
            }
            if let PendingChange::Put { .. } = pending.change
                && let Some(object) = rows.objects.get_mut(key)
                && object.version == version
            {
                object.persist = PersistState::Persisted;
                object.ufs = ufs.cloned();
            }
            match settling {
                Some(until_ms) => pending.change = PendingChange::Settling { until_ms },
                None => drop(rows.pending.remove(key)),
            }
            Ok(true)
        };
        let ended = self.commit_relaxed(change).await;
        if self.sim.below(100) < self.faults.get().end_unknown {
            self.trace.note("end not heard of", &ended.is_ok());
            return unknown();
        }
        ended
    }

    async fn note_request(
        &self,
        _: BucketId,
        key: &ObjectKey,
        until_ms: i64,
    ) -> Result<Version, MetadataError> {
        self.sim.jitter().await;
        let faults = self.faults.get();
        if self.sim.below(100) < faults.metadata_refuses {
            return Err(MetadataError::Unavailable("simulated".into()));
        }
        if faults.broken == Some(Break::SentIsNotNoted) {
            return Ok(Version::default());
        }
        let now_ms = self.now_ms();
        let noted = {
            let mut state = self.state.borrow_mut();
            let noted = state.live.note_request(key, until_ms, now_ms);
            Self::relax(&mut state);
            noted
        };
        self.sim.jitter().await;
        Ok(noted)
    }

    async fn flush(&self) -> Result<(), MetadataError> {
        if self.faults.get().broken == Some(Break::EndIsNotFlushed) {
            return Ok(());
        }
        self.commit(|_, _| Ok(())).await
    }

    async fn scan(
        &self,
        _: BucketId,
        prefix: &str,
        from: &str,
        limit: usize,
    ) -> Result<ScanPage, MetadataError> {
        let page = self.read(|rows| {
            let wanted = |key: &str| key.starts_with(prefix) && key >= from;
            let found = rows.objects.iter().filter(|(key, _)| wanted(key.as_str()));
            let found = found.map(|(key, row)| (key.clone(), row.clone()));
            let mut entries: Vec<_> = found.take(limit + 1).collect();
            let more = entries.len() > limit;
            entries.truncate(limit);
            ScanPage { entries, more }
        });
        Ok(page.await)
    }

    async fn note_opened(&self, _: BucketId, opened: &OpenedUpload) -> Result<(), MetadataError> {
        if self.faults.get().broken == Some(Break::UploadIsNotNoted) {
            return Ok(());
        }
        let change = |rows: &mut Rows, _: i64| {
            let place = (opened.key.clone(), opened.id);
            rows.opened.insert(place, opened.clone());
            Ok(())
        };
        self.commit(change).await
    }

    async fn forget_opened(
        &self,
        _: BucketId,
        key: &ObjectKey,
        id: UploadId,
    ) -> Result<(), MetadataError> {
        let change = |rows: &mut Rows, _: i64| {
            rows.opened.remove(&(key.clone(), id));
            Ok(())
        };
        self.commit(change).await
    }

    async fn create_upload(&self, _: BucketId, upload: &UploadRecord) -> Result<(), MetadataError> {
        let change = |rows: &mut Rows, _: i64| {
            let place = (upload.key.clone(), upload.id);
            rows.opened.remove(&place);
            rows.uploads.insert(place, upload.clone());
            Ok(())
        };
        self.commit(change).await
    }

    async fn upload(
        &self,
        _: BucketId,
        key: &ObjectKey,
        id: UploadId,
    ) -> Result<Option<UploadRecord>, MetadataError> {
        let place = (key.clone(), id);
        Ok(self.read(|rows| rows.uploads.get(&place).cloned()).await)
    }

    async fn put_part(
        &self,
        _: BucketId,
        upload: &UploadRecord,
        part: &PartRecord,
    ) -> Result<Option<PartRecord>, MetadataError> {
        let change = |rows: &mut Rows, _: i64| {
            let place = (upload.key.clone(), upload.id);
            if !rows.uploads.contains_key(&place) {
                return Err(MetadataError::NoSuchUpload);
            }
            Ok(rows.parts.insert((upload.id, part.number), part.clone()))
        };
        let replaced = self.commit(change).await?;
        let same = |old: &PartRecord| old.held && old.blob == part.blob;
        if !part.held && replaced.as_ref().is_some_and(same) {
            self.trace.note("held part sent", &part.number);
        }
        Ok(replaced)
    }

    async fn hand_over(
        &self,
        _: BucketId,
        upload: &UploadRecord,
        opened: UploadId,
    ) -> Result<(), MetadataError> {
        let broken = self.faults.get().broken;
        let change = |rows: &mut Rows, _: i64| {
            let place = (upload.key.clone(), upload.id);
            if !rows.uploads.contains_key(&place) {
                return Err(MetadataError::NoSuchUpload);
            }
            rows.opened.remove(&(upload.key.clone(), opened));
            rows.uploads.insert(place, upload.clone());
            for (_, part) in rows.parts.range_mut((upload.id, 0)..=(upload.id, u16::MAX)) {
                part.held = broken != Some(Break::HeldIsNotMarked);
            }
            Ok(())
        };
        let handed_over = self.commit(change).await;
        self.trace.note("handed over", &handed_over.is_ok());
        handed_over
    }

    async fn parts(
        &self,
        _: BucketId,
        key: &ObjectKey,
        id: UploadId,
        after: u16,
        limit: usize,
    ) -> Result<Vec<PartRecord>, MetadataError> {
        let place = (key.clone(), id);
        let found = self.read(|rows| {
            if !rows.uploads.contains_key(&place) {
                return Err(MetadataError::NoSuchUpload);
            }
            let range = rows.parts.range((id, after + 1)..=(id, u16::MAX));
            Ok(range.take(limit).map(|(_, part)| part.clone()).collect())
        });
        found.await
    }

    async fn uploads(
        &self,
        _: BucketId,
        _: &str,
        _: Option<(&str, Option<UploadId>)>,
        _: usize,
    ) -> Result<Vec<UploadRecord>, MetadataError> {
        Ok(self.open_uploads())
    }

    async fn complete_upload(
        &self,
        _: BucketId,
        upload: &UploadRecord,
        record: &ObjectRecord,
        _: &PutCondition,
    ) -> Result<Committed, MetadataError> {
        self.order_of(content_of_etag(&record.etag));
        let change = |rows: &mut Rows, at: i64| {
            let place = (upload.key.clone(), upload.id);
            if rows.uploads.remove(&place).is_none() {
                return Err(MetadataError::NoSuchUpload);
            }
            rows.parts.retain(|(of, _), _| *of != upload.id);
            Ok(rows.make_current(&upload.key, record, at))
        };
        self.commit(change).await
    }

    async fn completed(
        &self,
        _: BucketId,
        _: &ObjectKey,
        _: UploadId,
    ) -> Result<Option<ETag>, MetadataError> {
        Ok(None)
    }

    async fn abort_upload(
        &self,
        _: BucketId,
        key: &ObjectKey,
        id: UploadId,
    ) -> Result<Vec<PartRecord>, MetadataError> {
        let change = |rows: &mut Rows, _: i64| {
            let place = (key.clone(), id);
            if rows.uploads.remove(&place).is_none() {
                return Err(MetadataError::NoSuchUpload);
            }
            let parts = rows.parts.extract_if(.., |(of, _), _| *of == id);
            Ok(parts.map(|(_, part)| part).collect())
        };
        self.commit(change).await
    }
}
