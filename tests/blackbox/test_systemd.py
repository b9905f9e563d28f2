"""The units of deploy/systemd: systemd takes them, and what they start runs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from harness.server import REPOSITORY, binary

SYSTEMD = REPOSITORY / "deploy" / "systemd"
UNITS = sorted(path.stem for path in SYSTEMD.glob("*.service"))
# Of 100; what systemd calls "OK" ends at 20.
EXPOSURE_MAX = 20
PATIENCE_SECONDS = 120.0


def lines(unit: str, name: str) -> list[str]:
    """What a unit says of something."""
    text = (SYSTEMD / f"{unit}.service").read_text()
    return [line.split("=", 1)[1] for line in text.splitlines() if line.startswith(f"{name}=")]


def variables(unit: str) -> dict[str, str]:
    """The settings of the example that belongs to a unit."""
    (path,) = lines(unit, "EnvironmentFile")
    text = (SYSTEMD / Path(path).name).read_text()
    pairs = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in pairs)


@pytest.fixture
def installed(tmp_path: Path) -> list[str]:
    """The units with a program that is there."""
    made = []
    for unit in UNITS:
        text = (SYSTEMD / f"{unit}.service").read_text()
        path = tmp_path / f"{unit}.service"
        path.write_text(text.replace("/usr/bin/quickwater", str(binary())))
        made.append(str(path))
    return made


@pytest.mark.needs("systemd-analyze")
def test_systemd_takes_the_units(installed: list[str]) -> None:
    words = ["systemd-analyze", "verify", "--man=no", *installed]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    ours = [line for line in done.stderr.splitlines() if "quickwater" in line]
    assert done.returncode == 0 and not ours, done.stderr


@pytest.mark.needs("systemd-analyze")
def test_systemd_takes_the_drop_in_of_ebpf(installed: list[str]) -> None:
    for unit in installed:
        own = Path(f"{unit}.d")
        own.mkdir()
        text = (SYSTEMD / "ebpf.conf").read_text()
        for added, is_fine in [("", True), ("Nonsense=1\n", False)]:
            (own / "ebpf.conf").write_text(text + added)
            words = ["systemd-analyze", "verify", "--man=no", unit]
            done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
            # The second shows that it is looked at.
            assert ("ebpf.conf" not in done.stderr) == is_fine, done.stderr


@pytest.mark.needs("systemd-analyze")
def test_a_unit_is_exposed_as_little_as_can_be(installed: list[str]) -> None:
    for unit in installed:
        words = ["systemd-analyze", "security", "--offline=true"]
        words += [f"--threshold={EXPOSURE_MAX}", "--no-pager", unit]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
        if "unrecognized option" in done.stderr:
            pytest.skip("this systemd-analyze cannot look at units offline")
        assert done.returncode == 0, done.stdout[-2000:]


def listens(unit: str) -> dict[str, int]:
    """Ports of what a unit's example listens on, by setting."""
    words = [str(binary()), "conf", "show", "--output", "json"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("QUICKWATER_")}
    done = subprocess.run(
        words, env=env | variables(unit), capture_output=True, text=True, timeout=60, check=True
    )
    values = json.loads(done.stdout)
    kinds = {
        "quickwater-control": ["cluster.listen", "admin.listen", "metrics.listen"],
        "quickwater-worker": ["s3.listen", "cluster.advertise", "metrics.listen"],
    }
    return {key: int(values[key].rsplit(":", 1)[1]) for key in kinds[unit]}


def test_a_control_plane_and_a_worker_may_share_a_host() -> None:
    ports = [*listens("quickwater-control").values(), *listens("quickwater-worker").values()]
    assert len(ports) == len(set(ports)), ports


