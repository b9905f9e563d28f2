//! URLs the SDK signs, used by a client that knows nothing of S3.

use std::time::Duration;

use aws_sdk_s3::presigning::{PresignedRequest, PresigningConfig};

use crate::plain::{Answer, fetch};
use crate::service::{BUCKET, Service, assert_same, pattern};

const KEY: &str = "signed/a b+c&é";

fn hour() -> PresigningConfig {
    PresigningConfig::expires_in(Duration::from_secs(3600)).unwrap()
}

fn send(service: &Service, signed: &PresignedRequest, body: Option<&[u8]>) -> Answer {
    fetch(
        service.s3,
        signed.method(),
        signed.uri(),
        signed.headers(),
        body,
    )
}

#[tokio::test]
async fn presigned_urls_put_and_get() {
    let service = Service::start();
    let client = service.client_with_bucket().await;
    let body = pattern((1 << 20) + 17, 61);

    let put = client
        .put_object()
        .bucket(BUCKET)
        .key(KEY)
        .content_type("text/x-signed");
    let put = put.presigned(hour()).await.unwrap();
    let answer = send(&service, &put, Some(&body));
    let text = String::from_utf8_lossy(&answer.body);
    assert_eq!(answer.status, 200, "{}\n{text}", answer.head);

    let get = client.get_object().bucket(BUCKET).key(KEY);
    let get = get.presigned(hour()).await.unwrap();
    let answer = send(&service, &get, None);
    assert_eq!(answer.status, 200, "{}", answer.head);
    assert!(
        answer
            .head
            .to_ascii_lowercase()
            .contains("\r\ncontent-type: text/x-signed"),
        "{}",
        answer.head
    );
    assert_same(&answer.body, &body);
}

#[tokio::test]
async fn a_changed_presigned_url_is_refused() {
    let service = Service::start();
    let client = service.client_with_bucket().await;
    let get = client.get_object().bucket(BUCKET).key("mine");
    let get = get.presigned(hour()).await.unwrap();
    let other = get.uri().replace("/mine?", "/other?");
    assert_ne!(other, get.uri());
    for (method, uri) in [("GET", other.as_str()), ("PUT", get.uri())] {
        let body = (method == "PUT").then_some(&b"forged"[..]);
        let answer = fetch(service.s3, method, uri, get.headers(), body);
        let text = String::from_utf8_lossy(&answer.body);
        assert_eq!(answer.status, 403, "{method} {text}");
        assert!(
            text.contains("<Code>SignatureDoesNotMatch</Code>"),
            "{method} {text}"
        );
    }
    let answer = send(&service, &get, None);
    assert_eq!(
        answer.status, 404,
        "the key is not there, the signature is right"
    );
}
