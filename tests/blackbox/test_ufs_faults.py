"""WRITE_THROUGH over a store that fails in every way we know: honest answers (C5),
nothing half applied, never a wrong byte."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from conftest import ServeFactory
from harness import metadata
from harness.payload import KIB, MIB, md5_hex, multipart_etag, payload
from harness.server import Server
from harness.under import FENCE_SECONDS, SCALED, STORE_BUCKET, TTL_SECONDS, Ended, Place, over
from ufssim.client import Sim

# Connect, request and the look afterwards, each with its own limit.
ANSWER_SECONDS = 15.0
SIZES = {"small": 10 * KIB, "large": 3 * MIB}
UNAVAILABLE, UNKNOWN = {503}, {500, 503}


@pytest.fixture(scope="module")
def front(serve_long: ServeFactory, store: Sim) -> Server:
    return serve_long("front", **fenced(store))


def fenced(sim: Sim) -> dict[str, Any]:
    """A store that has given up on a request within seconds, not minutes."""
    options = over(sim)
    options["flags"] |= {"write-cache-fence": f"{FENCE_SECONDS:g}s"}
    return options


@pytest.fixture
def place(front: Server, store: Sim) -> Iterator[Place]:
    """A bucket of its own; no rules, an empty journal."""
    store.reset()
    made = Place(front, store)
    yield made
    store.reset()


def fault(action: str, **more: Any) -> Callable[[Sim, str], None]:
    return lambda sim, operation: sim.rule(action, operation=operation, **more)


# Name: how to make it, the statuses that are honest, whether the store applied it.
BROKEN_WRITES: dict[str, tuple[Callable[[Sim, str], None], set[int], bool]] = {
    # 500 when a kept connection breaks: the request may have been on its way.
    "refused": (lambda sim, operation: sim.down("refuse"), UNKNOWN, False),
    "black-hole": (fault("black_hole"), UNKNOWN, False),
    "reset": (fault("reset"), UNKNOWN, False),
    "500": (fault("status", status=500), UNKNOWN, False),
    "500-applied": (fault("status", status=500, applied=True), UNKNOWN, True),
    "503-slow-down": (fault("status", status=503, code="SlowDown"), UNAVAILABLE, False),
    "503-at-head": (fault("status", status=503, code="SlowDown", at_head=True), UNKNOWN, False),
    "reply-lost": (fault("lose_reply"), UNKNOWN, True),
    "late": (fault("late", delay_s=1.0), UNKNOWN, True),
    "late-and-silent": (fault("late", delay_s=3.0, silent=True), UNKNOWN, True),
    "10-bytes-a-second": (fault("slow", bytes_per_second=10), UNKNOWN, False),
}
QUICK = ("refused", "reset", "500-applied", "503-slow-down", "reply-lost", "late")
# Answers that say nothing about the object, however much they look like it.
NOT_GONE: dict[str, dict[str, Any]] = {
    "404-no-bucket": {"status": 404, "code": "NoSuchBucket"},
    "404-of-a-proxy": {"status": 404, "code": "NotHere"},
    "501": {"status": 501, "code": "NotImplemented"},
}
BROKEN_DELETES = BROKEN_WRITES | {
    name: (fault("status", **more), UNAVAILABLE, False) for name, more in NOT_GONE.items()
}


def cases(names: Any) -> list[Any]:
    return [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in names]


def timed(call: Callable[..., Ended], *arguments: Any) -> Ended:
    begun = time.monotonic()
    ended = call(*arguments)
    assert time.monotonic() - begun < ANSWER_SECONDS
    return ended


def lift(sim: Sim) -> None:
    sim.clear_rules()
    sim.up()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", cases(BROKEN_WRITES))
def test_put(place: Place, name: str, size: str) -> None:
    make, honest, applied = BROKEN_WRITES[name]
    old, new = payload(SIZES[size], "old"), payload(SIZES[size], "new")
    assert place.put("k", old).acked
    make(place.sim, "PutObject")
    assert timed(place.put, "k", new).status in honest
    assert timed(place.put, "fresh", new).status in honest
    lift(place.sim)
    if name != "10-bytes-a-second":  # its bytes are still on their way in a quarter of an hour
        place.settled()
        assert (place.stored_body("k") == new) == applied
        assert (place.stored_body("fresh") == new) == applied
    else:
        assert place.judge(through=True) == []
    assert place.put("k", payload(100, "after")).acked
    assert place.read("k").body == payload(100, "after")


@pytest.mark.parametrize("name", [*cases(BROKEN_WRITES), *NOT_GONE])
def test_delete(place: Place, name: str) -> None:
    make, honest, applied = BROKEN_DELETES[name]
    assert place.put("k", b"there").acked
    make(place.sim, "DeleteObject")
    ended = timed(place.delete, "k")
    assert ended.status in (honest if name != "10-bytes-a-second" else {204, *UNKNOWN})
    lift(place.sim)
    place.settled()
    if name != "10-bytes-a-second":
        assert (place.stored_body("k") is None) == applied
    assert place.delete("k").status == 204
    assert place.read("k").status == 404


@pytest.mark.parametrize("name", NOT_GONE)
@pytest.mark.parametrize("operation", ["HeadObject", "*"])
def test_a_store_that_knows_nothing_hides_nothing(place: Place, name: str, operation: str) -> None:
    """Only the store's word that the key is not there takes an object away."""
    tags = [("x-amz-tagging", "kept=yes")]
    assert place.put("k", b"there", headers=tags).acked
    place.sim.rule("status", operation=operation, **NOT_GONE[name])
    time.sleep(TTL_SECONDS)
    assert place.read("k").status in {200, *UNAVAILABLE}
    taken = place.put("k", b"over", headers=[("If-None-Match", "*")])
    assert taken.status in {412, *UNAVAILABLE}, taken
    lift(place.sim)
    time.sleep(TTL_SECONDS)
    assert place.read("k").body == b"there"
    assert b"kept" in place.send("GET", "k", query=[("tagging", "")]).body


