"""Dirty space fills ten times faster than the store takes: SlowDown and nothing else,
memory and disk bounded, and all is well again without an operator (C12)."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from conftest import ServeFactory
from harness.dirty_space import MEMORY, PART, begin, manifest_of, met_limit, sent_with_retries
from harness.payload import KIB, MIB, payload
from harness.server import binary
from harness.under import SCALED, Ended, Place, over, scaled
from ufssim.client import Sim

pytestmark = pytest.mark.usefixtures("write_back")
CAPACITY = 256 * MIB
DIRTY_RATIO = 0.3
# The store takes so many objects a second, as many at a time.
STORE_SECONDS, STORE_AT_ONCE = 1.0, 2
# Ten times the store's pace is offered; a busy machine manages less, but never less than this.
TIMES_LEAST = 4
# Beside the segments: the metadata with its journal, files of some bytes.
METADATA_BYTES = 128 * MIB
# What goes on in the process beside its budget (C12).
SURPLUS = 1.1
# Pending changes get two in 32 parts of the memory, after 64 MiB for the program.
CHANGES_BYTES = (MEMORY - 64 * MIB) // 16
FILL_SECONDS = 300.0
# Of keys: memory is short the sooner.
LONG = "long/" * 100


@pytest.fixture
def small(store: Sim, serve: ServeFactory) -> Iterator[Callable[..., Place]]:
    """Makes a bucket under a policy on a small service over a slow store."""
    store.reset()

    def make(mode: str, at_once: int = STORE_AT_ONCE, **properties: Any) -> Place:
        options = over(store)
        options["flags"] |= {
            **SCALED,
            "capacity": str(CAPACITY),
            "segment-size": str(8 * MIB),
            "memory": str(MEMORY),
            "write-cache-dirty-ratio": str(DIRTY_RATIO),
            "write-cache-persist-concurrency": str(at_once),
        }
        made = Place(serve("small", **options), store)
        assert made.put("clean", payload(MIB, "clean")).acked
        made.policy(mode, writeReplicas=1, **properties)
        store.rule("latency", delay_s=STORE_SECONDS, operation="PutObject")
        return made

    yield make
    store.reset()


class Watch(threading.Thread):
    """Looks at the service while it is under pressure: what was the most of each."""

    def __init__(self, place: Place) -> None:
        super().__init__(daemon=True)
        self.place = place
        self.done = threading.Event()
        self.most: Counter[str] = Counter()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.done.wait(0.3):
                self.look()
        except BaseException as error:  # raised by `end`
            self.error = error

    def look(self) -> None:
        """One look. Health and metrics have their own lane: they always answer."""
        server = self.place.server
        assert server.http_status("/healthz") == 200
        dirty = int(server.metric("quickwater_store_pinned_bytes"))
        seen = {"dirty": dirty, "disk": disk_bytes(server.dir)}
        for name, value in seen.items():
            self.most[name] = max(self.most[name], value)
        assert self.place.send("GET", "clean").body == payload(MIB, "clean")

    def end(self) -> Counter[str]:
        self.done.set()
        self.join(60)
        if self.error is not None:
            raise self.error
        assert not self.is_alive() and self.most, "nothing was looked at"
        self.most["memory"] = self.place.server.peak_rss_bytes()
        return self.most


def disk_bytes(directory: Path) -> int:
    """Blocks of all files, holes left out; files may vanish meanwhile."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.stat(os.path.join(folder, name)).st_blocks * 512
            except FileNotFoundError:
                pass
    return total


def flood(place: Place, writers: int, seconds: float, pause: float) -> list[Ended]:
    """Objects of 1 MiB under ever new keys; what became of each."""
    until, ends = time.monotonic() + seconds, []

    def write(number: int) -> None:
        turn = 0
        while time.monotonic() < until:
            ended = place.put(f"w{number}/k{turn}", payload(MIB, (number, turn)))
            ends.append(ended)
            turn += 1
            if not ended.acked:
                time.sleep(pause)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 60)
        assert not thread.is_alive(), "a write without a deadline"
    return ends


def bounded(place: Place, most: Counter[str]) -> None:
    assert most["dirty"] <= place.server.metric("quickwater_store_dirty_limit_bytes") <= CAPACITY * DIRTY_RATIO
    assert most["disk"] <= CAPACITY + METADATA_BYTES, most
    assert most["memory"] <= MEMORY * SURPLUS, most


