"""Workers and a control plane that are killed, frozen, drained and restarted under load, or
whose clocks jump: no stale answer, no lost write, and for who retries as usual no failure.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Iterator

import pytest

from harness import clock
from harness.balancer import Balancer
from harness.clock import Clock
from harness.cluster import PATIENCE_SECONDS
from harness.freeze import freeze
from harness.scattered import BUCKET, CLIENT, CONTROL, KEYS_OF, WORKERS, Scattered
from harness.standard import Applications
from harness.target import Target

CLIENTS = 6
APPLICATIONS = 4
# Answers of each worker before something happens to one.
WARM = 15

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.needs("ip"),
    pytest.mark.usefixtures("hosts"),
]


@pytest.fixture
def short(tmp_path: Path) -> Iterator[Scattered]:
    """A cluster with a lease of three seconds, and a fence longer than any sleep."""
    made = Scattered(tmp_path / "short", "3s", fence="20s")
    try:
        yield made.start()
    finally:
        made.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Scattered]:
    """A cluster whose leases do not end by themselves."""
    made = Scattered(tmp_path / "long", "10m")
    try:
        yield made.start()
    finally:
        made.close()


def test_a_frozen_worker_wakes_among_others_that_have_its_keys(short: Scattered) -> None:
    crowd = short.crowd("frozen")
    crowd.start(WORKERS, CLIENTS)
    try:
        crowd.warm(short.wait, WORKERS, WARM)
        freeze(short.workers["n1"].pid)
        short.wait(lambda: short.slots()["n1"] == 0)
        moved = time.monotonic()
        # Others write what it had, before it wakes.
        for node in ("n2", "n3"):
            short.wait(lambda: crowd.since(moved, worker=node, method="PUT", status=200))
        os.kill(short.workers["n1"].pid, signal.SIGCONT)
        short.wait(lambda: crowd.since(moved, worker="n1", status=200))
        short.whole(crowd)
    finally:
        crowd.stop()
    assert not (wrong := crowd.wrong()), wrong
    assert not (wrong := short.differs(crowd)), wrong


def test_reads_go_on_without_the_control_plane_and_writes_when_it_is_back(cluster: Scattered) -> None:
    crowd = cluster.crowd("control")
    crowd.start(WORKERS, CLIENTS)
    try:
        crowd.warm(cluster.wait, WORKERS, WARM)
    finally:
        crowd.stop()
    cluster.whole(crowd)
    assert not (wrong := cluster.differs(crowd)), wrong  # all is persisted
    cluster.control.kill()
    killed = time.monotonic()
    with cluster.at(CLIENT):
        for _ in range(3):
            for node in WORKERS:
                for key in crowd.keys:
                    for method in ("GET", "HEAD"):
                        answer = crowd.read(node, key, method)
                        assert answer.status == 200, f"{answer} of {killed}\n{cluster.logs()}"
    # Kills in the middle of writes.
    crowd.start(WORKERS, CLIENTS)
    try:
        for _ in range(2):
            cluster.start_control()
            back = time.monotonic()
            for node in WORKERS:
                cluster.wait(lambda: crowd.since(back, worker=node, method="PUT", status=200))
            cluster.control.kill()
        cluster.start_control()
        cluster.whole(crowd)
    finally:
        crowd.stop()
    assert crowd.since(killed, method="PUT", status=200)
    assert not (wrong := crowd.wrong()), wrong
    assert not (wrong := cluster.differs(crowd)), wrong


def test_every_process_is_restarted_and_no_request_fails(cluster: Scattered) -> None:
    def ready() -> list[tuple[str, int]]:
        return [
            server.target().address for node, server in cluster.workers.items() if cluster.is_ready(node)
        ]

    balancer = Balancer(cluster.address(CLIENT), lambda: cluster.net.enter(CLIENT), ready)
    keys = cluster.target("n1")
    front = Target(f"http://{cluster.address(CLIENT)}:{balancer.port}", keys.access_key, keys.secret_key)
    load = Applications(lambda: cluster.net.enter(CLIENT), front, BUCKET, list(KEYS_OF))
    load.start(APPLICATIONS)

    def goes_on() -> None:
        before = load.done
        cluster.wait(lambda: load.failed or load.done > before + 10 * APPLICATIONS)
        assert load.failed == [], f"{load.failed}\n{cluster.logs()}"

    try:
        goes_on()
        for node in WORKERS:
            with cluster.at(node):
                assert cluster.workers[node].restart(), cluster.logs()
            # Not that it has slots again: the others keep theirs while they have what the
            # store does not have yet, which under load may be always.
            cluster.settle([])
            goes_on()
        with cluster.at(CONTROL):
            cluster.control.stop()
        cluster.start_control()
        goes_on()
    finally:
        load.stop(PATIENCE_SECONDS)
        balancer.close()
    print(f"{load.done} done, {load.retries} retries")
    assert load.failed == [], f"{load.failed}\n{cluster.logs()}"
    assert load.history.wrong() == []


def test_a_worker_is_drained_under_load(cluster: Scattered) -> None:
    crowd = cluster.crowd("drained")
    crowd.start(WORKERS, CLIENTS)
    rest = [node for node in WORKERS if node != "n1"]
    try:
        crowd.warm(cluster.wait, WORKERS, WARM)
        told = cluster.cli("node", "drain", "n1", "--evacuate", "--timeout", "2m")
        assert told.returncode == 0 and "n1 is drained" in told.stdout, f"{told}\n{cluster.logs()}"
        node = cluster.nodes()["n1"]
        assert (node["state"], node["slots"], node["changes"], node["holds"]) == ("drained", 0, 0, False)
        # It still answers, by asking others.
        since = time.monotonic()
        cluster.wait(lambda: crowd.since(since, worker="n1", method="GET", status=200))
        cluster.wait(lambda: crowd.since(since, worker="n1", method="PUT", status=200))
        with cluster.at("n1"):
            assert cluster.workers["n1"].stop() == 0
        cluster.whole(crowd, rest)
    finally:
        crowd.stop()
    assert not (wrong := crowd.wrong()), wrong
    assert not (wrong := cluster.differs(crowd, rest)), wrong


def test_wall_clocks_that_jump_order_nothing(tmp_path: Path) -> None:
    if why := clock.missing():
        pytest.skip(why)
    clocks = {host: Clock(tmp_path / f"clock-{host}") for host in (CONTROL, *WORKERS)}
    made = Scattered(tmp_path / "clocks", "3s", {host: c.environment() for host, c in clocks.items()})
    try:
        cluster = made.start()
        crowd = cluster.crowd("clocks")
        crowd.start(WORKERS, CLIENTS)
        try:
            crowd.warm(cluster.wait, WORKERS, WARM)
            # Within the minute that clocks may be apart, and far beyond it: then a worker
            # cannot commit, and nothing else happens.
            for host, seconds in [("n1", 45), ("n1", -45), ("n2", 600), (CONTROL, -600), (CONTROL, 50)]:
                clocks[host].shift(seconds)
                begun = time.monotonic()
                for node in WORKERS:
                    cluster.wait(lambda: crowd.since(begun, worker=node, method="GET", status=200))
                    if abs(seconds) <= 60:
                        cluster.wait(lambda: crowd.since(begun, worker=node, method="PUT", status=200))
                if abs(seconds) > 60:
                    cluster.wait(lambda: crowd.since(begun, method="PUT", status=503))
                clocks[host].shift(0)
            cluster.whole(crowd)
        finally:
            crowd.stop()
        assert not (wrong := crowd.wrong()), wrong
        assert not (wrong := cluster.differs(crowd)), wrong
    finally:
        made.close()