@pytest.mark.parametrize("name", cases({**BROKEN_WRITES, "error-in-200": 0, "error-in-200-applied": 0}))
def test_complete(place: Place, name: str) -> None:
    """An unknown end of Complete; repeated, it is the same object with the same ETag (C4)."""
    more = {
        "error-in-200": (fault("error_in_200"), UNKNOWN, False),
        "error-in-200-applied": (fault("error_in_200", applied=True), {200, *UNKNOWN}, True),
    }
    make, honest, applied = {**BROKEN_WRITES, **more}[name]
    parts = [payload(64 * KIB, 1), payload(64 * KIB, 2), b"end"]
    assert place.put("m", b"before").acked
    upload_id, manifest = place.begin_upload("m", parts)
    make(place.sim, "CompleteMultipartUpload")
    ended = timed(place.complete, "m", upload_id, manifest, b"".join(parts))
    # Applied, and seen to be: success is as honest as not knowing.
    assert ended.status in honest | ({200} if applied else set()), ended
    lift(place.sim)
    place.sim.wait_idle()
    again = place.complete("m", upload_id, manifest, b"".join(parts))
    assert again.acked, again
    assert multipart_etag(parts).encode() in again.body
    assert place.read("m").body == b"".join(parts)
    place.settled()


@pytest.mark.parametrize("name", cases(BROKEN_WRITES))
def test_part(place: Place, name: str) -> None:
    """A part that failed is sent again; nothing is seen before Complete."""
    make, honest, _ = BROKEN_WRITES[name]
    first, second = payload(64 * KIB, 1), payload(64 * KIB, 2)
    upload_id, _ = place.begin_upload("m", [first])
    make(place.sim, "UploadPart")
    query = [("partNumber", "2"), ("uploadId", upload_id)]
    assert timed(lambda: place.send("PUT", "m", payload(64 * KIB, "x"), query=query)).status in honest
    lift(place.sim)
    place.sim.wait_idle() if name != "10-bytes-a-second" else None
    assert place.send("GET", "m").status == 404
    sent = place.send("PUT", "m", second, query=query)
    assert sent.status == 200, sent
    tags = [md5_hex(first), md5_hex(second)]
    lines = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{t}</ETag></Part>" for n, t in enumerate(tags, 1))
    manifest = f"<CompleteMultipartUpload>{lines}</CompleteMultipartUpload>".encode()
    assert place.complete("m", upload_id, manifest, first + second).acked
    assert place.read("m").body == first + second
    assert place.judge(through=True) == []


