//! Listings and reads: parameters, ranges, overrides.

use super::*;

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
