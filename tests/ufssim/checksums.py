"""The checksums S3 knows, over bytes in memory."""

from __future__ import annotations

import base64
import hashlib
import zlib
from typing import Callable

from awscrt import checksums as crt

from .errors import S3Error


def _crc(function: Callable[[bytes], int], width: int) -> Callable[[bytes], bytes]:
    return lambda data: function(data).to_bytes(width, "big")


ALGORITHMS: dict[str, Callable[[bytes], bytes]] = {
    "crc32": _crc(zlib.crc32, 4),
    "crc32c": _crc(crt.crc32c, 4),
    "crc64nvme": _crc(crt.crc64nvme, 8),
    "sha1": lambda data: hashlib.sha1(data).digest(),
    "sha256": lambda data: hashlib.sha256(data).digest(),
}
# S3 adds this one when the client sends none.
DEFAULT = "crc64nvme"
PREFIX = "x-amz-checksum-"


def base64_of(name: str, data: bytes) -> str:
    """The value of `x-amz-checksum-NAME`."""
    return base64.b64encode(ALGORITHMS[name](data)).decode()


def composite_of(name: str, parts: list[str]) -> str:
    """Checksum of the parts' checksums, `<base64>-<parts>`."""
    joined = b"".join(base64.b64decode(part) for part in parts)
    return f"{base64_of(name, joined)}-{len(parts)}"


def given(headers: dict[str, str]) -> dict[str, str]:
    """The checksums a request names, by algorithm. S3 takes one."""
    return {
        name: headers[PREFIX + name] for name in ALGORITHMS if PREFIX + name in headers
    }


def verify(headers: dict[str, str], body: bytes, sha256: Callable[[], str], md5: bytes) -> dict[str, str]:
    """Compares all a request says of its body; returns the checksum to keep."""
    length_md5 = headers.get("content-md5")
    if length_md5 is not None and _decode(length_md5) != md5:
        raise S3Error(400, "BadDigest", "The Content-MD5 you specified did not match")
    declared = headers.get("x-amz-content-sha256", "")
    if len(declared) == 64 and declared != sha256():
        raise S3Error(400, "XAmzContentSHA256Mismatch", "The payload hash did not match")
    named = given(headers)
    if len(named) > 1:
        raise S3Error(400, "InvalidRequest", "Expecting a single x-amz-checksum- header")
    for name, value in named.items():
        if _decode(value) != ALGORITHMS[name](body):
            raise S3Error(400, "BadDigest", f"The {name.upper()} you specified did not match")
        return {name: value}
    return {DEFAULT: base64_of(DEFAULT, body)}


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise S3Error(400, "InvalidDigest", "Not base64") from error
