"""A process that stands still."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

FREEZE_SECONDS = 60.0


def freeze(pid: int) -> None:
    """SIGSTOP; returns when none of its threads runs any more. On a busy machine the others go
    on until the one that takes the signal has its turn."""
    os.kill(pid, signal.SIGSTOP)
    end = time.monotonic() + FREEZE_SECONDS
    while not all(is_stopped(thread) for thread in Path(f"/proc/{pid}/task").iterdir()):
        assert time.monotonic() < end, f"process {pid} does not stop"
        time.sleep(0.005)


def is_stopped(thread: Path) -> bool:
    """Whether a thread is stopped, or has ended."""
    try:
        # After the name, which may have anything in it.
        return (thread / "stat").read_text().rpartition(") ")[2][0] in "TtXZ"
    except (FileNotFoundError, ProcessLookupError):
        return True
