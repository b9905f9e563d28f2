"""Copies of what no UFS has on several workers (`writeReplicas`): what an ack means,
and what becomes of it when a worker and its disk are lost.

`QW_REPLICA_TRIALS=200` makes as many trials of a loss as it says; there are four
without it, one of each kind; `QW_REPLICA_PHASE` names the only kind there is to be. `QW_REPLICA_COUNT` and `QW_REPLICA_BYTES` say how many objects of how many bytes
are copied again in the test that tells how long it takes, and what a client's writes take
beside.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from botocore.exceptions import ClientError

from harness.cluster import PATIENCE_SECONDS, SLOTS, Cluster
from harness.payload import payload
from harness.server import StartFailed

TRIALS = int(os.environ.get("QW_REPLICA_TRIALS", "4"))
REPAIR_COUNT = int(os.environ.get("QW_REPLICA_COUNT", "100"))
REPAIR_BYTES = int(os.environ.get("QW_REPLICA_BYTES", "10240"))
AT_LENGTH = "QW_REPLICA_COUNT" in os.environ
# Three tenths of it may be dirty, and after a loss each worker has everything.
REPAIR_TOTAL = REPAIR_COUNT * REPAIR_BYTES
ROOM = {"capacity": str(5 * REPAIR_TOTAL)} if REPAIR_TOTAL > 1 << 29 else {}
NODES = ["n1", "n2", "n3"]
PHASES = ["body", "acked", "persist", "parts"]
if "QW_REPLICA_PHASE" in os.environ:
    PHASES = [os.environ["QW_REPLICA_PHASE"]]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """One whose leases do not end by themselves, however busy the machine is."""
    made = Cluster(tmp_path / "cluster", "60s", NODES)
    yield made
    made.close()


@pytest.fixture
def short(tmp_path: Path) -> Iterator[Cluster]:
    """One with a lease of three seconds: who is lost is known to be soon."""
    made = Cluster(tmp_path / "short", "3s", NODES, flags=ROOM)
    yield made
    made.close()


def client(cluster: Cluster, node: str) -> Any:
    """One that does not try again by itself."""
    return cluster.worker(node).target().client(retries={"max_attempts": 0})


def wait_for(cluster: Cluster, what: Callable[[], Any], why: Any = "") -> Any:
    """Waits until something holds, and gives it."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < end, f"{why() if callable(why) else why}\n{cluster.logs()}"
        time.sleep(0.1)


def refusal(call: Callable[[], Any]) -> tuple[int, str]:
    """Status and text of a call that must fail."""
    with pytest.raises(ClientError) as failed:
        call()
    answer = failed.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Message"]


def durability_of(answer: Any) -> str:
    """What a PUT says of where its bytes are."""
    return str(answer["ResponseMetadata"]["HTTPHeaders"]["x-quickwater-durability"])


def put(s3: Any, key: str, body: bytes) -> str | None:
    """Where the bytes of a PUT are; none: it was told to come back, or nobody knows."""
    try:
        return durability_of(s3.put_object(Bucket="abc", Key=key, Body=body))
    except ClientError as error:
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 503, error
        return None


def read(s3: Any, key: str) -> bytes | None:
    """An object; none: not now."""
    try:
        return bytes(s3.get_object(Bucket="abc", Key=key)["Body"].read())
    except ClientError as error:
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 503, (key, error)
        return None


