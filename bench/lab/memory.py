"""The memory rows: resident memory against the budget, and what the index takes."""

from __future__ import annotations

from . import own
from .bench import Bench
from .clients import LoadFailed
from .rounds import Contestant, Load, Row
from .servers import KEPT, MEMORY, Quickwater

OURS = "quickwater"
# Whose memory counts: every service of ours, by whatever name it takes part.
OURS_ALL = (OURS, "keys-")
BUDGET = "memory-budget"
# Resident memory of the index and objects in it.
INDEX_METRICS = ("quickwater_store_index_bytes", "quickwater_store_records")
# The promise is from the first count on; tables grow in steps, so the worst of many counts is taken.
INDEX_RECORDS, INDEX_STEP = (10_000, 70_000), 2_500
INDEX_OBJECT = 1 << 10


def memory_row(rows: list[Row]) -> Row | None:
    """The peak of every round of every row beside the setting `memory`."""
    peaks: dict[int, int] = {}
    for row in rows:
        for number, name, peak in row.peaks:
            if name.startswith(OURS_ALL):
                peaks[number] = max(peaks.get(number, 0), peak)
    if not peaks:
        return None
    row = Row("memory", "Peak resident memory of all rows", [
        Contestant(OURS, Load.nothing, "VmHWM of /proc/PID/status, reset before every load"),
        Contestant(BUDGET, Load.nothing, f"--memory={MEMORY}"),
    ])  # fmt: skip
    for number, peak in sorted(peaks.items()):
        row.rounds.append((number, OURS, Load(0, 0, 0.0, cpu_seconds=0.0, peak_rss_bytes=peak).round()))
        row.rounds.append((number, BUDGET, Load(0, 0, 0.0, cpu_seconds=0.0, peak_rss_bytes=MEMORY).round()))
    return row


def index_row(bench: Bench) -> list[Row]:
    """Bytes of index per object at the worst of many counts, as the service itself counts: `requests` are objects."""
    seen: list[tuple[int, int]] = []
    first, last = INDEX_RECORDS

    def run() -> Load:
        with Quickwater(bench.home, bench.files, "1GiB", "quickwater-index") as ours:
            while (records := int(ours.server.metric(INDEX_METRICS[1]))) < last:
                own.put_new(ours.endpoint, KEPT, INDEX_OBJECT, INDEX_STEP)
                if int(ours.server.metric(INDEX_METRICS[1])) <= records:
                    raise LoadFailed(f"{INDEX_METRICS[1]} stays {records}")
                seen.append((int(ours.server.metric(INDEX_METRICS[1])), int(ours.server.metric(INDEX_METRICS[0]))))
        objects, size = max((one for one in seen if one[0] >= first), key=lambda one: one[1] / one[0])
        row.notes.append(f"worst of {len(seen)} counts from {first:,} to {seen[-1][0]:,} records: at {objects:,}")
        return Load(objects, size, 0.0)

    how = f"{INDEX_METRICS[0]} / {INDEX_METRICS[1]} of /metrics after every {INDEX_STEP} new objects"
    row = Row("index", "Index memory per object", [Contestant(OURS, run, how)], rounds_wanted=1)
    return [row]
