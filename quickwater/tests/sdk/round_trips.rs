//! Whole objects out and in, with every checksum. Absent: parts of objects.

use std::sync::{Arc, Mutex};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode};

use crate::service::{BUCKET, Service, assert_refused, assert_same, pattern};

const SIZES: [usize; 4] = [0, 1, 10 << 10, 3 << 20];
const NOTE: &str = "one two, three = 3";

/// Checksums the SDK can compute itself, and so verify in an answer.
const ALGORITHMS: [ChecksumAlgorithm; 5] = [
    ChecksumAlgorithm::Crc32,
    ChecksumAlgorithm::Crc32C,
    ChecksumAlgorithm::Crc64Nvme,
    ChecksumAlgorithm::Sha1,
    ChecksumAlgorithm::Sha256,
];

/// Keeps the framing headers of the requests as they are sent.
#[derive(Debug, Clone, Default)]
struct Framing(Arc<Mutex<Vec<[Option<String>; 3]>>>);

impl Intercept for Framing {
    fn name(&self) -> &'static str {
        "Framing"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.request().headers();
        let names = ["content-encoding", "x-amz-content-sha256", "x-amz-trailer"];
        let found = names.map(|name| headers.get(name).map(str::to_owned));
        self.0.lock().unwrap().push(found);
        Ok(())
    }
}

/// Puts from memory, with the type and the metadata that `check` wants.
pub async fn put(client: &Client, key: &str, body: &[u8]) -> String {
    let put = client.put_object().bucket(BUCKET).key(key);
    let put = put.body(ByteStream::from(body.to_vec()));
    let put = put.content_type("text/x-quickwater").metadata("note", NOTE);
    put.send().await.unwrap().e_tag.unwrap()
}

/// GET with checksum mode, which makes the SDK verify, and HEAD agree with `body`.
pub async fn check(client: &Client, key: &str, body: &[u8], etag: &str) {
    let len = i64::try_from(body.len()).unwrap();
    let head = client.head_object().bucket(BUCKET).key(key);
    let head = head.checksum_mode(ChecksumMode::Enabled);
    let head = head.send().await.unwrap();
    let get = client.get_object().bucket(BUCKET).key(key);
    let get = get.checksum_mode(ChecksumMode::Enabled);
    let got = get.send().await.unwrap();
    for (found, found_etag, kind, metadata, crc32) in [
        (
            head.content_length,
            &head.e_tag,
            &head.content_type,
            &head.metadata,
            &head.checksum_crc32,
        ),
        (
            got.content_length,
            &got.e_tag,
            &got.content_type,
            &got.metadata,
            &got.checksum_crc32,
        ),
    ] {
        assert_eq!(found, Some(len), "{key}");
        assert_eq!(found_etag.as_deref(), Some(etag), "{key}");
        assert_eq!(kind.as_deref(), Some("text/x-quickwater"), "{key}");
        let metadata = metadata.as_ref().unwrap();
        assert_eq!(
            metadata.get("note").map(String::as_str),
            Some(NOTE),
            "{key}"
        );
        assert_eq!(metadata.len(), 1, "{key}");
        assert!(crc32.is_some(), "{key}: the SDK sent a CRC32");
    }
    assert_eq!(head.checksum_crc32, got.checksum_crc32, "{key}");
    assert_same(&got.body.collect().await.unwrap().into_bytes(), body);
}

