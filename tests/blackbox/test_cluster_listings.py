"""Listings of one key space at three workers beside a model: every request goes to a random
worker, the next page to another one than gave its token, and between any two requests, pages
too, something may have been written or deleted."""

from __future__ import annotations

import hashlib
import os
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from harness.anywhere import Anywhere, answers, three
from harness.cluster import Cluster
from harness.payload import KIB, payload
from harness.target import error_of

from .test_listings import entries, model

SECONDS = float(os.environ.get("QW_LISTING_SECONDS", "20"))
SEED = os.environ.get("QW_LISTING_SEED", "1")
# Few enough to meet again, and such that a folder is beside files that sort around it.
NAMES = ["a", "a-", "a0", "b", "x y", "%2F", "ü", "日本"]
DELIMITERS = ["", "/", "a", "/a"]
BUCKET = "listed"
UPLOADS_MAX = 12
# About so many at a time.
KEYS = 40


@dataclass
class Space:
    """The key space as it has to be seen, and who asks for it."""

    s3: Anywhere
    random: random.Random
    objects: dict[str, tuple[int, str]] = field(default_factory=dict)
    uploads: dict[str, tuple[str, dict[int, str]]] = field(default_factory=dict)
    story: list[str] = field(default_factory=list)

    def ask(self, call: str, **words: Any) -> Any:
        """One request at any worker."""
        self.story.append(f"{call} {({k: v for k, v in words.items() if k != 'Body'})}")
        return getattr(self.s3, call)(Bucket=BUCKET, **words)

    def key(self) -> str:
        """Any; there may be nothing."""
        return "/".join(self.random.choices(NAMES, k=self.random.choice([1, 2, 2, 3])))

    def keys(self) -> list[str]:
        """In the order of S3."""
        return sorted(self.objects, key=str.encode)

    def some(self, count: int) -> list[str]:
        """Keys, most of which are there."""
        here = self.random.sample(self.keys(), min(count, len(self.objects)))
        return sorted({*here, self.key()})

    # -- changes ------------------------------------------------------------

    def put(self) -> None:
        key, size = self.key(), self.random.choice([0, 1, 100, 3 * KIB, 200 * KIB])
        body = payload(size, (key, len(self.story)))
        etag = self.ask("put_object", Key=key, Body=body)["ETag"]
        assert etag == f'"{hashlib.md5(body).hexdigest()}"'
        self.objects[key] = (size, etag)

    def copy(self) -> None:
        if not self.objects:
            return
        source, key = self.random.choice(self.keys()), self.key()
        if source == key:
            return
        told = self.ask("copy_object", Key=key, CopySource={"Bucket": BUCKET, "Key": source})
        self.objects[key] = (self.objects[source][0], told["CopyObjectResult"]["ETag"])

    def delete(self) -> None:
        for key in self.some(1):
            self.ask("delete_object", Key=key)
            self.objects.pop(key, None)

    def delete_many(self) -> None:
        batch = self.some(self.random.choice([2, 10]))
        told = self.ask("delete_objects", Delete={"Objects": [{"Key": key} for key in batch]})
        assert "Errors" not in told, told
        for key in batch:
            self.objects.pop(key, None)

    def delete_folder(self) -> None:
        prefix = self.random.choice(NAMES) + "/"
        for key in [key for key in self.keys() if key.startswith(prefix)]:
            self.ask("delete_object", Key=key)
            del self.objects[key]

    def begin(self) -> None:
        if len(self.uploads) < UPLOADS_MAX:
            key = self.key()
            upload = self.ask("create_multipart_upload", Key=key)["UploadId"]
            self.uploads[upload] = (key, {})

    def part(self) -> None:
        if not self.uploads:
            return
        upload = self.random.choice(list(self.uploads))
        key, parts = self.uploads[upload]
        number = self.random.randint(1, 4)
        body = payload(1000 + number, (upload, len(self.story)))
        words = {"Key": key, "UploadId": upload, "PartNumber": number}
        parts[number] = self.ask("upload_part", **words, Body=body)["ETag"]

    def end(self) -> None:
        if not self.uploads:
            return
        upload = self.random.choice(list(self.uploads))
        key, parts = self.uploads.pop(upload)
        words: dict[str, Any] = {"Key": key, "UploadId": upload}
        if not parts or self.random.random() < 0.4:
            self.ask("abort_multipart_upload", **words)
            return
        # Of one part: others than the last would have to be large.
        number = max(parts)
        whole = {"Parts": [{"PartNumber": number, "ETag": parts[number]}]}
        etag = self.ask("complete_multipart_upload", **words, MultipartUpload=whole)["ETag"]
        self.objects[key] = (1000 + number, etag)

    def change(self) -> None:
        """One of these."""
        puts = [self.put] * 6 + [self.copy, self.begin, self.part, self.part]
        ends = [self.delete] * 3 + [self.delete_many, self.end]
        if self.random.random() < 0.02:
            ends = puts = [self.delete_folder]
        more = 0.85 if len(self.objects) < KEYS else 0.35
        self.random.choice(puts if self.random.random() < more else ends)()

    # -- what is seen -------------------------------------------------------

    def rest(self, prefix: str, delimiter: str, after: str, last: tuple[str, str]) -> list[tuple[str, str]]:
        """What a listing has to show behind its last entry, as it is now."""
        shown = model(self.keys(), prefix, delimiter, after)
        return [entry for entry in shown if not last[1] or entry[1].encode() > last[1].encode()]

    def check(self, page: dict[str, Any], expected: list[tuple[str, str]], limit: int) -> None:
        """One page of a listing."""
        assert entries(page) == expected[:limit], page["ResponseMetadata"]
        assert page["IsTruncated"] == (len(expected) > limit)
        for entry in page.get("Contents", []):
            assert (entry["Size"], entry["ETag"]) == self.objects[entry["Key"]], entry

    def list_v2(self) -> None:
        """All pages; now and then something changes between two."""
        prefix, delimiter = self._place()
        words: dict[str, Any] = {"Prefix": prefix, "Delimiter": delimiter}
        after = self.random.choice(["", "", self.key()])
        if after and not delimiter:
            words["StartAfter"] = after
        else:
            after = ""
        limit = words["MaxKeys"] = self.random.choice([1, 2, 3, 5, 1000])
        last = ("", "")
        while True:
            expected = self.rest(prefix, delimiter, after, last)
            page = self.ask("list_objects_v2", **words)
            self.check(page, expected, limit)
            assert page["KeyCount"] == len(expected[:limit])
            if not page["IsTruncated"]:
                return
            last = expected[limit - 1]
            words["ContinuationToken"] = page["NextContinuationToken"]
            if self.random.random() < 0.3:
                self.change()

    def list_v1(self) -> None:
        """The same by markers."""
        prefix, delimiter = self._place()
        limit, last = self.random.choice([2, 4, 1000]), ("", "")
        words: dict[str, Any] = {"Prefix": prefix, "Delimiter": delimiter, "MaxKeys": limit}
        while True:
            expected = self.rest(prefix, delimiter, "", last)
            page = self.ask("list_objects", **words)
            self.check(page, expected, limit)
            if not page["IsTruncated"]:
                return
            last = expected[limit - 1]
            words["Marker"] = page["NextMarker"] if delimiter else last[1]
            if self.random.random() < 0.3:
                self.change()

    def list_uploads(self) -> None:
        """Of all keys, or of some; page by page."""
        prefix = self.random.choice(["", "", self.random.choice(NAMES)])
        open_ = [(key, upload) for upload, (key, _) in self.uploads.items() if key.startswith(prefix)]
        words: dict[str, Any] = {"Prefix": prefix, "MaxUploads": self.random.choice([1, 3, 1000])}
        seen: list[tuple[str, str]] = []
        while True:
            page = self.ask("list_multipart_uploads", **words)
            shown = [(one["Key"], one["UploadId"]) for one in page.get("Uploads", [])]
            assert len(shown) <= words["MaxUploads"]
            seen += shown
            if not page["IsTruncated"]:
                break
            assert len(shown) == words["MaxUploads"]
            words["KeyMarker"], words["UploadIdMarker"] = page["NextKeyMarker"], page["NextUploadIdMarker"]
        assert [key for key, _ in seen] == sorted((key for key, _ in open_), key=str.encode)
        assert sorted(seen) == sorted(open_)

    def list_parts(self) -> None:
        """Of an upload that is open."""
        if not self.uploads:
            return
        upload = self.random.choice(list(self.uploads))
        key, parts = self.uploads[upload]
        words: dict[str, Any] = {"Key": key, "UploadId": upload, "MaxParts": self.random.choice([1, 2, 1000])}
        seen: list[tuple[int, str]] = []
        while True:
            page = self.ask("list_parts", **words)
            seen += [(part["PartNumber"], part["ETag"]) for part in page.get("Parts", [])]
            if not page["IsTruncated"]:
                break
            words["PartNumberMarker"] = page["NextPartNumberMarker"]
        assert seen == sorted(parts.items())

    def read(self) -> None:
        """One key, that may not be there."""
        for key in self.some(1):
            if key in self.objects:
                head = self.ask("head_object", Key=key)
                assert (head["ContentLength"], head["ETag"]) == self.objects[key]
            else:
                assert error_of(self.s3.head_object, Bucket=BUCKET, Key=key)[0] == 404

    def look(self) -> None:
        """One of these."""
        looks: list[Callable[[], None]] = [self.list_v2] * 5 + [self.list_v1] * 2
        self.random.choice([*looks, self.list_uploads, self.list_parts, self.read])()

    def _place(self) -> tuple[str, str]:
        prefix = self.key()
        prefix = self.random.choice(["", "", prefix[:1], f"{prefix.split('/')[0]}/", prefix])
        return prefix, self.random.choice(DELIMITERS)


