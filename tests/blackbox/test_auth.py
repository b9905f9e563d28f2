"""Signatures are verified, in every form; what is wrong is named rightly."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from harness.payload import KIB, payload
from harness.raw import Reply, Request, connect, exchange, head_bytes, read_reply, send, sign
from harness.signing import (
    STREAMING,
    STREAMING_TRAILER,
    UNSIGNED,
    UNSIGNED_TRAILER,
    Signer,
    signed_chunks,
    signed_chunks_with_trailer,
    unsigned_chunks,
)
from harness.target import Target, error_of

from .test_checksums import checksum

pytestmark = pytest.mark.not_on_moto("verifies no signature")


def put_streaming(target: Target, bucket: str, kind: str, data: bytes, spoil: Any = None) -> Reply:
    """PUT of /bucket/k with a framed body; `spoil` may change the body's bytes."""
    trailer = "x-amz-checksum-crc32c"
    headers = [
        ("Content-Encoding", "aws-chunked"),
        ("x-amz-decoded-content-length", str(len(data))),
    ]
    if kind != STREAMING:
        headers.append(("x-amz-trailer", trailer))
    pieces = [data[i : i + 64 * KIB] for i in range(0, len(data), 64 * KIB)]
    value = checksum("CRC32C", data)
    path = f"/{bucket}/k"
    final, proof = Signer(target).headers("PUT", path, [], headers, kind)
    if kind == STREAMING:
        body = signed_chunks(proof, pieces)
    elif kind == STREAMING_TRAILER:
        body = signed_chunks_with_trailer(proof, pieces, trailer, value)
    else:
        body = unsigned_chunks(pieces, (trailer, value))
    body = spoil(body) if spoil else body
    request = Request("PUT", path)
    wire = head_bytes(request, [*final, ("Content-Length", str(len(body)))])
    return exchange(target, wire + body)


KINDS = [STREAMING, STREAMING_TRAILER, UNSIGNED_TRAILER]


@pytest.mark.parametrize("size", [0, 1, 64 * KIB, 200_001])
@pytest.mark.parametrize("kind", KINDS)
def test_framed_bodies(target: Target, s3: Any, bucket: str, kind: str, size: int) -> None:
    data = payload(size, kind)
    reply = put_streaming(target, bucket, kind, data)
    assert reply.status == 200, reply.brief()
    got = s3.get_object(Bucket=bucket, Key="k")
    assert got["Body"].read() == data
    assert "ContentEncoding" not in got


def flip(position: int) -> Any:
    """Changes one byte."""

    def spoil(body: bytes) -> bytes:
        return body[:position] + bytes([body[position] ^ 1]) + body[position + 1 :]

    return spoil


@pytest.mark.parametrize("kind", [STREAMING, STREAMING_TRAILER])
def test_changed_chunk(target: Target, s3: Any, bucket: str, kind: str) -> None:
    for position in (200, 100_000):
        reply = put_streaming(target, bucket, kind, payload(150_000), flip(position))
        assert (reply.status, reply.code) == (403, "SignatureDoesNotMatch"), reply.brief()
    assert error_of(s3.head_object, Bucket=bucket, Key="k")[0] == 404


def test_changed_trailer_signature(target: Target, s3: Any, bucket: str) -> None:
    reply = put_streaming(target, bucket, STREAMING_TRAILER, payload(1000), flip(-6))
    assert reply.status in (400, 403), reply.brief()
    assert error_of(s3.head_object, Bucket=bucket, Key="k")[0] == 404


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_frames(target: Target, s3: Any, bucket: str, kind: str) -> None:
    for cut in (1, 50, 120_000):
        reply = put_streaming(target, bucket, kind, payload(150_000), lambda body: body[:-cut])
        assert 400 <= reply.status < 500, reply.brief()
    assert error_of(s3.head_object, Bucket=bucket, Key="k")[0] == 404


@pytest.mark.parametrize("size", [b"zz", b"-1", b"", b"ffffffffffffffffffff", b"0x10"])
def test_bad_frame_size(target: Target, s3: Any, bucket: str, size: bytes) -> None:
    def spoil(body: bytes) -> bytes:
        return size + body[body.index(b"\r\n") :]

    reply = put_streaming(target, bucket, UNSIGNED_TRAILER, payload(1000), spoil)
    assert 400 <= reply.status < 500, reply.brief()
    assert error_of(s3.head_object, Bucket=bucket, Key="k")[0] == 404


