"""A worker that is frozen in the middle of its writes to a directory reverts nothing when it
wakes up. QW_FENCE_TRIALS says how often it is tried."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
from botocore.exceptions import ClientError

from harness.cluster import PATIENCE_SECONDS, Cluster
from harness.freeze import freeze
from harness.payload import payload
from harness.raw import BROKEN, Request, connect, head_bytes, read_reply, sign

NODES = ["n1", "n2", "n3"]
FROZEN, OTHERS = NODES[0], NODES[1:]
KEYS = [f"k{number}" for number in range(90)]
# All of one trial are under way at once; larger ones are staged as they come.
BODY_BYTES = 300_000
TRIALS = int(os.environ.get("QW_FENCE_TRIALS", "2"))
RELAYED = 'quickwater_peer_served_total{task="relay"} '


@pytest.fixture()
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three workers over a directory, with a short lease and a fence that is not over in time."""
    cluster = Cluster(tmp_path / "fences", "3s", NODES, flags={"write-cache-fence": "15m"})
    try:
        for node in NODES:
            cluster.worker(node)
        cluster.settle(NODES)
        client(cluster, FROZEN).create_bucket(Bucket="abc")
        cluster.policy_of_all("WRITE_THROUGH")
        yield cluster
    finally:
        cluster.close()


def client(cluster: Cluster, node: str) -> Any:
    """Of a worker, without attempts of its own."""
    return cluster.worker(node, start=False).target().client(retries={"max_attempts": 0})


def put(cluster: Cluster, node: str, key: str, body: bytes) -> None:
    """Until it is acked; nothing but 503 before."""
    s3, end = client(cluster, node), time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            s3.put_object(Bucket="abc", Key=key, Body=body)
            return
        except ClientError as error:
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 503, error
            assert time.monotonic() < end, cluster.logs()
            time.sleep(0.05)


def get(cluster: Cluster, node: str, key: str) -> bytes:
    """What a worker says; it may have to be asked again."""
    s3, end = client(cluster, node), time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return s3.get_object(Bucket="abc", Key=key)["Body"].read()
        except ClientError as error:
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 503, error
            assert time.monotonic() < end, cluster.logs()
            time.sleep(0.05)


def relayed(cluster: Cluster) -> float:
    """Requests that the others served for a worker."""
    lines = [line for node in OTHERS for line in cluster.worker(node).metrics_text().splitlines()]
    return sum(float(line.removeprefix(RELAYED)) for line in lines if line.startswith(RELAYED))


def own_keys(cluster: Cluster) -> list[str]:
    """Those whose writes the worker that is to be frozen makes itself."""
    own = []
    for key in KEYS:
        before = relayed(cluster)
        put(cluster, FROZEN, key, b"first")
        if relayed(cluster) == before:
            own.append(key)
    return own


class Late:
    """A PUT whose body the worker has asked for. It is the worker's own: what it does with it
    after it was frozen no other worker is asked for."""

    def __init__(self, cluster: Cluster, key: str, body: bytes) -> None:
        target = cluster.worker(FROZEN).target()
        request = Request("PUT", f"/abc/{key}", headers=[("Expect", "100-continue")], body=body)
        self.key, self.body = key, body
        self.connection = connect(target)
        self.connection.sendall(head_bytes(request, sign(target, request)))
        asked = b""
        while not asked.endswith(b"\r\n\r\n"):
            piece = self.connection.recv(1)
            assert piece, asked
            asked += piece
        assert asked.startswith(b"HTTP/1.1 100 "), asked

    def send(self, answered: threading.Event) -> None:
        """The body, and whatever is answered."""
        try:
            self.connection.sendall(self.body)
            read_reply(self.connection, "PUT")
            answered.set()
        except BROKEN:
            pass  # It froze.

    def close(self) -> None:
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # It was closed from the other side.
        self.connection.close()


def freeze_in_writes(cluster: Cluster, keys: list[str], trial: int) -> int:
    """Freezes the worker while it publishes; some were acked, others were not. Its process."""
    late = [Late(cluster, key, b"old" + payload(BODY_BYTES, (trial, key))) for key in keys]
    answered, process = threading.Event(), cluster.worker(FROZEN).pid
    threads = [threading.Thread(target=one.send, args=(answered,)) for one in late]
    for thread in threads:
        thread.start()
    assert answered.wait(PATIENCE_SECONDS), cluster.logs()
    freeze(process)
    for one in late:
        one.close()
    for thread in threads:
        thread.join()
    return process


def test_a_worker_frozen_in_its_writes_reverts_nothing(cluster: Cluster) -> None:
    """Acked writes of its successors stay, in the directory and at every worker."""
    keys, slots = own_keys(cluster), cluster.slots()
    assert keys, "it owns a third of the slots"
    for trial in range(TRIALS):
        process = freeze_in_writes(cluster, keys, trial)
        try:
            for number, key in enumerate(keys):
                put(cluster, OTHERS[number % len(OTHERS)], key, b"new " + key.encode())
        finally:
            os.kill(process, signal.SIGCONT)
        # With slots again, it has a session that began after it woke up.
        cluster.wait_slots(lambda now: now == slots)
        cluster.settle(NODES)
        for key in keys:
            wanted = b"new " + key.encode()
            assert (cluster.home / "ufs/abc" / key).read_bytes() == wanted, key
            for node in NODES:
                assert get(cluster, node, key) == wanted, (key, node)
        # And writes in it.
        put(cluster, FROZEN, keys[0], b"again")
        assert (cluster.home / "ufs/abc" / keys[0]).read_bytes() == b"again"
