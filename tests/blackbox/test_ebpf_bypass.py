"""Answers to clients of the worker's node that go from socket to socket: the same bytes,
at the client's pace, to the end."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import threading
import time
from typing import Any, Callable, Iterator

import pytest
from botocore.exceptions import BotoCoreError

from conftest import ServeFactory
from harness import apart
from harness.ebpf import condition, need, states, uses_s3
from harness.payload import KIB, MIB, payload
from harness.server import EBPF_REFUSED, Server
from harness.sockets_memory import SocketsMemory

DEADLINE_SECONDS = 120
# What one client may leave in the kernel.
HELD_MAX = 8 * MIB
BYPASS = {"ebpf-bypass": "auto"}


def bypassed(server: Server) -> int:
    """Bytes that did not go by TCP."""
    return int(server.metric("quickwater_ebpf_bypass_bytes_total"))


def connections(server: Server, outcome: str) -> int:
    line = r'quickwater_ebpf_bypass_connections_total\{outcome="%s"\} (\d+)' % outcome
    (count,) = re.findall(line, server.metrics_text())
    return int(count)


def until(holds: Callable[[], bool], server: Server) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, server.log_tail()
        time.sleep(0.02)


def started(serve: ServeFactory, **flags: str) -> tuple[Server, Any]:
    server = serve(flags={**BYPASS, **flags})
    need(server, "bypass")
    s3 = server.target().client()
    s3.create_bucket(Bucket="near")
    return server, s3


def test_every_size_arrives_and_uploads_go_by_tcp(serve: ServeFactory) -> None:
    server, s3 = started(serve)
    total = 0
    for size in (0, 1, 64 * KIB, MIB - 1, MIB + 1, 5 * MIB + 3, 40 * MIB):
        body = payload(size, seed=size + 1)
        before = bypassed(server)
        s3.put_object(Bucket="near", Key="k", Body=body)
        assert bypassed(server) - before < 4 * KIB, "an upload went the short way"
        assert s3.get_object(Bucket="near", Key="k")["Body"].read() == body
        if size > 10:
            part = s3.get_object(Bucket="near", Key="k", Range="bytes=7-")["Body"].read()
            assert part == body[7:]
        total += size
    assert bypassed(server) >= total
    assert connections(server, "taken") >= 1
    assert connections(server, "stalled") == 0
    if not apart.wanted():
        assert "socket to socket" in condition(server, "ebpf.bypass")["detail"]


def test_curl_gets_the_same(serve: ServeFactory) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    server, s3 = started(serve)
    body = payload(24 * MIB, seed=3)
    s3.put_object(Bucket="near", Key="k", Body=body)
    signer = server.target().client(signature_version="s3v4")
    url = signer.generate_presigned_url("get_object", Params={"Bucket": "near", "Key": "k"})
    # Twice on one connection.
    got = subprocess.run(
        ["curl", "-sS", "--fail", "--max-time", str(DEADLINE_SECONDS), url, url],
        capture_output=True,
        check=True,
    ).stdout
    assert got == body + body
    assert bypassed(server) >= 2 * len(body)


def test_a_slow_client_leaves_little_in_the_kernel(serve: ServeFactory) -> None:
    server, s3 = started(serve)
    body = payload(48 * MIB, seed=4)
    s3.put_object(Bucket="near", Key="k", Body=body)
    before = bypassed(server)
    stream = s3.get_object(Bucket="near", Key="k")["Body"]
    # As far as the worker goes on its own.
    until(lambda: bypassed(server) - before > 4 * MIB, server)
    got = bytearray()
    while len(got) < len(body):
        # It may have just sent one more, and not yet: either way there is little.
        held = bypassed(server) - before - len(got)
        assert held <= HELD_MAX, f"{held} bytes after {len(got)}"
        got += stream.read(700_001)
    assert bytes(got) == body


@pytest.fixture
def little_memory() -> Iterator[SocketsMemory]:
    """Less for a client's sockets than the worker lets wait."""
    try:
        memory = SocketsMemory(512 * KIB)
    except OSError as error:
        pytest.skip(f"the memory of a client's sockets cannot be limited here: {error}")
    try:
        yield memory
    finally:
        memory.close()


def test_a_client_without_memory_for_more_is_waited_for(
    serve: ServeFactory, little_memory: SocketsMemory
) -> None:
    server, s3 = started(serve)
    body = payload(24 * MIB, seed=9)
    s3.put_object(Bucket="near", Key="k", Body=body)
    with little_memory.inside():
        poor = server.target().client(retries={"max_attempts": 0})
        stream = poor.get_object(Bucket="near", Key="k")["Body"]
    until(lambda: connections(server, "starved") == 1, server)
    assert stream.read() == body
    assert connections(server, "stalled") == 0
    assert s3.get_object(Bucket="near", Key="k")["Body"].read() == body
    poor.close()