class Started:
    """What a unit starts, with the settings of its example; addresses and directories
    are this test's."""

    def __init__(self, home: Path, unit: str, changes: dict[str, str]) -> None:
        (line,) = lines(unit, "ExecStart")
        words = line.split()
        assert words[0] == "/usr/bin/quickwater"
        wanted = variables(unit)
        unknown = set(changes) - set(wanted) - {"QUICKWATER_ADMIN__LISTEN", "QUICKWATER_METRICS__LISTEN"}
        assert not unknown, unknown
        self.dir = home / unit
        ufs = home / "ufs"
        ufs.mkdir(exist_ok=True)
        own = {
            "QUICKWATER_DIR": str(self.dir),
            "QUICKWATER_UFS__URI": f"file://{ufs}",
            "QUICKWATER_METRICS__LISTEN": "127.0.0.1:0",
        }
        small = {"QUICKWATER_STORE__CAPACITY": "1GiB", "QUICKWATER_MEMORY": "512MiB"}
        env = {k: v for k, v in os.environ.items() if not k.startswith("QUICKWATER_")}
        env |= wanted | own | {k: v for k, v in small.items() if k in wanted} | changes
        self.log = home / f"{unit}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(binary()), *words[1:]],
                env=env,
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait_ready(self) -> dict[str, str]:
        """Its addresses, once it is ready."""
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return json.loads((self.dir / "run.json").read_text())
            except (FileNotFoundError, json.JSONDecodeError):
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < end, self.log.read_text()
                time.sleep(0.05)

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_SECONDS)

    def kill(self) -> None:
        """Ends it whatever happened."""
        self.process.kill()
        self.process.wait()


def test_the_single_node_of_its_unit_gets_ready(tmp_path: Path) -> None:
    listens = {"QUICKWATER_S3__LISTEN": "127.0.0.1:0", "QUICKWATER_ADMIN__LISTEN": "127.0.0.1:0"}
    node = Started(tmp_path, "quickwater", listens)
    try:
        assert node.wait_ready()["s3"]
        assert node.stop() == 0, node.log.read_text()
    finally:
        node.kill()


def test_no_example_has_a_secret_that_works(tmp_path: Path) -> None:
    """What everybody can read here must open nothing: the worker waits for a secret of its
    own, rather than to make one that no other worker knows."""
    for unit in UNITS:
        for name, value in variables(unit).items():
            assert not re.search("SECRET|TOKEN|PASSWORD", name) or not value, name
    assert variables("quickwater-worker")["QUICKWATER_SECRET_ACCESS_KEY"] == ""
    worker = Started(tmp_path, "quickwater-worker", {"QUICKWATER_S3__LISTEN": "127.0.0.1:0"})
    try:
        assert worker.process.wait(PATIENCE_SECONDS) not in (0, -signal.SIGKILL)
        said = worker.log.read_text()
        assert "set both QUICKWATER_ACCESS_KEY_ID and QUICKWATER_SECRET_ACCESS_KEY" in said, said
        assert not (worker.dir / "credentials").exists()
    finally:
        worker.kill()


def test_the_cluster_of_its_units_gets_ready(tmp_path: Path) -> None:
    assert UNITS == ["quickwater", "quickwater-control", "quickwater-worker"]
    certificates = tmp_path / "certificates"
    words = [str(binary()), "cluster", "init", "--out", str(certificates), "--worker", "node-a"]
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    made = []
    try:
        control = Started(
            tmp_path,
            "quickwater-control",
            {
                "QUICKWATER_CLUSTER__CERTIFICATES": str(certificates / "control"),
                "QUICKWATER_CLUSTER__LISTEN": "127.0.0.1:0",
                "QUICKWATER_ADMIN__LISTEN": "127.0.0.1:0",
            },
        )
        made.append(control)
        port = control.wait_ready()["cluster"].rsplit(":", 1)[1]
        worker = Started(
            tmp_path,
            "quickwater-worker",
            {
                "QUICKWATER_CLUSTER__CERTIFICATES": str(certificates / "workers/node-a"),
                # By name, as in the example.
                "QUICKWATER_CLUSTER__CONTROL": f"localhost:{port}",
                "QUICKWATER_CLUSTER__ADVERTISE": "127.0.0.1:0",
                "QUICKWATER_S3__LISTEN": "127.0.0.1:0",
                "QUICKWATER_SECRET_ACCESS_KEY": "a-secret-for-tests-of-units",
            },
        )
        made.append(worker)
        assert worker.wait_ready()["s3"]
        assert worker.stop() == 0, worker.log.read_text()
        assert control.stop() == 0, control.log.read_text()
    finally:
        for each in made:
            each.kill()
