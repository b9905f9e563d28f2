//! The life of objects and uploads in an S3 store, against a real server.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use quickwater_engine::io::{Ufs, UfsUpload};
use quickwater_proto::{
    Bucket, Checksum, ChecksumAlgorithm, ChecksumKind, ETag, ObjectHeaders, UfsEntry, UfsErrorKind,
    UfsPartSeen, UploadId,
};

use super::moto::Moto;
use super::support::{
    block_on, bucket, client, composite_etag, content, digests, expected, get, key, list, names,
    put, put_part, put_with, read, send_all, upload_record,
};
use crate::{UfsClient, UfsConfig};

/// One server for all tests; each has its own bucket. `None`: skipped.
fn setup(name: &str, prefix: &str) -> Option<(&'static Moto, UfsClient, Bucket)> {
    static MOTO: OnceLock<Option<Moto>> = OnceLock::new();
    let moto = MOTO.get_or_init(Moto::start).as_ref()?;
    moto.raw("PUT", &format!("/{name}"), "");
    let credentials =
        std::env::temp_dir().join(format!("quickwater-{}-{name}", std::process::id()));
    std::fs::write(&credentials, "testing\ntesting-secret\n").unwrap();
    let reference = format!("file:{}", credentials.display());
    let options = [
        ("endpoint", moto.endpoint.as_str()),
        ("credentials", reference.as_str()),
    ];
    let bucket = bucket(&format!("s3://{name}/{prefix}"), &options);
    let ufs = client(UfsConfig {
        single_put_bytes_max: 6 << 20,
        ..UfsConfig::default()
    });
    // Read on first use, so that nothing stays behind.
    block_on(ufs.create_location(&bucket)).unwrap();
    std::fs::remove_file(&credentials).unwrap();
    Some((moto, ufs, bucket))
}

fn headers() -> ObjectHeaders {
    ObjectHeaders {
        content_type: Some("text/plain".into()),
        content_encoding: Some("zstd".into()),
        content_disposition: Some("inline".into()),
        content_language: Some("de".into()),
        cache_control: Some("no-store".into()),
        expires: Some("Thu, 01 Dec 2033 16:00:00 GMT".into()),
        user: vec![("a-name".into(), "value".into()), ("b".into(), "2".into())],
    }
}

#[test]
fn sizes_ranges_and_headers() {
    let Some((_moto, ufs, bucket)) = setup("sizes", "deep/prefix") else {
        return;
    };
    block_on(async {
        for size in [0, 1, 10 << 10, 1 << 20, (1 << 20) + 1, (5 << 20) + 17] {
            let data = content(size, 3);
            let name = format!("size/{size}");
            let made = put_with(&ufs, &bucket, &name, &data, &headers())
                .await
                .unwrap();
            assert_eq!(made.etag, ETag::from_md5(&digests(&data).md5));
            let seen = ufs.head(&bucket, &key(&name)).await.unwrap();
            assert_eq!(seen.identity, made.identity, "HEAD shows what PUT answered");
            assert_eq!((seen.etag, seen.headers), (made.etag, headers()));
            let size = size as u64;
            for range in [0..size, 0..size.min(1), size / 3..size / 2, size..size] {
                let wanted = &data[range.start as usize..range.end as usize];
                let found = read(&ufs, &bucket, &name, &made.identity, range)
                    .await
                    .unwrap();
                assert_eq!(found, wanted);
            }
        }
        for entry in list(&ufs, &bucket, "", "", true).await.unwrap() {
            let UfsEntry::Object {
                key: name,
                identity,
                etag,
            } = entry
            else {
                panic!()
            };
            let seen = ufs.head(&bucket, &key(&name)).await.unwrap();
            assert_eq!(
                (seen.identity, Some(seen.etag)),
                (identity, etag),
                "as HEAD"
            );
        }
        let error = ufs.head(&bucket, &key("missing")).await.unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::NotFound);
        ufs.delete(&bucket, &key("missing")).await.unwrap();
        ufs.delete(&bucket, &key("size/0")).await.unwrap();
        let error = ufs.head(&bucket, &key("size/0")).await.unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::NotFound);
    });
    let debug = format!("{ufs:?}");
    assert!(!debug.contains("testing-secret"), "no secret in {debug}");
}

