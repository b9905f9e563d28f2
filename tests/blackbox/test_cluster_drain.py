"""A worker is drained right after writes that it keeps copies of: nothing of them stays there.
What stays meanwhile is counted."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Iterator

import pytest

from harness.cluster import Cluster, settled
from harness.payload import KIB, payload

from .test_cluster_edges import made, told

NODES = ["n1", "n2", "n3", "n4"]
REST = NODES[1:]
OBJECTS = 60
FLAGS = {"write-cache-persist-retry-max": "1s"}
UPLOADS = 12


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Four workers with a lease of three seconds."""
    with settled(tmp_path / "drain", "3s", NODES, flags=FLAGS) as cluster:
        cluster.worker("n1").target().client().create_bucket(Bucket="abc")
        yield cluster


def written(cluster: Cluster, nodes: list[str] = NODES) -> dict[str, bytes]:
    """Objects that were acked a moment ago, through all workers."""
    clients = [cluster.worker(node).target().client() for node in nodes]
    bodies = {f"d{number}/k": payload(2 * KIB, number) for number in range(OBJECTS)}

    def put(number: int) -> None:
        key = f"d{number}/k"
        clients[number % len(clients)].put_object(Bucket="abc", Key=key, Body=bodies[key])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(OBJECTS)))
    return bodies


def drain(cluster: Cluster, node: str) -> None:
    done = cluster.cli("node", "drain", node, "--evacuate", "--timeout", "60s")
    assert done.returncode == 0, f"{done}\n{cluster.nodes()}\n{cluster.logs()}"
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


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Cluster]:
    """Two workers whose leases do not end by themselves: no third one can have copies."""
    with settled(tmp_path / "two", "10m", NODES[:2], flags=FLAGS) as cluster:
        cluster.worker("n1").target().client().create_bucket(Bucket="abc")
        yield cluster


def rules(cluster: Cluster) -> None:
    """Everything is written back with two copies, but for uploads in `open/`."""
    cluster.policy_of_all("WRITE_BACK", 2)
    path = cluster.home / "rules.json"
    rule = {"policyMode": "WRITE_BACK", "properties": {"writeReplicas": 2}}
    once = {"path": "/abc/open/**", "policyMode": "WRITE_BACK"}
    path.write_text(json.dumps({"apiVersion": "v1.0", "defaultRule": rule, "pathRules": [once]}))
    done = cluster.cli("pathconfig", "apply", str(path))
    assert done.returncode == 0, done


def counts(cluster: Cluster, node: str) -> dict[str, Any]:
    """What `node list` says that a worker has."""
    names = ("changes", "copies_kept", "parts_held", "holds")
    return {name: cluster.nodes()[node][name] for name in names}


def evacuate(cluster: Cluster, node: str) -> tuple[int, str, dict[str, Any]]:
    """Code, text and JSON of a drain that is not waited for."""
    words = ("node", "drain", node, "--evacuate", "--timeout", "1s")
    text = cluster.cli(*words)
    shown = cluster.cli(*words, "--output", "json")
    assert text.returncode == shown.returncode, (text, shown)
    return shown.returncode, text.stdout, json.loads(shown.stdout)


def test_what_a_drained_worker_still_keeps_is_counted(two: Cluster) -> None:
    """Copies of what the other one owns, and parts of open uploads."""
    rules(two)
    s3 = two.worker("n1").target().client()
    named = [{"Bucket": "abc", "Key": f"open/u{number}"} for number in range(UPLOADS)]
    durability = "x-quickwater-durability"

    def once() -> bool:
        """The rules are gone by: what is written there has one copy."""
        answers = [made(two, lambda one=one: s3.put_object(**one, Body=b"?")) for one in named]
        return all(answer["ResponseMetadata"]["HTTPHeaders"][durability] == "local-1" for answer in answers)

    two.wait_for(once)
    waited = two.cli("async-persist", "wait", "--path", "/", "--timeout", "60s")
    assert waited.returncode == 0, waited
    nothing = {"changes": 0, "copies_kept": 0, "parts_held": 0, "holds": False}
    two.wait_for(lambda: all(counts(two, node) == nothing for node in NODES[:2]))
    for one in named:
        begun = made(two, lambda: s3.create_multipart_upload(**one))
        one["UploadId"] = begun["UploadId"]
        made(two, lambda: s3.upload_part(**one, PartNumber=1, Body=one["Key"].encode()))
    held = lambda: {node: counts(two, node)["parts_held"] for node in NODES[:2]}  # noqa: E731
    two.wait_for(lambda: sum(held().values()) == UPLOADS, held)
    parts = held()["n2"]
    assert 0 < parts < UPLOADS, held()

    ufs, away = two.home / "ufs" / "abc", two.home / "away"
    ufs.rename(away)
    bodies = written(two, NODES[:2])
    # What is queued looks like parts: they are not told apart, and not guessed.
    two.wait_for(lambda: counts(two, "n2")["changes"] > 0)
    two.wait_for(lambda: counts(two, "n2")["parts_held"] is None)
    assert two.cli("node", "drain", "n2").returncode == 0
    # Its keys are the other one's now, and what it has of them are copies.
    kept = {"changes": 0, "copies_kept": OBJECTS, "parts_held": parts, "holds": True}
    two.wait_for(lambda: counts(two, "n2") == kept, lambda: counts(two, "n2"))
    code, text, shown = evacuate(two, "n2")
    assert code == 1 and not shown["drained"], shown
    assert {name: shown["node"][name] for name in kept} == kept, shown
    assert f", {OBJECTS} copies kept for other workers, {parts} part" in text, text
    assert "waits for parts of open uploads" in text and "other workers to send" in text, text
    listed = two.cli("node", "list").stdout.splitlines()
    assert listed[0].split()[-2:] == ["COPIES", "PARTS"], listed
    (line,) = [line.split() for line in listed if line.startswith("n2 ")]
    assert line[-2:] == [str(OBJECTS), str(parts)], listed
    status = json.loads(two.cli("status", "--output", "json").stdout)
    (node,) = [node for node in status["nodes"] if node["name"] == "n2"]
    assert (node["copies_kept"], node["parts_held"]) == (OBJECTS, parts), node

    away.rename(ufs)
    only = {**kept, "copies_kept": 0}
    two.wait_for(lambda: counts(two, "n2") == only, lambda: counts(two, "n2"))
    code, text, _ = evacuate(two, "n2")
    assert code == 1 and f", 0 copies kept for other workers, {parts} part" in text, text
    assert text.rstrip().endswith("completed or aborted"), text
    for one in named:
        # Repeated it may find that it was done before.
        two.wait_for(lambda: told(lambda: s3.abort_multipart_upload(**one))[0] in (204, 404))
    drain(two, "n2")
    assert counts(two, "n2") == nothing
    assert wrong(s3, bodies) == []
