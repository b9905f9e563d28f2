"""WRITE_THROUGH over a store that fails in every way we know: honest answers (C5), nothing
half applied."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Callable

import pytest

from conftest import ServeFactory
from harness.failing import SIZES, UNAVAILABLE, UNKNOWN, lift, timed
from harness.payload import KIB, md5_hex, multipart_etag, payload
from harness.storm import storm
from harness.under import STORE_BUCKET, TTL_SECONDS, Place, over
from ufssim.client import Sim


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
