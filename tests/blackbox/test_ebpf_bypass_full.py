"""The programs of `ebpf.bypass` know as many connections as they can: others go by TCP, and the
service says so."""

from __future__ import annotations

import errno
import re
import socket
import struct
import time
from contextlib import contextmanager
from typing import Any, Callable, Iterator

import pytest

from conftest import ServeFactory
from harness import apart
from harness.bpf_maps import BpfMap
from harness.ebpf import condition, need
from harness.payload import MIB, payload
from harness.server import Server

pytestmark = [pytest.mark.root]
DEADLINE_SECONDS = 120
ENTRIES_MAX = 16_384
BODY = payload(2 * MIB, seed=9)


def until(holds: Callable[[], bool], server: Server) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, server.log_tail()
        time.sleep(0.02)


@pytest.fixture
def server(serve: ServeFactory) -> Server:
    """With answers that go from socket to socket, and an object."""
    server = serve(flags={"ebpf-bypass": "auto"})
    need(server, "bypass")
    s3 = server.target().client()
    s3.create_bucket(Bucket="near")
    s3.put_object(Bucket="near", Key="k", Body=BODY)
    return server


def get(server: Server) -> None:
    """By a connection of its own."""
    answer: Any = server.target().client().get_object(Bucket="near", Key="k")
    assert answer["Body"].read() == BODY


def connections(server: Server, outcome: str) -> int:
    line = r'quickwater_ebpf_bypass_connections_total\{outcome="%s"\} (\d+)' % outcome
    (count,) = re.findall(line, server.metrics_text())
    return int(count)


def says_full(server: Server) -> bool:
    """Whether `status` says that there is no room; a control plane apart does not tell."""
    told = condition(server, "ebpf.bypass")
    assert told["state"] == "on", told
    return "16,384" in told["detail"]


@contextmanager
def connected() -> Iterator[socket.socket]:
    """A socket of a connection that has nothing to do with the service."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()) as one, listener.accept()[0]:
            yield one


@contextmanager
def filled(server: Server, name: str) -> Iterator[None]:
    """A map of the service has no room for one more."""
    with BpfMap.of_process(server.pid, name) as full, connected() as other:
        assert full.entries_max == ENTRIES_MAX
        keys = [struct.pack("=Q", at).ljust(full.key_bytes, b"\xff") for at in range(ENTRIES_MAX + 1)]
        with pytest.raises(OSError) as refused:
            if name == "ROUTES":
                full.put_all(keys, b"\0" * full.value_bytes)
            else:
                # One socket may have any number of places, until it is closed.
                for key in keys:
                    full.put(key, struct.pack("=I", other.fileno()).ljust(full.value_bytes, b"\0"))
        assert refused.value.errno == errno.E2BIG
        yield
        if name == "ROUTES":
            full.remove_all(keys)


# `WORKERS` has at most as many as `ROUTES`, where each of its sockets is noted before.
@pytest.mark.parametrize("name", ["CLIENTS", "ROUTES"])
def test_connections_without_room_go_by_tcp(server: Server, name: str) -> None:
    get(server)
    with filled(server, name):
        taken, refused = connections(server, "taken"), connections(server, "refused")
        for _ in range(3):
            get(server)
        assert connections(server, "taken") == taken
        assert connections(server, "refused") >= refused + 3
        if not apart.wanted():
            until(lambda: get(server) is None and says_full(server), server)
    taken = connections(server, "taken")
    get(server)
    assert connections(server, "taken") > taken
    if not apart.wanted():
        until(lambda: not says_full(server), server)


def test_connections_that_nobody_accepted_make_room(server: Server) -> None:
    with BpfMap.of_process(server.pid, "ACCEPTED") as accepted:
        assert accepted.entries_max == ENTRIES_MAX
        # Numbers that the kernel gives to no socket.
        keys = (struct.pack("=Q", (1 << 63) + at) for at in range(2 * ENTRIES_MAX))
        accepted.put_all(keys, b"\0" * accepted.value_bytes)
        taken = connections(server, "taken")
        for _ in range(3):
            get(server)
        assert connections(server, "taken") >= taken + 3
