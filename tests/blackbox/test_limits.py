"""Bounds: ten thousand connections, and memory under many large transfers (C12)."""

from __future__ import annotations

import hashlib
import http.client
import os
import resource
import select
import socket
import threading
import time
from typing import Any

import pytest

from conftest import ServeFactory
from harness.payload import MIB, payload
from harness.raw import Request, connect, head_bytes, read_reply, sign
from harness.server import Server
from harness.signing import UNSIGNED
from harness.target import Target

CONNECTIONS = 10_000
SOURCES = 64  # addresses of 127.0.0.0/8: 28 k ephemeral ports each
STREAMS = 64
STREAM_BYTES = 64 * MIB
MEMORY = 512 * MIB
PATIENCE_SECONDS = 30.0


def open_many(target: Target, count: int) -> list[socket.socket]:
    """Connections from many source addresses."""
    return [connect(target, f"127.0.{1 + i % SOURCES}.1") for i in range(count)]


def close_all(connections: list[socket.socket]) -> None:
    for connection in connections:
        connection.close()


def honest(server: Server, rounds: int = 20) -> None:
    """A client that wants to work, with a deadline for all of it."""
    client = server.target().client(connect_timeout=10, read_timeout=10)
    start = time.monotonic()
    for number in range(rounds):
        body = payload(100_000, number)
        client.put_object(Bucket="b-1", Key="honest", Body=body)
        assert client.get_object(Bucket="b-1", Key="honest")["Body"].read() == body
    assert time.monotonic() - start < PATIENCE_SECONDS


@pytest.fixture
def crowded(serve: ServeFactory) -> Server:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < CONNECTIONS + 1000:
        pytest.skip("RLIMIT_NOFILE is too low for ten thousand connections")
    server = serve(flags={"s3-idle-timeout": "300s", "s3-header-timeout": "20s"})
    server.target().client().create_bucket(Bucket="b-1")
    return server


@pytest.mark.slow
def test_idle_connections(crowded: Server) -> None:
    """They cost little, and honest clients do not notice them."""
    honest(crowded)
    before = crowded.peak_rss_bytes()
    connections = open_many(crowded.target(), CONNECTIONS)
    try:
        honest(crowded)
        assert crowded.peak_rss_bytes() - before < 200 * MIB
    finally:
        close_all(connections)
    honest(crowded)


@pytest.mark.slow
def test_dribbling_connections(crowded: Server) -> None:
    """Heads that never end, a byte at a time; honest clients go on, dribblers are cut."""
    connections = open_many(crowded.target(), CONNECTIONS)
    stop = threading.Event()

    def dribble() -> None:
        wire = b"GET /b-1/k HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 4000
        for byte in wire:
            for connection in connections:
                if stop.is_set():
                    return
                try:
                    connection.send(bytes([byte]), socket.MSG_DONTWAIT)
                except OSError:
                    pass  # cut off: as it should be
            time.sleep(0.2)

    thread = threading.Thread(target=dribble)
    thread.start()
    try:
        time.sleep(1)
        honest(crowded)
        deadline = time.monotonic() + 60
        while not _mostly_closed(connections):
            assert time.monotonic() < deadline, "slow heads are never cut off"
            time.sleep(1)
        honest(crowded)
    finally:
        stop.set()
        thread.join()
        close_all(connections)


def _mostly_closed(connections: list[socket.socket]) -> bool:
    """Whether the server ended nine in ten."""
    poller = select.poll()
    for connection in connections:
        poller.register(connection, select.POLLIN | select.POLLHUP | select.POLLRDHUP)
    return len(poller.poll(0)) >= len(connections) * 9 // 10


@pytest.mark.slow
def test_dribbling_bodies(serve: ServeFactory) -> None:
    """Many PUTs that stop in the middle hold nothing others need for ever."""
    server = serve(flags={"s3-body-timeout": "3s", "memory": str(256 * MIB)})
    target = server.target()
    target.client().create_bucket(Bucket="b-1")
    stuck = []
    for number in range(500):
        request = Request(
            "PUT", f"/b-1/s{number}", content_length=str(10 * MIB), payload_hash=UNSIGNED
        )
        connection = connect(target, f"127.0.{1 + number % SOURCES}.1")
        connection.sendall(head_bytes(request, sign(target, request)) + b"x" * 1000)
        stuck.append(connection)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                honest(server, 3)
                break
            except Exception:
                assert time.monotonic() < deadline, "stuck bodies block honest clients for ever"
                time.sleep(1)
        keys = [e["Key"] for e in target.client().list_objects_v2(Bucket="b-1")["Contents"]]
        assert keys == ["honest"]
    finally:
        close_all(stuck)


STALLS = 200  # more than a memory of 256 MiB has places for
STALLED_BYTES = 16 * MIB  # more than the sockets between take by themselves


