"""A real `quickwater serve` process: start, look at, stop, kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from . import apart, metadata
from .payload import MIB
from .target import Target

REPOSITORY = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
STOP_SECONDS = 60.0
# QW_EBPF=refused: no service may load programs. Neither capability is left after the exec,
# also for root (capabilities(7)).
EBPF_REFUSED = ["setpriv", "--bounding-set=-bpf,-sys_admin"]


def binary() -> Path:
    """The program under test: `$QUICKWATER_BIN` or the release build."""
    named = os.environ.get("QUICKWATER_BIN")
    if named:
        return Path(named).resolve()
    target = os.environ.get("CARGO_TARGET_DIR", str(REPOSITORY / "target"))
    return Path(target) / "release" / "quickwater"


class StartFailed(Exception):
    """The service ended or was not ready in time; carries its log."""


class Server:
    """One service and its directory. Not started by the constructor."""

    def __init__(
        self,
        home: Path,
        *,
        flags: dict[str, str] | None = None,
        mounts: dict[str, str] | None = None,
        env: dict[str, str] | None = None,
        program: Path | None = None,
        directory: Path | None = None,
        prefix: list[str] | None = None,
    ) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        self.dir = directory or home / "data"
        self.ufs = home / "ufs"
        self.log_path = home / "server.log"
        self.program = program or binary()
        self.prefix = prefix or (EBPF_REFUSED if os.environ.get("QW_EBPF") == "refused" else [])
        self.env = env or {}
        self.mounts = mounts or {}
        self.flags = {
            "s3-listen": "127.0.0.1:0",
            "admin-listen": "127.0.0.1:0",
            "metrics-listen": "127.0.0.1:0",
            "capacity": str(2048 * MIB),
            "memory": str(512 * MIB),
            "threads": "2",
            **(flags or {}),
        }
        if "ufs" not in self.flags:
            self.ufs.mkdir(exist_ok=True)
            self.flags["ufs"] = f"file://{self.ufs}"
        if "metadata-engine" not in self.flags:
            flags, faults = metadata.defaults(self.dir)
            self.flags |= flags
            self.env = {**faults, **self.env}
        self.process: subprocess.Popen[bytes] | None = None
        self.run: dict[str, str | int] = {}
        self.control: apart.Control | None = None
        if apart.wanted():
            self.control = apart.Control(home, self.program, ["n1"], self._control_flags())
            self.control.env = self.env

    def _control_flags(self) -> list[str]:
        listens = {"s3-listen", "admin-listen", "metrics-listen"}
        flags = [f"--{name}={value}" for name, value in self.flags.items() if name not in listens]
        return flags + [f"--mount={bucket}={uri}" for bucket, uri in self.mounts.items()]

    # -- life ---------------------------------------------------------------

    def command(self) -> list[str]:
        """The command line."""
        verb = ["serve"]
        if self.control is not None:
            verb = ["worker", *self.control.worker_flags("n1")]
        words = [*self.prefix, str(self.program), *verb, "--dir", str(self.dir)]
        for name, value in self.flags.items():
            words.append(f"--{name}={value}")
        for bucket, uri in self.mounts.items():
            words += ["--mount", f"{bucket}={uri}"]
        return words

    def launch(self) -> subprocess.Popen[bytes]:
        """Starts the process without waiting for it."""
        if self.control is not None and not self.control.alive():
            self.control.flags = self._control_flags()
            try:
                self.control.start()
            except RuntimeError as error:
                raise StartFailed(str(error)) from error
        env = {k: v for k, v in os.environ.items() if not k.startswith("QUICKWATER_")}
        env.update(self.env)
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env
            )
        return self.process

    def start(self, seconds: float = START_SECONDS) -> "Server":
        """Starts and waits until `run.json` names this process and it is ready."""
        process = self.launch()
        if self.wait_ready(process, seconds):
            return self
        code = process.poll()
        self.kill()
        how = f"not ready within {seconds} s" if code is None else f"exit code {code}"
        raise StartFailed(f"{how}\n{self.log_tail()}")

    def wait_ready(self, process: subprocess.Popen[bytes], seconds: float) -> bool:
        """Whether it gets ready in time; false at once when it ends."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and process.poll() is None:
            if self._read_run(process.pid) and self.http_status("/readyz") == 200:
                return True
            time.sleep(0.02)
        return False

    def _read_run(self, pid: int) -> bool:
        try:
            self.run = json.loads((self.dir / "run.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return False
        if self.control is not None:
            self.run["admin"] = self.control.run["admin"]
        # A wrapper (taskset, prlimit) execs, so the pid is ours either way.
        return self.run.get("pid") == pid

    def stop(self, seconds: float = STOP_SECONDS) -> int:
        """SIGTERM, waits, returns the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(seconds)
            if self.control is not None:
                self.control.stop()
            return code
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"no exit within {seconds} s of SIGTERM\n{self.log_tail()}")

    def kill(self) -> None:
        """kill -9; fine when it is dead already."""
        # Neither sees the other go.
        if self.process is not None:
            self.process.kill()
        if self.control is not None:
            self.control.kill()
        if self.process is not None:
            self.process.wait()

    def restart(self) -> "Server":
        """Clean stop and start."""
        code = self.stop()
        assert code == 0, f"exit code {code} after SIGTERM\n{self.log_tail()}"
        return self.start()

    def close(self) -> None:
        """Ends it whatever happened."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        if self.control is not None:
            self.control.kill()

    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self.process is not None
        return self.process.pid

    # -- looking at it ------------------------------------------------------

    @property
    def admin_dir(self) -> Path:
        """Directory of the process that serves the admin API."""
        return self.dir if self.control is None else self.control.dir

    def target(self) -> Target:
        """Endpoint and key pair."""
        keys = self.credentials()
        return Target(
            f"http://{self.run['s3']}", keys["access_key_id"], keys["secret_access_key"]
        )

    def credentials(self) -> dict[str, str]:
        """The key pair in force: environment, else `DIR/credentials`."""
        if "QUICKWATER_ACCESS_KEY_ID" in self.env:
            return {
                "access_key_id": self.env["QUICKWATER_ACCESS_KEY_ID"],
                "secret_access_key": self.env["QUICKWATER_SECRET_ACCESS_KEY"],
            }
        text = (self.dir / "credentials").read_text()
        lines = (line.split("=", 1) for line in text.splitlines() if "=" in line)
        return {name.strip(): value.strip() for name, value in lines}

    def log(self) -> str:
        """All it wrote."""
        if not self.log_path.exists():
            return ""
        return self.log_path.read_text(errors="replace")

    def log_tail(self, lines: int = 40) -> str:
        """The last lines it wrote."""
        if self.control is not None:
            return self.control.log_tail(lines) + "\n" + "\n".join(self.log().splitlines()[-lines:])
        return "\n".join(self.log().splitlines()[-lines:])

    def http_status(self, path: str) -> int:
        """Status of a GET on the metrics listener; 0 = no answer."""
        try:
            return self._metrics_get(path)[0]
        except OSError:
            return 0

    def _metrics_get(self, path: str) -> tuple[int, str]:
        url = f"http://{self.run['metrics']}{path}"
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")

    def metrics_text(self) -> str:
        """The whole exposition."""
        status, text = self._metrics_get("/metrics")
        assert status == 200, f"/metrics answered {status}: {text}"
        return text

    def metric(self, name: str) -> float:
        """Sum of all series of a metric; fails when there is none. Of a worker apart and,
        for what it does not have, of its control plane."""
        texts = [self.metrics_text()]
        if self.control is not None and self.control.alive():
            texts.append(self.control.metrics_text())
        for text in texts:
            values = [
                float(line.rsplit(" ", 1)[1])
                for line in text.splitlines()
                if line.startswith((name + " ", name + "{"))
            ]
            if values:
                break
        assert values, f"no metric {name}"
        return sum(values)

    def calls_for_clients(self) -> float:
        """Calls a worker made of its control plane, but for those it makes by itself,
        whatever clients do."""
        lines = self.metrics_text().splitlines()
        calls = [line for line in lines if line.startswith("quickwater_control_calls_total{")]
        assert any('operation="names"' in line for line in calls), calls
        return sum(
            float(line.rsplit(" ", 1)[1]) for line in calls if 'operation="names"' not in line
        )

    def peak_rss_bytes(self) -> int:
        """VmHWM."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmHWM")

    def cli(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs an admin verb against this service."""
        done = subprocess.run(
            [str(self.program), *words, "--dir", str(self.admin_dir)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        if self.control is not None and words[:1] == ("pathconfig",):
            time.sleep(apart.POLICY_SECONDS)
        return done