def persisted(cluster: Cluster) -> None:
    """Waits until the UFS has everything."""
    done = cluster.cli("async-persist", "wait", "--path", "/", "--timeout", "2m")
    assert done.returncode == 0, f"{done}\n{cluster.logs()}"


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
    wait_for(cluster, lambda: cluster.sum("quickwater_copies_elsewhere_objects") == len(bodies))
    wait_for(cluster, lambda: cluster.sum("quickwater_copies_kept_objects") == len(bodies))
    total = sum(len(body) for body in bodies.values())
    assert cluster.sum("quickwater_copies_kept_bytes") == total
    # What is replaced or deleted is kept by nobody; new tags leave it where it is.
    bodies["k1"] = payload(9_000, "again")
    assert put(two, "k1", bodies["k1"]) == "local-2"
    one.delete_object(Bucket="abc", Key="k2")
    del bodies["k2"]
    tags = {"TagSet": [{"Key": "a", "Value": "b"}]}
    two.put_object_tagging(Bucket="abc", Key="k3", Tagging=tags)
    wait_for(cluster, lambda: cluster.sum("quickwater_copies_kept_objects") == len(bodies))
    for key, body in bodies.items():
        assert read(one, key) == body and read(two, key) == body, key
    away.rename(place)
    persisted(cluster)
    for key, body in bodies.items():
        assert (place / key).read_bytes() == body
    wait_for(cluster, lambda: cluster.sum("quickwater_copies_kept_objects") == 0)
    wait_for(cluster, lambda: cluster.sum("quickwater_copies_elsewhere_objects") == 0)


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
    wait_for(cluster, lambda: put(one, "asked", b"?") is None)
    status, text = refusal(lambda: one.put_object(Bucket="abc", Key="k", Body=b"x" * 100_000))
    assert status == 503 and "asks for 2 copies and 1 can be kept" in text, text
    status, _ = refusal(lambda: one.get_object(Bucket="abc", Key="k"))
    assert status == 404
    two = client(cluster, "n2")
    cluster.settle(["n1", "n2"])
    wait_for(cluster, lambda: put(one, "k", b"now") == "local-2")
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
    wait_for(cluster, refuses)
    assert put(one, "y", b"") is None


class Upload:
    """A multipart upload under way, whose calls are repeated for as long as they are told to
    come back."""

    def __init__(self, cluster: Cluster, node: str, key: str) -> None:
        self.cluster = cluster
        self.key = key
        self.bodies: dict[int, bytes] = {}
        self.etags: dict[int, str] = {}
        self.use(node)
        made = self.repeat(lambda: self.s3.create_multipart_upload(Bucket="abc", Key=key))
        self.named = {"Bucket": "abc", "Key": key, "UploadId": made["UploadId"]}

    def use(self, node: str) -> None:
        """From now on it goes on at this worker."""
        self.s3 = client(self.cluster, node)

    def repeat(self, call: Callable[[], Any]) -> Any:
        """Its answer in the end."""

        def once() -> Any:
            try:
                return call()
            except ClientError as error:
                assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 503, error
                return None

        return wait_for(self.cluster, once, f"{self.key} is told to come back for ever")

    def put(self, number: int, size: int) -> None:
        """Sends a part."""
        body = payload(size, f"{self.key}-{number}")
        call = lambda: self.s3.upload_part(**self.named, PartNumber=number, Body=body)  # noqa: E731
        self.etags[number] = self.repeat(call)["ETag"]
        self.bodies[number] = body

    def complete(self) -> Any:
        """Makes an object of its parts; the answer."""
        parts = [{"PartNumber": n, "ETag": etag} for n, etag in sorted(self.etags.items())]
        whole = {"Parts": parts}
        call = lambda: self.s3.complete_multipart_upload(**self.named, MultipartUpload=whole)  # noqa: E731
        return self.repeat(call)

    @property
    def body(self) -> bytes:
        """What the object has to be."""
        return b"".join(body for _, body in sorted(self.bodies.items()))


def owner_of_parts(cluster: Cluster, nodes: list[str]) -> str:
    """The one worker that knows of copies elsewhere: it owns the only key there is."""
    held = "quickwater_copies_elsewhere_objects"

    def one() -> str | None:
        # Whoever was the owner before a lapse of its lease knows of them for a moment more.
        found = [node for node in nodes if cluster.metric(node, held) > 0]
        return found[0] if len(found) == 1 else None

    return str(wait_for(cluster, one))


def lose_owner(cluster: Cluster, nodes: list[str]) -> list[str]:
    """Loses the owner of the only key, and its disk; who is left, once they own all."""
    owner = owner_of_parts(cluster, nodes)
    cluster.lose(owner)
    left = [node for node in nodes if node != owner]
    cluster.wait_slots(lambda slots: sum(slots.get(node, 0) for node in left) == SLOTS)
    return left


