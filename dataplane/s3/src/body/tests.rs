//! Payloads whole and in pieces, right and wrong.

use super::*;
use crate::auth::{AuthPolicy, SigningKeyCache, authenticate};
use crate::error::{S3Error, S3ErrorCode};
use crate::request::{Dialect, Request};
use crate::tests::example::{self, ACCESS_KEY, Example, NOW_MS};
use crate::view::RequestView;
use proptest::prelude::*;
use quickwater_proto::{Checksum, ChecksumAlgorithm, ChecksumKind};
use sha2::{Digest, Sha256};

fn md5_of(data: &[u8]) -> quickwater_hash::Md5 {
    let mut md5 = quickwater_hash::Md5::new();
    md5.update(data);
    md5
}

/// Runs a payload through in pieces; `direct` receives runs in place.
fn decode(
    plan: PayloadPlan,
    wire: &[u8],
    pieces: &[usize],
    direct: bool,
) -> Result<(Vec<u8>, PayloadDigests), S3Error> {
    let mut decoder = PayloadDecoder::new(plan);
    let mut payload = Vec::new();
    let mut at = 0;
    let mut sizes = pieces.iter().copied().cycle();
    while at < wire.len() {
        let size = sizes
            .next()
            .unwrap_or(wire.len())
            .max(1)
            .min(wire.len() - at);
        let piece = &wire[at..at + size];
        let run = decoder.next_run().min(piece.len());
        if direct && run > 0 {
            decoder.absorb(&piece[..run])?;
            payload.extend_from_slice(&piece[..run]);
            at += run;
            continue;
        }
        // An output smaller than the input must do as well.
        let mut out = vec![0; size.div_ceil(2)];
        let progress = decoder.decode(piece, &mut out)?;
        assert!(progress.consumed > 0, "no progress");
        payload.extend_from_slice(&out[..progress.produced]);
        at += progress.consumed;
    }
    decoder
        .finish(md5_of(&payload))
        .map(|digests| (payload, digests))
}

fn code(plan: PayloadPlan, wire: &[u8]) -> S3ErrorCode {
    decode(plan, wire, &[wire.len()], false)
        .expect_err("must be refused")
        .code
}

fn unsigned(length: u64, trailer: Option<ChecksumAlgorithm>) -> PayloadPlan {
    PayloadPlan {
        framing: Framing::Chunked {
            signed: false,
            trailer: true,
            signer: None,
        },
        wire_length: None,
        trailer,
        ..PayloadPlan::identity(length)
    }
}

const CRC32: Option<ChecksumAlgorithm> = Some(ChecksumAlgorithm::Crc32);
/// CRC-32 of `123456789` is cbf43926.
const NINE: &[u8] = b"4\r\n1234\r\n5\r\n56789\r\n0\r\nx-amz-checksum-crc32:y/Q5Jg==\r\n\r\n";

#[test]
fn plain_payloads_are_counted_and_hashed() {
    let (payload, digests) = decode(PayloadPlan::identity(3), b"abc", &[1], true).unwrap();
    assert_eq!(payload, b"abc");
    assert_eq!(hex::encode(digests.md5), "900150983cd24fb0d6963f7d28e17f72");
    assert!(digests.checksums.is_empty());
    assert_eq!(
        code(PayloadPlan::identity(4), b"abc"),
        S3ErrorCode::IncompleteBody
    );
    assert_eq!(
        code(PayloadPlan::identity(2), b"abc"),
        S3ErrorCode::InvalidRequest
    );
    assert_eq!(
        decode(PayloadPlan::identity(0), b"", &[1], false)
            .unwrap()
            .0,
        b""
    );
    let mut decoder = PayloadDecoder::new(PayloadPlan::identity(2));
    assert_eq!(decoder.next_run(), 2);
    assert!(decoder.absorb(b"abc").is_err());
}

