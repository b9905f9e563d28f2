//! The published examples of the S3 documentation, and what must be refused.

use super::*;
use crate::tests::example::{self, ACCESS_KEY, Example, NOW_MS};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const HOST: (&str, &str) = ("Host", "examplebucket.s3.amazonaws.com");
const DATE: (&str, &str) = ("x-amz-date", "20130524T000000Z");

fn authorization(signed: &str, signature: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/20130524/us-east-1/s3/aws4_request,SignedHeaders={signed},Signature={signature}"
    )
}

fn run(
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    now_ms: i64,
) -> Result<Identity, S3Error> {
    run_as(method, target, headers, now_ms, AuthPolicy::default())
}

fn run_as(
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    now_ms: i64,
    policy: AuthPolicy,
) -> Result<Identity, S3Error> {
    let headers = example::headers(headers);
    let view = RequestView {
        method,
        target,
        headers: &headers,
    };
    authenticate(&view, policy, &Example, now_ms, &mut SigningKeyCache::new())
}

fn refused(result: Result<Identity, S3Error>) -> S3ErrorCode {
    result.expect_err("must be refused").code
}

fn get_object(auth: &str) -> Vec<(&str, &str)> {
    vec![
        HOST,
        ("Range", "bytes=0-9"),
        ("x-amz-content-sha256", EMPTY),
        DATE,
        ("Authorization", auth),
    ]
}

const GET_SIGNED: &str = "host;range;x-amz-content-sha256;x-amz-date";
const GET_SIGNATURE: &str = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";

#[test]
fn documented_get_object() {
    let auth = authorization(GET_SIGNED, GET_SIGNATURE);
    let identity = run("GET", "/test.txt", &get_object(&auth), NOW_MS).unwrap();
    assert_eq!(identity.access_key.as_deref(), Some(ACCESS_KEY));
    assert!(matches!(identity.payload, PayloadAuth::Sha256(_)));
    assert!(!identity.presigned);
}

#[test]
fn documented_put_object() {
    let hash = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
    assert_eq!(hex::encode(Sha256::digest("Welcome to Amazon S3.")), hash);
    let auth = authorization(
        "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
        "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
    );
    let headers = [
        ("Date", "Fri, 24 May 2013 00:00:00 GMT"),
        HOST,
        ("x-amz-content-sha256", hash),
        DATE,
        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        ("Authorization", &auth),
    ];
    // The path is the same whether the client encoded the `$` or not.
    run("PUT", "/test%24file.text", &headers, NOW_MS).unwrap();
    run("PUT", "/test$file.text", &headers, NOW_MS).unwrap();
}

