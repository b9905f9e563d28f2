"""The load balancer that stands before clusters in tests (`harness.splitter`): nothing is
changed on the way, and what it says of answers is so."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import socket
import subprocess
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Iterator

import pytest

from harness.payload import MIB, payload
from harness.splitter import Splitter

NAMES = ["a", "b", "c"]


class Worker(BaseHTTPRequestHandler):
    """Answers with what it was sent; `GET /NUMBER` with that status."""

    protocol_version = "HTTP/1.1"

    def _say(self, status: int, body: bytes, chunked: bool = False) -> None:
        self.send_response(status)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
            body = b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in (body[:7], body[7:]) if one)
            body += b"0\r\nA-Trailer: x\r\n\r\n"
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" or status in (204, 304) else body)

    def do_GET(self) -> None:  # noqa: N802
        if self.path == "/cut":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort")
            self.close_connection = True
            return
        self._say(int(self.path[1:]), self.path.encode() * 3)

    do_HEAD = do_GET  # noqa: N815

    def do_PUT(self) -> None:  # noqa: N802
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        said = f"{self.headers.get('X-Case')} {hashlib.md5(body).hexdigest()}"
        self._say(200, said.encode(), chunked=True)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture
def workers() -> Iterator[dict[str, tuple[str, int]]]:
    """Three, and one that nobody can reach."""
    with contextlib.ExitStack() as last:
        made = {}
        for name in NAMES:
            server = last.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Worker))
            Thread(target=server.serve_forever, daemon=True).start()
            last.callback(server.shutdown)
            made[name] = ("127.0.0.1", server.server_port)
        closed = last.enter_context(socket.socket())
        closed.bind(("127.0.0.1", 0))
        yield {**made, "gone": closed.getsockname()}


@pytest.fixture
def front(workers: dict[str, tuple[str, int]]) -> Iterator[Splitter]:
    """Before them."""
    with contextlib.closing(Splitter(lambda: workers, 1)) as made:
        yield made


def test_one_connection_asks_all(front: Splitter) -> None:
    client = http.client.HTTPConnection("127.0.0.1", front.port, 60)
    for number in range(30):
        body = payload(number * 10_000, number)
        chunks = [body[at : at + 999] for at in range(0, len(body), 999)] or [b""]
        client.request("PUT", "/x", body if number % 2 else iter(chunks), {"x-cAsE": f" {number}"})
        answer = client.getresponse()
        assert answer.read().decode() == f"{number} {hashlib.md5(body).hexdigest()}"
        for method, status in [("HEAD", 200), ("GET", 204), ("GET", 304), ("GET", 200)]:
            client.request(method, f"/{status}")
            answer = client.getresponse()
            assert answer.status == status
            assert answer.read() == (b"/200" * 3 if (method, status) == ("GET", 200) else b"")
    # The last one is noted moments after its answer has gone.
    end = time.monotonic() + 30
    while front.asked().total() < 150 and time.monotonic() < end:
        time.sleep(0.01)
    assert set(front.asked()) == set(NAMES) and front.asked().total() == 150
    assert not front.redirects() and not front.failures()


@pytest.mark.needs("curl")
def test_bodies_that_wait_to_be_wanted(front: Splitter, tmp_path: Path) -> None:
    body = payload(3 * MIB, "wanted")
    (tmp_path / "body").write_bytes(body)
    url = f"http://127.0.0.1:{front.port}/x"
    for words in (["-T", str(tmp_path / "body")], ["-T", "-", "-H", "Transfer-Encoding: chunked"]):
        with (tmp_path / "body").open("rb") as source:
            line = ["curl", "-sSv", "-H", "Expect: 100-continue", "--expect100-timeout", "60", *words, url]
            done = subprocess.run(line, stdin=source, capture_output=True, text=True, timeout=120, check=True)
        assert "HTTP/1.1 100 Continue" in done.stderr, done.stderr
        assert done.stdout.startswith(f"None {hashlib.md5(body).hexdigest()}"), done


def test_what_is_asked_ahead_of_an_answer(front: Splitter) -> None:
    asked = b"PUT /x HTTP/1.1\r\nX-Case: %d\r\nContent-Length: 3\r\n%s\r\nabc"
    with socket.create_connection(("127.0.0.1", front.port), 60) as client:
        ends = [b""] * 9 + [b"Connection: close\r\n"]
        client.sendall(b"".join(asked % (number, end) for number, end in enumerate(ends)))
        told = b""
        while more := client.recv(MIB):
            told += more
    answers = [one.split(b"\r\n\r\n", 1)[1].split(b"\r\n") for one in told.split(b"HTTP/1.1 200 OK")[1:]]
    said = [first + rest for _, first, _, rest, *_ in answers]
    assert said == [b"%d %s" % (n, hashlib.md5(b"abc").hexdigest().encode()) for n in range(10)]


def test_what_came_of_it(front: Splitter) -> None:
    for path in ("/200", "/304", "/307", "/503", "/cut"):
        client = http.client.HTTPConnection("127.0.0.1", front.port, 60)
        client.request("GET", path)
        if path != "/cut":
            client.getresponse().read()
            continue
        with pytest.raises(http.client.IncompleteRead):
            client.getresponse().read()
    assert [one.path for one in front.redirects()] == ["/307"]
    assert [(one.path, one.status) for one in front.failures()] == [("/503", 503), ("/cut", 200)]


def test_nobody_is_there(front: Splitter, workers: dict[str, tuple[str, int]]) -> None:
    for name in NAMES:
        del workers[name]
    client = http.client.HTTPConnection("127.0.0.1", front.port, 60)
    with pytest.raises(http.client.RemoteDisconnected):
        client.request("GET", "/200")
        client.getresponse()
