"""Bytes to store: reproducible, incompressible, cheap."""

from __future__ import annotations

import hashlib
import random

KIB = 1024
MIB = 1024 * KIB


def payload(size: int, seed: object = 0) -> bytes:
    """`size` bytes that depend on `seed` only."""
    return random.Random(repr(seed)).randbytes(size)


def md5_hex(data: bytes) -> str:
    """MD5 as in an ETag."""
    return hashlib.md5(data).hexdigest()


def multipart_etag(parts: list[bytes]) -> str:
    """ETag of a completed multipart upload, without quotes."""
    joined = b"".join(hashlib.md5(part).digest() for part in parts)
    return f"{hashlib.md5(joined).hexdigest()}-{len(parts)}"


def fingerprint(data: bytes) -> str:
    """Short name of some bytes, for journals."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