#[test]
fn checksums_are_passed_on_and_read_back() {
    let Some((_moto, ufs, bucket)) = setup("sums", "") else {
        return;
    };
    block_on(async {
        // CRC-32 of "123456789" (the check value of its definition).
        let checksum = Checksum {
            algorithm: ChecksumAlgorithm::Crc32,
            kind: ChecksumKind::FullObject,
            value: 0xcbf4_3926_u32.to_be_bytes().to_vec(),
        };
        let data = b"123456789";
        let mut upload = ufs.put(&bucket, &key("a"), &headers(), 9).await.unwrap();
        upload.send(Bytes::from_static(data)).await.unwrap();
        let mut sums = digests(data);
        sums.checksums.push(checksum.clone());
        upload.finish(&sums).await.unwrap();
        let seen = ufs.head(&bucket, &key("a")).await.unwrap();
        assert_eq!(seen.checksums, [checksum]);
        // A body that is not what its digest says is refused by the store.
        let mut upload = ufs.put(&bucket, &key("b"), &headers(), 9).await.unwrap();
        upload.send(Bytes::from_static(data)).await.unwrap();
        let error = upload.finish(&digests(b"other")).await.unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::Corrupt, "{error}");
    });
}

#[test]
fn nothing_is_seen_of_writes_that_do_not_finish() {
    let Some((_moto, ufs, bucket)) = setup("aborts", "") else {
        return;
    };
    block_on(async {
        put(&ufs, &bucket, "a", b"old").await.unwrap();
        for size in [3usize, 3 << 20, 6 << 20] {
            let data = content(size, 9);
            for sent in [size, size - 1] {
                let headers = ObjectHeaders::default();
                let mut upload = ufs
                    .put(&bucket, &key("a"), &headers, size as u64)
                    .await
                    .unwrap();
                for piece in data[..sent].chunks(1 << 20) {
                    upload.send(Bytes::copy_from_slice(piece)).await.unwrap();
                }
                if sent == size {
                    // All bytes sent, checks failed: still not published.
                    upload.abort().await;
                } else {
                    let error = upload.finish(&digests(&data)).await.unwrap_err();
                    assert_eq!(error.kind, UfsErrorKind::Invalid);
                }
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert_eq!(get(&ufs, &bucket, "a").await.unwrap(), b"old");
    });
}

/// The parts of an object, cut by us, after an earlier attempt has ended early.
#[test]
fn an_object_in_parts_is_gone_on_with() {
    let Some((moto, ufs, bucket)) = setup("large", "p") else {
        return;
    };
    let data = content((12 << 20) + 5, 5);
    let part_bytes = 5 << 20;
    block_on(async {
        let refused = put(&ufs, &bucket, "big", &data).await.unwrap_err();
        assert_eq!(refused.kind, UfsErrorKind::Unsupported, "needs an upload");
        let name = ufs
            .create_upload(&bucket, &key("big"), &headers(), UploadId(7))
            .await
            .unwrap();
        let upload = upload_record("big", name, headers());
        let begin = async |sent| {
            let size = data.len() as u64;
            let begun = ufs.put_in_parts(&bucket, &upload, size, part_bytes, sent);
            begun.await.unwrap()
        };
        let mut cut = begin(Vec::new()).await;
        for piece in data[..7 << 20].chunks(1 << 20) {
            cut.send(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        // The first part is there as soon as it was sent whole. Asked by hand: this
        // store's ListParts is not S3's, the SDK cannot read it.
        let path = format!("/large/p/big?uploadId={}", upload.ufs_upload);
        let there = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            moto.raw("GET", &path, "").contains("<PartNumber>1<")
        });
        assert!(there, "{}", moto.raw("GET", &path, ""));
        cut.abort().await;
        let error = ufs.head(&bucket, &key("big")).await.unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::NotFound, "nothing is seen of it");
        let first = UfsPartSeen {
            number: 1,
            size: part_bytes,
            md5: Some(digests(&data[..5 << 20]).md5),
        };

        // A part with other bytes is noticed, not made part of the object.
        let damaged = vec![UfsPartSeen {
            md5: Some([7; 16]),
            ..first.clone()
        }];
        let error = send_all(begin(damaged).await, &data).await.unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::Corrupt, "{error}");

        let made = send_all(begin(vec![first]).await, &data).await.unwrap();
        assert!(made.identity.token.ends_with("-3"), "{:?}", made.identity);
        assert_eq!(made.etag, ETag::from_md5(&digests(&data).md5));
        let seen = ufs.head(&bucket, &key("big")).await.unwrap();
        assert_eq!((seen.identity, seen.headers), (made.identity, headers()));
        assert_eq!(get(&ufs, &bucket, "big").await.unwrap(), data);
    });
    assert!(!moto.raw("GET", "/large?uploads", "").contains("<Upload>"));
}

