"""What happens at the edges of a cluster: a worker dies, its keys move, it comes back."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
from botocore.exceptions import ClientError, ResponseStreamingError

from harness.cluster import PATIENCE_SECONDS, SLOTS, Cluster, persist_state, settled
from harness.payload import MIB, md5_hex, payload
from harness.raw import BROKEN, Request, send
from harness.target import error_of

NODES = ["n1", "n2"]
# How long the control plane is away; workers answer from what they know.
OUTAGE_SECONDS = float(os.environ.get("QW_CONTROL_OUTAGE_SECONDS", "3"))
FENCE = {"write-cache-fence": "3s", "write-cache-persist-retry-max": "1s"}


@pytest.fixture
def short(tmp_path: Path) -> Iterator[Cluster]:
    """With a lease of three seconds: it may end at any time."""
    with settled(tmp_path / "short", "3s", NODES, flags=FENCE) as cluster:
        yield cluster


@pytest.fixture
def steady(tmp_path: Path) -> Iterator[Cluster]:
    """With leases that do not end by themselves."""
    with settled(tmp_path / "steady", "10m", NODES) as cluster:
        yield cluster


def told(call: Any) -> tuple[int, str]:
    """Status and message of a call that may fail."""
    try:
        return int(call()["ResponseMetadata"]["HTTPStatusCode"]), ""
    except ClientError as error:
        text = error.response.get("Error", {}).get("Message", "")
        return int(error.response["ResponseMetadata"]["HTTPStatusCode"]), text


def told_at_last(cluster: Cluster, call: Any) -> int:
    """The status of a call once it is not told to come back."""
    cluster.wait_for(lambda: told(call)[0] != 503)
    return told(call)[0]


def made(cluster: Cluster, call: Any, later: tuple[int, ...] = (503,)) -> Any:
    """What a call answers once it is not told to come back."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return call()
        except ClientError as error:
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] in later, error
        except ResponseStreamingError:
            # A body breaks off where the lease of its worker ends; half of it is no answer.
            pass
        assert time.monotonic() < end, cluster.logs()
        time.sleep(0.1)


def key_of(cluster: Cluster, node: str, s3: Any, prefix: str) -> str:
    """A key of a worker, by whether the other one is asked for it."""
    other = {"n1": "n2", "n2": "n1"}[node]
    for number in range(200):
        key = f"{prefix}{number}"
        before = cluster.worker(other).metric("quickwater_peer_served_total")
        made(cluster, lambda: s3.put_object(Bucket="abc", Key=key, Body=b"?"))
        if cluster.worker(other).metric("quickwater_peer_served_total") == before:
            return key
    raise AssertionError("no key of this worker")


def dirty_key_of(cluster: Cluster, node: str, prefix: str) -> str:
    """A key of a worker that goes by the policy of write-back by now."""
    s3 = cluster.worker(node).target().client()
    key = key_of(cluster, node, s3, prefix)

    def kept() -> bool:
        answer = made(cluster, lambda: s3.put_object(Bucket="abc", Key=key, Body=b"?"))
        return str(answer["ResponseMetadata"]["HTTPHeaders"]["x-quickwater-durability"]) == "local-1"

    cluster.wait_for(kept)
    return key


