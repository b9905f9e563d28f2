"""Load on an endpoint from the clients' core: wrk, and raw sockets for large bodies.

wrk sends requests that were written (and signed) beforehand, so signing costs
the client nothing; bodies of large answers are dropped in the kernel (MSG_TRUNC).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from harness.payload import payload  # noqa: E402
from harness.signing import EMPTY_SHA256, UNSIGNED, Signer  # noqa: E402
from harness.target import Target  # noqa: E402

from .machine import MIB, on_client_core  # noqa: E402
from .rounds import Load  # noqa: E402

SOCKET_SECONDS = 60.0
HEAD_BYTES_MAX = 64 << 10
RECEIVE_BYTES = 4 * MIB
WRK_GRACE_SECONDS = 60


class LoadFailed(Exception):
    """A request was not answered as it should be; the figures would mean nothing."""


@dataclass
class Request:
    """One request, complete but for its signature."""

    method: str
    path: str
    query: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    def bytes(self, host: str, keys: Target | None) -> bytes:
        """As sent: signed with the keys when there are some. A signature is good for 15 minutes."""
        headers = [("Host", host)]
        if self.body:
            headers.append(("Content-Length", str(len(self.body))))
        if keys is not None:
            digest = UNSIGNED if self.body else EMPTY_SHA256
            headers, _ = Signer(keys).headers(self.method, self.path, self.query, headers, digest)
        target = self.path
        if self.query:
            target += "?" + "&".join(f"{name}={value}" for name, value in self.query)
        lines = [f"{self.method} {target} HTTP/1.1", *(f"{n}: {v}" for n, v in headers)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + self.body


# -- wrk ----------------------------------------------------------------------

SCRIPT = """
local requests, at = {}, 0
for line in io.lines("%(folder)s/index") do
  local file = io.open("%(folder)s/" .. line, "rb")
  requests[#requests + 1] = file:read("*a")
  file:close()
end
request = function()
  at = at %% #requests + 1
  return requests[at]
end
done = function(summary, latency)
  local e, pairs = summary.errors, {}
  for i = 1, #latency do
    local value, count = latency(i)
    pairs[i] = string.format("[%%d,%%d]", value, count)
  end
  io.write(string.format(
    '{"requests":%%d,"us":%%d,"latencies":[%%s],"errors":[%%d,%%d,%%d,%%d,%%d]}\\n',
    summary.requests, summary.duration, table.concat(pairs, ","),
    e.connect, e.read, e.write, e.status, e.timeout))
end
"""


def wrk(
    port: int, requests: list[Request], connections: int, seconds: float, *, keys: Target | None, size: int
) -> Load:
    """Sends the requests in turn over some connections; `size` is what one of them moves."""
    with tempfile.TemporaryDirectory(prefix="wrk-") as folder:
        words = _wrk_command(Path(folder), port, requests, connections, seconds, keys)
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, timeout=seconds + WRK_GRACE_SECONDS
        )
    if done.returncode != 0:
        raise LoadFailed(f"wrk: {done.stderr or done.stdout}")
    seen = json.loads(done.stdout.splitlines()[-1])
    if any(seen["errors"]) or not seen["requests"]:
        raise LoadFailed(f"wrk: connect, read, write, status, timeout errors: {seen['errors']}")
    pairs = [(float(value), count) for value, count in seen["latencies"]]
    return Load(seen["requests"], seen["requests"] * size, seen["us"] / 1e6, pairs)


def _wrk_command(
    folder: Path, port: int, requests: list[Request], connections: int, seconds: float, keys: Target | None
) -> list[str]:
    names = []
    for number, request in enumerate(requests):
        (folder / f"r{number}").write_bytes(request.bytes(f"127.0.0.1:{port}", keys))
        names.append(f"r{number}")
    (folder / "index").write_text("\n".join(names) + "\n")
    (folder / "script.lua").write_text(SCRIPT % {"folder": folder})
    return on_client_core(
        ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s",
         "-s", str(folder / "script.lua"), f"http://127.0.0.1:{port}"]
    )  # fmt: skip


# -- raw sockets --------------------------------------------------------------


class Connection:
    """A kept-alive HTTP/1.1 connection that throws bodies away."""

    def __init__(self, port: int) -> None:
        self.host = f"127.0.0.1:{port}"
        self.socket = socket.create_connection(("127.0.0.1", port), SOCKET_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.head = bytearray(HEAD_BYTES_MAX)
        self.sink = bytearray(RECEIVE_BYTES)

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def exchange(self, request: Request, keys: Target | None = None) -> tuple[bytes, int]:
        """Sends a request, drops the answer's body; the head and the body's length."""
        self.socket.sendall(request.bytes(self.host, keys))
        head, got = self._head()
        status = int(head[9:12])
        if not 200 <= status < 300:
            raise LoadFailed(f"{request.method} {request.path}: {head.decode('latin-1')}")
        length = _content_length(head)
        self._drop(length - got)
        return head, length

    def fetch(self, request: Request) -> bytes:
        """The body of the answer to an anonymous GET."""
        self.socket.sendall(request.bytes(self.host, None))
        head, got = self._head()
        if not head.startswith(b"HTTP/1.1 200"):
            raise LoadFailed(f"{request.path}: {head.decode('latin-1')}")
        body = bytes(self.head[len(head) + 4 : len(head) + 4 + got])
        left = _content_length(head) - got
        while left > 0:
            piece = self.socket.recv(min(left, RECEIVE_BYTES))
            if not piece:
                raise LoadFailed("the connection was closed within an answer's body")
            body, left = body + piece, left - len(piece)
        return body

    def _head(self) -> tuple[bytes, int]:
        got = 0
        while (end := self.head.find(b"\r\n\r\n", 0, got)) < 0:
            count = self.socket.recv_into(memoryview(self.head)[got:])
            if count == 0:
                raise LoadFailed("the connection was closed within an answer's head")
            got += count
        return bytes(self.head[:end]), got - end - 4

    def _drop(self, left: int) -> None:
        while left > 0:
            count = self.socket.recv_into(self.sink, min(left, RECEIVE_BYTES), socket.MSG_TRUNC)
            if count == 0:
                raise LoadFailed("the connection was closed within an answer's body")
            left -= count


def _content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n")[1:]:
        if line.startswith(b"content-length:"):
            return int(line.split(b":", 1)[1])
    if head[9:12] == b"204":
        return 0
    raise LoadFailed(f"an answer without a length: {head.decode('latin-1')}")


def once_each(port: int, requests: list[Request], streams: int, *, keys: Target | None) -> Load:
    """Every request once, shared out over some connections: fixed work, for cold files."""
    queue = list(reversed(requests))
    lock, moments, total, failures = threading.Lock(), [], [0], []

    def work() -> None:
        try:
            with Connection(port) as connection:
                while True:
                    with lock:
                        if not queue or failures:
                            return
                        request = queue.pop()
                    before = time.perf_counter()
                    _, length = connection.exchange(request, keys)
                    with lock:
                        moments.append((time.perf_counter() - before) * 1e6)
                        total[0] += max(length, len(request.body))
        except (OSError, LoadFailed) as error:
            failures.append(error)

    start = time.perf_counter()
    threads = [threading.Thread(target=work) for _ in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise LoadFailed(str(failures[0]))
    return Load(len(moments), total[0], time.perf_counter() - start, [(m, 1) for m in moments])


def read_after_write(port: int, bucket: str, seconds: float, size: int, keys: Target | None) -> list[Load]:
    """One connection: PUT a new key, GET it, GET an old one. The two kinds of GET apart."""
    body = payload(size, "read after write")
    fresh: list[float] = []
    old: list[float] = []
    with Connection(port) as connection:
        settled = Request("GET", f"/{bucket}/settled")
        connection.exchange(Request("PUT", settled.path, body=body), keys)
        start = time.perf_counter()
        number = 0
        while time.perf_counter() - start < seconds:
            path = f"/{bucket}/raw-{os.getpid()}-{number % 10_000}"
            number += 1
            connection.exchange(Request("PUT", path, body=body), keys)
            for request, moments in ((Request("GET", path), fresh), (settled, old)):
                before = time.perf_counter()
                connection.exchange(request, keys)
                moments.append((time.perf_counter() - before) * 1e6)
        took = time.perf_counter() - start
    return [Load(len(m), len(m) * size, took, [(one, 1) for one in m]) for m in (fresh, old)]
