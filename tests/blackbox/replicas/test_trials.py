"""A worker and its disk are lost while bodies arrive, after the acks, while the UFS takes them,
amid parts: nothing that was acked is lost.

`QW_REPLICA_TRIALS=200` makes as many trials of a loss as it says; there are four
without it, one of each kind; `QW_REPLICA_PHASE` names the only kind there is to be.
"""

from __future__ import annotations

import os
import random
import threading
import time

from harness.cluster import SLOTS, Cluster
from harness.payload import payload
from harness.replicas import NODES, Upload, came_back, client, persisted, put, read

TRIALS = int(os.environ.get("QW_REPLICA_TRIALS", "4"))
PHASES = ["body", "acked", "persist", "parts"]
if "QW_REPLICA_PHASE" in os.environ:
    PHASES = [os.environ["QW_REPLICA_PHASE"]]


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
            self.cluster.wait_for(lambda: len(self.acked) > 15 or failed)
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
        self.cluster.wait_for(lambda: failed or any(upload.etags for upload in sent))
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
            seen = self.cluster.wait_for(lambda k=key: [r for r in [read(s3, k)] if r is not None])
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
        self.cluster.wait_for(settled, why)

    def end(self) -> None:
        """The UFS ends with everything, and the worker comes back with nothing."""
        if self.away.exists():
            self.away.rename(self.place)

        self.cluster.wait_for(lambda: came_back(self.cluster, self.victim))
        self.cluster.settle(NODES) if self.number == TRIALS - 1 else None
        persisted(self.cluster)
        for key, body in self.acked.items():
            assert (self.place / key).read_bytes() == body, key
        self.cluster.wait_for(lambda: self.cluster.sum("quickwater_copies_kept_objects") == 0)


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
