"""`bench/targets`: its arithmetic, and that a quick run measures."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

from harness.server import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "bench"))

from lab import network, peers, results  # noqa: E402
from lab.clients import LoadFailed, wrk  # noqa: E402
from lab.listing import filler  # noqa: E402
from lab.memory import memory_row  # noqa: E402
from lab.relayed import BUCKET, Pair, Work  # noqa: E402
from lab.rounds import Contestant, Load, Row, latency, together  # noqa: E402
from lab.servers import SMALL, Unavailable  # noqa: E402

TOOLS = ("wrk", "nginx", "fio", "taskset")


def test_quantiles_are_values_that_occurred() -> None:
    taken = latency([(float(us), 1) for us in range(1, 1001)])
    assert (taken["p50_us"], taken["p99_us"], taken["max_us"]) == (500.0, 990.0, 1000.0)
    assert taken["count"] == sum(times for _, times in taken["histogram"]) == 1000
    bounds = [bound for bound, _ in taken["histogram"]]
    assert bounds == sorted(bounds) and bounds[-1] == 1_000_000
    assert latency([])["count"] == 0


ENOUGH = 5  # rounds, as budgets.toml wants


def _row(name: str, cpu: dict[str, list[float]]) -> Row:
    row = Row(name, name, [Contestant(who, Load.nothing, "") for who in cpu])
    for who, seconds in cpu.items():
        for number, one in enumerate(seconds, 1):
            row.rounds.append((number, who, Load(1000, 10**9, 1.0, cpu_seconds=one).round()))
    return row


def test_a_ratio_is_taken_within_a_round() -> None:
    # Each round is fine by itself; the medians of the columns would say 1.5.
    row = _row("get-small-ram", {"quickwater": [1.0, 3.0, 9.0, 1.0, 3.0], "nginx": [1.0, 3.0, 9.0, 1.0, 3.0]})
    (verdict,) = results.judge([row])
    assert verdict.values == [1.0] * ENOUGH and verdict.met
    row = _row("get-small-ram", {"quickwater": [1.1, 1.2, 0.1, 1.1, 0.1], "nginx": [1.0] * ENOUGH})
    (verdict,) = results.judge([row])
    assert verdict.median == pytest.approx(1.1) and verdict.met is False


def test_what_a_way_adds_is_taken_within_a_round() -> None:
    row = Row("relay", "relay", [Contestant(who, Load.nothing, "") for who in ("direct", "relay")], beside="direct")
    for number, (p50, cpu) in enumerate([(10.0, 1.0), (100.0, 4.0), (1000.0, 2.0)], 1):
        for who, times in (("direct", 1), ("relay", 3)):
            seen = Load(1000, 10**9, 1.0, [(p50 * times, 1000)], cpu_seconds=cpu * times)
            row.rounds.append((number, who, seen.round()))
    row.rounds.append((4, "relay", Load(1, 1, 1.0, [(1.0, 1)], cpu_seconds=1.0).round()))  # alone: beside nobody
    text = results.markdown([row], [], {}, EXTRA)
    assert "| relay | relay beside direct | 200 | 3 | 3 |" in text
    row.beside = None
    assert "beside direct" not in results.markdown([row], [], {}, EXTRA)


def test_too_few_rounds_meet_nothing() -> None:
    few, enough = ENOUGH - 1, ENOUGH
    (verdict,) = results.judge([_row("get-small-ram", {"quickwater": [0.5] * few, "nginx": [1.0] * few})])
    assert verdict.met is None
    (verdict,) = results.judge([_row("get-small-ram", {"quickwater": [0.5] * enough, "nginx": [1.0] * enough})])
    assert verdict.met is True


def test_a_whole_run_counts_the_budgets_that_nothing_measured() -> None:
    row = _row("get-small-ram", {"quickwater": [0.5] * ENOUGH, "nginx": [1.0] * ENOUGH})
    verdicts = results.judge([row], all_rows=True)
    assert len(verdicts) > 20 and [one.met for one in verdicts].count(True) == 1
    assert {one.met for one in verdicts} == {True, None}


def test_the_best_peer_counts_and_absent_ones_do_not() -> None:
    row = _row("peers-get-small", {"quickwater-signed": [1.0], "quickwater": [0.1], "s3s-fs": [8.0], "garage": [4.0]})
    assert results.judge([row])[0].values == [0.25]
    alone = _row("peers-get-small", {"quickwater-signed": [1.0] * ENOUGH})
    assert results.judge([alone])[0].met is None


EXTRA = {"load_average": [0.1, 2.0], "machine": {"congestion_control": "reno", "network": "a namespace of its own"}}


def test_the_markdown_names_what_was_missed_and_skipped() -> None:
    rows = [_row("put-large", {"quickwater-ack": [0.7, 0.8] * 3})]
    text = results.markdown(rows, results.judge(rows), {"list": "no disk", "peer juicefs": "no such program"}, EXTRA)
    assert "| put-large | PUT 10 MiB, 8 streams: CPU s/GB <= 0.5 | 0.75 | 0.70 .. 0.80 | **missed** |" in text
    assert "SKIPPED list: no disk" in text and "SKIPPED peer juicefs: no such program" in text
    assert "TCP congestion control: reno" in text


def test_peers_that_are_not_there_are_handed_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_home: Path) -> None:
        raise Unavailable("not installed")

    monkeypatch.setattr(peers, "KNOWN", [peers.Known("one", [], absent), peers.Known("two", [], absent)])
    with ExitStack() as stack:
        assert peers.start_all(tmp_path, stack, [], [], frozenset({"two"})) == ([], {"one": "not installed"})


def test_what_a_load_left_behind_ends_before_the_next_one() -> None:
    steps: list[str] = []

    def contestant(name: str) -> Contestant:
        def run() -> Load:
            steps.append(name)
            return Load(1, 1, 1.0, cpu_seconds=1.0, peak_rss_bytes=7)

        return Contestant(name, run, "", after=lambda: steps.append(f"{name} settled"))

    row = Row("put", "put", [contestant("a"), contestant("b")])
    row.contestants[0].cost_is_elsewhere = True
    row.run(2)
    assert steps == [f"{n}{s}" for n in "abba" for s in ("", " settled")]
    assert [taken["server"] is None for _, name, taken in row.rounds if name == "a"] == [True, True]
    assert [taken["server"] is None for _, name, taken in row.rounds if name == "b"] == [False, False]
    assert len(row.peaks) == 4, "memory counts also where CPU time does not"


def test_all_services_of_ours_count_for_memory() -> None:
    for name in ("quickwater", "quickwater-tmpfs", "quickwater-with-copy", "keys-10000000"):
        row = Row("any", "any", [], peaks=[(1, "nginx", 1 << 40), (1, "quickwater", 5), (1, name, 900)])
        memory = memory_row([row])
        assert memory is not None
        assert max(t["server"]["rss_peak_bytes"] for _, who, t in memory.rounds if who == "quickwater") == 900, name
    assert memory_row([Row("any", "any", [], peaks=[(1, "nginx", 5)])]) is None


def test_passes_are_one_load() -> None:
    one = Load(2, 20, 1.0, [(5.0, 2)], cpu_seconds=0.5, peak_rss_bytes=3, machine_seconds=0.7)
    both = together([one, Load(1, 10, 2.0, [(9.0, 1)], cpu_seconds=0.25, peak_rss_bytes=9, machine_seconds=0.3)])
    assert (both.requests, both.body_bytes, both.seconds, both.cpu_seconds) == (3, 30, 3.0, 0.75)
    assert (both.latencies, both.peak_rss_bytes, both.machine_seconds) == ([(5.0, 2), (9.0, 1)], 9, 1.0)


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")
def test_the_congestion_control_is_set_for_the_run_alone() -> None:
    before = network.congestion()
    script = (
        "import socket; from lab import network; network.enter('reno'); one = socket.create_server(('127.0.0.1', 0));"
        "two = socket.create_connection(one.getsockname(), 5); three = one.accept()[0];"
        "print({s.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b'\\0') for s in (two, three)})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY / "bench", capture_output=True, text=True, timeout=30,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY / 'bench'}:{REPOSITORY / 'tests'}"},
    )  # fmt: skip
    assert done.stdout == "{b'reno'}\n", done.stderr
    assert network.congestion() == before


def _program() -> ModuleType:
    """`bench/targets` as a module: its name has no ending."""
    loader = SourceFileLoader("targets_program", str(REPOSITORY / "bench" / "targets"))
    module = module_from_spec(spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def test_what_was_not_measured_is_no_success() -> None:
    def code(values: list[list[float]], skipped: dict[str, str] | None = None, *, quick: bool = False) -> int:
        budget = {"row": "r", "what": "w", "at_most": 1.0}
        verdicts = [results.Verdict(budget, one, ENOUGH) for one in values]
        return _program().exit_code(verdicts, skipped or {}, quick)

    good, missed, few = [0.5] * ENOUGH, [2.0] * ENOUGH, [0.5]
    assert code([good, good]) == 0
    assert [code([good, bad]) for bad in (missed, few, [])] == [1, 1, 1]
    assert code([]) == 1
    assert code([few], quick=True) == 0
    assert code([good], {"peer s3s-fs": "not installed"}) == 2


def test_a_report_names_no_path_of_the_machine() -> None:
    words = ["--rounds", "5", "--home", "/secret", "--keep=/secret", "--json", "/secret/x", "--without", "rustfs"]
    assert _program()._command(words) == ["bench/targets", "--rounds", "5", "--without", "rustfs"]
    text = _program().plain("at /home/x and /kept/keys-1", "/home/x", Path("/kept"))
    assert text == "at HOME and KEEP/keys-1"


def test_nothing_to_measure_is_refused() -> None:
    for words in (["--rounds", "0"], ["--rows", "no-such"], ["--without", "nobody"]):
        done = subprocess.run(
            [sys.executable, str(REPOSITORY / "bench" / "targets"), *words], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 2 and "error:" in done.stderr, (words, done.stderr)


def _need_tools() -> str:
    """The PATH with all tools; skips the test where one is missing."""
    path = os.environ["PATH"] + ":/usr/sbin"
    missing = [tool for tool in TOOLS if shutil.which(tool, path=path) is None]
    if missing or (os.cpu_count() or 1) < 2 or os.geteuid() != 0:
        pytest.skip(f"needs two cores, root and {', '.join(missing or TOOLS)}")
    return path


def test_relayed_requests_are_told_from_direct_ones(tmp_path: Path) -> None:
    _need_tools()
    with ExitStack() as stack:
        pair = Pair(tmp_path / "relay", "2GiB")
        stack.callback(pair.close)
        pair.fill()
        gets = pair.objects(BUCKET, "s", 3, SMALL)
        work = Work(pair, lambda port: wrk(port, gets, 2, 1, keys=None, size=SMALL), "wrk")
        direct, relay, entry = (one.run() for one in work.contestants())
        assert direct.requests > 0 and relay.requests == entry.requests > 0
        assert 0 <= entry.cpu_seconds <= relay.cpu_seconds, "one of the two"
        # The ports taken for each other: the owner counts what it served for others.
        pair.entry.port, pair.owner.port = pair.owner.port, pair.entry.port
        for one in work.contestants()[:2]:
            with pytest.raises(LoadFailed, match="were relayed"):
                one.run()


def _quick(home: Path, rows: list[str]) -> None:
    """Runs rows for a second each: all of them were measured, and nothing failed."""
    path = _need_tools()
    out = home / "targets.json"
    words = [REPOSITORY / "bench" / "targets", "--quick", "--rows", ",".join(rows), "--json", out, "--home", home]
    done = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, timeout=900, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(out.read_text())
    assert report["targets"]["skipped"] == {} and report["settings"]["quick"] is True
    assert report["machine"]["congestion_control"] == "reno"
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
