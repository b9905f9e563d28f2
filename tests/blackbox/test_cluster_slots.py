"""Slots move although there is always something that no store has: one by one, to who joins,
comes back, or stays when another one ends."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from harness.cluster import PATIENCE_SECONDS, SLOTS, Cluster
from harness.under import STORE_BUCKET, scaled
from ufssim.client import Sim

from .test_cluster_edges import key_of, made, told

NODES = ["n1", "n2", "n3"]
KEYS = 60
WRITERS = 3
# Of 16,384 slots a third each, by six standard deviations.
EVEN = range(SLOTS // 3 - 370, SLOTS // 3 + 370)


@pytest.fixture
def cluster(tmp_path: Path, store: Sim) -> Iterator[Cluster]:
    """Two workers over the store simulator, whose leases do not end by themselves."""
    store.reset()
    made = Cluster(tmp_path / "slots", "10m", NODES, **scaled(store, write_cache_fence="3s"))
    try:
        for node in NODES[:2]:
            made.worker(node)
        made.settle(NODES[:2])
        yield made
    finally:
        store.up()
        store.clear_rules()
        made.close()


class Writers:
    """Write the same keys over and over, each its own, through whichever worker answers."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.ended = threading.Event()
        self.acked: dict[str, bytes] = {}
        self.unsure: dict[str, set[bytes]] = {}
        self.done = 0
        self.threads = [threading.Thread(target=self.write, args=(n,)) for n in range(WRITERS)]

    def __enter__(self) -> "Writers":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join()

    def write(self, number: int) -> None:
        """Until the end; what a worker does not ack another one may."""
        chance = random.Random(number)
        keys = [f"k{key}" for key in range(number, KEYS, WRITERS)]
        turn = 0
        clients: dict[str, Any] = {}
        while not self.ended.is_set():
            turn += 1
            key, body = chance.choice(keys), f"{number}-{turn}".encode()
            node = chance.choice(list(self.cluster.workers))
            server = self.cluster.workers[node]
            if not server.alive() or "s3" not in server.run:
                time.sleep(0.02)
                continue
            address = str(server.run["s3"])
            if address not in clients:
                clients[address] = server.target().client()
            try:
                clients[address].put_object(Bucket="abc", Key=key, Body=body)
                self.acked[key] = body
                self.unsure[key] = set()
                self.done += 1
            except (ClientError, BotoCoreError):
                self.unsure.setdefault(key, set()).add(body)

    def goes_on(self) -> None:
        """Waits for as many acks as there are keys."""
        before = self.done
        self.cluster.wait_for(lambda: self.done > before + KEYS)

    def wrong(self, s3: Any) -> list[str]:
        """Keys that have not what was acked last, nor what may have been written after it."""
        texts = []
        for key, body in self.acked.items():
            got = made(self.cluster, lambda: s3.get_object(Bucket="abc", Key=key)["Body"].read())
            if got != body and got not in self.unsure[key]:
                texts.append(f"{key}: {got!r}, acked {body!r}")
        return texts


def even(cluster: Cluster, nodes: list[str]) -> float:
    """Waits until all these have their part; seconds until then."""
    begun = time.monotonic()
    cluster.wait_slots(lambda slots: all(slots.get(node, 0) in EVEN for node in nodes))
    cluster.settle(nodes)
    return time.monotonic() - begun


def slow(store: Sim) -> None:
    """Something is always on its way: each request takes a while."""
    store.rule("latency", delay_s=0.15, operation="PutObject")


def test_joins_and_restarts_under_steady_writes_end_even(cluster: Cluster, store: Sim) -> None:
    s3 = cluster.worker("n1").target().client()
    made(cluster, lambda: s3.create_bucket(Bucket="abc"), (500, 503))
    cluster.policy_of_all("WRITE_BACK")
    slow(store)
    with Writers(cluster) as writers:
        writers.goes_on()
        cluster.worker("n3")
        joined = even(cluster, NODES)
        writers.goes_on()
        cluster.worker("n1").kill()
        cluster.worker("n1")
        killed = even(cluster, NODES)
        writers.goes_on()
        assert cluster.worker("n2").stop() == 0
        # Nobody waits for a lease of ten minutes.
        cluster.wait_slots(lambda slots: slots["n2"] == 0 and sum(slots.values()) == SLOTS)
        writers.goes_on()
        cluster.worker("n2")
        restarted = even(cluster, NODES)
        writers.goes_on()
    print(f"even after {joined:.1f} s, {killed:.1f} s, {restarted:.1f} s; {writers.done} acked")
    for node in NODES:
        assert not (wrong := writers.wrong(cluster.worker(node).target().client())), wrong
    waited = cluster.cli("async-persist", "wait", "--path", "/abc", "--timeout", "2m")
    assert waited.returncode == 0, waited
    for key, body in writers.acked.items():
        stored = store.body(STORE_BUCKET, f"root/abc/{key}")
        assert stored == body or stored in writers.unsure[key], key


