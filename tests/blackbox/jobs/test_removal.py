"""Free and recursive delete of a path: what only we have survives the one, and the other goes
through to the store, whatever happens meanwhile."""

from __future__ import annotations

import time
from typing import Callable

from harness.jobs import (
    ALL_KEYS,
    cli,
    ended,
    free,
    get,
    listed,
    load,
    policies,
    put_many,
    reads,
    remove,
    seed,
    seed_many,
    tally,
    until,
    wait_nothing_pending,
)
from harness.payload import KIB, payload
from harness.under import TTL_SECONDS, Place


def test_what_was_freed_is_read_from_the_store_again(place: Place) -> None:
    bodies = {f"d/{n}": payload(n * 300 * KIB + 10, n) for n in range(5)}
    seed(place, {**bodies, "e": b"beside"})
    load(place, "")
    used = place.server.metric("quickwater_store_used_bytes")
    job = free(place, "/d")
    assert job["state"] == "done"
    assert job["done"] == {"objects": 5, "bytes": sum(map(len, bodies.values()))}
    assert place.server.metric("quickwater_store_used_bytes") < used - 3000 * KIB
    again = free(place, "/d")
    assert again["done"]["objects"] == 0 and again["left"] == {"not_cached": 5}
    before = {key: reads(place, key) for key in bodies}
    for key, body in bodies.items():
        assert get(place, key) == body
        assert reads(place, key) > before[key]
    kept = reads(place, "e")
    assert get(place, "e") == b"beside" and reads(place, "e") == kept


def test_what_only_we_have_survives_a_free(place: Place) -> None:
    policies(place, wb="WRITE_BACK", tr="TRANSIENT")
    clean, dirty, held = (payload(400 * KIB, name) for name in "cdh")
    assert place.put("clean", clean).acked
    place.sim.down("refuse")
    assert place.put("wb/dirty", dirty).acked and place.put("tr/held", held).acked
    job = free(place, "")
    assert job["state"] == "done" and job["left"] == {"only_here": 2}
    assert job["done"] == tally(1, 400 * KIB)
    # A free of everything must not take the UFS to hold it.
    assert get(place, "wb/dirty") == dirty and get(place, "tr/held") == held
    place.server.kill()
    place.server.start()
    assert get(place, "wb/dirty") == dirty and get(place, "tr/held") == held
    place.sim.up()
    # Until no request without an answer may be applied any more.
    wait_nothing_pending(place.server, below=f"/{place.bucket}/wb/")
    assert free(place, "/wb")["done"] == tally(1, 400 * KIB)
    assert get(place, "wb/dirty") == dirty and reads(place, "wb/dirty") > 0
    remove(place, "/tr")


def test_rm_of_one_object(place: Place) -> None:
    seed(place, {"a": b"a", "a/b": b"b"})
    path = f"/{place.bucket}/a"
    assert cli(place.server, "fs", "rm", path) == {"path": path, "deleted": True}
    assert list(place.stored()) == ["a/b"] and listed(place) == ["a/b"]
    assert cli(place.server, "fs", "rm", path) == {"path": path, "deleted": False}
    assert "gone already" in place.server.cli("fs", "rm", path).stdout
    policies(place, _="READ_ONLY")
    refused = place.server.cli("fs", "rm", f"{path}/b", check=False)
    assert refused.returncode == 1 and "READ_ONLY" in refused.stderr
    assert list(place.stored()) == ["a/b"]


def test_rm_r_of_many_keys_through_to_the_store(place: Place) -> None:
    theirs = [f"d/{n:05}" for n in range(ALL_KEYS - 500)]
    ours = [f"d/sub/{n:05}" for n in range(500)]
    seed_many(place, theirs)
    seed(place, {"d": b"x", "d0": b"beside", "c/x": b"beside"})
    put_many(place, ours)
    job = remove(place, "/d")
    assert job["state"] == "done" and job["failed"] == 0 and job["left"] == {}
    assert job["found"] == job["done"] == tally(ALL_KEYS + 1, 1)
    assert sorted(place.stored()) == ["c/x", "d0"] == listed(place)
    again = remove(place, "/d")
    assert again["state"] == "done" and again["found"] == again["done"] == tally(0, 0)
    lines = place.server.cli("fs", "rm", "-r", f"/{place.bucket}/d").stdout
    assert "deleted" in lines and "0 objects" in lines