def test_unsigned_payload(target: Target, s3: Any, bucket: str) -> None:
    reply = send(target, Request("PUT", f"/{bucket}/k", body=b"data", payload_hash=UNSIGNED))
    assert reply.status == 200, reply.brief()
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"data"


def test_any_region(target: Target, bucket: str) -> None:
    assert send(target, Request("GET", f"/{bucket}"), Signer(target, "mars-1")).status == 200


# -- refusals -----------------------------------------------------------------


def refuse(target: Target, request: Request, signer: Signer | None, expected: tuple[int, str]) -> None:
    reply = send(target, request, signer)
    assert (reply.status, reply.code) == expected, reply.brief()


def test_wrong_secret(target: Target, s3: Any, bucket: str) -> None:
    liar = Signer(replace(target, secret_key="x" * 40))
    denied = (403, "SignatureDoesNotMatch")
    refuse(target, Request("PUT", f"/{bucket}/k", body=b"x"), liar, denied)
    refuse(target, Request("GET", f"/{bucket}"), liar, denied)
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_unknown_key(target: Target, bucket: str) -> None:
    stranger = Signer(replace(target, access_key="AKIAXXXXXXXXXXXXXXXX"))
    refuse(target, Request("GET", f"/{bucket}"), stranger, (403, "InvalidAccessKeyId"))


