"""Dirty space fills ten times faster than the store takes: SlowDown and nothing else,
memory and disk bounded, and all is well again without an operator (C12)."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from conftest import ServeFactory
from harness.apart import one_process
from harness.payload import KIB, MIB, payload
from harness.server import binary
from harness.under import SCALED, STORE_BUCKET, Ended, Place, over, scaled
from ufssim.client import Sim

pytestmark = pytest.mark.usefixtures("write_back")

CAPACITY = 256 * MIB
MEMORY = 256 * MIB
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
# -- what does not fit ------------------------------------------------------------------

TIGHT_CAPACITY, TIGHT_RATIO = 64 * MIB, 0.25
OVER = 20 * MIB  # more than the limit of 16 MiB
PART = 5 * MIB


@pytest.fixture
def tight(store: Sim, serve: ServeFactory) -> Iterator[Callable[..., Place]]:
    """Makes a bucket under a policy on a service with 16 MiB of dirty space."""
    store.reset()

    def make(mode: str, **properties: Any) -> Place:
        options = over(store)
        options["flags"] |= {
            **SCALED,
            "capacity": str(TIGHT_CAPACITY),
            "segment-size": str(4 * MIB),
            "memory": str(MEMORY),
            "write-cache-dirty-ratio": str(TIGHT_RATIO),
        }
        made = Place(serve("tight", **options), store)
        made.policy(mode, writeReplicas=1, **properties)
        return made

    yield make
    store.reset()


def met_limit(place: Place, outcome: str) -> float:
    """How often writes met the dirty limit with that outcome."""
    name = "quickwater_persist_dirty_limit_total"
    lines = [line for line in place.server.metrics_text().splitlines() if line.startswith(name)]
    found = [line for line in lines if f'outcome="{outcome}"' in line]
    return float(found[0].rsplit(" ", 1)[1]) if found else -1.0


def unpinned(place: Place) -> None:
    """Nothing takes dirty space any more; what is persisted goes within a flush."""
    until = time.monotonic() + 20
    while pinned := place.server.metric("quickwater_store_pinned_bytes"):
        assert time.monotonic() < until, pinned
        time.sleep(0.1)


def test_an_object_larger_than_the_dirty_space_is_written_through(tight: Callable[..., Place]) -> None:
    """It would wait for ever: it is acked when the store has it, and says so."""
    place, body = tight("WRITE_BACK"), payload(OVER, "over")
    assert place.server.metric("quickwater_store_dirty_limit_bytes") < OVER
    put = place.put("k", body)
    assert (put.status, put.headers.get("x-quickwater-durability")) == (200, "ufs"), put
    assert place.stored_body("k") == body and place.persist_state("k") == "PERSISTED"
    copied = place.copy("k", "copy", body)
    assert (copied.status, copied.headers.get("x-quickwater-durability")) == (200, "ufs"), copied
    assert place.stored_body("copy") == body
    assert met_limit(place, "oversize") == 2 and met_limit(place, "refused") == 0
    assert "larger than the space" in place.server.log()
    small = place.put("small", b"small")
    assert small.headers["x-quickwater-durability"] == "local-1", "others go on as before"
    # Nobody is told that it is stored when it is not.
    place.sim.down("refuse")
    away = place.put("away", body)
    assert away.status == 503 and place.send("GET", "away").status in (404, 503), away
    place.sim.up()
    place.wait_persisted()


def test_a_streamed_object_is_judged_by_what_it_decodes_to(tight: Callable[..., Place]) -> None:
    """boto3 sends aws-chunked with a trailer; its decoded length is announced."""
    place, body = tight("WRITE_BACK"), payload(OVER, "chunked")
    place.s3().put_object(Bucket=place.bucket, Key="k", Body=body, ChecksumAlgorithm="CRC32C")
    assert place.stored_body("k") == body
    assert met_limit(place, "oversize") == 1


def test_what_no_transient_space_can_hold_is_refused_for_good(tight: Callable[..., Place]) -> None:
    place, body = tight("TRANSIENT"), payload(OVER, "over")
    limit = int(place.server.metric("quickwater_store_dirty_limit_bytes"))
    put = place.send("PUT", "k", body)
    assert (put.status, put.code) == (400, "EntityTooLarge"), put
    text = put.body.decode()
    assert str(limit) in text and "write_cache.dirty_ratio" in text and "TRANSIENT" in text, text
    assert place.send("GET", "k").status == 404 and place.stored() == {}
    # In parts: each would fit, all of them do not.
    upload = begin(place, "parts")
    ends = [send_part(place, "parts", upload, number) for number in range(1, 6)]
    assert [end.status for end in ends[:2]] == [200, 200], ends
    last = ends[-1]
    assert (last.status, last.code) == (400, "EntityTooLarge"), last
    assert str(limit) in last.body.decode() and "write_cache.dirty_ratio" in last.body.decode()
    assert place.send("DELETE", "parts", query=[("uploadId", upload)]).status == 204
    assert met_limit(place, "too_large") >= 2
    # Space that others fill is another matter: it may come free.
    assert all(place.send("PUT", f"t/{n}", payload(5 * MIB, n)).status == 200 for n in range(3))
    crowded = place.send("PUT", "t/more", payload(5 * MIB, "more"))
    assert (crowded.status, crowded.code) == (503, "SlowDown"), crowded


def begin(place: Place, key: str) -> str:
    """A new upload's id."""
    created = place.send("POST", key, query=[("uploads", "")])
    assert created.status == 200, created
    return created.body.partition(b"<UploadId>")[2].partition(b"<")[0].decode()


