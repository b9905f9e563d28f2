"""The results: one JSON of the shape `quickwater bench` writes, and a table in markdown."""

from __future__ import annotations

import statistics
import tomllib
from dataclasses import dataclass
from pathlib import Path

from .rounds import Row

FORMAT_VERSION = 1
BUDGETS = Path(__file__).resolve().parents[1] / "budgets.toml"

# What can be compared, of one round; none where a round has not measured it.
MEASURES = {
    "server_us_per_request": lambda r: _ratio(r["server"] and r["server"]["cpu_seconds"] * 1e6, r["requests"]),
    "server_seconds_per_gb": lambda r: _ratio(r["server"] and r["server"]["cpu_seconds"] * 1e9, r["bytes"]),
    "machine_seconds_per_gb": lambda r: _ratio(_times(r["server"] and r["server"].get("machine_seconds"), 1e9), r["bytes"]),
    "requests_per_second": lambda r: _ratio(r["requests"], r["seconds"]),
    "bytes_per_second": lambda r: _ratio(r["bytes"], r["seconds"]),
    "bytes_per_request": lambda r: _ratio(r["bytes"], r["requests"]),
    "p50_us": lambda r: r["latency"]["p50_us"] if r["latency"]["count"] else None,
    "p99_us": lambda r: r["latency"]["p99_us"] if r["latency"]["count"] else None,
    "rss_peak_bytes": lambda r: r["server"] and r["server"]["rss_peak_bytes"],
}
COLUMNS = {
    "CPU us/request": ("server_us_per_request", 1.0), "CPU s/GB": ("server_seconds_per_gb", 1.0),
    "machine s/GB": ("machine_seconds_per_gb", 1.0),
    "requests/s": ("requests_per_second", 1.0), "GB/s": ("bytes_per_second", 1e-9),
    "p50 us": ("p50_us", 1.0), "p99 us": ("p99_us", 1.0), "peak MiB": ("rss_peak_bytes", 1 / (1 << 20)),
}  # fmt: skip


def _times(figure: float | None, factor: float) -> float | None:
    return figure * factor if figure is not None else None


def _ratio(above: float | None, below: float) -> float | None:
    return above / below if above is not None and below else None


@dataclass
class Verdict:
    """A budget and what was measured of it."""

    budget: dict
    values: list[float]
    # Rounds that a judgement takes.
    wanted: int = 1

    @property
    def median(self) -> float | None:
        """Of the rounds."""
        return statistics.median(self.values) if self.values else None

    @property
    def met(self) -> bool | None:
        """None when it was not measured, or not often enough."""
        if self.median is None or len(self.values) < self.wanted:
            return None
        return self.budget.get("at_least", 0.0) <= self.median <= self.budget.get("at_most", float("inf"))


def judge(rows: list[Row], *, all_rows: bool = False) -> list[Verdict]:
    """Budgets of the rows that ran, or all; `quickwater bench check` does the same."""
    by_name = {row.name: row for row in rows}
    file = tomllib.loads(BUDGETS.read_text())
    return [
        Verdict(b, _values(b, by_name[b["row"]]) if b["row"] in by_name else [], b.get("rounds", file["rounds"]))
        for b in file["budget"]
        if all_rows or b["row"] in by_name
    ]


def _values(budget: dict, row: Row) -> list[float]:
    measure = MEASURES[budget["measure"]]
    taken: dict[int, dict[str, float | None]] = {}
    for number, name, one in row.rounds:
        taken.setdefault(number, {})[name] = measure(one)
    values = []
    for figures in taken.values():
        mine = figures.get(budget["of"])
        beside = [v for name in budget.get("to", []) if (v := figures.get(name))]
        if mine is None or ("to" in budget and not beside):
            continue
        values.append(mine / min(beside) if beside else mine)
    return values


