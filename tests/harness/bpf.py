"""bpf(2), for what no program of the project does."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from pathlib import Path
from typing import Iterator

_NUMBERS = {"x86_64": 321, "aarch64": 280}
_PIDFD_GETFD = 438
_ATTRIBUTES = 128
_OBJ_GET, _PROG_DETACH, _PROG_GET_FD_BY_ID, _LINK_DETACH = 7, 9, 13, 34
# A type of programs, and where one of it hangs.
_SK_MSG, _MSG_VERDICT = 16, 7
_libc = ctypes.CDLL(None, use_errno=True)


def call(command: int, attributes: bytes | ctypes.Array[ctypes.c_char]) -> int:
    """What it returns: for most commands a descriptor. The kernel may write to a buffer."""
    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(f"bpf(2) of {platform.machine()} is not known")
    given = attributes
    if isinstance(given, bytes):
        given = ctypes.create_string_buffer(given.ljust(_ATTRIBUTES, b"\0"), _ATTRIBUTES)
    returned = int(_libc.syscall(number, command, given, len(given)))
    if returned < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"bpf({command}): {os.strerror(error)}")
    return returned


def pinned(pin: Path) -> int:
    """A descriptor of what is pinned."""
    path = ctypes.create_string_buffer(os.fsencode(pin))
    return call(_OBJ_GET, struct.pack("<QII", ctypes.addressof(path), 0, 0))


class Link:
    """A pinned link, which stays when its pin goes; closed at the end."""

    def __init__(self, pin: Path) -> None:
        self._fd = pinned(pin)

    def detach(self) -> None:
        """Takes its program off what it hangs on, whoever holds the link."""
        call(_LINK_DETACH, struct.pack("<I", self._fd))

    def __enter__(self) -> "Link":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def detach(pin: Path) -> None:
    """Takes the program of a pinned link off what it hangs on, whoever holds the link."""
    with Link(pin) as link:
        link.detach()


def described(pid: int) -> Iterator[tuple[int, dict[str, str]]]:
    """Descriptors of a process, with what the kernel says of each."""
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        words = [line.split(":", 1) for line in lines if ":" in line]
        yield int(path.name), {name.strip(): value.strip() for name, value in words}


def _taken(pid: int, number: int) -> int:
    """A descriptor of another process as one of our own."""
    process = os.pidfd_open(pid)
    try:
        fd = int(_libc.syscall(_PIDFD_GETFD, process, number, 0))
    finally:
        os.close(process)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    return fd


def detach_links(pid: int) -> int:
    """Takes all programs that a process has by links off what they hang on; how many."""
    links = [number for number, told in described(pid) if "link_id" in told]
    for number in links:
        fd = _taken(pid, number)
        try:
            call(_LINK_DETACH, struct.pack("<I", fd))
        finally:
            os.close(fd)
    return len(links)


def detach_from_sockets(pid: int, sockets: int) -> None:
    """Takes the process's program that judges what sockets send off a map of sockets."""
    kinds = ((told.get("prog_type"), told.get("prog_id")) for _, told in described(pid))
    (program,) = {int(number) for kind, number in kinds if kind == str(_SK_MSG) and number}
    fd = call(_PROG_GET_FD_BY_ID, struct.pack("<I", program))
    try:
        call(_PROG_DETACH, struct.pack("<IIII", sockets, fd, _MSG_VERDICT, 0))
    finally:
        os.close(fd)
