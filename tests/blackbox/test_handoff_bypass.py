"""A connection leaves TCP or its host, never both. All hosts of a segment are of one
kernel here, so where `ebpf.bypass` is on it is for all of the worker's clients."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import EXTERNAL
from harness import ebpf
from harness.payload import payload
from harness.segment import CLIENT, Segment, made

pytestmark = [
    pytest.mark.root,
    pytest.mark.needs("ip"),
    pytest.mark.skipif(bool(EXTERNAL), reason="needs a cluster of its own"),
]
BUCKET = "either"
BODIES = {f"k{at}": payload((1 << 20) + at, seed=at) for at in range(8)}
BYPASSED = 'quickwater_ebpf_bypass_connections_total{outcome="taken"}'


def bypassing(tmp_path: Path, node: str) -> Segment:
    """Two workers, one of which has `ebpf.bypass`."""
    cluster = made(tmp_path, (BUCKET, BODIES), own_flags={node: {"ebpf-bypass": "auto"}})
    try:
        with cluster.at(node):
            ebpf.need(cluster.workers[node], "bypass")
    except BaseException:
        cluster.close()
        raise
    return cluster


def get_all(cluster: Segment) -> None:
    with cluster.at(CLIENT):
        s3 = cluster.target().client()
        for key in list(BODIES) * 2:
            assert s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == BODIES[key], key


def test_a_connection_without_tcp_is_never_handed_over(tmp_path: Path) -> None:
    cluster = bypassing(tmp_path, "n1")
    try:
        before, relayed = cluster.count("n1", BYPASSED), cluster.served("n2", "relay")
        get_all(cluster)
        assert cluster.count("n1", BYPASSED) > before
        # There were requests to hand over for.
        assert cluster.served("n2", "relay") > relayed
        assert [cluster.outcomes("n1", what) for what in ["given", "declined", "unrested"]] == [0] * 3
        assert cluster.outcomes("n2", "taken") == 0
    finally:
        cluster.close()


def test_a_connection_that_was_handed_over_goes_by_tcp(tmp_path: Path) -> None:
    cluster = bypassing(tmp_path, "n2")
    try:
        counted = [BYPASSED, "quickwater_ebpf_bypass_bytes_total"]
        before = [cluster.count("n2", sample) for sample in counted]
        cluster.wait_for(lambda: get_all(cluster) or cluster.outcomes("n2", "taken") > 0)
        get_all(cluster)
        assert [cluster.count("n2", sample) for sample in counted] == before
    finally:
        cluster.close()
