"""After a crash: every ack is there, nothing half is visible, listing and UFS agree."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Protocol

from botocore.exceptions import ClientError

from harness.payload import md5_hex
from harness.raw import BROKEN
from harness.target import Target

from .journal import Journal, Seen, Value
from .load import Mismatch, OpenUpload, describe, fetch, match

MESSAGES_MAX = 20
# How long dirty space may stay full once the UFS takes what it is given.
ROOM_SECONDS = 60.0


@dataclass
class Report:
    """What was looked at and what was wrong."""

    keys: int = 0
    uploads: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, message: str) -> None:
        """One more thing that is wrong."""
        if len(self.wrong) < MESSAGES_MAX:
            self.wrong.append(message)


class Below(Protocol):
    """The UFS, by our keys."""

    def differences(self, bucket: str, present: dict[str, bytes]) -> list[str]:
        """Between what clients see and what it has; it may wait for them to agree."""

    def relieve(self) -> None:
        """Something was answered SlowDown: from here on the UFS has no fault."""


class Files:
    """A directory as UFS: each object is a file, at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def differences(self, bucket: str, present: dict[str, bytes]) -> list[str]:
        """Compares every file."""
        root, wrong = self.root / bucket, []
        files = {
            str(path.relative_to(root)): path
            for path in root.rglob("*")
            if path.is_file() and path.relative_to(root).parts[0] != ".quickwater"
        }
        for key in sorted(files.keys() | present.keys()):
            if key not in files:
                wrong.append(f"{key}: readable, but no file in the UFS")
            elif key not in present:
                wrong.append(f"{key}: a file in the UFS, but no object")
            elif files[key].read_bytes() != present[key]:
                wrong.append(f"{key}: the UFS file differs from the object")
        return wrong

    def relieve(self) -> None:
        """It never has one."""


def check(
    target: Target, bucket: str, journal: Journal, below: Below, uploads: list[OpenUpload]
) -> Report:
    """Looks at everything; settles the journal to what was found."""
    # Bytes are compared here; a checksum error of the client would hide which.
    s3 = target.client(
        retries={"max_attempts": 2}, response_checksum_validation="when_required"
    )
    report = Report()
    present: dict[str, bytes] = {}
    try:
        _objects(s3, bucket, journal, report, present)
        _listing(s3, bucket, present, report)
    except ClientError as error:
        report.add(f"{error.operation_name}: {error}")
        return report
    for message in below.differences(bucket, present):
        report.add(message)
    _open_uploads(s3, bucket, journal, uploads, report, below)
    _abandoned_uploads(s3, bucket, report)
    return report


def _objects(
    s3: Any, bucket: str, journal: Journal, report: Report, present: dict[str, bytes]
) -> None:
    for key in journal.keys():
        report.keys += 1
        try:
            found = fetch(s3, bucket, key)
        except BROKEN as error:
            report.add(f"{key}: cannot be read: {error}")
            continue
        seen = match(found, journal.current(key))
        if seen is Mismatch:
            report.add(f"{key}: found {describe(found)}, allowed {journal.current(key)}")
            continue
        if found is not None:
            present[key] = found
            _again(s3, bucket, key, found, report)
            seen = _named(s3, bucket, key, found, journal, report) or seen
        journal.settle(key, _seen(seen))


def _seen(seen: Any) -> Seen:
    assert seen is None or isinstance(seen, Value)
    return seen


def _named(
    s3: Any, bucket: str, key: str, found: bytes, journal: Journal, report: Report
) -> Value | None:
    """User metadata belongs to one of the values that have these bytes, and says which:
    the shortest ones are all alike."""
    values = [v for v in journal.current(key) if isinstance(v, Value) and v.data() == found]
    stored = _metadata_of(s3, bucket, key)
    named = [value for value in values if value.metadata() == stored]
    if not named:
        report.add(f"{key}: metadata {stored}, allowed {values}")
    return named[0] if named else None