def stall(target: Target, number: int) -> socket.socket:
    """A client that asks for a large object and never reads of it."""
    request = Request("GET", "/b-1/large")
    connection = connect(target, f"127.0.{1 + number % SOURCES}.1")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
    connection.sendall(head_bytes(request, sign(target, request)))
    return connection


def stalled_cut(server: Server) -> int:
    name = 'quickwater_s3_http_failures_total{reason="stalled"}'
    lines = server.metrics_text().splitlines()
    return next(int(float(line.split()[-1])) for line in lines if line.startswith(name))


def test_stalled_readers_do_not_starve_others(serve: ServeFactory) -> None:
    """While others wait for memory the longest stalled are cut, none besides, and nobody
    is told to slow down; with nobody waiting a client may stall on."""
    flags = {"memory": str(256 * MIB), "threads": "1", "s3-stall-timeout": "1s"}
    server = serve(flags=flags)
    target = server.target()
    client = target.client(retries={"total_max_attempts": 1}, read_timeout=30)
    client.create_bucket(Bucket="b-1")
    body = payload(STALLED_BYTES, "large")
    client.put_object(Bucket="b-1", Key="large", Body=body)
    first = [stall(target, 0)]
    time.sleep(3)
    assert stalled_cut(server) == 0, "nobody waits: a client may take its time"
    stalled = first + [stall(target, number) for number in range(1, STALLS)]
    try:
        time.sleep(1.5)
        for _ in range(5):
            begun = time.monotonic()
            assert client.get_object(Bucket="b-1", Key="large")["Body"].read() == body
            client.put_object(Bucket="b-1", Key="other", Body=body)
            assert time.monotonic() - begun < 10
        assert 0 < stalled_cut(server) <= STALLS
        poller = select.poll()
        poller.register(first[0], select.POLLRDHUP | select.POLLHUP)
        assert poller.poll(0), "the longest stalled is among those cut"
    finally:
        close_all(stalled)


# -- memory -------------------------------------------------------------------


def put_stream(target: Target, key: str, data: memoryview, digest: str) -> int:
    """One PUT; a 503 is retried, as clients do."""
    for _ in range(200):
        request = Request("PUT", f"/b-1/{key}", content_length=str(len(data)), payload_hash=digest)
        with connect(target) as connection:
            connection.settimeout(PATIENCE_SECONDS * 10)
            try:
                connection.sendall(head_bytes(request, sign(target, request)))
                connection.sendall(data)
            except (BrokenPipeError, ConnectionResetError):
                pass  # refused early: the answer tells
            try:
                status = read_reply(connection, "PUT").status
            except OSError:
                status = 503
        if status != 503:
            return status
        time.sleep(0.5)
    return 503


def get_stream(target: Target, key: str) -> str:
    """MD5 of a whole object, read piece by piece."""
    for _ in range(200):
        request = Request("GET", f"/b-1/{key}")
        with connect(target) as connection:
            connection.settimeout(PATIENCE_SECONDS * 10)
            connection.sendall(head_bytes(request, sign(target, request)))
            response: Any = http.client.HTTPResponse(connection)
            response.begin()
            digest, piece = hashlib.md5(), bytearray(MIB)
            while count := response.readinto(piece):
                digest.update(memoryview(piece)[:count])
            if response.status != 503:
                return digest.hexdigest()
        time.sleep(0.5)
    return "never"


def in_parallel(count: int, work: Any) -> list[Any]:
    results: list[Any] = [None] * count

    def run(number: int) -> None:
        results[number] = work(number)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.slow
def test_memory_stays_in_its_budget(serve: ServeFactory) -> None:
    """64 PUTs of 64 MiB at once, then 64 GETs at once: VmHWM <= --memory + 10 %."""
    flags = {"memory": str(MEMORY), "capacity": str(2048 * MIB)}
    server = serve(flags=flags)
    target = server.target()
    target.client().create_bucket(Bucket="b-1")
    data = payload(STREAM_BYTES, "stream")
    md5 = hashlib.md5(data).hexdigest()
    view = memoryview(data)
    statuses = in_parallel(STREAMS, lambda i: put_stream(target, f"k{i}", view, UNSIGNED))
    assert statuses == [200] * STREAMS
    digests = in_parallel(STREAMS, lambda i: get_stream(target, f"k{i}"))
    assert digests == [md5] * STREAMS
    peak = server.peak_rss_bytes()
    assert peak <= MEMORY * 1.1, f"peak {peak / MIB:.0f} MiB of {MEMORY / MIB:.0f} MiB"


