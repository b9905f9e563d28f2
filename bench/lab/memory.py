"""The memory rows: resident memory against the budget, and what the index takes."""

from __future__ import annotations

from .bench import Bench
from .rounds import Contestant, Load, Row
from .servers import MEMORY, Unavailable

OURS = "quickwater"
OURS_ALL = (OURS, "quickwater-nvme", "quickwater-tls", "quickwater-plain", "quickwater-signed", "quickwater-ack")
BUDGET = "memory-budget"
# Resident memory of the index and objects in it; the first pair that exists counts.
INDEX_METRICS = ("quickwater_store_index_bytes", "quickwater_store_records")


def memory_row(rows: list[Row]) -> Row | None:
    """The peak of every round of every row beside the setting `memory`."""
    peaks: dict[int, int] = {}
    for row in rows:
        for number, name, taken in row.rounds:
            if name in OURS_ALL and taken["server"] is not None:
                peaks[number] = max(peaks.get(number, 0), taken["server"]["rss_peak_bytes"])
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
    """Bytes of index per object, as the service itself counts: `requests` are objects here."""
    server = bench.quickwater.server
    text = server.metrics_text()
    size, count = INDEX_METRICS
    if f"\n{size}" not in text:
        raise Unavailable(f"this build has no metric {size}")

    def run() -> Load:
        return Load(int(server.metric(count)), int(server.metric(size)), 0.0)

    how = f"{size} / {count} of /metrics"
    return [Row("index", "Index memory per object", [Contestant(OURS, run, how)])]
