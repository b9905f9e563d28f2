"""What the kernel remembers of connections that went elsewhere goes in time, and no more of it
is kept than there is room for."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Iterator

import pytest

from conftest import EXTERNAL
from harness.bpf_maps import BpfMap
from harness.moved import (
    BODIES,
    BUCKET,
    KEYS,
    MovedClient,
    owned_by_the_second,
    pins,
    two_workers,
    until,
)
from harness.segment import CLIENT, PORT, SERVICE, Segment

pytestmark = [
    pytest.mark.root,
    pytest.mark.needs("ip"),
    pytest.mark.skipif(bool(EXTERNAL), reason="needs a cluster of its own"),
]
TO_OWNER = 1
ENTRIES_MAX = 65_536
SILENCE_NS = 600 * 10**9


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Segment]:
    yield from two_workers(tmp_path)


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


def test_entries_of_connections_that_ended_in_order_go_soon(cluster: Segment) -> None:
    """The entry sees the packets of the client alone: the owner tells it."""
    key = owned_by_the_second(cluster)
    with forwards(cluster, "n1") as entries:
        idle, reads, ended = [
            MovedClient.to_owner_of(cluster, key, receive_bytes)
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
        idle.get(key)
        reads.close()
        until(lambda: entries.get(flows[1]) is None, cluster)
        idle.get(key)
        assert entries.get(flows[0]) is not None
        idle.close()
        until(lambda: entries.get(flows[0]) is None, cluster)


def test_entries_go_when_their_owner_stops(cluster: Segment) -> None:
    """It ends these connections itself, and nobody tells of them afterwards."""
    key = owned_by_the_second(cluster)
    with forwards(cluster, "n1") as entries:
        closes, stays, closed = [MovedClient.to_owner_of(cluster, key) for _ in range(3)]
        flows = [of(client) for client in (closes, stays, closed)]
        assert all(entries.get(one) is not None for one in flows)
        closed.close()
        stopping = threading.Thread(target=cluster.workers["n2"].stop)
        stopping.start()
        # One notices, the other one does not.
        assert closes.socket.recv(1) == b""
        closes.close()
        stopping.join()
        until(lambda: all(entries.get(one) is None for one in flows), cluster)
        assert stays.socket.recv(1) == b""
        stays.close()


def strangers(count: int) -> Iterator[bytes]:
    """Connections that there are not."""
    for number in range(count):
        yield flow(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1024)


def condition(cluster: Segment, node: str) -> tuple[str, str]:
    """State and detail of hand-overs as the control plane was told last."""
    told = cluster.nodes()[node]["conditions"]
    (found,) = [one for one in told if one["name"] == "ebpf.handoff"] or [{}]
    return found.get("state", ""), found.get("detail", "")


def says(cluster: Segment, node: str, words: str) -> bool:
    """Whether it says this of hand-overs, which are on."""
    state, detail = condition(cluster, node)
    assert state == "on", detail
    return words in detail


def gets(cluster: Segment, key: str) -> None:
    """A client of its own gets an object."""
    client = MovedClient(cluster)
    try:
        client.get(key)
    finally:
        client.close()


def gets_moved(cluster: Segment, key: str) -> None:
    """Clients get an object by connections of their own until one of them has moved."""
    MovedClient.to_owner_of(cluster, key).close()


def test_a_full_map_keeps_connections_here_and_breaks_none(cluster: Segment) -> None:
    key = owned_by_the_second(cluster)
    moved = MovedClient.to_owner_of(cluster, key)
    with forwards(cluster, "n1") as entries:
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        living = entry(entries.value_bytes, now)
        with pytest.raises(OSError):
            entries.put_all(strangers(ENTRIES_MAX + 1), living)
        before = cluster.outcomes("n1", "given")
        for _ in range(5):
            gets(cluster, key)
        assert cluster.outcomes("n1", "given") == before
        assert cluster.outcomes("n1", "busy") > 0

        def is_told() -> bool:
            gets(cluster, key)
            moved.get(key)
            return says(cluster, "n1", "65,536")

        until(is_told, cluster)
        assert entries.get(of(moved)) is not None
        entries.remove_all(strangers(ENTRIES_MAX))
        gets_moved(cluster, key)
        until(lambda: moved.get(key) is None and not says(cluster, "n1", "65,536"), cluster)
    moved.get(key)
    moved.close()


def test_connections_that_begin_and_do_not_come_do_not_keep_others_here(cluster: Segment) -> None:
    """Whoever sends many first packets has the program forget others that are not accepted yet,
    and none that is."""
    key = owned_by_the_second(cluster)
    gets_moved(cluster, key)
    accepted = MovedClient(cluster)
    here = next(key for key in KEYS if cluster.owner(BUCKET, key) == "n1")
    accepted.get(here)
    with BpfMap.of_process(cluster.workers["n1"].pid, "ARRIVALS") as arrivals:
        assert arrivals.get(of(accepted)) is None
        now = struct.pack("=Q", time.clock_gettime_ns(time.CLOCK_MONOTONIC))
        arrivals.put_all(strangers(2 * ENTRIES_MAX), now)
        before = cluster.outcomes("n1", "given")
        until(lambda: accepted.get(key) is None and cluster.outcomes("n1", "given") > before, cluster)
        until(lambda: says(cluster, "n1", "flood"), cluster)
        gets(cluster, key)
        # They are over, all at once.
        arrivals.put_all(strangers(2 * ENTRIES_MAX), struct.pack("=Q", 0))
        until(lambda: next(arrivals.keys(), None) is None, cluster)
        until(lambda: not says(cluster, "n1", "flood"), cluster)
    gets_moved(cluster, key)
    accepted.close()


def test_too_many_that_are_expected_keep_others_where_they_are(cluster: Segment) -> None:
    key = owned_by_the_second(cluster)
    gets_moved(cluster, key)
    with BpfMap.of_process(cluster.workers["n2"].pid, "EXPECTED") as expected:

        def refuses() -> bool:
            """While the map is full, if it stays so for long enough."""
            before = cluster.outcomes("n2", "busy")
            later = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + 5 * 10**9
            with suppress(OSError):
                expected.put_all(strangers(ENTRIES_MAX + 1), struct.pack("=Q", later))
            gets(cluster, key)
            return cluster.outcomes("n2", "busy") > before

        until(refuses, cluster)
        until(lambda: refuses() and says(cluster, "n2", "expected here"), cluster)
        until(lambda: next(expected.keys(), None) is None, cluster)
    gets_moved(cluster, key)
    until(lambda: not says(cluster, "n2", "expected here"), cluster)


def program_runs(cluster: Segment, node: str) -> bool:
    """Whether a client's packets come by the program."""
    before = cluster.outcomes(node, "unseen")
    with cluster.at(CLIENT), socket.create_connection((SERVICE, PORT), timeout=60) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: s3\r\nConnection: close\r\n\r\n")
        while client.recv(65536):
            pass
    return cluster.outcomes(node, "unseen") == before


