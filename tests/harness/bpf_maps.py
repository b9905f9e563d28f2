"""Maps of programs in the kernel, by bpf(2): those that are pinned, and those of a process."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import struct
from pathlib import Path
from typing import Iterator

_SYSCALL = {"x86_64": 321, "aarch64": 280}
_LOOKUP, _UPDATE, _DELETE, _NEXT_KEY, _GET, _FD_BY_ID, _INFO = 1, 2, 3, 4, 7, 14, 15
_ATTRIBUTES_BYTES = 128
_INFO_BYTES = 80
_ENOENT = 2


def _bpf(command: int, attributes: bytes) -> int:
    """`OSError` where the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    given = ctypes.create_string_buffer(attributes.ljust(_ATTRIBUTES_BYTES, b"\0"))
    outcome = libc.syscall(
        ctypes.c_long(_SYSCALL[platform.machine()]),
        ctypes.c_int(command), given, ctypes.c_uint(_ATTRIBUTES_BYTES),
    )
    if outcome < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(outcome)


class BpfMap:
    """A map; closed at the end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        info = ctypes.create_string_buffer(_INFO_BYTES)
        _bpf(_INFO, struct.pack("=IIQ", fd, _INFO_BYTES, ctypes.addressof(info)))
        _, _, self.key_bytes, self.value_bytes, self.entries_max, _ = struct.unpack("=6I", info[:24])
        self.name = info[24:40].split(b"\0")[0].decode()

    @classmethod
    def pinned(cls, path: Path) -> "BpfMap":
        """By its pin."""
        name = ctypes.create_string_buffer(bytes(path))
        return cls(_bpf(_GET, struct.pack("=QI", ctypes.addressof(name), 0)))

    @classmethod
    def of_process(cls, pid: int, name: str) -> "BpfMap":
        """By its name, which the kernel cuts to 15 characters."""
        for described in Path(f"/proc/{pid}/fdinfo").iterdir():
            try:
                found = re.search(r"^map_id:\s+(\d+)$", described.read_text(), re.MULTILINE)
            except OSError:
                continue
            if found:
                one = cls(_bpf(_FD_BY_ID, struct.pack("=I", int(found[1]))))
                if one.name == name:
                    return one
                one.close()
        raise LookupError(f"process {pid} has no map {name}")

    def get(self, key: bytes) -> bytes | None:
        """The value of a key."""
        value = ctypes.create_string_buffer(self.value_bytes)
        try:
            self._element(_LOOKUP, key, value)
        except FileNotFoundError:
            return None
        return value.raw

    def put(self, key: bytes, value: bytes) -> None:
        """Sets the value of a key; `OSError` where there is no room."""
        assert len(value) == self.value_bytes, (len(value), self.value_bytes)
        self._element(_UPDATE, key, ctypes.create_string_buffer(value, len(value)))

    def remove(self, key: bytes) -> None:
        """There may be none."""
        try:
            self._element(_DELETE, key, None)
        except FileNotFoundError:
            pass

    def keys(self) -> Iterator[bytes]:
        """All of them; those that come or go meanwhile may be among them."""
        key: bytes | None = None
        while True:
            found = ctypes.create_string_buffer(self.key_bytes)
            try:
                self._element(_NEXT_KEY, key, found)
            except FileNotFoundError:
                return
            key = found.raw
            yield key

    def _element(self, command: int, key: bytes | None, value: ctypes.Array[ctypes.c_char] | None) -> None:
        given = ctypes.create_string_buffer(key, self.key_bytes) if key is not None else None
        at = [ctypes.addressof(buffer) if buffer is not None else 0 for buffer in (given, value)]
        _bpf(command, struct.pack("=IIQQQ", self._fd, 0, *at, 0))

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> "BpfMap":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
