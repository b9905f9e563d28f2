"""WRITE_BACK over a store that fails: acked here, in the store in the end, in order,
whatever happens in between (C6, C7). The other policies by the store's journal.

Hours are made seconds (`harness.under.SCALED`). Skipped, with the reason, by a
build that cannot write back; `QW_WRITE_BACK=required` forbids that.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import threading
import time
from typing import Any, Callable, Iterator

import pytest

from conftest import ServeFactory
from harness.apart import one_process
from harness.payload import KIB, MIB, md5_hex, multipart_etag, payload
from harness.server import Server, StartFailed
from harness.under import ACK_SECONDS, FENCE_SECONDS, PERSIST_SECONDS, STORE_BUCKET, Ended, Place, scaled
from ufssim.client import Sim
from ufssim.journal import DECIDING

from .test_ufs_faults import storm

pytestmark = pytest.mark.usefixtures("write_back")

UNSETTLED = {"NOT_PERSISTED", "PERSISTING"}


@pytest.fixture(scope="module")
def front(store: Sim, serve_long: ServeFactory) -> Server:
    return serve_long("back", **scaled(store))


@pytest.fixture
def place(front: Server, store: Sim) -> Iterator[Place]:
    """A bucket of its own under WRITE_BACK; no rules, an empty journal."""
    store.reset()
    made = Place(front, store)
    made.policy("WRITE_BACK", writeReplicas=1)
    yield made
    # What is pending must not meet the next test's rules.
    store.clear_rules()
    store.up()
    made.wait_persisted()
    store.reset()


@pytest.fixture
def own(store: Sim, serve: ServeFactory) -> Iterator[Callable[..., Place]]:
    """Makes a bucket under WRITE_BACK on a service of its own."""
    store.reset()

    def make(**flags: str) -> Place:
        made = Place(serve("own", **scaled(store, **flags)), store)
        made.policy("WRITE_BACK", writeReplicas=1)
        return made

    yield make
    store.reset()


def quick(call: Callable[..., Ended], *arguments: Any, **more: Any) -> Ended:
    begun = time.monotonic()
    ended = call(*arguments, **more)
    assert time.monotonic() - begun < ACK_SECONDS, "an ack that waited for the store"
    return ended


# -- acks ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["refuse", "black_hole"])
def test_acks_with_the_store_down(place: Place, mode: str) -> None:
    place.sim.down(mode)
    small, large = payload(10 * KIB, "s"), payload(3 * MIB, "l")
    put = quick(place.put, "d/small", small)
    assert put.status == 200 and put.headers["x-quickwater-durability"] == "local-1"
    assert quick(place.put, "d/large", large).status == 200
    for key, body in {"d/small": small, "d/large": large}.items():
        assert place.persist_state(key) in UNSETTLED
        assert quick(place.read, key).body == body
    assert quick(place.put, "gone", b"x").acked
    assert quick(place.delete, "gone").status == 204
    assert place.read("gone").status == 404
    assert place.stored() == {}
    place.finish()
    # A listing shows what the store has besides: with the store away there is none.
    listed = place.s3().list_objects_v2(Bucket=place.bucket)["Contents"]
    assert [e["Key"] for e in listed] == ["d/large", "d/small"]
    assert place.stored_body("d/large") == large
    assert {place.persist_state(k) for k in ("d/small", "d/large")} == {"PERSISTED"}


def test_both_ways_of_answering_say_the_same_of_what_is_not_persisted(place: Place) -> None:
    """A header without meaning keeps a request off the short way of plain reads."""
    body = payload(10 * KIB, "plain")
    own = {"date", "x-amz-request-id", "x-amz-id-2"}

    def both(method: str) -> str:
        short, long = (place.send(method, "k", headers=more) for more in ([], [("x-custom", "1")]))
        assert short.status == long.status == 200 and short.body == long.body
        lines = [{n: v for n, v in r.headers.items() if n not in own} for r in (short, long)]
        state = {line.pop("x-quickwater-persist-state") for line in lines}
        assert lines[0] == lines[1]
        # An attempt may begin or end between the two.
        assert state <= UNSETTLED or state == {"PERSISTED"}
        return state.pop()

    place.sim.down("black_hole")
    assert place.put("k", body).acked
    assert place.read("k").body == body
    assert both("GET") in UNSETTLED and both("HEAD") in UNSETTLED
    # The only attempt is under way until it times out: both ways know.
    place.finish()
    assert both("GET") == both("HEAD") == "PERSISTED"


def test_all_kinds_of_writes_with_the_store_down(place: Place) -> None:
    before = payload(20 * KIB, "before")
    assert place.put("old", before).acked
    place.wait_persisted()
    place.sim.down("refuse")
    parts = [payload(64 * KIB, 1), payload(64 * KIB, 2), b"end"]
    assert place.multipart("multi", parts).acked
    assert place.copy("old", "copy", before).acked
    assert place.copy("multi", "copy-of-multi", b"".join(parts)).acked
    assert place.put("old", b"overwritten").acked
    assert place.delete_many(["copy", "none"]) == {"copy": True, "none": True}
    # Only the store could tell whether it has such a key; here it is known.
    assert place.put("if-new", b"x", headers=[("If-None-Match", "*")]).status == 503
    assert place.put("multi", b"y", headers=[("If-None-Match", "*")]).status == 412
    assert place.read("multi").body == b"".join(parts)
    assert place.read("old").body == b"overwritten"
    assert place.read("copy").status == 404
    place.finish()
    head = place.send("HEAD", "multi").headers
    assert head["etag"].strip('"') == multipart_etag(parts)


def test_etag_metadata_and_checksum_are_the_same_before_and_after(place: Place) -> None:
    data = payload(300 * KIB, "same")
    place.sim.down("refuse")
    operation = place.history.begin("k", data)
    place.s3().put_object(
        Bucket=place.bucket, Key="k", Body=data, ContentType="text/x", Metadata={"a": "1"},
        ChecksumAlgorithm="SHA256",
    )
    place.history.end(operation, "acked")

    def look() -> dict[str, Any]:
        head = place.s3().head_object(Bucket=place.bucket, Key="k", ChecksumMode="ENABLED")
        return {n: head.get(n) for n in ("ETag", "ContentType", "Metadata", "ChecksumSHA256", "ContentLength")}

    before = look()
    assert before["ETag"] == f'"{md5_hex(data)}"' and before["ChecksumSHA256"]
    place.finish()
    assert look() == before
    stored = place.stored()["k"]
    assert stored["headers"] == {"content-type": "text/x", "x-amz-meta-a": "1"}
    direct = place.sim.target().client().head_object(
        Bucket=STORE_BUCKET, Key=f"{place.prefix}k", ChecksumMode="ENABLED"
    )
    assert direct["ChecksumSHA256"] == before["ChecksumSHA256"], "computed at ingest, passed on"


def test_waiting_for_persistence(place: Place) -> None:
    wait = [("x-quickwater-wait-persisted", "20")]
    assert place.put("k", b"waited", headers=wait).acked
    assert place.stored_body("k") == b"waited"
    assert place.persist_state("k") == "PERSISTED"
    place.sim.down("refuse")
    begun = time.monotonic()
    ended = place.put("k", b"in vain", headers=[("x-quickwater-wait-persisted", "1")])
    assert 0.9 < time.monotonic() - begun < 5
    assert ended.status == 503 and "does not have it yet" in ended.body.decode(), ended
    assert place.persist_state("k") in UNSETTLED
    place.finish()


@pytest.mark.parametrize("newer", ["put", "delete"])
def test_waiting_is_not_ended_by_what_the_store_does_not_have(place: Place, newer: str) -> None:
    """A newer change replaces the one that is waited for: neither is in the store."""
    place.sim.down("refuse")
    ends: list[Ended] = []
    wait = [("x-quickwater-wait-persisted", "3")]
    waiting = threading.Thread(target=lambda: ends.append(place.put("k", b"waits", headers=wait)))
    waiting.start()
    _wait_for(lambda: place.send("GET", "k").status == 200)
    assert (place.put("k", b"newer") if newer == "put" else place.delete("k")).acked
    waiting.join(30)
    assert [end.status for end in ends] == [503], ends
    assert place.stored() == {}
    place.sim.up()
    assert place.put("k", b"there", headers=[("x-quickwater-wait-persisted", "20")]).acked
    assert place.stored_body("k") == b"there"
    place.finish()


@pytest.mark.parametrize("newer", ["put", "delete"])
@pytest.mark.parametrize("under", ["away", "there"])
def test_waiting_is_not_ended_by_what_never_gets_there(
    own: Callable[..., Place], newer: str, under: str
) -> None:
    """What is waited for is replaced under TRANSIENT: the store never has it."""
    place = own()
    if under == "away":
        place.sim.down("refuse")
    else:
        place.sim.rule("status", operation="PutObject", status=503, code="SlowDown")
    ends: list[Ended] = []
    wait = [("x-quickwater-wait-persisted", "8")]
    waiting = threading.Thread(target=lambda: ends.append(place.put("k", b"v1", headers=wait)))
    waiting.start()
    _wait_for(lambda: place.send("GET", "k").status == 200)
    place.policy("TRANSIENT", writeReplicas=1)
    assert (place.put("k", b"v2") if newer == "put" else place.delete("k")).acked
    waiting.join(30)
    assert [end.status for end in ends] == [503], ends
    text = ends[0].body.decode()
    assert "x-quickwater-durability" not in ends[0].headers
    # With the store away nobody knows yet that a delete finds nothing there.
    if (newer, under) == ("delete", "away"):
        assert "does not have it yet" in text, text
    else:
        assert "does not go there any more" in text, text
    assert place.stored() == {}
    if newer == "put":
        asked = ["async-persist", "wait", "--path", f"/{place.bucket}/k", "--timeout", "1s"]
        done = place.server.cli(*asked, check=False)
        assert done.returncode == 1 and "TRANSIENT" in done.stdout, done
        found = json.loads(place.server.cli(*asked, "--output", "json", check=False).stdout)
        assert found["persisted"] is False, found


def test_a_repeated_complete_promises_what_the_first_did(own: Callable[..., Place]) -> None:
    """Clients send it again after a 503: its 200 may not come sooner."""
    place = own()
    place.sim.down("refuse")
    upload_id, manifest = place.begin_upload("k", [payload(2 * KIB, 3), b"end"])

    def complete(seconds: int) -> Ended:
        wait = [("x-quickwater-wait-persisted", str(seconds))]
        query = [("uploadId", upload_id)]
        return place.send("POST", "k", manifest, query=query, headers=wait)

    for _ in range(3):
        ended = complete(1)
        assert ended.status == 503 and "does not have it yet" in ended.body.decode(), ended
        assert place.persist_state("k") in ("NOT_PERSISTED", "PERSISTING")
    again = place.send("POST", "k", manifest, query=[("uploadId", upload_id)])
    assert again.status == 200 and again.headers["x-quickwater-durability"] == "local-1", again
    assert b"ChecksumCRC64NVME" in again.body, again
    place.sim.up()
    ended = complete(20)
    assert ended.status == 200 and ended.headers["x-quickwater-durability"] == "ufs", ended
    assert place.stored_body("k") == payload(2 * KIB, 3) + b"end"
    assert place.delete("k").acked
    assert complete(1).status == 503


def test_a_repeated_complete_of_what_never_gets_there(own: Callable[..., Place]) -> None:
    place = own()
    place.policy("TRANSIENT", writeReplicas=1)
    upload_id, manifest = place.begin_upload("k", [payload(2 * KIB, 3), b"end"])
    query = [("uploadId", upload_id)]
    wait = [("x-quickwater-wait-persisted", "1")]
    assert place.send("POST", "k", manifest, query=query).status == 200
    again = place.send("POST", "k", manifest, query=query, headers=wait)
    assert again.status == 400 and b"TRANSIENT" in again.body, again


def test_waiting_for_a_folder_of_transient_objects(own: Callable[..., Place]) -> None:
    place = own()
    place.policy("TRANSIENT", writeReplicas=1)
    for key in ("d/a", "d/b"):
        assert place.send("PUT", key, b"scratch").status == 200
    asked = ["async-persist", "wait", "--path", f"/{place.bucket}/d", "--timeout", "1s"]
    done = place.server.cli(*asked, check=False)
    assert done.returncode == 1 and "TRANSIENT" in done.stdout, done
    place.policy("WRITE_BACK", writeReplicas=1)
    assert place.put("d/c", b"c").acked
    place.wait_persisted()
    done = place.server.cli(*asked, check=False)
    assert done.returncode == 0 and "never there: 2 objects" in done.stdout, done


def test_waiting_is_ended_by_a_newer_version_in_the_store(place: Place) -> None:
    place.sim.down("refuse")
    ends: list[Ended] = []
    wait = [("x-quickwater-wait-persisted", "20")]
    waiting = threading.Thread(target=lambda: ends.append(place.put("k", b"waits", headers=wait)))
    waiting.start()
    _wait_for(lambda: place.send("GET", "k").status == 200)
    assert place.put("k", b"newer").acked
    place.sim.up()
    waiting.join(30)
    assert ends[0].status == 200 and ends[0].headers["x-quickwater-durability"] == "ufs", ends
    assert place.stored_body("k") == b"newer"
    place.finish()


@pytest.mark.embedded("its directory is removed")
@one_process("a worker replays no journal, its records are the control plane's")
def test_a_journal_of_lost_metadata_is_not_replayed(own: Callable[..., Place]) -> None:
    """What the UFS got since is newer than any entry, and only the metadata knew it."""
    place = own()
    assert place.put("deleted", b"old").acked and place.put("over", b"back").acked
    place.wait_persisted()
    assert place.delete("deleted").acked
    place.wait_persisted()
    place.policy("WRITE_THROUGH")
    assert place.put("over", b"through").acked
    assert place.server.stop() == 0
    stored, told = place.stored(), len(place.sim.journal(place.prefix))
    shutil.rmtree(place.server.dir / "metadata")
    with pytest.raises(StartFailed, match="Put the old `metadata` directory back"):
        place.server.start()
    # Nor after a second look: what the first start made is not taken for the old.
    with pytest.raises(StartFailed, match="move the `store` directory away"):
        place.server.start()
    assert (place.stored(), len(place.sim.journal(place.prefix))) == (stored, told)
    shutil.rmtree(place.server.dir / "store")
    place.server.start()
    assert place.read("over").body == b"through"
    assert place.read("deleted").status == 404
    assert place.stored() == stored
    place.finish()


def test_intermediate_versions_may_be_skipped_never_reordered(place: Place) -> None:
    place.sim.rule("latency", delay_s=0.2)
    for turn in range(40):
        assert place.put("k", payload(KIB, turn)).acked
    place.finish()
    changes = place.sim.changes(f"{place.prefix}k")
    assert 1 <= len(changes) < 40 and changes[-1].sha256 == place.history.keys["k"][-1].content


def test_persisted_objects_stay_cached_over_a_restart(own: Callable[..., Place]) -> None:
    """With the store away, what it has is read from here as before."""
    place = own()
    bodies = {"small": payload(10 * KIB, "s"), "large": payload(3 * MIB, "l"), "empty": b""}
    for key, body in bodies.items():
        assert place.put(key, body).acked
    parts = [payload(2 * MIB, 1), payload(100 * KIB, 2)]
    assert place.multipart("multi", parts).acked
    assert place.copy("multi", "copy", b"".join(parts)).acked
    bodies |= {"multi": b"".join(parts), "copy": b"".join(parts)}
    place.wait_persisted()
    place.sim.down("refuse")
    for again in (place.server.restart, lambda: (place.server.kill(), place.server.start())):
        again()
        for key, body in bodies.items():
            assert place.read(key).body == body, key
    place.finish()


# -- outages --------------------------------------------------------------------------


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


# -- faults while persisting -------------------------------------------------------------

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


def completes(place: Place) -> int:
    """How often the store was asked to complete an upload."""
    return sum(r.operation == "CompleteMultipartUpload" for r in place.sim.requests(place.prefix))


def test_the_same_bytes_with_other_headers_are_not_taken_for_there(place: Place) -> None:
    """A lifecycle rule of the store ends the upload; the ETag is the one it shows already."""
    parts = [payload(64 * KIB, 1), b"end"]
    assert place.multipart("multi", parts, headers=[("x-amz-meta-v", "1")]).acked
    place.wait_persisted()
    etag, before = place.stored()["multi"]["etag"], completes(place)
    place.sim.rule("status", operation="CompleteMultipartUpload", status=503, code="SlowDown")
    assert place.multipart("multi", parts, headers=[("x-amz-meta-v", "2")]).acked
    _wait_for(lambda: completes(place) > before)
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


def test_a_late_complete_of_the_same_object_reverts_nothing(place: Place) -> None:
    """The store shows already what the request without an answer is to make."""
    parts = [payload(64 * KIB, 1), b"end"]
    assert place.multipart("multi", parts).acked
    place.wait_persisted()
    before = completes(place)
    place.sim.rule(
        "late", operation="CompleteMultipartUpload", times=1, delay_s=FENCE_SECONDS * 0.6
    )
    assert place.multipart("multi", parts).acked
    _wait_for(lambda: completes(place) > before)
    time.sleep(0.3)
    assert place.put("multi", b"newer").acked
    time.sleep(FENCE_SECONDS)
    place.finish()
    assert place.stored_body("multi") == b"newer"


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


# -- late requests (C7) --------------------------------------------------------------------

FOLLOWED: dict[str, Callable[[Place], Ended]] = {
    "overwrite": lambda place: place.put("k", b"newest"),
    "delete": lambda place: place.delete("k"),
    "multipart": lambda place: place.multipart("k", [payload(2 * KIB, 9), b"end"]),
}


@pytest.mark.parametrize("silent", [False, True], ids=["reset", "silent"])
@pytest.mark.parametrize("later", FOLLOWED)
@pytest.mark.parametrize("operation", ["PutObject", "DeleteObject"])
def test_late_requests_revert_nothing(place: Place, operation: str, later: str, silent: bool) -> None:
    """The store applies a request long after its connection died, but before the fence."""
    if operation == "DeleteObject":
        assert place.put("k", b"there").acked
        place.wait_persisted()
    place.sim.rule("late", operation=operation, delay_s=FENCE_SECONDS * 0.7, silent=silent, times=1)
    first = place.put("k", b"late") if operation == "PutObject" else place.delete("k")
    assert first.acked
    _wait_for(lambda: place.sim.state()["pending"] == 1)
    assert FOLLOWED[later](place).acked
    place.sim.wait_idle()
    place.finish()
    journal = [a for a in place.sim.journal(f"{place.prefix}k") if a.operation in DECIDING]
    assert any(a.late for a in journal), "the late request came before the fence was over"


@pytest.mark.parametrize("later", FOLLOWED)
def test_a_late_complete_reverts_nothing(place: Place, later: str) -> None:
    place.sim.rule("late", operation="CompleteMultipartUpload", delay_s=FENCE_SECONDS * 0.7, times=1)
    parts = [payload(6 * MIB, 1), payload(6 * MIB, 2)]
    assert place.multipart("k", parts).acked
    _wait_for(lambda: place.sim.state()["pending"] == 1)
    assert FOLLOWED[later](place).acked
    place.finish()


@pytest.mark.slow
def test_late_requests_from_before_a_crash(own: Callable[..., Place]) -> None:
    """The fence outlives the process: it is in the metadata."""
    place = own()
    place.sim.rule("late", operation="PutObject", delay_s=FENCE_SECONDS * 0.8, silent=True, times=1)
    assert place.put("k", b"late").acked
    _wait_for(lambda: place.sim.state()["pending"] == 1)
    assert place.put("k", b"newer").acked
    place.server.kill()
    place.server.start()
    assert place.read("k").body == b"newer"
    assert place.delete("k").acked
    place.finish()


@pytest.mark.slow
def test_late_requests_at_random(place: Place) -> None:
    for seed, operation in enumerate(["PutObject", "DeleteObject", "CompleteMultipartUpload"]):
        place.sim.rule("late", operation=operation, chance=0.15, seed=seed, delay_s=0.2,
                       jitter_s=FENCE_SECONDS * 0.7, silent=seed % 2 == 0)
    ends = storm(place, 12.0)
    assert all(e.acked for e in ends), {e.status for e in ends}
    place.finish()


def _wait_for(true: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


# -- the command line ---------------------------------------------------------------------------


def test_the_queue_on_the_command_line(own: Callable[..., Place]) -> None:
    place = own(**{"write-cache-persist-retry-initial": "30s", "write-cache-persist-retry-max": "60s"})
    path = f"/{place.bucket}/k"
    place.sim.down("refuse")
    assert place.put("k", b"waits").acked
    cli = place.server.cli
    _wait_for(lambda: path in cli("async-persist", "list").stdout)
    _wait_for(lambda: bool(re.search("(?i)attempts?\\W+[1-9]", cli("async-persist", "stat", "--path", path).stdout)))
    assert "NOT_PERSISTED" in cli("async-persist", "stat", "--path", path).stdout
    failed = cli("async-persist", "wait", "--path", path, "--timeout", "1s", check=False)
    assert failed.returncode == 1, failed.stdout + failed.stderr
    place.sim.up()
    assert place.stored() == {}, "the next attempt is due in half a minute"
    cli("async-persist", "retry", "--path", path)
    cli("async-persist", "wait", "--path", path, "--timeout", "20s")
    cli("async-persist", "wait", "--path", "/", "--timeout", "20s")
    assert place.stored_body("k") == b"waits"
    assert path not in cli("async-persist", "list").stdout
    place.finish()


# -- the other policies, by the store's journal ------------------------------------------------------


def test_transient_never_reaches_the_store(place: Place) -> None:
    place.policy("TRANSIENT", writeReplicas=1)
    data = payload(300 * KIB, "transient")
    assert place.send("PUT", "k", data).status == 200
    assert place.send("PUT", "gone", b"x").status == 200
    assert place.send("DELETE", "gone").status == 204
    assert place.persist_state("k") == "TRANSIENT"
    time.sleep(1.0)
    assert place.send("GET", "k").body == data
    assert place.send("GET", "gone").status == 404
    assert place.send("DELETE", "k").status == 204
    time.sleep(1.0)
    # What is deleted must not come back from the store, whatever it holds there.
    sent = {seen.operation for seen in place.sim.mutating_requests(place.prefix)}
    assert sent <= {"DeleteObject"}


def test_a_policy_that_changes_while_changes_are_pending(place: Place) -> None:
    """Back to WRITE_THROUGH: what was acked before still arrives, and in order."""
    place.sim.rule("latency", delay_s=0.5, operation="PutObject")
    for number in range(10):
        assert place.put(f"k{number}", payload(KIB, number)).acked
    place.policy("WRITE_THROUGH")
    chosen = random.Random(1).sample(range(10), 5)
    for number in chosen:
        assert place.put(f"k{number}", payload(KIB, ("through", number))).acked
        assert place.stored_body(f"k{number}") == payload(KIB, ("through", number))
    place.finish()
