"""A scripted TCP proxy: the faults between Quickwater and an S3 store."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass

PIECE = 64 * 1024
IDLE_SECONDS = 120.0


@dataclass
class Fault:
    """What happens to connections and exchanges from now on. Default: nothing."""

    refuse: bool = False  # connections are reset at once
    silent: bool = False  # requests are read, nothing is ever answered
    status: int | None = None  # every request gets this status and an empty S3 error
    cut_after: int | None = None  # responses end after this many bytes
    bytes_per_second: int | None = None  # responses trickle
    lose_reply: bool = False  # requests reach the store, answers do not come back
    only_method: str | None = None  # the fault is for this method only


class FaultProxy:
    """Listens on loopback in front of `upstream`."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        self.upstream = upstream
        self.fault = Fault()
        self.requests = 0
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = int(self._listener.getsockname()[1])
        self._closing = False
        threading.Thread(target=self._accept, daemon=True).start()

    def set(self, fault: Fault) -> None:
        """Switches the fault; connections that are open now are broken."""
        self.fault = fault
        with self._lock:
            for connection in list(self._open):
                _shut(connection)

    def clear(self) -> None:
        """No fault any more."""
        self.set(Fault())

    def close(self) -> None:
        """Stops listening and breaks everything."""
        self._closing = True
        _shut(self._listener)
        self._listener.close()
        self.clear()

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.fault.refuse:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                client.close()
                continue
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            self._track(client)
            try:
                self._relay(client)
            except OSError:
                pass  # the other side went away: that is what faults are for
            finally:
                self._untrack(client)

    def _relay(self, client: socket.socket) -> None:
        client.settimeout(IDLE_SECONDS)
        first = client.recv(PIECE)
        if not first:
            return
        self.requests += 1
        fault = self.fault
        if fault.only_method and not first.startswith(fault.only_method.encode() + b" "):
            fault = Fault()
        if fault.silent:
            while client.recv(PIECE):
                pass
            return
        if fault.status is not None:
            _drain_head(client, first)
            client.sendall(_error(fault.status))
            return
        with socket.create_connection(self.upstream, 10) as store:
            store.settimeout(IDLE_SECONDS)
            self._track(store)
            try:
                store.sendall(first)
                self._both_ways(client, store, fault)
            finally:
                self._untrack(store)

    def _both_ways(self, client: socket.socket, store: socket.socket, fault: Fault) -> None:
        upward = threading.Thread(target=_pump, args=(client, store), daemon=True)
        upward.start()
        sent = 0
        while piece := store.recv(PIECE):
            if fault.lose_reply:
                break
            if fault.cut_after is not None:
                piece = piece[: max(0, fault.cut_after - sent)]
                if not piece:
                    break
            if fault.bytes_per_second:
                _trickle(client, piece, fault.bytes_per_second)
            else:
                client.sendall(piece)
            sent += len(piece)
        _shut(client)
        _shut(store)
        upward.join(5)

    def _track(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.add(connection)

    def _untrack(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.discard(connection)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while piece := source.recv(PIECE):
            sink.sendall(piece)
    except OSError:
        pass  # broken on purpose
    _shut(sink)


def _trickle(client: socket.socket, piece: bytes, rate: int) -> None:
    step = max(1, rate // 10)
    for start in range(0, len(piece), step):
        client.sendall(piece[start : start + step])
        time.sleep(0.1)


def _drain_head(client: socket.socket, first: bytes) -> None:
    client.settimeout(0.2)
    try:
        while b"\r\n\r\n" not in first:
            first += client.recv(PIECE)
        while client.recv(PIECE):
            pass
    except OSError:
        pass  # quiet: everything the client wanted to say was read


def _error(status: int) -> bytes:
    code = {500: "InternalError", 503: "SlowDown", 403: "AccessDenied"}.get(status, "Fault")
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>fault</Message></Error>"
    return (
        f"HTTP/1.1 {status} Fault\r\nContent-Type: application/xml\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    ).encode()


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # closed already
