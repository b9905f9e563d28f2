//! Writes: stored headers, tags, conditions, copies, uploads.

use super::*;

#[test]
fn stored_headers() {
    let headers = put(&[
        ("Content-Type", "text/plain"),
        ("Content-Encoding", "aws-chunked,gzip"),
        ("Cache-Control", "no-cache"),
        ("Expires", "whenever"),
        ("X-Amz-Meta-B", "1"),
        ("x-amz-meta-a", "2"),
        ("x-amz-meta-b", "3"),
    ])
    .headers;
    assert_eq!(headers.content_encoding.as_deref(), Some("gzip"));
    assert_eq!(headers.expires.as_deref(), Some("whenever"));
    let user = [("b", "1,3"), ("a", "2")].map(|(n, v)| (n.to_owned(), v.to_owned()));
    assert_eq!(headers.user, user);
    let only = put(&[("Content-Encoding", "aws-chunked"), ("Content-Type", "")]).headers;
    assert_eq!(only, quickwater_proto::ObjectHeaders::default());
}

#[test]
fn cache_control_means_us_only_where_it_is_not_stored() {
    let no_cache = [("Cache-Control", "max-age=0, No-Cache")];
    assert!(parse("GET", "/bkt/k", &no_cache).unwrap().revalidate);
    assert!(!parse("PUT", "/bkt/k", &no_cache).unwrap().revalidate);
    assert!(!parse("GET", "/bkt/k", &[]).unwrap().revalidate);
}

#[test]
fn user_metadata_is_limited() {
    let fits = "v".repeat(METADATA_BYTES_MAX - 1);
    put(&[("x-amz-meta-k", &fits)]);
    let over = "v".repeat(METADATA_BYTES_MAX);
    assert_eq!(
        code("PUT", "/bkt/k", &[("x-amz-meta-k", &over)]),
        S3ErrorCode::MetadataTooLarge
    );
    assert_eq!(
        code("PUT", "/bkt/k", &[("x-amz-meta-", "v")]),
        S3ErrorCode::InvalidArgument
    );
    assert_eq!(
        code("PUT", "/bkt/k?x-amz-meta-a=b%0D%0Ac", &[]),
        S3ErrorCode::InvalidArgument
    );
    assert_eq!(
        code("PUT", "/bkt/k?x-amz-meta-a%20b=c", &[]),
        S3ErrorCode::InvalidArgument
    );
}

#[test]
fn tags_in_the_header() {
    let tags = put(&[("x-amz-tagging", "a=1&b%2F=x+y&c")]).tags;
    let expect = [("a", "1"), ("b/", "x y"), ("c", "")];
    assert_eq!(tags, expect.map(|(n, v)| (n.to_owned(), v.to_owned())));
    let many: String = (0..11).map(|n| format!("k{n}=v&")).collect();
    for bad in [many.as_str(), "a=1&a=2", "=v", "aws:a=1"] {
        assert_eq!(
            code("PUT", "/bkt/k", &[("x-amz-tagging", bad)]),
            S3ErrorCode::InvalidTag
        );
    }
    let bad = ("x-amz-tagging", "a=%zz");
    assert_eq!(code("PUT", "/bkt/k", &[bad]), S3ErrorCode::InvalidArgument);
    assert_eq!(
        code("GET", "/bkt/k", &[("x-amz-tagging", "a=1")]),
        S3ErrorCode::NotImplemented
    );
}

