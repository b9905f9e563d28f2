"""Copies end in as many zones as there are, whoever is lost or comes."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Iterator

import pytest
from botocore.exceptions import ClientError

from harness.cluster import SLOTS, Cluster
from harness.payload import payload
from harness.replicas import Upload, client, put

ZONES = {"n1": "a", "n2": "b", "n3": "b", "n4": "c", "n5": "c"}
NODES = list(ZONES)
ELSEWHERE = "quickwater_copies_elsewhere_objects"
KEPT = "quickwater_copies_kept_objects"
MISSING = "quickwater_copies_missing_objects"
MISPLACED = "quickwater_copies_misplaced_objects"


@pytest.fixture
def zones(tmp_path: Path) -> Iterator[Cluster]:
    """Five workers in three zones, with a lease of three seconds."""
    made = Cluster(tmp_path / "zones", "3s", NODES, flags={"s3-min-part-size": "64KiB"})
    made.zones = ZONES
    with contextlib.closing(made):
        yield made


def begin(cluster: Cluster, nodes: list[str]) -> None:
    """Starts these workers; all objects are to have three copies."""
    for node in nodes:
        cluster.worker(node)
    cluster.settle(nodes)
    client(cluster, nodes[0]).create_bucket(Bucket="abc")
    cluster.policy_of_all("TRANSIENT", 3)


def write(cluster: Cluster, nodes: list[str], objects: int) -> dict[str, bytes]:
    """Writes so many objects by these workers in turn."""
    bodies: dict[str, bytes] = {}
    for number in range(objects):
        key, s3 = f"k{number}", client(cluster, nodes[number % len(nodes)])
        bodies[key] = payload(3_000, key)
        wrote = lambda k=key, s=s3: put(s, k, bodies[k])  # noqa: E731
        assert cluster.wait_for(wrote) == "local-3"
    return bodies


def upload(cluster: Cluster, node: str, key: str) -> Upload:
    """Two parts of an object."""
    made = Upload(cluster, node, key)
    made.put(1, 70_000)
    made.put(2, 3_000)
    return made


def whole(cluster: Cluster, bodies: float) -> bool:
    """Whether so many bodies have their copies, in all zones that they can be in."""
    lacking = cluster.sum(MISSING) + cluster.sum(MISPLACED)
    return lacking == 0 and cluster.sum(ELSEWHERE) == bodies and cluster.sum(KEPT) >= 2 * bodies


def counts(cluster: Cluster) -> dict[str, float]:
    """What is told when it never is."""
    return {name: cluster.sum(name) for name in (ELSEWHERE, KEPT, MISSING, MISPLACED)}


def left_with(cluster: Cluster, node: str, lost: list[str], keys: dict[str, bytes]) -> dict[str, Any]:
    """What the last worker has of objects after these are lost for good: bytes, or a status."""
    for other in lost:
        cluster.lose(other)
    cluster.wait_slots(lambda slots: slots[node] == SLOTS)
    for other in lost:
        assert cluster.cli("node", "remove", other).returncode == 0
    s3 = client(cluster, node)

    def outcome(key: str) -> Any:
        try:
            return s3.get_object(Bucket="abc", Key=key)["Body"].read()
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            return None if status == 503 else status

    return {key: cluster.wait_for(lambda k=key: outcome(k), key) for key in keys}


def test_copies_made_again_are_in_the_zones_that_were_lost(zones: Cluster) -> None:
    begin(zones, NODES)
    assert {name: node["zone"] for name, node in zones.nodes().items()} == ZONES
    bodies = write(zones, NODES, 40)
    for number in range(8):
        made = upload(zones, NODES[number % len(NODES)], f"parts{number}")
        made.complete()
        bodies[made.key] = made.body
    # Those that were asked for while the policy was set are among them.
    before = zones.sum(ELSEWHERE)
    zones.lose("n4")
    zones.wait_slots(lambda slots: slots["n4"] == 0 and sum(slots.values()) == SLOTS)
    zones.wait_for(lambda: whole(zones, before), lambda: [before, counts(zones)])
    seen = left_with(zones, "n5", ["n1", "n2", "n3"], bodies)
    assert [key for key in bodies if seen[key] != bodies[key]] == []


def test_copies_are_made_in_a_zone_that_comes_later(zones: Cluster) -> None:
    first = ["n1", "n2", "n3"]
    begin(zones, first)
    bodies = write(zones, first, 30)
    uploads = [upload(zones, first[number % 3], f"parts{number}") for number in range(8)]
    for made in uploads[:4]:
        made.complete()
    before = zones.sum(ELSEWHERE)
    zones.wait_for(lambda: whole(zones, before), lambda: [before, counts(zones)])
    zones.worker("n4")

    def in_all_zones() -> bool:
        there = zones.metric("n4", ELSEWHERE) + zones.metric("n4", KEPT)
        return there == before and whole(zones, before)

    zones.wait_for(in_all_zones, lambda: [before, counts(zones)])
    for made in uploads[4:]:
        made.complete()
    bodies.update({made.key: made.body for made in uploads})
    seen = left_with(zones, "n4", first, bodies)
    assert [key for key in bodies if seen[key] != bodies[key]] == []
