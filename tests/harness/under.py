"""A service over the store simulator, and what its clients were told.

Every write goes through `Place`, which keeps the history that `ufssim.verify`
holds against the journal of the store.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
import subprocess
import time
from dataclasses import dataclass, field
from typing import Any, Callable
from xml.sax.saxutils import escape

import pytest

from ufssim.client import Sim
from ufssim.verify import ACKED, REFUSED, UNKNOWN, History, content_of, state, verify

from . import apart
from .raw import BROKEN, Reply, Request, send
from .server import Server, binary
from .target import Target, fresh_name

STORE_BUCKET = "under"
# Short, so that a store that is silent is given up within a test.
IMPATIENT = {
    "ufs-timeout-connect": "1s",
    "ufs-timeout-idle": "1s",
    "ufs-timeout-request": "2s",
    "metadata-ttl": "300ms",
    "s3-min-part-size": "1KiB",
}
TTL_SECONDS = 0.4
# WRITE_BACK with its hours made seconds. No fault of a test lasts past the fence.
# It begins with the request, and two processes start for less than a third of it.
FENCE_SECONDS = 9.0 if apart.wanted() else 3.0
SCALED = {
    "write-cache-persist-retry-initial": "50ms",
    "write-cache-persist-retry-max": "250ms",
    "write-cache-fence": f"{FENCE_SECONDS:g}s",
}
PERSIST_SECONDS = 60.0
# An ack does not wait for the store: less than the time a silent one is given up after.
ACK_SECONDS = 1.8
# What is acked here and not known to be in the store.
UNSETTLED = {"NOT_PERSISTED", "PERSISTING"}
# Each says of a build that it can write back.
WRITE_BACK_SIGNS = {
    ("pathconfig", "--help"): "apply",
    ("async-persist", "--help"): "wait",
    ("conf", "show", "--defaults"): "fence",
}


@functools.cache
def write_back_missing() -> str:
    """What the program lacks of WRITE_BACK; empty = nothing.

    `QW_WRITE_BACK=required` makes lacking it a failure of the tests.
    """
    for words, sign in WRITE_BACK_SIGNS.items():
        done = subprocess.run(
            [str(binary()), *words], capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode != 0 or sign not in done.stdout:
            return f"this build has no WRITE_BACK yet: `quickwater {' '.join(words)}` knows no `{sign}`"
    return ""


def need_write_back() -> None:
    """Skips the test, with what is missing as its reason."""
    if why := write_back_missing():
        assert os.environ.get("QW_WRITE_BACK") != "required", why
        pytest.skip(why)


def over(sim: Sim, root: str = "root") -> dict[str, Any]:
    """Options of a service whose buckets lie in the simulator, below `root`."""
    store = sim.target()
    return {
        "flags": {
            **IMPATIENT,
            "ufs": f"s3://{STORE_BUCKET}/{root}",
            "ufs-options": f"endpoint={store.endpoint},region=us-east-1,"
            "path_style=true,credentials=env:UNDER,min_part_size=1KiB",
        },
        "env": {
            "UNDER_ACCESS_KEY_ID": store.access_key,
            "UNDER_SECRET_ACCESS_KEY": store.secret_key,
            "AWS_EC2_METADATA_DISABLED": "true",
        },
    }


def scaled(sim: Sim, **flags: str) -> dict[str, Any]:
    """As `over`, with hours made seconds, and more flags."""
    made = over(sim)
    made["flags"] |= {**SCALED, **{name.replace("_", "-"): value for name, value in flags.items()}}
    return made


@dataclass
class Ended:
    """How a request ended: an answer, or none (`status` 0)."""

    status: int
    code: str = ""
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def acked(self) -> bool:
        """2xx, and no error document in it."""
        return 200 <= self.status < 300 and not self.code

    @property
    def refused(self) -> bool:
        """4xx: nothing changed."""
        return 400 <= self.status < 500

    @property
    def outcome(self) -> str:
        """For the history."""
        return ACKED if self.acked else REFUSED if self.refused else UNKNOWN


class Place:
    """One bucket of a service over the simulator, with the history of its keys."""

    def __init__(self, server: Server, sim: Sim, root: str = "root") -> None:
        self.server, self.sim = server, sim
        self.bucket = fresh_name()
        self.prefix = f"{root}/{self.bucket}/"
        self.history = History()
        self.s3().create_bucket(Bucket=self.bucket)

    def target(self) -> Target:
        """Where the service listens now."""
        return self.server.target()

    def s3(self, **options: Any) -> Any:
        """A boto3 client of the service."""
        return self.target().client(**options)

    # -- single requests ----------------------------------------------------------

    def send(self, method: str, key: str, body: bytes = b"", **more: Any) -> Ended:
        """A request that changes nothing, or whose change is written down elsewhere."""
        request = Request(method, f"/{self.bucket}/{key}", body=body, **more)
        try:
            reply: Reply = send(self.target(), request)
        except BROKEN:
            return Ended(0)
        return Ended(reply.status, reply.code, reply.body, reply.headers)

    def put(self, key: str, body: bytes, **more: Any) -> Ended:
        """PUT, written down."""
        return self._write(key, body, lambda: self.send("PUT", key, body, **more))

    def delete(self, key: str, **more: Any) -> Ended:
        """DELETE, written down."""
        return self._write(key, None, lambda: self.send("DELETE", key, **more))

    def copy(self, source: str, key: str, body: bytes) -> Ended:
        """CopyObject of a source known to hold `body`, written down."""
        headers = [("x-amz-copy-source", f"/{self.bucket}/{source}")]
        return self._write(key, body, lambda: self.send("PUT", key, headers=headers))

    def delete_many(self, keys: list[str]) -> dict[str, bool]:
        """DeleteObjects, written down; whether each key was acked."""
        operations = {key: self.history.begin(key, None) for key in keys}
        lines = "".join(f"<Object><Key>{escape(key)}</Key></Object>" for key in keys)
        body = f"<Delete>{lines}</Delete>".encode()
        md5 = base64.b64encode(hashlib.md5(body).digest()).decode()
        ended = self.send("POST", "", body, query=[("delete", "")], headers=[("Content-MD5", md5)])
        gone = {key: f"<Deleted><Key>{escape(key)}<".encode() in ended.body for key in keys}
        for key, operation in operations.items():
            self.history.end(operation, ACKED if ended.acked and gone[key] else UNKNOWN)
        return gone

    def _write(self, key: str, body: bytes | None, call: Callable[[], Ended]) -> Ended:
        operation = self.history.begin(key, body)
        ended = call()
        self.history.end(operation, ended.outcome)
        return ended

    # -- uploads --------------------------------------------------------------------

    def begin_upload(self, key: str, parts: list[bytes], **more: Any) -> tuple[str, bytes]:
        """An upload with all its parts there; its id and the manifest to complete it."""
        created = self.send("POST", key, query=[("uploads", "")], **more)
        assert created.status == 200, created
        upload_id = created.body.partition(b"<UploadId>")[2].partition(b"<")[0].decode()
        lines = []
        for number, part in enumerate(parts, 1):
            query = [("partNumber", str(number)), ("uploadId", upload_id)]
            sent = self.send("PUT", key, part, query=query)
            assert sent.status == 200, sent
            lines.append(f"<Part><PartNumber>{number}</PartNumber><ETag>{sent.headers['etag']}</ETag></Part>")
        manifest = f"<CompleteMultipartUpload>{''.join(lines)}</CompleteMultipartUpload>"
        return upload_id, manifest.encode()

    def complete(self, key: str, upload_id: str, manifest: bytes, body: bytes) -> Ended:
        """CompleteMultipartUpload, written down."""
        query = [("uploadId", upload_id)]
        return self._write(key, body, lambda: self.send("POST", key, manifest, query=query))

    def multipart(self, key: str, parts: list[bytes], **more: Any) -> Ended:
        """All of an upload; `more` goes with its beginning."""
        upload_id, manifest = self.begin_upload(key, parts, **more)
        return self.complete(key, upload_id, manifest, b"".join(parts))

    # -- looking ----------------------------------------------------------------------

    def read(self, key: str) -> Ended:
        """GET; a complete 200 or 404 must be something the key may show (C2, C5)."""
        ended = self.send("GET", key)
        if ended.status in (200, 404):
            found = content_of(ended.body if ended.status == 200 else None)
            assert found in self.history.allowed(key), f"{key}: {ended.status} {ended.body[:60]!r}"
        return ended

    def stored(self) -> dict[str, dict[str, Any]]:
        """What the store holds of this bucket, by our keys."""
        return self.sim.objects(STORE_BUCKET, self.prefix)

    def stored_body(self, key: str) -> bytes | None:
        """The store's bytes under one of our keys."""
        return self.sim.body(STORE_BUCKET, self.prefix + key) if key in self.stored() else None

    def judge(self, *, through: bool) -> list[str]:
        """What is wrong between the history and the store."""
        journal = self.sim.journal(self.prefix)
        return verify(self.history, journal, self.stored(), prefix=self.prefix, through=through)

    def settled(self, *, through: bool = True) -> None:
        """With no fault left: client, listing and store agree, and the store obeyed."""
        self.sim.wait_idle()
        time.sleep(TTL_SECONDS)
        found = {}
        for key in self.history.keys:
            ended = self.read(key)
            assert ended.status in (200, 404), f"{key}: {ended}"
            if ended.status == 200:
                found[key] = {"sha256": content_of(ended.body)}
        stored = {key: {"sha256": value["sha256"]} for key, value in self.stored().items()}
        assert found == stored, f"clients see {found}, the store has {stored}"
        pages = self.s3().get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        listed = {e["Key"] for page in pages for e in page.get("Contents", [])}
        assert listed == set(found), f"listed {listed}, read {set(found)}"
        wrong = self.judge(through=through)
        assert not wrong, wrong

    # -- write-back ---------------------------------------------------------------------

    def persist_state(self, key: str) -> str:
        """`x-quickwater-persist-state` of HEAD."""
        return self.send("HEAD", key).headers.get("x-quickwater-persist-state", "")

    def wait_persisted(self, seconds: float = PERSIST_SECONDS) -> None:
        """Until the store has what was acked last, and the service knows it."""
        end = time.monotonic() + seconds
        while True:
            behind = state(self.history, self.stored())
            if not behind:
                behind = [
                    f"{key}: {now}"
                    for key in self.stored()
                    if (now := self.persist_state(key)) not in ("PERSISTED", "")
                ]
            if not behind:
                return
            assert time.monotonic() < end, f"not persisted within {seconds} s: {behind}"
            time.sleep(0.1)

    def wait_deleted(self, seconds: float = PERSIST_SECONDS) -> None:
        """Until nothing waits for its delete. A store without the key says nothing: what was
        being sent when it was deleted may still come, and be deleted after."""
        end = time.monotonic() + seconds
        while waiting := self.server.metric("quickwater_persist_pending_deletes"):
            assert time.monotonic() < end, f"{waiting} keys not deleted within {seconds} s"
            time.sleep(0.05)

    def finish(self, seconds: float = PERSIST_SECONDS) -> None:
        """No fault any more: the store gets all, in order, and clients see the same."""
        self.sim.clear_rules()
        self.sim.up()
        self.sim.wait_idle()
        self.wait_persisted(seconds)
        self.wait_deleted(seconds)
        self.settled(through=False)

    # -- policies -----------------------------------------------------------------------

    def policy(self, mode: str, **properties: Any) -> None:
        """Puts the whole bucket under a policy; other buckets write through."""
        rule = {"path": f"/{self.bucket}/**", "policyMode": mode}
        if properties:
            rule["properties"] = properties
        document = {"apiVersion": "v1.0", "pathRules": [rule]}
        path = self.server.home / "policies.json"
        path.write_text(json.dumps(document))
        self.server.cli("pathconfig", "apply", str(path))
        time.sleep(1.0)  # in force in every shard within a second


def completes(place: Place) -> int:
    """How often the store was asked to complete an upload."""
    return sum(r.operation == "CompleteMultipartUpload" for r in place.sim.requests(place.prefix))


def wait_for(true: Callable[[], bool], seconds: float = PERSIST_SECONDS) -> None:
    """Waits until something holds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)
