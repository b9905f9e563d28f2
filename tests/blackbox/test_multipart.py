"""The life of a multipart upload."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from harness.payload import MIB, multipart_etag, payload
from harness.target import error_of

PART = 5 * MIB


class Upload:
    """An upload with the parts sent so far."""

    def __init__(self, s3: Any, bucket: str, key: str = "k", **options: Any) -> None:
        self.s3 = s3
        made = s3.create_multipart_upload(Bucket=bucket, Key=key, **options)
        self.where = {"Bucket": bucket, "Key": key, "UploadId": made["UploadId"]}
        self.parts: dict[int, str] = {}

    def send(self, number: int, data: bytes, **options: Any) -> str:
        """Uploads a part."""
        reply = self.s3.upload_part(PartNumber=number, Body=data, **self.where, **options)
        self.parts[number] = reply["ETag"]
        return str(reply["ETag"])

    def manifest(self) -> dict[str, Any]:
        """The list that completes it."""
        return {"Parts": [{"PartNumber": n, "ETag": self.parts[n]} for n in sorted(self.parts)]}

    def complete(self, **options: Any) -> dict[str, Any]:
        """Completes with all parts."""
        return self.s3.complete_multipart_upload(
            MultipartUpload=self.manifest(), **self.where, **options
        )


def test_life(s3: Any, bucket: str) -> None:
    pieces = [payload(PART, 1), payload(PART + 12345, 2), payload(99, 3)]
    upload = Upload(s3, bucket, Metadata={"a": "1"}, ContentType="text/x")
    for number, data in ((3, pieces[2]), (1, pieces[0]), (7, pieces[1])):
        upload.send(number, data)
    assert error_of(s3.head_object, Bucket=bucket, Key="k")[0] == 404
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    upload.parts[9] = upload.send(9, payload(10, 4))
    del upload.parts[3]  # parts that are not named are dropped
    done = upload.complete()
    order = [pieces[0], pieces[1], payload(10, 4)]
    assert done["ETag"] == f'"{multipart_etag(order)}"'
    got = s3.get_object(Bucket=bucket, Key="k")
    assert got["Body"].read() == b"".join(order)
    assert (got["Metadata"], got["ContentType"]) == ({"a": "1"}, "text/x")
    assert s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []


@pytest.mark.not_on_moto("forgets the upload")
def test_complete_twice_gives_the_same_tag(s3: Any, bucket: str) -> None:
    upload = Upload(s3, bucket)
    upload.send(1, payload(100))
    assert upload.complete()["ETag"] == upload.complete()["ETag"]


@pytest.mark.not_on_moto("forgets the upload")
def test_completes_at_the_same_time_get_the_same_tag(s3: Any, bucket: str) -> None:
    for round_number in range(8):
        upload = Upload(s3, bucket, f"repeated{round_number}")
        upload.send(1, payload(PART, round_number))
        upload.send(2, payload(100, round_number))
        barrier = threading.Barrier(4)

        def complete(_: int) -> str:
            barrier.wait()
            return str(upload.complete()["ETag"])

        with ThreadPoolExecutor(4) as clients:
            tags = set(clients.map(complete, range(4)))
        assert len(tags) == 1, tags
        assert s3.head_object(Bucket=bucket, Key=upload.where["Key"])["ETag"] in tags


def test_a_part_sent_again_replaces_the_first(s3: Any, bucket: str) -> None:
    upload = Upload(s3, bucket)
    upload.send(1, payload(PART, "old"))
    upload.send(1, payload(PART + 1, "new"))
    upload.complete()
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == payload(PART + 1, "new")


@pytest.mark.not_on_moto("knows no part sizes of GET")
def test_part_number_reads(s3: Any, bucket: str) -> None:
    pieces = [payload(PART, 1), payload(PART + 7, 2), payload(5, 3)]
    upload = Upload(s3, bucket)
    for number, data in enumerate(pieces, 1):
        upload.send(number, data)
    upload.complete()
    start = 0
    for number, data in enumerate(pieces, 1):
        got = s3.get_object(Bucket=bucket, Key="k", PartNumber=number)
        total = sum(map(len, pieces))
        assert got["PartsCount"] == 3
        assert got["ContentRange"] == f"bytes {start}-{start + len(data) - 1}/{total}"
        assert got["Body"].read() == data
        head = s3.head_object(Bucket=bucket, Key="k", PartNumber=number)
        assert (head["ContentLength"], head["PartsCount"]) == (len(data), 3)
        start += len(data)
    status, _ = error_of(s3.get_object, Bucket=bucket, Key="k", PartNumber=4)
    assert status == 416


def test_part_number_one_of_a_plain_object(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"abc")
    assert s3.get_object(Bucket=bucket, Key="k", PartNumber=1)["Body"].read() == b"abc"


@pytest.mark.not_on_moto("answers 500")
def test_abort(s3: Any, bucket: str) -> None:
    upload = Upload(s3, bucket)
    upload.send(1, payload(PART))
    s3.abort_multipart_upload(**upload.where)
    assert error_of(upload.complete) == (404, "NoSuchUpload")
    assert error_of(s3.upload_part, PartNumber=1, Body=b"x", **upload.where) == (404, "NoSuchUpload")
    assert error_of(s3.list_parts, **upload.where) == (404, "NoSuchUpload")
    assert error_of(s3.abort_multipart_upload, **upload.where) == (404, "NoSuchUpload")
    assert error_of(s3.head_object, Bucket=bucket, Key="k")[0] == 404


def bad_manifests(etag: str) -> list[tuple[str, list[dict[str, Any]], str]]:
    """Lists that must not complete an upload that has parts 1 and 2 of 5 MiB."""
    return [
        ("wrong tag", [{"PartNumber": 1, "ETag": '"' + "0" * 32 + '"'}], "InvalidPart"),
        ("unknown part", [{"PartNumber": 3, "ETag": etag}], "InvalidPart"),
        ("order", [{"PartNumber": 2, "ETag": etag}, {"PartNumber": 1, "ETag": etag}], "InvalidPartOrder"),
        ("twice", [{"PartNumber": 1, "ETag": etag}] * 2, "InvalidPartOrder"),
        ("empty", [], "MalformedXML"),
    ]


@pytest.mark.not_on_moto("does not look at twice")
@pytest.mark.parametrize("index", range(5))
def test_bad_manifests(s3: Any, bucket: str, index: int) -> None:
    upload = Upload(s3, bucket)
    data = payload(PART, "same")
    etag = upload.send(1, data)
    upload.send(2, data)
    _, parts, code = bad_manifests(etag)[index]
    error = error_of(
        s3.complete_multipart_upload, MultipartUpload={"Parts": parts}, **upload.where
    )
    assert error == (400, code)
    upload.complete()  # the upload is still good
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == data + data


def test_too_small_part(s3: Any, bucket: str) -> None:
    upload = Upload(s3, bucket)
    upload.send(1, payload(PART - 1))
    upload.send(2, b"last")
    assert error_of(upload.complete) == (400, "EntityTooSmall")
    assert error_of(s3.head_object, Bucket=bucket, Key="k")[0] == 404


@pytest.mark.not_on_moto("says NoSuchUpload")
@pytest.mark.parametrize("number", [0, 10_001])
def test_part_number_limits(s3: Any, bucket: str, number: int) -> None:
    upload = Upload(s3, bucket)
    error = error_of(s3.upload_part, PartNumber=number, Body=b"x", **upload.where)
    assert error == (400, "InvalidArgument")


def test_part_ten_thousand(s3: Any, bucket: str) -> None:
    upload = Upload(s3, bucket)
    upload.send(10_000, b"only")
    upload.complete()
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"only"


@pytest.mark.not_on_moto("takes any id")
@pytest.mark.parametrize("upload_id", ["nope", "0" * 32, "x" * 2000])
def test_unknown_upload(s3: Any, bucket: str, upload_id: str) -> None:
    where = {"Bucket": bucket, "Key": "k", "UploadId": upload_id}
    assert error_of(s3.upload_part, PartNumber=1, Body=b"x", **where) == (404, "NoSuchUpload")
    assert error_of(s3.abort_multipart_upload, **where) == (404, "NoSuchUpload")


@pytest.mark.not_on_moto("does not look at the key")
def test_upload_of_another_key(s3: Any, bucket: str) -> None:
    upload = Upload(s3, bucket)
    stolen = {**upload.where, "Key": "other"}
    assert error_of(s3.upload_part, PartNumber=1, Body=b"x", **stolen) == (404, "NoSuchUpload")


def test_part_copy(s3: Any, bucket: str) -> None:
    source = payload(12 * MIB, "source")
    s3.put_object(Bucket=bucket, Key="src", Body=source)
    upload = Upload(s3, bucket)
    copied = s3.upload_part_copy(
        PartNumber=1,
        CopySource={"Bucket": bucket, "Key": "src"},
        CopySourceRange=f"bytes=100-{100 + PART - 1}",
        **upload.where,
    )
    upload.parts[1] = copied["CopyPartResult"]["ETag"]
    whole = s3.upload_part_copy(
        PartNumber=2, CopySource={"Bucket": bucket, "Key": "src"}, **upload.where
    )
    upload.parts[2] = whole["CopyPartResult"]["ETag"]
    upload.complete()
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == source[100 : 100 + PART] + source


@pytest.mark.not_on_moto("takes it")
@pytest.mark.parametrize("span", ["bytes=0-99999999", "bytes=5-1", "0-4", "bytes=-5"])
def test_part_copy_bad_range(s3: Any, bucket: str, span: str) -> None:
    s3.put_object(Bucket=bucket, Key="src", Body=b"0123456789")
    upload = Upload(s3, bucket)
    source = {"Bucket": bucket, "Key": "src"}
    status, code = error_of(
        s3.upload_part_copy, PartNumber=1, CopySource=source, CopySourceRange=span, **upload.where
    )
    assert (status, code) in [(400, "InvalidArgument"), (416, "InvalidRange"), (400, "InvalidRange")]


@pytest.mark.not_on_moto("ends too early")
def test_list_parts_pages(s3: Any, bucket: str) -> None:
    upload = Upload(s3, bucket)
    for number in (1, 2, 5, 8, 9):
        upload.send(number, payload(10 * number, number))
    seen: list[tuple[int, int]] = []
    marker = 0
    while True:
        page = s3.list_parts(MaxParts=2, PartNumberMarker=marker, **upload.where)
        seen += [(p["PartNumber"], p["Size"]) for p in page.get("Parts", [])]
        if not page["IsTruncated"]:
            break
        marker = page["NextPartNumberMarker"]
    assert seen == [(n, 10 * n) for n in (1, 2, 5, 8, 9)]


@pytest.mark.not_on_moto("does not page")
def test_list_uploads_pages(s3: Any, bucket: str) -> None:
    wanted = sorted(
        (key, Upload(s3, bucket, key).where["UploadId"])
        for key in ("a", "a", "b/1", "b/2", "c ü", "d")
    )
    seen: list[tuple[str, str]] = []
    markers: dict[str, str] = {}
    while True:
        page = s3.list_multipart_uploads(Bucket=bucket, MaxUploads=2, **markers)
        seen += [(u["Key"], u["UploadId"]) for u in page.get("Uploads", [])]
        if not page["IsTruncated"]:
            break
        markers = {
            "KeyMarker": page["NextKeyMarker"],
            "UploadIdMarker": page["NextUploadIdMarker"],
        }
    assert [key for key, _ in seen] == [key for key, _ in wanted]
    assert sorted(seen) == wanted
    page = s3.list_multipart_uploads(Bucket=bucket, Prefix="b/")
    assert [u["Key"] for u in page["Uploads"]] == ["b/1", "b/2"]
    page = s3.list_multipart_uploads(Bucket=bucket, Delimiter="/")
    assert [p["Prefix"] for p in page["CommonPrefixes"]] == ["b/"]


@pytest.mark.not_on_moto("does not decide races")
def test_abort_and_complete_have_one_winner(s3: Any, bucket: str) -> None:
    from botocore.exceptions import ClientError

    for round_number in range(8):
        key = f"race{round_number}"
        upload = Upload(s3, bucket, key)
        upload.send(1, payload(1000, round_number))
        outcome: dict[str, bool] = {}
        barrier = threading.Barrier(2)

        def attempt(name: str, call: Any) -> None:
            barrier.wait()
            try:
                call()
                outcome[name] = True
            except ClientError as error:
                assert error.response["Error"]["Code"] == "NoSuchUpload", error
                outcome[name] = False

        calls = {
            "abort": lambda: s3.abort_multipart_upload(**upload.where),
            "complete": upload.complete,
        }
        threads = [threading.Thread(target=attempt, args=item) for item in calls.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(outcome.values()) == 1, outcome
        there = "Contents" in s3.list_objects_v2(Bucket=bucket, Prefix=key)
        assert there == outcome["complete"]


@pytest.mark.not_on_moto("ignores it")
def test_conditional_complete(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"old")
    upload = Upload(s3, bucket)
    upload.send(1, b"new")
    assert error_of(upload.complete, IfNoneMatch="*") == (412, "PreconditionFailed")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"old"