def send_part(place: Place, key: str, upload: str, number: int, size: int = PART) -> Ended:
    """One part whose content follows from its number."""
    query = [("partNumber", str(number)), ("uploadId", upload)]
    return place.send("PUT", key, payload(size, (key, number)), query=query)


def manifest_of(ends: list[Ended]) -> bytes:
    """What completes an upload of these parts."""
    lines = (
        f"<Part><PartNumber>{number}</PartNumber><ETag>{end.headers['etag']}</ETag></Part>"
        for number, end in enumerate(ends, 1)
    )
    return f"<CompleteMultipartUpload>{''.join(lines)}</CompleteMultipartUpload>".encode()


def sent_with_retries(place: Place, key: str, upload: str, count: int, first: int = 1) -> list[Ended]:
    """Parts as a client sends them: told to slow down, it tries again."""
    ends, until = [], time.monotonic() + 60
    for number in range(first, first + count):
        while (end := send_part(place, key, upload, number)).status == 503:
            assert time.monotonic() < until, f"told to slow down for ever: {end}"
            time.sleep(0.2)
        assert end.status == 200, end
        ends.append(end)
    return ends


@pytest.mark.parametrize("over_limit", ["SLOW_DOWN", "WRITE_THROUGH"])
def test_an_upload_larger_than_the_dirty_space_is_completed(tight: Callable[..., Place], over_limit: str) -> None:
    place = tight("WRITE_BACK", onDirtyLimit=over_limit)
    upload = begin(place, "big")
    ends = sent_with_retries(place, "big", upload, 7)
    body = b"".join(payload(PART, ("big", number)) for number in range(1, 8))
    done = place.complete("big", upload, manifest_of(ends), body)
    assert (done.status, done.headers.get("x-quickwater-durability")) == (200, "ufs"), done
    assert place.stored_body("big") == body and place.send("GET", "big").body == body
    assert place.persist_state("big") == "PERSISTED"
    again = place.complete("big", upload, manifest_of(ends), body)
    assert again.status == 200, again
    assert met_limit(place, "upload") == 1
    # All of the space is there again.
    assert place.put("after", payload(12 * MIB, "after")).headers["x-quickwater-durability"] == "local-1"
    place.wait_persisted()
    unpinned(place)
    assert place.sim.target().client().list_multipart_uploads(Bucket=STORE_BUCKET).get("Uploads", []) == []


def test_uploads_that_fill_the_dirty_space_together_are_all_completed(tight: Callable[..., Place]) -> None:
    """None of them is too large; all of them are, and nothing but they can make room."""
    place = tight("WRITE_BACK")
    uploads = {key: begin(place, key) for key in ("a", "b", "c")}
    ends: dict[str, list[Ended]] = {key: [] for key in uploads}
    for number in (1, 2):
        for key, upload in uploads.items():
            ends[key] += sent_with_retries(place, key, upload, 1, first=number)
    for key, upload in uploads.items():
        body = payload(PART, (key, 1)) + payload(PART, (key, 2))
        assert place.complete(key, upload, manifest_of(ends[key]), body).acked
    place.wait_persisted()
    place.settled(through=False)
    unpinned(place)


@pytest.mark.parametrize("when", ["handed over", "store away"])
def test_an_upload_that_was_handed_over_outlives_kill_9(tight: Callable[..., Place], when: str) -> None:
    """Parts acked before, here only or in the store, are there after a kill."""
    place = tight("WRITE_BACK")
    upload = begin(place, "big")
    if when == "handed over":
        # Parts that were acked here stay here for long: the store takes them slowly.
        ends = sent_with_retries(place, "big", upload, 3)
        place.sim.rule("latency", delay_s=1.0, operation="UploadPart")
        ends += sent_with_retries(place, "big", upload, 2, first=4)
    else:
        ends = sent_with_retries(place, "big", upload, 3)
        place.sim.down("refuse")
        refused = send_part(place, "big", upload, 4)
        assert refused.status == 503, refused
        place.sim.up()
        ends += sent_with_retries(place, "big", upload, 2, first=4)
    place.server.kill()
    place.sim.clear_rules()
    place.server.start()
    body = b"".join(payload(PART, ("big", number)) for number in range(1, 6))
    done = place.complete("big", upload, manifest_of(ends), body)
    assert done.status == 200, done
    assert place.stored_body("big") == body and place.send("GET", "big").body == body
    place.wait_persisted()
    unpinned(place)


