"""A service with little dirty space, and uploads that fill it.

Its limit is 16 MiB, so that three parts of 5 MiB leave no room for a fourth.
"""

from __future__ import annotations

import time
from typing import Any

from .payload import MIB, payload
from .under import STORE_BUCKET, Ended, Place

MEMORY = 256 * MIB
TIGHT_CAPACITY, TIGHT_RATIO = 64 * MIB, 0.25
PART = 5 * MIB


def met_limit(place: Place, outcome: str) -> float:
    """How often writes met the dirty limit with that outcome."""
    name = "quickwater_persist_dirty_limit_total"
    lines = [line for line in place.server.metrics_text().splitlines() if line.startswith(name)]
    found = [line for line in lines if f'outcome="{outcome}"' in line]
    return float(found[0].rsplit(" ", 1)[1]) if found else -1.0


def unpinned(place: Place) -> None:
    """Nothing takes dirty space any more; what is persisted goes within a flush."""
    until = time.monotonic() + 20
    while pinned := place.server.metric("quickwater_store_pinned_bytes"):
        assert time.monotonic() < until, pinned
        time.sleep(0.1)


def begin(place: Place, key: str) -> str:
    """A new upload's id; told to slow down, it tries again."""
    until = time.monotonic() + 60
    while (created := place.send("POST", key, query=[("uploads", "")])).status == 503:
        assert time.monotonic() < until, f"told to slow down for ever: {created}"
        time.sleep(0.2)
    assert created.status == 200, created
    return created.body.partition(b"<UploadId>")[2].partition(b"<")[0].decode()


def send_part(place: Place, key: str, upload: str, number: int, size: int = PART) -> Ended:
    """One part whose content follows from its number."""
    query = [("partNumber", str(number)), ("uploadId", upload)]
    return place.send("PUT", key, payload(size, (key, number)), query=query)


def manifest_of(ends: list[Ended]) -> bytes:
    """What completes an upload of these parts."""
    lines = (
        f"<Part><PartNumber>{number}</PartNumber><ETag>{end.headers['etag']}</ETag></Part>"
        for number, end in enumerate(ends, 1)
    )
    return f"<CompleteMultipartUpload>{''.join(lines)}</CompleteMultipartUpload>".encode()


def sent_with_retries(place: Place, key: str, upload: str, count: int, first: int = 1) -> list[Ended]:
    """Parts as a client sends them: told to slow down, it tries again."""
    ends, until = [], time.monotonic() + 60
    for number in range(first, first + count):
        while (end := send_part(place, key, upload, number)).status == 503:
            assert time.monotonic() < until, f"told to slow down for ever: {end}"
            time.sleep(0.2)
        assert end.status == 200, end
        ends.append(end)
    return ends


HELD = 3  # parts that leave no room for one more


def held_by_parts(place: Place) -> list[tuple[str, list[Ended]]]:
    """Open uploads whose parts fill the space as far as they fit; none is completed."""
    uploads = []
    for key in ("idle/a", "idle/b", "idle/c"):
        upload = begin(place, key)
        uploads.append((upload, [send_part(place, key, upload, 1)]))
    assert all(end.status == 200 for _, ends in uploads for end in ends), uploads
    assert place.server.metric("quickwater_store_pinned_bytes") >= HELD * PART
    return uploads


def open_in_store(place: Place) -> list[dict[str, Any]]:
    """Uploads the store has open."""
    found: list[dict[str, Any]] = (
        place.sim.target().client().list_multipart_uploads(Bucket=STORE_BUCKET).get("Uploads", [])
    )
    return found
