//! What headers say of the payload, and what is refused before its first byte.

use super::*;

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
