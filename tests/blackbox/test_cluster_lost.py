"""Workers that lost slots without letting go of them: they answer nothing old, keep nothing of
it, and what they get back is as the others left it."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Iterator

from botocore.exceptions import BotoCoreError, ClientError

from harness.cluster import SLOTS, Cluster
from harness.freeze import freeze
from harness.proxy import Fault, FaultProxy

from .test_cluster_past import FLAGS, put

# A handshake of TLS, and not the placement table, which is 32 KiB.
NO_TABLE_BYTES = 8_000


@contextlib.contextmanager
def one_behind_a_proxy(
    home: Path, lease: str, nodes: list[str], behind: str, flags: dict[str, str]
) -> Iterator[tuple[Cluster, FaultProxy]]:
    """A settled cluster; one of its workers reaches the control plane through the proxy."""
    cluster = Cluster(home, lease, nodes, flags=flags)
    port = cluster.control.port
    proxy = FaultProxy(("127.0.0.1", port))
    try:
        cluster.control.port = proxy.port
        cluster.worker(behind, start=False)
        cluster.control.port = port
        for node in nodes:
            cluster.worker(node)
        cluster.settle(nodes)
        cluster.ask_once(nodes[0]).create_bucket(Bucket="abc")
        cluster.policy_of_all("WRITE_BACK")
        persisted(cluster)
        yield cluster, proxy
    finally:
        proxy.close()
        cluster.close()


def persisted(cluster: Cluster) -> None:
    """Waits until the UFS has everything."""
    done = cluster.cli("async-persist", "wait", "--path", "/", "--timeout", "2m")
    assert done.returncode == 0, done


def keys_of(cluster: Cluster, node: str, count: int) -> list[str]:
    """Keys that a worker owns: no other one is asked for them."""
    keys: list[str] = []
    others = [server for name, server in cluster.workers.items() if name != node]

    def served() -> float:
        return sum(other.metric("quickwater_peer_served_total") for other in others)

    for number in range(1_000):
        before, key = served(), f"k{number}"
        put(cluster, node, key, b"?")
        if served() == before:
            keys.append(key)
        if len(keys) == count:
            return keys
    raise AssertionError("too few keys of this worker")


def length(cluster: Cluster, node: str, key: str) -> int | None:
    """The length of an object, as one worker says; none: it does not say now."""
    try:
        return int(cluster.ask_once(node).head_object(Bucket="abc", Key=key)["ContentLength"])
    except (ClientError, BotoCoreError):
        return None


def told_length(cluster: Cluster, node: str, key: str) -> int:
    """The same, as soon as it says."""
    told: list[int] = []
    cluster.wait_for(lambda: told.extend(filter(None, [length(cluster, node, key)])) or told)
    return told[0]


def test_a_worker_that_was_removed_answers_for_nothing_that_others_have(tmp_path: Path) -> None:
    nodes = ["n1", "n2", "n3"]
    flags = {**FLAGS, "metadata-ttl": "10m"}
    with one_behind_a_proxy(tmp_path / "removed", "10m", nodes, "n3", flags) as (cluster, proxy):
        keys = keys_of(cluster, "n1", 8)
        persisted(cluster)
        # What is written from here on only the worker has that took it.
        (cluster.home / "ufs" / "abc").rename(cluster.home / "away")
        for key in keys:
            put(cluster, "n1", key, b"1")
        # One that goes by the table of now for as long as its lease lasts.
        proxy.set(Fault(refuse=True))
        freeze(cluster.workers["n1"].pid)
        # As soon as its connection is known to be dead.
        cluster.wait_for(lambda: cluster.cli("node", "remove", "n1").returncode == 0)
        cluster.wait_slots(lambda slots: slots["n1"] == 0 and sum(slots.values()) == SLOTS)

        def moved(key: str, body: bytes) -> bool:
            with contextlib.suppress(ClientError, BotoCoreError):
                cluster.ask_once("n2").put_object(Bucket="abc", Key=key, Body=body)
                return True
            return False

        # Others of them are the third worker's, which does not know.
        found: list[str | None] = []

        def any_moved() -> str | None:
            found.append(next((key for key in keys if moved(key, b"22")), None))
            return found[-1]

        cluster.wait_for(any_moved)
        key = str(found[-1])
        os.kill(cluster.workers["n1"].pid, signal.SIGCONT)
        # Its lease lasts, and it has bytes of the key that no UFS has.
        cluster.wait_for(lambda: length(cluster, "n1", key) == 2)
        assert length(cluster, "n3", key) in (None, 2)
        cluster.wait_for(lambda: moved(key, b"333"))
        assert length(cluster, "n3", key) in (None, 3)
        assert told_length(cluster, "n1", key) == 3


def test_slots_that_went_and_came_back_unseen_are_taken_anew(tmp_path: Path) -> None:
    with one_behind_a_proxy(tmp_path / "unseen", "3s", ["n1", "n2"], "n1", FLAGS) as (cluster, proxy):
        ufs, away = cluster.home / "ufs" / "abc", cluster.home / "away"
        keys = keys_of(cluster, "n1", 6)
        deleted, written = keys[:3], keys[3:]
        persisted(cluster)
        ufs.rename(away)
        for key in deleted:
            cluster.ask_once("n1").delete_object(Bucket="abc", Key=key)
        for key in written:
            put(cluster, "n1", key, b"of before")
        assert cluster.metric("n1", "quickwater_store_pinned_bytes") > 0
        freeze(cluster.workers["n1"].pid)
        cluster.wait_slots(lambda slots: slots["n2"] == SLOTS)
        for key in keys:
            put(cluster, "n2", key, b"of the other")
        away.rename(ufs)
        persisted(cluster)
        # It registers, and does not learn that it did: its slots come back meanwhile.
        proxy.set(Fault(cut_after=NO_TABLE_BYTES))
        os.kill(cluster.workers["n1"].pid, signal.SIGCONT)
        cluster.wait_slots(lambda slots: slots["n1"] > SLOTS // 4)
        proxy.clear()
        cluster.settle(["n1", "n2"])

        def body(node: str, key: str) -> bytes | int:
            try:
                return bytes(cluster.ask_once(node).get_object(Bucket="abc", Key=key)["Body"].read())
            except ClientError as error:
                return int(error.response["ResponseMetadata"]["HTTPStatusCode"])

        def told() -> list[bytes | int]:
            return [body(node, key) for node in ("n1", "n2") for key in keys]

        cluster.wait_for(lambda: 503 not in told())
        assert set(told()) == {b"of the other"}
        # Nothing is kept of what was replaced.
        cluster.wait_for(lambda: cluster.metric("n1", "quickwater_store_pinned_bytes") == 0)
        assert cluster.metric("n1", "quickwater_persist_dirty_objects") == 0


def test_what_the_other_one_deleted_stays_deleted_when_it_is_gone_for_good(tmp_path: Path) -> None:
    flags = {**FLAGS, "write-cache-fence": "1s"}
    with one_behind_a_proxy(tmp_path / "twice", "10s", ["n1", "n2"], "n1", flags) as (cluster, proxy):
        ufs, away = cluster.home / "ufs" / "abc", cluster.home / "away"
        keys = keys_of(cluster, "n1", 4)
        persisted(cluster)
        ufs.rename(away)
        freeze(cluster.workers["n1"].pid)
        cluster.wait_slots(lambda slots: slots["n2"] == SLOTS)

        def deleted(key: str) -> bool:
            with contextlib.suppress(ClientError, BotoCoreError):
                cluster.ask_once("n2").delete_object(Bucket="abc", Key=key)
                return True
            return False

        for key in keys:
            cluster.wait_for(lambda key=key: deleted(key))
        # Who has something that no UFS has is not asked for its slots.
        cluster.wait_for(lambda: cluster.nodes()["n2"]["changes"] == len(keys))
        cluster.workers["n2"].kill()
        # It registers, and does not learn that it did. Its slots come back by one table more:
        # nobody asks a worker for them that is removed.
        proxy.set(Fault(cut_after=NO_TABLE_BYTES))
        assert cluster.nodes()["n1"]["state"] == "silent"
        os.kill(cluster.workers["n1"].pid, signal.SIGCONT)
        cluster.wait_for(lambda: cluster.nodes()["n1"]["state"] != "silent")
        cluster.wait_for(lambda: cluster.cli("node", "remove", "n2").returncode == 0)
        cluster.wait_slots(lambda slots: slots["n1"] == SLOTS)
        proxy.clear()
        cluster.settle(["n1"])
        away.rename(ufs)

        def gone() -> bool:
            return all(status(cluster, "n1", key) == 404 for key in keys)

        cluster.wait_for(gone)
        persisted(cluster)
        assert gone()
        assert not [key for key in keys if (ufs / key).exists()]


def status(cluster: Cluster, node: str, key: str) -> int:
    """What a worker answers to a HEAD; 0: nothing."""
    try:
        cluster.ask_once(node).head_object(Bucket="abc", Key=key)
        return 200
    except ClientError as error:
        return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
    except BotoCoreError:
        return 0
