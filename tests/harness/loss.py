"""Packets that get lost: a program of a few instructions at a device (TCX: Linux 6.6), for
kernels without `netem`. Gone with `close`, and with the process.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct

from . import bpf

_PROG_LOAD, _LINK_CREATE = 5, 28
_SCHED_CLS = 3
_TCX_INGRESS, _TCX_EGRESS = 46, 47
_SHOT, _NEXT = 2, -1
_ANY = (1 << 31) - 1
_SOURCE = 14 + 12  # Of IPv4, in a packet of Ethernet.
_RANDOM_NUMBER = 7  # bpf_get_prandom_u32


def _program(share: float, largest: int) -> bytes:
    """Drops this share of packets of at most so many bytes, and lets others see the rest."""
    instruction = struct.Struct("<BBhi")
    below = int(share * (1 << 31))
    return b"".join(
        instruction.pack(*words)
        for words in (
            (0x61, 0x16, 0, 0),  # w6 = its length
            (0x25, 6, 3, largest),  # if r6 > largest goto next
            (0x85, 0, 0, _RANDOM_NUMBER),
            (0x54, 0, 0, (1 << 31) - 1),  # w0 &= 0x7fffffff
            (0xA5, 0, 2, below),  # if r0 < below goto drop
            (0xB4, 0, 0, _NEXT),  # next
            (0x95, 0, 0, 0),
            (0xB4, 0, 0, _SHOT),
            (0x95, 0, 0, 0),
        )
    )


def _loaded(program: bytes) -> int:
    """A descriptor."""
    code, licence = ctypes.create_string_buffer(program), ctypes.create_string_buffer(b"GPL")
    where = (ctypes.addressof(code), ctypes.addressof(licence))
    return bpf.call(_PROG_LOAD, struct.pack("<IIQQ", _SCHED_CLS, len(program) // 8, *where))


def _from(address: str) -> bytes:
    """Drops packets of Ethernet whose IPv4 source is this one."""
    instruction = struct.Struct("<BBhi")
    (source,) = struct.unpack("<i", socket.inet_aton(address)[::-1])
    return b"".join(
        instruction.pack(*words)
        for words in (
            (0xBF, 0x16, 0, 0),  # r6 = the packet
            (0x20, 0, 0, _SOURCE),  # w0 = its source
            (0x56, 0, 2, source),  # if w0 != source goto next
            (0xB4, 0, 0, _SHOT),
            (0x95, 0, 0, 0),
            (0xB4, 0, 0, _NEXT),  # next
            (0x95, 0, 0, 0),
        )
    )


class SpoofFilter:
    """What goes out by a device here and has this IPv4 source is lost, as in a network that lets
    hosts send by their own addresses alone."""

    def __init__(self, device: str, source: str) -> None:
        self._open = [_loaded(_from(source))]
        try:
            index = socket.if_nametoindex(device)
            wanted = struct.pack("<IIII", self._open[0], index, _TCX_EGRESS, 0)
            self._open.append(bpf.call(_LINK_CREATE, wanted))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """No more are lost."""
        while self._open:
            os.close(self._open.pop())


class Loss:
    """This share of packets that come in or go out by a device here is lost; of those that go out
    only some of at most `largest` bytes, with the header of Ethernet."""

    def __init__(self, device: str, share: float, largest: int = _ANY) -> None:
        assert 0 < share < 1, share
        self._open: list[int] = []
        index = socket.if_nametoindex(device)
        try:
            for where, most in ((_TCX_INGRESS, _ANY), (_TCX_EGRESS, largest)):
                self._open.append(_loaded(_program(share, most)))
                wanted = struct.pack("<IIII", self._open[-1], index, where, 0)
                self._open.append(bpf.call(_LINK_CREATE, wanted))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """No more are lost."""
        while self._open:
            os.close(self._open.pop())
