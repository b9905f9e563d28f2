"""SigV4 written from the AWS documentation, so that tests can also get it wrong.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-authenticating-requests.html
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime, timezone
from urllib.parse import quote

from .target import REGION, Target

UNSIGNED = "UNSIGNED-PAYLOAD"
STREAMING = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
STREAMING_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()

Query = list[tuple[str, str]]
Headers = list[tuple[str, str]]


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def _query(query: Query) -> str:
    pairs = sorted((quote(k, safe="~"), quote(v, safe="~")) for k, v in query)
    return "&".join(f"{k}={v}" for k, v in pairs)


@dataclass(frozen=True)
class Signature:
    """What later chunks of a signed stream need."""

    key: bytes
    scope: str
    stamp: str
    value: str


@dataclass(frozen=True)
class Signer:
    """Signs as the owner of a key pair at a time."""

    target: Target
    region: str = REGION
    now: datetime | None = None

    def _stamp(self) -> str:
        moment = self.now or datetime.now(timezone.utc)
        return moment.strftime("%Y%m%dT%H%M%SZ")

    def _scope(self, stamp: str) -> str:
        return f"{stamp[:8]}/{self.region}/s3/aws4_request"

    def _key(self, stamp: str) -> bytes:
        key = _hmac(f"AWS4{self.target.secret_key}".encode(), stamp[:8])
        for word in (self.region, "s3", "aws4_request"):
            key = _hmac(key, word)
        return key

    def _sign(self, stamp: str, canonical: str) -> str:
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{self._scope(stamp)}\n{digest}"
        return hmac.new(self._key(stamp), text.encode(), hashlib.sha256).hexdigest()

    def headers(
        self, method: str, path: str, query: Query, headers: Headers, payload_hash: str
    ) -> tuple[Headers, Signature]:
        """`headers` with host, date, payload hash and Authorization added."""
        stamp = self._stamp()
        own = [
            ("Host", self.target.host),
            ("x-amz-date", stamp),
            ("x-amz-content-sha256", payload_hash),
        ]
        given = {name.lower() for name, _ in headers}
        signed = [*headers, *(pair for pair in own if pair[0].lower() not in given)]
        merged: dict[str, list[str]] = {}
        for name, value in signed:
            merged.setdefault(name.lower(), []).append(" ".join(value.split()))
        names = sorted(merged)
        lines = "".join(f"{name}:{','.join(merged[name])}\n" for name in names)
        canonical = "\n".join(
            [method, path, _query(query), lines, ";".join(names), payload_hash]
        )
        value = self._sign(stamp, canonical)
        credential = f"{self.target.access_key}/{self._scope(stamp)}"
        authorization = (
            f"AWS4-HMAC-SHA256 Credential={credential},"
            f"SignedHeaders={';'.join(names)},Signature={value}"
        )
        proof = Signature(self._key(stamp), self._scope(stamp), stamp, value)
        return [*signed, ("Authorization", authorization)], proof

    def presign(self, method: str, path: str, query: Query, expires: int) -> Query:
        """`query` with a presigned signature over the host header only."""
        stamp = self._stamp()
        full = [
            *query,
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
            ("X-Amz-Credential", f"{self.target.access_key}/{self._scope(stamp)}"),
            ("X-Amz-Date", stamp),
            ("X-Amz-Expires", str(expires)),
            ("X-Amz-SignedHeaders", "host"),
        ]
        canonical = "\n".join(
            [method, path, _query(full), f"host:{self.target.host}\n", "host", UNSIGNED]
        )
        return [*full, ("X-Amz-Signature", self._sign(stamp, canonical))]


def signed_chunks(proof: Signature, pieces: list[bytes]) -> bytes:
    """aws-chunked body, every chunk signed, the last one empty; no trailers."""
    body, previous = b"", proof.value
    for piece in [*pieces, b""]:
        previous = _chunk_signature(proof, previous, piece)
        body += f"{len(piece):x};chunk-signature={previous}\r\n".encode() + piece + b"\r\n"
    return body


def signed_chunks_with_trailer(proof: Signature, pieces: list[bytes], name: str, value: str) -> bytes:
    """aws-chunked body, every chunk and one trailer signed."""
    body, previous = b"", proof.value
    for piece in [*pieces, b""]:
        previous = _chunk_signature(proof, previous, piece)
        body += f"{len(piece):x};chunk-signature={previous}\r\n".encode() + piece
        body += b"\r\n" if piece else b""
    digest = hashlib.sha256(f"{name}:{value}\n".encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256-TRAILER\n{proof.stamp}\n{proof.scope}\n{previous}\n{digest}"
    last = hmac.new(proof.key, text.encode(), hashlib.sha256).hexdigest()
    return body + f"{name}:{value}\r\nx-amz-trailer-signature:{last}\r\n\r\n".encode()


def unsigned_chunks(pieces: list[bytes], trailer: tuple[str, str] | None) -> bytes:
    """aws-chunked body without signatures, with a trailer if given."""
    body = b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces)
    end = f"{trailer[0]}:{trailer[1]}\r\n" if trailer else ""
    return body + f"0\r\n{end}\r\n".encode()


def _chunk_signature(proof: Signature, previous: str, piece: bytes) -> str:
    text = "\n".join(
        [
            "AWS4-HMAC-SHA256-PAYLOAD",
            proof.stamp,
            proof.scope,
            previous,
            EMPTY_SHA256,
            hashlib.sha256(piece).hexdigest(),
        ]
    )
    return hmac.new(proof.key, text.encode(), hashlib.sha256).hexdigest()
