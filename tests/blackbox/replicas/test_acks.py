"""Copies of what no UFS has on several workers (`writeReplicas`): what an ack means, and that
with fewer workers there is none."""

from __future__ import annotations

from typing import Any, Callable

import pytest
from botocore.exceptions import ClientError

from harness.cluster import Cluster
from harness.payload import payload
from harness.replicas import client, durability_of, persisted, put, read


def refusal(call: Callable[[], Any]) -> tuple[int, str]:
    """Status and text of a call that must fail."""
    with pytest.raises(ClientError) as failed:
        call()
    answer = failed.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Message"]


def test_an_ack_means_two_copies_and_they_go_when_the_ufs_has_it(cluster: Cluster) -> None:
    one, two = client(cluster, "n1"), client(cluster, "n2")
    cluster.settle(["n1", "n2"])
    one.create_bucket(Bucket="abc")
    cluster.policy_of_all("WRITE_BACK", 2)
    persisted(cluster)
    place, away = cluster.home / "ufs" / "abc", cluster.home / "away"
    place.rename(away)
    sizes = [1, 4_096, 70_000, (1 << 20), (1 << 20) + 1, 3_500_000]
    bodies = {f"k{number}": payload(size, number) for number, size in enumerate(sizes * 4)}
    for number, (key, body) in enumerate(bodies.items()):
        s3 = (one, two)[number % 2]
        assert durability_of(s3.put_object(Bucket="abc", Key=key, Body=body)) == "local-2"
    one.put_object(Bucket="abc", Key="empty", Body=b"")
    # Each is known to its owner, and kept by the other worker.
    cluster.wait_for(lambda: cluster.sum("quickwater_copies_elsewhere_objects") == len(bodies))
    cluster.wait_for(lambda: cluster.sum("quickwater_copies_kept_objects") == len(bodies))
    total = sum(len(body) for body in bodies.values())
    assert cluster.sum("quickwater_copies_kept_bytes") == total
    # What is replaced or deleted is kept by nobody; new tags leave it where it is.
    bodies["k1"] = payload(9_000, "again")
    assert put(two, "k1", bodies["k1"]) == "local-2"
    one.delete_object(Bucket="abc", Key="k2")
    del bodies["k2"]
    tags = {"TagSet": [{"Key": "a", "Value": "b"}]}
    two.put_object_tagging(Bucket="abc", Key="k3", Tagging=tags)
    cluster.wait_for(lambda: cluster.sum("quickwater_copies_kept_objects") == len(bodies))
    for key, body in bodies.items():
        assert read(one, key) == body and read(two, key) == body, key
    away.rename(place)
    persisted(cluster)
    for key, body in bodies.items():
        assert (place / key).read_bytes() == body
    cluster.wait_for(lambda: cluster.sum("quickwater_copies_kept_objects") == 0)
    cluster.wait_for(lambda: cluster.sum("quickwater_copies_elsewhere_objects") == 0)


def test_with_fewer_workers_than_copies_a_write_is_refused_and_nothing_is_left(
    cluster: Cluster,
) -> None:
    one = client(cluster, "n1")
    one.create_bucket(Bucket="abc")
    path = cluster.home / "rules.json"
    path.write_text(
        '{"apiVersion":"v1.0","defaultRule":{"policyMode":"WRITE_BACK",'
        '"properties":{"writeReplicas":2}}}'
    )
    assert cluster.cli("pathconfig", "apply", str(path)).returncode == 0
    cluster.wait_for(lambda: put(one, "asked", b"?") is None)
    status, text = refusal(lambda: one.put_object(Bucket="abc", Key="k", Body=b"x" * 100_000))
    assert status == 503 and "asks for 2 copies and 1 can be kept" in text, text
    status, _ = refusal(lambda: one.get_object(Bucket="abc", Key="k"))
    assert status == 404
    two = client(cluster, "n2")
    cluster.settle(["n1", "n2"])
    cluster.wait_for(lambda: put(one, "k", b"now") == "local-2")
    assert read(two, "k") == b"now"
    # The other one dies: its lease runs on, and still nobody is told that all is well.
    cluster.worker("n2").kill()
    refused = "quickwater_copies_refused_total"
    before, tried = cluster.metric("n1", refused), 0

    def refuses() -> bool:
        nonlocal tried
        tried += 1
        assert put(one, f"x{tried}", b"x" * 200_000) is None
        return cluster.metric("n1", refused) > before

    # Of keys of its own: those of the dead one are refused for another reason.
    cluster.wait_for(refuses)
    assert put(one, "y", b"") is None
