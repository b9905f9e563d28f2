"""One connection of HTTP that asks for objects, and what processes spend on it."""

from __future__ import annotations

import socket
import time


class Connection:
    """One connection of HTTP that lasts; bodies are read and thrown away."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(1 << 20)

    def get(self, path: str) -> tuple[int, dict[str, str], int]:
        """Status, headers, bytes of the body."""
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            piece = self._socket.recv(4096)
            if not piece:
                raise ConnectionError("the connection ended in a head")
            head += piece
        front, rest = head.split(b"\r\n\r\n", 1)
        first, *lines = front.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        length = int(headers["content-length"])
        got = len(rest)
        while got < length:
            count = self._socket.recv_into(self._buffer)
            if count == 0:
                raise ConnectionError(f"{got} of {length} bytes")
            got += count
        return int(first.split()[1]), headers, got

    def close(self) -> None:
        self._socket.close()


def cpu_seconds(pid: int) -> float:
    """Of a process and the kernel for it: clock_getcpuclockid(3)."""
    return time.clock_gettime((~pid << 3) | 2)
