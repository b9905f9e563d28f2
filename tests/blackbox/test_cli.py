"""The command line beside a service that is in a bad state."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Iterator

import pytest

from conftest import EXTERNAL
from harness.apart import one_process
from harness.freeze import freeze
from harness.server import Server, binary

pytestmark = pytest.mark.skipif(bool(EXTERNAL), reason="stops a process of this machine")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A service that runs, stopped or not."""
    made = Server(tmp_path / "service")
    yield made.start()
    os.kill(made.pid, signal.SIGCONT)
    made.stop()


def status(server: Server, seconds: float) -> subprocess.CompletedProcess[str]:
    """The verb; fails when it takes longer."""
    return subprocess.run(
        [str(binary()), "status", "--dir", str(server.dir)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False,
    )  # fmt: skip


@one_process("the admin API is the control plane's")
def test_a_stopped_service_is_not_waited_for(server: Server) -> None:
    done = status(server, 120)
    assert done.returncode == 0, done
    freeze(server.pid)
    # A call may take a minute and a half; that nobody is there shows far earlier.
    done = status(server, 80)
    assert done.returncode == 3, done
    assert "does not answer" in done.stderr and "kill -CONT" in done.stderr, done
    os.kill(server.pid, signal.SIGCONT)
    done = status(server, 120)
    assert done.returncode == 0, done
