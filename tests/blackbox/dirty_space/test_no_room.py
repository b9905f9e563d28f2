"""What does not fit into the dirty space: it goes through, waits or is refused for good, and
nothing that is held for good keeps others waiting."""

from __future__ import annotations

from typing import Callable

import pytest

from harness.dirty_space import (
    PART,
    begin,
    held_by_parts,
    manifest_of,
    met_limit,
    send_part,
    sent_with_retries,
    unpinned,
)
from harness.payload import MIB, payload
from harness.under import STORE_BUCKET, Ended, Place

pytestmark = pytest.mark.usefixtures("write_back")
OVER = 20 * MIB  # more than the limit of 16 MiB


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
