"""A service address that somebody else answers, and clients of a cgroup that connect to it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Iterator

import pytest

DEADLINE_SECONDS = 120
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
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            return own.rmdir()
        except OSError:
            # A process that has ended may be in it for a moment yet.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


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
