"""Without rules the simulator is an S3 store: what boto3 asks, S3's answers."""

from __future__ import annotations

import base64
import hashlib
import zlib
from typing import Any

import pytest

from harness.payload import KIB, MIB, md5_hex, multipart_etag, payload
from harness.raw import Request, send
from harness.signing import Signer, signed_chunks, unsigned_chunks
from harness.target import error_of

from .client import Sim
from .conftest import BUCKET


def read(client: Any, key: str, **more: Any) -> bytes:
    return bytes(client.get_object(Bucket=BUCKET, Key=key, **more)["Body"].read())


def upload(client: Any, key: str, parts: list[bytes], **more: Any) -> dict[str, Any]:
    where = {"Bucket": BUCKET, "Key": key}
    where["UploadId"] = client.create_multipart_upload(**where, **more)["UploadId"]
    manifest = [
        {"PartNumber": n, "ETag": client.upload_part(PartNumber=n, Body=part, **where)["ETag"]}
        for n, part in enumerate(parts, 1)
    ]
    done: dict[str, Any] = client.complete_multipart_upload(MultipartUpload={"Parts": manifest}, **where)
    return done


@pytest.mark.parametrize("size", [0, 1, 10 * KIB, 3 * MIB])
def test_put_get_head_delete(sim: Sim, client: Any, size: int) -> None:
    data = payload(size, "round")
    put = client.put_object(
        Bucket=BUCKET, Key="d/ü k+%", Body=data, Metadata={"a": "1"}, ContentType="text/x"
    )
    assert put["ETag"] == f'"{md5_hex(data)}"'
    got = client.get_object(Bucket=BUCKET, Key="d/ü k+%")
    assert (got["Body"].read(), got["Metadata"], got["ContentType"]) == (data, {"a": "1"}, "text/x")
    head = client.head_object(Bucket=BUCKET, Key="d/ü k+%")
    assert (head["ContentLength"], head["ETag"]) == (size, put["ETag"])
    assert sim.body(BUCKET, "d/ü k+%") == data
    client.delete_object(Bucket=BUCKET, Key="d/ü k+%")
    client.delete_object(Bucket=BUCKET, Key="d/ü k+%")
    assert error_of(client.get_object, Bucket=BUCKET, Key="d/ü k+%") == (404, "NoSuchKey")
    assert error_of(client.head_object, Bucket=BUCKET, Key="d/ü k+%")[0] == 404


def test_missing_bucket(client: Any) -> None:
    assert error_of(client.put_object, Bucket="none", Key="k", Body=b"") == (404, "NoSuchBucket")
    assert error_of(client.list_objects_v2, Bucket="none") == (404, "NoSuchBucket")
    assert error_of(client.head_bucket, Bucket="none")[0] == 404


def test_ranges(client: Any) -> None:
    data = payload(1000, "range")
    client.put_object(Bucket=BUCKET, Key="k", Body=data)
    for text, part in [("0-0", data[:1]), ("10-99", data[10:100]), ("990-", data[990:]),
                       ("-7", data[-7:]), ("900-5000", data[900:])]:
        got = client.get_object(Bucket=BUCKET, Key="k", Range=f"bytes={text}")
        assert got["Body"].read() == part
        assert got["ContentRange"].endswith("/1000")
    assert error_of(client.get_object, Bucket=BUCKET, Key="k", Range="bytes=1000-")[0] == 416


def test_conditions(client: Any) -> None:
    tag = client.put_object(Bucket=BUCKET, Key="k", Body=b"one")["ETag"]
    where = {"Bucket": BUCKET, "Key": "k"}
    assert client.get_object(IfMatch=tag, **where)["Body"].read() == b"one"
    assert error_of(client.get_object, IfMatch='"other"', **where)[0] == 412
    assert error_of(client.get_object, IfNoneMatch=tag, **where)[0] == 304
    assert error_of(client.put_object, IfNoneMatch="*", Body=b"x", **where)[0] == 412
    assert error_of(client.put_object, IfMatch='"other"', Body=b"x", **where)[0] == 412
    missing = {"Bucket": BUCKET, "Key": "new", "Body": b"x"}
    assert error_of(client.put_object, IfMatch=tag, **missing)[0] == 404
    client.put_object(IfNoneMatch="*", **missing)
    client.put_object(IfMatch=tag, Body=b"two", **where)
    assert read(client, "k") == b"two"