def _again(s3: Any, bucket: str, key: str, found: bytes, report: Report) -> None:
    """HEAD and a second read agree with the first read."""
    head = s3.head_object(Bucket=bucket, Key=key)
    tag = head["ETag"].strip('"')
    if head["ContentLength"] != len(found) or ("-" not in tag and tag != md5_hex(found)):
        report.add(f"{key}: HEAD says {head['ContentLength']} {tag}, body {describe(found)}")
    if fetch(s3, bucket, key) != found:
        report.add(f"{key}: the second read differs from the first")


def _listing(s3: Any, bucket: str, present: dict[str, bytes], report: Report) -> None:
    listed: dict[str, int] = {}
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        listed.update({e["Key"]: e["Size"] for e in page.get("Contents", [])})
    expected = {key: len(data) for key, data in present.items()}
    for key in sorted(listed.keys() | expected.keys()):
        if listed.get(key) != expected.get(key):
            report.add(f"{key}: listed {listed.get(key)} bytes, read {expected.get(key)}")


def _open_uploads(
    s3: Any, bucket: str, journal: Journal, uploads: list[OpenUpload], report: Report,
    below: Below,
) -> None:
    """An acked part survives the crash: the upload can be completed."""
    for number, upload in enumerate(uploads):
        report.uploads += 1
        where = {"Bucket": bucket, "Key": upload.key, "UploadId": upload.upload_id}
        try:
            parts = s3.list_parts(**where).get("Parts", [])
            if [(p["PartNumber"], p["Size"]) for p in parts] != [(1, len(upload.data))]:
                report.add(f"upload {upload.key}: parts {parts}")
            if number > 0:
                s3.abort_multipart_upload(**where)
                continue
            before = fetch(s3, bucket, upload.key)
            metadata = _metadata_of(s3, bucket, upload.key) if before is not None else {}
            manifest = {"Parts": [{"PartNumber": 1, "ETag": upload.etag}]}
            journal.note(upload.key, [upload.data, before])
            _in_time(below, lambda: s3.complete_multipart_upload(MultipartUpload=manifest, **where))
            if fetch(s3, bucket, upload.key) != upload.data:
                report.add(f"upload {upload.key}: completed to other bytes")
            _in_time(below, lambda: _put_back(s3, bucket, upload.key, before, metadata))
        except ClientError as error:
            report.add(f"upload {upload.key}: {error}")


def _abandoned_uploads(s3: Any, bucket: str, report: Report) -> None:
    """What a dying client left behind. Its parts hold dirty space until the sweep of
    orphans, which is later than a run: after some crashes they would fill it."""
    try:
        for where in _listed_uploads(s3, bucket):
            try:
                s3.abort_multipart_upload(**where)
            except s3.exceptions.NoSuchUpload:
                pass  # boto3 tries again what was answered 503: it may be the second time
        for where in _listed_uploads(s3, bucket):
            report.add(f"abandoned upload {where} was aborted and is there")
    except ClientError as error:
        report.add(f"abandoned uploads: {error}")


def _listed_uploads(s3: Any, bucket: str) -> list[dict[str, str]]:
    pages = s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket)
    lefts = [left for page in pages for left in page.get("Uploads", [])]
    return [{"Bucket": bucket, "Key": e["Key"], "UploadId": e["UploadId"]} for e in lefts]


def _in_time(below: Below, write: Callable[[], Any]) -> None:
    """A write that may be told to slow down while dirty space is full and the UFS takes
    nothing, but not for long once it does."""
    end = time.monotonic() + ROOM_SECONDS
    while True:
        try:
            write()
            return
        except ClientError as error:
            if error.response["Error"]["Code"] != "SlowDown" or time.monotonic() > end:
                raise
            below.relieve()
            time.sleep(0.1)


def _metadata_of(s3: Any, bucket: str, key: str) -> dict[str, str]:
    return dict(s3.head_object(Bucket=bucket, Key=key)["Metadata"])


def _put_back(
    s3: Any, bucket: str, key: str, before: bytes | None, metadata: dict[str, str]
) -> None:
    if before is None:
        s3.delete_object(Bucket=bucket, Key=key)
    else:
        s3.put_object(Bucket=bucket, Key=key, Body=before, Metadata=metadata)