#[test]
fn open_uploads_of_exactly_a_key() {
    let Some((_moto, ufs, bucket)) = setup("open", "p") else {
        return;
    };
    block_on(async {
        let mut names = Vec::new();
        for name in ["a", "a", "a/b", "ab"] {
            let (key, headers) = (key(name), headers());
            let created = ufs.create_upload(&bucket, &key, &headers, UploadId(7));
            names.push(created.await.unwrap());
        }
        let seen = ufs.open_uploads(&bucket, &key("a")).await.unwrap();
        assert_eq!(seen.len(), 2, "{seen:?}");
        let opaque = format!("opaque:{}", names[1]);
        for name in [&names[0], &names[1], &opaque] {
            assert_eq!(seen.iter().filter(|seen| ufs.names(name, seen)).count(), 1);
        }
        assert!(!seen.iter().any(|seen| ufs.names(&names[2], seen)));
    });
}

#[test]
fn changes_made_by_others_are_noticed() {
    let Some((_moto, ufs, bucket)) = setup("changes", "") else {
        return;
    };
    block_on(async {
        let made = put(&ufs, &bucket, "a", b"first").await.unwrap();
        put(&ufs, &bucket, "a", b"other").await.unwrap();
        for range in [0..5, 1..2, 3..3] {
            let error = read(&ufs, &bucket, "a", &made.identity, range)
                .await
                .unwrap_err();
            assert_eq!(error.kind, UfsErrorKind::Changed, "{error}");
        }
        assert_eq!(get(&ufs, &bucket, "a").await.unwrap(), b"other");
    });
}

#[test]
fn listings_in_key_order() {
    let Some((moto, ufs, bucket)) = setup("listing", "pre") else {
        return;
    };
    let mut model = BTreeMap::new();
    let odd = [
        "a/", "a//b", "a b+c", "ä", "日/本", "100%", "a&<x>", "z/1/2", "z/1/3", "z/2", "~",
    ];
    block_on(async {
        for name in odd {
            put(&ufs, &bucket, name, b"x").await.unwrap();
            model.insert(name.to_owned(), ());
        }
        for i in 0..1_100 {
            let name = format!("many/{i:04}");
            moto.raw("PUT", &format!("/listing/pre/{name}"), "");
            model.insert(name, ());
        }
        moto.raw("PUT", "/listing/other", "");
        moto.raw("PUT", "/listing/pre/", "");
        for prefix in ["", "a", "a/", "many/", "z/", "z/1", "none"] {
            for after in ["", "a//b", "many/0500", "z/1/2"] {
                for recursive in [true, false] {
                    let found = names(&ufs, &bucket, prefix, after, recursive).await;
                    let wanted = expected(&model, prefix, after, recursive);
                    assert_eq!(
                        found, wanted,
                        "prefix {prefix:?} after {after:?} {recursive}"
                    );
                }
            }
        }
        for name in odd {
            assert_eq!(get(&ufs, &bucket, name).await.unwrap(), b"x", "{name}");
            ufs.delete(&bucket, &key(name)).await.unwrap();
        }
        assert_eq!(names(&ufs, &bucket, "", "", false).await, ["many/"]);
        let error = ufs.remove_location(&bucket).await.unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::Invalid);
        let found = ufs
            .list_locations("s3://listing", &bucket.options_for_root(moto))
            .await;
        assert_eq!(found.unwrap(), ["pre"]);
    });
}

/// The credentials file is gone by now: another reference.
trait RootOptions {
    fn options_for_root(&self, moto: &Moto) -> Vec<(String, String)>;
}

