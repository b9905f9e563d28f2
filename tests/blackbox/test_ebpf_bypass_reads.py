"""How a client reads what goes from socket to socket: where the kernel's calls do otherwise than with
TCP (README, `ebpf.bypass`), no byte is lost."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Iterator
from urllib.parse import urlsplit

import pytest

from conftest import ServeFactory
from harness.ebpf import need
from harness.payload import MIB, payload
from harness.server import Server

DEADLINE_SECONDS = 120
SIZE = 24 * MIB + 5
# Of recvfrom(2), by which Python receives.
RECEIVING = {"x86_64": "45", "aarch64": "207"}.get(os.uname().machine, "")
INTERRUPTIONS = 200
# Reads an answer by blocking calls without a timeout, and says what it got and how.
READER = """
import hashlib, json, signal, socket, sys
flags = getattr(socket, sys.argv[2], 0)
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.siginterrupt(signal.SIGUSR1, False)
stream = socket.socket(fileno=int(sys.argv[1]))
told = {"again": 0, "short": 0}

def receive(most):
    while True:
        try:
            some = stream.recv(most, flags)
        except BlockingIOError:
            told["again"] += 1
            continue
        assert some, "it ended"
        told["short"] += flags != 0 and len(some) < most
        return some

print("ready", flush=True)
head = b""
while not head.endswith(b"\\r\\n\\r\\n"):
    head += receive(1)
left = int(head.lower().split(b"content-length:")[1].split()[0])
body = hashlib.sha256()
while left:
    some = receive(min(left, 700_001))
    body.update(some)
    left -= len(some)
# At its end Python would put back what such a signal does else.
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
print(json.dumps({**told, "sha256": body.hexdigest()}), flush=True)
"""


class Reader:
    """A process that reads the answer to what is asked on a connection."""

    def __init__(self, connection: socket.socket, flags: str = "") -> None:
        number = connection.fileno()
        words = [sys.executable, "-c", READER, str(number), flags]
        self.process = subprocess.Popen(words, pass_fds=[number], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self._said = self.process.stdout
        assert self._said.readline() == "ready\n"

    def _of(self, name: str) -> str:
        return Path(f"/proc/{self.process.pid}/{name}").read_text()

    def is_in(self, state: str) -> bool:
        return self._of("stat").rsplit(")", 1)[1].split()[0] == state

    def is_receiving(self) -> bool:
        """It waits in the kernel for more."""
        return self.is_in("S") and self._of("syscall").split()[0] == RECEIVING

    def interrupt(self, server: Server) -> None:
        """Stops it and lets it go on, and has it handle a signal."""
        pid = self.process.pid
        os.kill(pid, signal.SIGSTOP)
        until(lambda: self.is_in("T"), server)
        os.kill(pid, signal.SIGCONT)
        os.kill(pid, signal.SIGUSR1)

    def told(self) -> dict[str, int | str]:
        out, _ = self.process.communicate(timeout=DEADLINE_SECONDS)
        assert self.process.returncode == 0
        told: dict[str, int | str] = json.loads(out)
        print(told)
        return told

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._said.close()


def until(holds: Callable[[], bool], server: Server) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, server.log_tail()
        time.sleep(0.001)


class Asking:
    """A connection that goes from socket to socket, and an object."""

    def __init__(self, server: Server) -> None:
        self.server = server
        s3 = server.target().client(signature_version="s3v4")
        s3.create_bucket(Bucket="near")
        body = payload(SIZE, seed=21)
        s3.put_object(Bucket="near", Key="k", Body=body)
        self.sha256 = hashlib.sha256(body).hexdigest()
        wanted = {"Bucket": "near", "Key": "k"}
        self._url = urlsplit(s3.generate_presigned_url("get_object", Params=wanted))
        assert self._url.hostname and self._url.port
        ends = (self._url.hostname, self._url.port)
        self.connection = socket.create_connection(ends, DEADLINE_SECONDS)
        # Blocking, and so for whoever reads: the description is shared.
        self.connection.settimeout(None)

    def ask(self) -> None:
        head = f"GET {self._url.path}?{self._url.query} HTTP/1.1\r\nHost: {self._url.netloc}\r\n\r\n"
        self.connection.sendall(head.encode())

    def bypassed(self) -> int:
        return int(self.server.metric("quickwater_ebpf_bypass_bytes_total"))


@pytest.fixture
def asking(serve: ServeFactory) -> Iterator[Asking]:
    server = serve(flags={"ebpf-bypass": "auto"})
    need(server, "bypass")
    asking = Asking(server)
    yield asking
    asking.connection.close()


def test_whoever_asks_for_all_may_get_less_and_then_the_rest(asking: Asking) -> None:
    before = asking.bypassed()
    reader = Reader(asking.connection, "MSG_WAITALL")
    try:
        asking.ask()
        assert reader.told()["sha256"] == asking.sha256
    finally:
        reader.close()
    assert asking.bypassed() - before > SIZE


@pytest.mark.skipif(not RECEIVING, reason="the number of recvfrom is not known here")
def test_a_read_that_is_interrupted_loses_nothing(asking: Asking) -> None:
    before = asking.bypassed()
    reader = Reader(asking.connection)
    try:
        for _ in range(10):
            until(reader.is_receiving, asking.server)
            reader.interrupt(asking.server)
        until(reader.is_receiving, asking.server)
        asking.ask()
        for _ in range(INTERRUPTIONS):
            if reader.process.poll() is not None:
                break
            os.kill(reader.process.pid, signal.SIGUSR1)
            time.sleep(0.001)
        assert reader.told()["sha256"] == asking.sha256
    finally:
        reader.close()
    assert asking.bypassed() - before > SIZE
