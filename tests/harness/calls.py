"""What a service asked FoundationDB for, from the trace of the test library.

Each transaction is a list of calls. Those of a request are found by the keys in
them, so what goes on behind requests (the owner's beat, policies, sweeps) does not
count, and no count depends on time.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

READS = ("get", "page")


@dataclass
class Attempt:
    """The calls of a transaction: name, key, bytes of the value."""

    calls: list[tuple[str, bytes, int]] = field(default_factory=list)

    def names(self, word: bytes) -> bool:
        """Whether a key holds the word."""
        return any(word in key for _, key, _ in self.calls)

    def counts(self) -> Counter[str]:
        """Calls by name."""
        return Counter(name for name, _, _ in self.calls)


class Trace:
    """The file that `FDB_TEST_TRACE` names, read bit by bit."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.attempts: dict[int, Attempt] = {}
        self._offset = 0

    def environment(self) -> dict[str, str]:
        """Of a service that leaves the trace."""
        return {"FDB_TEST_TRACE": str(self.path)}

    def skip(self) -> None:
        """Forgets what there is."""
        self._read()
        self.attempts = {}

    def of(self, *words: str) -> list[Attempt]:
        """The transactions since `skip` with one of the words in a key, in their order."""
        self._read()
        wanted = [word.encode() for word in words]
        attempts = (attempt for _, attempt in sorted(self.attempts.items()))
        return [attempt for attempt in attempts if any(map(attempt.names, wanted))]

    def _read(self) -> None:
        with self.path.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        # The last line may still be under way.
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.decode().splitlines():
            number, name, key, size = line.split(" ")
            attempt = self.attempts.setdefault(int(number), Attempt())
            attempt.calls.append((name, bytes.fromhex(key), int(size)))


@dataclass(frozen=True)
class Cost:
    """Of some transactions."""

    transactions: int = 0
    commits: int = 0
    versions: int = 0
    gets: int = 0
    pages: int = 0


def cost(attempts: list[Attempt]) -> Cost:
    """Adds them up."""
    total: Counter[str] = Counter()
    for attempt in attempts:
        total += attempt.counts()
    counted = (total[name] for name in ("commit", "version", "get", "page"))
    return Cost(len(attempts), *counted)
