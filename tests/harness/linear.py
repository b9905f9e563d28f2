"""Whether what clients were told of each key can have happened in one order.

A key is a register: a write (a delete writes `GONE`) takes effect at one moment between
its beginning and its answer, a read shows what was written last. A write nobody knows
the outcome of takes effect at any moment after its beginning, or never. A key whose
operations have no such order was answered wrongly: stale, lost, resurrected or foreign.

The search is that of Wing and Gong with Lowe's memory of states seen; each value is
written once, so a read names its write.
"""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Iterator

GONE = ""
# Histories of these tests need thousands. Whoever needs more is told so, never passed.
STATES_MAX = 2_000_000


class Undecided(Exception):
    """The search was given up."""


@dataclass
class Operation:
    """A read or a write of one key, times in seconds of one monotonic clock."""

    write: bool
    value: str
    begun: float
    ended: float = math.inf
    # A write: whether it was acked. One that was refused is taken out of the history.
    sure: bool = False
    note: str = ""

    def __str__(self) -> str:
        what = ("delete" if self.value == GONE else f"write {self.value}") if self.write else (
            f"read {self.value or 'nothing'}"
        )
        end = f"{self.ended:.3f}" if self.ended < math.inf else "?"
        doubt = " (outcome unknown)" if self.write and not self.sure else ""
        return f"[{self.begun:.3f} {end}] {what}{doubt} {self.note}".rstrip()


@dataclass
class History:
    """What clients did, by key. For any number of threads."""

    keys: dict[str, list[Operation]] = field(default_factory=lambda: defaultdict(list))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def write(self, key: str, value: str, note: str = "") -> Operation:
        """A write begins; its outcome is unknown until `ack` or `refuse`."""
        operation = Operation(True, value, time.monotonic(), note=note)
        with self._lock:
            self.keys[key].append(operation)
        return operation

    def ack(self, operation: Operation) -> None:
        """It was answered with success."""
        operation.ended = time.monotonic()
        operation.sure = True

    def refuse(self, key: str, operation: Operation) -> None:
        """It was answered that nothing changed."""
        with self._lock:
            self.keys[key].remove(operation)

    def read(self, key: str, value: str, begun: float, note: str = "") -> None:
        """A read that began then and was answered now."""
        operation = Operation(False, value, begun, time.monotonic(), True, note)
        with self._lock:
            self.keys[key].append(operation)

    def wrong(self) -> list[str]:
        """What is wrong with each key; empty: nothing."""
        with self._lock:
            keys = {key: list(operations) for key, operations in self.keys.items()}
        found = ((key, judge(operations)) for key, operations in sorted(keys.items()))
        return [f"{key}: {why}" for key, why in found if why]

    def told(self, key: str) -> str:
        """All of a key, by the time it began, for people."""
        with self._lock:
            operations = list(self.keys[key])
        return "\n".join(str(o) for o in sorted(operations, key=lambda o: o.begun))


def judge(operations: list[Operation], initial: str = GONE) -> str:
    """Why no order explains the operations of a key; empty: one does.

    Raises `Undecided` when the search grows too large, and ValueError for a value
    that was written twice.
    """
    writes: dict[str, Operation] = {}
    for operation in operations:
        if operation.write and operation.value != GONE:
            if operation.value in writes or operation.value == initial:
                raise ValueError(f"written twice: {operation.value}")
            writes[operation.value] = operation
    # A read by when a value was there: its write was done by then, whatever was said.
    seen: dict[str, float] = {}
    for operation in operations:
        if not operation.write:
            if operation.value not in (GONE, initial) and operation.value not in writes:
                return f"nobody wrote this: {operation}"
            seen[operation.value] = min(seen.get(operation.value, math.inf), operation.ended)
    spans: list[tuple[float, float, Operation]] = []
    for operation in operations:
        ended = operation.ended
        if operation.write and operation.value != GONE:
            if not operation.sure and operation.value not in seen:
                continue  # nothing depends on whether it happened
            ended = min(ended, seen.get(operation.value, math.inf))
        if ended < operation.begun:
            return f"read before it was written: {operation}"
        spans.append((operation.begun, ended, operation))
    spans.sort(key=lambda span: span[:2])
    return _Search(spans, initial).run()


class _Search:
    """Depth first over orders; a state is what is done and the value there is then."""

    def __init__(self, spans: list[tuple[float, float, Operation]], initial: str) -> None:
        self.spans = spans
        self.initial = initial
        # All that must happen: deletes of unknown outcome need not.
        self.needed = sum(1 << at for at, span in enumerate(spans) if span[1] < math.inf)
        self.furthest: tuple[int, int, str] = (-1, 0, initial)
        # Of values that are written once: who reads them.
        self.readers: dict[str, int] = defaultdict(int)
        for at, (_, _, operation) in enumerate(spans):
            if not operation.write and operation.value != GONE:
                self.readers[operation.value] |= 1 << at

    def run(self) -> str:
        seen: set[tuple[int, str]] = set()
        stack = [iter([(0, self.initial)])]
        while stack:
            state = next(stack[-1], None)
            if state is None:
                stack.pop()
                continue
            done, value = self._read_all(*state)
            if done & self.needed == self.needed:
                return ""
            if (done, value) in seen:
                continue
            seen.add((done, value))
            if len(seen) > STATES_MAX:
                raise Undecided(f"{len(self.spans)} operations, {len(seen)} states")
            self.furthest = max(self.furthest, (done.bit_count(), done, value))
            # What is overwritten is never read again.
            if not self.readers.get(value, 0) & ~done:
                stack.append(self._writes(done))
        return self._why()

    def _next(self, done: int) -> list[int]:
        """The operations one of which must come next."""
        found, limit = [], math.inf
        first = (~done & (done + 1)).bit_length() - 1
        for at in range(first, len(self.spans)):
            begun, ended, _ = self.spans[at]
            if begun > limit:
                break
            if not done >> at & 1:
                found.append(at)
                limit = min(limit, ended)
        return [at for at in found if self.spans[at][0] <= limit]

    def _read_all(self, done: int, value: str) -> tuple[int, str]:
        """Reads that show the value are best done at once: they change nothing."""
        while True:
            before = done
            for at in self._next(done):
                operation = self.spans[at][2]
                if not operation.write and operation.value == value:
                    done |= 1 << at
            if done == before:
                return done, value

    def _writes(self, done: int) -> Iterator[tuple[int, str]]:
        doubtful = False
        for at in self._next(done):
            _, ended, operation = self.spans[at]
            if not operation.write:
                continue
            if ended == math.inf and operation.value == GONE:
                # Deletes nobody knows of are alike: the one that began first will do.
                if doubtful:
                    continue
                doubtful = True
            yield done | 1 << at, operation.value

    def _why(self) -> str:
        _, done, value = self.furthest
        stuck = [str(self.spans[at][2]) for at in self._next(done)]
        before = [str(span[2]) for at, span in enumerate(self.spans) if done >> at & 1][-6:]
        return (
            f"after {before} the key can be {value or 'nothing'!r} at best, "
            f"and none of {stuck} goes on from there"
        )
