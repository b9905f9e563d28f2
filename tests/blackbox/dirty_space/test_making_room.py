"""Room that only open uploads can make: which of them gives way, and which are left alone."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable

import pytest

from harness.dirty_space import HELD, begin, held_by_parts, manifest_of, met_limit, open_in_store, send_part, unpinned
from harness.payload import KIB, MIB, payload
from harness.under import Place

pytestmark = pytest.mark.usefixtures("write_back")
LOOKS = 10_000  # uploads that are looked at once to make room


@pytest.mark.parametrize("mode", ["TRANSIENT", "WRITE_BACK"])
def test_the_largest_idle_upload_makes_room(tight: Callable[..., Place], mode: str) -> None:
    """TRANSIENT data cannot go through: of the uploads in the way, one does. What can
    goes through at first, and is acked here again as soon as there is room."""
    place = tight("WRITE_BACK")
    sizes = {"idle/a": 4 * MIB, "idle/b": 6 * MIB, "idle/c": 4 * MIB}
    uploads = {key: begin(place, key) for key in sizes}
    ends = {key: [send_part(place, key, uploads[key], 1, size)] for key, size in sizes.items()}
    assert all(end.status == 200 for (end,) in ends.values()), ends
    place.policy(mode, writeReplicas=1)
    time.sleep(5)  # none of them is in use any more
    until = time.monotonic() + 30
    while True:
        put = place.send("PUT", "t", payload(5 * MIB, "t"))
        if put.headers.get("x-quickwater-durability") == "local-1":
            break
        told = (503, "SlowDown") if mode == "TRANSIENT" else (200, "")
        assert (put.status, put.code) == told and time.monotonic() < until, f"nobody makes room: {put}"
        time.sleep(0.3)
    assert [u["Key"].removeprefix(place.prefix) for u in open_in_store(place)] == ["idle/b"]
    assert met_limit(place, "upload") == 1
    for key, size in sizes.items():
        # The one that was handed over goes on as before, the others stay here.
        ends[key] += [send_part(place, key, uploads[key], 2, KIB)]
        body = payload(size, (key, 1)) + payload(KIB, (key, 2))
        assert place.complete(key, uploads[key], manifest_of(ends[key]), body).acked
        assert place.send("GET", key).body == body
    assert place.send("GET", "t").body == payload(5 * MIB, "t")
    assert place.send("DELETE", "t").status == 204
    place.wait_persisted()
    unpinned(place)


@pytest.mark.parametrize("why", ["away", "silent", "denied"])
def test_a_store_that_refuses_does_not_keep_others_from_making_room(
    tight: Callable[..., Place], tmp_path: Path, why: str
) -> None:
    """The largest idle upload is of a store that does not take it: the next one is."""
    place = tight("WRITE_BACK")
    near = tmp_path / "near"
    near.mkdir()
    place.server.cli("mount", "add", "near", f"file://{near}")
    rules = [(place.bucket, "WRITE_BACK"), ("near/t", "TRANSIENT"), ("near", "WRITE_BACK")]
    document = {
        "apiVersion": "v1.0",
        "pathRules": [
            {"path": f"/{path}/**", "policyMode": mode, "properties": {"writeReplicas": 1}} for path, mode in rules
        ],
    }
    path = place.server.home / "policies.json"
    path.write_text(json.dumps(document))
    place.server.cli("pathconfig", "apply", str(path))
    time.sleep(1.0)
    far = begin(place, "far")
    ends = [send_part(place, "far", far, number, 4 * MIB) for number in (1, 2)]
    s3 = place.s3()
    here = {"Bucket": "near", "Key": "idle"}
    here["UploadId"] = s3.create_multipart_upload(**here)["UploadId"]
    part = s3.upload_part(**here, PartNumber=1, Body=payload(6 * MIB, "near"))
    assert [end.status for end in ends] == [200, 200]
    match why:
        case "denied":
            place.sim.rule("status", operation="CreateMultipartUpload", status=403, code="AccessDenied")
        case "silent":
            place.sim.down("black_hole")
        case _:
            place.sim.down("refuse")
    time.sleep(5.5)  # neither is in use any more
    bucket, place.bucket = place.bucket, "near"
    until = time.monotonic() + 40
    while (put := place.send("PUT", "t/k", payload(5 * MIB, "t"))).status != 200:
        assert (put.status, put.code) == (503, "SlowDown") and time.monotonic() < until, put
        time.sleep(0.3)
    assert place.send("GET", "t/k").body == payload(5 * MIB, "t")
    place.bucket = bucket
    assert met_limit(place, "upload") == 1 and place.server.metric("quickwater_persist_held_failures_total") >= 1
    named = [{"PartNumber": 1, "ETag": part["ETag"]}]
    s3.complete_multipart_upload(**here, MultipartUpload={"Parts": named})
    assert (near / "idle").read_bytes() == payload(6 * MIB, "near")
    # The other is as it was, and goes on when its store does.
    place.sim.up()
    place.sim.clear_rules()
    body = payload(4 * MIB, ("far", 1)) + payload(4 * MIB, ("far", 2))
    assert place.complete("far", far, manifest_of(ends), body).acked
    place.wait_persisted()
    assert place.stored_body("far") == body


def test_an_upload_that_one_store_refuses_gives_way_to_the_next(tight: Callable[..., Place]) -> None:
    """Of one bucket, too: the store takes all keys but that of the largest."""
    place = tight("WRITE_BACK")
    sizes = {"idle/a": 8 * MIB, "idle/b": 6 * MIB}
    uploads = {key: begin(place, key) for key in sizes}
    assert all(send_part(place, key, uploads[key], 1, size).status == 200 for key, size in sizes.items())
    place.sim.rule("status", operation="CreateMultipartUpload", key="*idle/a", status=403, code="AccessDenied")
    place.policy("TRANSIENT", writeReplicas=1)
    time.sleep(5)
    until = time.monotonic() + 40
    while (put := place.send("PUT", "t", payload(5 * MIB, "t"))).status != 200:
        assert (put.status, put.code) == (503, "SlowDown") and time.monotonic() < until, put
        time.sleep(0.3)
    assert [u["Key"].removeprefix(place.prefix) for u in open_in_store(place)] == ["idle/b"]


@pytest.mark.slow
def test_uploads_without_parts_do_not_hide_those_that_make_room(tight: Callable[..., Place]) -> None:
    """More of them than are looked at once: the next look goes on after them."""
    place = tight("WRITE_BACK")
    with ThreadPoolExecutor(8) as clients:
        made = set(clients.map(lambda number: begin(place, f"empty/{number}"), range(LOOKS + 50)))
    assert len(made) == LOOKS + 50
    held_by_parts(place)  # their keys come last
    place.policy("TRANSIENT", writeReplicas=1)
    time.sleep(5)
    # Looks that find nothing are up to a minute apart.
    until = time.monotonic() + 240
    while (put := place.send("PUT", "t", payload(5 * MIB, "t"))).status != 200:
        assert (put.status, put.code) == (503, "SlowDown") and time.monotonic() < until, put
        time.sleep(0.3)
    assert [u["Key"].startswith(place.prefix + "idle/") for u in open_in_store(place)] == [True]
    assert place.send("GET", "t").body == payload(5 * MIB, "t")


def test_uploads_in_use_and_frozen_ones_are_left_alone(tight: Callable[..., Place]) -> None:
    """READ_ONLY: the store hears nothing, however short room is."""
    place = tight("WRITE_BACK")
    uploads = held_by_parts(place)
    rules = [("idle", "READ_ONLY", {}), ("t", "TRANSIENT", {"writeReplicas": 1})]
    document = {
        "apiVersion": "v1.0",
        "pathRules": [
            {"path": f"/{place.bucket}/{path}/**", "policyMode": mode, "properties": properties}
            for path, mode, properties in rules
        ],
    }
    path = place.server.home / "policies.json"
    path.write_text(json.dumps(document))
    place.server.cli("pathconfig", "apply", str(path))
    until = time.monotonic() + 10
    while time.monotonic() < until:
        put = place.send("PUT", "t/k", payload(5 * MIB, "k"))
        assert (put.status, put.code) == (503, "SlowDown"), put
        time.sleep(0.5)
    assert [r.operation for r in place.sim.mutating_requests()] == []
    assert len(uploads) == HELD