def test_an_upload_that_was_handed_over_is_aborted_in_the_store(tight: Callable[..., Place]) -> None:
    place = tight("WRITE_BACK")
    upload = begin(place, "big")
    sent_with_retries(place, "big", upload, 4)
    assert place.send("DELETE", "big", query=[("uploadId", upload)]).status == 204
    assert place.sim.target().client().list_multipart_uploads(Bucket=STORE_BUCKET).get("Uploads", []) == []
    assert place.send("GET", "big").status == 404
    unpinned(place)


# -- nothing that is held for good keeps others waiting ---------------------------------

HELD = 3  # parts that leave no room for one more
LOOKS = 10_000  # uploads that are looked at once to make room


def held_by_parts(place: Place) -> list[tuple[str, list[Ended]]]:
    """Open uploads whose parts fill the space as far as they fit; none is completed."""
    uploads = []
    for key in ("idle/a", "idle/b", "idle/c"):
        upload = begin(place, key)
        uploads.append((upload, [send_part(place, key, upload, 1)]))
    assert all(end.status == 200 for _, ends in uploads for end in ends), uploads
    assert place.server.metric("quickwater_store_pinned_bytes") >= HELD * PART
    return uploads


@pytest.mark.parametrize("mode", ["WRITE_BACK", "TRANSIENT"])
def test_parts_of_open_uploads_do_not_stop_write_back(tight: Callable[..., Place], mode: str) -> None:
    """Nothing that waits will make room: such an object goes through, others do not."""
    place = tight(mode)
    uploads = held_by_parts(place)
    place.policy("WRITE_BACK", writeReplicas=1)
    body = payload(4 * MIB, "k")
    put = place.put("k", body)
    assert (put.status, put.headers.get("x-quickwater-durability")) == (200, "ufs"), put
    assert place.stored_body("k") == body
    assert met_limit(place, "oversize") == 1
    small = place.put("small", b"s")
    assert small.headers["x-quickwater-durability"] == "local-1", "this one fits"
    for number, (upload, ends) in enumerate(uploads):
        key = "idle/" + "abc"[number]
        data = payload(PART, (key, 1))
        if mode == "WRITE_BACK":
            assert place.complete(key, upload, manifest_of(ends), data).acked
        else:  # an upload keeps the policy it began under: the store is not to have it
            query = [("uploadId", upload)]
            assert place.send("POST", key, manifest_of(ends), query=query).status == 200
        assert place.send("GET", key).body == data
    place.wait_persisted()


def test_a_part_beside_parts_of_a_transient_upload_goes_through(tight: Callable[..., Place]) -> None:
    place = tight("TRANSIENT")
    held_by_parts(place)
    place.policy("WRITE_BACK", writeReplicas=1)
    upload = begin(place, "k")
    ends = sent_with_retries(place, "k", upload, 2)
    body = b"".join(payload(PART, ("k", number)) for number in (1, 2))
    assert place.complete("k", upload, manifest_of(ends), body).acked
    assert place.stored_body("k") == body
    assert met_limit(place, "upload") == 1


def test_what_waits_for_the_store_is_waited_for(tight: Callable[..., Place]) -> None:
    """Room will come free: SlowDown, and the client is not called back every second."""
    place = tight("WRITE_BACK")
    place.sim.down("refuse")
    number = 0
    while (put := place.put(f"k/{number}", payload(MIB, number))).acked:
        number += 1
        assert number < 32
    assert (put.status, put.code) == (503, "SlowDown") and number > 8, (put, number)
    assert met_limit(place, "oversize") == 0
    place.sim.up()
    place.wait_persisted()
    unpinned(place)


def test_clients_of_a_full_transient_space_come_back_later(tight: Callable[..., Place]) -> None:
    """Nothing is on its way to the store, so nothing comes free within a second."""
    place = tight("TRANSIENT")
    assert all(place.send("PUT", f"t/{n}", payload(5 * MIB, n)).status == 200 for n in range(3))
    crowded = place.send("PUT", "t/more", payload(5 * MIB, "more"))
    assert (crowded.status, crowded.code) == (503, "SlowDown"), crowded
    assert int(crowded.headers["retry-after"]) > 1, crowded.headers


