"""The simulator: the S3 port that can go away, its rules, its journal.

`control.py` steers it from another process, `client.py` is that process's side.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Callable

from .connection import Connection
from .dialect import Dialect
from .journal import Journal
from .message import Request, Response
from .rules import Rules
from .store import PART_BYTES_MIN, Store

BACKLOG = 4096
LOOPBACK = "127.0.0.1"
LINGER_SECONDS = 5.0


class Simulator:
    """One event loop, one thread."""

    def __init__(self, part_bytes_min: int = PART_BYTES_MIN, host: str = LOOPBACK) -> None:
        self.host = host
        self.journal = Journal()
        self.store = Store(self.journal, part_bytes_min)
        self.dialect = Dialect(self.store)
        self.rules = Rules()
        self.connections: set[Connection] = set()
        self.black_hole = False
        self.held: list[Request] = []
        self.failures: list[str] = []
        self.port = 0
        self._pending = 0
        self._generation = 0  # of resets: what was late before one never comes
        self._reserved: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._weather: asyncio.Task[None] | None = None

    # -- requests ---------------------------------------------------------------

    def apply(self, request: Request, late: bool = False) -> Response:
        """The store's answer; from here on it has happened."""
        return self.dialect.answer(request, late)

    def apply_late(self, request: Request, delay_s: float | None) -> None:
        """Applies after a while, or when released."""
        if delay_s is None:
            self.held.append(request)
        else:
            self.later(delay_s, lambda: self._apply_held(request))

    def _apply_held(self, request: Request) -> None:
        self.apply(request, late=True)

    def later(self, delay_s: float, work: Callable[[], None]) -> None:
        """Runs `work` after a while; counted as pending until then."""
        self._pending += 1
        generation = self._generation

        def now() -> None:
            if generation == self._generation:
                self._pending -= 1
                work()

        asyncio.get_running_loop().call_later(delay_s, now)

    def linger(self, transport: asyncio.Transport) -> None:
        """Closes a connection whose client does not."""
        asyncio.get_running_loop().call_later(LINGER_SECONDS, transport.close)

    def release(self) -> int:
        """Applies what is held, oldest first; how many there were."""
        held, self.held = self.held, []
        for one in held:
            self._apply_held(one)
        return len(held)

    @property
    def pending(self) -> int:
        """Requests that are still to be applied or answered, the held ones too."""
        return self._pending + len(self.held)

    # -- the port ----------------------------------------------------------------

    async def listen(self, port: int = 0) -> None:
        """Takes a port for good, and answers on it."""
        # Bound and never listening: while the simulator refuses, the kernel
        # answers with RST, and nobody else can take the port.
        self._reserved = _bound(self.host, port)
        self.port = int(self._reserved.getsockname()[1])
        await self.up()

    async def up(self) -> None:
        """Answers (again)."""
        self._end_black_hole()
        if self._server is None:
            listener = _bound(self.host, self.port)
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(
                lambda: Connection(self), sock=listener, backlog=BACKLOG
            )

    async def down(self, mode: str) -> None:
        """`refuse`: connections are refused, those that are open reset.
        `black_hole`: connections are taken and nothing is ever answered."""
        if mode == "refuse":
            self._end_black_hole()
            if self._server is not None:
                self._server.close()
                self._server = None
            for connection in list(self.connections):
                connection.reset()
        elif mode == "black_hole":
            await self.up()
            self.black_hole = True
            for connection in self.connections:
                connection.deaf = True
        else:
            raise ValueError(f"no such mode: {mode}")

    def _end_black_hole(self) -> None:
        if self.black_hole:
            self.black_hole = False
            for connection in list(self.connections):
                connection.reset()  # what fell into it does not come out again

    def stop_weather(self) -> None:
        """No scheduled outage any more; the port stays as it is."""
        if self._weather is not None:
            self._weather.cancel()
            self._weather = None

    def schedule(self, mode: str, steps: list[tuple[float, float]], repeat: bool) -> None:
        """Outages: each step is seconds up, then seconds down."""
        self.stop_weather()

        async def weather() -> None:
            while True:
                for up_s, down_s in steps:
                    await self.up()
                    await asyncio.sleep(up_s)
                    await self.down(mode)
                    await asyncio.sleep(down_s)
                if not repeat:
                    break
            await self.up()

        self._weather = asyncio.get_running_loop().create_task(weather())

    async def reset(self) -> None:
        """As new but for the names of the buckets; open connections are reset."""
        self.stop_weather()
        self._generation += 1
        self._pending = 0
        self.rules.rules.clear()
        self.held.clear()
        for connection in list(self.connections):
            connection.reset()
        self.store.clear()
        self.journal.clear()
        await self.up()

    def note_failure(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """A bug of the simulator: shown by the control port, so that tests fail."""
        text = f"{context.get('message')}: {context.get('exception')!r}"
        self.failures.append(text)
        print(text, file=sys.stderr, flush=True)


def _bound(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((host, port))
    return sock
