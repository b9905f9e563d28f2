"""Short runs of the crash harnesses; the long ones are in tests/README.md."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from conftest import EXTERNAL
from harness import metadata
from harness.loopfs import LoopFs, missing
from harness.server import binary
from harness.under import need_write_back

from .cycles import Plan
from .kill9 import kill9, kill9_write_back
from .powercut import powercut, powercut_write_back

KILLS = int(os.environ.get("QW_KILLS", "5"))
CUTS = int(os.environ.get("QW_CUTS", "3"))
CONTROL_CUTS = 6
# Each start waits some seconds for the beat of the owner that was killed.
FOUNDATION_KILLS = int(os.environ.get("QW_KILLS", "1"))
NO_FLUSH = os.environ.get("QUICKWATER_NO_FLUSH_BIN", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(EXTERNAL), reason="needs a service of its own"),
]


@pytest.fixture(autouse=True)
def program_exists() -> None:
    if not binary().exists():
        pytest.fail(f"no program under test: {binary()}")


def _disk_or_skip(kind: str) -> None:
    if reason := missing(kind):
        pytest.skip(reason)


def test_kill9(tmp_path: Path) -> None:
    outcome = kill9(tmp_path, Plan(KILLS))
    assert outcome.wrong == []
    assert outcome.acks > KILLS * 4, "the load must have done something"


@pytest.mark.parametrize("propagation", ["slave", "private"])
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_disk_that_was_cut_is_new_beside_other_namespaces(
    tmp_path: Path, kind: str, propagation: str
) -> None:
    """Tests of networks that run meanwhile have all mounts in namespaces of their own."""
    _disk_or_skip(kind)
    disk = LoopFs(tmp_path / "disk", kind)
    try:
        (disk.mount_point / "kept").write_text("kept")
        os.sync()
        seconds = {"slave": 60, "private": 2}[propagation]
        words = ["unshare", "--mount", f"--propagation={propagation}"]
        words += ["sh", "-c", f"echo begun; exec sleep {seconds}"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other:
            try:
                assert other.stdout is not None and other.stdout.readline() == "begun\n"
                disk.cut_power()
                disk.remount()
                assert (disk.mount_point / "kept").read_text() == "kept"
            finally:
                other.kill()
    finally:
        disk.close()


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_power_cut(tmp_path: Path, kind: str) -> None:
    _disk_or_skip(kind)
    outcome = powercut(tmp_path, kind, Plan(CUTS))
    assert outcome.wrong == []
    assert outcome.acks > CUTS * 4, "the load must have done something"


@pytest.mark.skipif(not NO_FLUSH, reason="QUICKWATER_NO_FLUSH_BIN names no build without flushes")
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_power_cut_is_noticed_without_flushes(tmp_path: Path, kind: str) -> None:
    """The negative control: the test above can fail."""
    _disk_or_skip(kind)
    outcome = powercut(tmp_path, kind, Plan(CONTROL_CUTS), Path(NO_FLUSH))
    assert outcome.wrong, f"no loss seen in {outcome.line()}: the power cut test proves nothing"


def test_kill9_in_write_back(tmp_path: Path) -> None:
    need_write_back()
    outcome = kill9_write_back(tmp_path, Plan(KILLS))
    assert outcome.wrong == []
    assert outcome.acks > KILLS * 4, "the load must have done something"


def test_kill9_in_write_back_over_foundationdb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commits that fail, come late or end unknown, before the kill and in the recovery."""
    need_write_back()
    if not metadata.built(metadata.SERVER) or not metadata.library():
        pytest.skip(f"not built: {metadata.SERVER} and libfdb_c.so")
    monkeypatch.setenv(metadata.VARIABLE, "foundationdb:faults")
    outcome = kill9_write_back(tmp_path, Plan(FOUNDATION_KILLS))
    assert outcome.wrong == []
    assert outcome.acks > FOUNDATION_KILLS * 4, "the load must have done something"


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_power_cut_in_write_back(tmp_path: Path, kind: str) -> None:
    _disk_or_skip(kind)
    need_write_back()
    outcome = powercut_write_back(tmp_path, kind, Plan(CUTS))
    assert outcome.wrong == []
    assert outcome.acks > CUTS * 4, "the load must have done something"


@pytest.mark.embedded("its files are what is lost without flushes")
@pytest.mark.skipif(not NO_FLUSH, reason="QUICKWATER_NO_FLUSH_BIN names no build without flushes")
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_power_cut_in_write_back_is_noticed_without_flushes(tmp_path: Path, kind: str) -> None:
    """The negative control."""
    _disk_or_skip(kind)
    need_write_back()
    outcome = powercut_write_back(tmp_path, kind, Plan(CONTROL_CUTS), Path(NO_FLUSH))
    assert outcome.wrong, f"no loss seen in {outcome.line()}: the power cut test proves nothing"
