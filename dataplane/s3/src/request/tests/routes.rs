//! Which request is which operation, of which bucket and key.

use super::*;

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
        ("x-amz-api-version", "2026-01-01"),
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
        ("x-amz-api-version", "2006-03-01"),
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
