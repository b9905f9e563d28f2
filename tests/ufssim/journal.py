"""What the store did, in order: every change it applied, every request it saw.

No judgement here; that is `verify.py`.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

LINES_MAX = 4_000_000
# Requests that change something, even if only an upload nobody can see yet.
MUTATING = frozenset(
    {
        "PutObject",
        "CopyObject",
        "DeleteObject",
        "DeleteObjects",
        "CreateMultipartUpload",
        "UploadPart",
        "UploadPartCopy",
        "CompleteMultipartUpload",
        "AbortMultipartUpload",
        "CreateBucket",
        "DeleteBucket",
    }
)
# Changes that decide which content a key shows.
DECIDING = frozenset({"PutObject", "CopyObject", "CompleteMultipartUpload", "DeleteObject"})


class JournalFull(Exception):
    """More lines than a test may make: it would be judged by half a journal."""


@dataclass(frozen=True, slots=True)
class Applied:
    """One change, applied. Times are CLOCK_MONOTONIC seconds, the same in all processes."""

    sequence: int
    at: float
    operation: str
    bucket: str
    key: str
    etag: str = ""
    size: int = 0
    sha256: str = ""  # of the whole body; empty for a delete
    upload_id: str = ""
    request: int = 0  # number of the request that caused it
    late: bool = False  # after its connection was given up
    replaced: str = ""  # ETag of what was there before; empty = nothing


@dataclass(slots=True)
class Seen:
    """One request. `status` 0: it got no (complete) answer."""

    number: int
    at: float
    method: str
    operation: str
    bucket: str
    key: str
    size: int = 0
    status: int = 0
    fault: str = ""
    range: str = ""


class Journal:
    """Both lists. One thread writes."""

    def __init__(self) -> None:
        self.applied: list[Applied] = []
        self.requests: list[Seen] = []

    def see(self, method: str, operation: str, bucket: str, key: str) -> Seen:
        """A request begins; its outcome is filled in later."""
        _check_room(self.requests)
        number = len(self.requests) + 1
        seen = Seen(number, time.monotonic(), method, operation, bucket, key)
        self.requests.append(seen)
        return seen

    def apply(self, operation: str, bucket: str, key: str, **more: Any) -> None:
        """A change was applied."""
        _check_room(self.applied)
        sequence = len(self.applied) + 1
        self.applied.append(Applied(sequence, time.monotonic(), operation, bucket, key, **more))

    def clear(self) -> None:
        """Forgets everything; numbers start again."""
        self.applied.clear()
        self.requests.clear()


def _check_room(lines: list[Any]) -> None:
    if len(lines) >= LINES_MAX:
        raise JournalFull(f"{LINES_MAX} lines")


def to_json(lines: list[Any], since: int = 0) -> list[dict[str, Any]]:
    """Lines after number `since`, as plain values."""
    return [asdict(line) for line in lines[since:]]
