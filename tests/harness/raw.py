"""HTTP by hand: what a client library would never send."""

from __future__ import annotations

import hashlib
import http.client
import socket
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from botocore.exceptions import BotoCoreError

from .signing import Headers, Query, Signer
from .target import Target

TIMEOUT_SECONDS = 60.0
# How a client notices that a response was broken off.
BROKEN = (OSError, http.client.HTTPException, BotoCoreError)


@dataclass
class Reply:
    """A complete response."""

    status: int
    headers: dict[str, str]
    body: bytes
    closed: bool = False

    @property
    def code(self) -> str:
        """The `Code` of an S3 error document; empty when there is none."""
        return self.text("Code")

    def text(self, path: str) -> str:
        """Text of the first element with this name, whatever its namespace."""
        # Objects may begin like a document, too; HEAD has none.
        if not self.body or "xml" not in self.headers.get("content-type", ""):
            return ""
        for element in ElementTree.fromstring(self.body).iter():
            if element.tag.rsplit("}", 1)[-1] == path:
                return element.text or ""
        return ""

    def brief(self) -> str:
        """For assertion messages."""
        return f"{self.status} {self.headers} {self.body[:500]!r}"


@dataclass
class Request:
    """A request to be signed (or not) and sent as it is."""

    method: str
    path: str = "/"
    query: Query = field(default_factory=list)
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    signed: bool = True
    payload_hash: str | None = None
    content_length: str | None = "auto"
    target: str | None = None  # request-target verbatim, else built from path and query

    def line(self) -> str:
        """The request-target."""
        if self.target is not None:
            return self.target
        pairs = "&".join(
            f"{quote(k, safe='~')}={quote(v, safe='~')}" if v else quote(k, safe="~")
            for k, v in self.query
        )
        return self.path + ("?" + pairs if pairs else "")


def head_bytes(request: Request, headers: Headers) -> bytes:
    """Request line and headers, verbatim."""
    lines = [f"{request.method} {request.line()} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def sign(target: Target, request: Request, signer: Signer | None = None) -> Headers:
    """Final headers of a request."""
    headers = list(request.headers)
    if request.content_length == "auto":
        headers.append(("Content-Length", str(len(request.body))))
    elif request.content_length is not None:
        headers.append(("Content-Length", request.content_length))
    if not request.signed:
        return [("Host", target.host), *headers]
    digest = request.payload_hash or hashlib.sha256(request.body).hexdigest()
    final, _ = (signer or Signer(target)).headers(
        request.method, request.path, request.query, headers, digest
    )
    return final


def send(target: Target, request: Request, signer: Signer | None = None) -> Reply:
    """Signs, sends on a connection of its own and reads the whole answer."""
    return exchange(target, head_bytes(request, sign(target, request, signer)) + request.body, request.method)


def exchange(target: Target, wire: bytes, method: str = "GET") -> Reply:
    """Sends bytes and reads one response."""
    with connect(target) as connection:
        try:
            connection.sendall(wire)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused early; the answer may still be readable
        return read_reply(connection, method)


def connect(target: Target, source: str | None = None) -> socket.socket:
    """A connection with a deadline."""
    origin = (source, 0) if source else None
    return socket.create_connection(target.address, TIMEOUT_SECONDS, source_address=origin)


def read_reply(connection: socket.socket, method: str = "GET") -> Reply:
    """Reads one response; raises when it is cut short."""
    response: Any = http.client.HTTPResponse(connection, method=method)
    response.begin()
    body = response.read()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Reply(response.status, headers, body, response.will_close)