@pytest.fixture(params=["WRITE_THROUGH", "WRITE_BACK"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """Three workers, two copies of what the UFS does not have."""
    with three(tmp_path / "cluster", "10m") as made:
        s3 = made.worker("n1").target().client()
        s3.create_bucket(Bucket="abc")
        made.policy_of_all(str(request.param), 2)
        s3.create_bucket(Bucket=BUCKET)
        yield made
        assert answers(made, "5..") == 0, f"told to come back\n{made.logs()}"


def test_listings_beside_a_model(cluster: Cluster, request: pytest.FixtureRequest) -> None:
    seed = f"{request.node.name} {SEED}"
    space = Space(Anywhere(cluster, int(hashlib.md5(seed.encode()).hexdigest(), 16)), random.Random(seed))
    end = time.monotonic() + SECONDS
    try:
        while time.monotonic() < end:
            space.change()
            space.look()
    except BaseException as error:
        tail = "\n".join(space.story[-30:])
        raise AssertionError(f"seed {SEED!r}, after {len(space.story)} requests:\n{tail}") from error
    print(f"{len(space.story)} requests, {len(space.objects)} keys, {len(space.uploads)} uploads at the end")
    # As it is by itself, and once the UFS has everything.
    for _ in range(2):
        for client in space.s3.clients:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
            listed = [entry for page in pages for entry in page.get("Contents", [])]
            assert [entry["Key"] for entry in listed] == space.keys()
            assert all((entry["Size"], entry["ETag"]) == space.objects[entry["Key"]] for entry in listed)
        done = cluster.cli("async-persist", "wait", "--path", f"/{BUCKET}", "--timeout", "2m")
        assert done.returncode == 0, f"{done}\n{cluster.logs()}"