#[tokio::test]
async fn objects_come_back_as_they_were_put() {
    let service = Service::start();
    let client = service.client_with_bucket().await;
    for (seed, size) in (1..).zip(SIZES) {
        let (key, body) = (format!("whole/{size}"), pattern(size, seed));
        let etag = put(&client, &key, &body).await;
        check(&client, &key, &body, &etag).await;
        // Once more, now certainly from what was stored.
        check(&client, &key, &body, &etag).await;
        client
            .delete_object()
            .bucket(BUCKET)
            .key(&key)
            .send()
            .await
            .unwrap();
        let gone = client.get_object().bucket(BUCKET).key(&key).send().await;
        assert_refused(gone, 404, "NoSuchKey");
        let gone = client.head_object().bucket(BUCKET).key(&key).send().await;
        assert!(gone.unwrap_err().into_service_error().is_not_found());
        // A delete of what is not there succeeds.
        client
            .delete_object()
            .bucket(BUCKET)
            .key(&key)
            .send()
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn streamed_bodies_come_chunked_with_a_trailer() {
    let service = Service::start();
    let client = service.client_with_bucket().await;
    let dir = tempfile::tempdir().unwrap();
    for (seed, size) in (11..).zip(SIZES) {
        let (key, body) = (format!("streamed/{size}"), pattern(size, seed));
        let path = dir.path().join(size.to_string());
        std::fs::write(&path, &body).unwrap();
        let put = client.put_object().bucket(BUCKET).key(&key);
        let put = put.content_type("text/x-quickwater").metadata("note", NOTE);
        let put = put.body(ByteStream::from_path(&path).await.unwrap());
        let framing = Framing::default();
        let put = put.customize().interceptor(framing.clone());
        let etag = put.send().await.unwrap().e_tag.unwrap();
        let sent = framing.0.lock().unwrap().clone();
        let wanted = [
            "aws-chunked",
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
            "x-amz-checksum-crc32",
        ];
        assert_eq!(sent, [wanted.map(|w| Some(w.to_owned()))], "{size}");
        check(&client, &key, &body, &etag).await;
        let head = client
            .head_object()
            .bucket(BUCKET)
            .key(&key)
            .send()
            .await
            .unwrap();
        assert_eq!(
            head.content_encoding, None,
            "aws-chunked is not of the object"
        );
    }
}

#[tokio::test]
async fn every_checksum_of_the_sdk_is_kept_and_verified() {
    let service = Service::start();
    let client = service.client_with_bucket().await;
    let dir = tempfile::tempdir().unwrap();
    let (path, body) = (dir.path().join("body"), pattern(100_001, 21));
    std::fs::write(&path, &body).unwrap();
    for algorithm in ALGORITHMS {
        for streamed in [false, true] {
            let put = client.put_object().bucket(BUCKET).key("sum");
            let put = put.checksum_algorithm(algorithm.clone());
            let put = put.body(if streamed {
                ByteStream::from_path(&path).await.unwrap()
            } else {
                ByteStream::from(body.clone())
            });
            let put = put.send().await.unwrap();
            let get = client.get_object().bucket(BUCKET).key("sum");
            let got = get
                .checksum_mode(ChecksumMode::Enabled)
                .send()
                .await
                .unwrap();
            let of_put = [
                &put.checksum_crc32,
                &put.checksum_crc32_c,
                &put.checksum_crc64_nvme,
                &put.checksum_sha1,
                &put.checksum_sha256,
            ];
            let of_get = [
                &got.checksum_crc32,
                &got.checksum_crc32_c,
                &got.checksum_crc64_nvme,
                &got.checksum_sha1,
                &got.checksum_sha256,
            ];
            let wanted = ALGORITHMS.map(|a| a == algorithm);
            assert_eq!(
                of_put.map(Option::is_some),
                wanted,
                "{algorithm} {streamed}"
            );
            assert_eq!(of_get, of_put, "{algorithm} {streamed}");
            assert_same(&got.body.collect().await.unwrap().into_bytes(), &body);
        }
    }
}

#[tokio::test]
async fn a_wrong_checksum_stores_nothing() {
    let service = Service::start();
    let client = service.client_with_bucket().await;
    let put = client.put_object().bucket(BUCKET).key("bad");
    // CRC32 of other bytes.
    let put = put.checksum_crc32("AAAAAA==");
    let put = put.body(ByteStream::from_static(b"not those bytes"));
    assert_refused(put.send().await, 400, "BadDigest");
    let got = client.get_object().bucket(BUCKET).key("bad").send().await;
    assert_refused(got, 404, "NoSuchKey");
}
