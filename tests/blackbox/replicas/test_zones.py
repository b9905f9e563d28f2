"""Copies stay in as many zones as there are when one of their workers is lost."""

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


@pytest.fixture
def zones(tmp_path: Path) -> Iterator[Cluster]:
    """Five workers in three zones, with a lease of three seconds."""
    made = Cluster(tmp_path / "zones", "3s", NODES, flags={"s3-min-part-size": "64KiB", "log-level": "debug"})
    made.zones = ZONES
    with contextlib.closing(made):
        yield made


def test_copies_made_again_are_in_the_zones_that_were_lost(zones: Cluster) -> None:
    clients = {node: client(zones, node) for node in NODES}
    zones.settle(NODES)
    assert {name: node["zone"] for name, node in zones.nodes().items()} == ZONES
    clients["n5"].create_bucket(Bucket="abc")
    zones.policy_of_all("TRANSIENT", 3)
    bodies: dict[str, bytes] = {}
    for number in range(40):
        key, node = f"k{number}", NODES[number % len(NODES)]
        bodies[key] = payload(3_000, key)
        wrote = lambda k=key, n=node: put(clients[n], k, bodies[k])  # noqa: E731
        assert zones.wait_for(wrote) == "local-3"
    for number in range(8):
        upload = Upload(zones, NODES[number % len(NODES)], f"parts{number}")
        upload.put(1, 70_000)
        upload.put(2, 3_000)
        upload.complete()
        bodies[upload.key] = upload.body
    elsewhere = "quickwater_copies_elsewhere_objects"
    # Those that were asked for while the policy was set are among them.
    before = zones.sum(elsewhere)
    zones.lose("n4")
    zones.wait_slots(lambda slots: slots["n4"] == 0 and sum(slots.values()) == SLOTS)

    def whole() -> bool:
        kept, missing = "quickwater_copies_kept_objects", "quickwater_copies_missing_objects"
        return (
            zones.sum(missing) == 0
            and zones.sum(elsewhere) == before
            and zones.sum(kept) >= 2 * before
        )

    zones.wait_for(whole, lambda: [zones.sum(elsewhere), before])
    # One that refuses is not waited for: each time may cost a body its zone.
    logs = [zones.workers[node].log() for node in NODES if node != "n4"]
    refused = sum(log.count("a worker takes no copy") for log in logs)
    for node in ("n1", "n2", "n3"):
        zones.lose(node)
    zones.wait_slots(lambda slots: slots["n5"] == SLOTS)
    for node in ("n1", "n2", "n3"):
        assert zones.cli("node", "remove", node).returncode == 0
    s3 = clients["n5"]

    def outcome(key: str) -> Any:
        try:
            return s3.get_object(Bucket="abc", Key=key)["Body"].read()
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            return None if status == 503 else status

    seen = {key: zones.wait_for(lambda k=key: outcome(k), key) for key in bodies}
    lost = [key for key, answer in seen.items() if answer == 410]
    assert len(lost) <= refused, (lost, refused)
    assert all(seen[key] == body for key, body in bodies.items() if key not in lost)
