"""Nothing is kept for ever of what nobody goes on with: uploads of clients, uploads
in the store, bodies that stall. And what is cut off on its way to the store is gone
on with. Hours are made seconds; the store's journal and its open uploads are the
witness."""

from __future__ import annotations

import re
import socket
import time
from typing import Any, Callable, Iterator

import pytest

from conftest import ServeFactory
from harness.payload import KIB, MIB, multipart_etag, payload
from harness.raw import BROKEN, Reply, Request, connect, head_bytes, read_reply, sign
from harness.server import Server
from harness.under import STORE_BUCKET, Place, scaled
from ufssim.client import Sim

pytestmark = pytest.mark.usefixtures("write_back")

ORPHAN_SECONDS = 2.0
SWEEP_SECONDS = 0.3
# An orphan is at least this old when the store is asked what it has of it.
FENCE_SECONDS = 3.0
# Everything abandoned is gone by then, on a busy machine too.
GONE_SECONDS = 30.0
STALL_SECONDS = 1.0
PART = 5 * MIB
SHORT = {
    "write-cache-orphan-timeout": f"{ORPHAN_SECONDS:g}s",
    "write-cache-orphan-period": f"{SWEEP_SECONDS * 1000:g}ms",
    "write-cache-persist-part-size": "5MiB",
}
UNSIGNED = "UNSIGNED-PAYLOAD"

Make = Callable[..., Place]


@pytest.fixture
def own(store: Sim, serve: ServeFactory) -> Iterator[Make]:
    """Makes a bucket under a policy on a service of its own that sweeps often."""
    store.reset()

    def make(mode: str = "WRITE_BACK", **flags: str) -> Place:
        made = Place(serve("own", **scaled(store, **{**SHORT, **flags})), store)
        if mode != "WRITE_THROUGH":
            made.policy(mode, writeReplicas=1)
        return made

    yield make
    store.up()
    store.reset()


# -- looking --------------------------------------------------------------------------


