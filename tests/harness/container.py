"""A container of the image, run by runc the way Kubernetes has it run."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from .server import REPOSITORY, binary

IMAGE = REPOSITORY / "deploy" / "image"
SECCOMP = REPOSITORY / "deploy" / "kubernetes" / "seccomp" / "quickwater.json"
STATE = "/var/lib/quickwater"
# Far longer than anything takes: a machine may be busy.
PATIENCE_SECONDS = 120.0
# What systemd leaves container runtimes, and they their containers.
MEMLOCK_BYTES = 8 << 20


@dataclass
class Recipe:
    """What the last stage of the Dockerfile says."""

    stages: dict[str, list[str]] = field(default_factory=dict)
    last: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def read(cls) -> "Recipe":
        """Stages by name with their lines, and the instructions of the last one."""
        text = (IMAGE / "Dockerfile").read_text().replace("\\\n", " ")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        lines = [line for line in lines if not line.startswith("#")]
        recipe = cls()
        name = ""
        for line in lines:
            word, rest = line.split(None, 1)
            if word == "FROM":
                name = rest.rsplit(" AS ", 1)[-1]
                recipe.stages[name] = []
                recipe.last = []
            recipe.stages[name].append(line)
            recipe.last.append((word, rest))
        return recipe

    def values(self, word: str) -> list[str]:
        """What follows an instruction, once for each time it is there."""
        return [rest for found, rest in self.last if found == word]

    def one(self, word: str) -> str:
        """What follows the only instruction of a kind."""
        (value,) = self.values(word)
        return value

    def env(self) -> dict[str, str]:
        """The variables."""
        pairs = [pair for rest in self.values("ENV") for pair in shlex.split(rest)]
        return dict(pair.split("=", 1) for pair in pairs)


def assemble(root: Path) -> Path:
    """The root file system of the image, as the Dockerfile makes it."""
    words = [str(IMAGE / "assemble"), str(binary()), str(root)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return root


def need_runc(home: Path) -> None:
    """Skips where runc cannot run even `true`: that says nothing of the image."""
    root = home / "probe-root"
    root.mkdir()
    folders = [f for f in ("/usr", "/bin", "/lib", "/lib64") if Path(f).exists()]
    mounts = [mount(folder, folder, "ro") for folder in folders]
    probe = Container(home / "probe", root, ["/usr/bin/env", "true"], mounts=mounts)
    code = probe.start().wait()
    if code != 0:
        pytest.skip(f"runc cannot run containers here: {probe.log()[-400:]}")


def mount(target: str, source: str, *options: str) -> dict[str, Any]:
    """A bind mount."""
    return {"destination": target, "type": "bind", "source": source, "options": ["rbind", *options]}


class Container:
    """One container: read-only, no capability, no new privileges; in the host's network
    or a namespace that `ip netns` made."""

    def __init__(
        self,
        home: Path,
        root: Path,
        words: list[str],
        *,
        env: dict[str, str] | None = None,
        user: tuple[int, int] = (65532, 65532),
        mounts: list[dict[str, Any]] | None = None,
        seccomp: dict[str, Any] | None = None,
        memlock: int = MEMLOCK_BYTES,
        network: str = "",
    ) -> None:
        home.mkdir(parents=True)
        self.home = home
        self.name = f"qw-{uuid.uuid4().hex[:12]}"
        self.process: subprocess.Popen[bytes] | None = None
        self.env = [f"{name}={value}" for name, value in (env or {}).items()]
        namespaces = [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")]
        if network:
            namespaces.append({"type": "network", "path": f"/run/netns/{network}"})
        memory = {"type": "tmpfs", "source": "tmpfs"}
        config = {
            "ociVersion": "1.0.2",
            "process": {
                "terminal": False,
                "user": {"uid": user[0], "gid": user[1]},
                "args": words,
                "env": self.env,
                "cwd": "/",
                "capabilities": {
                    kind: [] for kind in ("bounding", "effective", "permitted", "inheritable")
                },
                "noNewPrivileges": True,
                "rlimits": [
                    {"type": "RLIMIT_MEMLOCK", "soft": memlock, "hard": memlock},
                    {"type": "RLIMIT_NOFILE", "soft": 4096, "hard": 4096},
                ],
            },
            "root": {"path": str(root), "readonly": True},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", **memory, "options": ["nosuid", "mode=755"]},
                {"destination": "/tmp", **memory, "options": ["nosuid", "nodev", "mode=1777"]},
                *(mounts or []),
            ],
            "linux": {
                "cgroupsPath": f"/{self.name}",
                "namespaces": namespaces,
                **({"seccomp": seccomp} if seccomp else {}),
            },
        }
        (home / "config.json").write_text(json.dumps(config, indent=1))

    def _runc(self, *words: str) -> list[str]:
        return ["runc", "--root", str(self.home / "state"), *words]

    def start(self) -> "Container":
        """Starts it; its output goes to the log."""
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self._runc("run", "--bundle", str(self.home), self.name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Its exit code."""
        assert self.process is not None
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.close()
            raise AssertionError(f"no end within {seconds} s\n{self.log()}")

    def wait_file(self, path: Path) -> dict[str, Any]:
        """The JSON in a file that it writes."""
        assert self.process is not None
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return json.loads(path.read_text())
            except (FileNotFoundError, json.JSONDecodeError):
                assert self.process.poll() is None, self.log()
                assert time.monotonic() < end, self.log()
                time.sleep(0.05)

    def run(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        """A program inside, as `kubectl exec` does it."""
        env = [word for pair in self.env for word in ("--env", pair)]
        line = self._runc("exec", *env, self.name, *words)
        return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)

    def stop(self) -> int:
        """SIGTERM to its first process, and the exit code."""
        line = self._runc("kill", self.name, "TERM")
        subprocess.run(line, capture_output=True, timeout=60, check=True)
        return self.wait()

    def log(self) -> str:
        """All it wrote."""
        path = self.home / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def close(self) -> None:
        """Ends it whatever happened."""
        line = self._runc("delete", "--force", self.name)
        subprocess.run(line, capture_output=True, timeout=60, check=False)
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def owned(path: Path, user: int = 65532) -> Path:
    """A directory of the container's user."""
    path.mkdir(parents=True)
    os.chown(path, user, user)
    return path
