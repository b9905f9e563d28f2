"""A worker is drained right after writes that it keeps copies of: nothing of them stays there."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Iterator

import pytest

from harness.cluster import Cluster, settled
from harness.payload import KIB, payload

NODES = ["n1", "n2", "n3", "n4"]
REST = NODES[1:]
OBJECTS = 60
FLAGS = {"write-cache-persist-retry-max": "1s"}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Four workers with a lease of three seconds."""
    with settled(tmp_path / "drain", "3s", NODES, flags=FLAGS) as cluster:
        cluster.worker("n1").target().client().create_bucket(Bucket="abc")
        yield cluster


def written(cluster: Cluster) -> dict[str, bytes]:
    """Objects that were acked a moment ago, through all workers."""
    clients = [cluster.worker(node).target().client() for node in NODES]
    bodies = {f"d{number}/k": payload(2 * KIB, number) for number in range(OBJECTS)}

    def put(number: int) -> None:
        key = f"d{number}/k"
        clients[number % len(clients)].put_object(Bucket="abc", Key=key, Body=bodies[key])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(OBJECTS)))
    return bodies


def drain(cluster: Cluster, node: str) -> None:
    done = cluster.cli("node", "drain", node, "--evacuate", "--timeout", "60s")
    assert done.returncode == 0, f"{done}\n{kept(cluster)}\n{cluster.logs()}"
    assert cluster.nodes()[node]["holds"] is False


def kept(cluster: Cluster) -> dict[str, int]:
    """Copies that each worker keeps for others."""
    return {node: int(cluster.metric(node, "quickwater_copies_kept_objects")) for node in NODES}


def wrong(s3: Any, bodies: dict[str, bytes]) -> list[str]:
    got = {key: s3.get_object(Bucket="abc", Key=key)["Body"].read() for key in bodies}
    return [key for key, body in bodies.items() if got[key] != body]


def test_copies_of_transient_objects_are_moved(cluster: Cluster) -> None:
    """They need not be deleted for it: others keep them."""
    cluster.policy_of_all("TRANSIENT", 2)
    bodies = written(cluster)
    drain(cluster, "n1")
    cluster.wait_for(lambda: kept(cluster)["n1"] == 0, lambda: kept(cluster))
    for node in NODES:
        assert wrong(cluster.worker(node).target().client(), bodies) == []
    # Each is its owner's and one other's, nothing more; so are those that were asked for to
    # see the policy in force.
    listed = cluster.worker("n2").target().client().list_objects_v2(Bucket="abc")["KeyCount"]
    cluster.wait_for(
        lambda: OBJECTS <= sum(kept(cluster).values()) <= listed,
        lambda: f"{kept(cluster)} of {listed}",
    )
    # What n1 had is not the only copy of anything.
    cluster.worker("n1").kill()
    for node in REST:
        assert wrong(cluster.worker(node).target().client(), bodies) == []


def test_copies_of_what_is_persisted_later_go(cluster: Cluster) -> None:
    """The storage is away meanwhile."""
    cluster.policy_of_all("WRITE_BACK", 2)
    waited = cluster.cli("async-persist", "wait", "--path", "/", "--timeout", "60s")
    assert waited.returncode == 0, waited
    ufs, away = cluster.home / "ufs" / "abc", cluster.home / "away"
    ufs.rename(away)
    bodies = written(cluster)
    begun = cluster.cli("node", "drain", "n1")
    assert begun.returncode == 0, begun
    names = [f"quickwater_copies_{which}_objects" for which in ("missing", "elsewhere")]

    def settled_elsewhere() -> bool:
        """Who owns them knows another one to have what n1 had."""
        sums = [sum(cluster.metric(node, name) for node in NODES) for name in names]
        return sums == [0, OBJECTS] and cluster.nodes()["n1"]["slots"] == 0

    cluster.wait_for(settled_elsewhere, lambda: f"{kept(cluster)} {cluster.nodes()}")
    away.rename(ufs)
    drain(cluster, "n1")
    waited = cluster.cli("async-persist", "wait", "--path", "/", "--timeout", "60s")
    assert waited.returncode == 0, waited
    cluster.wait_for(lambda: set(kept(cluster).values()) == {0}, lambda: kept(cluster))
    assert wrong(cluster.worker("n2").target().client(), bodies) == []
