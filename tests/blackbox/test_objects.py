"""What is kept with an object, copies, batch deletes, tags."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.request import urlopen

import pytest

from harness.payload import MIB, md5_hex, payload
from harness.raw import Request, send
from harness.target import Target, empty_bucket, error_of, fresh_name

STORED = {
    "ContentType": "text/x-lyrics; charset=utf-8",
    "ContentEncoding": "gzip",
    "ContentDisposition": 'attachment; filename="a b.txt"',
    "ContentLanguage": "de, en",
    "CacheControl": "max-age=60, private",
}


def test_headers_are_stored_and_returned(s3: Any, bucket: str) -> None:
    expires = datetime(2031, 5, 6, 7, 8, 9, tzinfo=timezone.utc)
    meta = {"colour": "blue", "mixed-case": "Va Lue", "empty": ""}
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Metadata=meta, Expires=expires, **STORED)
    for reply in (s3.get_object(Bucket=bucket, Key="k"), s3.head_object(Bucket=bucket, Key="k")):
        assert {name: reply[name] for name in STORED} == STORED
        assert reply["Metadata"] == meta
        assert "31" in reply["ExpiresString"] and "2031" in reply["ExpiresString"]


def test_default_content_type(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert s3.head_object(Bucket=bucket, Key="k")["ContentType"] == "binary/octet-stream"


def test_aws_chunked_is_not_kept(s3: Any, bucket: str) -> None:
    """boto3 sends its trailers with `Content-Encoding: aws-chunked`."""
    s3.put_object(Bucket=bucket, Key="a", Body=b"x", ChecksumAlgorithm="CRC32")
    assert "ContentEncoding" not in s3.head_object(Bucket=bucket, Key="a")
    s3.put_object(Bucket=bucket, Key="b", Body=b"x", ChecksumAlgorithm="CRC32", ContentEncoding="zstd")
    assert s3.head_object(Bucket=bucket, Key="b")["ContentEncoding"] == "zstd"


@pytest.mark.not_on_moto("has no limit")
def test_user_metadata_limit(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Metadata={"a": "v" * 2047})
    assert s3.head_object(Bucket=bucket, Key="k")["Metadata"] == {"a": "v" * 2047}
    error = error_of(s3.put_object, Bucket=bucket, Key="big", Body=b"x", Metadata={"a": "v" * 2048})
    assert error == (400, "MetadataTooLarge")
    assert error_of(s3.head_object, Bucket=bucket, Key="big")[0] == 404


def test_last_modified(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    now = datetime.now(timezone.utc)
    head = s3.head_object(Bucket=bucket, Key="k")["LastModified"]
    listed = s3.list_objects_v2(Bucket=bucket)["Contents"][0]["LastModified"]
    assert abs(head - now) < timedelta(minutes=1)
    assert abs(head - listed) < timedelta(seconds=1)


def test_response_overrides(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ContentType="text/plain")
    overrides = {
        "ResponseContentType": "application/x-test",
        "ResponseContentDisposition": "inline",
        "ResponseCacheControl": "no-store",
        "ResponseContentLanguage": "fr",
        "ResponseContentEncoding": "identity",
    }
    got = s3.get_object(Bucket=bucket, Key="k", **overrides)
    for name, value in overrides.items():
        assert got[name.removeprefix("Response")] == value


def test_presigned_get_and_put(target: Target, bucket: str) -> None:
    import requests

    s3 = target.client(signature_version="s3v4")  # boto3 still presigns with SigV2 by default
    data = payload(100_000, "presigned")
    put = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "a b+c"})
    assert requests.put(put, data=data, timeout=60).status_code == 200
    params = {"Bucket": bucket, "Key": "a b+c", "ResponseContentType": "text/x-me"}
    with urlopen(s3.generate_presigned_url("get_object", Params=params), timeout=60) as reply:
        assert reply.read() == data
        assert reply.headers["Content-Type"] == "text/x-me"


@pytest.mark.not_on_moto("takes it")
def test_signature_version_2_is_named(s3: Any, bucket: str) -> None:
    import requests

    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
    assert "AWSAccessKeyId" in url
    reply = requests.get(url, timeout=60)
    assert (reply.status_code, "InvalidRequest" in reply.text) == (400, True), reply.text
    assert "AWS4-HMAC-SHA256" in reply.text, "say what to use"


# -- copy -------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 10_000, 9 * MIB])
def test_copy_keeps_bytes_and_headers(s3: Any, bucket: str, size: int) -> None:
    data = payload(size, "copy")
    s3.put_object(Bucket=bucket, Key="src é+ %", Body=data, Metadata={"a": "1"}, ContentType="text/a")
    source = {"Bucket": bucket, "Key": "src é+ %"}
    result = s3.copy_object(Bucket=bucket, Key="dst", CopySource=source)["CopyObjectResult"]
    assert result["ETag"] == f'"{md5_hex(data)}"'
    got = s3.get_object(Bucket=bucket, Key="dst")
    assert (got["Body"].read(), got["Metadata"], got["ContentType"]) == (data, {"a": "1"}, "text/a")


def test_copy_across_buckets_with_replace(s3: Any, bucket: str) -> None:
    other = fresh_name("other")
    s3.create_bucket(Bucket=other)
    try:
        s3.put_object(Bucket=bucket, Key="k", Body=b"abc", Metadata={"a": "1"})
        s3.copy_object(
            Bucket=other,
            Key="k",
            CopySource=f"{bucket}/k",
            MetadataDirective="REPLACE",
            Metadata={"b": "2"},
            ContentType="text/b",
        )
        got = s3.get_object(Bucket=other, Key="k")
        assert got["Body"].read() == b"abc"
        assert (got["Metadata"], got["ContentType"]) == ({"b": "2"}, "text/b")
    finally:
        empty_bucket(s3, other)


def test_self_copy(s3: Any, bucket: str) -> None:
    data = payload(200_000, "self")
    s3.put_object(Bucket=bucket, Key="k", Body=data, Metadata={"a": "1"})
    source = {"Bucket": bucket, "Key": "k"}
    assert error_of(s3.copy_object, Bucket=bucket, Key="k", CopySource=source) == (
        400,
        "InvalidRequest",
    )
    s3.copy_object(
        Bucket=bucket, Key="k", CopySource=source, MetadataDirective="REPLACE", Metadata={"b": "2"}
    )
    got = s3.get_object(Bucket=bucket, Key="k")
    assert (got["Body"].read(), got["Metadata"]) == (data, {"b": "2"})


@pytest.mark.not_on_moto("ignores some of the conditions")
def test_copy_conditions(s3: Any, bucket: str) -> None:
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"abc")["ETag"]
    source = {"Bucket": bucket, "Key": "k"}
    later = datetime.now(timezone.utc) + timedelta(hours=-1)
    refused: list[dict[str, Any]] = [
        {"CopySourceIfMatch": '"nope"'},
        {"CopySourceIfNoneMatch": etag},
        {"CopySourceIfUnmodifiedSince": later},
    ]
    for condition in refused:
        error = error_of(s3.copy_object, Bucket=bucket, Key="d", CopySource=source, **condition)
        assert error == (412, "PreconditionFailed"), condition
    assert error_of(s3.head_object, Bucket=bucket, Key="d")[0] == 404
    s3.copy_object(Bucket=bucket, Key="d", CopySource=source, CopySourceIfMatch=etag)
    assert s3.get_object(Bucket=bucket, Key="d")["Body"].read() == b"abc"


def test_copy_of_an_upload_with_odd_parts(s3: Any, bucket: str) -> None:
    """Copies of copies: the pieces of the source are no multiples of anything."""
    pieces = [payload(5 * MIB + 12_345, 1), payload(5 * MIB + 1, 2), payload(3 * MIB + 7, 3)]
    made = s3.create_multipart_upload(Bucket=bucket, Key="k")
    where = {"Bucket": bucket, "Key": "k", "UploadId": made["UploadId"]}
    parts = []
    for number, piece in enumerate(pieces, 1):
        sent = s3.upload_part(PartNumber=number, Body=piece, **where)
        parts.append({"PartNumber": number, "ETag": sent["ETag"]})
    s3.complete_multipart_upload(MultipartUpload={"Parts": parts}, **where)
    whole = b"".join(pieces)
    for source, key in (("k", "copy"), ("copy", "copy of copy")):
        place = {"Bucket": bucket, "Key": source}
        result = s3.copy_object(Bucket=bucket, Key=key, CopySource=place)["CopyObjectResult"]
        assert result["ETag"] == f'"{md5_hex(whole)}"'
        for _ in range(2):
            assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == whole


def test_copy_of_nothing(s3: Any, bucket: str) -> None:
    source = {"Bucket": bucket, "Key": "none"}
    assert error_of(s3.copy_object, Bucket=bucket, Key="d", CopySource=source) == (404, "NoSuchKey")


@pytest.mark.not_on_moto("decides otherwise")
def test_refused_and_empty_puts_on_kept_connections(target: Target, bucket: str) -> None:
    """boto3 sends `Expect: 100-continue`; what a request before got must not leak into the next."""
    s3 = target.client(max_pool_connections=1)
    for _ in range(5):
        s3.put_object(Bucket=bucket, Key="empty", Body=b"")
        again = error_of(s3.put_object, Bucket=bucket, Key="empty", Body=b"x", IfNoneMatch="*")
        assert again == (412, "PreconditionFailed")
        assert s3.put_object(Bucket=bucket, Key="k", Body=b"abc")["ETag"] == f'"{md5_hex(b"abc")}"'


# -- DeleteObjects ------------------------------------------------------------


def test_delete_objects(s3: Any, bucket: str) -> None:
    keys = [f"d/{i:03} <&>" for i in range(20)]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    doomed = [{"Key": key} for key in [*keys[:10], "missing"]]
    reply = s3.delete_objects(Bucket=bucket, Delete={"Objects": doomed})
    assert sorted(e["Key"] for e in reply["Deleted"]) == sorted(d["Key"] for d in doomed)
    assert "Errors" not in reply
    left = [e["Key"] for e in s3.list_objects_v2(Bucket=bucket)["Contents"]]
    assert left == keys[10:]


@pytest.mark.not_on_moto("names missing keys")
def test_delete_objects_quiet(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    doomed = {"Objects": [{"Key": "k"}, {"Key": "missing"}], "Quiet": True}
    reply = s3.delete_objects(Bucket=bucket, Delete=doomed)
    assert "Deleted" not in reply and "Errors" not in reply
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_delete_a_thousand(s3: Any, bucket: str) -> None:
    for i in range(3):
        s3.put_object(Bucket=bucket, Key=f"k{i}", Body=b"x")
    doomed = [{"Key": f"k{i}"} for i in range(1000)]
    reply = s3.delete_objects(Bucket=bucket, Delete={"Objects": doomed})
    assert len(reply["Deleted"]) == 1000
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


@pytest.mark.not_on_moto("takes any number")
def test_delete_more_than_a_thousand(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k0", Body=b"x")
    doomed = {"Objects": [{"Key": f"k{i}"} for i in range(1001)]}
    assert error_of(s3.delete_objects, Bucket=bucket, Delete=doomed) == (400, "MalformedXML")
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 1


# -- tags ---------------------------------------------------------------------


def test_object_tags(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Tagging="a=1&b%20c=%40")
    got = s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"]
    assert sorted((t["Key"], t["Value"]) for t in got) == [("a", "1"), ("b c", "@")]
    assert s3.get_object(Bucket=bucket, Key="k")["TagCount"] == 2
    s3.put_object_tagging(
        Bucket=bucket, Key="k", Tagging={"TagSet": [{"Key": "z", "Value": "9"}]}
    )
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == [{"Key": "z", "Value": "9"}]
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    s3.delete_object_tagging(Bucket=bucket, Key="k")
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == []


def test_tag_limits(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    eleven = {"TagSet": [{"Key": f"k{i}", "Value": "v"} for i in range(11)]}
    status, _ = error_of(s3.put_object_tagging, Bucket=bucket, Key="k", Tagging=eleven)
    assert status == 400
    long = {"TagSet": [{"Key": "k" * 129, "Value": "v"}]}
    status, _ = error_of(s3.put_object_tagging, Bucket=bucket, Key="k", Tagging=long)
    assert status == 400
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == []


def test_tags_and_copies(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Tagging="a=1")
    source = {"Bucket": bucket, "Key": "k"}
    s3.copy_object(Bucket=bucket, Key="same", CopySource=source)
    assert s3.get_object_tagging(Bucket=bucket, Key="same")["TagSet"] == [{"Key": "a", "Value": "1"}]
    s3.copy_object(
        Bucket=bucket, Key="new", CopySource=source, TaggingDirective="REPLACE", Tagging="b=2"
    )
    assert s3.get_object_tagging(Bucket=bucket, Key="new")["TagSet"] == [{"Key": "b", "Value": "2"}]


def test_tags_of_nothing(s3: Any, bucket: str) -> None:
    assert error_of(s3.get_object_tagging, Bucket=bucket, Key="none") == (404, "NoSuchKey")


def test_object_acl(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    acl = s3.get_object_acl(Bucket=bucket, Key="k")
    assert [grant["Permission"] for grant in acl["Grants"]] == ["FULL_CONTROL"]


def test_object_attributes(s3: Any, bucket: str) -> None:
    data = payload(1000, "attributes")
    s3.put_object(Bucket=bucket, Key="k", Body=data, ChecksumAlgorithm="SHA256")
    wanted = ["ETag", "ObjectSize", "Checksum", "StorageClass"]
    got = s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=wanted)
    assert got["ObjectSize"] == 1000
    assert got["ETag"] == md5_hex(data)
    assert got["Checksum"]["ChecksumSHA256"]


@pytest.mark.not_on_moto("does not send it")
def test_cache_header_says_hit(target: Target, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=payload(10_000))
    replies = [send(target, Request("GET", f"/{bucket}/k")) for _ in range(3)]
    assert all(r.headers["x-quickwater-cache"] in ("hit", "miss", "partial") for r in replies)
    assert replies[-1].headers["x-quickwater-cache"] == "hit"
