"""Buckets, objects and uploads in memory; every change goes into the journal.

No HTTP, no XML, no faults.
"""

from __future__ import annotations

import hashlib
import time
from bisect import bisect_left, insort
from dataclasses import dataclass, field

from . import checksums
from .errors import S3Error, no_such_bucket, no_such_key, no_such_upload, precondition_failed
from .journal import Journal

PART_NUMBER_MAX = 10_000
PART_BYTES_MIN = 5 << 20


@dataclass(slots=True)
class Content:
    """Bytes with what is known of them."""

    body: bytes
    md5: bytes
    sha256: str
    checksums: dict[str, str]

    @property
    def etag(self) -> str:
        """Without quotes."""
        return self.md5.hex()


@dataclass(slots=True)
class Object:
    """What a key shows."""

    body: bytes
    etag: str
    sha256: str
    checksums: dict[str, str]
    headers: dict[str, str]
    modified: float
    checksum_type: str = "FULL_OBJECT"


@dataclass(slots=True)
class Upload:
    """A multipart upload that is open."""

    id: str
    bucket: str
    key: str
    headers: dict[str, str]
    algorithm: str
    checksum_type: str
    begun: float
    parts: dict[int, tuple[Content, float]] = field(default_factory=dict)


@dataclass(slots=True)
class Bucket:
    """Objects by key, and the keys in order of their UTF-8 bytes."""

    created: float
    objects: dict[str, Object] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Cause:
    """Who asked for a change: the journal's columns about it."""

    request: int = 0
    late: bool = False


@dataclass(slots=True)
class Condition:
    """If-Match and If-None-Match of a write, decided when it is applied."""

    match: str | None = None
    none_match: str | None = None


def read_body(headers: dict[str, str], body: bytes) -> Content:
    """Checks a body against all its request says of it."""
    md5 = hashlib.md5(body).digest()
    sha256 = hashlib.sha256(body).hexdigest()
    kept = checksums.verify(headers, body, lambda: sha256, md5)
    return Content(body, md5, sha256, kept)


class Store:
    """All of it."""

    def __init__(self, journal: Journal, part_bytes_min: int = PART_BYTES_MIN) -> None:
        self.journal = journal
        self.part_bytes_min = part_bytes_min
        self.buckets: dict[str, Bucket] = {}
        self.uploads: dict[str, Upload] = {}
        self._upload_serial = 0

    def clear(self) -> None:
        """Everything goes but the names of the buckets."""
        self.buckets = {name: Bucket(time.time()) for name in self.buckets}
        self.uploads.clear()

    def bucket(self, name: str) -> Bucket:
        """Or 404."""
        found = self.buckets.get(name)
        if found is None:
            raise no_such_bucket()
        return found

    def object(self, bucket: str, key: str) -> Object:
        """Or 404."""
        found = self.bucket(bucket).objects.get(key)
        if found is None:
            raise no_such_key()
        return found

    def upload(self, bucket: str, key: str, upload_id: str) -> Upload:
        """Or 404."""
        self.bucket(bucket)
        found = self.uploads.get(upload_id)
        if found is None or (found.bucket, found.key) != (bucket, key):
            raise no_such_upload()
        return found

    # -- changes ------------------------------------------------------------

    def create_bucket(self, name: str, cause: Cause) -> None:
        """Making one's own bucket again is fine (us-east-1)."""
        if name not in self.buckets:
            self.buckets[name] = Bucket(time.time())
            self.journal.apply("CreateBucket", name, "", request=cause.request, late=cause.late)

    def delete_bucket(self, name: str, cause: Cause) -> None:
        """An empty one."""
        if self.bucket(name).objects:
            raise S3Error(409, "BucketNotEmpty")
        del self.buckets[name]
        self.journal.apply("DeleteBucket", name, "", request=cause.request, late=cause.late)

    def put(
        self, operation: str, bucket: str, key: str, new: Object, when: Condition, cause: Cause,
        upload_id: str = "",
    ) -> None:
        """Makes `new` what the key shows."""
        place = self.bucket(bucket)
        old = place.objects.get(key)
        _decide(when, old)
        if old is None:
            insort(place.keys, key)
        place.objects[key] = new
        self.journal.apply(
            operation, bucket, key, etag=new.etag, size=len(new.body), sha256=new.sha256,
            upload_id=upload_id, request=cause.request, late=cause.late,
            replaced=old.etag if old else "",
        )

    def delete(self, bucket: str, key: str, when: Condition, cause: Cause) -> None:
        """Not being there is success."""
        place = self.bucket(bucket)
        old = place.objects.get(key)
        _decide(when, old)
        if old is not None:
            del place.objects[key]
            del place.keys[bisect_left(place.keys, key)]
        self.journal.apply(
            "DeleteObject", bucket, key, request=cause.request, late=cause.late,
            replaced=old.etag if old else "",
        )

    def begin(
        self, bucket: str, key: str, headers: dict[str, str], algorithm: str, checksum_type: str,
        cause: Cause,
    ) -> Upload:
        """CreateMultipartUpload."""
        self.bucket(bucket)
        self._upload_serial += 1
        upload_id = f"upload-{self._upload_serial:08d}-{hashlib.md5(key.encode()).hexdigest()[:8]}"
        upload = Upload(upload_id, bucket, key, headers, algorithm, checksum_type, time.time())
        self.uploads[upload_id] = upload
        self._note("CreateMultipartUpload", upload, cause)
        return upload

    def put_part(self, upload: Upload, number: int, content: Content, operation: str, cause: Cause) -> None:
        """A part; a second one with the number replaces the first."""
        if not 1 <= number <= PART_NUMBER_MAX:
            raise S3Error(400, "InvalidArgument", "Part number must be between 1 and 10000")
        if self.uploads.get(upload.id) is not upload:
            raise no_such_upload()
        upload.parts[number] = (content, time.time())
        self.journal.apply(
            operation, upload.bucket, upload.key, etag=content.etag, size=len(content.body),
            sha256=content.sha256, upload_id=upload.id, request=cause.request, late=cause.late,
        )

    def complete(
        self, upload: Upload, named: list[tuple[int, str]], when: Condition, cause: Cause
    ) -> Object:
        """CompleteMultipartUpload: all parts named, in order, with their ETags."""
        if self.uploads.get(upload.id) is not upload:
            raise no_such_upload()
        parts = self._named_parts(upload, named)
        body = b"".join(part.body for part in parts)
        new = Object(
            body=body,
            etag=f"{hashlib.md5(b''.join(p.md5 for p in parts)).hexdigest()}-{len(parts)}",
            sha256=hashlib.sha256(body).hexdigest(),
            checksums=_complete_checksum(upload, parts, body),
            headers=upload.headers,
            modified=time.time(),
            checksum_type=upload.checksum_type,
        )
        self.put("CompleteMultipartUpload", upload.bucket, upload.key, new, when, cause, upload.id)
        del self.uploads[upload.id]
        return new

    def abort(self, upload: Upload, cause: Cause) -> None:
        """AbortMultipartUpload."""
        self.uploads.pop(upload.id, None)
        self._note("AbortMultipartUpload", upload, cause)

    def _note(self, operation: str, upload: Upload, cause: Cause) -> None:
        self.journal.apply(
            operation, upload.bucket, upload.key, upload_id=upload.id, request=cause.request,
            late=cause.late,
        )

    def _named_parts(self, upload: Upload, named: list[tuple[int, str]]) -> list[Content]:
        if not named:
            raise S3Error(400, "MalformedXML")
        numbers = [number for number, _ in named]
        if any(a >= b for a, b in zip(numbers, numbers[1:])):
            raise S3Error(400, "InvalidPartOrder")
        parts = []
        for number, etag in named:
            known = upload.parts.get(number)
            if known is None or known[0].etag != etag.strip('"'):
                raise S3Error(400, "InvalidPart", f"part {number}")
            parts.append(known[0])
        if any(len(part.body) < self.part_bytes_min for part in parts[:-1]):
            raise S3Error(400, "EntityTooSmall")
        return parts