def whole_again(cluster: Cluster, bodies: int) -> None:
    """Waits until so many bodies have all their copies."""
    held, kept = "quickwater_copies_elsewhere_objects", "quickwater_copies_kept_objects"
    missing = "quickwater_copies_missing_objects"

    def settled() -> bool:
        return cluster.sum(missing) == 0 and cluster.sum(held) == cluster.sum(kept) == bodies

    wait_for(cluster, settled, lambda: {name: cluster.sum(name) for name in (held, kept, missing)})


def came_back(cluster: Cluster, node: str) -> bool:
    """Starts a worker that was lost; false: its name is still taken by the lease it had."""
    try:
        return cluster.worker(node).alive()
    except StartFailed as error:
        assert "may still run" in str(error), error
        return False


@pytest.mark.parametrize("mode", ["WRITE_BACK", "TRANSIENT"])
def test_an_upload_survives_the_loss_of_its_owners(short: Cluster, mode: str) -> None:
    for node in NODES:
        client(short, node)
    short.settle(NODES)
    client(short, "n1").create_bucket(Bucket="abc")
    short.policy_of_all("WRITE_BACK", 2)
    persisted(short)
    short.policy_of_all(mode, 2)
    one = client(short, "n1")
    for asked in one.list_objects_v2(Bucket="abc").get("Contents", []):
        one.delete_object(Bucket="abc", Key=asked["Key"])
    place, away = short.home / "ufs" / "abc", short.home / "away"
    wait_for(short, lambda: short.sum("quickwater_copies_kept_objects") == 0)
    place.rename(away)
    upload = Upload(short, "n1", "big")
    for number in (1, 2):
        upload.put(number, 5 << 20)
    whole_again(short, 2)
    left = lose_owner(short, NODES)
    upload.use(left[0])
    upload.put(3, 5 << 20)
    whole_again(short, 3)
    assert durability_of(upload.complete()) == "local-2"
    whole_again(short, 3)
    (lost,) = set(NODES) - set(left)
    wait_for(short, lambda: came_back(short, lost))
    short.settle(NODES)
    left = lose_owner(short, NODES)
    whole_again(short, 3)
    for node in left:
        assert wait_for(short, lambda n=node: read(client(short, n), "big")) == upload.body
    if mode == "WRITE_BACK":
        away.rename(place)
        persisted(short)
        assert (place / "big").read_bytes() == upload.body
    else:
        client(short, left[0]).delete_object(Bucket="abc", Key="big")
    wait_for(short, lambda: short.sum("quickwater_copies_kept_objects") == 0)
    wait_for(short, lambda: short.sum("quickwater_copies_elsewhere_objects") == 0)


def without_ufs(cluster: Cluster) -> tuple[Path, Path]:
    """Takes the UFS of a new bucket away, whose objects have two copies; where that was, and
    where it is."""
    for node in NODES:
        client(cluster, node)
    cluster.settle(NODES)
    client(cluster, "n1").create_bucket(Bucket="abc")
    cluster.policy_of_all("WRITE_BACK", 2)
    persisted(cluster)
    place, away = cluster.home / "ufs" / "abc", cluster.home / "away"
    wait_for(cluster, lambda: cluster.sum("quickwater_copies_kept_objects") == 0)
    place.rename(away)
    return place, away


def test_an_upload_moves_to_another_owner_with_its_copies(cluster: Cluster) -> None:
    place, away = without_ufs(cluster)
    upload = Upload(cluster, "n1", "big")
    upload.put(1, 5 << 20)
    upload.put(2, 5 << 20)
    owner = owner_of_parts(cluster, NODES)
    left = [node for node in NODES if node != owner]
    # What others have copies of does not keep its slot.
    cluster.cli("node", "drain", owner)
    cluster.wait_slots(lambda slots: sum(slots.get(node, 0) for node in left) == SLOTS)
    upload.use(left[0])
    upload.put(3, 70_000)
    assert durability_of(upload.complete()) == "local-2"
    # Its copies go once those of the others are made.
    kept = "quickwater_copies_kept_objects"
    wait_for(cluster, lambda: cluster.metric(owner, kept) == 0)
    whole_again(cluster, 3)
    cluster.lose(owner)
    for node in left:
        assert wait_for(cluster, lambda n=node: read(client(cluster, n), "big")) == upload.body
    away.rename(place)
    persisted(cluster)
    assert (place / "big").read_bytes() == upload.body