def test_no_signature(target: Target, s3: Any, bucket: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        request = Request(method, f"/{bucket}/k", body=b"", signed=False)
        refuse(target, request, None, (403, "AccessDenied"))
    refuse(target, Request("GET", "/", signed=False), None, (403, "AccessDenied"))
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


@pytest.mark.parametrize("minutes", [-16, 16, -60 * 24 * 400])
def test_skewed_time(target: Target, bucket: str, minutes: int) -> None:
    signer = Signer(target, now=datetime.now(timezone.utc) + timedelta(minutes=minutes))
    refuse(target, Request("GET", f"/{bucket}"), signer, (403, "RequestTimeTooSkewed"))


@pytest.mark.parametrize("minutes", [-13, 13])
def test_small_skew(target: Target, bucket: str, minutes: int) -> None:
    signer = Signer(target, now=datetime.now(timezone.utc) + timedelta(minutes=minutes))
    assert send(target, Request("GET", f"/{bucket}"), signer).status == 200


def test_changed_after_signing(target: Target, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    request = Request("GET", f"/{bucket}/k", headers=[("x-amz-meta-a", "1")])
    final = sign(target, request)
    changes: list[tuple[Request, Any]] = [
        (replace(request, path=f"/{bucket}/other"), final),
        (replace(request, method="DELETE"), final),
        (replace(request, query=[("tagging", "")]), final),
        (request, [(n, "2" if n == "x-amz-meta-a" else v) for n, v in final]),
        (request, [(n, v) for n, v in final if n != "x-amz-meta-a"]),
    ]
    for changed, headers in changes:
        reply = exchange(target, head_bytes(changed, headers), changed.method)
        assert reply.status in (400, 403), (changed, reply.brief())
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"


def test_unsigned_amz_header_is_refused(target: Target, s3: Any, bucket: str) -> None:
    """A header that changes the meaning of a request must be signed."""
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    request = Request("PUT", f"/{bucket}/stolen")
    added = [*sign(target, request), ("x-amz-copy-source", f"/{bucket}/k")]
    reply = exchange(target, head_bytes(request, added))
    assert reply.status == 403, reply.brief()
    assert error_of(s3.head_object, Bucket=bucket, Key="stolen")[0] == 404


MALFORMED = [
    "AWS4-HMAC-SHA256",
    "AWS4-HMAC-SHA256 Credential=a, SignedHeaders=host, Signature=b",
    "AWS4-HMAC-SHA256 Credential=a/20200101/us-east-1/s3/aws4_request,Signature=",
    "AWS4-HMAC-SHA256 Credential=a/b/c/d/e/f/g,SignedHeaders=;;;,Signature=zz",
    "AWS AKIAX:frJIUN8DYpKDtOLCwo//yllqDzg=",
    "Basic dXNlcjpwYXNz",
    "Bearer x",
    "=" * 4000,
]


@pytest.mark.parametrize("value", MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_authorization(target: Target, bucket: str, value: str) -> None:
    now = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    headers = [("Authorization", value), ("x-amz-date", now), ("x-amz-content-sha256", UNSIGNED)]
    reply = send(target, Request("GET", f"/{bucket}", headers=headers, signed=False))
    assert reply.status in (400, 403) and reply.code, reply.brief()
    assert reply.status != 500


# -- presigned ----------------------------------------------------------------


def presigned(
    target: Target, method: str, path: str, expires: int = 60, now: datetime | None = None
) -> Request:
    query = Signer(target, now=now).presign(method, path, [], expires)
    return Request(method, path, query, signed=False, content_length=None)


def test_presigned(target: Target, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert send(target, presigned(target, "GET", f"/{bucket}/k")).body == b"x"
    wrong = presigned(target, "GET", f"/{bucket}/k")
    wrong.query = [(k, v[:-1] + "0" if k == "X-Amz-Signature" else v) for k, v in wrong.query]
    if wrong.query == presigned(target, "GET", f"/{bucket}/k").query:
        wrong.query[-1] = ("X-Amz-Signature", "0" * 64)
    refuse(target, wrong, None, (403, "SignatureDoesNotMatch"))
    other_method = replace(presigned(target, "GET", f"/{bucket}/k"), method="DELETE")
    refuse(target, other_method, None, (403, "SignatureDoesNotMatch"))


def test_presigned_expired(target: Target, bucket: str) -> None:
    old = datetime.now(timezone.utc) - timedelta(seconds=70)
    refuse(target, presigned(target, "GET", f"/{bucket}/k", 60, old), None, (403, "AccessDenied"))


@pytest.mark.parametrize("expires", [0, -1, 604_801])
def test_presigned_bad_expiry(target: Target, bucket: str, expires: int) -> None:
    reply = send(target, presigned(target, "GET", f"/{bucket}/k", expires))
    assert reply.status in (400, 403), reply.brief()
    assert reply.code in ("AuthorizationQueryParametersError", "AccessDenied")


def test_body_is_not_asked_for_before_the_signature(target: Target, bucket: str) -> None:
    """Invariant: signatures are checked before a body byte is taken."""
    liar = Signer(replace(target, secret_key="x" * 40))
    request = Request(
        "PUT",
        f"/{bucket}/k",
        headers=[("Expect", "100-continue")],
        payload_hash=UNSIGNED,
        content_length="1000000",
    )
    with connect(target) as connection:
        connection.sendall(head_bytes(request, sign(target, request, liar)))
        first = connection.recv(12, 2)  # MSG_PEEK
        assert b" 100" not in first, "the server asked for the body of a forged request"
        reply = read_reply(connection)
    assert (reply.status, reply.code) == (403, "SignatureDoesNotMatch")
    assert reply.closed, "nobody knows whether the body will be sent: the connection must end"


def test_100_continue_without_a_body(target: Target, bucket: str) -> None:
    """botocore takes a final answer where it expects 100 for the answer of the next
    request on that connection too: say 100 first, or end the connection."""
    headers = [("Expect", "100-continue")]
    request = Request("PUT", f"/{bucket}/k", headers=headers, payload_hash=UNSIGNED)
    with connect(target) as connection:
        connection.sendall(head_bytes(request, sign(target, request)))
        first = connection.recv(12, 2)  # MSG_PEEK
        reply = read_reply(connection, "PUT")
    assert reply.status == 200
    assert first == b"HTTP/1.1 100" or reply.closed, first


def test_100_continue(target: Target, s3: Any, bucket: str) -> None:
    data = payload(100_000)
    headers = [("Expect", "100-continue")]
    request = Request("PUT", f"/{bucket}/k", headers=headers, body=data, payload_hash=UNSIGNED)
    with connect(target) as connection:
        connection.sendall(head_bytes(request, sign(target, request)))
        interim = connection.recv(25)
        assert interim == b"HTTP/1.1 100 Continue\r\n\r\n", interim
        connection.sendall(data)
        assert read_reply(connection).status == 200
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == data
