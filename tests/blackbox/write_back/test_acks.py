"""WRITE_BACK over a store that is away: acked here and read here, told as what it is, and in
the store in the end (C6); TRANSIENT by the store's journal."""

from __future__ import annotations

import random
import re
import shutil
import time
from typing import Any, Callable

import pytest

from harness.apart import one_process
from harness.payload import KIB, MIB, md5_hex, multipart_etag, payload
from harness.server import StartFailed
from harness.under import ACK_SECONDS, STORE_BUCKET, UNSETTLED, Ended, Place, wait_for

pytestmark = pytest.mark.usefixtures("write_back")


def quick(call: Callable[..., Ended], *arguments: Any, **more: Any) -> Ended:
    begun = time.monotonic()
    ended = call(*arguments, **more)
    assert time.monotonic() - begun < ACK_SECONDS, "an ack that waited for the store"
    return ended


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


def test_the_queue_on_the_command_line(own: Callable[..., Place]) -> None:
    place = own(**{"write-cache-persist-retry-initial": "30s", "write-cache-persist-retry-max": "60s"})
    path = f"/{place.bucket}/k"
    place.sim.down("refuse")
    assert place.put("k", b"waits").acked
    cli = place.server.cli
    wait_for(lambda: path in cli("async-persist", "list").stdout)
    wait_for(lambda: bool(re.search("(?i)attempts?\\W+[1-9]", cli("async-persist", "stat", "--path", path).stdout)))
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
