"""A control plane beside a worker, where a test would start `quickwater serve`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

START_SECONDS = 60.0
STOP_SECONDS = 20.0
LOOPBACK = "127.0.0.1"
# Workers go by new path policies within a second.
POLICY_SECONDS = 1.3


def wanted() -> bool:
    """Whether services are started apart: `QUICKWATER_APART=1`."""
    return os.environ.get("QUICKWATER_APART") == "1"


def one_process(reason: str) -> pytest.MarkDecorator:
    """Marks a test of what only `serve` has."""
    return pytest.mark.skipif(wanted(), reason=f"of one process: {reason}")


class Control:
    """A control plane and its directory, with certificates for workers."""

    def __init__(
        self, home: Path, program: Path, workers: list[str], flags: list[str], host: str = LOOPBACK
    ) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        self.dir = home / "control"
        self.certificates = home / "certificates"
        self.log_path = home / "control.log"
        self.program = program
        self.flags = flags
        self.workers = workers
        self.host = host
        self.env: dict[str, str] = {}
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.run: dict[str, str | int] = {}

    def init(self) -> None:
        """Makes what certificates are missing."""
        words = [str(self.program), "cluster", "init", "--out", str(self.certificates)]
        for worker in self.workers:
            words += ["--worker", worker]
        subprocess.run(words, check=True, capture_output=True, timeout=60)

    def start(self) -> "Control":
        """Starts it and waits until it is ready."""
        self.init()
        (self.dir / "run.json").unlink(missing_ok=True)
        words = [str(self.program), "control", "--dir", str(self.dir)]
        words += ["--cluster-certificates", str(self.certificates / "control")]
        # The port of the first start: workers know it.
        words += [f"--cluster-listen={self.host}:{self.port}"]
        words += ["--admin-listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0", *self.flags]
        env = {k: v for k, v in os.environ.items() if not k.startswith("QUICKWATER_")}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**env, **self.env}
            )
        end = time.monotonic() + START_SECONDS
        while not self._read_run():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the control plane is not ready\n{self.log_tail()}")
            time.sleep(0.02)
        self.port = int(str(self.run["cluster"]).rsplit(":", 1)[1])
        return self

    def _read_run(self) -> bool:
        assert self.process is not None
        try:
            self.run = json.loads((self.dir / "run.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return False
        return self.run.get("pid") == self.process.pid

    def worker_flags(self, node: str, host: str = LOOPBACK) -> list[str]:
        """What a worker at a host needs to join."""
        return [
            f"--cluster-certificates={self.certificates / 'workers' / node}",
            f"--control={self.host}:{self.port}",
            f"--node-id={node}",
            f"--advertise={host}:0",
        ]

    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        """SIGTERM, and the end of it."""
        if self.alive():
            assert self.process is not None
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(STOP_SECONDS) == 0, self.log_tail()

    def kill(self) -> None:
        """kill -9; fine when it is dead already."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def metrics_text(self) -> str:
        """The whole exposition."""
        with urllib.request.urlopen(f"http://{self.run['metrics']}/metrics", timeout=10) as reply:
            return reply.read().decode()

    def log_tail(self, lines: int = 40) -> str:
        """The last lines it wrote."""
        if not self.log_path.exists():
            return ""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])
