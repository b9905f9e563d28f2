"""Client checksums are verified before the ack, stored and returned (C9)."""

from __future__ import annotations

import base64
import hashlib
import zlib
from typing import Any

import pytest
from awscrt import checksums as crt

from harness.payload import MIB, payload
from harness.raw import Reply, Request, head_bytes, exchange, send, sign
from harness.signing import UNSIGNED_TRAILER, unsigned_chunks
from harness.target import Target, error_of


def _big_endian(value: int, size: int) -> bytes:
    return value.to_bytes(size, "big")


ALGORITHMS: dict[str, Any] = {
    "CRC32": lambda data: _big_endian(zlib.crc32(data), 4),
    "CRC32C": lambda data: _big_endian(crt.crc32c(data), 4),
    "CRC64NVME": lambda data: _big_endian(crt.crc64nvme(data), 8),
    "SHA1": lambda data: hashlib.sha1(data).digest(),
    "SHA256": lambda data: hashlib.sha256(data).digest(),
}


def checksum(name: str, data: bytes) -> str:
    """Base64 of a checksum."""
    return base64.b64encode(ALGORITHMS[name](data)).decode()


def header(name: str) -> str:
    """The header of an algorithm."""
    return f"x-amz-checksum-{name.lower()}"


@pytest.mark.parametrize("size", [0, 1, 100_000, 2 * MIB + 5])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_boto_stores_and_returns(s3: Any, bucket: str, name: str, size: int) -> None:
    data = payload(size, name)
    put = s3.put_object(Bucket=bucket, Key="k", Body=data, ChecksumAlgorithm=name)
    assert put[f"Checksum{name}"] == checksum(name, data)
    got = s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert got[f"Checksum{name}"] == checksum(name, data)
    assert got["Body"].read() == data
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert head[f"Checksum{name}"] == checksum(name, data)


def put_with_header(target: Target, bucket: str, name: str, value: str, data: bytes) -> Reply:
    return send(
        target,
        Request("PUT", f"/{bucket}/k", headers=[(header(name), value)], body=data),
    )


def put_with_trailer(target: Target, bucket: str, name: str, value: str, data: bytes) -> Reply:
    request = Request(
        "PUT",
        f"/{bucket}/k",
        headers=[
            ("Content-Encoding", "aws-chunked"),
            ("x-amz-trailer", header(name)),
            ("x-amz-decoded-content-length", str(len(data))),
        ],
        body=unsigned_chunks([data[:10], data[10:]], (header(name), value)),
        payload_hash=UNSIGNED_TRAILER,
    )
    return send(target, request)


PUTS = {"header": put_with_header, "trailer": put_with_trailer}


