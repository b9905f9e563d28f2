"""bpf(2), for what no program of the project does."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from pathlib import Path

_NUMBERS = {"x86_64": 321, "aarch64": 280}
_ATTRIBUTES = 128
_OBJ_GET, _LINK_DETACH = 7, 34
_libc = ctypes.CDLL(None, use_errno=True)


def call(command: int, attributes: bytes) -> int:
    """What it returns: for most commands a descriptor."""
    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(f"bpf(2) of {platform.machine()} is not known")
    padded = ctypes.create_string_buffer(attributes.ljust(_ATTRIBUTES, b"\0"), _ATTRIBUTES)
    returned = int(_libc.syscall(number, command, padded, _ATTRIBUTES))
    if returned < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"bpf({command}): {os.strerror(error)}")
    return returned


def detach(pin: Path) -> None:
    """Takes the program of a pinned link off what it hangs on, whoever holds the link."""
    path = ctypes.create_string_buffer(os.fsencode(pin))
    link = call(_OBJ_GET, struct.pack("<QII", ctypes.addressof(path), 0, 0))
    try:
        call(_LINK_DETACH, struct.pack("<I", link))
    finally:
        os.close(link)
