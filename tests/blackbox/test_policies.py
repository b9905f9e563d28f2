"""The table of write policies, row by row, for every kind of write: a real client in
front, the journal of the store as witness. READ_ONLY is in `test_pathconfig`.

The store is the simulator; hours are seconds (`harness.under.SCALED`).
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from botocore.exceptions import ClientError

from conftest import ServeFactory
from harness.payload import KIB, MIB, md5_hex, multipart_etag, payload
from harness.server import Server
from harness.target import error_of
from harness.under import ACK_SECONDS, FENCE_SECONDS, STORE_BUCKET, Place, scaled
from ufssim.client import Sim
from ufssim.verify import ACKED, REFUSED, UNKNOWN

pytestmark = pytest.mark.usefixtures("write_back")

THROUGH = ["WRITE_THROUGH", "NO_CACHE"]
BACK = ["WRITE_BACK", "TRANSIENT"]
SOURCE = payload(70 * KIB, "source")
PARTS = [payload(64 * KIB, 1), payload(64 * KIB, 2), b"end"]
TAGS = {"TagSet": [{"Key": "colour", "Value": "green"}]}
BEFORE = {"source": SOURCE, "victim": b"there", "batch": b"there", "tagged": b"tagged", "old": b"old"}


@dataclass(frozen=True)
class Write:
    """What a client does to one key, and what the key holds then."""

    key: str
    body: bytes | None
    call: Callable[[Any, str], Any]


def _multipart(s3: Any, bucket: str) -> Any:
    where = {"Bucket": bucket, "Key": "multi"}
    where["UploadId"] = s3.create_multipart_upload(**where, ChecksumAlgorithm="CRC32C")["UploadId"]
    done = []
    for number, part in enumerate(PARTS, 1):
        sent = s3.upload_part(**where, PartNumber=number, Body=part, ChecksumAlgorithm="CRC32C")
        done.append({"PartNumber": number, "ETag": sent["ETag"], "ChecksumCRC32C": sent["ChecksumCRC32C"]})
    return s3.complete_multipart_upload(**where, MultipartUpload={"Parts": done})


def _batch(s3: Any, bucket: str) -> Any:
    done = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "batch"}]})
    for error in done.get("Errors", []):
        status = {"ResponseMetadata": {"HTTPStatusCode": 503}, "Error": error}
        raise ClientError(status, "DeleteObjects")
    return done


def _put(key: str, body: bytes) -> Write:
    return Write(key, body, lambda s3, bucket: s3.put_object(Bucket=bucket, Key=key, Body=body))


KINDS = {
    "put": _put("new", payload(10 * KIB, "new")),
    "put-large": _put("large", payload(3 * MIB + 5, "large")),
    "put-empty": _put("empty", b""),
    "overwrite": _put("old", b"newer"),
    "copy": Write("copy", SOURCE, lambda s3, bucket: s3.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/source")),
    "multipart": Write("multi", b"".join(PARTS), _multipart),
    "delete": Write("victim", None, lambda s3, bucket: s3.delete_object(Bucket=bucket, Key="victim")),
    "batch-delete": Write("batch", None, _batch),
    "tagging": Write("tagged", b"tagged", lambda s3, bucket: s3.put_object_tagging(Bucket=bucket, Key="tagged", Tagging=TAGS)),
}
OF_BYTES = ("put", "put-large", "put-empty", "overwrite", "copy", "multipart")
# Tags are metadata of ours, which no store hears of.
TOLD = [name for name in KINDS if name != "tagging"]


def run(place: Place, name: str) -> tuple[str, Any]:
    """One write by boto3, written down; how it ended, and its answer."""
    write = KINDS[name]
    operation = place.history.begin(write.key, write.body)
    answer: Any = None
    try:
        answer = write.call(place.s3(), place.bucket)
        outcome = ACKED
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        outcome = REFUSED if status < 500 else UNKNOWN
    place.history.end(operation, outcome)
    return outcome, answer


def shows(place: Place, name: str) -> None:
    """A client sees what was acked."""
    write = KINDS[name]
    ended = place.read(write.key)
    assert ended.status == (404 if write.body is None else 200), f"{name}: {ended.status}"
    assert write.body is None or ended.body == write.body, name
    if name == "tagging":
        tags = place.s3().get_object_tagging(Bucket=place.bucket, Key=write.key)
        assert tags["TagSet"] == TAGS["TagSet"]


@pytest.fixture(scope="module")
def front(store: Sim, serve_long: ServeFactory) -> Server:
    return serve_long("policies", **scaled(store))


@pytest.fixture
def place(front: Server, store: Sim) -> Iterator[Place]:
    """A bucket with objects in it that the store has."""
    store.reset()
    made = filled(front, store)
    yield made
    store.clear_rules()
    store.up()
    made.policy("WRITE_THROUGH")
    store.reset()


def filled(server: Server, sim: Sim) -> Place:
    """A bucket of its own; `BEFORE` is in the store."""
    made = Place(server, sim)
    for key, body in BEFORE.items():
        assert made.put(key, body).acked
    return made


# -- WRITE_THROUGH, NO_CACHE ----------------------------------------------------------


@pytest.mark.parametrize("mode", THROUGH)
def test_acked_once_the_store_has_it(place: Place, mode: str) -> None:
    place.policy(mode)
    for name, write in KINDS.items():
        outcome, _ = run(place, name)
        assert outcome == ACKED, name
        assert place.stored_body(write.key) == write.body, f"{name}: acked before the store had it"
        shows(place, name)
    place.settled(through=True)


@pytest.mark.parametrize("name", TOLD)
@pytest.mark.parametrize("mode", THROUGH)
def test_no_ack_without_the_store(place: Place, mode: str, name: str) -> None:
    place.policy(mode)
    place.sim.down("refuse")
    outcome, _ = run(place, name)
    assert outcome == UNKNOWN, "an ack of what only this worker has"
    place.sim.up()
    place.settled(through=True)


# -- WRITE_BACK, TRANSIENT --------------------------------------------------------------


@pytest.mark.parametrize("mode", BACK)
def test_acked_and_safe_without_the_store(store: Sim, serve: ServeFactory, mode: str) -> None:
    """The store is down; after kill -9 it is still down, and every ack still holds."""
    store.reset()
    place = filled(serve("own", **scaled(store)), store)
    place.policy(mode, writeReplicas=1)
    store.down("refuse")
    applied = store.journal(place.prefix)
    for name in KINDS:
        begun = time.monotonic()
        outcome, answer = run(place, name)
        assert outcome == ACKED and time.monotonic() - begun < ACK_SECONDS, name
        if name in OF_BYTES:
            headers = answer["ResponseMetadata"]["HTTPHeaders"]
            assert headers.get("x-quickwater-durability") == "local-1", name
        shows(place, name)
    place.server.kill()
    place.server.start()
    for name in KINDS:
        shows(place, name)
    assert store.journal(place.prefix) == applied
    if mode == "WRITE_BACK":
        at_risk = sum(len(KINDS[name].body or b"") for name in OF_BYTES)
        assert place.server.metric("quickwater_persist_dirty_bytes") >= at_risk
        assert place.server.metric("quickwater_persist_pending_deletes") == 2
        assert place.server.metric("quickwater_persist_oldest_seconds") > 0
        place.finish()
        for gauge in ("dirty_bytes", "pending_deletes", "oldest_seconds"):
            assert place.server.metric(f"quickwater_persist_{gauge}") == 0, gauge
    store.reset()


def test_transient_is_never_uploaded(place: Place) -> None:
    """Not in its life, not after a restart of the store, not when asked to hurry."""
    place.policy("TRANSIENT", writeReplicas=1)
    since = len(place.sim.requests())
    for name in OF_BYTES:
        assert run(place, name)[0] == ACKED
        key = KINDS[name].key
        assert place.persist_state(key) == "TRANSIENT", name
    place.sim.down("refuse")
    place.sim.up()
    place.server.cli("async-persist", "retry", "--path", f"/{place.bucket}", check=False)
    time.sleep(1.5)
    for name in OF_BYTES:
        shows(place, name)
    sent = [r.operation for r in place.sim.requests() if r.number > since and r.method in ("PUT", "POST")]
    assert sent == []
    assert place.stored_body("old") == b"old" and "new" not in place.stored()


def test_etags_and_checksums_stay_what_they_were(place: Place) -> None:
    """Seen by clients before and after, and the store has the same."""
    place.policy("WRITE_BACK", writeReplicas=1)
    place.sim.down("refuse")
    for name in OF_BYTES:
        assert run(place, name)[0] == ACKED

    def look(s3: Any, bucket: str, prefix: str = "") -> dict[str, dict[str, Any]]:
        wanted = ("ETag", "ContentLength", "ChecksumCRC32", "ChecksumCRC32C", "ChecksumCRC64NVME")
        seen = {}
        for name in OF_BYTES:
            key = prefix + KINDS[name].key
            head = s3.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
            seen[name] = {field: head.get(field) for field in wanted}
        return seen

    before = look(place.s3(), place.bucket)
    assert before["put"]["ETag"] == f'"{md5_hex(KINDS["put"].body or b"")}"'
    assert before["multipart"]["ETag"] == f'"{multipart_etag(PARTS)}"'
    assert before["put"]["ChecksumCRC32"] and before["multipart"]["ChecksumCRC32C"], before
    place.finish()
    assert look(place.s3(), place.bucket) == before
    stored = look(place.sim.target().client(), STORE_BUCKET, place.prefix)
    # Parts go with their MD5; that they make the same object is seen by its ETag.
    sums = {name: value for name, value in stored["multipart"].items() if name.startswith("Checksum")}
    before["multipart"] |= sums
    assert stored == before, "computed at ingest, passed on, shown by the store"


@pytest.mark.parametrize("mode", ["WRITE_THROUGH", "WRITE_BACK"])
def test_tags_of_what_the_store_has_are_no_reason_to_send_it(place: Place, mode: str) -> None:
    """They are metadata of ours: not a byte of the object goes out again."""
    place.policy(mode)
    s3, where = place.s3(), {"Bucket": place.bucket, "Key": "tagged"}
    told = len(place.sim.mutating_requests())
    s3.put_object_tagging(**where, Tagging=TAGS)
    assert s3.get_object_tagging(**where)["TagSet"] == TAGS["TagSet"]
    assert place.persist_state("tagged") == "PERSISTED"
    s3.delete_object_tagging(**where)
    assert s3.get_object_tagging(**where)["TagSet"] == []
    time.sleep(1.0)
    assert place.persist_state("tagged") == "PERSISTED"
    assert len(place.sim.mutating_requests()) == told, place.sim.mutating_requests()[told:]


# -- one winner (C4), under WRITE_BACK ----------------------------------------------------


@pytest.mark.parametrize("store_is", ["up", "down"])
def test_conditions_have_one_winner(place: Place, store_is: str) -> None:
    place.policy("WRITE_BACK", writeReplicas=1)
    if store_is == "down":
        place.sim.down("refuse")
        assert place.delete("absent").acked  # known to be absent, whatever the store has
    s3 = place.s3()
    for turn in range(5):
        ends = _race(
            *(
                lambda n=n: s3.put_object(
                    Bucket=place.bucket, Key="absent", Body=b"%d-%d" % (turn, n), IfNoneMatch="*"
                )
                for n in range(8)
            )
        )
        won = [n for n, end in enumerate(ends) if end == 200]
        assert len(won) == 1 and set(ends) <= {200, 409, 412}, ends
        assert place.send("GET", "absent").body == b"%d-%d" % (turn, won[0])
        etag = place.send("HEAD", "absent").headers["etag"]
        ends = _race(*(lambda: s3.put_object(Bucket=place.bucket, Key="absent", Body=b"again", IfMatch=etag) for _ in range(4)))
        assert sorted(ends)[0] == 200 and set(ends) <= {200, 409, 412}, ends
        assert ends.count(200) == 1, ends
        assert place.send("DELETE", "absent").status == 204


@pytest.mark.parametrize("turn", range(6))
def test_complete_and_abort_have_one_winner(place: Place, turn: int) -> None:
    place.policy("WRITE_BACK", writeReplicas=1)
    place.sim.down("refuse")
    s3, where = place.s3(), {"Bucket": place.bucket, "Key": "m"}
    where["UploadId"] = s3.create_multipart_upload(**where)["UploadId"]
    sent = s3.upload_part(**where, PartNumber=1, Body=PARTS[0])
    parts = {"Parts": [{"PartNumber": 1, "ETag": sent["ETag"]}]}
    assert place.send("GET", "m").status in (404, 503), "parts are invisible"
    complete = lambda: s3.complete_multipart_upload(**where, MultipartUpload=parts)  # noqa: E731
    ends = _race(complete, complete, lambda: s3.abort_multipart_upload(**where))
    if 200 in ends[:2]:
        assert ends[2] == 404 and place.send("GET", "m").body == PARTS[0], ends
        first, second = complete(), complete()
        assert first["ETag"] == second["ETag"] == f'"{multipart_etag(PARTS[:1])}"'
    else:
        assert ends == [404, 404, 204], ends
        assert place.send("GET", "m").status in (404, 503)
    place.sim.up()
    place.server.cli("async-persist", "wait", "--path", f"/{place.bucket}", "--timeout", "30s")


def _race(*calls: Callable[[], Any]) -> list[int]:
    """All at once; their statuses."""
    gate, ends = threading.Barrier(len(calls)), [0] * len(calls)

    def run_one(number: int) -> None:
        gate.wait(30)
        try:
            ends[number] = calls[number]()["ResponseMetadata"]["HTTPStatusCode"]
        except ClientError as error:
            ends[number] = error.response["ResponseMetadata"]["HTTPStatusCode"]

    threads = [threading.Thread(target=run_one, args=(n,)) for n in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return ends


def test_one_body_is_of_one_version(place: Place) -> None:
    """Read while it is overwritten and persisted: whole, or broken off; never spliced."""
    place.policy("WRITE_BACK", writeReplicas=1)
    bodies = [payload(5 * MIB + n, n) for n in range(4)]
    assert place.put("k", bodies[0]).acked
    until, seen = time.monotonic() + 6.0, set()

    def write() -> None:
        turn = 0
        while time.monotonic() < until:
            turn += 1
            place.put("k", bodies[turn % 4])

    writer = threading.Thread(target=write)
    writer.start()
    while time.monotonic() < until:
        ended = place.send("GET", "k")
        if ended.status == 200:
            assert ended.body in bodies, "bytes of two versions in one body"
            seen.add(len(ended.body))
    writer.join(60)
    assert len(seen) > 1, "it was overwritten while it was read"
    place.finish()


# -- lost for good --------------------------------------------------------------------


@pytest.mark.parametrize("mode", BACK)
def test_what_is_lost_is_said_to_be_lost(store: Sim, serve: ServeFactory, mode: str) -> None:
    """The only copy is gone with its disk: an error of its own that no retry heals, never
    the older version that the store has, until the key is written or deleted."""
    store.reset()
    place = filled(serve("own", **scaled(store)), store)
    place.policy(mode, writeReplicas=1)
    store.down("refuse")
    lost = payload(300 * KIB, "lost")
    for key in ("old", "victim"):
        assert place.send("PUT", key, lost).status == 200
    place.server.stop()
    _wipe(place.server.dir, lost)
    store.up()
    place.server.start()
    for _ in range(2):
        for key in ("old", "victim"):
            ended = place.send("GET", key)
            assert (ended.status, ended.code) == (410, "ObjectLost"), ended
        time.sleep(0.5)
    assert place.stored_body("old") == b"old", "nobody knows better than to leave it"
    assert error_of(place.s3().get_object, Bucket=place.bucket, Key="old") == (410, "ObjectLost")
    assert place.send("DELETE", "victim").status == 204
    assert place.send("GET", "victim").status == 404
    assert place.send("PUT", "old", b"again").status == 200
    assert place.send("GET", "old").body == b"again"
    assert place.read("source").body == SOURCE
    store.reset()


@pytest.mark.parametrize("later", ["overwrite", "delete"])
def test_what_is_lost_is_replaced_through_the_store(
    store: Sim, serve: ServeFactory, later: str
) -> None:
    """What failed changes nothing of what is lost; what may come late is waited for; what the
    store has is told as always."""
    store.reset()
    place = filled(serve("through", **scaled(store)), store)
    place.policy("WRITE_BACK", writeReplicas=1)
    store.down("refuse")
    lost = payload(300 * KIB, "lost")
    assert place.send("PUT", "old", lost).status == 200
    place.server.stop()
    _wipe(place.server.dir, lost)
    store.up()
    place.server.start()
    place.policy("WRITE_THROUGH")

    def change(body: bytes) -> int:
        sent = place.send("PUT", "old", body) if later == "overwrite" else place.send("DELETE", "old")
        return sent.status

    def is_lost() -> bool:
        ended = place.send("GET", "old")
        return (ended.status, ended.code) == (410, "ObjectLost")

    operation = "PutObject" if later == "overwrite" else "DeleteObject"
    store.rule("status", operation=operation, status=503, code="SlowDown")
    assert change(b"refused") == 503 and is_lost()
    store.clear_rules()
    store.rule("late", operation=operation, delay_s=None, times=1)
    assert change(b"late") >= 500 and is_lost()
    store.clear_rules()
    # The process that knows of it ends: the next one waits for it as well.
    place.server.kill()
    place.server.start()
    timer = threading.Timer(FENCE_SECONDS / 3, store.release)
    timer.start()
    begun = time.monotonic()
    assert change(b"again") in (200, 204)
    assert time.monotonic() - begun > FENCE_SECONDS / 2
    timer.join()
    wanted = b"again" if later == "overwrite" else None
    assert place.stored_body("old") == wanted
    assert place.send("GET", "old").status == (200 if wanted else 404)
    place.server.stop()
    place.server.start()
    done = place.server.cli("async-persist", "wait", "--path", "/", "--timeout", "30s")
    assert done.returncode == 0, done
    assert place.stored_body("old") == wanted
    store.reset()


def _wipe(directory: Path, body: bytes) -> None:
    """Zeros over every place that holds some of these bytes."""
    found, probe = 0, 4 * KIB
    for path in directory.rglob("*"):
        if not path.is_file():
            continue
        data = path.read_bytes()
        with path.open("r+b") as file:
            for start in range(0, len(body) - probe, probe):
                at = data.find(body[start : start + probe])
                while at >= 0:
                    file.seek(at)
                    file.write(bytes(probe))
                    found += 1
                    at = data.find(body[start : start + probe], at + 1)
    assert found, "the bytes were not on this disk"