impl RootOptions for Bucket {
    fn options_for_root(&self, moto: &Moto) -> Vec<(String, String)> {
        vec![
            ("endpoint".into(), moto.endpoint.clone()),
            ("credentials".into(), "anonymous".into()),
        ]
    }
}

#[test]
fn multipart_uploads() {
    let Some((_moto, ufs, bucket)) = setup("parts", "p") else {
        return;
    };
    block_on(async {
        let id = UploadId(0xfeed);
        let name = ufs
            .create_upload(&bucket, &key("big"), &headers(), id)
            .await
            .unwrap();
        let upload = upload_record("big", name, headers());
        let data = [content(5 << 20, 1), content(5 << 20, 2), content(3, 3)];
        put_part(&ufs, &bucket, &upload, 2, b"replaced")
            .await
            .unwrap();
        let mut parts = Vec::new();
        for (number, data) in [1, 2, 7].into_iter().zip(&data) {
            parts.push(
                put_part(&ufs, &bucket, &upload, number, data)
                    .await
                    .unwrap(),
            );
        }
        assert_eq!(
            names(&ufs, &bucket, "", "", true).await,
            [""; 0],
            "parts are invisible"
        );
        let etag = composite_etag(&parts);
        let mut wrong = parts.clone();
        wrong[0].etag = ETag::from_md5(&[0; 16]);
        let error = ufs
            .complete_upload(&bucket, &upload, &wrong, &etag, &[])
            .await
            .unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::Invalid);
        let made = ufs
            .complete_upload(&bucket, &upload, &parts, &etag, &[])
            .await
            .unwrap();
        let seen = ufs.head(&bucket, &key("big")).await.unwrap();
        assert_eq!((&seen.identity, &seen.etag), (&made.identity, &etag));
        assert_eq!(seen.headers, headers());
        assert_eq!(get(&ufs, &bucket, "big").await.unwrap(), data.concat());
        let again = ufs
            .complete_upload(&bucket, &upload, &parts, &etag, &[])
            .await
            .unwrap();
        assert_eq!((again.identity, again.etag), (made.identity, etag.clone()));
        put(&ufs, &bucket, "big", b"newer").await.unwrap();
        let error = ufs
            .complete_upload(&bucket, &upload, &parts, &etag, &[])
            .await
            .unwrap_err();
        // S3 says NoSuchUpload; moto fails with 500 for an upload that is over.
        let told = [UfsErrorKind::NotFound, UfsErrorKind::Unavailable];
        assert!(told.contains(&error.kind), "{error}");
        assert_eq!(
            get(&ufs, &bucket, "big").await.unwrap(),
            b"newer",
            "and reverts nothing"
        );

        let name = ufs
            .create_upload(&bucket, &key("x"), &headers(), UploadId(9))
            .await
            .unwrap();
        let upload = upload_record("x", name, headers());
        put_part(&ufs, &bucket, &upload, 1, b"x").await.unwrap();
        ufs.abort_upload(&bucket, &upload).await.unwrap();
        ufs.abort_upload(&bucket, &upload).await.unwrap();
        let error = put_part(&ufs, &bucket, &upload, 1, b"x").await.unwrap_err();
        assert!(told.contains(&error.kind), "{error}");
    });
}

#[test]
fn locations_are_checked() {
    let Some((moto, ufs, made)) = setup("locations", "here") else {
        return;
    };
    block_on(async {
        let report = ufs.check(&made, true).await.unwrap();
        assert_eq!(report.writable, Some(true), "{report:?}");
        assert_eq!(
            names(&ufs, &made, "", "", true).await,
            [""; 0],
            "the probe is gone"
        );
        ufs.remove_location(&made).await.unwrap();
        let endpoint = [
            ("endpoint", moto.endpoint.as_str()),
            ("credentials", "anonymous"),
        ];
        let missing = bucket("s3://no-such-bucket", &endpoint);
        let error = ufs.create_location(&missing).await.unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::NotFound);
        let error = ufs.check(&missing, false).await.unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::NotFound);
        let unset = [
            ("endpoint", moto.endpoint.as_str()),
            ("credentials", "env:QW_NOT_SET"),
        ];
        let error = ufs
            .check(&bucket("s3://locations", &unset), false)
            .await
            .unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::AccessDenied, "{error}");
    });
}
