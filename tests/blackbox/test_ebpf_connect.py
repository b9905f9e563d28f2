"""Connections to a service address reach the worker of this node while it is ready, and
the service address at any other time. In a cgroup of the test's own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Callable, Iterator

import pytest

from conftest import ServeFactory
from harness import apart
from harness.ebpf import condition, need, states
from harness.server import Server

DEADLINE_SECONDS = 120
WITHOUT_CAPABILITIES = ["setpriv", "--bounding-set=-bpf,-sys_admin"]
# Connects, asks for what only Quickwater knows, and prints who answered.
CLIENT = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family) as s:
    s.settimeout(float(sys.argv[3]))
    try:
        s.connect((sys.argv[1], int(sys.argv[2])))
        s.sendall(b"GET / HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n")
        answer = b""
        while piece := s.recv(65536):
            answer += piece
    except OSError as error:
        sys.exit(print("error", error))
print("service" if answer == b"service" else "worker" if b"AccessDenied" in answer else answer)
"""


def cgroup_root() -> Path | None:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, kind = line.split(" - ", 1)
        if kind.split()[0] == "cgroup2":
            return Path(mount.split()[4])
    return None


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup of version 2 that is gone afterwards."""
    root = cgroup_root()
    if os.geteuid() != 0 or root is None:
        pytest.skip("needs root and a mounted cgroup2")
    own = root / f"quickwater-test-{os.getpid()}-{time.monotonic_ns()}"
    try:
        own.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made: {error}")
    yield own
    own.rmdir()


class Service:
    """Who answers at the service address: not a worker."""

    def __init__(self, ip: str) -> None:
        self.ip = ip
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        self.listener = socket.create_server((ip, 0), family=family)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with client:
                client.recv(65536)
                client.sendall(b"service")

    def flag(self) -> str:
        ip = f"[{self.ip}]" if ":" in self.ip else self.ip
        return f"{ip}:{self.port}"


@pytest.fixture
def service() -> Iterator[Service]:
    own = Service("127.0.0.99")
    yield own
    own.listener.close()


def answered_by(
    service: Service, cgroup: Path | None, *prefix: str, ip: str = "", seconds: int = 60
) -> str:
    """Who answers a client of the cgroup that connects to the service address, and waits
    so long for each step."""
    words = [*prefix, sys.executable, "-c", CLIENT, ip or service.ip, str(service.port)]
    words.append(str(seconds))
    if cgroup is not None:
        words = ["sh", "-c", f'echo $$ > "{cgroup}/cgroup.procs" && exec "$@"', "sh", *words]
    done = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def until_answered_by(
    who: str, service: Service, cgroup: Path, ip: str = "", seconds: int = 60
) -> None:
    """A beat may be late, and a process gone a moment before its programs."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while (found := answered_by(service, cgroup, ip=ip, seconds=seconds)) != who:
        assert time.monotonic() < deadline, f"{found} answers, not {who}"
        time.sleep(0.1)


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
    os.kill(server.pid, signal.SIGSTOP)
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
    server = serve(flags=flags(service, cgroup), prefix=WITHOUT_CAPABILITIES)
    assert states(server, "connect") in ("refused", "not_built")
    assert answered_by(service, cgroup) == "service"
