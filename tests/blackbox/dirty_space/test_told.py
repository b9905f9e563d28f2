"""What users are told of bytes that the store does not have: how many are TRANSIENT, how far
the store is behind, and that waiting for what never comes is refused."""

from __future__ import annotations

import json
import time
from typing import Callable

import pytest

from harness.apart import one_process
from harness.dirty_space import begin, manifest_of, send_part, unpinned
from harness.payload import KIB, MIB, payload
from harness.under import Place

pytestmark = pytest.mark.usefixtures("write_back")


@one_process("status shows the counters of the process that is asked")
def test_transient_bytes_are_shown(tight: Callable[..., Place]) -> None:
    place = tight("TRANSIENT")
    path = f"/{place.bucket}/t"

    def shown() -> tuple[int, int]:
        metric = place.server.metric
        return int(metric("quickwater_transient_objects")), int(metric("quickwater_transient_bytes"))

    assert shown() == (0, 0)
    assert place.send("PUT", "t", payload(3 * MIB, "t")).acked
    assert place.send("PUT", "u", payload(MIB, "u")).acked
    assert shown() == (2, 4 * MIB)
    assert place.server.metric("quickwater_persist_dirty_bytes") == 0, "nothing waits for the store"
    assert "TRANSIENT" in place.server.cli("async-persist", "stat", "--path", path).stdout
    listed = place.server.cli("async-persist", "list").stdout
    assert "2 TRANSIENT objects" in listed and "nothing waits" in listed, listed
    listed = json.loads(place.server.cli("async-persist", "list", "--output", "json").stdout)
    assert listed["transient"] == {"objects": 2, "bytes": 4 * MIB}, listed
    assert "quickwater_transient_bytes" in place.server.cli("status").stdout
    place.s3().put_object_tagging(
        Bucket=place.bucket, Key="t", Tagging={"TagSet": [{"Key": "a", "Value": "b"}]}
    )
    assert shown() == (2, 4 * MIB)
    assert place.send("PUT", "u", payload(2 * MIB, "newer")).acked
    assert shown() == (2, 5 * MIB)
    place.server.kill()
    place.server.start()
    assert shown() == (2, 5 * MIB)
    assert place.send("DELETE", "u").status == 204
    assert shown() == (1, 3 * MIB)
    place.policy("WRITE_THROUGH")
    assert place.put("t", b"through").acked
    assert shown() == (0, 0)
    unpinned(place)


def test_a_transient_object_that_the_store_never_had_is_not_deleted_there(tight: Callable[..., Place]) -> None:
    place = tight("WRITE_THROUGH")
    assert place.put("both", b"in the store").acked
    place.policy("TRANSIENT", writeReplicas=1)
    since = len(place.sim.requests())
    for key in ("t", "batch", "both", "u"):
        assert place.send("PUT", key, payload(MIB, key)).acked
    assert place.send("PUT", "u", payload(MIB, "again")).acked
    assert place.send("DELETE", "t").status == 204
    assert place.delete_many(["batch"])["batch"]
    assert place.send("DELETE", "both").status == 204
    until = time.monotonic() + 30
    while place.server.metric("quickwater_persist_pending_deletes"):
        assert time.monotonic() < until
        time.sleep(0.1)
    sent = [
        (r.operation, r.key.removeprefix(place.prefix))
        for r in place.sim.requests()
        if r.number > since and r.method in ("PUT", "POST", "DELETE")
    ]
    assert sent == [("DeleteObject", "both")], sent
    for key in ("t", "batch", "both"):
        assert place.send("GET", key).status == 404
    assert place.stored() == {}


def test_waiting_for_what_never_comes_is_refused(tight: Callable[..., Place]) -> None:
    place = tight("TRANSIENT")
    wait = [("x-quickwater-wait-persisted", "5")]
    assert place.send("PUT", "source", b"s").acked
    put = place.send("PUT", "k", b"never", headers=wait)
    assert (put.status, put.code) == (400, "InvalidRequest") and "TRANSIENT" in put.body.decode(), put
    copied = place.send("PUT", "k", headers=[*wait, ("x-amz-copy-source", f"/{place.bucket}/source")])
    assert (copied.status, copied.code) == (400, "InvalidRequest"), copied
    upload = begin(place, "k")
    ends = [send_part(place, "k", upload, 1, KIB)]
    query = [("uploadId", upload)]
    done = place.send("POST", "k", manifest_of(ends), query=query, headers=wait)
    assert (done.status, done.code) == (400, "InvalidRequest") and "TRANSIENT" in done.body.decode(), done
    assert place.send("GET", "k").status == 404
    assert place.send("POST", "k", manifest_of(ends), query=query).status == 200


@pytest.mark.parametrize("value", ["0", "-1", "601", "soon", "1.5", "", "1 2"])
def test_a_wait_that_says_nothing_is_refused(tight: Callable[..., Place], value: str) -> None:
    place = tight("WRITE_BACK")
    put = place.put("k", b"k", headers=[("x-quickwater-wait-persisted", value)])
    assert (put.status, put.code) == (400, "InvalidRequest"), put
    assert "x-quickwater-wait-persisted" in put.body.decode() and place.stored() == {}


def test_how_far_the_store_is_behind_is_measured(tight: Callable[..., Place]) -> None:
    place = tight("WRITE_BACK")
    place.sim.down("refuse")
    assert place.put("k", b"k").acked
    time.sleep(1.2)
    place.sim.up()
    place.wait_persisted()
    text = place.server.metrics_text()
    lag = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
           if line.startswith("quickwater_persist_lag_seconds")}
    assert lag["quickwater_persist_lag_seconds_count"] == 1, lag
    assert 1.0 < lag["quickwater_persist_lag_seconds_sum"] < 30, lag
