//! Multipart uploads: complete, abort, wrong lists.

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumMode, CompletedMultipartUpload, CompletedPart};

use crate::service::{BUCKET, Service, assert_refused, assert_same, pattern};

const PART: usize = 5 << 20;
const KEY: &str = "parts/three";

async fn begin(client: &Client) -> String {
    let create = client.create_multipart_upload().bucket(BUCKET).key(KEY);
    let create = create
        .content_type("text/x-parts")
        .metadata("note", "in parts");
    create.send().await.unwrap().upload_id.unwrap()
}

async fn upload(client: &Client, id: &str, number: i32, body: &[u8]) -> CompletedPart {
    let part = client.upload_part().bucket(BUCKET).key(KEY).upload_id(id);
    let part = part
        .part_number(number)
        .body(ByteStream::from(body.to_vec()));
    let done = part.send().await.unwrap();
    CompletedPart::builder()
        .part_number(number)
        .set_e_tag(done.e_tag)
        .set_checksum_crc32(done.checksum_crc32)
        .build()
}

#[tokio::test]
async fn three_parts_become_one_object() {
    let service = Service::start();
    let client = service.client_with_bucket().await;
    let body = pattern(2 * PART + 1024, 51);
    let id = begin(&client).await;
    let mut parts = Vec::new();
    for (number, bytes) in (1..).zip(body.chunks(PART)) {
        parts.push(upload(&client, &id, number, bytes).await);
    }
    let listed = client.list_parts().bucket(BUCKET).key(KEY).upload_id(&id);
    let listed = listed.send().await.unwrap();
    let sizes: Vec<_> = listed.parts().iter().filter_map(|p| p.size()).collect();
    assert_eq!(sizes, [5 << 20, 5 << 20, 1024]);
    let got = client.get_object().bucket(BUCKET).key(KEY).send().await;
    assert_refused(got, 404, "NoSuchKey");

    let list = CompletedMultipartUpload::builder()
        .set_parts(Some(parts))
        .build();
    let complete = client.complete_multipart_upload().bucket(BUCKET).key(KEY);
    let complete = complete.upload_id(&id).multipart_upload(list);
    let etag = complete.send().await.unwrap().e_tag.unwrap();
    assert!(etag.ends_with("-3\""), "{etag}");

    let get = client.get_object().bucket(BUCKET).key(KEY);
    let got = get
        .checksum_mode(ChecksumMode::Enabled)
        .send()
        .await
        .unwrap();
    assert_eq!(got.e_tag.as_deref(), Some(etag.as_str()));
    assert_eq!(got.content_type.as_deref(), Some("text/x-parts"));
    assert_eq!(got.metadata.as_ref().unwrap()["note"], "in parts");
    assert_same(&got.body.collect().await.unwrap().into_bytes(), &body);

    let (first, end) = (PART - 10, 2 * PART + 10);
    let get = client.get_object().bucket(BUCKET).key(KEY);
    let get = get.range(format!("bytes={first}-{}", end - 1));
    let got = get.send().await.unwrap().body.collect().await.unwrap();
    assert_same(&got.into_bytes(), &body[first..end]);

    let get = client.get_object().bucket(BUCKET).key(KEY).part_number(2);
    let got = get.send().await.unwrap();
    assert_eq!(got.parts_count, Some(3));
    let got = got.body.collect().await.unwrap();
    assert_same(&got.into_bytes(), &body[PART..2 * PART]);
}

#[tokio::test]
async fn wrong_parts_and_aborts_make_no_object() {
    let service = Service::start();
    let client = service.client_with_bucket().await;
    let id = begin(&client).await;
    let first = upload(&client, &id, 1, b"too small to be first").await;
    let second = upload(&client, &id, 2, b"last").await;
    for (parts, code) in [
        (vec![first.clone(), second.clone()], "EntityTooSmall"),
        (vec![second, first.clone()], "InvalidPartOrder"),
        (
            vec![
                CompletedPart::builder()
                    .part_number(3)
                    .e_tag("\"00\"")
                    .build(),
            ],
            "InvalidPart",
        ),
    ] {
        let list = CompletedMultipartUpload::builder()
            .set_parts(Some(parts))
            .build();
        let complete = client.complete_multipart_upload().bucket(BUCKET).key(KEY);
        let complete = complete.upload_id(&id).multipart_upload(list);
        assert_refused(complete.send().await, 400, code);
    }
    let abort = client.abort_multipart_upload().bucket(BUCKET).key(KEY);
    abort.upload_id(&id).send().await.unwrap();
    let part = client.upload_part().bucket(BUCKET).key(KEY).upload_id(&id);
    let part = part.part_number(1).body(ByteStream::from_static(b"late"));
    assert_refused(part.send().await, 404, "NoSuchUpload");
    let got = client.get_object().bucket(BUCKET).key(KEY).send().await;
    assert_refused(got, 404, "NoSuchKey");
    let uploads = client.list_multipart_uploads().bucket(BUCKET).send().await;
    assert!(uploads.unwrap().uploads().is_empty());
}
