"""Maps of programs in the kernel, by bpf(2): those that are pinned, and those of a process."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path
from typing import Iterable, Iterator

from . import bpf

_LOOKUP, _UPDATE, _DELETE, _NEXT_KEY, _FD_BY_ID, _INFO = 1, 2, 3, 4, 14, 15
_UPDATE_BATCH, _DELETE_BATCH = 26, 27
_BATCH = "=QQQQIIQQ"
# Where that says how many elements there are, and in the end how many were done.
_COUNT_AT = 32
_INFO_BYTES = 80


class BpfMap:
    """A map; closed at the end."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        info = ctypes.create_string_buffer(_INFO_BYTES)
        bpf.call(_INFO, struct.pack("=IIQ", fd, _INFO_BYTES, ctypes.addressof(info)))
        _, _, self.key_bytes, self.value_bytes, self.entries_max, _ = struct.unpack("=6I", info[:24])
        self.name = info[24:40].split(b"\0")[0].decode()

    @classmethod
    def pinned(cls, path: Path) -> "BpfMap":
        """By its pin."""
        return cls(bpf.pinned(path))

    @classmethod
    def of_process(cls, pid: int, name: str) -> "BpfMap":
        """By its name, which the kernel cuts to 15 characters."""
        for _, told in bpf.described(pid):
            if "map_id" in told:
                one = cls(bpf.call(_FD_BY_ID, struct.pack("=I", int(told["map_id"]))))
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

    def put_all(self, keys: Iterable[bytes], value: bytes) -> None:
        """Sets the value of many keys at once; `OSError` at the first without room."""
        assert len(value) == self.value_bytes, (len(value), self.value_bytes)
        all_keys = list(keys)
        self._batch(_UPDATE_BATCH, all_keys, value * len(all_keys))

    def remove_all(self, keys: Iterable[bytes]) -> None:
        """Many at once; some may not be there."""
        left = list(keys)
        while left:
            try:
                return self._batch(_DELETE_BATCH, left, b"")
            except FileNotFoundError as stopped:
                left = left[stopped.args[-1] + 1 :]

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
        bpf.call(command, struct.pack("=IIQQQ", self.fd, 0, *at, 0))

    def _batch(self, command: int, keys: list[bytes], values: bytes) -> None:
        """`OSError` by the one it stops at, with how many were done before as the last of its
        `args`."""
        assert all(len(key) == self.key_bytes for key in keys)
        buffers = [ctypes.create_string_buffer(data, len(data) + 1) for data in (b"".join(keys), values)]
        at = [ctypes.addressof(buffer) for buffer in buffers]
        given = ctypes.create_string_buffer(struct.calcsize(_BATCH))
        struct.pack_into(_BATCH, given, 0, 0, 0, *at, len(keys), self.fd, 0, 0)
        try:
            bpf.call(command, given)
        except OSError as error:
            (done,) = struct.unpack_from("=I", given, _COUNT_AT)
            error.args = (*error.args, done)
            raise

    def close(self) -> None:
        os.close(self.fd)

    def __enter__(self) -> "BpfMap":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