def test_a_client_that_never_has_memory_is_cut(
    serve: ServeFactory, little_memory: SocketsMemory
) -> None:
    server, s3 = started(serve, **{"s3-write-timeout": "1s"})
    body = payload(24 * MIB, seed=10)
    s3.put_object(Bucket="near", Key="k", Body=body)
    with little_memory.inside():
        poor = server.target().client(retries={"max_attempts": 0})
        stream = poor.get_object(Bucket="near", Key="k")["Body"]
    until(lambda: connections(server, "stalled") == 1, server)
    assert connections(server, "starved") == 1
    with pytest.raises((BotoCoreError, OSError)):
        stream.read()
    poor.close()
    assert s3.get_object(Bucket="near", Key="k")["Body"].read() == body


def test_a_client_that_goes_hurts_nobody(serve: ServeFactory) -> None:
    server, s3 = started(serve)
    body = payload(48 * MIB, seed=5)
    s3.put_object(Bucket="near", Key="k", Body=body)
    for _ in range(3):
        leaver = server.target().client()
        before = bypassed(server)
        stream = leaver.get_object(Bucket="near", Key="k")["Body"]
        stream.read(100_000)
        until(lambda: bypassed(server) - before > 4 * MIB, server)
        stream.close()
        leaver.close()
    # Theirs are gone; the one that asks is ours.
    own = lambda: server.metric("quickwater_s3_open_connections")  # noqa: E731
    until(lambda: own() <= 1, server)
    assert s3.get_object(Bucket="near", Key="k")["Body"].read() == body
    assert states(server, "bypass") == "on"


def test_clients_that_stall_are_cut_and_the_rest_goes_by_tcp(serve: ServeFactory) -> None:
    server, s3 = started(serve, **{"s3-write-timeout": "1s"})
    body = payload(24 * MIB, seed=8)
    s3.put_object(Bucket="near", Key="k", Body=body)
    stalled = [server.target().client() for _ in range(3)]
    streams = [one.get_object(Bucket="near", Key="k")["Body"] for one in stalled]
    until(lambda: connections(server, "stalled") == 3, server)
    until(lambda: states(server, "bypass") == "refused", server)
    for stream in streams:
        with pytest.raises((BotoCoreError, OSError)):
            stream.read()
    assert "stalled" in server.log()
    before = bypassed(server)
    later = server.target().client()
    assert later.get_object(Bucket="near", Key="k")["Body"].read() == body
    assert bypassed(server) == before
    assert connections(server, "taken") == 4


def test_a_worker_that_stops_lets_its_clients_read_all(serve: ServeFactory) -> None:
    server, s3 = started(serve)
    body = payload(3 * MIB, seed=6)
    s3.put_object(Bucket="near", Key="k", Body=body)
    before = bypassed(server)
    stream = s3.get_object(Bucket="near", Key="k")["Body"]
    first = stream.read(1000)
    until(lambda: bypassed(server) - before >= len(body), server)
    codes: list[int] = []
    stopping = threading.Thread(target=lambda: codes.append(server.stop()))
    host, port = str(server.run["s3"]).rsplit(":", 1)
    stopping.start()
    until(lambda: is_closed(host, int(port)), server)
    assert first + stream.read() == body
    stopping.join(DEADLINE_SECONDS)
    assert codes == [0]


def is_closed(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), DEADLINE_SECONDS).close()
    except OSError:
        return True
    return False


def test_after_a_kill_an_answer_is_short_and_never_wrong(serve: ServeFactory) -> None:
    server, s3 = started(serve)
    body = payload(24 * MIB, seed=7)
    s3.put_object(Bucket="near", Key="k", Body=body)
    before = bypassed(server)
    stream = s3.get_object(Bucket="near", Key="k")["Body"]
    got = bytearray(stream.read(1000))
    until(lambda: bypassed(server) - before > 4 * MIB, server)
    server.kill()
    with pytest.raises((BotoCoreError, OSError)):
        while piece := stream.read(65_536):
            got += piece
    assert len(got) < len(body) and bytes(got) == body[: len(got)]
    server.start()
    need(server, "bypass")
    again = server.target().client()
    assert again.get_object(Bucket="near", Key="k")["Body"].read() == body


def test_without_the_right_answers_go_by_tcp(serve: ServeFactory) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv to give capabilities up")
    server = serve(flags=BYPASS, prefix=EBPF_REFUSED)
    assert states(server, "bypass") in ("refused", "not_built")
    if not apart.wanted():
        assert "go by TCP" in condition(server, "ebpf.bypass")["detail"]
    uses_s3(server)


def test_it_is_off_unless_asked_for(serve: ServeFactory) -> None:
    server = serve()
    assert states(server, "bypass") == "off"
    uses_s3(server)