@pytest.mark.parametrize("size", SIZES)
def test_a_store_that_names_another_etag(place: Place, size: str) -> None:
    """Either the answer or the bytes are wrong; nobody can say which, so no ack."""
    place.sim.rule("wrong_etag", operation="PutObject", times=1)
    assert timed(place.put, "k", payload(SIZES[size])).status in UNKNOWN
    place.settled()


@pytest.mark.parametrize("size", SIZES)
def test_a_store_that_damages_what_it_takes(place: Place, size: str) -> None:
    place.sim.rule("damage", operation="PutObject|UploadPart")
    assert timed(place.put, "k", payload(SIZES[size])).status in UNKNOWN
    upload_id, _ = place.begin_upload("m", [])
    query = [("partNumber", "1"), ("uploadId", upload_id)]
    assert timed(lambda: place.send("PUT", "m", payload(64 * KIB), query=query)).status in UNKNOWN
    assert place.send("GET", "m").status == 404


@pytest.mark.parametrize("size", SIZES)
def test_an_error_document_in_a_200_is_no_ack(place: Place, size: str) -> None:
    """The old object has the length of the new one: a look at it must not pass."""
    old, new = payload(SIZES[size], "old"), payload(SIZES[size], "new")
    assert place.put("k", old).acked
    place.sim.rule("error_in_200", operation="PutObject", times=1)
    assert timed(place.put, "k", new).status in UNKNOWN
    place.settled()
    assert place.stored_body("k") == old


def test_latency_is_no_fault(place: Place) -> None:
    place.sim.rule("latency", delay_s=0.2, jitter_s=0.3)
    assert place.put("k", payload(100 * KIB)).acked
    assert place.multipart("m", [payload(2 * KIB), b"end"]).acked
    assert place.read("k").body == payload(100 * KIB)
    place.sim.clear_rules()
    place.settled()


def give_up(place: Place, key: str, body: bytes) -> None:
    """A PUT that the store holds until `release`, and that is given up."""
    place.sim.rule("late", delay_s=None, operation="PutObject", times=1)
    assert place.put(key, body).status in UNKNOWN
    place.sim.clear_rules()


def change(place: Place, key: str, later: str) -> Ended:
    return place.put(key, b"newest") if later == "overwrite" else place.delete(key)


@pytest.mark.parametrize("later", ["overwrite", "delete"])
def test_a_late_write_does_not_revert_what_followed(place: Place, later: str) -> None:
    """What follows waits until the store can no longer apply what was given up."""
    place.put("k", b"old")
    give_up(place, "k", b"given up")
    released: list[int] = []
    timer = threading.Timer(FENCE_SECONDS / 3, lambda: released.append(place.sim.release()))
    timer.start()
    begun = time.monotonic()
    assert change(place, "k", later).acked
    assert time.monotonic() - begun > FENCE_SECONDS / 2
    timer.join()
    assert released == [1]
    place.settled()


def test_what_was_given_up_may_be_sent_again_at_once(place: Place) -> None:
    """A client's own retry does not wait; what it replaces nobody can revert."""
    place.put("k", b"old")
    give_up(place, "k", b"the same")
    begun = time.monotonic()
    assert place.put("k", b"the same").acked
    assert time.monotonic() - begun < FENCE_SECONDS / 2
    assert place.sim.release() == 1
    assert place.put("k", b"newest").acked
    place.settled()


