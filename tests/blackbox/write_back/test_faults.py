"""Persisting to a store that fails in every way we know, or is away for a day: all that was
acked gets there, in order (C6)."""

from __future__ import annotations

import time
from typing import Any, Callable

import pytest

from harness.payload import KIB, MIB, payload
from harness.storm import storm
from harness.under import FENCE_SECONDS, PERSIST_SECONDS, STORE_BUCKET, UNSETTLED, Place, completes, wait_for

pytestmark = pytest.mark.usefixtures("write_back")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["refuse", "black_hole"])
def test_a_day_without_the_store(own: Callable[..., Place], mode: str) -> None:
    """24 h with retries up to 1 h apart, as 12 s with retries up to 0.5 s apart."""
    place = own(**{"write-cache-persist-retry-max": "500ms"})
    assert storm(place, 2.0)
    place.sim.down(mode)
    applied = len(place.sim.journal(place.prefix))
    ends = storm(place, 12.0)
    assert all(e.acked or e.status in (200, 204) for e in ends), {e.status for e in ends}
    assert len(place.sim.journal(place.prefix)) == applied
    place.sim.up()
    storm(place, 2.0)
    place.finish()


@pytest.mark.slow
def test_a_day_without_the_store_and_a_restart_in_it(own: Callable[..., Place]) -> None:
    place = own()
    place.sim.down("refuse")
    storm(place, 3.0)
    place.server.restart()
    storm(place, 2.0)
    place.server.kill()
    place.server.start()
    for key in place.history.keys:
        assert place.read(key).status in (200, 404)
    place.finish()


@pytest.mark.parametrize("mode", ["refuse", pytest.param("black_hole", marks=pytest.mark.slow)])
def test_a_flapping_store(place: Place, mode: str) -> None:
    place.sim.flap(up_s=0.3, down_s=0.4, mode=mode)
    ends = storm(place, 4.0)
    assert all(e.acked for e in ends), {e.status for e in ends}
    place.finish()


PERSIST_FAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "reset": ("reset", {}),
    "500": ("status", {}),
    "500-applied": ("status", {"applied": True}),
    "503": ("status", {"status": 503, "code": "SlowDown"}),
    "503-at-head": ("status", {"status": 503, "code": "SlowDown", "at_head": True}),
    "403": ("status", {"status": 403, "code": "AccessDenied"}),
    "404": ("status", {"status": 404, "code": "NoSuchBucket"}),
    "501": ("status", {"status": 501, "code": "NotImplemented"}),
    "error-in-200": ("error_in_200", {}),
    "error-in-200-applied": ("error_in_200", {"applied": True}),
    "wrong-etag": ("wrong_etag", {}),
    "truncated": ("truncate", {"cut_after": 0}),
    "reply-lost": ("lose_reply", {}),
    "late": ("late", {"delay_s": FENCE_SECONDS / 2}),
    "late-and-silent": ("late", {"delay_s": FENCE_SECONDS * 0.8, "silent": True}),
    "black-hole": ("black_hole", {}),
    "10-bytes-a-second": ("slow", {"bytes_per_second": 10}),
}
QUICK = ("reset", "500", "503", "404", "501", "error-in-200", "wrong-etag", "reply-lost", "late")
WRITES = "PutObject|CopyObject|DeleteObject|DeleteObjects|CreateMultipartUpload|UploadPart|CompleteMultipartUpload"


def persist_cases() -> list[Any]:
    return [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in PERSIST_FAULTS]


@pytest.mark.parametrize("name", persist_cases())
def test_faults_while_persisting(place: Place, name: str) -> None:
    """Every key's first two requests fail; overwrites and deletes follow at once."""
    action, more = PERSIST_FAULTS[name]
    assert place.put("deleted", b"there").acked
    place.wait_persisted()
    place.sim.rule(action, operation=WRITES, key=f"{place.prefix}*", times=2, per_key=True, **more)
    assert place.put("once", payload(100 * KIB, "once")).acked
    assert place.put("large", payload(3 * MIB, "large")).acked
    assert place.multipart("multi", [payload(64 * KIB, 1), b"end"]).acked
    assert place.delete("deleted").acked
    for turn in range(6):
        assert place.put("often", payload(10 * KIB, turn)).acked
        if turn == 3:
            assert place.delete("often").acked
        time.sleep(0.15)
    assert place.put("brief", b"x").acked
    time.sleep(0.2)
    assert place.delete("brief").acked
    # A slow connection is over when its request is given up, not when its bytes are through.
    if action == "slow":
        place.wait_persisted()
        assert place.judge(through=False) == []
    else:
        place.wait_persisted()
        place.finish()


def test_the_same_bytes_with_other_headers_are_not_taken_for_there(place: Place) -> None:
    """A lifecycle rule of the store ends the upload; the ETag is the one it shows already."""
    parts = [payload(64 * KIB, 1), b"end"]
    assert place.multipart("multi", parts, headers=[("x-amz-meta-v", "1")]).acked
    place.wait_persisted()
    etag, before = place.stored()["multi"]["etag"], completes(place)
    place.sim.rule("status", operation="CompleteMultipartUpload", status=503, code="SlowDown")
    assert place.multipart("multi", parts, headers=[("x-amz-meta-v", "2")]).acked
    wait_for(lambda: completes(place) > before)
    direct = place.sim.target().client()
    uploads = direct.list_multipart_uploads(Bucket=STORE_BUCKET, Prefix=place.prefix)["Uploads"]
    for upload in uploads:
        direct.abort_multipart_upload(Bucket=STORE_BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])
    assert len(uploads) == 1
    assert place.persist_state("multi") in UNSETTLED
    place.finish()
    stored = place.stored()["multi"]
    assert (stored["etag"], stored["headers"].get("x-amz-meta-v")) == (etag, "2"), stored
    assert place.send("HEAD", "multi").headers["x-amz-meta-v"] == "2"


def test_a_store_that_damages_what_it_takes(place: Place) -> None:
    """The bytes stay dirty until the store has shown that it has them."""
    place.sim.rule("damage", operation="PutObject|UploadPart", times=2, per_key=True)
    data = payload(200 * KIB, "whole")
    operation = place.history.begin("k", data)
    assert place.send("PUT", "k", data).status == 200
    place.history.end(operation, "acked")
    end = time.monotonic() + PERSIST_SECONDS
    while place.stored_body("k") != data:
        assert place.persist_state("k") != "PERSISTED"
        assert time.monotonic() < end
        time.sleep(0.1)
    place.wait_persisted()
    assert place.read("k").body == data
