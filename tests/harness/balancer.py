"""One address for several workers: connections go to those that are ready, in turn, as
the load balancer before a cluster would have it."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from typing import Callable

LOOK_SECONDS = 0.05
CONNECT_SECONDS = 5.0
PIECE = 64 * 1024


class Balancer:
    """Listens at a host until closed. `enter` puts a thread there; `ready` gives the
    addresses of workers that take requests now."""

    def __init__(self, host: str, enter: Callable[[], None], ready: Callable[[], list[tuple[str, int]]]) -> None:
        self._enter, self._ready = enter, ready
        self._backends: list[tuple[str, int]] = []
        self._turn = itertools.count()
        self._closing = threading.Event()
        self._looked = threading.Event()
        self._listener: socket.socket | None = None
        self._host = host
        self.port = 0
        listening = threading.Event()
        self._threads = [
            threading.Thread(target=self._look, daemon=True),
            threading.Thread(target=self._accept, args=(listening,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        assert listening.wait(60) and self._looked.wait(60), "the balancer does not start"

    def close(self) -> None:
        """Takes no more connections."""
        self._closing.set()
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        for thread in self._threads:
            thread.join(60)

    def _look(self) -> None:
        while not self._closing.is_set():
            self._backends = self._ready()
            self._looked.set()
            time.sleep(LOOK_SECONDS)

    def _accept(self, listening: threading.Event) -> None:
        self._enter()
        self._listener = socket.create_server((self._host, 0), backlog=256)
        self.port = int(self._listener.getsockname()[1])
        listening.set()
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._enter()
        with client:
            worker = self._connect()
            if worker is None:
                return
            with worker:
                for one in (client, worker):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                back = threading.Thread(target=_pump, args=(worker, client), daemon=True)
                back.start()
                _pump(client, worker)
                back.join()

    def _connect(self) -> socket.socket | None:
        """A connection to the next worker that takes it."""
        backends = self._backends
        start = next(self._turn)
        for step in range(len(backends)):
            with contextlib.suppress(OSError):
                worker = socket.create_connection(backends[(start + step) % len(backends)], CONNECT_SECONDS)
                worker.settimeout(None)
                return worker
        return None


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):  # an end that went away ends the other
        while piece := source.recv(PIECE):
            sink.sendall(piece)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
