"""Memory of the kernel that a client's sockets may have: a group of its own with a limit
(cgroup v1, `memory.kmem.tcp`). Gone with `close`.
"""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from pathlib import Path
from typing import Iterator


def _hierarchy() -> Path | None:
    """Where the memory controller of cgroup v1 is mounted."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup" and "memory" in options.split(","):
            return Path(where)
    return None


def _own_group(root: Path) -> Path:
    """Of the calling thread."""
    for line in Path(f"/proc/self/task/{threading.get_native_id()}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return root / path.lstrip("/")
    return root


class SocketsMemory:
    """At most so many bytes for what waits in sockets that are made `inside`."""

    def __init__(self, most: int) -> None:
        """OSError: not here."""
        root = _hierarchy()
        if root is None:
            raise OSError("no memory controller of cgroup v1 is mounted")
        self._root = root
        self._group = root / f"quickwater-{uuid.uuid4().hex}"
        self._group.mkdir()
        try:
            (self._group / "memory.kmem.tcp.limit_in_bytes").write_text(str(most))
        except OSError:
            self._group.rmdir()
            raise

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Sockets that the calling thread makes are of the group."""
        before = _own_group(self._root)
        thread = str(threading.get_native_id())
        (self._group / "tasks").write_text(thread)
        try:
            yield
        finally:
            (before / "tasks").write_text(thread)

    def close(self) -> None:
        """Removes the group; what its sockets still have is let go of with them."""
        os.rmdir(self._group)