def until(true: Callable[[], Any], what: str, seconds: float = GONE_SECONDS) -> Any:
    """Waits until it is true."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return found


def count(server: Server, series: str) -> float:
    """One series of a counter."""
    lines = [line for line in server.metrics_text().splitlines() if line.startswith(series + " ")]
    assert len(lines) == 1, f"{series}: {lines}"
    return float(lines[0].rsplit(" ", 1)[1])


def swept(server: Server, where: str) -> float:
    """Uploads swept so far."""
    return count(server, f'quickwater_swept_uploads_total{{where="{where}"}}')


def pinned(server: Server) -> float:
    """Dirty space taken, and space kept for writes under way."""
    return server.metric("quickwater_store_pinned_bytes") + server.metric(
        "quickwater_store_reserved_bytes"
    )


def uploads_here(place: Place) -> list[str]:
    """Keys of the uploads that clients have open."""
    listed = place.s3().list_multipart_uploads(Bucket=place.bucket)
    return [upload["Key"] for upload in listed.get("Uploads", [])]


def uploads_there(sim: Sim) -> list[tuple[str, str]]:
    """Keys and ids of the uploads that are open in the store."""
    listed = sim.target().client().list_multipart_uploads(Bucket=STORE_BUCKET)
    return [(upload["Key"], upload["UploadId"]) for upload in listed.get("Uploads", [])]


def parts_taken(place: Place, key: str) -> list[int]:
    """Sizes of the parts the store took for a key, in order."""
    journal = place.sim.journal(place.prefix + key)
    return [line.size for line in journal if line.operation == "UploadPart"]


def begun(place: Place, key: str) -> int:
    """How many uploads the store began for a key."""
    journal = place.sim.journal(place.prefix + key)
    return sum(line.operation == "CreateMultipartUpload" for line in journal)


def create(place: Place, key: str) -> str:
    """The id of a new upload."""
    created = place.send("POST", key, query=[("uploads", "")])
    assert created.status == 200, created
    return created.body.partition(b"<UploadId>")[2].partition(b"<")[0].decode()


def send_part(place: Place, key: str, upload: str, number: int, body: bytes) -> str:
    """One line of the manifest."""
    query = [("partNumber", str(number)), ("uploadId", upload)]
    sent = place.send("PUT", key, body, query=query)
    assert sent.status == 200, sent
    return f"<Part><PartNumber>{number}</PartNumber><ETag>{sent.headers['etag']}</ETag></Part>"


def manifest(lines: list[str]) -> bytes:
    return f"<CompleteMultipartUpload>{''.join(lines)}</CompleteMultipartUpload>".encode()


# -- uploads of clients ---------------------------------------------------------------


@pytest.mark.parametrize("mode", ["WRITE_BACK", "TRANSIENT", "WRITE_THROUGH"])
def test_an_abandoned_upload_is_aborted(own: Make, mode: str) -> None:
    place = own(mode)
    parts = [payload(MIB, 1), payload(MIB, 2)]
    upload, lines = place.begin_upload("k", parts)
    through = mode == "WRITE_THROUGH"
    assert uploads_here(place) == ["k"] and len(uploads_there(place.sim)) == through
    assert pinned(place.server) >= (0 if through else 2 * MIB)
    until(lambda: not uploads_here(place), "the upload is aborted")
    until(lambda: pinned(place.server) == 0, "its dirty space is free")
    until(lambda: not uploads_there(place.sim), "the store's upload is aborted")
    late = place.send("PUT", "k", b"x", query=[("partNumber", "3"), ("uploadId", upload)])
    assert (late.status, late.code) == (404, "NoSuchUpload")
    assert place.complete("k", upload, lines, b"".join(parts)).code == "NoSuchUpload"
    assert place.read("k").status == 404
    until(lambda: swept(place.server, "here") == 1, "it is counted")
    assert place.server.metric("quickwater_swept_bytes_total") == 2 * MIB
    said = re.findall("abandoned uploads were swept.*", place.server.log())
    assert len(said) == 1 and "uploads=1" in said[0] and f"bytes={2 * MIB}" in said[0], said


@pytest.mark.parametrize("mode", ["WRITE_BACK", "WRITE_THROUGH"])
def test_every_part_starts_the_clock_anew(own: Make, mode: str) -> None:
    place = own(mode)
    upload, lines, parts = create(place, "k"), [], []
    begun_at = time.monotonic()
    while time.monotonic() - begun_at < 3 * ORPHAN_SECONDS:
        parts.append(payload(4 * KIB, len(parts)))
        lines.append(send_part(place, "k", upload, len(parts), parts[-1]))
        time.sleep(0.25 * ORPHAN_SECONDS)
    assert place.complete("k", upload, manifest(lines), b"".join(parts)).acked
    assert swept(place.server, "here") == 0
    place.finish()


def begin_body(place: Place, key: str, size: int, **more: Any) -> socket.socket:
    """A PUT of which no byte of the body is sent yet."""
    request = Request(
        "PUT", f"/{place.bucket}/{key}", content_length=str(size), payload_hash=UNSIGNED, **more
    )
    connection = connect(place.target())
    connection.sendall(head_bytes(request, sign(place.target(), request)))
    return connection


def test_an_upload_is_not_abandoned_while_a_part_of_it_comes(own: Make) -> None:
    place = own()
    upload, size = create(place, "k"), 64 * KIB
    with begin_body(
        place, "k", size, query=[("partNumber", "1"), ("uploadId", upload)]
    ) as connection:
        steps = 16
        for _ in range(steps):
            connection.sendall(b"x" * (size // steps))
            time.sleep(2.5 * ORPHAN_SECONDS / steps)
        sent = read_reply(connection, "PUT")
    assert sent.status == 200, sent.brief()
    line = f"<Part><PartNumber>1</PartNumber><ETag>{sent.headers['etag']}</ETag></Part>"
    assert place.complete("k", upload, manifest([line]), b"x" * size).acked
    assert swept(place.server, "here") == 0


def test_dead_clients_leave_room_after_kill_9(own: Make) -> None:
    """Open uploads fill the dirty space; their clients, and we, are killed."""
    # Long enough to fill it before the first is swept, on a busy machine too.
    timeout_s = 12.0
    place = own(
        capacity=str(64 * MIB),
        **{"segment-size": "4MiB", "write-cache-orphan-timeout": f"{timeout_s:g}s"},
    )
    limit = place.server.metric("quickwater_store_dirty_limit_bytes")
    # Else the uploads without room are handed over to it.
    place.sim.down("refuse")
    number = 0
    while True:
        upload = create(place, f"dead/{number}")
        query = [("partNumber", "1"), ("uploadId", upload)]
        sent = place.send("PUT", f"dead/{number}", payload(MIB, number), query=query)
        if sent.status != 200:
            break
        number += 1
        assert number * MIB < limit, "no limit"
    assert sent.status == 503 and number > 5
    place.sim.up()
    place.server.kill()
    place.server.start()
    ready = time.monotonic()
    assert pinned(place.server) >= number * MIB, "parts of open uploads are kept"
    until(lambda: pinned(place.server) == 0, "dead clients' space is free")
    # Clients had their time to come back.
    assert time.monotonic() - ready > 0.5 * timeout_s
    assert not uploads_here(place)
    for turn in range(number):
        assert place.put(f"alive/{turn}", payload(MIB, turn)).acked
    place.finish()


def test_the_store_hears_of_it_when_it_is_back(own: Make) -> None:
    place = own("WRITE_THROUGH")
    place.begin_upload("k", [payload(MIB, 1)])
    place.sim.down("refuse")
    until(lambda: swept(place.server, "here") == 1, "the upload is aborted")
    place.server.kill()
    place.server.start()
    place.sim.up()
    assert len(uploads_there(place.sim)) == 1
    until(lambda: not uploads_there(place.sim), "the store's upload is aborted")


def test_nothing_stays_in_a_directory(serve: ServeFactory) -> None:
    server = serve("posix", flags=SHORT)
    s3 = server.target().client()
    s3.create_bucket(Bucket="b-1")
    upload = s3.create_multipart_upload(Bucket="b-1", Key="k")["UploadId"]
    part = {"Bucket": "b-1", "Key": "k", "UploadId": upload, "PartNumber": 1}
    s3.upload_part(**part, Body=payload(MIB, "posix"))

    def staged() -> int:
        return sum(path.stat().st_size for path in server.ufs.rglob("*") if path.is_file())

    assert staged() >= MIB
    until(lambda: "Uploads" not in s3.list_multipart_uploads(Bucket="b-1"), "aborted here")
    until(lambda: staged() < MIB, "its files are gone")


# -- uploads only the store has -------------------------------------------------------


def test_an_upload_whose_name_we_were_not_told(own: Make) -> None:
    """The store begins it, its answer is lost: it is found, and those of others are not
    touched."""
    place = own("WRITE_THROUGH")
    others = place.sim.target().client()
    path = place.prefix + "k"
    other = {"Bucket": STORE_BUCKET, "Key": path}
    theirs = [others.create_multipart_upload(Bucket=STORE_BUCKET, Key=path + "/x")["UploadId"]]
    theirs.append(others.create_multipart_upload(**other)["UploadId"])
    others.upload_part(**other, UploadId=theirs[1], PartNumber=1, Body=b"theirs")
    place.sim.script("lose_reply", operation="CreateMultipartUpload", key=path)
    assert place.send("POST", "k", query=[("uploads", "")]).status >= 500
    assert len(uploads_there(place.sim)) == 3
    until(lambda: len(uploads_there(place.sim)) == 2, "ours is aborted")
    time.sleep(3 * SWEEP_SECONDS)
    assert {name for _, name in uploads_there(place.sim)} == set(theirs)
    assert swept(place.server, "ufs") == 1
    assert place.server.metric("quickwater_persist_opened_uploads") == 0


def test_killed_before_the_store_answers(own: Make) -> None:
    place = own("WRITE_THROUGH")
    place.sim.rule("late", delay_s=0.5, silent=True, operation="CreateMultipartUpload")
    with connect(place.target()) as connection:
        request = Request("POST", f"/{place.bucket}/k", query=[("uploads", "")])
        connection.sendall(head_bytes(request, sign(place.target(), request)))
        seen = lambda: [r for r in place.sim.requests() if r.operation == "CreateMultipartUpload"]
        until(seen, "the store is asked")
        place.server.kill()
    place.sim.wait_idle()
    place.sim.clear_rules()
    assert len(uploads_there(place.sim)) == 1
    place.server.start()
    assert not uploads_here(place)
    until(lambda: not uploads_there(place.sim), "nobody names it: it is aborted")
    until(lambda: swept(place.server, "ufs") == 1, "counted behind the store's answer")


def test_what_may_be_of_others_is_left_alone(own: Make) -> None:
    """We asked once without an answer, and two uploads may be what was made of it."""
    place = own("WRITE_THROUGH")
    path = place.prefix + "k"
    place.sim.script("lose_reply", operation="CreateMultipartUpload", key=path)
    assert place.send("POST", "k", query=[("uploads", "")]).status >= 500
    place.sim.target().client().create_multipart_upload(Bucket=STORE_BUCKET, Key=path)
    until(lambda: "unclear=2" in place.server.log(), "a sweep says so")
    assert len(uploads_there(place.sim)) == 2 and swept(place.server, "ufs") == 0


# -- bodies that stall ----------------------------------------------------------------


@pytest.mark.parametrize("what", ["object", "part"])
def test_a_stalled_body_is_ended(own: Make, what: str) -> None:
    place = own(**{"write-cache-writing-timeout": f"{STALL_SECONDS:g}s"})
    query = []
    if what == "part":
        query = [("partNumber", "1"), ("uploadId", create(place, "k"))]
    with begin_body(place, "k", 8 * MIB, query=query) as connection:
        connection.sendall(payload(3 * MIB, "stalled"))
        until(lambda: pinned(place.server) >= 8 * MIB, "space is kept for it")
        stalled = time.monotonic()
        connection.settimeout(GONE_SECONDS)
        try:
            reply: Reply | None = read_reply(connection, "PUT")
        except BROKEN:
            reply = None
    assert time.monotonic() - stalled < GONE_SECONDS / 2
    assert reply is not None and (reply.status, reply.code) == (400, "RequestTimeout"), reply
    until(lambda: pinned(place.server) == 0, "its space is free", ORPHAN_SECONDS + GONE_SECONDS)
    assert place.read("k").status == 404


def test_every_write_starts_the_timeout_anew(own: Make) -> None:
    place = own(**{"write-cache-writing-timeout": f"{STALL_SECONDS:g}s"})
    body, steps = payload(160 * KIB, "slow"), 20
    operation = place.history.begin("k", body)
    with begin_body(place, "k", len(body)) as connection:
        step = len(body) // steps
        for at in range(0, len(body), step):
            connection.sendall(body[at : at + step])
            time.sleep(3 * STALL_SECONDS / steps)
        assert read_reply(connection, "PUT").status == 200
    place.history.end(operation, "acked")
    place.finish()


# -- large objects on their way to the store ------------------------------------------


def stuck(place: Place, key: str, parts: int) -> None:
    """From now on the store takes so many parts of a key and no more."""
    place.sim.rule(
        "status", status=500, operation="UploadPart", key=place.prefix + key, skip=parts
    )


@pytest.mark.parametrize("kill", [False, True], ids=["failure", "kill-9"])
def test_a_large_object_is_gone_on_with(own: Make, kill: bool) -> None:
    place, body = own(), payload(22 * MIB, "large")
    stuck(place, "k", 2)
    assert place.put("k", body).acked
    until(lambda: len(parts_taken(place, "k")) == 2, "two parts are there")
    until(lambda: place.server.metric("quickwater_persist_failing") == 1, "then it fails")
    if kill:
        place.server.kill()
        place.server.start()
    place.finish()
    assert parts_taken(place, "k") == [PART, PART, PART, PART, 2 * MIB], "no part is sent twice"
    assert begun(place, "k") == 1
    assert place.server.metric("quickwater_persist_resumed_total") >= 1
    assert place.stored()["k"]["etag"] == multipart_etag([body[n : n + PART] for n in range(0, len(body), PART)])
    assert not uploads_there(place.sim)
    assert place.server.metric("quickwater_persist_opened_uploads") == 0


@pytest.mark.parametrize("kill", [False, True], ids=["failure", "kill-9"])
def test_a_multipart_object_is_gone_on_with(own: Make, kill: bool) -> None:
    place = own()
    parts = [payload(64 * KIB, n) for n in range(5)]
    stuck(place, "k", 3)
    assert place.multipart("k", parts).acked
    until(lambda: len(parts_taken(place, "k")) == 3, "three parts are there")
    if kill:
        place.server.kill()
        place.server.start()
    place.finish()
    assert parts_taken(place, "k") == [64 * KIB] * 5, "no part is sent twice"
    assert begun(place, "k") == 1 and not uploads_there(place.sim)


def test_killed_again_and_again(own: Make) -> None:
    """Every life brings one part more to the store."""
    place, body = own(), payload(22 * MIB, "again")
    stuck(place, "k", 1)
    assert place.put("k", body).acked
    for life in range(1, 5):
        until(lambda: len(parts_taken(place, "k")) == life, f"{life} parts are there")
        place.server.kill()
        place.sim.clear_rules()
        stuck(place, "k", 1)
        place.server.start()
    place.finish()
    assert parts_taken(place, "k") == [PART, PART, PART, PART, 2 * MIB]
    assert begun(place, "k") == 1 and not uploads_there(place.sim)


@pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (501, "NotImplemented")])
def test_a_store_that_does_not_list_parts(own: Make, status: int, code: str) -> None:
    """What is there cannot be told: the upload is aborted, and a new one brings it all."""
    place, body = own(), payload(11 * MIB, "unlisted")
    stuck(place, "k", 1)
    assert place.put("k", body).acked
    until(lambda: len(parts_taken(place, "k")) == 1, "a part is there")
    place.sim.rule("status", status=status, code=code, operation="ListParts")
    until(lambda: begun(place, "k") > 1, "another upload is begun")
    place.sim.clear_rules()
    place.finish()
    assert place.stored_body("k") == body
    until(lambda: not uploads_there(place.sim), "no upload stays")


@pytest.mark.parametrize("kill", [False, True], ids=["alive", "kill-9"])
@pytest.mark.parametrize("change", ["overwrite", "overwrite_large", "delete"])
def test_what_is_not_wanted_any_more_leaves_no_upload(own: Make, change: str, kill: bool) -> None:
    place = own()
    stuck(place, "k", 1)
    assert place.put("k", payload(12 * MIB, "old")).acked
    until(lambda: uploads_there(place.sim) and parts_taken(place, "k"), "a part is there")
    match change:
        case "overwrite":
            assert place.put("k", b"new").acked
        case "overwrite_large":
            assert place.put("k", payload(11 * MIB, "new")).acked
        case _:
            assert place.delete("k").acked
    if kill:
        place.server.kill()
        place.server.start()
    place.finish()
    until(lambda: not uploads_there(place.sim), "the old version's upload is aborted")
    until(lambda: place.server.metric("quickwater_persist_opened_uploads") == 0, "no note stays")
    until(lambda: pinned(place.server) == 0, "nothing is kept")


@pytest.mark.parametrize("kill", [False, True], ids=["alive", "kill-9"])
@pytest.mark.parametrize("kind", ["large", "multipart"])
def test_a_complete_without_an_answer(own: Make, kind: str, kill: bool) -> None:
    """It is applied and nobody is told; a delete that is acked next is not reverted."""
    place = own()
    place.sim.script("lose_reply", operation="CompleteMultipartUpload")
    if kind == "large":
        assert place.put("k", payload(11 * MIB, "k")).acked
    else:
        assert place.multipart("k", [payload(64 * KIB, n) for n in range(3)]).acked
    until(lambda: place.stored(), "it is applied")
    if kill:
        place.server.kill()
        place.server.start()
    assert place.delete("k").acked
    place.finish()
    assert place.stored() == {}
    until(lambda: not uploads_there(place.sim), "no upload stays")
    until(lambda: place.server.metric("quickwater_persist_opened_uploads") == 0, "no note stays")


def test_a_late_complete_reverts_nothing(own: Make) -> None:
    """It comes as late as the fence allows: never after what was written later."""
    place = own()
    place.sim.script(
        {"action": "late", "delay_s": FENCE_SECONDS * 0.6, "silent": True},
        operation="CompleteMultipartUpload",
    )
    assert place.put("k", payload(11 * MIB, "old")).acked
    asked = lambda: [r for r in place.sim.requests() if r.operation == "CompleteMultipartUpload"]
    until(asked, "the old version is to be completed")
    place.server.kill()
    place.server.start()
    assert place.put("k", b"new").acked
    place.finish()
    assert place.stored_body("k") == b"new"
    until(lambda: not uploads_there(place.sim), "no upload stays")
