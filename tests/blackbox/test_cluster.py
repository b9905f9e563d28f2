"""A control plane and workers as processes of their own: certificates, slots, leases,
and what happens when one of them stops, dies or freezes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from harness import apart
from harness.cluster import KEYS, NODES, SLOTS, Cluster
from harness.ebpf import states
from harness.freeze import freeze
from harness.payload import payload
from harness.server import binary


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """One whose leases do not end by themselves, however busy the machine is."""
    made = Cluster(tmp_path / "cluster", "60s")
    yield made
    made.close()


@pytest.fixture
def short(tmp_path: Path) -> Iterator[Cluster]:
    """One with a lease of three seconds: it may end at any time."""
    made = Cluster(tmp_path / "short", "3s")
    yield made
    made.close()


def status_of(call: Any) -> int:
    """The HTTP status of a call that may fail."""
    try:
        return int(call()["ResponseMetadata"]["HTTPStatusCode"])
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 503:
            assert error.response["Error"]["Code"] in ("SlowDown", "ServiceUnavailable", "503")
        return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


def test_one_worker_owns_all_and_serves(cluster: Cluster) -> None:
    s3 = cluster.worker("n1").target().client()
    s3.create_bucket(Bucket="abc")
    body = payload(3_000_000, "one")
    s3.put_object(Bucket="abc", Key="key", Body=body)
    assert s3.get_object(Bucket="abc", Key="key")["Body"].read() == body
    assert cluster.slots() == {"n1": SLOTS}
    worker = cluster.worker("n1")
    assert worker.metric("quickwater_slots_owned") == SLOTS
    assert worker.metric("quickwater_control_connected") == 1
    assert worker.metric("quickwater_lease_seconds") > 0


def test_who_has_no_certificate_of_the_cluster_is_refused(
    cluster: Cluster, tmp_path: Path
) -> None:
    strange = apart.Control(tmp_path / "strange", binary(), NODES, [])
    strange.init()
    worker = cluster.worker("n1", start=False)
    good = worker.command()
    own = str(cluster.control.certificates)
    for words, told in [
        ([word.replace(own, str(strange.certificates)) for word in good], "cluster init"),
        ([word.replace("workers/n1", "workers/n2") for word in good], "--node-id n2"),
        ([word.replace("workers/n1", "control") for word in good], "not the certificate of a worker"),
        ([word.replace("workers/n1", "nowhere") for word in good], "cluster.certificates"),
        ([word for word in good if not word.startswith("--node-id")], "--node-id"),
    ]:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **KEYS}
        )
        assert done.returncode in (1, 2), f"{words}\n{done.stdout}{done.stderr}"
        assert told in done.stderr, done.stderr
    assert cluster.nodes() == {}


def served(cluster: Cluster, node: str) -> float:
    """What a worker did for others so far."""
    return cluster.worker(node).metric("quickwater_peer_served_total")


def test_two_workers_share_the_keys_and_answer_for_each_other(cluster: Cluster) -> None:
    first = cluster.worker("n1").target().client()
    first.create_bucket(Bucket="abc")
    bodies = {f"k{number}": payload(1000, number) for number in range(60)}
    for key, body in bodies.items():
        first.put_object(Bucket="abc", Key=key, Body=body)
    second = cluster.worker("n2").target().client()
    cluster.settle(NODES)
    slots = cluster.slots()
    assert all(6_500 < count < 9_900 for count in slots.values()), slots
    before = {node: served(cluster, node) for node in NODES}
    for key, body in bodies.items():
        for client in (first, second):
            assert client.get_object(Bucket="abc", Key=key)["Body"].read() == body
    # Each key has one owner, and whoever is not asks it.
    done = {node: served(cluster, node) - before[node] for node in NODES}
    assert sum(done.values()) == len(bodies) and min(done.values()) > 10, done
    for key in bodies:
        for number, client in enumerate((first, second)):
            bodies[key] = payload(500, f"{key} again {number}")
            client.put_object(Bucket="abc", Key=key, Body=bodies[key])
        assert first.get_object(Bucket="abc", Key=key)["Body"].read() == bodies[key]
    # One says goodbye: the other has all, with what the first wrote.
    assert cluster.worker("n2").stop() == 0
    cluster.wait_slots(lambda slots: slots.get("n1") == SLOTS)
    cluster.wait_slots(lambda _: cluster.worker("n1").metric("quickwater_slots_owned") == SLOTS)
    for key, body in bodies.items():
        assert first.get_object(Bucket="abc", Key=key)["Body"].read() == body
    assert len(first.list_objects_v2(Bucket="abc")["Contents"]) == len(bodies)
    assert cluster.nodes()["n2"]["state"] == "gone"


def test_reads_go_on_while_the_control_plane_is_away(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "cluster", "10m")
    try:
        worker = cluster.worker("n1")
        s3 = worker.target().client()
        s3.create_bucket(Bucket="abc")
        body = payload(5000, "kept")
        s3.put_object(Bucket="abc", Key="key", Body=body)
        assert s3.get_object(Bucket="abc", Key="key")["Body"].read() == body
        calls = worker.calls_for_clients()
        for _ in range(200):
            assert s3.get_object(Bucket="abc", Key="key")["Body"].read() == body
            s3.head_object(Bucket="abc", Key="key")
        time.sleep(1.5)
        assert s3.get_object(Bucket="abc", Key="key")["Body"].read() == body
        # What the lease covers is answered from memory.
        assert worker.calls_for_clients() == calls
        cluster.control.kill()
        end = time.monotonic() + 4
        while time.monotonic() < end:
            # What is remembered of the UFS is looked up again, of the metadata it is not.
            assert s3.get_object(Bucket="abc", Key="key")["Body"].read() == body
            time.sleep(0.05)
        cluster.wait_for(lambda: worker.metric("quickwater_control_connected") == 0)
        assert status_of(lambda: s3.put_object(Bucket="abc", Key="key", Body=b"new")) >= 500
        cluster.control.start()
        cluster.wait_for(lambda: status_of(lambda: s3.put_object(Bucket="abc", Key="key", Body=b"newer")) == 200)
        assert s3.get_object(Bucket="abc", Key="key")["Body"].read() == b"newer"
        assert worker.calls_for_clients() > calls
    finally:
        cluster.close()


def test_a_worker_without_a_lease_answers_503(short: Cluster) -> None:
    worker = short.worker("n1")
    s3 = worker.target().client()
    short.wait_for(lambda: status_of(lambda: s3.create_bucket(Bucket="abc")) in (200, 409))
    short.wait_for(lambda: status_of(lambda: s3.put_object(Bucket="abc", Key="key", Body=b"old")) == 200)
    short.control.kill()
    short.wait_for(lambda: status_of(lambda: s3.get_object(Bucket="abc", Key="key")) == 503)
    assert worker.metric("quickwater_lease_seconds") == 0
    assert status_of(lambda: s3.put_object(Bucket="abc", Key="key", Body=b"new")) == 503
    short.control.start()
    seen: list[bytes] = []

    def read() -> bool:
        try:
            seen.append(s3.get_object(Bucket="abc", Key="key")["Body"].read())
        except ClientError as error:
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 503, error
        return bool(seen)

    short.wait_for(read)
    assert seen == [b"old"]


def test_a_frozen_worker_loses_its_keys_and_knows_it_when_it_wakes(short: Cluster) -> None:
    one, two = short.worker("n1"), short.worker("n2")
    clients = {"n1": one.target().client(), "n2": two.target().client()}
    short.wait_slots(lambda slots: min(slots.values()) > 0 and sum(slots.values()) == SLOTS)
    short.wait_for(lambda: status_of(lambda: clients["n1"].create_bucket(Bucket="abc")) in (200, 409))
    keys = [f"k{number}" for number in range(30)]
    owned: dict[str, list[str]] = {"n1": [], "n2": []}

    def put(node: str, key: str, body: bytes) -> bool:
        return status_of(lambda: clients[node].put_object(Bucket="abc", Key=key, Body=body)) == 200

    for key in keys:
        before = served(short, "n2")
        short.wait_for(lambda: put("n1", key, b"1"))
        owned["n1" if served(short, "n2") == before else "n2"].append(key)
    assert len(owned["n1"]) > 5, owned
    freeze(one.pid)
    short.wait_slots(lambda slots: slots["n2"] == SLOTS)
    for key in keys:
        short.wait_for(lambda: put("n2", key, b"2"))
    os.kill(one.pid, signal.SIGCONT)
    # From its first answer on: what is current, or nothing.
    end = time.monotonic() + 6
    while time.monotonic() < end:
        for key in owned["n1"][:5]:
            try:
                assert clients["n1"].get_object(Bucket="abc", Key=key)["Body"].read() == b"2"
            except ClientError as error:
                assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 503, error
    short.wait_slots(lambda slots: slots["n1"] > 0 and sum(slots.values()) == SLOTS)


def test_what_was_acked_survives_kills_of_the_control_plane(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "cluster", "10m")
    try:
        s3 = cluster.worker("n1").target().client(retries={"max_attempts": 0})
        s3.create_bucket(Bucket="abc")
        # Per key: the last acked number, and those nobody knows of since.
        acked: dict[str, int] = {}
        unsure: dict[str, set[int]] = {}
        number = 0

        def write() -> bool:
            nonlocal number
            number += 1
            key, body = f"k{number % 7}", str(number).encode()
            if status_of(lambda: s3.put_object(Bucket="abc", Key=key, Body=body)) == 200:
                acked[key], unsure[key] = number, set()
                return True
            unsure.setdefault(key, set()).add(number)
            return False

        for _ in range(2):
            # Writes before, across the kill, while nobody is there, and after.
            cluster.wait_for(write)
            for _ in range(20):
                write()
            killer = threading.Timer(0.1, cluster.control.kill)
            killer.start()
            cluster.wait_for(lambda: not write() and not killer.is_alive())
            cluster.control.start()
            cluster.wait_for(write)
        for key, last in acked.items():
            cluster.wait_for(lambda: status_of(lambda: s3.get_object(Bucket="abc", Key=key)) == 200)
            seen = int(s3.get_object(Bucket="abc", Key=key)["Body"].read())
            assert seen == last or seen in unsure[key], (key, seen, last, unsure[key])
        assert cluster.worker("n1").metric("quickwater_control_sessions_total") >= 3
    finally:
        cluster.close()


@pytest.mark.parametrize("policy", ["WRITE_BACK", "TRANSIENT"])
def test_a_worker_that_is_killed_finds_its_dirty_data_again(cluster: Cluster, policy: str) -> None:
    worker = cluster.worker("n1")
    s3 = worker.target().client()
    s3.create_bucket(Bucket="abc")
    cluster.policy(policy, s3)
    bodies = {f"k{number}": payload(20_000, number) for number in range(20)}
    for key, body in bodies.items():
        answer = s3.put_object(Bucket="abc", Key=key, Body=body)
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
        assert headers["x-quickwater-durability"] == "local-1", headers
    worker.kill()
    cluster.control.kill()
    cluster.control.start()
    s3 = cluster.worker("n1").target().client()
    for key, body in bodies.items():
        assert s3.get_object(Bucket="abc", Key=key)["Body"].read() == body


def persisted(cluster: Cluster) -> None:
    """Waits until the UFS has everything."""
    done = cluster.cli("async-persist", "wait", "--path", "/", "--timeout", "2m")
    assert done.returncode == 0, done


def test_a_drained_worker_leaves_nothing_behind(cluster: Cluster) -> None:
    one = cluster.worker("n1").target().client(retries={"max_attempts": 0})
    one.create_bucket(Bucket="abc")
    cluster.policy("WRITE_BACK", one)
    persisted(cluster)
    # The directory of the bucket is away: what is written stays on the worker.
    place, away = cluster.home / "ufs" / "abc", cluster.home / "away"
    place.rename(away)
    bodies = {f"k{number}": payload(20_000, number) for number in range(20)}
    for key, body in bodies.items():
        one.put_object(Bucket="abc", Key=key, Body=body)
    two = cluster.worker("n2").target().client()
    told = cluster.cli("node", "drain", "n1", "--evacuate", "--timeout", "2s")
    assert told.returncode == 1 and "time is up" in told.stdout and "20 changes" in told.stdout, told
    assert cluster.nodes()["n1"]["state"] == "draining"
    # It serves what only it has, the other one has the rest, and nothing more stays here alone.
    cluster.wait_slots(lambda slots: 0 < slots["n1"] <= len(bodies))
    assert one.get_object(Bucket="abc", Key="k3")["Body"].read() == bodies["k3"]
    impatient = cluster.worker("n1").target().client(retries={"max_attempts": 0}, read_timeout=5)

    def acked() -> bool:
        # It waits for the UFS to have what came before, for longer than anybody does here.
        try:
            return status_of(lambda: impatient.put_object(Bucket="abc", Key="k3", Body=bodies["k3"])) != 503
        except ReadTimeoutError:
            return False

    cluster.wait_for(lambda: not acked())
    away.rename(place)
    told = cluster.cli("node", "drain", "n1", "--evacuate", "--timeout", "2m")
    assert told.returncode == 0 and "n1 is drained" in told.stdout, f"{told}\n{cluster.logs()}"
    node = cluster.nodes()["n1"]
    assert (node["state"], node["slots"], node["changes"], node["holds"]) == ("drained", 0, 0, False)
    for key, body in bodies.items():
        assert (place / key).read_bytes() == body
    cluster.wait_for(lambda: cluster.worker("n2").metric("quickwater_slots_owned") == SLOTS)
    for key, body in bodies.items():
        assert two.get_object(Bucket="abc", Key=key)["Body"].read() == body
    # Whoever it is restarted by.
    assert cluster.worker("n1").stop() == 0
    cluster.worker("n1")
    cluster.wait_for(lambda: cluster.nodes()["n1"]["state"] == "drained")
    assert cluster.cli("node", "drain", "n1", "--cancel").returncode == 0
    persisted(cluster)
    cluster.wait_slots(lambda slots: min(slots.values()) > 0 and sum(slots.values()) == SLOTS)
    assert cluster.cli("node", "drain", "n3").returncode == 1


def test_what_goes_with_a_removed_worker_is_told_and_never_an_older_version(cluster: Cluster) -> None:
    one = cluster.worker("n1").target().client(retries={"max_attempts": 0})
    one.create_bucket(Bucket="abc")
    for key in ("safe", "older"):
        one.put_object(Bucket="abc", Key=key, Body=b"in the UFS")
    cluster.policy("TRANSIENT", one)
    keys = ["asked", "older", "again", "deleted", "left"]
    for key in keys[1:]:
        one.put_object(Bucket="abc", Key=key, Body=b"only here")
    two = cluster.worker("n2").target().client(retries={"max_attempts": 0})
    refused = cluster.cli("node", "remove", "n1")
    assert refused.returncode == 1 and "session is open" in refused.stderr, refused
    assert "its session ends after some 10 s: try again" in refused.stderr, refused
    cluster.worker("n1").kill()
    dry = cluster.cli("node", "remove", "n1", "--dry-run", "--output", "json")
    assert json.loads(dry.stdout)["lost_objects"] == len(keys), dry
    cluster.wait_for(lambda: cluster.cli("node", "remove", "n1").returncode == 0)
    told = json.loads(cluster.cli("node", "remove", "n1", "--output", "json").stdout)
    assert {lost["path"] for lost in told["lost"]} == {f"/abc/{key}" for key in keys}, told
    cluster.wait_slots(lambda slots: slots["n2"] == SLOTS)
    cluster.wait_for(lambda: cluster.worker("n2").metric("quickwater_slots_owned") == SLOTS)
    assert cluster.nodes()["n1"]["state"] == "removed"
    assert two.get_object(Bucket="abc", Key="safe")["Body"].read() == b"in the UFS"
    for key in keys:
        assert status_of(lambda k=key: two.get_object(Bucket="abc", Key=k)) == 410, key
    cluster.policy("WRITE_THROUGH", two)
    two.put_object(Bucket="abc", Key="again", Body=b"new")
    two.delete_object(Bucket="abc", Key="deleted")
    assert two.get_object(Bucket="abc", Key="again")["Body"].read() == b"new"
    assert status_of(lambda: two.get_object(Bucket="abc", Key="deleted")) == 404
    # It comes back all the same: what it has is there, but for what was changed since.
    cluster.worker("n1")
    cluster.wait_slots(lambda slots: min(slots.values()) > 0 and sum(slots.values()) == SLOTS)
    wanted = {"safe": b"in the UFS", "older": b"only here", "left": b"only here", "again": b"new"}
    clients = {"n1": cluster.worker("n1").target().client(retries={"max_attempts": 0}), "n2": two}

    def read(key: str) -> set[bytes]:
        bodies = set()
        for client in clients.values():
            try:
                bodies.add(client.get_object(Bucket="abc", Key=key)["Body"].read())
            except ClientError as error:
                assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 503, error
        return bodies

    for key, body in wanted.items():
        seen: list[set[bytes]] = []
        cluster.wait_for(lambda: seen.append(read(key)) or seen[-1])
        assert seen[-1] == {body}, (key, seen)


def test_the_control_plane_tells_the_optional_parts_of_workers(cluster: Cluster) -> None:
    server = cluster.worker("n1")
    told = lambda: {c["name"]: c for c in cluster.nodes()["n1"]["conditions"]}  # noqa: E731
    parts = {"ebpf.reuseport", "ebpf.connect", "ebpf.handoff", "ebpf.bypass", "cluster.certificate"}
    cluster.wait_for(lambda: set(told()) == parts)
    connect = told()["ebpf.connect"]
    assert connect == {"name": "ebpf.connect", "state": "off", "detail": "no ebpf.service is set"}
    assert told()["ebpf.reuseport"]["state"] == states(server, "reuseport")
    text = cluster.cli("status").stdout
    assert "n1: ebpf.connect: off (no ebpf.service is set)" in text
    status = json.loads(cluster.cli("status", "--output", "json").stdout)
    (node,) = [n for n in status["nodes"] if n["name"] == "n1"]
    assert connect in node["conditions"]
    assert [(c["name"], c["state"]) for c in status["conditions"]] == [
        ("cluster.certificate", "valid")
    ]
