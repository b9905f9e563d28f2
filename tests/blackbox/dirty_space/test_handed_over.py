"""Uploads that were handed over to the store to make room: what was acked of them is kept,
whatever becomes of the process, of the store's answers and of what the store had."""

from __future__ import annotations

import time
from typing import Callable

import pytest

from conftest import ServeFactory
from harness.dirty_space import (
    MEMORY,
    PART,
    TIGHT_CAPACITY,
    TIGHT_RATIO,
    begin,
    manifest_of,
    open_in_store,
    send_part,
    sent_with_retries,
    unpinned,
)
from harness.payload import KIB, MIB, payload
from harness.under import STORE_BUCKET, Ended, Place, over, scaled
from ufssim.client import Sim

pytestmark = pytest.mark.usefixtures("write_back")


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


def handed_over(place: Place, key: str) -> str:
    """An upload of four parts, some of which are only here: the store takes them slowly."""
    upload = begin(place, key)
    sent_with_retries(place, key, upload, 3)
    place.sim.rule("latency", delay_s=1.0, operation="UploadPart")
    sent_with_retries(place, key, upload, 1, first=4)
    assert place.server.metric("quickwater_store_pinned_bytes") > 0, "none is held any more"
    return upload


def ended_as_gone(place: Place) -> None:
    """One upload has ended because the store had it no more. Its space is free before
    the store is asked to abort it, and is counted after that."""
    unpinned(place)
    until = time.monotonic() + 60
    while (gone := place.server.metric("quickwater_persist_held_gone_total")) != 1:
        assert gone == 0 and time.monotonic() < until, gone
        time.sleep(0.1)


@pytest.mark.parametrize("abort", ["answered", "refused"])
def test_an_upload_that_the_store_lost_is_ended(tight: Callable[..., Place], abort: str) -> None:
    """What was sent of it is gone. Its client is told, and it keeps no space. It counts
    also where the store then refuses to abort it once more."""
    place = tight("WRITE_BACK")
    upload = handed_over(place, "big")
    (there,) = open_in_store(place)
    store = place.sim.target().client()
    store.abort_multipart_upload(Bucket=STORE_BUCKET, Key=there["Key"], UploadId=there["UploadId"])
    if abort == "refused":
        place.sim.rule("status", status=503, operation="AbortMultipartUpload")
    ended_as_gone(place)
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
