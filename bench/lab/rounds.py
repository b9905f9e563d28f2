"""Interleaved rounds, and what they measured in the shape of `quickwater bench` reports.

The shape is `bench/src/model.rs` (`Round`); what the page and the check need.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from typing import Callable, Protocol

from .machine import busy_seconds

SIGNIFICANT = 2
Latencies = list[tuple[float, int]]  # microseconds and how often, any order


class Costly(Protocol):
    """Something whose CPU time and memory can be read: an endpoint."""

    def cpu_seconds(self) -> float: ...
    def reset_peak(self) -> None: ...
    def peak_rss_bytes(self) -> int: ...


@dataclass
class Load:
    """What one run of a load saw."""

    requests: int
    body_bytes: int
    seconds: float
    latencies: Latencies = field(default_factory=list)
    cpu_seconds: float | None = None
    peak_rss_bytes: int = 0
    machine_seconds: float | None = None

    @classmethod
    def nothing(cls) -> "Load":
        """For those whose figures come from elsewhere."""
        return cls(0, 0, 0.0)

    def round(self) -> dict:
        """As a `Round`, without its number and endpoint."""
        cost = None
        if self.cpu_seconds is not None:
            cost = {"cpu_seconds": self.cpu_seconds, "rss_peak_bytes": self.peak_rss_bytes}
            if self.machine_seconds is not None:
                cost["machine_seconds"] = self.machine_seconds
        return {
            "requests": self.requests, "calls": self.requests, "errors": {}, "error_examples": [],
            "unsent": 0, "reconnects": 0, "bytes": self.body_bytes, "seconds": self.seconds,
            "latency": latency(self.latencies), "series": [], "phases": [], "cache": {},
            "server": cost, "client_cpu_seconds": 0.0,
        }  # fmt: skip


def latency(seen: Latencies) -> dict:
    """Quantiles and a histogram of two significant digits, as a `Latency`."""
    pairs = sorted(seen)
    count = sum(times for _, times in pairs)
    histogram: dict[int, int] = {}
    for value, times in pairs:
        bound = _rounded_up(value * 1000)
        histogram[bound] = histogram.get(bound, 0) + times
    shares = {"p50_us": 0.5, "p90_us": 0.9, "p99_us": 0.99, "p999_us": 0.999, "max_us": 1.0}
    return {
        "count": count,
        "mean_us": sum(value * times for value, times in pairs) / count if count else 0.0,
        **{name: _quantile(pairs, count, share) for name, share in shares.items()},
        "histogram": list(histogram.items()),
    }


def _rounded_up(nanoseconds: float) -> int:
    step = 10 ** max(0, math.floor(math.log10(max(1.0, nanoseconds))) - SIGNIFICANT + 1)
    return math.ceil(nanoseconds / step) * step


def _quantile(pairs: Latencies, count: int, share: float) -> float:
    seen = 0
    for value, times in pairs:
        seen += times
        if seen >= math.ceil(share * count):
            return value
    return 0.0


def under_load(endpoint: Costly, load: Callable[[], Load]) -> Load:
    """One run of a load with the server's CPU and peak memory beside it."""
    endpoint.reset_peak()
    before, busy = endpoint.cpu_seconds(), busy_seconds()
    seen = load()
    seen.cpu_seconds = endpoint.cpu_seconds() - before
    seen.machine_seconds = busy_seconds() - busy
    seen.peak_rss_bytes = endpoint.peak_rss_bytes()
    return seen


def together(loads: list[Load]) -> Load:
    """One load of several, one after the other. What happened between them is in none."""
    machine = [one.machine_seconds for one in loads if one.machine_seconds is not None]
    cpu = [one.cpu_seconds for one in loads if one.cpu_seconds is not None]
    return Load(
        sum(one.requests for one in loads), sum(one.body_bytes for one in loads), sum(one.seconds for one in loads),
        [pair for one in loads for pair in one.latencies], sum(cpu) if cpu else None,
        max((one.peak_rss_bytes for one in loads), default=0), sum(machine) if machine else None,
    )  # fmt: skip


@dataclass
class Contestant:
    """One that takes part in a row: a server under load, or a floor."""

    name: str
    run: Callable[[], Load]
    command: str
    prepare: Callable[[], None] | None = None
    # Ends what the load left behind (copies under way), so that the next one starts
    # on a quiet machine; outside the window.
    after: Callable[[], None] | None = None
    # The window has not all of the server's CPU time: the report shows none.
    cost_is_elsewhere: bool = False


@dataclass
class Row:
    """One line of the table of targets."""

    name: str
    title: str
    contestants: list[Contestant]
    notes: list[str] = field(default_factory=list)
    rounds: list[tuple[int, str, dict]] = field(default_factory=list)
    # Peaks of memory: number of the round, who, bytes. Also of those without a cost.
    peaks: list[tuple[int, str, int]] = field(default_factory=list)
    # Fewer rounds for what comes out the same every time.
    rounds_wanted: int | None = None
    # With whom the others are compared, round by round, where no budget does.
    beside: str | None = None

    def run(self, count: int) -> None:
        """Runs the rounds; the order turns around every time."""
        count = min(count, self.rounds_wanted or count)
        for number in range(1, count + 1):
            turn = self.contestants if number % 2 else self.contestants[::-1]
            for contestant in turn:
                _progress(f"{self.name}: round {number}/{count} {contestant.name}")
                if contestant.prepare is not None:
                    contestant.prepare()
                self._take(number, contestant, contestant.run().round())
                if contestant.after is not None:
                    contestant.after()
        _progress(f"{self.name}: {count} rounds\n")

    def _take(self, number: int, contestant: Contestant, taken: dict) -> None:
        if taken["server"] is not None:
            self.peaks.append((number, contestant.name, taken["server"]["rss_peak_bytes"]))
        if contestant.cost_is_elsewhere:
            taken["server"] = None
        self.rounds.append((number, contestant.name, taken))


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K  {text}", end="", file=sys.stderr, flush=True)
    elif text.endswith("\n"):
        print(f"  {text}", end="", file=sys.stderr, flush=True)