def test_delete_many(sim: Sim, client: Any) -> None:
    for key in ("a", "b", "c"):
        client.put_object(Bucket=BUCKET, Key=key, Body=b"x")
    done = client.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": "a"}, {"Key": "none"}]})
    assert sorted(d["Key"] for d in done["Deleted"]) == ["a", "none"]
    assert sorted(sim.objects(BUCKET)) == ["b", "c"]
    assert [a.key for a in sim.journal() if a.operation == "DeleteObject"] == ["a", "none"]


def test_listing_pages_and_delimiter(client: Any) -> None:
    keys = sorted([f"d{n % 7}/k{n:03}" for n in range(40)] + ["a", "d3", "ü/z", "z"], key=str.encode)
    for key in keys:
        client.put_object(Bucket=BUCKET, Key=key, Body=b"")
    pages = client.get_paginator("list_objects_v2")

    def listed(**how: Any) -> list[str]:
        found = []
        for page in pages.paginate(Bucket=BUCKET, **how):
            names = [e["Key"] for e in page.get("Contents", [])]
            names += [e["Prefix"] for e in page.get("CommonPrefixes", [])]
            assert len(names) == page["KeyCount"]
            found += sorted(names, key=str.encode)
        return found

    assert listed() == listed(PaginationConfig={"PageSize": 3}) == keys
    rolled = sorted({k.split("/")[0] + "/" if "/" in k else k for k in keys}, key=str.encode)
    for size in (1, 2, 1000):
        assert listed(Delimiter="/", PaginationConfig={"PageSize": size}) == rolled
    assert listed(Prefix="d3/") == [k for k in keys if k.startswith("d3/")]
    assert listed(StartAfter="d3") == [k for k in keys if k.encode() > b"d3"]
    assert listed(Prefix="none/") == []


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_checksums_are_kept(client: Any, algorithm: str) -> None:
    data = payload(10 * KIB, algorithm)
    put = client.put_object(Bucket=BUCKET, Key="k", Body=data, ChecksumAlgorithm=algorithm)
    head = client.head_object(Bucket=BUCKET, Key="k", ChecksumMode="ENABLED")
    assert head[f"Checksum{algorithm}"] == put[f"Checksum{algorithm}"]
    assert head["ChecksumType"] == "FULL_OBJECT"
    assert read(client, "k") == data  # boto3 compares


def test_wrong_checksums_change_nothing(sim: Sim, client: Any) -> None:
    client.put_object(Bucket=BUCKET, Key="k", Body=b"before")
    where = {"Bucket": BUCKET, "Key": "k", "Body": b"after"}
    wrong_md5 = base64.b64encode(hashlib.md5(b"x").digest()).decode()
    assert error_of(client.put_object, ContentMD5=wrong_md5, **where) == (400, "BadDigest")
    wrong_crc = base64.b64encode(zlib.crc32(b"x").to_bytes(4, "big")).decode()
    assert error_of(client.put_object, ChecksumCRC32=wrong_crc, **where) == (400, "BadDigest")
    hash_of_other = hashlib.sha256(b"x").hexdigest()
    request = Request("PUT", f"/{BUCKET}/k", body=b"after", payload_hash=hash_of_other)
    assert send(sim.target(), request).code == "XAmzContentSHA256Mismatch"
    assert read(client, "k") == b"before"
    assert len(sim.changes("k")) == 1


