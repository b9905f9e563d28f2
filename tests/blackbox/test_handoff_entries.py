"""What the kernel remembers of connections that went elsewhere goes in time, and no more of it
is kept than there is room for."""

from __future__ import annotations

import socket
import struct
import time
from pathlib import Path
from typing import Callable, Iterator

import pytest

from conftest import EXTERNAL
from harness.bpf_maps import BpfMap
from harness.moved import MovedClient
from harness.payload import payload
from harness.segment import PORT, SERVICE, Segment, made

pytestmark = [
    pytest.mark.root,
    pytest.mark.needs("ip"),
    pytest.mark.skipif(bool(EXTERNAL), reason="needs a cluster of its own"),
]
BUCKET = "entries"
DEADLINE_SECONDS = 120
KEYS = [f"k{at}" for at in range(16)]
BODIES = {key: payload((1 << 20) + 1000 * at, seed=at) for at, key in enumerate(KEYS)}
TO_OWNER = 1
SILENCE_NS = 600 * 10**9


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Segment]:
    """Two workers that hand connections over."""
    cluster = made(tmp_path, (BUCKET, BODIES))
    try:
        yield cluster
    finally:
        cluster.close()


def until(holds: Callable[[], bool], cluster: Segment) -> None:
    end = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < end, cluster.logs()
        time.sleep(0.02)


def pins(cluster: Segment, node: str) -> Path:
    """Where a worker keeps what outlives it."""
    return cluster.home / "pins" / node / "quickwater" / f"handoff-e0-{PORT}"


def forwards(cluster: Segment, node: str) -> BpfMap:
    """Connections that a worker sends on."""
    (path,) = pins(cluster, node).glob("forwards-*")
    return BpfMap.pinned(path)


def flow(client: str, port: int) -> bytes:
    """A connection of IPv4 as programs know it."""
    mapped = [b"\0" * 10 + b"\xff\xff" + socket.inet_aton(host) for host in (client, SERVICE)]
    return b"".join(mapped) + struct.pack("!HH", port, PORT)


def entry(value_bytes: int, seen_ns: int) -> bytes:
    """That its packets go to another device."""
    return struct.pack("=QH6s", seen_ns, TO_OWNER, b"\2" * 6).ljust(value_bytes, b"\0")


def test_entries_go_though_nobody_reads_the_metrics(cluster: Segment) -> None:
    with forwards(cluster, "n1") as entries:
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        over, alive = flow("10.50.9.1", 1), flow("10.50.9.2", 2)
        entries.put(alive, entry(entries.value_bytes, now))
        entries.put(over, entry(entries.value_bytes, now - SILENCE_NS - 10**9))
        until(lambda: entries.get(over) is None, cluster)
        assert entries.get(alive) is not None


def of(client: MovedClient) -> bytes:
    """A client's connection as programs know it."""
    return flow(*client.socket.getsockname())


def owned_by_the_second(cluster: Segment) -> str:
    key = next(key for key in KEYS if cluster.owner(BUCKET, key) == "n2")
    cluster.go_to("n1")
    return key


def test_entries_of_connections_that_ended_in_order_go_soon(cluster: Segment) -> None:
    """The entry sees the packets of the client alone: the owner tells it."""
    key = owned_by_the_second(cluster)
    with forwards(cluster, "n1") as entries:
        idle, reads, ended = [
            MovedClient.to_owner_of(cluster, BUCKET, BODIES, key, receive_bytes)
            for receive_bytes in (0, 16_384, 0)
        ]
        # This one has said all it will say, and has read nothing of the answer yet.
        reads.ask(key)
        reads.socket.shutdown(socket.SHUT_WR)
        answer = reads.connection.getresponse()
        flows = [of(client) for client in (idle, reads, ended)]
        ended.close()
        until(lambda: entries.get(flows[2]) is None, cluster)
        assert [entries.get(one) is not None for one in flows[:2]] == [True, True]
        assert answer.read() == BODIES[key]
        reads.close()
        until(lambda: entries.get(flows[1]) is None, cluster)
        idle.get(key)
        assert entries.get(flows[0]) is not None
        idle.close()
        until(lambda: entries.get(flows[0]) is None, cluster)
