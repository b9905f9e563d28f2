"""A worker is lost with its disk while uploads are completed, by it and by others: what was acked
is whole, the rest can be completed or aborted, and nothing of it stays for ever.

`QW_COMPLETE_TRIALS=40` makes as many losses as it says, from `QW_COMPLETE_FIRST` on; each has
its own moment.
"""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from harness.cluster import SLOTS, Cluster
from harness.replicas import NODES, Upload, came_back, client, persisted, read

FIRST = int(os.environ.get("QW_COMPLETE_FIRST", "0"))
TRIALS = int(os.environ.get("QW_COMPLETE_TRIALS", "3"))
UPLOADS = 6
# Within this time the loss comes, and all calls of Complete begin.
LOSS_SECONDS = 0.25
BEGIN_SECONDS = 0.25
# How slots change their owners between the parts.
MOVES = ["none", "drain", "restart"]


def etag_of(bodies: dict[int, bytes]) -> str:
    """What S3 says of an object that was uploaded in these parts."""
    whole = b"".join(hashlib.md5(body).digest() for _, body in sorted(bodies.items()))
    return f'"{hashlib.md5(whole).hexdigest()}-{len(bodies)}"'


class Completed:
    """An upload whose Complete is under way when a worker is lost."""

    def __init__(self, upload: Upload, chance: random.Random, entry: str) -> None:
        self.upload = upload
        self.pause = chance.uniform(0, BEGIN_SECONDS)
        self.aborts = chance.random() < 0.25
        self.s3 = client(upload.cluster, entry)
        self.seen = "not asked"
        self.thread = threading.Thread(target=self.run)

    def call(self, s3: Any) -> Any:
        """Complete, once."""
        parts = [{"PartNumber": n, "ETag": etag} for n, etag in sorted(self.upload.etags.items())]
        return s3.complete_multipart_upload(**self.upload.named, MultipartUpload={"Parts": parts})

    def run(self) -> None:
        """Asks the worker that may be lost meanwhile."""
        time.sleep(self.pause)
        try:
            self.seen = f"acked {self.call(self.s3)['ETag']}"
        except ClientError as error:
            self.seen = f"told {error.response['Error']['Code']}"
        except BotoCoreError as error:
            self.seen = f"cut {type(error).__name__}"

    def is_acked(self) -> bool:
        """Whether it was, before anything was repeated."""
        return self.seen.startswith("acked")

    def wanted(self) -> str:
        """What an ack of it says."""
        return f"acked {etag_of(self.upload.bodies)}"


