"""What becomes of copies when a worker freezes, or is lost with its disk.

`QW_REPLICA_COUNT` and `QW_REPLICA_BYTES` say how many objects of how many bytes are
copied again in the test that tells how long it takes, and what a client's writes take
beside.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
from botocore.exceptions import ClientError

from harness.cluster import SLOTS, Cluster
from harness.freeze import freeze
from harness.payload import payload
from harness.replicas import NODES, client, persisted, put, read

REPAIR_COUNT = int(os.environ.get("QW_REPLICA_COUNT", "100"))
REPAIR_BYTES = int(os.environ.get("QW_REPLICA_BYTES", "10240"))
AT_LENGTH = "QW_REPLICA_COUNT" in os.environ
# Three tenths of it may be dirty, and after a loss each worker has everything.
REPAIR_TOTAL = REPAIR_COUNT * REPAIR_BYTES
ROOM = {"capacity": str(5 * REPAIR_TOTAL)} if REPAIR_TOTAL > 1 << 29 else {}


@pytest.fixture
def short(tmp_path: Path) -> Iterator[Cluster]:
    """As the others have it, with room for what is copied again at length."""
    made = Cluster(tmp_path / "short", "3s", NODES, flags=ROOM)
    yield made
    made.close()


def test_a_worker_that_froze_lets_go_of_what_others_saw_to(short: Cluster) -> None:
    clients = {node: client(short, node) for node in NODES}
    short.settle(NODES)
    clients["n2"].create_bucket(Bucket="abc")
    short.policy_of_all("WRITE_BACK", 2)
    persisted(short)
    place, away = short.home / "ufs" / "abc", short.home / "away"
    place.rename(away)
    bodies: dict[str, bytes] = {}

    def write() -> bool:
        key = f"k{len(bodies)}"
        body = payload(30_000, key)
        if put(clients["n2"], key, body) == "local-2":
            bodies[key] = body
        kept = short.metric("n1", "quickwater_copies_kept_objects")
        elsewhere = short.metric("n1", "quickwater_copies_elsewhere_objects")
        return len(bodies) > 12 and kept > 0 and elsewhere > 0

    short.wait_for(write)
    frozen, left = short.worker("n1"), ["n2", "n3"]
    freeze(frozen.pid)
    try:
        short.wait_slots(lambda slots: sum(slots.get(node, 0) for node in left) == SLOTS)
        for key, body in bodies.items():
            seen = short.wait_for(lambda k=key: read(clients["n2"], k))
            assert seen == body, key
        away.rename(place)
        persisted(short)
        for key, body in bodies.items():
            assert (place / key).read_bytes() == body, key
    finally:
        os.kill(frozen.pid, signal.SIGCONT)
    # It lets go of its copies without a restart, and may have slots.
    kept = "quickwater_copies_kept_objects"
    short.wait_for(lambda: short.metric("n1", kept) == 0, lambda: short.metric("n1", kept))
    short.settle(NODES)
    for key, body in bodies.items():
        assert short.wait_for(lambda k=key: read(clients["n1"], k)) == body, key


class Beside:
    """A client that writes small objects one after the other, and how long each took."""

    def __init__(self, s3: Any) -> None:
        self.s3 = s3
        self.acked: list[tuple[float, float]] = []
        self.failed: list[BaseException] = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        """Until it is told to stop; what is refused meanwhile does not count."""
        number = 0
        while not self.stop.is_set():
            number, begun = number + 1, time.monotonic()
            try:
                if put(self.s3, f"beside{number}", b"?" * 10_240):
                    self.acked.append((begun, time.monotonic() - begun))
            except BaseException as error:  # noqa: BLE001 - shown by the test itself
                self.failed.append(error)
                return
            self.stop.wait(0.01)

    def end(self, since: float) -> str:
        """What its writes since then took."""
        self.stop.set()
        self.thread.join()
        assert not self.failed, self.failed
        took = sorted(took for begun, took in self.acked if begun >= since)
        if not took:
            return "no write was acked beside"
        middle, high = took[len(took) // 2], took[len(took) * 99 // 100]
        return f"{len(took)} writes acked beside, p50 {middle:.4f} s, p99 {high:.4f} s"


def test_copies_are_made_again_without_a_request(short: Cluster) -> None:
    clients = {node: client(short, node) for node in NODES}
    short.settle(NODES)
    clients["n1"].create_bucket(Bucket="abc")
    short.policy_of_all("WRITE_BACK", 2)
    persisted(short)
    (short.home / "ufs" / "abc").rename(short.home / "away")
    body = payload(REPAIR_BYTES, "repair")
    numbers = iter(range(REPAIR_COUNT))
    acked: list[str] = []
    failed: list[BaseException] = []

    def write(s3: Any) -> None:
        try:
            for number in numbers:
                short.wait_for(lambda n=number: put(s3, f"r{n}", body))
                acked.append(f"r{number}")
        except BaseException as error:  # noqa: BLE001 - shown by the test itself
            failed.append(error)

    writers = [
        threading.Thread(target=write, args=(client(short, node),)) for node in ("n1", "n2") * 4
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not failed and len(acked) == REPAIR_COUNT, failed
    beside = Beside(client(short, "n1")) if AT_LENGTH else None
    on_n3 = short.metric("n3", "quickwater_copies_kept_bytes")
    short.lose("n3")
    short.wait_slots(lambda slots: slots["n1"] + slots["n2"] == SLOTS)
    known = time.monotonic()
    copied = "quickwater_copies_made_bytes_total"
    names = ["quickwater_copies_missing_objects", "quickwater_copies_missing_bytes", copied]

    def whole() -> bool:
        elsewhere = short.sum("quickwater_copies_elsewhere_objects")
        return elsewhere >= REPAIR_COUNT and short.sum(names[0]) == short.sum(names[1]) == 0

    short.wait_for(whole, lambda: {name: short.sum(name) for name in names})
    took, made = time.monotonic() - known, short.sum(copied)
    assert made >= on_n3 > 0
    tried = short.sum("quickwater_copies_failed_total")
    others = beside.end(known) if beside else "nobody wrote beside"
    print(f"{REPAIR_COUNT} objects of {REPAIR_BYTES} bytes: {made:.0f} bytes copied again within "
          f"{took:.1f} s from when the slots of the lost worker had moved, {tried:.0f} attempts "
          f"failed; {others}")
    s3 = client(short, "n1")
    for key in random.Random(1).sample(acked, min(len(acked), 50)):
        assert short.wait_for(lambda k=key: read(s3, k)) == body, key


def test_with_one_copy_a_lost_disk_is_told(short: Cluster) -> None:
    clients = [client(short, node) for node in ("n1", "n2")]
    short.settle(["n1", "n2"])
    clients[0].create_bucket(Bucket="abc")
    short.policy_of_all("WRITE_BACK")
    persisted(short)
    (short.home / "ufs" / "abc").rename(short.home / "away")
    bodies = {f"k{number}": payload(20_000, number) for number in range(16)}
    for key, body in bodies.items():
        assert put(clients[0], key, body) == "local-1"
    short.lose("n2")
    short.wait_for(lambda: short.cli("node", "remove", "n2").returncode == 0)
    short.wait_slots(lambda slots: slots["n1"] == SLOTS)

    def outcome(key: str) -> Any:
        try:
            answer = clients[0].get_object(Bucket="abc", Key=key)
            return "read" if answer["Body"].read() == bodies[key] else "wrong"
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            return None if status == 503 else status

    seen = {key: short.wait_for(lambda k=key: outcome(k)) for key in bodies}
    assert set(seen.values()) == {"read", 410}, seen


def test_what_only_lost_workers_had_is_never_said_to_be_elsewhere(short: Cluster) -> None:
    clients = {node: client(short, node) for node in NODES}
    short.settle(NODES)
    clients["n3"].create_bucket(Bucket="abc")
    short.policy_of_all("TRANSIENT", 2)
    before = {f"k{number}" for number in range(24)}
    for key in before:
        short.wait_for(lambda k=key: put(clients["n3"], k, k.encode()) == "local-2")

    def told(*words: str) -> Any:
        said = short.cli("node", "remove", *words, "--output", "json")
        assert said.returncode == 0, said
        return json.loads(said.stdout)

    def named(report: Any, what: str) -> set[str]:
        """Only what was written here: others were asked for while the policy was set."""
        paths = {entry["path"].removeprefix("/abc/") for entry in report[what]}
        assert len(paths) == report[f"{what}_objects"], report
        return paths & before

    dry = told("n1", "--dry-run")
    assert named(dry, "lost") | named(dry, "unanswered") == set(), "others have it"
    short.lose("n1")
    short.lose("n2")
    # As soon as their connections are known to be dead.
    short.wait_for(lambda: named(told("n1", "--dry-run"), "unanswered"))
    short.wait_slots(lambda slots: slots["n3"] == SLOTS)
    dry = told("n1", "--dry-run")
    both = named(dry, "unanswered")
    assert both and named(dry, "lost") == set(), dry
    assert dry["unanswered_workers"] == ["n2"], dry
    assert all(entry["workers"] == ["n2"] for entry in dry["unanswered"]), dry
    said = short.cli("node", "remove", "n1")
    assert said.returncode == 0 and "no object is lost" not in said.stdout, said
    assert "that do not answer now (n2)" in said.stdout, said
    assert named(told("n2", "--dry-run"), "lost") == both
    removed = told("n2")
    assert (named(removed, "lost"), removed["unanswered"]) == (both, []), removed
    assert named(told("n1"), "lost") == both, "of now"

    def outcome(key: str) -> Any:
        try:
            return clients["n3"].get_object(Bucket="abc", Key=key)["Body"].read()
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            return None if status == 503 else status

    seen = {key: short.wait_for(lambda k=key: outcome(k)) for key in before}
    assert {key for key, answer in seen.items() if answer == 410} == both, seen
    assert all(seen[key] == key.encode() for key in before - both), seen
