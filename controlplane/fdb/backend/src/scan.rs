//! Reads a range in as many requests as the cluster makes of it.

use foundationdb::options::StreamingMode;
use foundationdb::{RangeOption, Transaction};
use quickwater_controlplane::store::limits::{SCAN_BYTES_MAX, SCAN_ROWS_MAX};
use quickwater_controlplane::store::{Row, Rows, Scan, StoreError};

use crate::errors::read_error;
use crate::keys::KeyPrefix;

/// The rows of a scan; it may end in the middle of what the cluster sent, whose
/// read conflict then reaches a little further than the rows.
pub(crate) async fn scan(
    transaction: &Transaction,
    prefix: &KeyPrefix,
    scan: &Scan,
) -> Result<Rows, StoreError> {
    let rows_max = scan.rows_max.min(SCAN_ROWS_MAX);
    if scan.range.is_empty() || rows_max == 0 {
        // A read of nothing is a read: what is read later is of this moment.
        transaction.get_read_version().await.map_err(read_error)?;
        let more = !scan.range.is_empty();
        return Ok(Rows {
            more,
            ..Rows::default()
        });
    }
    let mut page = Rows::default();
    let bytes_max = scan.bytes_max.min(SCAN_BYTES_MAX);
    let mut next = Some(range(prefix, scan, rows_max, bytes_max));
    let mut bytes = 0;
    for request in 1.. {
        let Some(option) = next.take() else { break };
        let values = transaction
            .get_range(&option, request, scan.snapshot)
            .await
            .map_err(read_error)?;
        if values.more() && values.is_empty() {
            return Err(StoreError::Again("a page without rows"));
        }
        for row in &values {
            let row = Row {
                key: prefix.take(row.key()),
                value: bytes::Bytes::copy_from_slice(row.value()),
            };
            bytes += row.key.len() + row.value.len();
            page.rows.push(row);
            if page.rows.len() == rows_max || bytes >= bytes_max {
                page.more = true;
                return Ok(page);
            }
        }
        next = option.next_range(&values);
    }
    Ok(page)
}

fn range(
    prefix: &KeyPrefix,
    scan: &Scan,
    rows_max: usize,
    bytes_max: usize,
) -> RangeOption<'static> {
    RangeOption {
        limit: Some(rows_max),
        // 0 would be no target at all.
        target_bytes: bytes_max.max(1),
        mode: StreamingMode::WantAll,
        reverse: scan.reverse,
        ..RangeOption::from(prefix.put_range(&scan.range))
    }
}
