"""Programs in the kernel: what they do, and that nothing needs them.

Tests that need them are skipped, with the reason, where they are not built or not allowed;
QUICKWATER_EBPF_STRICT=1 makes that a failure.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
import time
from typing import Callable

import pytest

from conftest import ServeFactory
from harness import apart
from harness.ebpf import condition, need, states, uses_s3
from harness.server import EBPF_REFUSED, Server

SHARDS = 4
CONNECTIONS = 32
DEADLINE_SECONDS = 120
FLAGS = {"threads": str(SHARDS), "s3-idle-timeout": "30min"}


def wait_for(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    """Until it holds, at most DEADLINE_SECONDS."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


def by_shard(server: Server) -> list[int]:
    """Open client connections of each shard."""
    line = r'quickwater_shard_connections\{shard="\d+"\} (\d+)'
    counts = [int(n) for n in re.findall(line, server.metrics_text())]
    assert len(counts) == SHARDS, counts
    return counts


class Crowd:
    """Connections that ask for nothing."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.sockets: list[socket.socket] = []

    def grow(self, to: int) -> None:
        host, port = str(self.server.run["s3"]).rsplit(":", 1)
        while len(self.sockets) < to:
            self.sockets.append(socket.create_connection((host, int(port)), DEADLINE_SECONDS))
        self.settle()

    def shrink(self, gone: list[socket.socket]) -> None:
        for one in gone:
            one.close()
            self.sockets.remove(one)
        self.settle()

    def settle(self) -> None:
        """Until the server has seen all of them come and go."""
        own = len(self.sockets)
        seen = lambda: sum(by_shard(self.server))  # noqa: E731
        wait_for(lambda: seen() == own, lambda: f"{seen()} connections instead of {own}")

    def spread(self) -> int:
        counts = by_shard(self.server)
        return max(counts) - min(counts)


def test_connections_are_spread_evenly_and_stay_so(serve: ServeFactory) -> None:
    server = serve(flags=FLAGS)
    need(server, "reuseport")
    crowd = Crowd(server)
    for many in range(SHARDS, CONNECTIONS + 1, SHARDS):
        crowd.grow(many)
        assert crowd.spread() <= 1, by_shard(server)
    # Four times as many as there are go and are replaced, any of them.
    choice = random.Random(7)
    for _ in range(4 * CONNECTIONS // 8):
        crowd.shrink(choice.sample(crowd.sockets, 8))
        crowd.grow(CONNECTIONS)
        assert crowd.spread() <= 1, by_shard(server)
    # All of some shards, as far as we can tell, go at once.
    crowd.shrink(crowd.sockets[: CONNECTIONS // 2])
    crowd.grow(CONNECTIONS)
    assert crowd.spread() <= 1, by_shard(server)
    text = server.metrics_text()
    chosen = 'quickwater_ebpf_reuseport_connections_total{chosen_by="kernel"} 0'
    assert chosen in text.replace(".0", ""), server.log_tail()
    crowd.shrink(list(crowd.sockets))


def test_a_killed_service_leaves_nothing_that_disturbs_the_next(serve: ServeFactory) -> None:
    server = serve(flags=FLAGS)
    need(server, "reuseport")
    for _ in range(2):
        crowd = Crowd(server)
        crowd.grow(CONNECTIONS)
        assert crowd.spread() <= 1
        server.kill()
        server.start()
        need(server, "reuseport")
    uses_s3(server)


def test_without_the_right_the_service_works_and_says_why(serve: ServeFactory) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv to give capabilities up")
    server = serve(flags=FLAGS, prefix=EBPF_REFUSED)
    state = states(server, "reuseport")
    assert state in ("refused", "not_built")
    if not apart.wanted():
        told = condition(server, "ebpf.reuseport")
        assert told["state"] == state
        assert "hash spreads connections" in told["detail"]
    if state == "refused":
        assert "Operation not permitted" in server.log()
    crowd = Crowd(server)
    crowd.grow(CONNECTIONS)
    uses_s3(server)
    crowd.shrink(list(crowd.sockets))


def test_required_without_the_right_is_no_start(serve: ServeFactory) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv to give capabilities up")
    flags = {**FLAGS, "ebpf-reuseport": "required"}
    server = serve(flags=flags, prefix=EBPF_REFUSED, start=False)
    process = server.launch()
    assert process.wait(DEADLINE_SECONDS) not in (0, 101, -6)
    assert "ebpf.reuseport is `required`" in server.log()


def test_switched_off_it_says_so(serve: ServeFactory) -> None:
    server = serve(flags={**FLAGS, "ebpf-reuseport": "off"})
    assert states(server, "reuseport") == "off"
    if not apart.wanted():
        assert condition(server, "ebpf.reuseport")["state"] == "off"
        assert "ebpf.reuseport: off" in server.cli("status").stdout
    Crowd(server).grow(CONNECTIONS)
