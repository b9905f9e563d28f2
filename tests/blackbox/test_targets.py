"""`bench/targets`: its arithmetic, and that a quick run measures."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.server import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "bench"))

from lab import results  # noqa: E402
from lab.listing import filler  # noqa: E402
from lab.rounds import Contestant, Load, Row, latency  # noqa: E402

TOOLS = ("wrk", "nginx", "fio", "taskset")


def test_quantiles_are_values_that_occurred() -> None:
    taken = latency([(float(us), 1) for us in range(1, 1001)])
    assert (taken["p50_us"], taken["p99_us"], taken["max_us"]) == (500.0, 990.0, 1000.0)
    assert taken["count"] == sum(times for _, times in taken["histogram"]) == 1000
    bounds = [bound for bound, _ in taken["histogram"]]
    assert bounds == sorted(bounds) and bounds[-1] == 1_000_000
    assert latency([])["count"] == 0


def _row(name: str, cpu: dict[str, list[float]]) -> Row:
    row = Row(name, name, [Contestant(who, Load.nothing, "") for who in cpu])
    for who, seconds in cpu.items():
        for number, one in enumerate(seconds, 1):
            row.rounds.append((number, who, Load(1000, 10**9, 1.0, cpu_seconds=one).round()))
    return row


def test_a_ratio_is_taken_within_a_round() -> None:
    # Each round is fine by itself; the medians of the columns would say 1.5.
    row = _row("get-small-ram", {"quickwater": [1.0, 3.0, 9.0], "nginx": [1.0, 3.0, 9.0]})
    (verdict,) = results.judge([row])
    assert verdict.values == [1.0, 1.0, 1.0] and verdict.met
    row = _row("get-small-ram", {"quickwater": [1.1, 1.2, 0.1], "nginx": [1.0, 1.0, 1.0]})
    (verdict,) = results.judge([row])
    assert verdict.median == pytest.approx(1.1) and verdict.met is False


def test_the_best_peer_counts_and_absent_ones_do_not() -> None:
    row = _row("peers-get-small", {"quickwater": [1.0], "s3s-fs": [8.0], "garage": [4.0]})
    assert results.judge([row])[0].values == [0.25]
    alone = _row("peers-get-small", {"quickwater": [1.0]})
    assert results.judge([alone])[0].met is None


def test_the_markdown_names_what_was_missed_and_skipped() -> None:
    rows = [_row("put-large", {"quickwater": [0.7, 0.8]})]
    text = results.markdown(rows, results.judge(rows), {"list": "no disk"}, [0.1, 2.0])
    assert "| put-large | PUT 10 MiB, 8 streams: CPU s/GB <= 0.5 | 0.75 | 0.70 .. 0.80 | **missed** |" in text
    assert "SKIPPED list: no disk" in text


def _quick(home: Path, rows: list[str]) -> None:
    """Runs rows for a second each: all of them were measured, and nothing failed."""
    path = os.environ["PATH"] + ":/usr/sbin"
    missing = [tool for tool in TOOLS if shutil.which(tool, path=path) is None]
    if missing or (os.cpu_count() or 1) < 2 or os.geteuid() != 0:
        pytest.skip(f"needs two cores, root and {', '.join(missing or TOOLS)}")
    out = home / "targets.json"
    words = [REPOSITORY / "bench" / "targets", "--quick", "--rows", ",".join(rows), "--json", out, "--home", home]
    done = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, timeout=900, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(out.read_text())
    assert report["targets"]["skipped"] == {}
    labels = [endpoint["label"] for endpoint in report["endpoints"]]
    for scenario in report["scenarios"]:
        for taken in scenario["rounds"]:
            if labels[taken["endpoint"]] in ("quickwater", "nginx") and scenario["name"] != "memory":
                assert taken["requests"] > 0 and taken["seconds"] > 0, (scenario["name"], taken)
    assert str(home) not in out.read_text()


@pytest.mark.slow
def test_a_quick_run_measures(tmp_path: Path) -> None:
    _quick(tmp_path, ["get-small-ram", "get-small-signed", "get-large", "put-small", "get-after-write"])


@pytest.mark.slow
def test_a_quick_run_measures_listings(tmp_path: Path) -> None:
    if not filler().exists():
        pytest.skip(
            "needs cargo build -p quickwater-controlplane --example fill_bucket, in the profile of the tested program"
        )
    _quick(tmp_path, ["list"])
