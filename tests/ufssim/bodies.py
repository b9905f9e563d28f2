"""Bodies off the wire: Content-Length, chunked, and aws-chunked inside either."""

from __future__ import annotations

from .errors import S3Error

BODY_BYTES_MAX = 1 << 30
LINE_BYTES_MAX = 8 << 10


class BodyReader:
    """Takes one request's body out of a connection's buffer, as it comes."""

    def __init__(self, headers: dict[str, str]) -> None:
        self._chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length) > BODY_BYTES_MAX:
            raise S3Error(400, "InvalidArgument", f"Content-Length {length!r}")
        self.length = int(length)
        self._pieces = bytearray()
        self._left = 0 if self._chunked else self.length
        self._in_trailer = False

    @property
    def has_body(self) -> bool:
        """Whether any bytes are announced."""
        return self._chunked or self.length > 0

    def feed(self, buffer: bytearray) -> bool:
        """Takes what belongs to the body; true when that was all."""
        if not self._chunked:
            return self._take(buffer)
        while True:
            if self._left:
                if not self._take(buffer):
                    return False
                self._left = 0
            line = _line(buffer)
            if line is None:
                return False
            if self._in_trailer:
                if not line:
                    return True
            elif line:  # else the end of the chunk before
                self._left = _hex(line)
                self._in_trailer = self._left == 0

    def _take(self, buffer: bytearray) -> bool:
        piece = min(self._left, len(buffer))
        if piece and not self._pieces and piece == len(buffer):
            self._pieces += buffer
            buffer.clear()
        elif piece:
            with memoryview(buffer) as view:
                self._pieces += view[:piece]
            del buffer[:piece]
        self._left -= piece
        if len(self._pieces) > BODY_BYTES_MAX:
            raise S3Error(400, "EntityTooLarge")
        return self._left == 0

    def body(self) -> bytes:
        """All of it."""
        return bytes(self._pieces)


def decode_aws_chunked(headers: dict[str, str], raw: bytes) -> bytes:
    """The payload of an aws-chunked body; its trailers become headers.

    Chunk signatures are not checked: this store trusts every key.
    """
    if not headers.get("x-amz-content-sha256", "").startswith("STREAMING-"):
        return raw
    pieces, at = [], 0
    while True:
        end = raw.find(b"\r\n", at)
        if end < 0:
            raise S3Error(400, "IncompleteBody", "aws-chunked body without its last chunk")
        size = _hex(raw[at:end])
        at = end + 2
        if size == 0:
            break
        if raw[at + size : at + size + 2] != b"\r\n":
            raise S3Error(400, "IncompleteBody", "aws-chunked body cut short")
        pieces.append(raw[at : at + size])
        at += size + 2
    for line in raw[at:].split(b"\r\n"):
        name, colon, value = line.decode().partition(":")
        if colon and name.lower() != "x-amz-trailer-signature":
            headers[name.lower()] = value.strip()
    payload = b"".join(pieces)
    if headers.get("x-amz-decoded-content-length", str(len(payload))) != str(len(payload)):
        raise S3Error(400, "IncompleteBody", "not the announced decoded length")
    trailer = headers.get("x-amz-trailer", "")
    if any(name.strip().lower() not in headers for name in trailer.split(",") if name.strip()):
        raise S3Error(400, "MalformedTrailerError", f"announced and not sent: {trailer}")
    return payload


def _line(buffer: bytearray) -> bytes | None:
    end = buffer.find(b"\r\n")
    if end < 0:
        if len(buffer) > LINE_BYTES_MAX:
            raise S3Error(400, "BadRequest", "a line too long")
        return None
    line = bytes(buffer[:end])
    del buffer[: end + 2]
    return line


def _hex(line: bytes) -> int:
    try:
        size = int(line.split(b";")[0], 16)
    except ValueError as error:
        raise S3Error(400, "BadRequest", f"chunk size {line[:40]!r}") from error
    if not 0 <= size <= BODY_BYTES_MAX:
        raise S3Error(400, "EntityTooLarge")
    return size