@pytest.mark.slow
def test_memory_with_many_small_objects(serve: ServeFactory) -> None:
    """Metadata and index of 20,000 objects stay inside the budget too."""
    server = serve(flags={"memory": str(256 * MIB)})
    folder = server.ufs / "many"
    folder.mkdir()
    for number in range(20_000):
        descriptor = os.open(folder / f"f{number:05}", os.O_CREAT | os.O_WRONLY)
        os.write(descriptor, b"x" * 100)
        os.close(descriptor)
    server.restart()
    client = server.target().client()
    listed = 0
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="many"):
        listed += page["KeyCount"]
    assert listed == 20_000

    def read(start: int) -> None:
        for number in range(start, 4000, 8):
            client.get_object(Bucket="many", Key=f"f{number:05}")["Body"].read()

    in_parallel(8, read)
    assert server.peak_rss_bytes() <= 256 * MIB * 1.1


UNREAD = 600  # answers of 350 KB: all of the test's memory
LISTED = 1000
SEGMENT_BYTES = 536  # the kernel takes little of an answer that goes out in such segments


def unread_list(target: Target, number: int) -> socket.socket:
    """A client that asks for a full page and does not read it."""
    query = [("list-type", "2"), ("max-keys", str(LISTED))]
    request = Request("GET", "/many", query=query)
    connection = socket.socket()
    connection.settimeout(PATIENCE_SECONDS)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
    connection.bind((f"127.0.{1 + number % SOURCES}.1", 0))
    connection.connect(target.address)
    connection.sendall(head_bytes(request, sign(target, request)))
    return connection


def beginning(connection: socket.socket) -> bytes:
    """What came so far, the first of it; nothing if the connection was broken."""
    connection.settimeout(0.2)
    try:
        return connection.recv(2048)
    except OSError:
        return b""


def make_many(server: Server) -> None:
    """A bucket of long keys, made in the UFS."""
    folder = server.ufs / "many"
    folder.mkdir()
    for number in range(LISTED):
        (folder / f"{number:04}-{'k' * 100}").touch()


def test_memory_with_unread_listings(serve: ServeFactory) -> None:
    """Answers nobody reads are inside the budget: beyond it 503 SlowDown, those that
    stall are cut while others wait, and everybody else goes on."""
    memory = 256 * MIB
    flags = {"memory": str(memory), "threads": "2", "s3-stall-timeout": "1s"}
    server = serve(flags=flags)
    make_many(server)
    server.restart()
    target = server.target()
    client = target.client(retries={"total_max_attempts": 1}, read_timeout=30)
    client.create_bucket(Bucket="b-1")
    assert client.list_objects_v2(Bucket="many")["KeyCount"] == LISTED
    unread = [unread_list(target, number) for number in range(UNREAD)]
    try:
        honest(server, 5)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                assert client.list_objects_v2(Bucket="many")["KeyCount"] == LISTED
                break
            except client.exceptions.ClientError as error:
                assert error.response["Error"]["Code"] == "SlowDown"
                assert time.monotonic() < deadline, "unread listings lock others out"
                time.sleep(0.2)
        begun = [beginning(connection) for connection in unread]
        refused = [head for head in begun if head and not head.startswith(b"HTTP/1.1 200 ")]
        assert refused, "more was promised than there is memory for"
        for head in refused:
            assert head.startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: " in head
            assert b"<Code>SlowDown</Code>" in head
        assert stalled_cut(server) > 0
    finally:
        close_all(unread)
    peak = server.peak_rss_bytes()
    assert peak <= memory * 1.1, f"peak {peak / MIB:.0f} MiB of {memory / MIB:.0f} MiB"
    for _ in range(20):
        assert client.list_objects_v2(Bucket="many")["KeyCount"] == LISTED


def test_long_heads_are_counted(serve: ServeFactory) -> None:
    """Heads of 16 KiB that never end: those beyond the budget are refused."""
    memory = 256 * MIB
    server = serve(flags={"memory": str(memory), "threads": "1", "s3-header-timeout": "30s"})
    target = server.target()
    target.client().create_bucket(Bucket="b-1")
    before = server.peak_rss_bytes()
    wire = b"GET /b-1/k HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 15_000
    endless = []
    try:
        for number in range(2000):
            connection = connect(target, f"127.0.{1 + number % SOURCES}.1")
            endless.append(connection)
            connection.sendall(wire)
        honest(server, 5)
        poller = select.poll()
        by_number = {connection.fileno(): connection for connection in endless}
        for number in by_number:
            poller.register(number, select.POLLIN)
        # On a busy machine the last ones are still to be refused; those that are not wait for
        # more of their heads.
        end = time.monotonic() + 15
        while len(poller.poll(0)) <= 1000 and time.monotonic() < end:
            time.sleep(0.1)
        answered = [beginning(by_number[number]) for number, _ in poller.poll(0)]
        refused = [head for head in answered if head]
        assert 1000 < len(refused) < 2000, len(refused)
        assert all(head.startswith(b"HTTP/1.1 503 ") for head in refused)
        grown = server.peak_rss_bytes() - before
        assert grown < 48 * MIB, f"{grown / MIB:.0f} MiB"
    finally:
        close_all(endless)