def recovered(place: Place) -> None:
    """The store is quick again: it gets all, and there is room as before."""
    place.finish(120.0)
    assert place.server.metric("quickwater_store_pinned_bytes") == 0
    for turn in range(20):
        assert place.put(f"after/{turn}", payload(MIB, turn)).acked
    place.finish()


@pytest.mark.slow
def test_ten_times_the_persist_rate(small: Callable[..., Place]) -> None:
    place, seconds = small("WRITE_BACK"), 40.0
    watch = Watch(place)
    watch.start()
    ends = flood(place, 4, seconds, pause=0.05)
    most = watch.end()
    persisted = len(place.stored())
    assert len(ends) >= TIMES_LEAST * STORE_AT_ONCE / STORE_SECONDS * seconds, len(ends)
    assert {(e.status, e.code) for e in ends} == {(200, ""), (503, "SlowDown")}
    assert all("retry-after" in e.headers for e in ends if not e.acked)
    acked = sum(e.acked for e in ends)
    # What is freed by a persist is used again.
    assert acked >= CAPACITY * DIRTY_RATIO / MIB * 0.7 + (persisted - 1) * 0.7, (acked, persisted)
    bounded(place, most)
    refused = next(n for n, e in enumerate(ends) if not e.acked)
    assert refused > 10, "there was room at first"
    recovered(place)


@pytest.mark.slow
def test_written_through_at_the_limit(small: Callable[..., Place]) -> None:
    """By option the store's pace is taken instead: slow, and every write is acked."""
    place, seconds = small("WRITE_BACK", at_once=1, onDirtyLimit="WRITE_THROUGH"), 30.0
    watch = Watch(place)
    watch.start()
    # A thread of the service writes through four bodies at a time with this memory;
    # should all connections meet one thread, nobody waits there for more than a turn.
    ends = flood(place, 8, seconds, pause=0.0)
    most = watch.end()
    assert {(e.status, e.code) for e in ends} == {(200, "")}
    assert len(ends) >= TIMES_LEAST / STORE_SECONDS * seconds, len(ends)
    through = [line for line in place.server.metrics_text().splitlines() if 'outcome="through"' in line]
    assert through and float(through[0].rsplit(" ", 1)[1]) > 30, through
    bounded(place, most)
    recovered(place)


@pytest.mark.slow
def test_transient_data_fill_their_share_and_no_more(small: Callable[..., Place]) -> None:
    """Nothing persists them: only deleting makes room. Others write through meanwhile."""
    place = small("TRANSIENT")
    place.sim.clear_rules()
    ends = []
    while not ends or ends[-1].status == 200:
        ends.append(place.send("PUT", f"t/{len(ends)}", payload(MIB, len(ends))))
        assert len(ends) < CAPACITY // MIB, "more than its share"
    assert (ends[-1].status, ends[-1].code) == (503, "SlowDown")
    assert len(ends) > CAPACITY // MIB * DIRTY_RATIO * 0.5
    for number in range(len(ends) - 1):
        assert place.send("GET", f"t/{number}").body == payload(MIB, number)
    for number in range(10):
        assert place.send("DELETE", f"t/{number}").status == 204
    assert place.send("PUT", "t/again", payload(MIB, "again")).status == 200
    place.policy("WRITE_THROUGH")
    assert place.send("PUT", "through", payload(3 * MIB + KIB, "through")).status == 200
    assert place.stored_body("through") == payload(3 * MIB + KIB, "through")


