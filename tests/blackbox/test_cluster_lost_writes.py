"""What only one worker had, and no UFS, when it was lost or went away: its keys can be written
through and deleted, not before what that worker may have sent is over, and what it had is never
sent over that."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from harness.cluster import SLOTS, Cluster

from .test_cluster_lost import persisted
from .test_cluster_past import FLAGS, answer, put

NODES = ["n1", "n2"]
KEYS = 16
FENCE_SECONDS = 5


class Orphans:
    """A cluster that lost its first worker, and the keys of which nobody else has the bytes."""

    def __init__(self, home: Path, fence: str, lose: bool, **flags: str) -> None:
        flags = {**FLAGS, "write-cache-fence": fence, **flags}
        self.cluster = Cluster(home, "3s", NODES, flags=flags)
        self.ufs, self.away = home / "ufs" / "abc", home / "away"
        try:
            self.keys = self._make(lose)
        except BaseException:
            self.cluster.close()
            raise

    def _make(self, lose: bool) -> list[str]:
        cluster = self.cluster
        for node in NODES:
            cluster.worker(node)
        cluster.settle(NODES)
        cluster.ask_once("n1").create_bucket(Bucket="abc")
        cluster.policy_of_all("WRITE_BACK")
        persisted(cluster)
        self.ufs.rename(self.away)
        for number in range(KEYS):
            put(cluster, NODES[number % 2], f"k{number}", b"old")
        self.killed = time.monotonic()
        if lose:
            cluster.lose("n1")
        else:
            cluster.worker("n1").kill()
        cluster.wait_slots(lambda slots: slots["n2"] == SLOTS)
        cluster.wait_for(lambda: cluster.metric("n2", "quickwater_slots_owned") == SLOTS)
        told = {f"k{number}": answer(cluster, "n2", f"k{number}") for number in range(KEYS)}
        assert set(told.values()) == {b"old", 503}, told
        if lose:
            cluster.wait_for(lambda: cluster.cli("node", "remove", "n1").returncode == 0)
        self.away.rename(self.ufs)
        return [key for key, what in told.items() if what == 503]

    def write_through(self) -> None:
        """From now on, at who is left."""
        self.cluster.policy_of_all("WRITE_THROUGH")

    def change(self, number: int) -> bool:
        """Writes one of the keys, or deletes it; whether that is acked."""
        s3, key = self.cluster.ask_once("n2"), self.keys[number]
        with contextlib.suppress(ClientError, BotoCoreError):
            if number % 2:
                s3.delete_object(Bucket="abc", Key=key)
            else:
                s3.put_object(Bucket="abc", Key=key, Body=b"new")
            return True
        return False

    def change_all(self) -> None:
        """Until all are acked."""
        for number, key in enumerate(self.keys):
            self.cluster.wait_for(lambda number=number: self.change(number), key)

    def wrong(self, nodes: list[str]) -> dict[str, Any]:
        """What is not as it was left, here or in the UFS."""
        found: dict[str, Any] = {}
        for number, key in enumerate(self.keys):
            wanted, path = (b"new", 404)[number % 2], self.ufs / key
            there = path.read_bytes() if path.exists() else 404
            told = [answer(self.cluster, node, key) for node in nodes]
            if [there, *told] != [wanted] * (len(nodes) + 1):
                found[key] = (wanted, there, told)
        return found


@contextlib.contextmanager
def orphans(home: Path, fence: str, lose: bool, **flags: str) -> Iterator[Orphans]:
    """Such a cluster, ended."""
    made = Orphans(home, fence, lose, **flags)
    try:
        yield made
    finally:
        made.cluster.close()


def test_what_was_lost_is_written_through_and_deleted(tmp_path: Path) -> None:
    with orphans(tmp_path / "lost", f"{FENCE_SECONDS}s", lose=True) as made:
        cluster = made.cluster
        assert {answer(cluster, "n2", key) for key in made.keys} == {410}
        made.write_through()
        # One that fails changes nothing.
        made.ufs.rename(made.away)
        assert not made.change(0) and not made.change(1)
        assert {answer(cluster, "n2", key) for key in made.keys} == {410}
        made.away.rename(made.ufs)
        made.change_all()
        assert time.monotonic() - made.killed >= FENCE_SECONDS
        assert made.wrong(["n2"]) == {}
        persisted(cluster)
        assert cluster.worker("n2").stop() == 0
        cluster.worker("n2")
        cluster.settle(["n2"])
        persisted(cluster)
        assert made.wrong(["n2"]) == {}


def test_what_is_away_is_written_through_and_never_comes_back(tmp_path: Path) -> None:
    with orphans(tmp_path / "away", f"{FENCE_SECONDS}s", lose=False) as made:
        cluster = made.cluster
        made.write_through()
        cluster.wait_for(lambda: made.change(0))
        assert time.monotonic() - made.killed >= FENCE_SECONDS
        made.change_all()
        assert made.wrong(["n2"]) == {}
        cluster.worker("n1")
        cluster.settle(NODES)
        persisted(cluster)
        # It has nothing left that it could send.
        cluster.wait_for(lambda: cluster.metric("n1", "quickwater_store_pinned_bytes") == 0)
        assert cluster.sum("quickwater_persist_dirty_objects") == 0
        assert made.wrong(NODES) == {}


@pytest.mark.parametrize("lose", [True, False], ids=["lost", "away"])
def test_until_its_requests_are_over_it_is_said_how_long_that_takes(
    tmp_path: Path, lose: bool
) -> None:
    with orphans(tmp_path / "fenced", "10m", lose) as made:
        made.write_through()
        for change in ("put_object", "delete_object"):
            ask = getattr(made.cluster.ask_once("n2"), change)
            with pytest.raises(ClientError) as refused:
                ask(Bucket="abc", Key=made.keys[0])
            told = refused.value.response
            assert told["ResponseMetadata"]["HTTPStatusCode"] == 503, told
            assert 60 < int(told["ResponseMetadata"]["HTTPHeaders"]["retry-after"]) <= 600, told
        assert not (made.ufs / made.keys[0]).exists()


def test_what_is_lost_is_not_waited_for_and_sent_when_it_is_back(tmp_path: Path) -> None:
    # Only what somebody says brings the next attempt.
    flags = {"write-cache-persist-retry-max": "1h"}
    with orphans(tmp_path / "back", "1s", lose=False, **flags) as made:
        cluster, lost = made.cluster, len(made.keys)

        def waited(timeout: str, *words: str) -> subprocess.CompletedProcess[str]:
            wait = ["async-persist", "wait", "--path", "/", "--timeout", timeout]
            return cluster.cli(*wait, *words)

        done = waited("2s", "--output", "json")
        assert (done.returncode, json.loads(done.stdout)["lost"]) == (1, 0), "it may come back"
        # By mistake: its disk is there.
        assert cluster.cli("node", "remove", "n1").returncode == 0
        done = waited("2m")
        assert done.returncode == 1 and "time is up" not in done.stdout, done
        assert f"everything but what is lost: {lost} objects" in done.stdout, done
        done = waited("0s", "--output", "json")
        said = json.loads(done.stdout)
        assert (done.returncode, said["persisted"], said["lost"]) == (1, False, lost), said
        assert {answer(cluster, "n2", key) for key in made.keys} == {410}
        told = cluster.cli("async-persist", "list", "--state", "failing").stdout
        assert told.count("lost, unless a removed worker comes back") == lost, told
        cluster.worker("n1")
        cluster.settle(NODES)
        persisted(cluster)
        there = {key: (made.ufs / key).read_bytes() for key in made.keys}
        assert set(there.values()) == {b"old"}, there