def test_held_parts_are_sent_after_a_restart_without_complete(tight: Callable[..., Place]) -> None:
    """A kill in the middle of it: the next process goes on by itself, and room is free."""
    place = tight("WRITE_BACK")
    upload = begin(place, "big")
    ends = sent_with_retries(place, "big", upload, 3)
    place.sim.rule("latency", delay_s=1.0, operation="UploadPart")
    ends += sent_with_retries(place, "big", upload, 1, first=4)
    assert place.server.metric("quickwater_store_pinned_bytes") > 0, "none is held any more"
    place.server.kill()
    # It is tried for as long as it takes.
    place.sim.clear_rules()
    place.sim.down("refuse")
    place.server.start()
    time.sleep(2)
    assert place.server.metric("quickwater_store_pinned_bytes") > 0
    place.sim.up()
    unpinned(place)
    body = b"".join(payload(PART, ("big", number)) for number in range(1, 5))
    done = place.complete("big", upload, manifest_of(ends), body)
    assert done.status == 200, done
    assert place.stored_body("big") == body and place.send("GET", "big").body == body


# -- room that only open uploads can make, uploads that the store lost ------------------


def open_in_store(place: Place) -> list[dict[str, Any]]:
    """Uploads the store has open."""
    found: list[dict[str, Any]] = (
        place.sim.target().client().list_multipart_uploads(Bucket=STORE_BUCKET).get("Uploads", [])
    )
    return found


@pytest.mark.parametrize("mode", ["TRANSIENT", "WRITE_BACK"])
def test_the_largest_idle_upload_makes_room(tight: Callable[..., Place], mode: str) -> None:
    """TRANSIENT data cannot go through: of the uploads in the way, one does. What can
    goes through at first, and is acked here again as soon as there is room."""
    place = tight("WRITE_BACK")
    sizes = {"idle/a": 4 * MIB, "idle/b": 6 * MIB, "idle/c": 4 * MIB}
    uploads = {key: begin(place, key) for key in sizes}
    ends = {key: [send_part(place, key, uploads[key], 1, size)] for key, size in sizes.items()}
    assert all(end.status == 200 for (end,) in ends.values()), ends
    place.policy(mode, writeReplicas=1)
    time.sleep(5)  # none of them is in use any more
    until = time.monotonic() + 30
    while True:
        put = place.send("PUT", "t", payload(5 * MIB, "t"))
        if put.headers.get("x-quickwater-durability") == "local-1":
            break
        told = (503, "SlowDown") if mode == "TRANSIENT" else (200, "")
        assert (put.status, put.code) == told and time.monotonic() < until, f"nobody makes room: {put}"
        time.sleep(0.3)
    assert [u["Key"].removeprefix(place.prefix) for u in open_in_store(place)] == ["idle/b"]
    assert met_limit(place, "upload") == 1
    for key, size in sizes.items():
        # The one that was handed over goes on as before, the others stay here.
        ends[key] += [send_part(place, key, uploads[key], 2, KIB)]
        body = payload(size, (key, 1)) + payload(KIB, (key, 2))
        assert place.complete(key, uploads[key], manifest_of(ends[key]), body).acked
        assert place.send("GET", key).body == body
    assert place.send("GET", "t").body == payload(5 * MIB, "t")
    assert place.send("DELETE", "t").status == 204
    place.wait_persisted()
    unpinned(place)