def test_a_write_seen_in_the_store_is_not_waited_for(place: Place) -> None:
    assert place.put("k", b"old").acked
    place.sim.script("lose_reply", operation="PutObject")
    assert place.put("k", b"applied").status in UNKNOWN
    begun = time.monotonic()
    assert place.put("k", b"newest").acked
    assert time.monotonic() - begun < FENCE_SECONDS / 2
    place.settled()


def test_a_long_fence_is_told_at_once(serve: ServeFactory, store: Sim) -> None:
    store.reset()
    place = Place(serve("long-fence", **over(store)), store)
    assert place.put("k", b"old").acked
    give_up(place, "k", b"given up")
    for later in ("overwrite", "delete"):
        begun = time.monotonic()
        ended = change(place, "k", later)
        assert (ended.status, ended.code) == (503, "SlowDown"), ended
        assert time.monotonic() - begun < 1.0
        # What is left of `write_cache.fence`, 15 minutes.
        left = int({k.lower(): v for k, v in ended.headers.items()}["retry-after"])
        assert 800 < left <= 901
    assert place.read("k").body == b"old"
    assert "SETTLING" in place.server.cli("async-persist", "list").stdout
    assert place.put("other", b"x").acked
    assert place.sim.release() == 1
    # Applied, and seen to be.
    assert place.delete("k").acked
    place.settled()


def test_a_long_fence_after_a_kill_says_how_long(serve: ServeFactory, store: Sim) -> None:
    """A new process does not know what was sent: the same write has to wait as well."""
    store.reset()
    place = Place(serve("long-fence-killed", **over(store)), store)
    assert place.put("k", b"old").acked
    give_up(place, "k", b"given up")
    place.server.kill()
    place.server.start()
    for body in (b"given up", b"another"):
        ended = place.send("PUT", "k", body)
        assert (ended.status, ended.code) == (503, "SlowDown"), ended
        left = int({k.lower(): v for k, v in ended.headers.items()}["retry-after"])
        assert 800 < left <= 901
        assert f"taken in {left} seconds" in ended.body.decode()
    assert place.sim.release() == 1


@pytest.mark.parametrize("when", ["waiting", "given up"])
@pytest.mark.parametrize("later", ["overwrite", "delete"])
def test_a_late_write_of_a_killed_process(
    serve: ServeFactory, store: Sim, when: str, later: str
) -> None:
    """kill -9: nobody knows the request any more, but for the row written before it."""
    store.reset()
    options = fenced(store)
    # What was given up may be late for as long as the next start takes, and longer.
    fence = FENCE_SECONDS + metadata.claim_seconds()
    options["flags"] |= {"write-cache-fence": f"{fence:g}s"}
    place = Place(serve("killed-late", **options), store)
    assert place.put("k", b"old").acked
    if when == "waiting":
        place.sim.rule("late", delay_s=None, operation="PutObject", times=1)
        lost = threading.Thread(target=place.put, args=("k", b"given up"), daemon=True)
        lost.start()
        end = time.monotonic() + 10
        while not place.sim.state()["pending"]:
            assert time.monotonic() < end, "the request did not reach the store"
            time.sleep(0.02)
        place.server.kill()
        lost.join(10)
        place.sim.clear_rules()
    else:
        give_up(place, "k", b"given up")
        place.server.kill()
    place.server.start()
    timer = threading.Timer(FENCE_SECONDS / 3, place.sim.release)
    timer.start()
    assert change(place, "k", later).acked
    timer.join()
    place.settled()


def test_conditional_writes_over_a_store_that_fails(place: Place) -> None:
    """If-None-Match: * and a lost reply: at most one of two writers is told it won."""
    place.sim.script("lose_reply", operation="PutObject")
    only_if_new = [("If-None-Match", "*")]
    first = place.put("k", b"first", headers=only_if_new)
    assert first.status in UNKNOWN
    second = place.put("k", b"second", headers=only_if_new)
    assert second.status == 412
    place.settled()