#[test]
fn documented_bucket_requests() {
    let signed = "host;x-amz-content-sha256;x-amz-date";
    for (target, signature) in [
        (
            "/?lifecycle",
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            "/?prefix=J&max-keys=2",
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ] {
        let auth = authorization(signed, signature);
        let headers = [
            HOST,
            ("X-Amz-Content-SHA256", EMPTY),
            ("X-AMZ-Date", DATE.1),
            ("Authorization", &auth),
        ];
        run("GET", target, &headers, NOW_MS).unwrap();
    }
}

fn presigned(signature: &str, expires: &str) -> String {
    format!(
        "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires={expires}&X-Amz-SignedHeaders=host&X-Amz-Signature={signature}"
    )
}

const PRESIGNED_SIGNATURE: &str =
    "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";

#[test]
fn documented_presigned_get() {
    let target = presigned(PRESIGNED_SIGNATURE, "86400");
    let identity = run("GET", &target, &[HOST], NOW_MS + 86_400_000).unwrap();
    assert!(identity.presigned);
    assert!(matches!(identity.payload, PayloadAuth::Unsigned));
    let late = run("GET", &target, &[HOST], NOW_MS + 86_400_001).unwrap_err();
    assert_eq!(late.message, "Request has expired");
    let early = run("GET", &target, &[HOST], NOW_MS - CLOCK_SKEW_MAX_MS - 1).unwrap_err();
    assert_eq!(early.code, S3ErrorCode::AccessDenied);
}

#[test]
fn presigned_requests_bind_their_headers() {
    let target = presigned(PRESIGNED_SIGNATURE, "86400");
    let code = |headers: &[(&str, &str)]| refused(run("GET", &target, headers, NOW_MS));
    assert_eq!(
        code(&[HOST, ("x-amz-acl", "private")]),
        S3ErrorCode::AccessDenied
    );
    let streaming = ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER");
    assert_eq!(code(&[HOST, streaming]), S3ErrorCode::AccessDenied);
    let hash = run(
        "GET",
        &target,
        &[HOST, ("x-amz-content-sha256", EMPTY)],
        NOW_MS,
    )
    .unwrap();
    assert!(matches!(hash.payload, PayloadAuth::Sha256(_)));
    let auth = authorization(GET_SIGNED, GET_SIGNATURE);
    assert_eq!(
        code(&[HOST, ("Authorization", &auth)]),
        S3ErrorCode::InvalidArgument
    );
}

#[test]
fn presigned_parameters_are_checked() {
    let query = S3ErrorCode::AuthorizationQueryParametersError;
    for expires in ["604801", "-1", "x", ""] {
        let target = presigned(PRESIGNED_SIGNATURE, expires);
        assert_eq!(
            refused(run("GET", &target, &[HOST], NOW_MS)),
            query,
            "{expires}"
        );
    }
    let missing = "/k?X-Amz-Algorithm=AWS4-HMAC-SHA256";
    assert_eq!(refused(run("GET", missing, &[HOST], NOW_MS)), query);
    let twice = format!("{}&X-Amz-Date=1", presigned(PRESIGNED_SIGNATURE, "86400"));
    assert_eq!(refused(run("GET", &twice, &[HOST], NOW_MS)), query);
    let more = format!("{}&a=b", presigned(PRESIGNED_SIGNATURE, "86400"));
    assert_eq!(
        refused(run("GET", &more, &[HOST], NOW_MS)),
        S3ErrorCode::SignatureDoesNotMatch
    );
}

#[test]
fn documented_chunk_signatures() {
    let auth = authorization(
        "content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class",
        "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
    );
    let headers = [
        ("Host", "s3.amazonaws.com"),
        DATE,
        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
        ("Content-Encoding", "aws-chunked"),
        ("x-amz-decoded-content-length", "66560"),
        ("Content-Length", "66824"),
        ("Authorization", &auth),
    ];
    let identity = run("PUT", "/examplebucket/chunkObject.txt", &headers, NOW_MS).unwrap();
    let PayloadAuth::Chunked {
        signed: true,
        trailer: false,
        signer: Some(mut signer),
    } = identity.payload
    else {
        panic!("signed chunks expected");
    };
    for (bytes, signature) in [
        (
            65536,
            "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
        ),
        (
            1024,
            "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
        ),
        (
            0,
            "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
        ),
    ] {
        let hash = Sha256::digest(vec![b'a'; bytes]).into();
        assert!(signer.check_chunk(&hash, &"0".repeat(64)).is_err());
        signer.check_chunk(&hash, signature).unwrap();
    }
}

#[test]
fn documented_trailer_signatures() {
    let auth = authorization(
        "content-encoding;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class;x-amz-trailer",
        "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e",
    );
    let headers = [
        ("Host", "s3.amazonaws.com"),
        DATE,
        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        (
            "x-amz-content-sha256",
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
        ),
        ("Content-Encoding", "aws-chunked"),
        ("x-amz-decoded-content-length", "66560"),
        ("x-amz-trailer", "x-amz-checksum-crc32c"),
        ("Authorization", &auth),
    ];
    let identity = run("PUT", "/examplebucket/chunkObject.txt", &headers, NOW_MS).unwrap();
    let PayloadAuth::Chunked {
        signer: Some(mut signer),
        ..
    } = identity.payload
    else {
        panic!("signed chunks expected");
    };
    for (bytes, signature) in [
        (
            65536,
            "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
        ),
        (
            1024,
            "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
        ),
        (
            0,
            "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
        ),
    ] {
        let hash = Sha256::digest(vec![b'a'; bytes]).into();
        signer.check_chunk(&hash, signature).unwrap();
    }
    let hash = Sha256::digest("x-amz-checksum-crc32c:sOO8/Q==\n").into();
    let signature = "d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435";
    signer.check_trailer(&hash, signature).unwrap();
}

#[test]
fn anything_changed_breaks_the_signature() {
    let auth = authorization(GET_SIGNED, GET_SIGNATURE);
    let wrong = S3ErrorCode::SignatureDoesNotMatch;
    assert_eq!(
        refused(run("HEAD", "/test.txt", &get_object(&auth), NOW_MS)),
        wrong
    );
    assert_eq!(
        refused(run("GET", "/test2.txt", &get_object(&auth), NOW_MS)),
        wrong
    );
    assert_eq!(
        refused(run("GET", "/test.txt?a", &get_object(&auth), NOW_MS)),
        wrong
    );
    let mut headers = get_object(&auth);
    headers[1].1 = "bytes=0-10";
    assert_eq!(refused(run("GET", "/test.txt", &headers, NOW_MS)), wrong);
    headers[1].1 = "  bytes=0-9 ";
    run("GET", "/test.txt", &headers, NOW_MS).unwrap();
    let flipped = authorization(GET_SIGNED, &GET_SIGNATURE.replace('f', "e"));
    assert_eq!(
        refused(run("GET", "/test.txt", &get_object(&flipped), NOW_MS)),
        wrong
    );
    let short = authorization(GET_SIGNED, "f0");
    assert_eq!(
        refused(run("GET", "/test.txt", &get_object(&short), NOW_MS)),
        wrong
    );
}

#[test]
fn unsigned_amz_headers_and_hosts_are_refused() {
    let auth = authorization(GET_SIGNED, GET_SIGNATURE);
    let mut headers = get_object(&auth);
    headers.push(("x-amz-acl", "public-read"));
    assert_eq!(
        refused(run("GET", "/test.txt", &headers, NOW_MS)),
        S3ErrorCode::AccessDenied
    );
    let no_host = authorization("range;x-amz-content-sha256;x-amz-date", GET_SIGNATURE);
    assert_eq!(
        refused(run("GET", "/test.txt", &get_object(&no_host), NOW_MS)),
        S3ErrorCode::AccessDenied
    );
}

#[test]
fn clocks_may_differ_by_a_quarter_of_an_hour() {
    let auth = authorization(GET_SIGNED, GET_SIGNATURE);
    for skew in [-CLOCK_SKEW_MAX_MS, CLOCK_SKEW_MAX_MS] {
        run("GET", "/test.txt", &get_object(&auth), NOW_MS + skew).unwrap();
        let beyond = NOW_MS + skew + skew.signum();
        assert_eq!(
            refused(run("GET", "/test.txt", &get_object(&auth), beyond)),
            S3ErrorCode::RequestTimeTooSkewed
        );
    }
}

#[test]
fn malformed_claims_have_their_codes() {
    let code = |auth: &str| refused(run("GET", "/test.txt", &get_object(auth), NOW_MS));
    let good = authorization(GET_SIGNED, GET_SIGNATURE);
    let malformed = S3ErrorCode::AuthorizationHeaderMalformed;
    assert_eq!(code("AWS a:b"), S3ErrorCode::InvalidRequest);
    assert_eq!(code("AWS4-HMAC-SHA256"), malformed);
    assert_eq!(code("AWS4-HMAC-SHA256 Credential=a"), malformed);
    for (from, to) in [
        ("/s3/", "/ec2/"),
        ("aws4_request", "aws3_request"),
        ("/20130524/", "/20130525/"),
        ("/20130524/", "/2013/"),
        ("SignedHeaders", "Headers"),
        (",Signature", ",SignedHeaders=a,Signature"),
    ] {
        assert_eq!(code(&good.replace(from, to)), malformed, "{from} {to}");
    }
    assert_eq!(
        code(&good.replace(ACCESS_KEY, "AKIANOBODY")),
        S3ErrorCode::InvalidAccessKeyId
    );
    let mut headers = get_object(&good);
    headers.remove(2);
    assert_eq!(
        refused(run("GET", "/test.txt", &headers, NOW_MS)),
        S3ErrorCode::InvalidRequest
    );
    headers = get_object(&good);
    headers[2].1 = "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD";
    assert_eq!(
        refused(run("GET", "/test.txt", &headers, NOW_MS)),
        S3ErrorCode::InvalidArgument
    );
    headers = get_object(&good);
    headers.remove(3);
    assert_eq!(
        refused(run("GET", "/test.txt", &headers, NOW_MS)),
        S3ErrorCode::AccessDenied
    );
    headers = get_object(&good);
    headers.push(("authorization", &good));
    assert_eq!(
        refused(run("GET", "/test.txt", &headers, NOW_MS)),
        malformed
    );
}

#[test]
fn policies_decide_about_missing_and_unchecked_signatures() {
    let none = [HOST];
    assert_eq!(
        refused(run("GET", "/k", &none, NOW_MS)),
        S3ErrorCode::AccessDenied
    );
    let open = AuthPolicy {
        anonymous: true,
        ..AuthPolicy::default()
    };
    let identity = run_as("GET", "/k", &none, NOW_MS, open).unwrap();
    assert!(identity.is_anonymous());
    let auth = authorization(GET_SIGNED, &"0".repeat(64));
    assert_eq!(
        refused(run_as("GET", "/k", &get_object(&auth), NOW_MS, open)),
        S3ErrorCode::SignatureDoesNotMatch
    );
    let simple = AuthPolicy {
        mode: AuthMode::Simple,
        anonymous: false,
    };
    let identity = run_as("GET", "/k", &get_object(&auth), 0, simple).unwrap();
    assert_eq!(identity.access_key.as_deref(), Some(ACCESS_KEY));
    assert_eq!(
        refused(run_as("GET", "/k", &none, 0, simple)),
        S3ErrorCode::AccessDenied
    );
}

#[test]
fn the_cache_holds_only_keys_that_proved_right() {
    let mut cache = SigningKeyCache::new();
    let mut once = |signature: &str| {
        let auth = authorization(GET_SIGNED, signature);
        let pairs = get_object(&auth);
        let headers = example::headers(&pairs);
        let view = RequestView {
            method: "GET",
            target: "/test.txt",
            headers: &headers,
        };
        let policy = AuthPolicy::default();
        let ok = authenticate(&view, policy, &Example, NOW_MS, &mut cache).is_ok();
        (ok, cache.len())
    };
    assert_eq!(once(&"0".repeat(64)), (false, 0));
    assert_eq!(once(GET_SIGNATURE), (true, 1));
    assert_eq!(once(GET_SIGNATURE), (true, 1));
    assert_eq!(once(&"0".repeat(64)), (false, 1));
}

proptest! {
    #[test]
    fn never_panics(auth in ".{0,120}", target in "/.{0,80}", date in ".{0,20}") {
        let headers = [HOST, ("Authorization", auth.as_str()), ("x-amz-date", &date), ("x-amz-content-sha256", &date)];
        prop_assert!(run("GET", &target, &headers, NOW_MS).is_err());
    }

    #[test]
    fn mutated_credentials_never_pass(at in 0_usize..240, byte in any::<char>()) {
        let good = authorization(GET_SIGNED, GET_SIGNATURE);
        let mut bad: Vec<char> = good.chars().collect();
        let at = at % bad.len();
        bad[at] = byte;
        let bad: String = bad.into_iter().collect();
        let ok = run("GET", "/test.txt", &get_object(&bad), NOW_MS).is_ok();
        prop_assert!(!ok || bad.eq_ignore_ascii_case(&good), "{}", bad);
    }
}
