"""One HTTP/1.1 connection: requests in, the fault each of them meets, answers out."""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from .bodies import BodyReader
from .dialect import refusal
from .errors import S3Error, document
from .journal import Seen
from .message import Request, Response, parse_head
from .rules import Rule

if TYPE_CHECKING:
    from .server import Simulator

HEAD_BYTES_MAX = 64 << 10
TRICKLE_SECONDS = 0.1
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Connection(asyncio.Protocol):
    """Lives as long as its socket; what it has begun to apply outlives it."""

    def __init__(self, simulator: "Simulator") -> None:
        self.simulator = simulator
        self.buffer = bytearray()
        self.transport: asyncio.Transport | None = None
        self.request: Request | None = None
        self.reader: BodyReader | None = None
        self.rule: Rule | None = None
        self.seen: Seen | None = None
        self.busy = False  # an answer is on its way; what follows waits
        self.deaf = False  # reads on, does nothing any more

    # -- the socket -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.deaf = self.simulator.black_hole
        self.simulator.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.simulator.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        if self.deaf:
            return
        self.buffer += data
        if not self.busy:
            self._advance()

    def reset(self) -> None:
        """RST, not FIN: the peer's next read or write fails."""
        self.deaf = True
        if self.transport is None:
            return
        sock: socket.socket | None = self.transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.transport.abort()
        self.transport = None

    # -- requests ---------------------------------------------------------------

    def _advance(self) -> None:
        try:
            while not self.busy and not self.deaf and self.transport is not None:
                if self.request is None and not self._begin():
                    return
                if self.busy or self.deaf or self.reader is None:
                    continue
                if not self.reader.feed(self.buffer):
                    return
                self._complete()
        except S3Error as error:  # framing: nothing after it can be understood
            body = document(error.code, error.message, "")
            self._write(Response(error.status, {}, body).head(close=True) + body)
            self._hang_up()

    def _begin(self) -> bool:
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self.buffer) > HEAD_BYTES_MAX:
                raise S3Error(400, "RequestHeaderSectionTooLarge")
            return False
        request = parse_head(bytes(self.buffer[:end]))
        del self.buffer[: end + 4]
        journal = self.simulator.journal
        self.seen = journal.see(request.method, request.operation, request.bucket, request.key)
        request.number = self.seen.number
        self.request, self.reader = request, BodyReader(request.headers)
        self.rule = self.simulator.rules.take(request)
        if self.rule is not None:
            self.seen.fault = self.rule.name
            if self._fault_at_head(self.rule, request):
                return True
        if request.headers.get("expect", "").lower() == "100-continue" and not self.buffer:
            self._write(CONTINUE)
        return True

    def _fault_at_head(self, rule: Rule, request: Request) -> bool:
        if rule.action == "reset":
            self.reset()
        elif rule.action == "status" and rule.at_head:
            self._answer(_refused(rule, request), close=True)
        else:
            return False
        return True

    def _complete(self) -> None:
        assert self.request is not None and self.reader is not None and self.seen is not None
        request, rule = self.request, self.rule
        request.body = self.reader.body()
        self.seen.size = len(request.body)
        self.seen.range = request.headers.get("range", "")
        if rule is None:
            self._answer(self.simulator.apply(request))
        else:
            self._fault(rule, request)

    # -- faults -----------------------------------------------------------------

    def _fault(self, rule: Rule, request: Request) -> None:
        apply = self.simulator.apply
        if rule.action == "black_hole":
            self.deaf = True
        elif rule.action == "late":
            self.simulator.apply_late(request, None if rule.delay_s is None else rule.delay())
            if rule.silent:
                self.deaf = True
            else:
                self.reset()
        elif rule.action == "lose_reply":
            apply(request)
            self.reset()
        elif rule.action == "latency":
            self._later(rule.delay(), request)
        elif rule.action == "slow":
            self._later(len(request.body) / rule.bytes_per_second, request, rule.bytes_per_second)
        else:
            self._answer_wrongly(rule, request)

    def _answer_wrongly(self, rule: Rule, request: Request) -> None:
        apply = self.simulator.apply
        if rule.action in ("status", "error_in_200"):
            if rule.applied:
                apply(request)
            self._answer(_refused(rule, request))
        elif rule.action == "wrong_etag":
            self._answer(_other_etag(apply(request), rule.etag))
        elif rule.action == "damage":
            self._answer(self._damaged(request))
        elif rule.action == "truncate":
            self._answer(apply(request), cut_after=rule.cut_after)
        else:
            raise AssertionError(f"no code for {rule.action}")

    def _damaged(self, request: Request) -> Response:
        if request.method in ("PUT", "POST") and request.body:
            # What promised the right bytes goes too: this store does not look.
            named = ("content-md5", "x-amz-checksum-", "x-amz-content-sha256", "x-amz-sdk-checksum")
            request.headers = {k: v for k, v in request.headers.items() if not k.startswith(named)}
            request.body = _flipped(request.body)
            return self.simulator.apply(request)
        response = self.simulator.apply(request)
        return replace(response, body=_flipped(bytes(response.body))) if response.body else response

    def _later(self, delay_s: float, request: Request, rate: int = 0) -> None:
        """Holds this connection; the request is applied even if the client leaves."""
        self.busy = True

        def now() -> None:
            self.busy = False
            self._answer(self.simulator.apply(request), rate=rate)
            if not self.busy:
                self._advance()

        self.simulator.later(delay_s, now)

    # -- answers ------------------------------------------------------------------

    def _answer(
        self, response: Response, *, close: bool = False, cut_after: int | None = None, rate: int = 0
    ) -> None:
        seen, request = self.seen, self.request
        self.request = self.reader = self.rule = None
        if self.transport is None or seen is None or request is None:
            return
        close = close or request.headers.get("connection", "").lower() == "close"
        body = response.body if request.method != "HEAD" else b""
        if rate:
            seen.status = response.status
            self._trickle(response.head(close) + bytes(body), rate, close)
            return
        if cut_after is not None and cut_after < len(body):
            self._write(response.head(close) + bytes(body[:cut_after]))
            self._hang_up()
            return
        seen.status = response.status
        head = response.head(close)
        if len(body) > HEAD_BYTES_MAX:
            self._write(head)
            self._write(body)
        else:
            self._write(head + bytes(body))
        if close:
            self._hang_up()

    def _trickle(self, wire: bytes, rate: int, close: bool) -> None:
        self.busy = True
        step = max(1, int(rate * TRICKLE_SECONDS))

        def more(at: int) -> None:
            if self.transport is None:
                return
            self._write(wire[at : at + step])
            if at + step < len(wire):
                self.simulator.later(step / rate, lambda: more(at + step))
                return
            self.busy = False
            self._hang_up() if close else self._advance()

        more(0)

    def _write(self, data: bytes | memoryview) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def _hang_up(self) -> None:
        """FIN. Reads on for a while: closing with unread bytes would send RST,
        and the client might lose the answer."""
        self.deaf = True
        if self.transport is not None:
            self.transport.write_eof()
            self.simulator.linger(self.transport)


def _refused(rule: Rule, request: Request) -> Response:
    if rule.action == "error_in_200":
        body = document(rule.code, "fault", request.target.partition("?")[0])
        return Response(200, {"Content-Type": "application/xml"}, body)
    response = refusal(request, rule.status, rule.code, "fault")
    if rule.retry_after_s is not None:
        response.headers["Retry-After"] = str(rule.retry_after_s)
    return response


def _other_etag(response: Response, etag: str) -> Response:
    headers = dict(response.headers)
    body = bytes(response.body)
    if "ETag" in headers:
        headers["ETag"] = f'"{etag}"'
        headers = {k: v for k, v in headers.items() if not k.startswith("x-amz-checksum-")}
    elif b"<ETag>" in body:
        before, _, rest = body.partition(b"<ETag>")
        body = before + f"<ETag>&quot;{etag}&quot;</ETag>".encode() + rest.partition(b"</ETag>")[2]
    return replace(response, headers=headers, body=body)


def _flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
