//! What time it is at the store, by the `Date` of an answer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use quickwater_proto::UfsError;

use super::S3;
use super::errors::failed;
use crate::client::StoreClock;

/// Reads the `Date` of whatever is answered, a refusal included.
#[derive(Debug, Clone, Default)]
struct ReadDate(Arc<Mutex<Option<(SystemTime, SystemTime)>>>);

impl Intercept for ReadDate {
    fn name(&self) -> &'static str {
        "ReadDate"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date").and_then(http_date);
        if let Some(date) = date {
            let seen = Some((date, SystemTime::now()));
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = seen;
        }
        Ok(())
    }
}

fn http_date(text: &str) -> Option<SystemTime> {
    let date = DateTime::from_str(text, DateTimeFormat::HttpDate).ok()?;
    let seconds = u64::try_from(date.secs()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

impl S3 {
    /// Asks for the bucket's head, of whose answer only the `Date` counts.
    pub(crate) async fn clock(&self) -> Result<Option<StoreClock>, UfsError> {
        let read = ReadDate::default();
        let head = self.client.head_bucket().bucket(&self.bucket);
        let head = head.customize().interceptor(read.clone());
        self.request("clock", async move {
            let begun = Instant::now();
            let answer = head.send().await;
            let took = begun.elapsed();
            let seen = *read.0.lock().unwrap_or_else(PoisonError::into_inner);
            match (seen, answer) {
                (Some((date, at)), _) => Ok(Some(StoreClock { date, at, took })),
                (None, Ok(_)) => Ok(None),
                (None, Err(error)) => Err(failed("clock", false, &error)),
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_http_are_read() {
        let read = http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let since = read.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(since.as_secs(), 784_111_777);
        for bad in ["", "yesterday", "1994-11-06T08:49:37Z"] {
            assert_eq!(http_date(bad), None, "{bad}");
        }
    }
}