def test_copy_and_batch_delete_over_a_flapping_store(place: Place) -> None:
    body = payload(20 * KIB, "source")
    assert place.put("source", body).acked
    place.sim.rule("status", status=503, code="SlowDown", chance=0.5, seed=3)
    ends = [place.copy("source", f"copy{n}", body).outcome for n in range(12)]
    gone = place.delete_many([f"copy{n}" for n in range(0, 12, 2)])
    place.sim.clear_rules()
    assert "acked" in ends and set(gone.values()) == {True, False}, (ends, gone)
    place.settled()


class Writer(threading.Thread):
    """One client with keys of its own: writes, deletes, reads what it may see."""

    def __init__(self, place: Place, number: int, until: float) -> None:
        super().__init__(daemon=True)
        self.place, self.number, self.until = place, number, until
        self.ends: list[Ended] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            turn = 0
            while time.monotonic() < self.until:
                self.step(turn)
                turn += 1
        except BaseException as error:  # raised by `storm`
            self.error = error

    def step(self, turn: int) -> None:
        key = f"w{self.number}/k{turn % 4}"
        if turn % 7 == 6:
            self.ends.append(self.place.delete(key))
        elif turn % 9 == 8:
            try:
                parts = [payload(4 * KIB, (self.number, turn)), b"end"]
                self.ends.append(self.place.multipart(key, parts))
            except AssertionError:
                pass  # a part was refused: no Complete, nothing changed
        else:
            size = (100, 10 * KIB, 1100 * KIB)[turn % 3]
            self.ends.append(self.place.put(key, payload(size, (self.number, turn))))
        self.place.read(key)


def storm(place: Place, seconds: float, writers: int = 4) -> list[Ended]:
    """Writers at once; what their writes ended with."""
    until = time.monotonic() + seconds
    threads = [Writer(place, number, until) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 60)
        assert not thread.is_alive(), "a request without a deadline"
        if thread.error is not None:
            raise thread.error
    return [ended for thread in threads for ended in thread.ends]


@pytest.mark.parametrize("mode", ["refuse", pytest.param("black_hole", marks=pytest.mark.slow)])
def test_a_storm_of_writers_over_a_flapping_store(place: Place, mode: str) -> None:
    place.sim.flap(up_s=0.4, down_s=0.3, mode=mode)
    ends = storm(place, 5.0)
    place.sim.up()
    assert {e.status for e in ends} <= {200, 204, 500, 503}, {e.status for e in ends}
    assert sum(e.acked for e in ends) > 10 and not all(e.acked for e in ends)
    place.settled()


@pytest.mark.slow
def test_a_storm_of_writers_under_all_faults_at_once(place: Place) -> None:
    for seed, (action, more) in enumerate(
        [("reset", {}), ("lose_reply", {}), ("latency", {"delay_s": 0.1, "jitter_s": 0.3}),
         ("wrong_etag", {"method": "PUT"}), ("error_in_200", {"operation": "CompleteMultipartUpload"}),
         ("status", {}), ("status", {"status": 503, "code": "SlowDown"}), ("status", {"applied": True})]
    ):
        place.sim.rule(action, chance=0.05, seed=seed, **more)
    ends = storm(place, 15.0)
    place.sim.clear_rules()
    assert sum(e.acked for e in ends) > 50 and not all(e.acked for e in ends)
    place.settled()


# -- reads ------------------------------------------------------------------------

BROKEN_READS: dict[str, tuple[str, dict[str, Any]]] = {
    "reset": ("reset", {}),
    "500": ("status", {}),
    "503": ("status", {"status": 503, "code": "SlowDown"}),
    "truncated-at-once": ("truncate", {"cut_after": 0}),
    "truncated": ("truncate", {"cut_after": 7 * KIB}),
    "wrong-etag": ("wrong_etag", {}),
    "error-in-200": ("error_in_200", {}),
    "black-hole": ("black_hole", {}),
    "10-bytes-a-second": ("slow", {"bytes_per_second": 10}),
}
QUICK_READS = ("reset", "500", "503", "truncated-at-once", "truncated", "wrong-etag", "error-in-200")