class Trial:
    """One loss of a worker and its disk."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.cluster = cluster
        self.random = random.Random(number)
        self.number = number
        self.move = MOVES[number % len(MOVES)]
        self.victim = self.random.choice(NODES)
        self.left = [node for node in NODES if node != self.victim]
        self.place = cluster.home / "ufs" / "abc"
        self.away = cluster.home / "away"
        self.whole: dict[str, bytes] = {}
        self.none: list[str] = []

    def move_slots(self) -> None:
        """Slots of the worker that is lost later go to others, and come back."""
        if self.move == "drain":
            assert self.cluster.cli("node", "drain", self.victim).returncode == 0
        elif self.move == "restart":
            self.cluster.worker(self.victim).kill()
        else:
            return
        self.cluster.wait_slots(
            lambda slots: sum(slots.get(node, 0) for node in self.left) == SLOTS
        )

    def move_back(self) -> None:
        """They come back."""
        if self.move == "drain":
            assert self.cluster.cli("node", "drain", self.victim, "--cancel").returncode == 0
        elif self.move == "restart":
            self.cluster.worker(self.victim)
        self.cluster.settle(NODES)

    def uploads(self) -> list[Upload]:
        """Parts of them are with several owners of their keys."""
        made = []
        for number in range(UPLOADS):
            upload = Upload(self.cluster, self.random.choice(NODES), f"c{self.number}-{number}")
            upload.put(1, 5 << 20)
            made.append(upload)
        self.move_slots()
        for upload in made:
            upload.use(self.random.choice(self.left))
            upload.put(2, 5 << 20)
        self.move_back()
        for upload in made:
            upload.put(3, self.random.choice([1, 70_000, (1 << 20) + 1]))
        return made

    def lose(self, completed: list[Completed]) -> None:
        """Completes all of them, and loses a worker while that is under way."""
        moment = self.random.uniform(0, LOSS_SECONDS)
        for one in completed:
            one.thread.start()
        time.sleep(moment)
        self.cluster.lose(self.victim)
        for one in completed:
            one.thread.join()
        seen = [one.seen.split()[0] for one in completed]
        counted = {what: seen.count(what) for what in sorted(set(seen))}
        print(f"trial {self.number}: {self.move}, lost after {moment * 1000:.0f} ms: {counted}")

    def retry(self, one: Completed) -> None:
        """Completes what was not acked, or gives it up."""
        s3, key = client(self.cluster, self.random.choice(self.left)), one.upload.key
        if one.is_acked():
            assert one.seen == one.wanted()
        if one.aborts:
            self.abort(one, s3)
            return

        def once() -> str | None:
            try:
                return f"acked {one.call(s3)['ETag']}"
            except ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                # Two had each part, and one of them lives: none is lost.
                assert status == 503, (key, one.seen, error)
                return None

        again = self.cluster.wait_for(once, f"{key} ({one.seen}) is told to come back for ever")
        assert again == one.wanted(), key
        self.whole[key] = one.upload.body

    def abort(self, one: Completed, s3: Any) -> None:
        """Of Complete and Abort one has won."""

        def once() -> str | None:
            try:
                s3.abort_multipart_upload(**one.upload.named)
                return "aborted"
            except ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                code = error.response["Error"]["Code"]
                assert (status, code) in [(503, "SlowDown"), (404, "NoSuchUpload")], error
                return None if status == 503 else code

        ended = self.cluster.wait_for(once, f"{one.upload.key} cannot be aborted")
        assert ended == "NoSuchUpload" or not one.is_acked(), one.upload.key
        if ended == "NoSuchUpload":
            self.whole[one.upload.key] = one.upload.body
        else:
            self.none.append(one.upload.key)

    def look(self) -> None:
        """All who live answer for each object with its bytes, and say of the others that there is
        none: not while the UFS is away, which may have them."""
        for node in self.left:
            s3 = client(self.cluster, node)
            for key, body in self.whole.items():
                got = self.cluster.wait_for(lambda k=key: [r for r in [read(s3, k)] if r is not None])
                assert got == [body], (node, key)
            for key in self.none if self.place.exists() else []:
                self.cluster.wait_for(lambda k=key: self.is_none(s3, k))

    @staticmethod
    def is_none(s3: Any, key: str) -> bool:
        """Whether there is no such object; false: not known now."""
        try:
            s3.get_object(Bucket="abc", Key=key)
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            assert status in (404, 503), (key, error)
            return bool(status == 404)
        raise AssertionError(f"{key} was aborted, and is there")

    def end(self) -> None:
        """The UFS gets all of it, and nothing is left that it does not have."""
        if self.away.exists():
            self.away.rename(self.place)
        self.cluster.wait_for(lambda: came_back(self.cluster, self.victim))
        self.cluster.settle(NODES)
        persisted(self.cluster)
        for key, body in self.whole.items():
            assert (self.place / key).read_bytes() == body, key
        assert not [key for key in self.none if (self.place / key).exists()]
        self.look()
        s3 = client(self.cluster, self.left[0])
        listed = self.cluster.wait_for(lambda: [s3.list_multipart_uploads(Bucket="abc")])
        assert listed[0].get("Uploads", []) == []
        kept = ["quickwater_copies_kept_objects", "quickwater_copies_elsewhere_objects"]

        def left() -> dict[str, Any]:
            holds = {name: node["holds"] for name, node in self.cluster.nodes().items()}
            return {**holds, **{name: self.cluster.sum(name) for name in kept}}

        self.cluster.wait_for(lambda: not any(left().values()), left)


def test_a_complete_outlives_the_loss_of_a_worker(short: Cluster) -> None:
    for node in NODES:
        client(short, node)
    short.settle(NODES)
    client(short, "n1").create_bucket(Bucket="abc")
    short.policy_of_all("WRITE_BACK", 2)
    persisted(short)
    for number in range(FIRST, FIRST + TRIALS):
        trial = Trial(short, number)
        if trial.random.random() < 0.5:
            trial.place.rename(trial.away)
        entries = [trial.random.choice(NODES) for _ in range(UPLOADS)]
        uploads = trial.uploads()
        completed = [Completed(one, trial.random, entry) for one, entry in zip(uploads, entries)]
        trial.lose(completed)
        for one in completed:
            trial.retry(one)
        trial.look()
        trial.end()
