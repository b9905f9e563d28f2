"""Objects of every size come back as they went in, whole and in pieces."""

from __future__ import annotations

import io
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig

from harness.payload import KIB, MIB, md5_hex, payload
from harness.target import error_of

SIZES = [0, 1, 4095, 4096, 10 * KIB, 64 * KIB + 1, MIB - 1, MIB, MIB + 1, 8 * MIB]


@pytest.mark.parametrize("size", SIZES)
def test_put_get_head(s3: Any, bucket: str, size: int) -> None:
    data = payload(size, size)
    put = s3.put_object(Bucket=bucket, Key="k", Body=data)
    assert put["ETag"] == f'"{md5_hex(data)}"'
    for _ in range(2):  # the second one comes from the cache
        got = s3.get_object(Bucket=bucket, Key="k")
        assert got["ContentLength"] == size
        assert got["ETag"] == put["ETag"]
        assert got["Body"].read() == data
    head = s3.head_object(Bucket=bucket, Key="k")
    assert head["ContentLength"] == size
    assert head["ETag"] == put["ETag"]
    assert head["AcceptRanges"] == "bytes"


def test_64_mib_by_transfer_manager(s3: Any, bucket: str, big_body: bytes) -> None:
    """`upload_fileobj` with its defaults: parallel multipart upload of 8 MiB parts."""
    s3.upload_fileobj(io.BytesIO(big_body), bucket, "big")
    head = s3.head_object(Bucket=bucket, Key="big")
    assert head["ContentLength"] == len(big_body)
    assert head["ETag"].endswith('-8"')
    sink = io.BytesIO()
    s3.download_fileobj(bucket, "big", sink, Config=TransferConfig(max_concurrency=4))
    assert sink.getvalue() == big_body


def test_64_mib_in_one_put(s3: Any, bucket: str, big_body: bytes) -> None:
    s3.put_object(Bucket=bucket, Key="big", Body=big_body)
    assert s3.get_object(Bucket=bucket, Key="big")["Body"].read() == big_body


RANGES = [
    ("bytes=0-0", 0, 1),
    ("bytes=0-9", 0, 10),
    ("bytes=1-", 1, None),
    ("bytes=-1", -1, None),
    ("bytes=-100000000", 0, None),
    ("bytes=65535-65536", 65535, 65537),
    ("bytes=1048575-1048576", MIB - 1, MIB + 1),
    ("bytes=1048576-2097151", MIB, 2 * MIB),
    ("bytes=3000000-99999999", 3000000, None),
]


@pytest.mark.parametrize(("header", "start", "end"), RANGES)
def test_ranges(s3: Any, bucket: str, header: str, start: int, end: int | None) -> None:
    data = payload(3 * MIB + 77, "ranged")
    s3.put_object(Bucket=bucket, Key="k", Body=data)
    got = s3.get_object(Bucket=bucket, Key="k", Range=header)
    expected = data[start:end]
    assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
    first = start if start >= 0 else len(data) + start
    assert got["ContentRange"] == f"bytes {first}-{first + len(expected) - 1}/{len(data)}"
    assert got["ContentLength"] == len(expected)
    assert got["Body"].read() == expected


@pytest.mark.parametrize("size", [0, 10])
def test_unsatisfiable_range(s3: Any, bucket: str, size: int) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=payload(size))
    assert error_of(s3.get_object, Bucket=bucket, Key="k", Range="bytes=10-20") == (
        416,
        "InvalidRange",
    )


@pytest.mark.not_on_moto("answers 416 or a part")
@pytest.mark.parametrize("header", ["bytes=5-2", "bytes=a-b", "lines=1-2", "bytes=0-1,4-5"])
def test_ranges_that_are_ignored(s3: Any, bucket: str, header: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")
    got = s3.get_object(Bucket=bucket, Key="k", Range=header)
    assert got["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert got["Body"].read() == b"0123456789"


def test_head_with_range(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")
    head = s3.head_object(Bucket=bucket, Key="k", Range="bytes=2-4")
    assert head["ContentLength"] == 3
    assert head["ResponseMetadata"]["HTTPHeaders"]["content-range"] == "bytes 2-4/10"


def test_overwrite_shows_the_new_bytes_only(s3: Any, bucket: str) -> None:
    for version in range(5):
        data = payload((5 - version) * 300 * KIB, version)
        s3.put_object(Bucket=bucket, Key="k", Body=data)
        assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == data
    listed = s3.list_objects_v2(Bucket=bucket)["Contents"]
    assert [(e["Key"], e["Size"]) for e in listed] == [("k", 300 * KIB)]


def test_delete_is_idempotent_and_final(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    for _ in range(2):
        reply = s3.delete_object(Bucket=bucket, Key="k")
        assert reply["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert error_of(s3.get_object, Bucket=bucket, Key="k") == (404, "NoSuchKey")
    assert error_of(s3.head_object, Bucket=bucket, Key="k") == (404, "404")
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
