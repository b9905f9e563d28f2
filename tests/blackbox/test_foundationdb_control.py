"""A control plane with its metadata in FoundationDB: who takes it over, and what workers
cost there. docs/operations/foundationdb.md says it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Iterator

import pytest

from harness import metadata
from harness.apart import Control
from harness.calls import Cost, Trace, cost
from harness.cluster import Cluster
from harness.freeze import freeze
from harness.replicas import put, read
from harness.server import binary

pytestmark = pytest.mark.skipif(
    not metadata.built(metadata.SERVER) or not metadata.library(),
    reason=f"not built: {metadata.SERVER} and libfdb_c.so",
)
NODES = ["n1", "n2"]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[metadata.Cluster]:
    """FoundationDB, as far as the test server is."""
    made = metadata.Cluster(tmp_path)
    yield made
    made.close()


@pytest.fixture
def counted(tmp_path: Path, service: metadata.Cluster) -> Iterator[tuple[Cluster, Trace]]:
    """A settled cluster that keeps one bucket there, and what its control plane asks for."""
    trace = Trace(tmp_path / "trace")
    made = Cluster(tmp_path / "one", "60s", NODES, kept=(service.flags(), trace.environment()))
    try:
        for node in NODES:
            made.worker(node)
        made.settle(NODES)
        made.ask_once("n1").create_bucket(Bucket="abc")
        yield made, trace
    finally:
        made.close()


def another(first: Cluster, home: Path) -> Control:
    """A control plane with a directory of its own and the certificates of the first."""
    control = Control(home, binary(), NODES, first.control.flags)
    control.certificates = first.control.certificates
    return control


def test_a_control_plane_is_taken_over_by_another_directory(
    counted: tuple[Cluster, Trace], tmp_path: Path
) -> None:
    cluster, _ = counted
    first, second = cluster.control, another(cluster, tmp_path / "two")
    s3 = cluster.ask_once("n1")
    s3.put_object(Bucket="abc", Key="old", Body=b"old")
    # While the first one's beat goes on.
    with pytest.raises(RuntimeError):
        second.start()
    assert "the metadata in FoundationDB is in use by" in second.log_path.read_text()
    assert first.alive()
    freeze(first.process.pid)
    second.start()
    os.kill(first.process.pid, signal.SIGCONT)
    assert first.process.wait(60) == 1, first.log_tail()
    assert "ending: another process has the metadata now" in first.log_path.read_text()
    # Where workers look for it.
    second.stop()
    second.port = first.port
    cluster.control = second.start()
    try:
        cluster.settle(NODES)
        for node in NODES:
            asked = cluster.ask_once(node)
            assert cluster.wait_for(lambda s3=asked: read(s3, "old")) == b"old"
            assert cluster.wait_for(lambda s3=asked, n=node: put(s3, n, b"new"))
    finally:
        second.kill()


@pytest.mark.parametrize("copies", [1, 2])
def test_a_worker_costs_a_fence_for_each_that_has_the_bytes(
    counted: tuple[Cluster, Trace], copies: int
) -> None:
    cluster, trace = counted
    cluster.policy_of_all("TRANSIENT", copies)
    s3 = cluster.ask_once("n1")

    def spent(key: str, call: object) -> Cost:
        trace.skip()
        call()  # type: ignore[operator]
        return cost(trace.of(key))

    written = spent("costs", lambda: put(s3, "costs", b"body"))
    assert written == Cost(transactions=1, commits=1, versions=1, gets=3 + 2 * copies)
    for node in NODES:
        other = cluster.ask_once(node)
        read(other, "costs")
        assert spent("costs", lambda s3=other: read(s3, "costs")) == Cost()
