//! Request heads, right and wrong.

use super::*;
use proptest::prelude::*;
use quickwater_proto::{ChecksumAlgorithm, ETag, PutCondition, UploadId};

type Pair<'a> = (&'a str, &'a str);

const UPLOAD: &str = "000102030405060708090a0b0c0d0e0f";

fn parse_with(
    dialect: &Dialect,
    method: &str,
    target: &str,
    headers: &[Pair<'_>],
) -> Result<Request, S3Error> {
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| httparse::Header {
            name,
            value: value.as_bytes(),
        })
        .collect();
    let view = RequestView {
        method,
        target,
        headers: &headers,
    };
    Request::parse(&view, dialect)
}

fn parse(method: &str, target: &str, headers: &[Pair<'_>]) -> Result<Request, S3Error> {
    parse_with(&Dialect::default(), method, target, headers)
}

fn operation(method: &str, target: &str, headers: &[Pair<'_>]) -> Operation {
    match parse(method, target, headers) {
        Ok(request) => request.operation,
        Err(e) => panic!("{method} {target} {headers:?}: {e}"),
    }
}

fn code(method: &str, target: &str, headers: &[Pair<'_>]) -> S3ErrorCode {
    match parse(method, target, headers) {
        Ok(request) => panic!("{method} {target} {headers:?}: {:?}", request.operation),
        Err(e) => e.code,
    }
}

fn key(target: &str) -> String {
    parse("GET", target, &[]).unwrap().key.unwrap().to_string()
}

fn read(target: &str, headers: &[Pair<'_>]) -> ReadObject {
    match operation("GET", target, headers) {
        Operation::GetObject(read) => read,
        other => panic!("{other:?}"),
    }
}

fn put(headers: &[Pair<'_>]) -> PutObject {
    match operation("PUT", "/bkt/k", headers) {
        Operation::PutObject(put) => *put,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_action_by_its_method_and_query() {
    let part = format!("/bkt/k?partNumber=7&uploadId={UPLOAD}");
    let upload = format!("/bkt/k?uploadId={UPLOAD}");
    for (method, target, name) in [
        ("GET", "/", "ListBuckets"),
        ("PUT", "/bkt", "CreateBucket"),
        ("PUT", "/bkt/", "CreateBucket"),
        ("HEAD", "/bkt", "HeadBucket"),
        ("DELETE", "/bkt", "DeleteBucket"),
        ("GET", "/bkt", "ListObjects"),
        ("GET", "/bkt/?list-type=2", "ListObjectsV2"),
        ("GET", "/bkt?location", "GetBucketLocation"),
        ("GET", "/bkt?versioning", "GetBucketVersioning"),
        ("GET", "/bkt?acl", "GetBucketAcl"),
        ("GET", "/bkt?uploads", "ListMultipartUploads"),
        ("GET", "/bkt?tagging", "GetBucketTagging"),
        ("PUT", "/bkt?tagging", "PutBucketTagging"),
        ("DELETE", "/bkt?tagging", "DeleteBucketTagging"),
        ("GET", "/bkt?logging", "GetBucketConfiguration"),
        ("GET", "/bkt?policy", "GetBucketConfiguration"),
        ("DELETE", "/bkt?lifecycle", "DeleteBucketConfiguration"),
        ("POST", "/bkt?delete", "DeleteObjects"),
        ("GET", "/bkt/k", "GetObject"),
        ("GET", "/bkt/k?x-id=GetObject", "GetObject"),
        ("HEAD", "/bkt/k", "HeadObject"),
        ("PUT", "/bkt/k?x-id=PutObject", "PutObject"),
        ("DELETE", "/bkt/k", "DeleteObject"),
        ("DELETE", "/bkt/k?versionId=null", "DeleteObject"),
        ("GET", "/bkt/k?acl", "GetObjectAcl"),
        ("GET", "/bkt/k?tagging", "GetObjectTagging"),
        ("PUT", "/bkt/k?tagging", "PutObjectTagging"),
        ("DELETE", "/bkt/k?tagging", "DeleteObjectTagging"),
        ("POST", "/bkt/k?uploads", "CreateMultipartUpload"),
        ("PUT", &part, "UploadPart"),
        ("POST", &upload, "CompleteMultipartUpload"),
        ("DELETE", &upload, "AbortMultipartUpload"),
        ("GET", &upload, "ListParts"),
    ] {
        assert_eq!(
            operation(method, target, &[]).name(),
            name,
            "{method} {target}"
        );
    }
    let source = ("x-amz-copy-source", "/src/key");
    assert_eq!(operation("PUT", "/bkt/k", &[source]).name(), "CopyObject");
    assert_eq!(operation("PUT", &part, &[source]).name(), "UploadPartCopy");
    let attributes = ("x-amz-object-attributes", "ETag,ObjectSize");
    assert_eq!(
        operation("GET", "/bkt/k?attributes", &[attributes]).name(),
        "GetObjectAttributes"
    );
}

#[test]
fn what_is_not_served_never_falls_through() {
    for (method, target) in [
        ("PUT", "/bkt?policy"),
        ("PUT", "/bkt?cors"),
        ("PUT", "/bkt?versioning"),
        ("PUT", "/bkt?acl"),
        ("PUT", "/bkt?lifecycle"),
        ("PUT", "/bkt?anything-new=1"),
        ("DELETE", "/bkt?inventory&id=1"),
        ("DELETE", "/bkt?policyStatus"),
        ("GET", "/bkt?versions"),
        ("GET", "/bkt?inventory"),
        ("GET", "/bkt?policy&tagging"),
        ("HEAD", "/bkt?policy"),
        ("POST", "/bkt"),
        ("POST", "/bkt?delete&policy"),
        ("GET", "/bkt/k?torrent"),
        ("GET", "/bkt/k?versionId=abc"),
        ("GET", "/bkt/k?versionId="),
        ("HEAD", "/bkt/k?restore"),
        ("PUT", "/bkt/k?acl"),
        ("PUT", "/bkt/k?legal-hold"),
        ("PUT", "/bkt/k?retention"),
        ("PUT", "/bkt/k?renameObject"),
        ("PUT", "/bkt/k?append&position=0"),
        ("PUT", "/bkt/k?unknown=1"),
        ("DELETE", "/bkt/k?versionId=1"),
        ("DELETE", "/bkt/k?acl"),
        ("POST", "/bkt/k?restore"),
        ("POST", "/bkt/k?select&select-type=2"),
    ] {
        assert_eq!(
            code(method, target, &[]),
            S3ErrorCode::NotImplemented,
            "{method} {target}"
        );
    }
    for header in [
        ("x-amz-server-side-encryption", "AES256"),
        ("X-Amz-Server-Side-Encryption-Customer-Key", "x"),
        ("x-amz-acl", "public-read"),
        ("x-amz-grant-read", "id=1"),
        ("x-amz-storage-class", "GLACIER"),
        ("x-amz-website-redirect-location", "/"),
        ("x-amz-object-lock-mode", "GOVERNANCE"),
        ("x-amz-write-offset-bytes", "0"),
        ("x-amz-copy-source-range", "bytes=0-1"),
        ("x-amz-metadata-directive", "REPLACE"),
        ("x-amz-rename-source", "/a"),
        ("x-amz-checksum-md5", "x"),
        ("x-amz-tomorrow", "x"),
        ("Content-Range", "bytes 0-1/2"),
        ("If-Modified-Since", "Fri, 24 May 2013 00:00:00 GMT"),
        ("If-None-Match", "\"e\""),
        ("If-Match", "\"a\", \"b\""),
    ] {
        assert_eq!(
            code("PUT", "/bkt/k", &[header]),
            S3ErrorCode::NotImplemented,
            "{header:?}"
        );
    }
    // Hoisted into the query by presigners.
    assert_eq!(
        code("PUT", "/bkt/k?X-Amz-Server-Side-Encryption=AES256", &[]),
        S3ErrorCode::NotImplemented
    );
    for (method, target) in [
        ("POST", "/"),
        ("PATCH", "/bkt/k"),
        ("OPTIONS", "/bkt/k"),
        ("POST", "/bkt/k"),
    ] {
        assert_eq!(
            code(method, target, &[]),
            S3ErrorCode::MethodNotAllowed,
            "{method} {target}"
        );
    }
}

#[test]
fn harmless_headers_are_accepted() {
    let headers = [
        ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
        ("x-amz-date", "x"),
        ("x-amz-security-token", "x"),
        ("x-amz-user-agent", "x"),
        ("x-amz-request-payer", "requester"),
        ("x-amz-acl", "bucket-owner-full-control"),
        ("x-amz-storage-class", "STANDARD"),
        ("amz-sdk-invocation-id", "x"),
        ("x-amzn-trace-id", "x"),
        ("x-amz-expected-bucket-owner", "quickwater"),
    ];
    put(&headers);
    let other = ("x-amz-expected-bucket-owner", "123456789012");
    assert_eq!(code("PUT", "/bkt/k", &[other]), S3ErrorCode::AccessDenied);
    assert_eq!(code("GET", "/bkt/k", &[other]), S3ErrorCode::AccessDenied);
    let class = ("x-amz-storage-class", "CHEAP");
    assert_eq!(
        code("PUT", "/bkt/k", &[class]),
        S3ErrorCode::InvalidStorageClass
    );
}

#[test]
fn unset_configurations_have_the_answers_of_s3() {
    for (name, expect) in [
        ("policy", S3ErrorCode::NoSuchBucketPolicy),
        ("cors", S3ErrorCode::NoSuchCorsConfiguration),
        ("lifecycle", S3ErrorCode::NoSuchLifecycleConfiguration),
        ("object-lock", S3ErrorCode::ObjectLockConfigurationNotFound),
    ] {
        assert_eq!(
            operation("GET", &format!("/bkt?{name}="), &[]),
            Operation::GetAbsentConfiguration(expect)
        );
    }
    assert_eq!(
        code("GET", "/bkt/k?retention", &[]),
        S3ErrorCode::InvalidRequest
    );
}

#[test]
fn keys_are_kept_byte_for_byte() {
    for (target, expect) in [
        ("/bkt/a//b", "a//b"),
        ("/bkt//a", "/a"),
        ("/bkt/../x/./y/", "../x/./y/"),
        ("/bkt/a+b%20c%2Bd", "a+b c+d"),
        ("/bkt/%E2%98%83?x-id=1", "\u{2603}"),
        ("/bkt/a%2Fb", "a/b"),
        ("/bkt/%00%0a", "\0\n"),
    ] {
        assert_eq!(key(target), expect, "{target}");
    }
    for target in [
        "/bkt/%zz",
        "/bkt/%",
        "/bkt/%ff",
        "bkt/k",
        "http://h/bkt/k",
        "*",
        "",
    ] {
        assert_eq!(
            code("GET", target, &[]),
            S3ErrorCode::InvalidUri,
            "{target}"
        );
    }
    let long = format!("/bkt/{}", "k".repeat(1025));
    assert_eq!(code("GET", &long, &[]), S3ErrorCode::KeyTooLong);
    for target in ["/Bucket/k", "//k", "/ab", "/10.0.0.1"] {
        assert_eq!(
            code("GET", target, &[]),
            S3ErrorCode::InvalidBucketName,
            "{target}"
        );
    }
    let error = parse("GET", "/Bad/k?x", &[]).unwrap_err();
    assert_eq!(error.resource.as_deref(), Some("/Bad/k"));
}

#[test]
fn virtual_host_style_below_the_domain() {
    let dialect = Dialect {
        domain: Some("s3.Example.com".into()),
        ..Dialect::default()
    };
    let at = |host: &str, target: &str| {
        let request = parse_with(&dialect, "GET", target, &[("host", host)]).unwrap();
        (
            request.bucket.map(|b| b.to_string()),
            request.key.map(|k| k.to_string()),
        )
    };
    let pair = |b: &str, k: &str| (Some(b.to_owned()), Some(k.to_owned()));
    assert_eq!(at("bkt.s3.example.com:9000", "/a/b"), pair("bkt", "a/b"));
    assert_eq!(at("my.bkt.S3.EXAMPLE.COM", "/a"), pair("my.bkt", "a"));
    assert_eq!(at("s3.example.com", "/bkt/a"), pair("bkt", "a"));
    assert_eq!(at("127.0.0.1:29998", "/bkt/a"), pair("bkt", "a"));
    assert_eq!(at("nots3.example.com", "/bkt/a"), pair("bkt", "a"));
    assert_eq!(at("[::1]:80", "/bkt/a"), pair("bkt", "a"));
    assert_eq!(at("bkt.s3.example.com", "/"), (Some("bkt".into()), None));
}

#[test]
fn listings() {
    let list = |query: &str| match operation("GET", &format!("/bkt?{query}"), &[]) {
        Operation::ListObjects(list) => list,
        other => panic!("{other:?}"),
    };
    let v1 = list("prefix=a%2F&delimiter=%2F&marker=m+n&max-keys=2000&encoding-type=url");
    assert_eq!((v1.prefix.as_str(), v1.marker.as_str()), ("a/", "m n"));
    assert_eq!(v1.delimiter.as_deref(), Some("/"));
    assert_eq!((v1.max_keys, v1.encode_url), (1000, true));
    assert_eq!(list("delimiter=&max-keys=0").delimiter, None);
    assert_eq!(list("max-keys=0").max_keys, 0);
    assert_eq!(
        list("metadata=true").max_keys,
        1000,
        "unknown, with a value"
    );
    for bad in [
        "max-keys=-1",
        "max-keys=x",
        "max-keys=2147483648",
        "encoding-type=x",
        "list-type=3",
        "start-after=a",
    ] {
        assert_eq!(
            code("GET", &format!("/bkt?{bad}"), &[]),
            S3ErrorCode::InvalidArgument,
            "{bad}"
        );
    }
}

#[test]
fn listings_version_2() {
    let list = |query: &str| match operation("GET", &format!("/bkt?list-type=2&{query}"), &[]) {
        Operation::ListObjectsV2(list) => list,
        other => panic!("{other:?}"),
    };
    let first = list("start-after=b&fetch-owner=true");
    assert_eq!((first.after.as_str(), first.fetch_owner), ("b", true));
    let token = continuation_token("k\u{2603}/");
    let next = list(&format!("start-after=b&continuation-token={token}"));
    assert_eq!(next.after, "k\u{2603}/");
    assert_eq!(next.start_after.as_deref(), Some("b"));
    for bad in ["", "abc", "1%21"] {
        let target = format!("/bkt?list-type=2&continuation-token={bad}");
        assert_eq!(
            code("GET", &target, &[]),
            S3ErrorCode::InvalidArgument,
            "{bad}"
        );
    }
}

#[test]
fn reads() {
    let plain = read("/bkt/k", &[]);
    assert_eq!(plain, ReadObject::default());
    let all = read(
        "/bkt/k?response-content-type=text%2Fplain",
        &[
            ("Range", "bytes=5-"),
            ("If-Match", "\"e\""),
            ("If-Range", "\"e\""),
            ("x-amz-checksum-mode", "ENABLED"),
        ],
    );
    assert_eq!(all.range, Some(ByteRange::From(5)));
    assert!(all.checksums && all.if_range.is_some() && !all.conditions.is_empty());
    assert_eq!(
        all.overrides.unwrap().content_type.as_deref(),
        Some("text/plain")
    );
    assert_eq!(read("/bkt/k", &[("range", "bytes=0-1,4-5")]).range, None);
    assert_eq!(read("/bkt/k?partNumber=3", &[]).part_number, Some(3));
    for bad in ["0", "10001", "x", ""] {
        let target = format!("/bkt/k?partNumber={bad}");
        assert_eq!(code("GET", &target, &[]), S3ErrorCode::InvalidArgument);
    }
    let both = code("GET", "/bkt/k?partNumber=1", &[("range", "bytes=0-1")]);
    assert_eq!(both, S3ErrorCode::InvalidRequest);
    let split = code("GET", "/bkt/k?response-expires=a%0d%0ab", &[]);
    assert_eq!(split, S3ErrorCode::InvalidArgument);
}

#[test]
fn overrides_need_a_signature() {
    let request = parse("GET", "/bkt/k?response-expires=a", &[]).unwrap();
    let mut identity = Identity {
        access_key: None,
        presigned: false,
        payload: crate::auth::PayloadAuth::Unsigned,
    };
    assert!(request.check_identity(&identity).is_err());
    identity.access_key = Some("k".into());
    assert!(request.check_identity(&identity).is_ok());
}

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

#[test]
fn payload_headers() {
    let payload = |headers: &[Pair<'_>]| parse("PUT", "/bkt/k", headers).map(|r| r.payload);
    let all = payload(&[
        ("Content-Length", "12"),
        ("Content-MD5", "1B2M2Y8AsgTpgAmY7PhCfg=="),
        ("x-amz-checksum-crc32", "AAAAAA=="),
        ("x-amz-sdk-checksum-algorithm", "CRC32"),
    ])
    .unwrap();
    assert_eq!(all.content_length, Some(12));
    assert!(all.content_md5.is_some() && all.checksum.is_some());
    let trailer = payload(&[("x-amz-trailer", "x-amz-checksum-crc64nvme")]).unwrap();
    assert_eq!(trailer.trailer, Some(ChecksumAlgorithm::Crc64Nvme));
    let refused = |headers: &[Pair<'_>]| payload(headers).unwrap_err().code;
    for md5 in ["", "AAAA", "!"] {
        assert_eq!(refused(&[("Content-MD5", md5)]), S3ErrorCode::InvalidDigest);
    }
    for length in ["-1", "+1", "1a", "99999999999999999999"] {
        assert_eq!(
            refused(&[("Content-Length", length)]),
            S3ErrorCode::InvalidArgument
        );
    }
    let (crc, sha) = (
        ("x-amz-checksum-crc32", "AAAAAA=="),
        ("x-amz-checksum-sha1", "AAAA"),
    );
    let sdk = |name| ("x-amz-sdk-checksum-algorithm", name);
    for headers in [
        &[sha][..],
        &[crc, ("x-amz-checksum-crc32c", "AAAAAA==")],
        &[("x-amz-checksum-crc32", "AAAAAA==-2")],
        &[sdk("CRC32")],
        &[crc, sdk("CRC32C")],
        &[crc, sdk("X")],
        &[crc, ("x-amz-trailer", "x-amz-checksum-crc32")],
        &[("x-amz-trailer", "x-other")],
    ] {
        assert_eq!(refused(headers), S3ErrorCode::InvalidRequest, "{headers:?}");
    }
}

#[test]
fn plans_refuse_lengths_before_a_byte_is_read() {
    use crate::auth::PayloadAuth;
    use crate::body::PayloadPlan;
    let plan = |method: &str, target: &str, headers: &[Pair<'_>], payload: PayloadAuth| {
        let request = parse(method, target, headers).unwrap();
        let identity = Identity {
            access_key: None,
            presigned: false,
            payload,
        };
        PayloadPlan::new(&request, &identity, &Dialect::default())
            .map(|p| p.length)
            .map_err(|e| e.code)
    };
    let chunked = || PayloadAuth::Chunked {
        signed: false,
        trailer: true,
        signer: None,
    };
    let put = |headers: &[Pair<'_>], payload| plan("PUT", "/bkt/k", headers, payload);
    assert_eq!(
        put(&[("content-length", "7")], PayloadAuth::Unsigned),
        Ok(7)
    );
    assert_eq!(
        put(&[], PayloadAuth::Unsigned),
        Err(S3ErrorCode::MissingContentLength)
    );
    let te = ("transfer-encoding", "chunked");
    assert_eq!(
        put(&[te], PayloadAuth::Unsigned),
        Err(S3ErrorCode::MissingContentLength)
    );
    let decoded = ("x-amz-decoded-content-length", "7");
    assert_eq!(put(&[te, decoded], chunked()), Ok(7));
    assert_eq!(
        put(&[("content-length", "50")], chunked()),
        Err(S3ErrorCode::MissingContentLength)
    );
    let too_short = put(&[decoded, ("content-length", "6")], chunked());
    assert_eq!(too_short, Err(S3ErrorCode::InvalidRequest));
    let believed = put(&[decoded, ("content-length", "50")], PayloadAuth::Unsigned);
    assert_eq!(believed, Err(S3ErrorCode::InvalidRequest));
    let limit = (5u64 << 30).to_string();
    assert_eq!(
        put(&[("content-length", &limit)], PayloadAuth::Unsigned),
        Ok(5 << 30)
    );
    let over = ((5u64 << 30) + 1).to_string();
    let over = put(&[("content-length", &over)], PayloadAuth::Unsigned);
    assert_eq!(over, Err(S3ErrorCode::EntityTooLarge));
    let trailer = ("x-amz-trailer", "x-amz-checksum-crc32");
    let stray = put(&[trailer, ("content-length", "7")], PayloadAuth::Unsigned);
    assert_eq!(stray, Err(S3ErrorCode::InvalidRequest));
    let xml = plan(
        "POST",
        "/bkt?delete",
        &[("content-length", "2097153")],
        PayloadAuth::Unsigned,
    );
    assert_eq!(xml, Err(S3ErrorCode::MaxMessageLengthExceeded));
    assert_eq!(plan("PUT", "/bkt", &[], PayloadAuth::Unsigned), Ok(0));
    assert_eq!(
        plan(
            "GET",
            "/bkt/k",
            &[("content-length", "9")],
            PayloadAuth::Unsigned
        ),
        Ok(0)
    );
}

proptest! {
    #[test]
    fn arbitrary_heads_never_panic(
        method in "GET|PUT|HEAD|POST|DELETE|[A-Z]{1,4}",
        target in "/[a-c/%?&=+\\-A-Za-z0-9]{0,60}",
        name in "x-amz-[a-z-]{1,20}|range|if-match|content-md5|host|x-amz-copy-source|x-amz-tagging",
        value in any::<Vec<u8>>(),
    ) {
        let headers = [httparse::Header { name: &name, value: &value }];
        let view = RequestView { method: &method, target: &target, headers: &headers };
        let dialect = Dialect { domain: Some("h".into()), ..Dialect::default() };
        let _ = Request::parse(&view, &dialect);
    }

    #[test]
    fn arbitrary_sub_resources_never_reach_a_plain_write(name in "[a-wyz][A-Za-z-]{0,14}") {
        for (method, plain) in [("PUT", "PutObject"), ("DELETE", "DeleteObject")] {
            if let Ok(request) = parse(method, &format!("/bkt/k?{name}"), &[]) {
                prop_assert_ne!(request.operation.name(), plain);
            }
        }
    }

    #[test]
    fn tokens_round_trip(key in any::<String>()) {
        prop_assert_eq!(parse_continuation_token(&continuation_token(&key)).unwrap(), key);
    }

    #[test]
    fn arbitrary_tokens_never_panic(token in any::<String>()) {
        let _ = parse_continuation_token(&token);
    }
}