@pytest.mark.parametrize("why", ["away", "silent", "denied"])
def test_a_store_that_refuses_does_not_keep_others_from_making_room(
    tight: Callable[..., Place], tmp_path: Path, why: str
) -> None:
    """The largest idle upload is of a store that does not take it: the next one is."""
    place = tight("WRITE_BACK")
    near = tmp_path / "near"
    near.mkdir()
    place.server.cli("mount", "add", "near", f"file://{near}")
    rules = [(place.bucket, "WRITE_BACK"), ("near/t", "TRANSIENT"), ("near", "WRITE_BACK")]
    document = {
        "apiVersion": "v1.0",
        "pathRules": [
            {"path": f"/{path}/**", "policyMode": mode, "properties": {"writeReplicas": 1}} for path, mode in rules
        ],
    }
    path = place.server.home / "policies.json"
    path.write_text(json.dumps(document))
    place.server.cli("pathconfig", "apply", str(path))
    time.sleep(1.0)
    far = begin(place, "far")
    ends = [send_part(place, "far", far, number, 4 * MIB) for number in (1, 2)]
    s3 = place.s3()
    here = {"Bucket": "near", "Key": "idle"}
    here["UploadId"] = s3.create_multipart_upload(**here)["UploadId"]
    part = s3.upload_part(**here, PartNumber=1, Body=payload(6 * MIB, "near"))
    assert [end.status for end in ends] == [200, 200]
    match why:
        case "denied":
            place.sim.rule("status", operation="CreateMultipartUpload", status=403, code="AccessDenied")
        case "silent":
            place.sim.down("black_hole")
        case _:
            place.sim.down("refuse")
    time.sleep(5.5)  # neither is in use any more
    bucket, place.bucket = place.bucket, "near"
    until = time.monotonic() + 40
    while (put := place.send("PUT", "t/k", payload(5 * MIB, "t"))).status != 200:
        assert (put.status, put.code) == (503, "SlowDown") and time.monotonic() < until, put
        time.sleep(0.3)
    assert place.send("GET", "t/k").body == payload(5 * MIB, "t")
    place.bucket = bucket
    assert met_limit(place, "upload") == 1 and place.server.metric("quickwater_persist_held_failures_total") >= 1
    named = [{"PartNumber": 1, "ETag": part["ETag"]}]
    s3.complete_multipart_upload(**here, MultipartUpload={"Parts": named})
    assert (near / "idle").read_bytes() == payload(6 * MIB, "near")
    # The other is as it was, and goes on when its store does.
    place.sim.up()
    place.sim.clear_rules()
    body = payload(4 * MIB, ("far", 1)) + payload(4 * MIB, ("far", 2))
    assert place.complete("far", far, manifest_of(ends), body).acked
    place.wait_persisted()
    assert place.stored_body("far") == body


def test_an_upload_that_one_store_refuses_gives_way_to_the_next(tight: Callable[..., Place]) -> None:
    """Of one bucket, too: the store takes all keys but that of the largest."""
    place = tight("WRITE_BACK")
    sizes = {"idle/a": 8 * MIB, "idle/b": 6 * MIB}
    uploads = {key: begin(place, key) for key in sizes}
    assert all(send_part(place, key, uploads[key], 1, size).status == 200 for key, size in sizes.items())
    place.sim.rule("status", operation="CreateMultipartUpload", key="*idle/a", status=403, code="AccessDenied")
    place.policy("TRANSIENT", writeReplicas=1)
    time.sleep(5)
    until = time.monotonic() + 40
    while (put := place.send("PUT", "t", payload(5 * MIB, "t"))).status != 200:
        assert (put.status, put.code) == (503, "SlowDown") and time.monotonic() < until, put
        time.sleep(0.3)
    assert [u["Key"].removeprefix(place.prefix) for u in open_in_store(place)] == ["idle/b"]


@pytest.mark.slow
def test_uploads_without_parts_do_not_hide_those_that_make_room(tight: Callable[..., Place]) -> None:
    """More of them than are looked at once: the next look goes on after them."""
    place = tight("WRITE_BACK")
    with ThreadPoolExecutor(8) as clients:
        made = set(clients.map(lambda number: begin(place, f"empty/{number}"), range(LOOKS + 50)))
    assert len(made) == LOOKS + 50
    held_by_parts(place)  # their keys come last
    place.policy("TRANSIENT", writeReplicas=1)
    time.sleep(5)
    # Looks that find nothing are up to a minute apart.
    until = time.monotonic() + 240
    while (put := place.send("PUT", "t", payload(5 * MIB, "t"))).status != 200:
        assert (put.status, put.code) == (503, "SlowDown") and time.monotonic() < until, put
        time.sleep(0.3)
    assert [u["Key"].startswith(place.prefix + "idle/") for u in open_in_store(place)] == [True]
    assert place.send("GET", "t").body == payload(5 * MIB, "t")


def test_a_hand_over_without_an_answer_changed_nothing(store: Sim, serve: ServeFactory) -> None:
    """The store begins an upload, its answer is lost: the part is to be sent again, and
    what the store has is found and ended."""
    store.reset()
    options = scaled(store, capacity=str(TIGHT_CAPACITY), segment_size=str(4 * MIB), memory=str(MEMORY),
                     write_cache_dirty_ratio=str(TIGHT_RATIO), write_cache_orphan_timeout="4s",
                     write_cache_orphan_period="300ms")  # fmt: skip
    place = Place(serve("lost", **options), store)
    place.policy("WRITE_BACK", writeReplicas=1)
    upload = begin(place, "big")
    ends = sent_with_retries(place, "big", upload, 3)
    place.sim.script("lose_reply", operation="CreateMultipartUpload")
    lost = send_part(place, "big", upload, 4)
    assert lost.status == 503 and lost.code in ("SlowDown", "ServiceUnavailable"), lost
    assert int(lost.headers["retry-after"]) >= 1, lost.headers
    (unnamed,) = open_in_store(place)
    ends += sent_with_retries(place, "big", upload, 1, first=4)
    assert len(open_in_store(place)) == 2
    until = time.monotonic() + 40
    number = 5
    while unnamed["UploadId"] in [there["UploadId"] for there in open_in_store(place)]:
        # In use, so that only the other one is swept.
        ends += sent_with_retries(place, "big", upload, 1, first=number)
        assert time.monotonic() < until, "nobody ends it"
        time.sleep(1)
        number += 1
    assert len(open_in_store(place)) == 1, "the one that is used"
    body = b"".join(payload(PART, ("big", n)) for n in range(1, number))
    assert place.complete("big", upload, manifest_of(ends), body).acked
    assert place.stored_body("big") == body and open_in_store(place) == []
    assert place.server.metric("quickwater_persist_opened_uploads") == 0
    store.reset()