def read_cases() -> list[Any]:
    return [pytest.param(n, marks=[] if n in QUICK_READS else [pytest.mark.slow]) for n in BROKEN_READS]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", read_cases())
def test_read(place: Place, name: str, size: str) -> None:
    """Somebody else's object, not cached: the whole of it or an honest failure."""
    data = payload(SIZES[size], "cold")
    action, more = BROKEN_READS[name]
    place.sim.seed(STORE_BUCKET, f"{place.prefix}k", data)
    place.history.acked("k", data)
    place.sim.rule(action, operation="GetObject", **more)
    for _ in range(2):
        ended = timed(place.read, "k")
        assert ended.status in (0, 200, 500, 503), ended.status
    place.sim.rule(action, operation="HeadObject", **more)
    place.sim.seed(STORE_BUCKET, f"{place.prefix}unseen", data)
    assert timed(place.send, "GET", "unseen").status in (0, 500, 503)
    lift(place.sim)
    for key in ("k", "unseen"):
        assert place.send("GET", key).body == data
        assert place.send("GET", key, headers=[("Range", "bytes=100-199")]).body == data[100:200]


@pytest.mark.parametrize("size", ["small"])
def test_a_store_that_damages_what_it_gives(place: Place, size: str) -> None:
    """Objects of one chunk: never a wrong byte, and none is kept."""
    data = payload(SIZES[size], "cold")
    place.sim.seed(STORE_BUCKET, f"{place.prefix}k", data)
    place.sim.rule("damage", operation="GetObject", times=2)
    for _ in range(3):
        ended = timed(place.send, "GET", "k")
        assert ended.status in (0, 500, 503) or ended.body == data
    assert place.send("GET", "k").body == data


def names(ended: Ended) -> list[str]:
    """Keys and common prefixes of a listing, in order."""
    assert ended.status == 200, ended
    found = re.findall(rb"<(?:Key|CommonPrefixes><Prefix)>([^<]*)<", ended.body)
    return sorted(name.decode() for name in found)


def listing(place: Place, prefix: str = "", **more: Any) -> Ended:
    query = [("list-type", "2"), ("delimiter", "/"), ("prefix", prefix)]
    return timed(lambda: place.send("GET", "", query=query, **more))


@pytest.mark.parametrize("mode", ["refuse", "black_hole"])
def test_listings_while_the_store_is_away(place: Place, mode: str) -> None:
    """What was listed before is listed, with our own changes; the rest is not known."""
    for key in ("a", "d/b", "e/c", "x"):
        assert place.put(key, b"1").acked
    assert names(listing(place)) == ["a", "d/", "e/", "x"]
    assert names(listing(place, "d/")) == ["d/b"]
    assert place.put("n", b"2").acked
    assert place.delete("x").acked
    stale = "quickwater_cache_stale_answers_total"
    before = place.server.metric(stale)
    place.sim.down(mode)
    time.sleep(2 * TTL_SECONDS)
    assert names(listing(place)) == ["a", "d/", "e/", "n"]
    assert names(listing(place, "d/")) == ["d/b"]
    assert place.server.metric(stale) == before + 2
    assert listing(place, "e/").status == 503, "nobody has looked there"
    assert listing(place, headers=[("Cache-Control", "no-cache")]).status == 503
    place.sim.up()
    place.sim.seed(STORE_BUCKET, place.prefix + "y", b"3")
    time.sleep(1.0 + TTL_SECONDS)
    assert names(listing(place)) == ["a", "d/", "e/", "n", "y"]
    assert names(listing(place, "e/")) == ["e/c"]


def test_a_listing_without_cache(serve: ServeFactory, store: Sim) -> None:
    store.reset()
    options = over(store)
    options["flags"] |= {"metadata-ttl": "1h"}
    place = Place(serve("hour", **options), store)
    assert place.put("a", b"1").acked
    assert names(listing(place)) == ["a"]
    store.seed(STORE_BUCKET, place.prefix + "b", b"2")
    assert names(listing(place)) == ["a"]
    assert names(listing(place, headers=[("Cache-Control", "no-cache")])) == ["a", "b"]