@pytest.mark.not_on_moto("verifies nothing")
@pytest.mark.parametrize("how", PUTS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_right_and_wrong(target: Target, s3: Any, bucket: str, how: str, name: str) -> None:
    data = payload(70_000, name)
    wrong = PUTS[how](target, bucket, name, checksum(name, data + b"!"), data)
    assert (wrong.status, wrong.code) == (400, "BadDigest"), wrong.brief()
    assert error_of(s3.head_object, Bucket=bucket, Key="k")[0] == 404
    right = PUTS[how](target, bucket, name, checksum(name, data), data)
    assert right.status == 200, right.brief()
    assert right.headers[header(name)] == checksum(name, data)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == data


@pytest.mark.not_on_moto("verifies nothing")
@pytest.mark.parametrize("value", ["", "AAAA", "not base64!", "A" * 500])
def test_malformed_value(target: Target, bucket: str, value: str) -> None:
    reply = put_with_header(target, bucket, "CRC32", value, b"data")
    assert (reply.status, reply.code) == (400, "InvalidRequest"), reply.brief()


@pytest.mark.not_on_moto("verifies nothing")
def test_wrong_checksum_keeps_the_old_object(target: Target, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"old")
    assert put_with_header(target, bucket, "SHA256", checksum("SHA256", b"?"), b"new").status == 400
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"old"


MD5S = [
    (base64.b64encode(hashlib.md5(b"data").digest()).decode(), 200, ""),
    (base64.b64encode(hashlib.md5(b"atad").digest()).decode(), 400, "BadDigest"),
    ("AAAA", 400, "InvalidDigest"),
    ("no base64", 400, "InvalidDigest"),
]


@pytest.mark.not_on_moto("verifies nothing")
@pytest.mark.parametrize(("value", "status", "code"), MD5S)
def test_content_md5(target: Target, bucket: str, value: str, status: int, code: str) -> None:
    request = Request("PUT", f"/{bucket}/k", headers=[("Content-MD5", value)], body=b"data")
    reply = send(target, request)
    assert (reply.status, reply.code) == (status, code), reply.brief()


@pytest.mark.not_on_moto("verifies nothing")
def test_signed_payload_hash(target: Target, s3: Any, bucket: str) -> None:
    digest = hashlib.sha256(b"other").hexdigest()
    reply = send(target, Request("PUT", f"/{bucket}/k", body=b"data!", payload_hash=digest))
    assert (reply.status, reply.code) == (400, "XAmzContentSHA256Mismatch"), reply.brief()
    assert error_of(s3.head_object, Bucket=bucket, Key="k")[0] == 404


@pytest.mark.not_on_moto("verifies nothing")
def test_announced_trailer_that_does_not_come(target: Target, s3: Any, bucket: str) -> None:
    request = Request(
        "PUT",
        f"/{bucket}/k",
        headers=[
            ("Content-Encoding", "aws-chunked"),
            ("x-amz-trailer", "x-amz-checksum-crc32"),
            ("x-amz-decoded-content-length", "4"),
        ],
        body=unsigned_chunks([b"data"], None),
        payload_hash=UNSIGNED_TRAILER,
    )
    reply = exchange(target, head_bytes(request, sign(target, request)) + request.body)
    assert reply.status == 400, reply.brief()
    assert error_of(s3.head_object, Bucket=bucket, Key="k")[0] == 404


def _upload(s3: Any, bucket: str, pieces: list[bytes], name: str, **kind: str) -> dict[str, Any]:
    made = s3.create_multipart_upload(Bucket=bucket, Key="k", ChecksumAlgorithm=name, **kind)
    where = {"Bucket": bucket, "Key": "k", "UploadId": made["UploadId"]}
    parts = []
    for number, piece in enumerate(pieces, 1):
        sent = s3.upload_part(PartNumber=number, Body=piece, ChecksumAlgorithm=name, **where)
        field = f"Checksum{name}"
        assert sent[field] == checksum(name, piece)
        parts.append({"PartNumber": number, "ETag": sent["ETag"], field: sent[field]})
    return s3.complete_multipart_upload(MultipartUpload={"Parts": parts}, **where)


PIECES = [payload(5 * MIB, 1), payload(5 * MIB + 3, 2), payload(11, 3)]


@pytest.mark.not_on_moto("computes nothing")
@pytest.mark.parametrize("name", ["CRC32", "CRC32C", "CRC64NVME"])
def test_full_object_checksum_of_an_upload(s3: Any, bucket: str, name: str) -> None:
    done = _upload(s3, bucket, PIECES, name, ChecksumType="FULL_OBJECT")
    expected = checksum(name, b"".join(PIECES))
    assert done[f"Checksum{name}"] == expected
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert (head[f"Checksum{name}"], head["ChecksumType"]) == (expected, "FULL_OBJECT")


@pytest.mark.not_on_moto("computes nothing")
@pytest.mark.parametrize("name", ["CRC32", "CRC32C", "SHA1", "SHA256"])
def test_composite_checksum_of_an_upload(s3: Any, bucket: str, name: str) -> None:
    done = _upload(s3, bucket, PIECES, name, ChecksumType="COMPOSITE")
    joined = b"".join(ALGORITHMS[name](piece) for piece in PIECES)
    expected = f"{checksum(name, joined)}-{len(PIECES)}"
    assert done[f"Checksum{name}"] == expected
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert (head[f"Checksum{name}"], head["ChecksumType"]) == (expected, "COMPOSITE")


@pytest.mark.not_on_moto("verifies nothing")
def test_wrong_part_checksum(s3: Any, bucket: str) -> None:
    made = s3.create_multipart_upload(Bucket=bucket, Key="k", ChecksumAlgorithm="CRC32")
    where = {"Bucket": bucket, "Key": "k", "UploadId": made["UploadId"]}
    error = error_of(
        s3.upload_part, PartNumber=1, Body=b"x", ChecksumCRC32=checksum("CRC32", b"y"), **where
    )
    assert error == (400, "BadDigest")
    assert s3.list_parts(**where).get("Parts", []) == []
