"""What clients were told: the truth a crashed service is measured against.

Every key has one writer, so its past is a line: the last acked value, and the
values of writes whose answer never came. Nothing else may be seen.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from dataclasses import dataclass, field

from botocore.exceptions import ClientError

from harness.payload import MIB

_POOL = random.Random("pool").randbytes(16 * MIB)


@dataclass(frozen=True)
class Value:
    """Bytes that can be made again from three numbers."""

    key: str
    serial: int
    size: int

    def data(self) -> bytes:
        """A line that names the value, then noise; cut to size."""
        start = (self.serial * 7919 * 512) % (len(_POOL) - self.size)
        head = f"{self.key}#{self.serial}#{self.size}\n".encode()
        return (head + _POOL[start : start + self.size])[: self.size]

    def metadata(self) -> dict[str, str]:
        """User metadata that must survive with the bytes."""
        return {"serial": str(self.serial)}


Seen = Value | None  # None: no object


@dataclass
class Line:
    """One key: what was acked, what may have happened."""

    acked: Seen = None
    maybe: list[Seen] = field(default_factory=list)

    def allowed(self) -> list[Seen]:
        """All that may be seen now."""
        return [self.acked, *self.maybe]


class Journal:
    """All keys of a run. Thread-safe."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}
        self._lock = threading.Lock()
        self._serial = 0
        self.acks = 0
        self.unknown = 0
        self.whys: Counter[str] = Counter()

    def value(self, key: str, size: int) -> Value:
        """A value never used before."""
        with self._lock:
            self._serial += 1
            return Value(key, self._serial, size)

    def begin(self, key: str, seen: Seen) -> None:
        """A write starts: from now on its value may be seen."""
        with self._lock:
            self._lines.setdefault(key, Line()).maybe.append(seen)

    def ack(self, key: str, seen: Seen) -> None:
        """It was answered with success: nothing older may be seen again."""
        with self._lock:
            line = self._lines[key]
            line.acked = seen
            line.maybe.clear()
            self.acks += 1

    def refused(self, key: str, seen: Seen) -> None:
        """It was answered with 4xx: nothing changed."""
        with self._lock:
            self._lines[key].maybe.remove(seen)

    def lost_answer(self, error: BaseException) -> None:
        """No answer, or 5xx: the value stays possible."""
        why = type(error).__name__
        if isinstance(error, ClientError):
            why = error.response["Error"].get("Code", why)
        with self._lock:
            self.unknown += 1
            self.whys[why] += 1

    def current(self, key: str) -> list[Seen]:
        """What may be seen under a key."""
        with self._lock:
            return self._lines.get(key, Line()).allowed()

    def settle(self, key: str, seen: Seen) -> None:
        """After a check: what was found is the past from here on."""
        with self._lock:
            self._lines[key] = Line(acked=seen)

    def note(self, key: str, bodies: list[bytes | None]) -> None:
        """A check is about to write these and to leave the last: for those who
        keep the whole past of a key."""

    def keys(self) -> list[str]:
        """All keys ever written, sorted."""
        with self._lock:
            return sorted(self._lines)