def test_aws_chunked_bodies(sim: Sim, client: Any) -> None:
    pieces = [payload(64 * KIB, 1), payload(5, 2)]
    data = b"".join(pieces)
    crc = base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
    headers = [("x-amz-decoded-content-length", str(len(data))), ("x-amz-trailer", "x-amz-checksum-crc32"),
               ("content-encoding", "aws-chunked")]

    def put(value: str) -> Any:
        body = unsigned_chunks(pieces, ("x-amz-checksum-crc32", value))
        request = Request("PUT", f"/{BUCKET}/k", headers=headers, body=body,
                          payload_hash="STREAMING-UNSIGNED-PAYLOAD-TRAILER")
        return send(sim.target(), request)

    assert put(crc).status == 200
    assert read(client, "k") == data
    assert put("AAAAAA==").code == "BadDigest"
    assert read(client, "k") == data
    assert "ContentEncoding" not in client.head_object(Bucket=BUCKET, Key="k")


def test_signed_chunks(sim: Sim, client: Any) -> None:
    pieces = [payload(64 * KIB, 3), payload(64 * KIB, 4), b"end"]
    size = sum(map(len, pieces))
    wire_size = len(unsigned_chunks(pieces, None)) + (len(pieces) + 1) * len(";chunk-signature=" + "0" * 64)
    headers = [("x-amz-decoded-content-length", str(size)), ("Content-Length", str(wire_size))]
    kind = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
    final, proof = Signer(sim.target()).headers("PUT", f"/{BUCKET}/k", [], headers, kind)
    request = Request("PUT", f"/{BUCKET}/k", headers=[h for h in final if h[0].lower() != "host"],
                      body=signed_chunks(proof, pieces), signed=False, content_length=None)
    assert send(sim.target(), request).status == 200
    assert read(client, "k") == b"".join(pieces)


def test_multipart(sim: Sim, client: Any) -> None:
    parts = [payload(5000, 1), payload(6000, 2), b"tail"]
    done = upload(client, "m", parts, Metadata={"a": "1"}, ContentType="text/x")
    assert done["ETag"].strip('"') == multipart_etag(parts)
    assert read(client, "m") == b"".join(parts)
    head = client.head_object(Bucket=BUCKET, Key="m")
    assert (head["Metadata"], head["ContentType"]) == ({"a": "1"}, "text/x")
    applied = sim.journal("m")
    assert [a.operation for a in applied] == [
        "CreateMultipartUpload", "UploadPart", "UploadPart", "UploadPart", "CompleteMultipartUpload"]
    assert len({a.upload_id for a in applied}) == 1
    assert applied[-1].sha256 == hashlib.sha256(b"".join(parts)).hexdigest()


def test_multipart_rules(sim: Sim, client: Any) -> None:
    where = {"Bucket": BUCKET, "Key": "m"}
    where["UploadId"] = client.create_multipart_upload(**where)["UploadId"]
    first = client.upload_part(PartNumber=1, Body=payload(2000, 1), **where)["ETag"]
    second = client.upload_part(PartNumber=2, Body=b"short", **where)["ETag"]
    third = client.upload_part(PartNumber=3, Body=b"end", **where)["ETag"]

    def complete(*parts: tuple[int, str]) -> Any:
        manifest = {"Parts": [{"PartNumber": n, "ETag": tag} for n, tag in parts]}
        return error_of(client.complete_multipart_upload, MultipartUpload=manifest, **where)

    assert complete((2, second), (1, first)) == (400, "InvalidPartOrder")
    assert complete((1, second)) == (400, "InvalidPart")
    assert complete((1, first), (2, second), (3, third)) == (400, "EntityTooSmall")
    assert [p["PartNumber"] for p in client.list_parts(**where)["Parts"]] == [1, 2, 3]
    page = client.list_parts(MaxParts=2, **where)
    assert (len(page["Parts"]), page["IsTruncated"], page["NextPartNumberMarker"]) == (2, True, 2)
    assert [u["Key"] for u in client.list_multipart_uploads(Bucket=BUCKET)["Uploads"]] == ["m"]
    assert error_of(client.head_object, Bucket=BUCKET, Key="m")[0] == 404
    client.abort_multipart_upload(**where)
    assert error_of(client.list_parts, **where) == (404, "NoSuchUpload")
    assert complete((1, first)) == (404, "NoSuchUpload")
    assert "Uploads" not in client.list_multipart_uploads(Bucket=BUCKET)
    assert sim.changes("m") == []