def report(rows: list[Row], extra: dict) -> dict:
    """As `bench/src/model.rs` reads it; what it does not know is in `targets`."""
    labels = list(dict.fromkeys(one.name for row in rows for one in row.contestants))
    labels.sort(key=lambda label: not label.startswith("quickwater"))  # ratios are ours to the others'
    return {
        "format_version": FORMAT_VERSION,
        **{name: extra[name] for name in ("tool_version", "started", "interrupted", "settings", "machine")},
        "endpoints": [{"label": label, "url": "", "bucket": "", "signed": False, "server_pids": []} for label in labels],
        "scenarios": [
            {
                "name": row.name,
                "description": row.title,
                "rounds": [
                    {"number": number, "endpoint": labels.index(name), **taken}
                    for number, name, taken in row.rounds
                ],
            }
            for row in rows
        ],
        "targets": {
            "commands": {row.name: {one.name: one.command for one in row.contestants} for row in rows},
            "notes": {row.name: row.notes for row in rows if row.notes},
            "servers": extra["servers"],
            "skipped": extra["skipped"],
            "load_average": extra["load_average"],
        },
    }


def markdown(rows: list[Row], verdicts: list[Verdict], skipped: dict[str, str], extra: dict) -> str:
    """Targets first, then the medians of everybody."""
    load, here = extra["load_average"], extra["machine"]
    lines = ["| row | target | measured | rounds | |", "|---|---|---|---|---|"]
    for verdict in verdicts:
        spread = f"{min(verdict.values):.2f} .. {max(verdict.values):.2f}" if verdict.values else "-"
        few = f"{len(verdict.values)} of {verdict.wanted} rounds" if verdict.values else "**not measured**"
        word = {True: "met", False: "**missed**", None: few}[verdict.met]
        median = "-" if verdict.median is None else f"{verdict.median:.2f}"
        lines.append(f"| {verdict.budget['row']} | {verdict.budget['what']} | {median} | {spread} | {word} |")
    lines += ["", f"| row | who | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 2) + "|"]
    for row in rows:
        for one in row.contestants:
            taken = [r for _, name, r in row.rounds if name == one.name]
            cells = [_cell(taken, *column) for column in COLUMNS.values()]
            lines.append(f"| {row.name} | {one.name} | {' | '.join(cells)} |")
    lines += _beside(rows)
    lines += [""] + [f"- {row.name}: {note}" for row in rows for note in row.notes]
    lines.append(f"- load average of the machine: {load[0]:.1f} before, {load[1]:.1f} after; a run by itself makes 2")
    lines.append(f"- TCP congestion control: {here['congestion_control']}, in {here['network']}")
    lines += [f"- SKIPPED {name}: {reason}" for name, reason in skipped.items()]
    lines += ["", "Commands (`bench/targets --rows ROW` runs them in turns; wrk's script is in `bench/lab/clients.py`):"]
    for row in rows:
        lines += ["", f"{row.name}:", ""]
        for one in row.contestants:
            lines += [f"    # {one.name}", *(f"    {line}" for line in one.command.splitlines())]
    return "\n".join(lines) + "\n"


def _beside(rows: list[Row]) -> list[str]:
    """What others take more than the one they are compared with: medians of what each round says."""
    lines = []
    for row in (row for row in rows if row.beside):
        for name in (one.name for one in row.contestants if one.name != row.beside):
            apart = [_within(row, measure, name) for measure in ("p50_us", "server_us_per_request")]
            added = statistics.median(mine - theirs for mine, theirs in apart[0]) if apart[0] else None
            ratios = [statistics.median(mine / theirs for mine, theirs in pairs) if pairs else None for pairs in apart]
            cells = " | ".join("-" if figure is None else f"{figure:,.3g}" for figure in (added, *ratios))
            lines.append(f"| {row.name} | {name} beside {row.beside} | {cells} |")
    head = ["", "| row | | p50 added, us | p50, ratio | CPU, ratio |", "|---|---|---|---|---|"]
    return head + lines if lines else []


def _within(row: Row, measure: str, name: str) -> list[tuple[float, float]]:
    """A measure of one beside that of who it is compared with, of the rounds that have both."""
    taken: dict[int, dict[str, float | None]] = {}
    for number, who, one in row.rounds:
        taken.setdefault(number, {})[who] = MEASURES[measure](one)
    pairs = [(figures.get(name), figures.get(row.beside or "")) for figures in taken.values()]
    return [(mine, theirs) for mine, theirs in pairs if mine is not None and theirs]


def _cell(rounds: list[dict], measure: str, scale: float) -> str:
    values = [v for taken in rounds if (v := MEASURES[measure](taken)) is not None]
    if not values:
        return "-"
    value = statistics.median(values) * scale
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