@pytest.mark.parametrize("policy", ["WRITE_BACK", "TRANSIENT"])
def test_an_upload_is_completed_only_by_who_has_its_parts(short: Cluster, policy: str) -> None:
    one = short.worker("n1").target().client(retries={"max_attempts": 0})
    two = short.worker("n2").target().client(retries={"max_attempts": 0})
    short.wait_for(lambda: told(lambda: one.create_bucket(Bucket="abc"))[0] in (200, 409))
    short.policy(policy, one)
    key = dirty_key_of(short, "n1", "k")
    named = {"Bucket": "abc", "Key": key}
    named["UploadId"] = made(short, lambda: one.create_multipart_upload(**named))["UploadId"]
    bodies = [payload(5 * MIB + number, number) for number in range(2)] + [b"end"]
    parts = []
    for number, body in enumerate(bodies, 1):
        sent = made(short, lambda: one.upload_part(**named, PartNumber=number, Body=body))
        parts.append({"PartNumber": number, "ETag": sent["ETag"]})
    done = {"MultipartUpload": {"Parts": parts}}
    short.worker("n1").kill()
    short.wait_slots(lambda slots: slots["n2"] == SLOTS)
    # Its parts are with a dead worker: no ack of what nobody can read, and a reason.
    seen: list[str] = []

    def refused() -> bool:
        status, text = told(lambda: two.complete_multipart_upload(**named, **done))
        assert status == 503, (status, text)
        seen.append(text)
        return "another worker only" in text

    short.wait_for(refused)
    for _ in range(5):
        refused()
    # Parts are still taken, and listed; one of them is not all.
    made(short, lambda: two.upload_part(**named, PartNumber=3, Body=b"again"))
    listed = made(short, lambda: two.list_parts(**named))["Parts"]
    assert [part["PartNumber"] for part in listed] == [1, 2, 3]
    third = {"PartNumber": 3, "ETag": listed[2]["ETag"]}
    mixed = {"MultipartUpload": {"Parts": [*parts[:2], third]}}
    assert told(lambda: two.complete_multipart_upload(**named, **mixed))[0] == 503
    # All of them uploaded again are.
    for number, body in enumerate(bodies[:2], 1):
        sent = made(short, lambda: two.upload_part(**named, PartNumber=number, Body=body))
        assert sent["ETag"] == parts[number - 1]["ETag"]
    made(short, lambda: two.complete_multipart_upload(**named, **mixed))
    whole = b"".join(bodies[:2]) + b"again"
    assert made(short, lambda: two.get_object(Bucket="abc", Key=key)["Body"].read()) == whole
    # The first comes back, with parts that nobody names any more.
    s3 = short.worker("n1").target().client(retries={"max_attempts": 0})
    assert made(short, lambda: s3.get_object(Bucket="abc", Key=key)["Body"].read()) == whole


def test_an_upload_waits_for_the_worker_that_has_its_parts(short: Cluster) -> None:
    one = short.worker("n1").target().client(retries={"max_attempts": 0})
    two = short.worker("n2").target().client(retries={"max_attempts": 0})
    short.wait_for(lambda: told(lambda: one.create_bucket(Bucket="abc"))[0] in (200, 409))
    short.policy("WRITE_BACK", one)
    key = dirty_key_of(short, "n1", "k")
    named = {"Bucket": "abc", "Key": key}
    named["UploadId"] = made(short, lambda: one.create_multipart_upload(**named))["UploadId"]
    bodies = [payload(5 * MIB + 1, "first"), payload(MIB, "second")]
    parts = []
    for number, body in enumerate(bodies, 1):
        sent = made(short, lambda: one.upload_part(**named, PartNumber=number, Body=body))
        parts.append({"PartNumber": number, "ETag": sent["ETag"]})
    done = {"MultipartUpload": {"Parts": parts}}
    short.worker("n1").kill()
    short.wait_slots(lambda slots: slots["n2"] == SLOTS)
    short.wait_for(
        lambda: "another worker only" in told(lambda: two.complete_multipart_upload(**named, **done))[1]
    )
    one = short.worker("n1").target().client(retries={"max_attempts": 0})
    # The key is its own again in a while; whichever worker is asked, then it is one object.
    made(short, lambda: two.complete_multipart_upload(**named, **done))
    for s3 in (one, two):
        got = made(short, lambda: s3.get_object(Bucket="abc", Key=key)["Body"].read())
        assert got == b"".join(bodies)


def test_leased_reads_ask_nobody_and_outlive_the_control_plane(steady: Cluster) -> None:
    clients = [steady.worker(node).target().client() for node in NODES]
    clients[0].create_bucket(Bucket="abc")
    bodies = {f"k{number}": payload(5000, number) for number in range(20)}
    for key, body in bodies.items():
        clients[0].put_object(Bucket="abc", Key=key, Body=body)

    def calls() -> list[float]:
        return [steady.worker(node).calls_for_clients() for node in NODES]

    def read(rounds: int) -> None:
        for _ in range(rounds):
            for s3 in clients:
                for key, body in bodies.items():
                    assert s3.get_object(Bucket="abc", Key=key)["Body"].read() == body
                    assert s3.head_object(Bucket="abc", Key=key)["ContentLength"] == 5000

    read(1)
    before = calls()
    relayed = sum(steady.worker(node).metric("quickwater_peer_served_total") for node in NODES)
    read(4)
    # Not even one, whether the asked worker owns the key or has another one answer.
    assert calls() == before
    assert sum(steady.worker(node).metric("quickwater_peer_served_total") for node in NODES) > relayed
    steady.control.kill()
    for node in NODES:
        steady.wait_for(lambda: steady.worker(node).metric("quickwater_control_connected") == 0)
    end = time.monotonic() + OUTAGE_SECONDS
    while time.monotonic() < end:
        read(1)
    assert told(lambda: clients[0].put_object(Bucket="abc", Key="again", Body=b"?"))[0] >= 500
    steady.control.start()
    for s3 in clients:
        made(steady, lambda: s3.put_object(Bucket="abc", Key="again", Body=b"new"), (500, 503))
        assert s3.get_object(Bucket="abc", Key="again")["Body"].read() == b"new"