#[test]
fn promises_about_plain_payloads_are_kept() {
    let with = |change: fn(&mut PayloadPlan)| {
        let mut plan = PayloadPlan::identity(3);
        change(&mut plan);
        decode(plan, b"abc", &[2], false)
            .map(|d| d.1.checksums)
            .map_err(|e| e.code)
    };
    let md5 = |p: &mut PayloadPlan| p.content_md5 = Some(md5::Md5::digest(b"abc").into());
    assert_eq!(with(md5), Ok(vec![]));
    assert_eq!(
        with(|p| p.content_md5 = Some([0; 16])),
        Err(S3ErrorCode::BadDigest)
    );
    // A payload hash is checked but is no checksum of the object.
    assert_eq!(
        with(|p| p.sha256 = Some(Sha256::digest(b"abc").into())),
        Ok(vec![])
    );
    assert_eq!(
        with(|p| p.sha256 = Some([0; 32])),
        Err(S3ErrorCode::XAmzContentSha256Mismatch)
    );
    assert_eq!(
        with(|p| p.want(ChecksumAlgorithm::Sha256)).unwrap().len(),
        1
    );
    assert_eq!(
        with(PayloadPlan::want_default).unwrap()[0].algorithm,
        ChecksumAlgorithm::Crc64Nvme
    );
    let wrong = |p: &mut PayloadPlan| {
        p.checksum = Some(Checksum {
            algorithm: ChecksumAlgorithm::Sha1,
            kind: ChecksumKind::FullObject,
            value: vec![0; 20],
        });
    };
    assert_eq!(with(wrong), Err(S3ErrorCode::BadDigest));
}

#[test]
fn an_md5_of_other_bytes_is_not_taken() {
    for bytes in [&b""[..], b"ab", b"abcd"] {
        let mut decoder = PayloadDecoder::new(PayloadPlan::identity(3));
        decoder.absorb(b"abc").unwrap();
        let error = decoder.finish(md5_of(bytes)).unwrap_err();
        assert_eq!(error.code, S3ErrorCode::InternalError);
    }
}

#[test]
fn an_empty_payload_is_checked_too() {
    let mut plan = PayloadPlan::identity(0);
    plan.content_md5 = Some([1; 16]);
    assert_eq!(code(plan, b""), S3ErrorCode::BadDigest);
}

#[test]
fn unsigned_chunks_with_a_trailer() {
    let (payload, digests) = decode(unsigned(9, CRC32), NINE, &[NINE.len()], false).unwrap();
    assert_eq!(payload, b"123456789");
    assert_eq!(hex::encode(&digests.checksums[0].value), "cbf43926");
    // As one popular client writes it: bare line feeds and an extra CR LF.
    let other = b"9\r\n123456789\r\n0\r\nx-amz-checksum-crc32:y/Q5Jg==\n\r\n\r\n";
    decode(unsigned(9, CRC32), other, &[1], false).unwrap();
    decode(unsigned(0, None), b"0\r\n\r\n", &[1], false).unwrap();
}

#[test]
fn broken_chunks_are_refused() {
    use S3ErrorCode::{BadDigest, IncompleteBody, InvalidRequest, MalformedTrailer};
    let long = [b'1'; 600];
    for (length, wire, expect) in [
        (9, &NINE[..NINE.len() - 1], IncompleteBody),
        (9, &NINE[..10], IncompleteBody),
        (10, NINE, IncompleteBody),
        (8, NINE, InvalidRequest),
        (9, b"x\r\n", InvalidRequest),
        (9, b"\r\n", InvalidRequest),
        (9, b"+9\r\n", InvalidRequest),
        (9, b"00000000000000009\r\n", InvalidRequest),
        (9, b"ffffffffffffffff\r\n", InvalidRequest),
        (9, &long, InvalidRequest),
        (2, b"2\r\nabc\r\n0\r\n\r\n", InvalidRequest),
        (
            1,
            b"1\r\na\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n",
            BadDigest,
        ),
        (1, b"1\r\na\r\n0\r\n\r\n", MalformedTrailer),
        (
            1,
            b"1\r\na\r\n0\r\nx-amz-checksum-crc32c:AAAAAA==\r\n\r\n",
            MalformedTrailer,
        ),
        (1, b"1\r\na\r\n0\r\nx-other:1\r\n\r\n", MalformedTrailer),
        (1, b"1\r\na\r\n0\r\nno colon\r\n\r\n", MalformedTrailer),
        (
            1,
            b"1\r\na\r\n0\r\nx-amz-checksum-crc32:AA==\r\n\r\n",
            InvalidRequest,
        ),
        (9, &[NINE, b"\r\n\r\n"].concat(), InvalidRequest),
        (9, &[NINE, b"x"].concat(), InvalidRequest),
    ] {
        assert_eq!(
            code(unsigned(length, CRC32), wire),
            expect,
            "{}",
            wire.escape_ascii()
        );
    }
}