def test_uploads_in_use_and_frozen_ones_are_left_alone(tight: Callable[..., Place]) -> None:
    """READ_ONLY: the store hears nothing, however short room is."""
    place = tight("WRITE_BACK")
    uploads = held_by_parts(place)
    rules = [("idle", "READ_ONLY", {}), ("t", "TRANSIENT", {"writeReplicas": 1})]
    document = {
        "apiVersion": "v1.0",
        "pathRules": [
            {"path": f"/{place.bucket}/{path}/**", "policyMode": mode, "properties": properties}
            for path, mode, properties in rules
        ],
    }
    path = place.server.home / "policies.json"
    path.write_text(json.dumps(document))
    place.server.cli("pathconfig", "apply", str(path))
    until = time.monotonic() + 10
    while time.monotonic() < until:
        put = place.send("PUT", "t/k", payload(5 * MIB, "k"))
        assert (put.status, put.code) == (503, "SlowDown"), put
        time.sleep(0.5)
    assert [r.operation for r in place.sim.mutating_requests()] == []
    assert len(uploads) == HELD


def handed_over(place: Place, key: str) -> str:
    """An upload of four parts, some of which are only here: the store takes them slowly."""
    upload = begin(place, key)
    sent_with_retries(place, key, upload, 3)
    place.sim.rule("latency", delay_s=1.0, operation="UploadPart")
    sent_with_retries(place, key, upload, 1, first=4)
    assert place.server.metric("quickwater_store_pinned_bytes") > 0, "none is held any more"
    return upload


def test_an_upload_that_the_store_lost_is_ended(tight: Callable[..., Place]) -> None:
    """What was sent of it is gone. Its client is told, and it keeps no space."""
    place = tight("WRITE_BACK")
    upload = handed_over(place, "big")
    (there,) = open_in_store(place)
    store = place.sim.target().client()
    store.abort_multipart_upload(Bucket=STORE_BUCKET, Key=there["Key"], UploadId=there["UploadId"])
    unpinned(place)
    assert place.server.metric("quickwater_persist_held_gone_total") == 1
    query = [("uploadId", upload)]
    for ended in (
        send_part(place, "big", upload, 5, KIB),
        place.send("GET", "big", query=query),
        place.send("POST", "big", manifest_of([Ended(200, headers={"etag": '"0"'})]), query=query),
        place.send("DELETE", "big", query=query),
    ):
        assert (ended.status, ended.code) == (404, "NoSuchUpload"), ended
    assert place.send("GET", "big").status == 404
    place.server.kill()
    place.server.start()
    assert place.server.metric("quickwater_store_pinned_bytes") == 0


def test_a_complete_without_an_answer_is_no_lost_upload(tight: Callable[..., Place]) -> None:
    """The store has no such upload because it is an object now: asked again, it is one."""
    place = tight("WRITE_BACK")
    upload = begin(place, "big")
    sent_with_retries(place, "big", upload, 3)
    place.sim.rule("latency", delay_s=0.7, operation="UploadPart")
    ends = sent_with_retries(place, "big", upload, 1, first=4)
    # Not all parts are named: what is held of the others is still to be sent.
    named = [(4, ends[0])]
    lines = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{e.headers['etag']}</ETag></Part>" for n, e in named)
    manifest = f"<CompleteMultipartUpload>{lines}</CompleteMultipartUpload>".encode()
    place.sim.clear_rules()
    place.sim.rule("lose_reply", operation="CompleteMultipartUpload", times=1)
    place.sim.rule("reset", operation="CompleteMultipartUpload|HeadObject|GetObject|List*")
    place.sim.rule("latency", delay_s=0.7, operation="UploadPart")
    body = payload(PART, ("big", 4))
    first = place.complete("big", upload, manifest, body)
    assert not first.acked, first
    time.sleep(1.5)
    place.sim.clear_rules()
    again = place.complete("big", upload, manifest, body)
    until = time.monotonic() + 20
    while not again.acked:
        assert again.status >= 500 and time.monotonic() < until, again
        time.sleep(0.3)
        again = place.complete("big", upload, manifest, body)
    assert place.server.metric("quickwater_persist_held_gone_total") == 0
    assert place.send("GET", "big").body == body == place.stored_body("big")
    unpinned(place)