def test_dirty_keys_of_a_dead_worker_take_writes_and_come_back(short: Cluster) -> None:
    one = short.worker("n1").target().client()
    two = short.worker("n2").target().client()
    short.wait_for(lambda: told(lambda: one.create_bucket(Bucket="abc"))[0] in (200, 409))
    short.policy("WRITE_BACK", one)
    keys = {what: dirty_key_of(short, "n1", what) for what in ("written", "deleted", "left")}
    dirty_key_of(short, "n2", "other")
    short.wait_for(lambda: short.cli("async-persist", "wait", "--path", "/abc").returncode == 0)
    # The directory of the bucket is away: what is written stays on the worker.
    place, away = short.home / "ufs" / "abc", short.home / "away"
    place.rename(away)
    for key in keys.values():
        made(short, lambda: one.put_object(Bucket="abc", Key=key, Body=b"of the first"))
    short.worker("n1").kill()
    short.wait_slots(lambda slots: slots["n2"] == SLOTS)
    # What only the dead worker has is never answered with what was before.
    for key in keys.values():
        for _ in range(3):
            assert told(lambda: two.get_object(Bucket="abc", Key=key))[0] == 503
    # It is written and deleted all the same, and acked; the UFS is told when what the
    # dead worker may have sent is certainly over.
    new = made(short, lambda: two.put_object(Bucket="abc", Key=keys["written"], Body=b"of the second"))
    assert new["ResponseMetadata"]["HTTPHeaders"]["x-quickwater-durability"] == "local-1"
    made(short, lambda: two.delete_object(Bucket="abc", Key=keys["deleted"]))
    got = made(short, lambda: two.get_object(Bucket="abc", Key=keys["written"])["Body"].read())
    assert got == b"of the second"
    assert told_at_last(short, lambda: two.get_object(Bucket="abc", Key=keys["deleted"])) == 404
    assert told(lambda: two.get_object(Bucket="abc", Key=keys["left"]))[0] == 503
    away.rename(place)
    short.wait_for(lambda: (place / keys["written"]).read_bytes() == b"of the second")
    short.wait_for(lambda: not (place / keys["deleted"]).exists())
    assert (place / keys["left"]).read_bytes() == b"?"
    # It comes back with what it had: only what nobody has replaced counts.
    one = short.worker("n1").target().client()
    short.wait_for(lambda: told(lambda: two.get_object(Bucket="abc", Key=keys["left"]))[0] == 200)
    short.wait_for(lambda: (place / keys["left"]).read_bytes() == b"of the first")
    for s3 in (one, two):
        for what, body in (("written", b"of the second"), ("left", b"of the first")):
            assert made(short, lambda: s3.get_object(Bucket="abc", Key=keys[what])["Body"].read()) == body
        assert told_at_last(short, lambda: s3.get_object(Bucket="abc", Key=keys["deleted"])) == 404
    short.wait_for(lambda: persist_state(made(short, lambda: two.head_object(Bucket="abc", Key=keys["left"]))) == "PERSISTED")
    assert (place / keys["written"]).read_bytes() == b"of the second"
    assert not (place / keys["deleted"]).exists()