#[test]
fn conditions_on_writes() {
    let condition = |headers: &[Pair<'_>]| put(headers).condition;
    assert_eq!(condition(&[]), PutCondition::None);
    assert_eq!(condition(&[("If-None-Match", "*")]), PutCondition::Absent);
    assert_eq!(condition(&[("If-Match", "*")]), PutCondition::Present);
    assert_eq!(
        condition(&[("If-Match", "\"e\"")]),
        PutCondition::Match(ETag::new("e"))
    );
    assert_eq!(
        condition(&[("If-Match", "e")]),
        PutCondition::Match(ETag::new("e"))
    );
    let both = [("If-Match", "e"), ("If-None-Match", "*")];
    assert_eq!(code("PUT", "/bkt/k", &both), S3ErrorCode::NotImplemented);
    let delete = operation("DELETE", "/bkt/k", &[("If-Match", "e")]);
    assert!(matches!(
        delete,
        Operation::DeleteObject {
            condition: PutCondition::Match(_)
        }
    ));
}

#[test]
fn copies() {
    let copy = |headers: &[Pair<'_>]| match operation("PUT", "/bkt/k", headers) {
        Operation::CopyObject(copy) => *copy,
        other => panic!("{other:?}"),
    };
    let plain = copy(&[("x-amz-copy-source", "src/a%20b%3Fc+d?versionId=null")]);
    assert_eq!(plain.source.key.as_str(), "a b?c+d");
    assert_eq!((plain.headers, plain.tags), (None, None));
    let replace = copy(&[
        ("x-amz-copy-source", "%2Fsrc%2Fk"),
        ("x-amz-metadata-directive", "REPLACE"),
        ("x-amz-tagging-directive", "REPLACE"),
        ("x-amz-tagging", "a=1"),
        ("x-amz-meta-a", "1"),
        ("x-amz-copy-source-if-match", "e"),
        ("x-amz-checksum-algorithm", "sha256"),
    ]);
    assert_eq!(replace.source.bucket.as_str(), "src");
    assert_eq!(replace.headers.unwrap().user.len(), 1);
    assert_eq!(replace.tags.unwrap().len(), 1);
    assert!(replace.conditions.if_match.is_some());
    assert_eq!(replace.checksum, Some(ChecksumAlgorithm::Sha256));
    for (source, expect) in [
        ("src", S3ErrorCode::InvalidArgument),
        ("", S3ErrorCode::InvalidArgument),
        ("src/", S3ErrorCode::InvalidArgument),
        ("/src/%zz", S3ErrorCode::InvalidArgument),
        ("S/k", S3ErrorCode::InvalidBucketName),
        ("/src/k?versionId=1", S3ErrorCode::NotImplemented),
        (
            "arn:aws:s3:eu-west-1:1:accesspoint/a/object/k",
            S3ErrorCode::NotImplemented,
        ),
        ("/bkt/k", S3ErrorCode::InvalidRequest),
    ] {
        assert_eq!(
            code("PUT", "/bkt/k", &[("x-amz-copy-source", source)]),
            expect,
            "{source}"
        );
    }
    let own = [
        ("x-amz-copy-source", "/bkt/k"),
        ("x-amz-metadata-directive", "REPLACE"),
    ];
    assert!(copy(&own).headers.is_some(), "onto itself with new headers");
}

#[test]
fn parts() {
    let target = format!("/bkt/k?partNumber=10000&uploadId={UPLOAD}");
    let id = UploadId::parse(UPLOAD).unwrap();
    let part = Operation::UploadPart {
        upload: id,
        number: 10_000,
    };
    assert_eq!(operation("PUT", &target, &[]), part);
    let source = ("x-amz-copy-source", "/src/k");
    let range = |text| ("x-amz-copy-source-range", text);
    match operation("PUT", &target, &[source, range("bytes=5-9")]) {
        Operation::UploadPartCopy(copy) => assert_eq!(copy.range, Some((5, 9))),
        other => panic!("{other:?}"),
    }
    for bad in ["bytes=5-", "bytes=-5", "5-9", "bytes=9-5", "bytes=0-1,3-4"] {
        assert_eq!(
            code("PUT", &target, &[source, range(bad)]),
            S3ErrorCode::InvalidArgument
        );
    }
    for (target, expect) in [
        (
            "/bkt/k?partNumber=1".to_owned(),
            S3ErrorCode::InvalidArgument,
        ),
        (
            format!("/bkt/k?uploadId={UPLOAD}"),
            S3ErrorCode::InvalidArgument,
        ),
        (
            format!("/bkt/k?partNumber=0&uploadId={UPLOAD}"),
            S3ErrorCode::InvalidArgument,
        ),
        (
            "/bkt/k?partNumber=1&uploadId=abc".to_owned(),
            S3ErrorCode::NoSuchUpload,
        ),
        (
            format!("/bkt/k?partNumber=1&uploadId=+{}", &UPLOAD[1..]),
            S3ErrorCode::NoSuchUpload,
        ),
    ] {
        assert_eq!(code("PUT", &target, &[]), expect, "{target}");
    }
}

#[test]
fn uploads_announce_checksums() {
    let create = |algorithm: &str, kind: &str| {
        let headers = [
            ("x-amz-checksum-algorithm", algorithm),
            ("x-amz-checksum-type", kind),
        ];
        parse("POST", "/bkt/k?uploads", &headers).map(|r| match r.operation {
            Operation::CreateMultipartUpload(create) => create.checksum,
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(create("", "").unwrap(), None);
    assert_eq!(
        create("CRC32", "").unwrap(),
        Some((ChecksumAlgorithm::Crc32, false))
    );
    assert_eq!(
        create("CRC32", "FULL_OBJECT").unwrap(),
        Some((ChecksumAlgorithm::Crc32, true))
    );
    assert_eq!(
        create("CRC64NVME", "").unwrap(),
        Some((ChecksumAlgorithm::Crc64Nvme, true))
    );
    for (algorithm, kind) in [
        ("SHA256", "FULL_OBJECT"),
        ("CRC64NVME", "COMPOSITE"),
        ("", "COMPOSITE"),
        ("MD5", ""),
        ("CRC32", "HALF"),
    ] {
        let error = create(algorithm, kind).unwrap_err();
        assert_eq!(
            error.code,
            S3ErrorCode::InvalidRequest,
            "{algorithm} {kind}"
        );
    }
    let headers = [
        ("x-amz-checksum-crc32", "AAAAAA==-3"),
        ("x-amz-checksum-type", "COMPOSITE"),
        ("x-amz-mp-object-size", "15"),
        ("If-None-Match", "*"),
    ];
    match operation("POST", &format!("/bkt/k?uploadId={UPLOAD}"), &headers) {
        Operation::CompleteMultipartUpload(complete) => {
            assert_eq!(complete.object_size, Some(15));
            assert_eq!(complete.full_object, Some(false));
            assert_eq!(complete.condition, PutCondition::Absent);
            assert!(complete.checksum.is_some());
        }
        other => panic!("{other:?}"),
    }
}