def test_what_a_forgotten_complete_made_is_no_lost_upload(tight: Callable[..., Place]) -> None:
    """As after a power cut that took the note of a Complete which the store applied."""
    place = tight("WRITE_BACK")
    upload = handed_over(place, "big")
    (there,) = open_in_store(place)
    store, where = place.sim.target().client(), {"Bucket": STORE_BUCKET, "Key": there["Key"]}
    where["UploadId"] = there["UploadId"]
    (last,) = [p for p in store.list_parts(**where)["Parts"] if p["PartNumber"] == 4]
    part = {"PartNumber": 4, "ETag": last["ETag"]}
    store.complete_multipart_upload(**where, MultipartUpload={"Parts": [part]})
    until = time.monotonic() + 20
    while place.server.metric("quickwater_persist_held_failures_total") < 3:
        assert time.monotonic() < until, "the store was not asked"
        time.sleep(0.2)
    assert place.server.metric("quickwater_persist_held_gone_total") == 0
    manifest = (
        "<CompleteMultipartUpload><Part><PartNumber>4</PartNumber>"
        f"<ETag>{last['ETag']}</ETag></Part></CompleteMultipartUpload>"
    )
    body = payload(PART, ("big", 4))
    done = place.complete("big", upload, manifest.encode(), body)
    assert done.acked, done
    assert place.send("GET", "big").body == body
    unpinned(place)


def test_held_parts_are_sent_at_once_when_told_so(store: Sim, serve: ServeFactory) -> None:
    """A retry by hand does not wait for the pause after a failure, which is long."""
    store.reset()
    options = over(store)
    options["flags"] |= {
        "capacity": str(TIGHT_CAPACITY), "segment-size": str(4 * MIB), "memory": str(MEMORY),
        "write-cache-dirty-ratio": str(TIGHT_RATIO), "write-cache-persist-retry-initial": "60s",
    }  # fmt: skip
    place = Place(serve("told", **options), store)
    place.policy("WRITE_BACK", writeReplicas=1)
    upload = handed_over(place, "big")
    place.sim.clear_rules()
    place.sim.down("refuse")
    failed = lambda: place.server.metric("quickwater_persist_held_failures_total")  # noqa: E731
    until = time.monotonic() + 20
    while failed() == 0:
        assert time.monotonic() < until, "no attempt has failed"
        time.sleep(0.1)
    place.sim.up()
    time.sleep(1.5)
    assert place.server.metric("quickwater_store_pinned_bytes") > 0 and failed() == 1
    told = place.server.cli("async-persist", "retry", "--path", f"/{place.bucket}/other").stdout
    assert "nothing" in told.lower() or "0" in told, told
    assert place.server.metric("quickwater_store_pinned_bytes") > 0
    place.server.cli("async-persist", "retry", "--path", f"/{place.bucket}/big")
    unpinned(place)
    assert failed() == 1 and len(open_in_store(place)) == 1, upload
    store.reset()


# -- the records, where memory is short -------------------------------------------------


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


# -- transient, told honestly -----------------------------------------------------------


@one_process("status shows the counters of the process that is asked")
def test_transient_bytes_are_shown(tight: Callable[..., Place]) -> None:
    place = tight("TRANSIENT")
    path = f"/{place.bucket}/t"

    def shown() -> tuple[int, int]:
        metric = place.server.metric
        return int(metric("quickwater_transient_objects")), int(metric("quickwater_transient_bytes"))

    assert shown() == (0, 0)
    assert place.send("PUT", "t", payload(3 * MIB, "t")).acked
    assert place.send("PUT", "u", payload(MIB, "u")).acked
    assert shown() == (2, 4 * MIB)
    assert place.server.metric("quickwater_persist_dirty_bytes") == 0, "nothing waits for the store"
    assert "TRANSIENT" in place.server.cli("async-persist", "stat", "--path", path).stdout
    listed = place.server.cli("async-persist", "list").stdout
    assert "2 TRANSIENT objects" in listed and "nothing waits" in listed, listed
    listed = json.loads(place.server.cli("async-persist", "list", "--output", "json").stdout)
    assert listed["transient"] == {"objects": 2, "bytes": 4 * MIB}, listed
    assert "quickwater_transient_bytes" in place.server.cli("status").stdout
    place.s3().put_object_tagging(
        Bucket=place.bucket, Key="t", Tagging={"TagSet": [{"Key": "a", "Value": "b"}]}
    )
    assert shown() == (2, 4 * MIB)
    assert place.send("PUT", "u", payload(2 * MIB, "newer")).acked
    assert shown() == (2, 5 * MIB)
    place.server.kill()
    place.server.start()
    assert shown() == (2, 5 * MIB)
    assert place.send("DELETE", "u").status == 204
    assert shown() == (1, 3 * MIB)
    place.policy("WRITE_THROUGH")
    assert place.put("t", b"through").acked
    assert shown() == (0, 0)
    unpinned(place)