def test_writes_go_on_when_it_is_not_known_what_became_of_some(steady: Cluster) -> None:
    """The control plane dies between commits and their answers: their keys stay locked
    only until the next session has asked what became of them."""
    target = steady.worker("n1").target()
    s3 = target.client()
    s3.create_bucket(Bucket="abc")
    steady.policy_of_all("WRITE_BACK")
    keys = [f"/abc/k{number}" for number in range(24)]
    stop = threading.Event()

    def put(key: str) -> int:
        try:
            return send(target, Request("PUT", key, body=b"x" * 100)).status
        except BROKEN:
            return 0

    def load(number: int) -> None:
        turn = number
        while not stop.is_set():
            turn += 7
            put(keys[turn % len(keys)])

    writers = [threading.Thread(target=load, args=(number,)) for number in range(12)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(3):
            time.sleep(1)
            steady.control.kill()
            steady.control.start()
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    for key in keys:
        steady.wait_for(lambda key=key: put(key) == 200)


def test_a_completed_upload_stays_when_its_worker_restarts_without_its_slots(short: Cluster) -> None:
    one, two = (short.worker(node).target().client() for node in NODES)
    short.wait_for(lambda: told(lambda: one.create_bucket(Bucket="abc"))[0] in (200, 409))
    short.policy("WRITE_BACK", one)
    key = dirty_key_of(short, "n1", "k")
    short.wait_for(lambda: short.cli("async-persist", "wait", "--path", "/abc").returncode == 0)
    place, away = short.home / "ufs" / "abc", short.home / "away"
    place.rename(away)
    named = {"Bucket": "abc", "Key": key}
    named["UploadId"] = made(short, lambda: one.create_multipart_upload(**named))["UploadId"]
    bodies = [payload(5 * MIB + 1, "first"), payload(MIB, "second")]
    parts = []
    for number, body in enumerate(bodies, 1):
        sent = made(short, lambda: one.upload_part(**named, PartNumber=number, Body=body))
        parts.append({"PartNumber": number, "ETag": sent["ETag"]})
    made(short, lambda: one.complete_multipart_upload(**named, MultipartUpload={"Parts": parts}))
    short.worker("n1").kill()
    short.wait_slots(lambda slots: slots["n2"] == SLOTS)
    # The key is another worker's when it starts; only its own disk has the bytes.
    one = short.worker("n1").target().client()
    assert short.metric("n1", "quickwater_store_pinned_bytes") >= sum(map(len, bodies)), short.logs()
    for s3 in (one, two):
        got = made(short, lambda: s3.get_object(Bucket="abc", Key=key)["Body"].read())
        assert got == b"".join(bodies)
    away.rename(place)
    short.wait_for(lambda: persist_state(made(short, lambda: two.head_object(Bucket="abc", Key=key))) == "PERSISTED")
    assert (place / key).read_bytes() == b"".join(bodies)
    short.wait_for(lambda: short.metric("n1", "quickwater_store_pinned_bytes") < MIB)


def test_copies_and_batches_wait_for_an_owner_that_restarts(steady: Cluster) -> None:
    one, two = (steady.worker(node).target().client(retries={"max_attempts": 0}) for node in ("n1", "n2"))
    one.create_bucket(Bucket="abc")
    source, copy = key_of(steady, "n2", two, "source"), key_of(steady, "n1", one, "copy")
    body = payload(MIB + 1, "source")
    one.put_object(Bucket="abc", Key=source, Body=body)
    from_there = {"Bucket": "abc", "Key": copy, "CopySource": {"Bucket": "abc", "Key": source}}
    upload = one.create_multipart_upload(Bucket="abc", Key=copy)["UploadId"]
    batch = {"Bucket": "abc", "Delete": {"Objects": [{"Key": source}]}}
    calls = [
        lambda: one.copy_object(**from_there),
        lambda: one.upload_part_copy(**from_there, UploadId=upload, PartNumber=1),
        lambda: one.delete_objects(**batch),
    ]

    def failures() -> float:
        return steady.worker("n1").metric("quickwater_peer_failures_total")

    steady.worker("n2").kill()
    for call in calls:
        before = failures()
        status, _ = told(call)
        # Within one answer its owner is looked for again and again.
        assert failures() - before >= 5, status
    # Of a batch that failed for a key clients would not ask again.
    assert error_of(one.delete_objects, **batch) == (503, "SlowDown")
    with_condition = {"Objects": [{"Key": source, "ETag": f'"{md5_hex(body)}"'}]}
    answer = one.delete_objects(Bucket="abc", Delete=with_condition)
    assert [error["Code"] for error in answer["Errors"]] == ["SlowDown"]
    steady.worker("n2")
    for call in calls[:2]:
        made(steady, call)
    assert one.get_object(Bucket="abc", Key=copy)["Body"].read() == body
    assert "Errors" not in made(steady, calls[2])
    assert told(lambda: one.head_object(Bucket="abc", Key=source))[0] == 404
