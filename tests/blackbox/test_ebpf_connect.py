"""Connections to a service address reach the worker of this node while it is ready, and
the service address at any other time. In a cgroup of the test's own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Callable

import pytest

from conftest import ServeFactory
from harness import apart
from harness.ebpf import condition, need, states
from harness.freeze import freeze
from harness.server import EBPF_REFUSED, Server
from harness.steering import Service, answered_by, cgroup, service, until_answered_by

__all__ = ["cgroup", "service"]

DEADLINE_SECONDS = 120


def connects(server: Server, outcome: str) -> int:
    """What became of connections to the service address."""
    line = r'quickwater_ebpf_connects_total\{outcome="%s"\} (\d+)' % outcome
    (count,) = re.findall(line, server.metrics_text())
    return int(count)


def flags(service: Service, cgroup: Path) -> dict[str, str]:
    return {"ebpf-service": service.flag(), "ebpf-cgroup": str(cgroup)}


def started(serve: ServeFactory, service: Service, cgroup: Path) -> Server:
    server = serve(flags=flags(service, cgroup))
    need(server, "connect")
    until_answered_by("worker", service, cgroup)
    return server


def test_clients_of_the_cgroup_reach_the_worker_and_others_do_not(
    serve: ServeFactory, cgroup: Path, service: Service
) -> None:
    server = started(serve, service, cgroup)
    # A socket of IPv6 that speaks IPv4, as many runtimes open them.
    until_answered_by("worker", service, cgroup, ip=f"::ffff:{service.ip}")
    assert answered_by(service, None) == "service"
    assert connects(server, "steered") >= 2
    # The loopback of another network namespace is not ours: nothing is turned there.
    deadline = time.monotonic() + DEADLINE_SECONDS
    while shutil.which("unshare") and connects(server, "elsewhere") == 0:
        assert answered_by(service, cgroup, "unshare", "-n").startswith("error")
        assert time.monotonic() < deadline, server.metrics_text()
    if not apart.wanted():
        assert service.flag() in condition(server, "ebpf.connect")["detail"]


def test_without_its_worker_a_client_reaches_the_service(
    serve: ServeFactory, cgroup: Path, service: Service
) -> None:
    server = started(serve, service, cgroup)
    # A worker that hangs: nobody tells the programs any more.
    freeze(server.pid)
    try:
        # One that was turned to it before the beat is too old gets no answer.
        until_answered_by("service", service, cgroup, seconds=3)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    until_answered_by("worker", service, cgroup)
    server.kill()
    until_answered_by("service", service, cgroup)
    server.start()
    until_answered_by("worker", service, cgroup)
    assert server.stop() == 0
    until_answered_by("service", service, cgroup)


def test_where_nobody_answers_nothing_is_turned_to(
    serve: ServeFactory, cgroup: Path, service: Service
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        local = "127.0.0.1:%d" % silent.getsockname()[1]
        server = serve(flags={**flags(service, cgroup), "ebpf-local": local})
        until(lambda: told_or_skipped(server, f"nobody answers at {local}"), server)
        assert answered_by(service, cgroup) == "service"
        assert connects(server, "steered") == 0
        silent.listen()
        until(lambda: states(server, "connect") == "on", server)


def told_or_skipped(server: Server, text: str) -> bool:
    """Whether the log has it; skips where the program is not on for another reason."""
    state = states(server, "connect")
    if text in server.log():
        return True
    if state != "on":
        need(server, "connect")
    return False


def until(holds: Callable[[], bool], server: Server) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, server.log_tail()
        time.sleep(0.1)


def test_ipv6_is_turned_too(serve: ServeFactory, cgroup: Path) -> None:
    try:
        service = Service("::1")
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    own = {**flags(service, cgroup), "s3-listen": "[::1]:0"}
    server = serve(flags=own)
    need(server, "connect")
    until_answered_by("worker", service, cgroup)
    service.listener.close()


def test_without_the_right_connections_stay_as_they_are(
    serve: ServeFactory, cgroup: Path, service: Service
) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv to give capabilities up")
    server = serve(flags=flags(service, cgroup), prefix=EBPF_REFUSED)
    assert states(server, "connect") in ("refused", "not_built")
    assert answered_by(service, cgroup) == "service"
