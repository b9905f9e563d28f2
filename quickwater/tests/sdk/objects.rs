//! What is done with objects that are there: ranges, copies, conditions,
//! deletes, errors. Absent: the round trips.

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumMode, Delete, MetadataDirective, ObjectIdentifier};

use crate::round_trips::{check, put};
use crate::service::{BUCKET, Service, assert_refused, assert_same, pattern};

#[tokio::test]
async fn ranges_are_cut_exactly() {
    let service = Service::start();
    let client = service.client_with_bucket().await;
    let len = 3 << 20;
    let body = pattern(len, 31);
    put(&client, "ranged", &body).await;
    for (range, first, end) in [
        ("bytes=0-0".to_owned(), 0, 1),
        (
            "bytes=1048575-1048576".to_owned(),
            (1 << 20) - 1,
            (1 << 20) + 1,
        ),
        ("bytes=65537-2097159".to_owned(), 65537, 2_097_160),
        ("bytes=-5".to_owned(), len - 5, len),
        (format!("bytes={}-", len - 4097), len - 4097, len),
        (format!("bytes=7-{}", 2 * len), 7, len),
    ] {
        let get = client
            .get_object()
            .bucket(BUCKET)
            .key("ranged")
            .range(&range);
        let got = get
            .checksum_mode(ChecksumMode::Enabled)
            .send()
            .await
            .unwrap();
        let wanted = format!("bytes {first}-{}/{len}", end - 1);
        assert_eq!(got.content_range, Some(wanted), "{range}");
        assert_same(
            &got.body.collect().await.unwrap().into_bytes(),
            &body[first..end],
        );
    }
    let get = client.get_object().bucket(BUCKET).key("ranged");
    let got = get.range(format!("bytes={len}-")).send().await;
    assert_refused(got, 416, "InvalidRange");
}

#[tokio::test]
async fn copies_keep_or_replace_metadata() {
    let service = Service::start();
    let client = service.client_with_bucket().await;
    let body = pattern(3 << 20, 41);
    let etag = put(&client, "from here", &body).await;
    let source = format!("{BUCKET}/from%20here");
    let copy = client
        .copy_object()
        .bucket(BUCKET)
        .key("kept")
        .copy_source(&source);
    let copied = copy.send().await.unwrap().copy_object_result.unwrap();
    assert_eq!(copied.e_tag.as_deref(), Some(etag.as_str()));
    check(&client, "kept", &body, &etag).await;

    let copy = client
        .copy_object()
        .bucket(BUCKET)
        .key("replaced")
        .copy_source(&source);
    let copy = copy.metadata_directive(MetadataDirective::Replace);
    copy.content_type("text/plain")
        .metadata("other", "x")
        .send()
        .await
        .unwrap();
    let got = client
        .get_object()
        .bucket(BUCKET)
        .key("replaced")
        .send()
        .await
        .unwrap();
    assert_eq!(got.content_type.as_deref(), Some("text/plain"));
    let metadata = got.metadata.unwrap();
    assert_eq!(metadata.len(), 1);
    assert_eq!(metadata["other"], "x");
    assert_same(&got.body.collect().await.unwrap().into_bytes(), &body);

    let missing = format!("{BUCKET}/nothing");
    let copy = client
        .copy_object()
        .bucket(BUCKET)
        .key("kept")
        .copy_source(missing);
    assert_refused(copy.send().await, 404, "NoSuchKey");
    check(&client, "kept", &body, &etag).await;
}

#[tokio::test]
async fn many_are_deleted_at_once() {
    let service = Service::start();
    let client = service.client_with_bucket().await;
    let keys = ["a", "b & <c>", "d/é", "never there"];
    for key in &keys[..3] {
        put(&client, key, b"x").await;
    }
    put(&client, "stays", b"x").await;
    let delete = keys.iter().fold(Delete::builder(), |delete, key| {
        delete.objects(ObjectIdentifier::builder().key(*key).build().unwrap())
    });
    let delete = client
        .delete_objects()
        .bucket(BUCKET)
        .delete(delete.build().unwrap());
    let answer = delete.send().await.unwrap();
    assert!(answer.errors().is_empty(), "{answer:?}");
    let mut deleted: Vec<_> = answer.deleted().iter().filter_map(|d| d.key()).collect();
    deleted.sort_unstable();
    assert_eq!(deleted, keys);
    let left = client
        .list_objects_v2()
        .bucket(BUCKET)
        .send()
        .await
        .unwrap();
    let left: Vec<_> = left.contents().iter().filter_map(|o| o.key()).collect();
    assert_eq!(left, ["stays"]);
}

#[tokio::test]
async fn conditions_hold() {
    let service = Service::start();
    let client = service.client_with_bucket().await;
    let put_new = |body: &'static [u8]| {
        let put = client.put_object().bucket(BUCKET).key("once");
        put.if_none_match("*")
            .body(ByteStream::from_static(body))
            .send()
    };
    let etag = put_new(b"first").await.unwrap().e_tag.unwrap();
    assert_refused(put_new(b"second").await, 412, "PreconditionFailed");
    let get = client
        .get_object()
        .bucket(BUCKET)
        .key("once")
        .if_match(&etag);
    let got = get.send().await.unwrap().body.collect().await.unwrap();
    assert_same(&got.into_bytes(), b"first");

    let replace = || {
        let put = client
            .put_object()
            .bucket(BUCKET)
            .key("once")
            .if_match(&etag);
        put.body(ByteStream::from_static(b"third")).send()
    };
    replace().await.unwrap();
    assert_refused(replace().await, 412, "PreconditionFailed");
    let get = client
        .get_object()
        .bucket(BUCKET)
        .key("once")
        .if_match(&etag);
    assert_refused(get.send().await, 412, "PreconditionFailed");
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let service = Service::start();
    let client = service.client_with_bucket().await;
    let got = client
        .get_object()
        .bucket(BUCKET)
        .key("missing")
        .send()
        .await;
    let error = got.unwrap_err();
    assert_eq!(error.raw_response().map(|r| r.status().as_u16()), Some(404));
    assert!(error.into_service_error().is_no_such_key());
    let got = client
        .get_object()
        .bucket("no-such-bucket")
        .key("k")
        .send()
        .await;
    assert_refused(got, 404, "NoSuchBucket");
    let made = client.create_bucket().bucket("other-bucket").send().await;
    made.unwrap();
    client
        .delete_bucket()
        .bucket("other-bucket")
        .send()
        .await
        .unwrap();
    let got = client.head_bucket().bucket("other-bucket").send().await;
    assert!(got.unwrap_err().into_service_error().is_not_found());
}
