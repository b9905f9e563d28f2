"""The control plane begins anew, and has not heard all of its workers yet."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest

from conftest import EXTERNAL
from harness.cluster import SLOTS, Cluster, settled

from .test_cluster_edges import made, told

NODES = ["n1", "n2", "n3"]
KEYS = [f"k{number:02}" for number in range(16)]

pytestmark = pytest.mark.skipif(bool(EXTERNAL), reason="needs a cluster of its own")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three workers whose leases do not end by themselves, and objects of all of them."""
    with settled(tmp_path / "restarted", "10m", NODES) as made_:
        s3 = made_.worker("n1").target().client()
        made(made_, lambda: s3.create_bucket(Bucket="abc"))
        for key in KEYS:
            made(made_, lambda: s3.put_object(Bucket="abc", Key=key, Body=key.encode()))
        yield made_


def answers(cluster: Cluster, node: str) -> dict[str, int]:
    """Status of each object by one worker, who is asked once."""
    s3 = cluster.ask_once(node)
    return {key: told(lambda: s3.get_object(Bucket="abc", Key=key))[0] for key in KEYS}


def test_no_slot_goes_to_a_worker_that_was_not_heard(cluster: Cluster) -> None:
    """One is dead when the control plane begins anew; then another one ends in peace."""
    before = cluster.slots()
    cluster.worker("n3").kill()
    cluster.control.kill()
    cluster.control.start()
    cluster.wait_for(lambda: cluster.nodes()["n2"]["heard_ms"] is not None)
    assert cluster.worker("n2").stop() == 0
    cluster.wait_slots(lambda slots: slots["n2"] == 0 and sum(slots.values()) == SLOTS)
    assert cluster.slots() == {"n1": SLOTS - before["n3"], "n2": 0, "n3": before["n3"]}
    assert cluster.nodes()["n3"]["heard_ms"] is None
    cluster.wait_for(lambda: cluster.metric("n1", "quickwater_slots_owned") == SLOTS - before["n3"])
    s3 = cluster.ask_once("n1")
    statuses = [told(lambda: s3.put_object(Bucket="abc", Key=key, Body=b"2"))[0] for key in KEYS]
    assert set(statuses) == {200, 503}, statuses
    # It has them again as soon as it is there, and its share of the others.
    cluster.worker("n3")
    cluster.wait_slots(lambda slots: slots["n3"] > before["n3"] and sum(slots.values()) == SLOTS)
    cluster.settle(["n1", "n3"])
    for key in KEYS:
        made(cluster, lambda: s3.put_object(Bucket="abc", Key=key, Body=b"3"))


def test_a_cluster_that_starts_as_a_whole_waits_for_no_lease(cluster: Cluster) -> None:
    """Whoever is back answers for what it had, whether the others come or not."""
    before = cluster.slots()
    for node in NODES:
        cluster.worker(node).kill()
    cluster.control.kill()
    cluster.control.start()
    cluster.worker("n1")
    cluster.wait_for(lambda: cluster.metric("n1", "quickwater_slots_owned") == before["n1"])
    assert cluster.slots() == before
    # Others' keys are theirs, its own are answered at once.
    first = answers(cluster, "n1")
    assert set(first.values()) == {200, 503}, first
    for node in NODES[1:]:
        cluster.worker(node)
    cluster.settle(NODES)
    assert cluster.slots() == before
    for node in NODES:
        cluster.wait_for(lambda: set(answers(cluster, node).values()) == {200})