def test_an_owner_that_restarts_knows_who_has_copies_of_parts(cluster: Cluster) -> None:
    place, away = without_ufs(cluster)
    upload = Upload(cluster, "n1", "big")
    upload.put(1, 5 << 20)
    upload.put(2, 5 << 20)
    whole_again(cluster, 2)
    owner = owner_of_parts(cluster, NODES)
    cluster.worker(owner).kill()
    wait_for(cluster, lambda: came_back(cluster, owner))
    assert owner_of_parts(cluster, NODES) == owner
    whole_again(cluster, 2)
    # Whoever has a copy is lost, and the owner after that.
    kept = "quickwater_copies_kept_objects"
    others = [node for node in NODES if node != owner]
    holder = next(node for node in others if cluster.metric(node, kept) > 0)
    for lost in (holder, owner):
        cluster.lose(lost)
        cluster.cli("node", "remove", lost)
        if lost == holder:
            whole_again(cluster, 2)
    (left,) = set(others) - {holder}
    wait_for(cluster, lambda: came_back(cluster, holder))
    upload.use(left)
    assert durability_of(upload.complete()) == "local-2"
    assert wait_for(cluster, lambda: read(client(cluster, left), "big")) == upload.body
    away.rename(place)
    persisted(cluster)
    assert (place / "big").read_bytes() == upload.body


def test_copies_of_parts_go_with_them(cluster: Cluster) -> None:
    one = client(cluster, "n1")
    client(cluster, "n2")
    cluster.settle(["n1", "n2"])
    one.create_bucket(Bucket="abc")
    cluster.policy_of_all("WRITE_BACK", 2)
    persisted(cluster)
    place, away = cluster.home / "ufs" / "abc", cluster.home / "away"
    wait_for(cluster, lambda: cluster.sum("quickwater_copies_kept_objects") == 0)
    place.rename(away)
    kept = lambda: cluster.sum("quickwater_copies_kept_objects")  # noqa: E731
    upload = Upload(cluster, "n1", "gone")
    upload.put(1, 100_000)
    upload.put(1, 90_000)
    upload.put(2, 1 << 20)
    wait_for(cluster, lambda: kept() == 2, kept)
    one.abort_multipart_upload(**upload.named)
    wait_for(cluster, lambda: kept() == 0, kept)
    upload = Upload(cluster, "n2", "stays")
    upload.put(1, 5 << 20)
    upload.put(2, 3_000)
    upload.put(7, 10)
    del upload.bodies[7], upload.etags[7]
    upload.complete()
    wait_for(cluster, lambda: kept() == 2, kept)
    assert read(one, "stays") == upload.body
    away.rename(place)
    persisted(cluster)
    assert (place / "stays").read_bytes() == upload.body
    wait_for(cluster, lambda: kept() == 0, kept)
    # A part that was acked when the policy asked for one copy.
    cluster.policy_of_all("WRITE_BACK", 1)
    upload = Upload(cluster, "n2", "raised")
    upload.put(1, 5 << 20)
    cluster.policy_of_all("WRITE_BACK", 2)
    upload.put(2, 3_000)
    assert durability_of(upload.complete()) == "local-2"
    persisted(cluster)
    assert (place / "raised").read_bytes() == upload.body


