"""The page of metrics, read as strictly as the OpenMetrics specification allows."""

from __future__ import annotations

import re
import urllib.request
from dataclasses import dataclass, field

OPENMETRICS = "application/openmetrics-text"
# What the names of a family's samples end with, and those that it keeps from others.
SUFFIXES = {
    "gauge": ([""], [""]),
    "counter": (["_total"], ["", "_total", "_created"]),
    "histogram": (["_bucket", "_sum", "_count"], ["", "_bucket", "_sum", "_count", "_created"]),
}
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(rf"([a-z_][a-z0-9_]*)(?:\{{({LABEL}(?:,{LABEL})*)\}})? (\S+)")

Labels = frozenset[tuple[str, str]]


@dataclass
class Family:
    """A metric and all its samples, by name and labels."""

    kind: str
    help: str
    samples: dict[tuple[str, Labels], float] = field(default_factory=dict)


def fetched(address: str, accept: str) -> tuple[str, str]:
    """Media type and text of the page that is served there (`host:port`) for a header Accept."""
    request = urllib.request.Request(f"http://{address}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=60) as reply:
        return reply.headers["Content-Type"], reply.read().decode()


def families(text: str) -> dict[str, Family]:
    """All metrics of a page of OpenMetrics; fails at whatever the specification forbids, or we
    do not write: times, exemplars, units, families without a type or a help."""
    body, end, after = text.partition("# EOF\n")
    assert end and not after, f"does not end with # EOF: {text[-100:]!r}"
    found: dict[str, Family] = {}
    taken: set[str] = set()
    lines = body.splitlines()
    at = 0
    while at < len(lines):
        told = re.fullmatch(r"# HELP ([a-z_][a-z0-9_]*) (.+)", lines[at])
        assert told, f"no HELP begins a family: {lines[at]}"
        name, meaning = told.groups()
        kind = lines[at + 1].removeprefix(f"# TYPE {name} ")
        assert kind in SUFFIXES, f"no TYPE of {name}: {lines[at + 1]}"
        names = {name + suffix for suffix in SUFFIXES[kind][1]}
        assert not names & taken, f"{name} clashes: {names & taken}"
        taken |= names
        family = found[name] = Family(kind, meaning)
        at += 2
        while at < len(lines) and not lines[at].startswith("#"):
            _sample(name, family, lines[at])
            at += 1
        if kind == "histogram":
            _buckets(name, family)
    return found


def _sample(name: str, family: Family, line: str) -> None:
    told = SAMPLE.fullmatch(line)
    assert told, f"no sample: {line}"
    assert told[1] in {name + suffix for suffix in SUFFIXES[family.kind][0]}, f"{name}: {line}"
    pairs = re.findall(r'([a-zA-Z0-9_]+)="((?:[^"\\]|\\.)*)"', told[2] or "")
    assert len({label for label, _ in pairs}) == len(pairs), f"a label twice: {line}"
    place = (told[1], frozenset(pairs))
    assert place not in family.samples, f"twice: {line}"
    value = family.samples[place] = float(told[3])
    assert family.kind == "gauge" or 0 <= value < float("inf"), f"no count: {line}"


def _buckets(name: str, family: Family) -> None:
    """Each histogram has bounds that rise to infinity, and so do their counts, to its count."""
    bounds: dict[Labels, list[tuple[float, float]]] = {}
    for (sample, labels), value in family.samples.items():
        if sample == f"{name}_bucket":
            (le,) = [float(bound) for label, bound in labels if label == "le"]
            rest = frozenset(pair for pair in labels if pair[0] != "le")
            bounds.setdefault(rest, []).append((le, value))
    assert bounds, name
    for labels, buckets in bounds.items():
        assert buckets == sorted(set(buckets)), f"{name} {set(labels)}: {buckets}"
        assert [count for _, count in buckets] == sorted(count for _, count in buckets)
        assert buckets[-1] == (float("inf"), family.samples[f"{name}_count", labels])
        assert (f"{name}_sum", labels) in family.samples