def take_pins(cluster: Segment, node: str) -> None:
    """As an operator does, by hand."""
    for pin in pins(cluster, node).iterdir():
        pin.unlink()
    pins(cluster, node).rmdir()


def test_pins_that_are_taken_away_come_back_and_break_nothing(cluster: Segment) -> None:
    key = owned_by_the_second(cluster)
    moved = MovedClient.to_owner_of(cluster, key)
    names = sorted(pin.name for pin in pins(cluster, "n1").iterdir())
    take_pins(cluster, "n1")
    moved.get(key)
    assert program_runs(cluster, "n1")
    until(lambda: pins(cluster, "n1").is_dir()
          and sorted(pin.name for pin in pins(cluster, "n1").iterdir()) == names, cluster)
    assert "they are there again" in cluster.workers["n1"].log()
    # They are the same ones: connections go on without the worker, and the next one takes over.
    cluster.workers["n1"].kill()
    moved.get(key)
    with cluster.at("n1"):
        cluster.workers["n1"].start()
    moved.get(key)
    moved.close()


def test_a_place_without_pins_is_told(cluster: Segment) -> None:
    key = owned_by_the_second(cluster)
    moved = MovedClient.to_owner_of(cluster, key)
    take_pins(cluster, "n1")
    root = pins(cluster, "n1").parent
    root.rmdir()
    root.symlink_to("/proc/nowhere")
    try:
        until(lambda: says(cluster, "n1", "cannot be pinned"), cluster)
        moved.get(key)
    finally:
        root.unlink()
    until(lambda: not says(cluster, "n1", "cannot be pinned"), cluster)
    moved.get(key)
    moved.close()


def test_a_start_without_hand_overs_takes_away_what_one_with_them_left(cluster: Segment) -> None:
    key = owned_by_the_second(cluster)
    MovedClient.to_owner_of(cluster, key).close()
    server = cluster.workers["n1"]
    server.kill()
    left = pins(cluster, "n1")
    assert left.is_dir()
    words = [word for word in server.command() if not word.startswith("--ebpf-handoff=")]
    words.append("--ebpf-handoff=off")
    server.command = lambda: words  # type: ignore[method-assign]

    def doctor() -> list[str]:
        with cluster.at("n1"):
            done = server.cli("doctor", "--ebpf-handoff=off", f"--s3-listen={SERVICE}:{PORT}",
                              f"--ebpf-pins={left.parent}", "--output", "json", check=False)
        checks = json.loads(done.stdout)["checks"]
        return [check["found"] for check in checks if check["name"] == "ebpf.handoff"]

    assert any(str(left) in found for found in doctor())
    with cluster.at("n1"):
        server.start()
    until(lambda: condition(cluster, "n1")[0] == "off", cluster)
    assert f"left in {left} was taken away" in condition(cluster, "n1")[1]
    assert not left.exists() and doctor() == []
    gets(cluster, key)