/// The signed examples of the documentation as whole bodies.
fn signed_example(trailer: bool) -> (PayloadPlan, Vec<u8>) {
    let (kind, signed, seed, chunks) = if trailer {
        (
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
            "content-encoding;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class;x-amz-trailer",
            "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e",
            [
                "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
                "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
                "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
            ],
        )
    } else {
        (
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
            "content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class",
            "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
            [
                "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
                "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
                "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
            ],
        )
    };
    let auth = format!(
        "AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/20130524/us-east-1/s3/aws4_request,SignedHeaders={signed},Signature={seed}"
    );
    let mut headers = vec![
        ("Host", "s3.amazonaws.com"),
        ("x-amz-date", "20130524T000000Z"),
        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        ("x-amz-content-sha256", kind),
        ("Content-Encoding", "aws-chunked"),
        ("x-amz-decoded-content-length", "66560"),
        ("Authorization", &auth),
    ];
    headers.push(if trailer {
        ("x-amz-trailer", "x-amz-checksum-crc32c")
    } else {
        ("Content-Length", "66824")
    });
    let parsed = example::headers(&headers);
    let view = RequestView {
        method: "PUT",
        target: "/examplebucket/chunkObject.txt",
        headers: &parsed,
    };
    let identity = authenticate(
        &view,
        AuthPolicy::default(),
        &Example,
        NOW_MS,
        &mut SigningKeyCache::new(),
    )
    .unwrap();
    // The storage class of the example is one we refuse: it is only signed.
    let served: Vec<_> = parsed
        .iter()
        .copied()
        .filter(|h| h.name != "x-amz-storage-class")
        .collect();
    let request = Request::parse(
        &RequestView {
            headers: &served,
            ..view
        },
        &Dialect::default(),
    )
    .unwrap();
    let plan = PayloadPlan::new(&request, &identity, &Dialect::default()).unwrap();
    let mut wire = Vec::new();
    for (size, signature) in [65536, 1024, 0].into_iter().zip(chunks) {
        wire.extend_from_slice(format!("{size:x};chunk-signature={signature}\r\n").as_bytes());
        wire.extend_from_slice(&vec![b'a'; size]);
        if size > 0 {
            wire.extend_from_slice(b"\r\n");
        }
    }
    if trailer {
        wire.extend_from_slice(b"x-amz-checksum-crc32c:sOO8/Q==\r\nx-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n");
    }
    wire.extend_from_slice(b"\r\n");
    (plan, wire)
}

#[test]
fn documented_signed_bodies() {
    for trailer in [false, true] {
        let (plan, wire) = signed_example(trailer);
        if !trailer {
            assert_eq!(wire.len(), 66824, "the documented Content-Length");
        }
        for direct in [false, true] {
            let (payload, digests) = decode(plan.clone(), &wire, &[7, 4096], direct).unwrap();
            assert_eq!(payload, vec![b'a'; 66560]);
            assert_eq!(digests.checksums.len(), usize::from(trailer));
        }
    }
}