class Trial:
    """One loss of a worker and its disk."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.cluster = cluster
        self.number = number
        self.random = random.Random(number)
        self.phase = PHASES[number % len(PHASES)]
        self.victim = self.random.choice(NODES)
        self.left = [node for node in NODES if node != self.victim]
        self.acked: dict[str, bytes] = {}
        self.open: list[Upload] = []
        self.place = cluster.home / "ufs" / "abc"
        self.away = cluster.home / "away"

    def write(self, nodes: list[str], stop: threading.Event, count: int) -> None:
        """Writes new keys; notes what was acked."""
        sizes = [10, 5_000, 90_000, 1_500_000]
        clients = {node: client(self.cluster, node) for node in nodes}
        tag = self.random.random()
        for number in range(count):
            if stop.is_set():
                return
            key = f"t{self.number}-{tag}-{number}"
            body = payload(self.random.choice(sizes), key)
            try:
                where = put(clients[self.random.choice(nodes)], key, body)
            except OSError:
                continue
            except Exception as error:  # noqa: BLE001 - the worker it asked was killed
                if "EndpointConnection" in type(error).__name__ or "Connection" in str(error):
                    continue
                raise
            if where is not None:
                assert where == "local-2", where
                self.acked[key] = body

    def lose(self) -> None:
        """Loses the victim in the phase of the trial."""
        stop = threading.Event()
        if self.phase == "body":
            failed: list[BaseException] = []

            def write() -> None:
                try:
                    self.write(NODES, stop, 10_000)
                except BaseException as error:  # noqa: BLE001 - shown by the test itself
                    failed.append(error)

            writers = [threading.Thread(target=write) for _ in range(3)]
            for writer in writers:
                writer.start()
            wait_for(self.cluster, lambda: len(self.acked) > 15 or failed)
            self.cluster.lose(self.victim)
            stop.set()
            for writer in writers:
                writer.join()
            assert not failed, failed
            return
        if self.phase == "parts":
            self.send_parts()
            self.lose_amid_parts()
            return
        self.write(NODES, stop, 16)
        if self.phase == "persist":
            self.away.rename(self.place)
            words = ("async-persist", "retry", "--path", "/")
            self.cluster.cli(*words)
        self.cluster.lose(self.victim)

    def send_parts(self) -> None:
        """Sends parts of uploads, and completes some of them."""
        for number in range(6):
            node = self.random.choice(NODES)
            upload = Upload(self.cluster, node, f"u{self.number}-{number}")
            upload.put(1, 5 << 20)
            upload.put(2, self.random.choice([1, 70_000, (1 << 20) + 1]))
            if number % 2:
                upload.complete()
                self.acked[upload.key] = upload.body
            else:
                self.open.append(upload)

    def lose_amid_parts(self) -> None:
        """Loses the victim while parts are on their way through the others, and uploads are
        completed there."""
        failed: list[BaseException] = []
        sent: list[Upload] = []
        nodes = iter(self.left * 2)

        def send() -> None:
            try:
                for number, node in enumerate(nodes):
                    upload = Upload(self.cluster, node, f"w{self.number}-{number}-{node}")
                    sent.append(upload)
                    for part in (1, 2, 1, 3):
                        upload.put(part, 5 << 20)
                    upload.complete()
            except BaseException as error:  # noqa: BLE001 - shown by the test itself
                failed.append(error)

        sender = threading.Thread(target=send)
        sender.start()
        wait_for(self.cluster, lambda: failed or any(upload.etags for upload in sent))
        self.cluster.lose(self.victim)
        sender.join()
        assert not failed, failed
        self.acked.update((upload.key, upload.body) for upload in sent)

    def complete_parts(self) -> None:
        """What was not complete at the loss can be completed after it."""
        for upload in self.open:
            upload.use(self.random.choice(self.left))
            if self.random.random() < 0.5:
                upload.put(2, 1_000)
            upload.complete()
            self.acked[upload.key] = upload.body

    def check(self) -> float:
        """All that was acked is there, and as often as was promised; seconds it took
        from the loss."""
        begun = time.monotonic()
        self.complete_parts()
        assert self.acked
        s3 = client(self.cluster, self.left[0])
        self.cluster.wait_slots(
            lambda slots: sum(slots.get(node, 0) for node in self.left) == SLOTS
        )
        for key, body in self.acked.items():
            seen = wait_for(self.cluster, lambda k=key: [r for r in [read(s3, k)] if r is not None])
            assert seen == [body], key
        self.wait_copies()
        return time.monotonic() - begun

    def wait_copies(self) -> None:
        """Waits until nothing has fewer copies than it should."""
        held = "quickwater_copies_elsewhere_objects"
        kept = "quickwater_copies_kept_objects"

        def settled() -> bool:
            elsewhere = self.cluster.sum(held)
            missing = self.cluster.sum("quickwater_copies_missing_objects")
            # Those who live own all slots, so each of them has an owner that counts it; while
            # the UFS is away none may be left out.
            least = len(self.acked) if self.away.exists() else 0
            return missing == 0 and self.cluster.sum(kept) == elsewhere >= least

        def why() -> dict[str, list[float]]:
            names = [held, kept, "quickwater_copies_missing_objects"]
            return {n: [self.cluster.worker(n).metric(name) for name in names] for n in self.left}

        # A lease that lapses on a busy machine takes the slots along, and brings them back.
        wait_for(self.cluster, settled, why)

    def end(self) -> None:
        """The UFS ends with everything, and the worker comes back with nothing."""
        if self.away.exists():
            self.away.rename(self.place)

        def started() -> bool:
            try:
                return self.cluster.worker(self.victim).alive()
            except StartFailed as error:
                # Its name is taken until the lease it had is over.
                assert "may still run" in str(error), error
                return False

        wait_for(self.cluster, started)
        self.cluster.settle(NODES) if self.number == TRIALS - 1 else None
        persisted(self.cluster)
        for key, body in self.acked.items():
            assert (self.place / key).read_bytes() == body, key
        wait_for(self.cluster, lambda: self.cluster.sum("quickwater_copies_kept_objects") == 0)


def test_no_acked_write_is_lost_with_one_worker_and_its_disk(short: Cluster) -> None:
    clients = [client(short, node) for node in NODES]
    short.settle(NODES)
    clients[0].create_bucket(Bucket="abc")
    short.policy_of_all("WRITE_BACK", 2)
    persisted(short)
    acked, took = 0, []
    for number in range(TRIALS):
        trial = Trial(short, number)
        trial.place.rename(trial.away)
        trial.lose()
        took.append(trial.check())
        trial.end()
        acked += len(trial.acked)
    made = short.sum("quickwater_copies_made_bytes_total")
    print(f"{TRIALS} trials, {acked} acked, 0 lost; up to {max(took):.1f} s until all was back, "
          f"{made:.0f} bytes copied again by those that live")


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

    wait_for(short, write)
    frozen, left = short.worker("n1"), ["n2", "n3"]
    os.kill(frozen.pid, signal.SIGSTOP)
    try:
        short.wait_slots(lambda slots: sum(slots.get(node, 0) for node in left) == SLOTS)
        for key, body in bodies.items():
            seen = wait_for(short, lambda k=key: read(clients["n2"], k))
            assert seen == body, key
        away.rename(place)
        persisted(short)
        for key, body in bodies.items():
            assert (place / key).read_bytes() == body, key
    finally:
        os.kill(frozen.pid, signal.SIGCONT)
    # It lets go of its copies without a restart, and may have slots.
    kept = "quickwater_copies_kept_objects"
    wait_for(short, lambda: short.metric("n1", kept) == 0, lambda: short.metric("n1", kept))
    short.settle(NODES)
    for key, body in bodies.items():
        assert wait_for(short, lambda k=key: read(clients["n1"], k)) == body, key


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
                wait_for(short, lambda n=number: put(s3, f"r{n}", body))
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

    wait_for(short, whole, lambda: {name: short.sum(name) for name in names})
    took, made = time.monotonic() - known, short.sum(copied)
    assert made >= on_n3 > 0
    tried = short.sum("quickwater_copies_failed_total")
    others = beside.end(known) if beside else "nobody wrote beside"
    print(f"{REPAIR_COUNT} objects of {REPAIR_BYTES} bytes: {made:.0f} bytes copied again within "
          f"{took:.1f} s from when the slots of the lost worker had moved, {tried:.0f} attempts "
          f"failed; {others}")
    s3 = client(short, "n1")
    for key in random.Random(1).sample(acked, min(len(acked), 50)):
        assert wait_for(short, lambda k=key: read(s3, k)) == body, key


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
    wait_for(short, lambda: short.cli("node", "remove", "n2").returncode == 0)
    short.wait_slots(lambda slots: slots["n1"] == SLOTS)

    def outcome(key: str) -> Any:
        try:
            answer = clients[0].get_object(Bucket="abc", Key=key)
            return "read" if answer["Body"].read() == bodies[key] else "wrong"
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            return None if status == 503 else status

    seen = {key: wait_for(short, lambda k=key: outcome(k)) for key in bodies}
    assert set(seen.values()) == {"read", 410}, seen
