"""One address for several workers, request by request, as a load balancer of layer 7 in
front of a cluster has it: each request of a connection goes to a random worker, and neither
it nor its answer is changed."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Callable, Iterator

from .target import Target

Address = tuple[str, int]
CONNECT_SECONDS = 5.0
# Longer than any answer takes on a busy machine, and than clients wait.
IDLE_SECONDS = 180.0
PIECE = 256 * 1024
HEAD_BYTES = 64 * 1024
NOT_MODIFIED = 304


@dataclass(frozen=True)
class Exchange:
    """A request and what came of it; status 0: the worker went away before the head of its
    answer was there. `whole`: all of the answer came."""

    worker: str
    method: str
    path: str
    status: int
    whole: bool


class Splitter:
    """Listens on loopback until closed. `workers` gives who is there, by name; one that takes
    no connection is passed over."""

    def __init__(self, workers: Callable[[], dict[str, Address]], seed: object) -> None:
        self._workers, self._random = workers, random.Random(repr(seed))
        self._exchanges: list[Exchange] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closing = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def target(self, keys: Target) -> Target:
        """Itself, with the key pair of a worker."""
        return Target(f"http://127.0.0.1:{self.port}", keys.access_key, keys.secret_key)

    def exchanges(self) -> list[Exchange]:
        """All there were."""
        with self._lock:
            return list(self._exchanges)

    def asked(self) -> Counter[str]:
        """Requests by worker."""
        return Counter(one.worker for one in self.exchanges())

    def redirects(self) -> list[Exchange]:
        """What was answered with 3xx, but for "you have it already"."""
        return [one for one in self.exchanges() if 300 <= one.status < 400 and one.status != NOT_MODIFIED]

    def failures(self) -> list[Exchange]:
        """What was answered with 5xx, or not to the end."""
        return [one for one in self.exchanges() if one.status >= 500 or not one.whole]

    def close(self) -> None:
        """Takes no more connections, and ends those there are."""
        self._closing = True
        with self._lock:
            for one in [self._listener, *self._open]:
                _shut(one)
        self._listener.close()

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, accepted: socket.socket) -> None:
        """A client's connection, with one to each worker that it needs."""
        with contextlib.ExitStack() as last:
            client = last.enter_context(self._wire(accepted))
            kept: dict[str, _Wire] = {}
            while (head := client.head()) is not None:
                worker = self._choose(kept, last)
                if worker is None or not self._exchange(client, worker, kept[worker], head):
                    return

    @contextlib.contextmanager
    def _wire(self, connection: socket.socket) -> Iterator["_Wire"]:
        connection.settimeout(IDLE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._open.add(connection)
        try:
            with connection, contextlib.suppress(OSError):  # an end that goes away ends the other
                yield _Wire(connection)
        finally:
            with self._lock:
                self._open.discard(connection)

    def _choose(self, kept: dict[str, "_Wire"], last: contextlib.ExitStack) -> str | None:
        """A random worker of those that can be reached, whose connection is then in `kept`."""
        workers = self._workers()
        names = sorted(workers)
        with self._lock:
            self._random.shuffle(names)
        for name in names:
            if name in kept and kept[name].is_idle():
                return name
            with contextlib.suppress(OSError):
                made = socket.create_connection(workers[name], CONNECT_SECONDS)
                kept[name] = last.enter_context(self._wire(made))
                return name
        return None

    def _exchange(self, client: "_Wire", name: str, worker: "_Wire", head: "_Head") -> bool:
        """One request and its answer; whether both connections can take another."""
        body = _body(head)
        answer = _Answer(head.method, head.has("expect", "100-continue"))
        sender = threading.Thread(target=_send, args=(client, worker, head, body), daemon=True)
        sender.start()
        try:
            answer.relay(worker, client)
        finally:
            with self._lock:
                one = Exchange(name, head.method, head.path, answer.status, answer.is_whole)
                self._exchanges.append(one)
            if not answer.is_whole or (answer.unwanted and not body.is_whole):
                # What the client would send next might be the body, or the next request.
                _shut(worker.connection)
                _shut(client.connection)
            sender.join(IDLE_SECONDS)
        last = answer.last or head.has("connection", "close")
        return answer.is_whole and body.is_whole and not last


@dataclass
class _Head:
    """The head of a message, as it came."""

    wire: bytes

    @property
    def _first(self) -> list[str]:
        return self.wire.split(b"\r\n", 1)[0].decode("latin-1").split(" ")

    @property
    def method(self) -> str:
        return self._first[0]

    @property
    def path(self) -> str:
        return self._first[1]

    @property
    def status(self) -> int:
        return int(self._first[1])

    def value(self, name: str) -> str:
        """Of a header, in small letters; empty without it."""
        for line in self.wire.split(b"\r\n")[1:]:
            key, _, value = line.decode("latin-1").partition(":")
            if key.strip().lower() == name:
                return value.strip().lower()
        return ""

    def has(self, name: str, word: str) -> bool:
        """Whether a header has this word in its list."""
        return word in [one.strip() for one in self.value(name).split(",")]


class _Wire:
    """A connection, and what was read of it ahead of time."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._ahead = b""

    def is_idle(self) -> bool:
        """Whether it is open, and nothing came that nobody asked for."""
        looker = select.poll()
        looker.register(self.connection, select.POLLIN)
        return not self._ahead and not looker.poll(0)

    def head(self) -> _Head | None:
        """The next message's; none at the end."""
        while (end := self._ahead.find(b"\r\n\r\n")) < 0:
            more = self.connection.recv(PIECE)
            if not more:
                return None
            self._ahead += more
            if len(self._ahead) > HEAD_BYTES + PIECE:
                raise ConnectionAbortedError("no end of the head")
        wire, self._ahead = self._ahead[: end + 4], self._ahead[end + 4 :]
        return _Head(wire)

    def pieces(self, body: "_Body") -> Iterator[bytes]:
        """Of a body, to its end or that of the connection."""
        while not body.is_whole:
            some = self._ahead or self.connection.recv(PIECE)
            if not some:
                body.ended()
                return
            taken = body.take(some)
            self._ahead = some[taken:]
            yield some[:taken]


class _Body:
    """Where a body ends: after so many bytes, or with the connection."""

    def __init__(self, size: int | None) -> None:
        self._left = size
        self.is_whole = size == 0

    def take(self, some: bytes) -> int:
        """How many of these bytes belong to it."""
        if self._left is None:
            return len(some)
        taken = min(self._left, len(some))
        self._left -= taken
        self.is_whole = self._left == 0
        return taken

    def ended(self) -> None:
        """So did the connection."""
        self.is_whole = self._left is None


class _Chunks(_Body):
    """A body in chunks (RFC 9112, 7.1), with what frames them."""

    def __init__(self) -> None:
        super().__init__(1)
        self._inside = 0
        self._line = b""
        self._trailer = False

    def take(self, some: bytes) -> int:
        at = 0
        while at < len(some) and not self.is_whole:
            if self._inside:
                step = min(self._inside, len(some) - at)
                self._inside -= step
                at += step
                continue
            end = some.find(b"\n", at)
            stop = len(some) if end < 0 else end + 1
            self._line += some[at:stop]
            at = stop
            if end >= 0:
                self._end_line()
        return at

    def _end_line(self) -> None:
        line, self._line = self._line.strip(), b""
        if self._trailer:
            self.is_whole = not line
            return
        size = int(line.split(b";")[0], 16)
        self._trailer = size == 0
        self._inside = size + len(b"\r\n") if size else 0


class _Answer:
    """What a worker says to one request: perhaps "100 Continue", and the answer."""

    def __init__(self, method: str, expects: bool) -> None:
        self._method, self._expects = method, expects
        self.status = 0
        self.is_whole = False
        self.last = False
        # The client was not told to send its body.
        self.unwanted = expects

    def relay(self, worker: _Wire, client: _Wire) -> None:
        """To the client."""
        while (head := worker.head()) is not None:
            if head.status < 200:
                self.unwanted = False
                client.connection.sendall(head.wire)
                continue
            self.status = head.status
            client.connection.sendall(head.wire)
            empty = self._method == "HEAD" or head.status in (204, NOT_MODIFIED)
            body = _Body(0) if empty else _body(head, None)
            for piece in worker.pieces(body):
                client.connection.sendall(piece)
            self.is_whole = body.is_whole
            self.last = head.has("connection", "close") or not (empty or _is_framed(head))
            return


def _is_framed(head: _Head) -> bool:
    return bool(head.value("content-length") or head.value("transfer-encoding"))


def _body(head: _Head, unframed: int | None = 0) -> _Body:
    """The body behind a head; of `unframed` bytes where it does not say."""
    if head.has("transfer-encoding", "chunked"):
        return _Chunks()
    length = head.value("content-length")
    return _Body(int(length) if length else unframed)


def _send(client: _Wire, worker: _Wire, head: _Head, body: _Body) -> None:
    """A request; a client that goes away in its middle takes the worker's connection with it."""
    try:
        worker.connection.sendall(head.wire)
        for piece in client.pieces(body):
            worker.connection.sendall(piece)
    except OSError:
        pass  # whoever went away, the answer's end tells
    if not body.is_whole:
        _shut(worker.connection)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # closed already
        connection.shutdown(socket.SHUT_RDWR)