def test_rm_r_of_many_keys_with_the_store_down(own: Callable[..., Place]) -> None:
    place = own()
    policies(place, _="WRITE_BACK")
    clean = [f"d/clean/{n:05}" for n in range(ALL_KEYS // 2)]
    dirty = [f"d/dirty/{n:05}" for n in range(ALL_KEYS - len(clean))]
    put_many(place, [*clean, "stays"])
    wait_nothing_pending(place.server)
    assert len(place.stored()) == len(clean) + 1
    place.sim.down("refuse")
    put_many(place, dirty)
    # Only what is known here: said, and not called a success.
    begun = remove(place, "/d", "--detach")
    job = ended(place, begun["id"])
    assert job["done"] == job["found"] == tally(ALL_KEYS, 1)
    assert (job["state"], job["unlisted"], job["failed"]) == ("failed", True, 0)
    assert [error["key"] for error in job["errors"]] == [""]
    cli(place.server, "job", "status", str(job["id"]), "--progress", code=1)
    for key in [*clean[::400], *dirty[::400]]:
        assert place.send("GET", key).status == 404
    assert get(place, "stays") == b"x"
    place.sim.up()
    wait_nothing_pending(place.server)
    assert list(place.stored()) == ["stays"] == listed(place)
    assert not any(a.key.startswith(f"{place.prefix}d/dirty/") and a.operation == "PutObject"
                   for a in place.sim.journal()[-100:])
    again = remove(place, "/d")
    assert again["state"] == "done" and again["done"] == tally(0, 0)


def test_a_delete_goes_on_after_kill_9(own: Callable[..., Place]) -> None:
    place = own(jobs_concurrency="4")
    seed_many(place, [f"d/{n:05}" for n in range(800)] + ["stays"])
    place.sim.rule("latency", operation="DeleteObject", delay_s=0.02)
    begun = remove(place, "/d", "--detach")
    assert begun["state"] in ("waiting", "running") and begun["existing"] is False
    until(place, begun["id"], lambda now: now["done"]["objects"] >= 350)
    place.server.kill()
    place.server.start()
    job = ended(place, begun["id"])
    assert job["state"] == "done" and job["failed"] == 0, job
    assert job["found"] == tally(800, 1)
    # What it deleted after its last note before the kill is known to be gone.
    gone = job["left"].get("gone", 0)
    assert job["done"]["objects"] + gone == 800 and 0 < gone <= 300, job
    place.sim.clear_rules()
    assert list(place.stored()) == ["stays"] == listed(place)


def test_what_is_written_after_a_delete_began_stays(own: Callable[..., Place]) -> None:
    place = own(jobs_concurrency="1")
    seed_many(place, [f"d/{n:03}" for n in range(300)])
    place.sim.rule("latency", operation="DeleteObject", delay_s=0.02)
    begun = remove(place, "/d", "--detach")
    until(place, begun["id"], lambda now: now["done"]["objects"] >= 5)
    assert place.put("d/299", b"newer").acked and place.put("d/new", b"new").acked
    job = ended(place, begun["id"])
    assert job["state"] == "done" and job["left"] == {"newer": 2}, job
    place.sim.clear_rules()
    time.sleep(TTL_SECONDS)
    assert listed(place) == ["d/299", "d/new"] == list(place.stored())
    assert get(place, "d/299") == b"newer"


def test_read_only_keys_are_refused_one_by_one(place: Place) -> None:
    seed(place, {"ro/a": b"a", "ro/b": b"b", "rw/a": b"a"})
    policies(place, ro="READ_ONLY")
    refused = place.server.cli("fs", "rm", "-r", f"/{place.bucket}/ro/", check=False)
    assert refused.returncode == 1 and "READ_ONLY" in refused.stderr
    job = remove(place, "", code=1)
    assert (job["state"], job["done"]["objects"], job["failed"]) == ("failed", 1, 2)
    assert sorted(error["key"] for error in job["errors"]) == ["ro/a", "ro/b"]
    assert all("READ_ONLY" in error["message"] for error in job["errors"])
    assert sorted(place.stored()) == ["ro/a", "ro/b"]
    assert place.sim.mutating_requests(place.prefix + "ro/") == []


def test_a_delete_tells_what_failed_and_may_be_done_again(place: Place) -> None:
    seed_many(place, [f"d/{n}" for n in range(20)] + ["d/bad1", "d/bad2"])
    place.sim.rule("status", operation="DeleteObject", key="*bad*", status=403, code="AccessDenied")
    job = remove(place, "/d", code=1)
    assert (job["state"], job["done"]["objects"], job["failed"]) == ("failed", 20, 2)
    assert sorted(error["key"] for error in job["errors"]) == ["d/bad1", "d/bad2"]
    assert listed(place) == ["d/bad1", "d/bad2"] == sorted(place.stored())
    place.sim.clear_rules()
    job = remove(place, "/d")
    assert (job["state"], job["done"]["objects"]) == ("done", 2)
    assert place.stored() == {}


def test_a_delete_survives_a_store_that_fails_now_and_then(place: Place) -> None:
    seed_many(place, [f"d/{n:03}" for n in range(100)])
    each = {"operation": "DeleteObject", "per_key": True}
    place.sim.rule("lose_reply", key="*3", times=1, **each)
    place.sim.rule("status", key="*7", times=2, status=503, code="SlowDown", **each)
    job = remove(place, "/d")
    assert job["state"] == "done" and job["done"]["objects"] == 100, job
    assert place.stored() == {}