@pytest.mark.parametrize(("algorithm", "kind"), [("SHA256", "COMPOSITE"), ("CRC32", "COMPOSITE"),
                                                 ("CRC64NVME", "FULL_OBJECT")])
def test_multipart_checksums(client: Any, algorithm: str, kind: str) -> None:
    where = {"Bucket": BUCKET, "Key": "m"}
    made = client.create_multipart_upload(ChecksumAlgorithm=algorithm, **where)
    where["UploadId"] = made["UploadId"]
    parts = []
    for number, body in enumerate([payload(3000, 1), payload(3000, 2)], 1):
        sent = client.upload_part(PartNumber=number, Body=body, ChecksumAlgorithm=algorithm, **where)
        name = f"Checksum{algorithm}"
        parts.append({"PartNumber": number, "ETag": sent["ETag"], name: sent[name]})
    client.complete_multipart_upload(MultipartUpload={"Parts": parts}, **where)
    head = client.head_object(Bucket=BUCKET, Key="m", ChecksumMode="ENABLED")
    assert head["ChecksumType"] == kind
    assert head[f"Checksum{algorithm}"].endswith("-2") == (kind == "COMPOSITE")
    assert read(client, "m") == payload(3000, 1) + payload(3000, 2)


def test_copies(client: Any) -> None:
    data = payload(10_000, "copy")
    tag = client.put_object(Bucket=BUCKET, Key="s", Body=data, Metadata={"a": "1"})["ETag"]
    source = {"Bucket": BUCKET, "Key": "s"}
    client.copy_object(Bucket=BUCKET, Key="t", CopySource=source)
    assert client.head_object(Bucket=BUCKET, Key="t")["Metadata"] == {"a": "1"}
    client.copy_object(Bucket=BUCKET, Key="t", CopySource=source, MetadataDirective="REPLACE",
                       Metadata={"b": "2"})
    assert client.head_object(Bucket=BUCKET, Key="t")["Metadata"] == {"b": "2"}
    refused = error_of(client.copy_object, Bucket=BUCKET, Key="t", CopySource=source,
                       CopySourceIfNoneMatch=tag)
    assert refused[0] == 412
    where = {"Bucket": BUCKET, "Key": "u"}
    where["UploadId"] = client.create_multipart_upload(**where)["UploadId"]
    part = client.upload_part_copy(PartNumber=1, CopySource=source, CopySourceRange="bytes=0-4999", **where)
    tag = part["CopyPartResult"]["ETag"]
    client.complete_multipart_upload(MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": tag}]}, **where)
    assert read(client, "u") == data[:5000]


def test_buckets(client: Any) -> None:
    client.create_bucket(Bucket="second")
    names = [b["Name"] for b in client.list_buckets()["Buckets"]]
    assert {"second", BUCKET} <= set(names)
    client.head_bucket(Bucket="second")
    assert client.get_bucket_location(Bucket="second")["LocationConstraint"] is None
    client.put_object(Bucket="second", Key="k", Body=b"")
    assert error_of(client.delete_bucket, Bucket="second") == (409, "BucketNotEmpty")
    client.delete_object(Bucket="second", Key="k")
    client.delete_bucket(Bucket="second")
    assert error_of(client.head_bucket, Bucket="second")[0] == 404


def test_what_it_does_not_do_is_said(client: Any) -> None:
    assert error_of(client.get_bucket_versioning, Bucket=BUCKET) == (501, "NotImplemented")
    assert error_of(client.delete_bucket_cors, Bucket=BUCKET) == (501, "NotImplemented")
    client.head_bucket(Bucket=BUCKET)
