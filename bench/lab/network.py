"""A network of our own: loopback under one congestion control for every contestant.

The setting belongs to a network namespace, so the machine keeps its own. A namespace
can only take an algorithm the machine allows everybody (tcp_allowed_congestion_control).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from pathlib import Path

# What `serve` asks for by itself for clients of its own host: with it all are alike.
CONGESTION = "reno"
SETTING = Path("/proc/sys/net/ipv4/tcp_congestion_control")
CLONE_NEWNET = 0x40000000  # unshare(2)
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1  # netdevice(7)
REQUEST = struct.Struct("16sH22x")  # struct ifreq: a name and flags


class NotApart(Exception):
    """There is no network of our own; says why."""


def congestion() -> str:
    """The algorithm of sockets that ask for none."""
    return SETTING.read_text().strip()


def enter(wanted: str) -> None:
    """This process and those it starts from now on have a loopback of their own, under `wanted`."""
    if os.geteuid() != 0:
        raise NotApart("a network namespace needs root")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise NotApart(f"unshare: {os.strerror(ctypes.get_errno())}")
    _loopback_up()
    try:
        SETTING.write_text(wanted)
    except OSError as error:
        allowed = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().strip()
        raise NotApart(f"{wanted} cannot be set in a namespace ({error.strerror}; the kernel has {allowed}, "
                       "and the machine must allow it to everybody)") from error  # fmt: skip


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = fcntl.ioctl(any_socket, SIOCGIFFLAGS, REQUEST.pack(b"lo", 0))
        flags = REQUEST.unpack(asked)[1]
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, REQUEST.pack(b"lo", flags | IFF_UP))
