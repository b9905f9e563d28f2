"""Each fault does what it says, to the requests it was made for and to no others."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError

from harness.payload import KIB, MIB, md5_hex, payload
from harness.raw import BROKEN, Reply, Request, connect, send
from harness.target import error_of

from .client import Sim
from .conftest import BUCKET
from .test_like_s3 import upload

OLD, NEW = b"old", b"new"


def put(sim: Sim, key: str, body: bytes) -> Reply:
    return send(sim.target(), Request("PUT", f"/{BUCKET}/{key}", body=body))


def get(sim: Sim, key: str) -> Reply:
    return send(sim.target(), Request("GET", f"/{BUCKET}/{key}"))


def broken(call: Any, *arguments: Any) -> bool:
    """Whether a call ends without an answer."""
    try:
        call(*arguments)
    except BROKEN:
        return True
    return False


def stored(sim: Sim, key: str) -> bytes | None:
    return sim.body(BUCKET, key) if key in sim.objects(BUCKET) else None


def test_reset_happens_before_anything_is_applied(sim: Sim) -> None:
    sim.rule("reset", operation="PutObject", times=1)
    with pytest.raises(OSError):
        put(sim, "k", NEW)
    assert stored(sim, "k") is None and sim.journal() == []
    assert put(sim, "k", NEW).status == 200
    assert [(r.operation, r.status, r.fault) for r in sim.requests()] == [
        ("PutObject", 0, "reset"), ("PutObject", 200, "")]


def test_black_hole_never_answers(sim: Sim) -> None:
    sim.rule("black_hole", key="k", times=1)
    with connect(sim.target()) as connection:
        connection.settimeout(0.5)
        connection.sendall(f"PUT /{BUCKET}/k HTTP/1.1\r\nContent-Length: 3\r\n\r\nnew".encode())
        with pytest.raises(TimeoutError):
            connection.recv(1)
    assert stored(sim, "k") is None
    assert put(sim, "k", NEW).status == 200


@pytest.mark.parametrize(("status", "code"), [(500, "InternalError"), (503, "SlowDown"), (403, "AccessDenied")])
def test_status(sim: Sim, client: Any, status: int, code: str) -> None:
    sim.rule("status", status=status, code=code, retry_after_s=7, times=2)
    reply = put(sim, "k", NEW)
    assert (reply.status, reply.code, reply.headers["retry-after"]) == (status, code, "7")
    assert error_of(client.head_object, Bucket=BUCKET, Key="k")[0] == status
    assert stored(sim, "k") is None
    sim.rule("status", status=status, code=code, applied=True, times=1)
    assert put(sim, "k", NEW).status == status
    assert stored(sim, "k") == NEW


def test_status_before_the_body(sim: Sim) -> None:
    sim.rule("status", status=503, code="SlowDown", at_head=True, times=1)
    reply = put(sim, "k", payload(8 * MIB))
    assert (reply.status, reply.closed) == (503, True)
    assert sim.requests()[0].size == 0 and stored(sim, "k") is None


def test_200_with_an_error_document(sim: Sim, client: Any) -> None:
    sim.rule("error_in_200", operation="CompleteMultipartUpload", times=1)
    with pytest.raises(ClientError) as caught:
        upload(client, "m", [payload(2 * KIB), b"end"])
    assert caught.value.response["Error"]["Code"] == "InternalError"
    assert stored(sim, "m") is None and len(sim.state()["uploads"]) == 1
    sim.rule("error_in_200", operation="CompleteMultipartUpload", applied=True, times=1)
    with pytest.raises(ClientError):
        upload(client, "m", [payload(2 * KIB), b"end"])
    assert stored(sim, "m") == payload(2 * KIB) + b"end"


def test_wrong_etag(sim: Sim, client: Any) -> None:
    sim.rule("wrong_etag", operation="PutObject", times=1)
    assert put(sim, "k", NEW).headers["etag"] == f'"{"0" * 32}"'
    assert sim.changes("k")[0].etag == md5_hex(NEW)
    sim.rule("wrong_etag", operation="CompleteMultipartUpload", etag="f" * 32 + "-9", times=1)
    assert upload(client, "m", [payload(2 * KIB), b"end"])["ETag"] == f'"{"f" * 32}-9"'


def test_damage(sim: Sim) -> None:
    sim.rule("damage", operation="PutObject", times=1)
    reply = put(sim, "k", NEW)
    found = stored(sim, "k")
    assert reply.status == 200 and found is not None and found != NEW and len(found) == len(NEW)
    assert reply.headers["etag"] == f'"{md5_hex(found)}"'
    put(sim, "k", NEW)
    sim.rule("damage", operation="GetObject", times=1)
    reply = get(sim, "k")
    assert reply.body != NEW and reply.headers["etag"] == f'"{md5_hex(NEW)}"'
    assert get(sim, "k").body == NEW


def test_truncate(sim: Sim) -> None:
    put(sim, "k", payload(10 * KIB))
    sim.rule("truncate", operation="GetObject", cut_after=4 * KIB, times=1)
    assert broken(get, sim, "k")
    assert get(sim, "k").body == payload(10 * KIB)


def test_slow_both_ways(sim: Sim) -> None:
    put(sim, "k", OLD)
    sim.rule("slow", bytes_per_second=400, operation="PutObject|GetObject")
    begun = time.monotonic()
    assert get(sim, "k").body == OLD
    down = time.monotonic() - begun
    assert put(sim, "k", payload(400)).status == 200
    up = time.monotonic() - begun - down
    assert 0.4 < down < 5 and 1.0 < up < 8
    assert stored(sim, "k") == payload(400)


def test_slow_counts_from_the_first_byte(sim: Sim) -> None:
    put(sim, "k", OLD)
    sim.rule("slow", bytes_per_second=10, times=1)
    with connect(sim.target()) as connection:
        connection.sendall(f"GET /{BUCKET}/k HTTP/1.1\r\n\r\n".encode())
        time.sleep(1.0)
        assert 1 <= len(connection.recv(4096)) <= 25


def test_lose_reply_applies_and_resets(sim: Sim) -> None:
    put(sim, "k", OLD)
    sim.rule("lose_reply", method="PUT", times=1)
    with pytest.raises(OSError):
        put(sim, "k", NEW)
    assert stored(sim, "k") == NEW
    assert sim.requests()[-1].status == 0


def test_late_is_applied_after_the_connection_died(sim: Sim) -> None:
    sim.rule("late", delay_s=0.5, times=1)
    with pytest.raises(OSError):
        put(sim, "k", OLD)
    assert stored(sim, "k") is None and sim.state()["pending"] == 1
    assert put(sim, "k", NEW).status == 200
    sim.wait_idle()
    assert stored(sim, "k") == OLD
    assert [(a.etag, a.late) for a in sim.changes("k")] == [(md5_hex(NEW), False), (md5_hex(OLD), True)]


def test_held_until_released(sim: Sim) -> None:
    put(sim, "k", OLD)
    sim.rule("late", delay_s=None, silent=True, method="DELETE", times=1)
    with connect(sim.target()) as connection:
        connection.settimeout(0.3)
        connection.sendall(f"DELETE /{BUCKET}/k HTTP/1.1\r\n\r\n".encode())
        with pytest.raises(TimeoutError):
            connection.recv(1)
    assert stored(sim, "k") == OLD
    assert sim.release() == 1
    assert stored(sim, "k") is None and sim.state()["held"] == 0


def test_a_late_conditional_write_is_decided_when_it_is_applied(sim: Sim) -> None:
    tag = put(sim, "k", OLD).headers["etag"]
    sim.rule("late", delay_s=None, times=1)
    request = Request("PUT", f"/{BUCKET}/k", body=b"stale", headers=[("If-Match", tag)])
    with pytest.raises(OSError):
        send(sim.target(), request)
    put(sim, "k", NEW)
    assert sim.release() == 1
    assert stored(sim, "k") == NEW


def test_latency(sim: Sim) -> None:
    sim.rule("latency", delay_s=0.4, operation="PutObject", times=1)
    begun = time.monotonic()
    assert put(sim, "k", NEW).status == 200
    assert time.monotonic() - begun >= 0.4


def test_refused_outage_and_back(sim: Sim) -> None:
    put(sim, "k", OLD)
    sim.down("refuse")
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            connect(sim.target())
    sim.up()
    assert get(sim, "k").body == OLD


def test_an_outage_resets_what_is_open(sim: Sim) -> None:
    with connect(sim.target()) as connection:
        connection.sendall(f"PUT /{BUCKET}/k HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf".encode())
        while not sim.state()["requests"]:
            time.sleep(0.01)
        sim.down("refuse")
        assert broken(lambda: connection.recv(1) or _closed())
    sim.up()
    assert stored(sim, "k") is None


def _closed() -> None:
    raise ConnectionError("closed")


def test_black_hole_outage(sim: Sim) -> None:
    put(sim, "k", OLD)
    sim.down("black_hole")
    with connect(sim.target()) as connection:
        connection.settimeout(0.3)
        connection.sendall(f"PUT /{BUCKET}/k HTTP/1.1\r\nContent-Length: 3\r\n\r\nnew".encode())
        with pytest.raises(TimeoutError):
            connection.recv(1)
        sim.up()
        assert broken(lambda: connection.recv(1) or _closed()), "what fell in stays in"
    assert get(sim, "k").body == OLD


def test_flapping_and_a_window(sim: Sim) -> None:
    def answers() -> bool:
        return not broken(put, sim, "k", NEW)

    def seen(seconds: float) -> set[bool]:
        end = time.monotonic() + seconds
        found = set()
        while time.monotonic() < end:
            found.add(answers())
            time.sleep(0.02)
        return found

    sim.flap(up_s=0.2, down_s=0.2)
    assert seen(1.2) == {True, False}
    sim.up()
    assert seen(0.5) == {True}
    sim.schedule((0.3, 0.4))
    assert answers()
    time.sleep(0.45)
    assert not answers()
    time.sleep(0.5)
    assert answers()


def test_nth_occurrence_key_and_script(sim: Sim) -> None:
    sim.script("reset", "pass", {"action": "status", "status": 503, "code": "SlowDown"}, key="a/*")
    assert put(sim, "other", NEW).status == 200
    with pytest.raises(OSError):
        put(sim, "a/1", NEW)
    assert [put(sim, key, NEW).status for key in ("a/2", "a/3", "a/4")] == [200, 503, 200]
    sim.clear_rules()
    sim.rule("status", skip=1, times=1, per_key=True, operation="PutObject")
    assert [put(sim, key, NEW).status for key in "xxyyxy"] == [200, 500, 200, 500, 200, 200]
    assert sim.state()["rules"][0]["taken"] == 2


def test_chance_is_seeded(sim: Sim) -> None:
    def run() -> list[int]:
        sim.reset()
        sim.rule("status", chance=0.5, seed=7)
        return [put(sim, "k", NEW).status for _ in range(20)]

    first = run()
    assert set(first) == {200, 500} and first == run()


def test_rules_are_checked(sim: Sim) -> None:
    for wrong in ({"action": "explode"}, {"action": "reset", "tims": 1}, {"action": "reset", "delay_s": None}):
        with pytest.raises(ValueError, match="no such|only `late`"):
            sim.rule(**wrong)


def test_mutating_requests_below_a_prefix(sim: Sim, client: Any) -> None:
    assert sim.mutating_requests() == []
    client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET).build_full_result()
    error_of(client.get_object, Bucket=BUCKET, Key="ro/k")
    assert sim.mutating_requests() == []
    client.put_object(Bucket=BUCKET, Key="rw/k", Body=b"")
    assert sim.mutating_requests("ro/") == []
    sim.rule("status")
    error_of(client.delete_object, Bucket=BUCKET, Key="ro/k")
    error_of(client.create_multipart_upload, Bucket=BUCKET, Key="ro/m")
    sim.clear_rules()
    client.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": "ro/k"}]})
    assert [r.operation for r in sim.mutating_requests("ro/")] == [
        "DeleteObject", "CreateMultipartUpload", "DeleteObjects"]


def test_what_was_late_before_a_reset_never_comes(sim: Sim) -> None:
    sim.rule("late", delay_s=0.3, times=1)
    broken(put, sim, "k", NEW)
    sim.reset()
    time.sleep(0.5)
    assert sim.journal() == [] and sim.state()["pending"] == 0


def test_many_clients_at_once(sim: Sim) -> None:
    """All of it is applied and journaled, in one order."""
    errors: list[BaseException] = []

    def write(number: int) -> None:
        try:
            client = sim.target().client()
            for turn in range(50):
                client.put_object(Bucket=BUCKET, Key=f"{number}/{turn % 5}", Body=f"{number}.{turn}".encode())
        except BaseException as error:  # shown below
            errors.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    journal = sim.journal()
    assert [a.sequence for a in journal] == list(range(1, 401))
    assert {k: sim.body(BUCKET, k) for k in sim.objects(BUCKET)} == {
        f"{n}/{t % 5}": f"{n}.{t}".encode() for n in range(8) for t in range(45, 50)}