#[test]
fn blank_line_before_the_trailer_signature() {
    let (plan, wire) = signed_example(true);
    let text = String::from_utf8(wire).unwrap();
    let other = text.replace("==\r\nx-amz-trailer", "==\n\r\nx-amz-trailer");
    decode(plan, other.as_bytes(), &[1000], false).unwrap();
}

#[test]
fn any_flipped_byte_of_a_signed_body_is_found() {
    for trailer in [false, true] {
        let (plan, wire) = signed_example(trailer);
        for at in (0..wire.len())
            .step_by(911)
            .chain([0, 10, 60, 100, 65650, wire.len() - 40])
        {
            let mut bad = wire.clone();
            bad[at] ^= 0x02;
            assert!(
                decode(plan.clone(), &bad, &[8192], true).is_err(),
                "byte {at}"
            );
        }
        let truncated = &wire[..wire.len() - 2];
        assert_eq!(code(plan.clone(), truncated), S3ErrorCode::IncompleteBody);
    }
    let (plan, wire) = signed_example(false);
    let stripped = String::from_utf8(wire)
        .unwrap()
        .replace(";chunk-signature=", ";x=");
    assert_eq!(code(plan, stripped.as_bytes()), S3ErrorCode::InvalidRequest);
}

#[test]
fn chunk_signatures_are_checked_before_the_next_chunk() {
    let (plan, mut wire) = signed_example(false);
    wire[200] = b'b';
    let mut decoder = PayloadDecoder::new(plan);
    let mut out = vec![0; 70_000];
    let first_chunk_end = 88 + 65536;
    let error = decoder
        .decode(&wire[..first_chunk_end], &mut out)
        .unwrap_err();
    assert_eq!(error.code, S3ErrorCode::SignatureDoesNotMatch);
}

fn chunked(data: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut wire = Vec::new();
    let (mut rest, mut sizes) = (data, sizes.iter().cycle());
    while !rest.is_empty() {
        let size = sizes
            .next()
            .copied()
            .unwrap_or(rest.len())
            .max(1)
            .min(rest.len());
        wire.extend_from_slice(format!("{size:X}\r\n").as_bytes());
        wire.extend_from_slice(&rest[..size]);
        wire.extend_from_slice(b"\r\n");
        rest = &rest[size..];
    }
    let crc = crate::checksum::encode(&Checksum {
        algorithm: ChecksumAlgorithm::Crc32,
        kind: ChecksumKind::FullObject,
        value: crate::checksum::of_bytes(ChecksumAlgorithm::Crc32, data),
    });
    wire.extend_from_slice(format!("0\r\nx-amz-checksum-crc32:{crc}\r\n\r\n").as_bytes());
    wire
}

proptest! {
    #[test]
    fn the_same_for_any_split(
        data in proptest::collection::vec(any::<u8>(), 0..3000),
        sizes in proptest::collection::vec(1_usize..700, 1..6),
        pieces in proptest::collection::vec(1_usize..900, 1..6),
        direct in any::<bool>(),
    ) {
        let wire = chunked(&data, &sizes);
        let (payload, digests) = decode(unsigned(data.len() as u64, CRC32), &wire, &pieces, direct).unwrap();
        prop_assert_eq!(&payload, &data);
        prop_assert_eq!(digests.md5, <[u8; 16]>::from(md5::Md5::digest(&data)));
    }

    #[test]
    fn arbitrary_bytes_never_panic(wire in proptest::collection::vec(any::<u8>(), 0..300), length in 0_u64..400, pieces in proptest::collection::vec(1_usize..40, 1..4)) {
        let _ = decode(unsigned(length, CRC32), &wire, &pieces, true);
    }

    #[test]
    fn mutated_bodies_give_the_data_or_an_error(at in any::<proptest::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut wire = NINE.to_vec();
        let at = at.index(wire.len());
        if cut { wire.truncate(at); } else { wire[at] = byte; }
        if let Ok((payload, _)) = decode(unsigned(9, CRC32), &wire, &[5], false) {
            prop_assert_eq!(payload, b"123456789");
        }
    }
}