def test_what_a_worker_cannot_persist_at_its_end_comes_back_with_it(cluster: Cluster, store: Sim) -> None:
    one, two = (cluster.worker(node).target().client() for node in NODES[:2])
    made(cluster, lambda: one.create_bucket(Bucket="abc"), (500, 503))
    cluster.policy_of_all("WRITE_BACK")
    keys = [key_of(cluster, "n1", one, prefix) for prefix in ("left", "written", "clean")]
    left, written, clean = keys
    cluster.wait_for(lambda: cluster.cli("async-persist", "wait", "--path", "/abc").returncode == 0)
    store.down()
    for key in (left, written):
        made(cluster, lambda: one.put_object(Bucket="abc", Key=key, Body=b"of the first"))
    assert cluster.worker("n1").stop() == 0
    # It said goodbye: its slots are others' long before its lease would end.
    cluster.wait_slots(lambda slots: slots["n2"] == SLOTS)
    assert cluster.nodes()["n1"]["state"] == "gone"
    made(cluster, lambda: two.put_object(Bucket="abc", Key=clean, Body=b"of the second"))
    made(cluster, lambda: two.put_object(Bucket="abc", Key=written, Body=b"of the second"))
    assert told(lambda: two.get_object(Bucket="abc", Key=left))[0] == 503, "never what was before"
    one = cluster.worker("n1").target().client()
    for s3 in (two, one):
        got = made(cluster, lambda: s3.get_object(Bucket="abc", Key=left)["Body"].read())
        assert got == b"of the first"
    store.up()
    for s3 in (two, one):
        for key, body in ((left, b"of the first"), (written, b"of the second"), (clean, b"of the second")):
            got = made(cluster, lambda: s3.get_object(Bucket="abc", Key=key)["Body"].read())
            assert got == body, key
    waited = cluster.cli("async-persist", "wait", "--path", "/abc", "--timeout", "2m")
    assert waited.returncode == 0, waited
    assert store.body(STORE_BUCKET, f"root/abc/{left}") == b"of the first"
    assert store.body(STORE_BUCKET, f"root/abc/{written}") == b"of the second"


def test_a_worker_persists_what_it_has_before_it_ends(cluster: Cluster, store: Sim) -> None:
    one, two = (cluster.worker(node).target().client() for node in NODES[:2])
    made(cluster, lambda: one.create_bucket(Bucket="abc"), (500, 503))
    cluster.policy_of_all("WRITE_BACK")
    keys = [key_of(cluster, "n1", one, f"own{number}-") for number in range(4)]
    cluster.wait_for(lambda: cluster.cli("async-persist", "wait", "--path", "/abc").returncode == 0)
    server = cluster.worker("n1")
    server.flags["shutdown-persist"] = "60s"
    assert server.restart()
    cluster.settle(NODES[:2])
    one = server.target().client()
    # Failures of a while: each makes a change wait longer.
    store.down()
    for key in keys:
        made(cluster, lambda: one.put_object(Bucket="abc", Key=key, Body=b"in time"))
    threading.Timer(1.0, store.up).start()
    assert server.stop(PATIENCE_SECONDS) == 0
    for key in keys:
        assert store.body(STORE_BUCKET, f"root/abc/{key}") == b"in time", cluster.logs()
        got = made(cluster, lambda: two.get_object(Bucket="abc", Key=key)["Body"].read())
        assert got == b"in time"
    node = cluster.nodes()["n1"]
    assert (node["state"], node["slots"]) == ("gone", 0), node