def _complete_checksum(upload: Upload, parts: list[Content], body: bytes) -> dict[str, str]:
    name = upload.algorithm
    if upload.checksum_type == "FULL_OBJECT":
        return {name: checksums.base64_of(name, body)}
    values = [part.checksums.get(name) or checksums.base64_of(name, part.body) for part in parts]
    return {name: checksums.composite_of(name, values)}


def _decide(when: Condition, old: Object | None) -> None:
    if when.match is not None:
        if old is None:
            raise no_such_key()
        if not tag_in(when.match, old.etag):
            raise precondition_failed()
    if when.none_match is not None and old is not None and tag_in(when.none_match, old.etag):
        raise precondition_failed()


def tag_in(header: str, etag: str) -> bool:
    """Whether a list of ETags of a conditional header names this one."""
    tags = [tag.strip().removeprefix("W/").strip('"') for tag in header.split(",")]
    return "*" in tags or etag in tags


def page(
    place: Bucket, prefix: str, marker: str, delimiter: str, keys_max: int,
    shown: str = "",
) -> tuple[list[str], list[str], str]:
    """Keys and common prefixes after `marker`, and the last name if there is more.

    `shown` is the common prefix an earlier page ended with.
    """
    keys, prefixes, last = [], [], ""
    at = bisect_left(place.keys, max(marker + "\0" if marker else "", prefix))
    while at < len(place.keys):
        key = place.keys[at]
        if not key.startswith(prefix):
            break
        cut = key.find(delimiter, len(prefix)) if delimiter else -1
        name = key if cut < 0 else key[: cut + len(delimiter)]
        if cut >= 0 and name == shown:
            at = bisect_left(place.keys, _after(name), at)
            continue
        if len(keys) + len(prefixes) == keys_max:
            return keys, prefixes, last
        last = name
        if cut < 0:
            keys.append(key)
            at += 1
        else:
            prefixes.append(name)
            at = bisect_left(place.keys, _after(name), at)
    return keys, prefixes, ""


def _after(prefix: str) -> str:
    """The first key that does not begin with `prefix`, in key order."""
    return prefix + "\U0010ffff"