def test_transient_bytes_do_not_stop_write_back_for_ever(tight: Callable[..., Place]) -> None:
    """Nobody makes room for what does not fit beside them: it goes through."""
    place = tight("TRANSIENT")
    for number in range(5):
        assert place.send("PUT", f"t/{number}", payload(2 * MIB, number)).acked
    place.policy("WRITE_BACK", writeReplicas=1)
    put = place.put("k", payload(8 * MIB, "k"))
    assert (put.status, put.headers.get("x-quickwater-durability")) == (200, "ufs"), put
    assert place.put("small", b"s").headers["x-quickwater-durability"] == "local-1"
    place.wait_persisted()


def test_a_transient_object_that_the_store_never_had_is_not_deleted_there(tight: Callable[..., Place]) -> None:
    place = tight("WRITE_THROUGH")
    assert place.put("both", b"in the store").acked
    place.policy("TRANSIENT", writeReplicas=1)
    since = len(place.sim.requests())
    for key in ("t", "batch", "both", "u"):
        assert place.send("PUT", key, payload(MIB, key)).acked
    assert place.send("PUT", "u", payload(MIB, "again")).acked
    assert place.send("DELETE", "t").status == 204
    assert place.delete_many(["batch"])["batch"]
    assert place.send("DELETE", "both").status == 204
    until = time.monotonic() + 30
    while place.server.metric("quickwater_persist_pending_deletes"):
        assert time.monotonic() < until
        time.sleep(0.1)
    sent = [
        (r.operation, r.key.removeprefix(place.prefix))
        for r in place.sim.requests()
        if r.number > since and r.method in ("PUT", "POST", "DELETE")
    ]
    assert sent == [("DeleteObject", "both")], sent
    for key in ("t", "batch", "both"):
        assert place.send("GET", key).status == 404
    assert place.stored() == {}


def test_waiting_for_what_never_comes_is_refused(tight: Callable[..., Place]) -> None:
    place = tight("TRANSIENT")
    wait = [("x-quickwater-wait-persisted", "5")]
    assert place.send("PUT", "source", b"s").acked
    put = place.send("PUT", "k", b"never", headers=wait)
    assert (put.status, put.code) == (400, "InvalidRequest") and "TRANSIENT" in put.body.decode(), put
    copied = place.send("PUT", "k", headers=[*wait, ("x-amz-copy-source", f"/{place.bucket}/source")])
    assert (copied.status, copied.code) == (400, "InvalidRequest"), copied
    upload = begin(place, "k")
    ends = [send_part(place, "k", upload, 1, KIB)]
    query = [("uploadId", upload)]
    done = place.send("POST", "k", manifest_of(ends), query=query, headers=wait)
    assert (done.status, done.code) == (400, "InvalidRequest") and "TRANSIENT" in done.body.decode(), done
    assert place.send("GET", "k").status == 404
    assert place.send("POST", "k", manifest_of(ends), query=query).status == 200


@pytest.mark.parametrize("value", ["0", "-1", "601", "soon", "1.5", "", "1 2"])
def test_a_wait_that_says_nothing_is_refused(tight: Callable[..., Place], value: str) -> None:
    place = tight("WRITE_BACK")
    put = place.put("k", b"k", headers=[("x-quickwater-wait-persisted", value)])
    assert (put.status, put.code) == (400, "InvalidRequest"), put
    assert "x-quickwater-wait-persisted" in put.body.decode() and place.stored() == {}


def test_how_far_the_store_is_behind_is_measured(tight: Callable[..., Place]) -> None:
    place = tight("WRITE_BACK")
    place.sim.down("refuse")
    assert place.put("k", b"k").acked
    time.sleep(1.2)
    place.sim.up()
    place.wait_persisted()
    text = place.server.metrics_text()
    lag = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
           if line.startswith("quickwater_persist_lag_seconds")}
    assert lag["quickwater_persist_lag_seconds_count"] == 1, lag
    assert 1.0 < lag["quickwater_persist_lag_seconds_sum"] < 30, lag
