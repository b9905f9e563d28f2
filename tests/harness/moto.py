"""A moto server: an S3 store for the S3 UFS, and a check of the tests themselves."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from .target import Target

START_SECONDS = 60.0


def free_port() -> int:
    """A loopback port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepts(address: tuple[str, int]) -> bool:
    """Whether something listens there."""
    try:
        with socket.create_connection(address, timeout=1):
            return True
    except OSError:
        return False


class Moto:
    """A moto_server process on a free port."""

    def __init__(self, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.log_path = home / "moto.log"
        program = Path(sys.executable).parent / "moto_server"
        env = {**os.environ, "MOTO_S3_DEFAULT_KEY_BUFFER_SIZE": str(1 << 30)}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [str(program), "-H", "127.0.0.1", "-p", str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
            )
        self._wait()

    def _wait(self) -> None:
        end = time.monotonic() + START_SECONDS
        while not accepts(("127.0.0.1", self.port)):
            if self.process.poll() is not None or time.monotonic() > end:
                self.close()
                raise RuntimeError(f"moto did not start\n{self.log_path.read_text()[-2000:]}")
            time.sleep(0.05)

    def target(self) -> Target:
        """Endpoint with the key pair moto takes (any)."""
        return Target(f"http://127.0.0.1:{self.port}", "motoaccesskeyid12345", "moto-secret")

    def close(self) -> None:
        """Ends it."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
