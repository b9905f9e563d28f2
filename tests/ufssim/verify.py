"""Holds what clients were told against what the store applied.

Per key the operations of clients form a line (one writer at a time); the changes
the store applied must follow that line: intermediate versions may be skipped and
a version may be applied twice in a row, but nothing older may come after
something newer, and nothing may be applied that was refused or never asked for.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Iterable

from .journal import DECIDING, Applied

MESSAGES_MAX = 20
ACKED, UNKNOWN, REFUSED = "acked", "unknown", "refused"
GONE = ""  # the content of a key that is not there


@dataclass
class Operation:
    """One write of a client: the content it wanted (a sha256) and how it ended."""

    content: str
    begun: float
    ended: float | None = None
    outcome: str = UNKNOWN


@dataclass
class History:
    """What clients did, by key, in order. Thread-safe; one writer a key at a time."""

    keys: dict[str, list[Operation]] = field(default_factory=lambda: defaultdict(list))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, key: str, body: bytes | None) -> Operation:
        """A write starts; None: a delete. Unknown until told otherwise."""
        operation = Operation(content_of(body), time.monotonic())
        with self._lock:
            self.keys[key].append(operation)
        return operation

    def end(self, operation: Operation, outcome: str) -> None:
        """Its answer came (or is not awaited any more)."""
        operation.ended = time.monotonic()
        operation.outcome = outcome

    def acked(self, key: str, body: bytes | None) -> None:
        """A write that was answered with success at once."""
        self.end(self.begin(key, body), ACKED)

    def allowed(self, key: str) -> set[str]:
        """What the key may show now: the last acked content, or a later unknown one."""
        operations = [o for o in self.keys[key] if o.outcome != REFUSED]
        last = max((i for i, o in enumerate(operations) if o.outcome == ACKED), default=-1)
        now = {o.content for o in operations[max(last, 0) :]}
        return now if last >= 0 else now | {GONE}


def content_of(body: bytes | None) -> str:
    """Name of a content."""
    return GONE if body is None else hashlib.sha256(body).hexdigest()


def verify(
    history: History,
    journal: Iterable[Applied],
    final: dict[str, dict[str, Any]],
    *,
    prefix: str = "",
    through: bool = False,
) -> list[str]:
    """What is wrong; empty = nothing. `final`: the store's objects by client key.

    `prefix` is what the store's keys have before the client's. With `through`
    an ack also means that the store had applied the change before.
    """
    wrong = order(history, journal, prefix) + state(history, final)
    if through:
        wrong += acked_before_applied(history, journal, prefix)
    return wrong[:MESSAGES_MAX]


def order(history: History, journal: Iterable[Applied], prefix: str = "") -> list[str]:
    """No older version after a newer one, no delete undone, nothing never asked for."""
    wrong = []
    for key, changes in _by_key(journal, prefix).items():
        operations, at = history.keys.get(key, []), 0
        for change in changes:
            found = _next(operations, at, change)
            if found is None:
                wrong.append(f"{key}: {_why(operations, at, change)}")
                break
            at = found
    return wrong


def state(history: History, final: dict[str, dict[str, Any]]) -> list[str]:
    """The store ends with what was acked last, byte for byte."""
    wrong = []
    for key in sorted(history.keys.keys() | final.keys()):
        found = final[key]["sha256"] if key in final else GONE
        allowed = history.allowed(key) if key in history.keys else {GONE}
        if found not in allowed:
            names = [_name(history.keys.get(key, []), content) for content in sorted(allowed)]
            what = _name(history.keys.get(key, []), found)
            wrong.append(f"{key}: the store ends with {what}, allowed: {', '.join(names)}")
    return wrong


def acked_before_applied(history: History, journal: Iterable[Applied], prefix: str = "") -> list[str]:
    """WRITE_THROUGH: at the moment of an ack the store shows what was acked."""
    wrong, changes = [], _by_key(journal, prefix)
    for key, operations in history.keys.items():
        for number, operation in enumerate(operations):
            if operation.outcome != ACKED or operation.ended is None:
                continue
            shown = [c.sha256 for c in changes.get(key, []) if c.at <= operation.ended]
            if (shown[-1] if shown else GONE) != operation.content:
                what = _name(operations, shown[-1] if shown else GONE)
                wrong.append(f"{key}: write {number} was acked while the store had {what}")
    return wrong


def _by_key(journal: Iterable[Applied], prefix: str) -> dict[str, list[Applied]]:
    """Changes by client key. Request 0 is somebody else's write, not ours to judge."""
    changes: dict[str, list[Applied]] = defaultdict(list)
    for line in journal:
        if line.operation in DECIDING and line.request and line.key.startswith(prefix):
            changes[line.key[len(prefix) :]].append(line)
    return changes


def _next(operations: list[Operation], at: int, change: Applied) -> int | None:
    """The earliest write, not before `at`, that this change can be of.

    Taking the earliest is never wrong: it leaves the most room for what follows.
    """
    for number in range(at, len(operations)):
        operation = operations[number]
        asked = operation.outcome != REFUSED and operation.begun <= change.at
        if asked and operation.content == change.sha256:
            return number
    return None


def _why(operations: list[Operation], at: int, change: Applied) -> str:
    what = "a delete" if change.sha256 == GONE else f"{change.size} bytes {change.etag}"
    late = " (applied late)" if change.late else ""
    line = f"journal line {change.sequence}: {what}{late}"
    older = [n for n in range(at) if operations[n].content == change.sha256]
    if any(operations[n].outcome != REFUSED for n in older):
        return f"{line}: write {older[-1]} came after write {at}"
    if any(o.content == change.sha256 and o.outcome == REFUSED for o in operations):
        return f"{line}: a refused write was applied"
    return f"{line}: nobody asked for this"


def _name(operations: list[Operation], content: str) -> str:
    if content == GONE:
        return "nothing"
    numbers = [n for n, o in enumerate(operations) if o.content == content]
    return f"write {numbers[-1]} of {len(operations)}" if numbers else f"foreign bytes {content[:12]}"