@pytest.mark.slow
def test_pending_changes_keep_to_their_share_of_memory(store: Sim, serve: ServeFactory) -> None:
    """Objects of a byte, and the store is down: no dirty space is short, but memory is."""
    store.reset()
    # Attempts are few, else they take all the CPU.
    more = {"write_cache_persist_retry_initial": "5s", "write_cache_persist_retry_max": "20s",
            "write_cache_dirty_ratio": "0.9"}  # fmt: skip
    options = scaled(store, memory=str(MEMORY), capacity=str(4096 * MIB), **more)
    place = Place(serve("changes", **options), store)
    place.policy("WRITE_BACK", writeReplicas=1)
    assert place.put("kept", b"kept").acked
    store.down("refuse")
    taken = lambda: place.server.metric("quickwater_persist_memory_bytes")  # noqa: E731
    keys = place.server.credentials()
    env = {**os.environ, "AWS_ACCESS_KEY_ID": keys["access_key_id"], "AWS_SECRET_ACCESS_KEY": keys["secret_access_key"]}
    words = [str(binary()), "bench", "put", "--endpoint", place.target().endpoint, "--bucket", place.bucket,
             "--size", "1", "--prefix", LONG, "--concurrency", "32", "--duration", f"{FILL_SECONDS:.0f}s", "--quiet"]  # fmt: skip
    load = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + FILL_SECONDS
        while not (refused := place.send("PUT", "more", b"x")).code:
            assert load.poll() is None, "the load ended"
            assert refused.status == 200 and time.monotonic() < end, (refused, taken())
            time.sleep(0.2)
    finally:
        load.kill()
        load.wait()
    assert (refused.status, refused.code) == (503, "SlowDown") and "retry-after" in refused.headers
    assert place.send("DELETE", "kept").status == 503
    # Errors of attempts come on top of what was taken in.
    assert 0.9 * CHANGES_BYTES < taken() < 2 * CHANGES_BYTES, taken()
    dirty = place.server.metric("quickwater_store_pinned_bytes")
    assert dirty < place.server.metric("quickwater_store_dirty_limit_bytes") / 2
    assert place.server.peak_rss_bytes() <= MEMORY * SURPLUS
    assert place.read("kept").body == b"kept"
    store.up()
    end = time.monotonic() + FILL_SECONDS
    while not place.send("PUT", "more", b"x").status == 200:
        assert time.monotonic() < end, "no room again"
        time.sleep(0.5)
    store.reset()


def bench_put(place: Place, prefix: str, seconds: int) -> subprocess.Popen[bytes]:
    """Objects of 1 KiB under new keys, until they are refused."""
    keys = place.server.credentials()
    env = {**os.environ, "AWS_ACCESS_KEY_ID": keys["access_key_id"], "AWS_SECRET_ACCESS_KEY": keys["secret_access_key"]}
    words = [str(binary()), "bench", "put", "--endpoint", place.target().endpoint, "--bucket", place.bucket,
             "--size", "1024", "--prefix", prefix, "--concurrency", "32", "--duration", f"{seconds}s", "--quiet"]  # fmt: skip
    return subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_records_that_are_held_for_good_do_not_stop_write_back(store: Sim, serve: ServeFactory) -> None:
    """Many small TRANSIENT objects: the number of records is short, no bytes are."""
    store.reset()
    options = over(store)
    options["flags"] |= {**SCALED, "capacity": str(8192 * MIB), "memory": str(MEMORY), "threads": "1"}
    place = Place(serve("records", **options), store)
    place.policy("TRANSIENT", writeReplicas=1)
    load = bench_put(place, "tr/", int(FILL_SECONDS))
    try:
        end = time.monotonic() + FILL_SECONDS
        while (refused := place.send("PUT", "tr-more", b"x")).status == 200:
            assert load.poll() is None and time.monotonic() < end
            time.sleep(0.5)
    finally:
        load.kill()
        load.wait()
    assert (refused.status, refused.code) == (503, "SlowDown"), refused
    metric = place.server.metric
    held, most = metric("quickwater_store_pinned_records"), metric("quickwater_store_dirty_limit_records")
    assert most * 0.99 < held <= most
    assert metric("quickwater_store_pinned_bytes") < metric("quickwater_store_dirty_limit_bytes") / 2
    # What the load had under way when it was killed is gone: fill up again.
    until = time.monotonic() + 30
    while metric("quickwater_store_reserved_records"):
        assert time.monotonic() < until, "a write under way without a deadline"
        time.sleep(0.1)
    number = 0
    while place.send("PUT", f"fill/{number}", b"x").status == 200:
        number += 1
        assert number < 1000
    place.policy("WRITE_BACK", writeReplicas=1)
    put = place.put("k", payload(KIB, "k"))
    assert (put.status, put.headers.get("x-quickwater-durability")) == (200, "ufs"), put
    assert place.stored_body("k") == payload(KIB, "k") and met_limit(place, "oversize") >= 1
    upload = begin(place, "big")
    ends = sent_with_retries(place, "big", upload, 2)
    body = b"".join(payload(PART, ("big", n)) for n in (1, 2))
    assert place.complete("big", upload, manifest_of(ends), body).acked
    assert place.stored_body("big") == body and met_limit(place, "upload") == 1
    # As soon as some are deleted it is as before.
    for n in range(3):
        assert place.send("DELETE", f"fill/{n}").status in (204, 404)
    assert place.send("DELETE", "tr-more").status in (204, 404)
    until = time.monotonic() + 20
    while place.put("back", b"b").headers.get("x-quickwater-durability") != "local-1":
        assert time.monotonic() < until
        time.sleep(0.3)
    place.wait_persisted()