def test_listing_over_a_store_that_fails(place: Place) -> None:
    """All keys or an error; never a part of them told as all."""
    keys = [f"d/k{n:04}" for n in range(1500)]
    for key in keys[::100]:
        assert place.put(key, b"x").acked
    time.sleep(TTL_SECONDS)
    place.sim.seed_many(STORE_BUCKET, [place.prefix + key for key in keys])
    place.sim.rule("reset", operation="ListObjectsV2", chance=0.4, seed=1)
    place.sim.rule("truncate", operation="ListObjectsV2", chance=0.3, seed=2, cut_after=2000)
    found: list[str] = []
    token: list[tuple[str, str]] = []
    for _ in range(60):
        ended = timed(lambda: place.send("GET", "", query=[("list-type", "2"), *token]))
        assert ended.status in (0, 200, 500, 503), ended.status
        if ended.status != 200:
            continue
        found += [part.split(b"<")[0].decode() for part in ended.body.split(b"<Key>")[1:]]
        following = ended.body.partition(b"<NextContinuationToken>")[2].partition(b"<")[0].decode()
        if not following:
            break
        token = [("continuation-token", following)]
    assert found == keys


def test_read_only_sends_no_mutating_request(place: Place) -> None:
    place.sim.seed(STORE_BUCKET, f"{place.prefix}k", b"there")
    place.policy("READ_ONLY")
    assert place.send("PUT", "k", b"x").status == 403
    assert place.send("DELETE", "k").status == 403
    assert place.send("POST", "m", query=[("uploads", "")]).status == 403
    copy = place.send("PUT", "copy", headers=[("x-amz-copy-source", f"/{place.bucket}/k")])
    assert copy.status == 403
    assert place.send("GET", "k").body == b"there"
    assert place.sim.mutating_requests(place.prefix) == []


def test_no_cache_leaves_no_byte_on_the_disk(serve: ServeFactory, store: Sim) -> None:
    store.reset()
    # Flags of write-back change nothing here; that they are taken is seen.
    options = over(store)
    options["flags"] |= SCALED
    place = Place(serve("passed-by", **options), store)
    place.policy("NO_CACHE")
    mark = b"find me on the disk " * 8
    data = mark + payload(2 * MIB, "no cache") + mark
    assert place.put("k", data).acked
    assert place.stored_body("k") == data, "acked when the store had it"
    place.sim.seed(STORE_BUCKET, f"{place.prefix}cold", data)
    for key in ("k", "cold"):
        assert place.send("GET", key).body == data
    assert place.server.stop() == 0
    assert not [p for p in place.server.dir.rglob("*") if p.is_file() and _holds(p, mark)]


def _holds(path: Path, mark: bytes) -> bool:
    return mark in path.read_bytes()


def test_a_store_away_serves_what_is_cached(place: Place) -> None:
    data = payload(100 * KIB, "cached")
    assert place.put("k", data).acked
    assert place.read("k").body == data
    place.sim.down("refuse")
    time.sleep(TTL_SECONDS)
    assert timed(place.read, "k").body == data
    assert timed(place.put, "k", b"new").status == 503
    assert timed(place.read, "k").body == data
    place.sim.up()
    place.settled()


def test_the_simulator_outlives_what_it_serves(tmp_path: Path, serve: ServeFactory) -> None:
    """kill -9 of the service: what was acked through is in the store, and read again."""
    sim = Sim(tmp_path / "sim")
    try:
        sim.create_bucket(STORE_BUCKET)
        server = serve("killed", **over(sim))
        place = Place(server, sim)
        bodies = {f"k{n}": payload(10 * KIB, n) for n in range(20)}
        for key, body in bodies.items():
            assert place.put(key, body).acked
        server.kill()
        server.start()
        for key, body in bodies.items():
            assert place.read(key).body == body
        place.settled()
    finally:
        sim.close()
