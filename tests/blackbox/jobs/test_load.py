"""Loads of a path, as a user of the command line sees them, with the store's requests as
witness."""

from __future__ import annotations

import time
from typing import Callable

from blackbox.test_cache import flip_bytes
from harness.jobs import cli, ended, free, get, load, policies, reads, seed, seed_many, tally, until
from harness.payload import KIB, MIB, payload
from harness.under import TTL_SECONDS, Place


def test_what_was_loaded_is_read_without_the_store(place: Place) -> None:
    bodies = {f"d/{n}": payload(100 * KIB, n) for n in range(30)}
    bodies |= {"d/large": payload(5 * MIB + 3, "l"), "d/empty": b"", "d": payload(9, "d")}
    seed(place, {**bodies, "d0": b"beside", "e/x": b"beside"})
    job = load(place, "/d")
    assert job["state"] == "done" and job["failed"] == 0 and job["left"] == {}
    wanted = {"objects": len(bodies), "bytes": sum(map(len, bodies.values()))}
    assert job["found"] == job["done"] == wanted
    assert reads(place, "d0") == 0 and reads(place, "e/") == 0, "beside the path"
    before, sent = reads(place), place.server.metric("quickwater_ufs_read_bytes_total")
    assert before > 0
    for key, body in bodies.items():
        assert get(place, key) == body
    assert reads(place) == before
    assert place.server.metric("quickwater_ufs_read_bytes_total") == sent
    # No client got anything from the job.
    assert place.server.metric("quickwater_job_bytes_total") >= wanted["bytes"]


def test_skip_if_exists_and_verify(own: Callable[..., Place]) -> None:
    place = own(metadata_ttl="1h")
    bodies = {f"k{n}": payload(200 * KIB, n) for n in range(10)}
    seed(place, bodies)
    assert get(place, "k3") == bodies["k3"]
    asked = reads(place, "k3")
    job = load(place, "", "--skip-if-exists")
    assert job["done"]["objects"] == 9 and job["left"] == {"cached": 1}
    assert reads(place, "k3") == asked
    again = load(place, "/", "--skip-if-exists")
    assert again["done"]["objects"] == 0 and again["left"] == {"cached": 10}
    before = reads(place)
    for option in ["--skip-if-exists", "--verify"]:
        # Somebody else changes the store: within the TTL a GET does not know.
        old, bodies["k5"] = bodies["k5"], payload(150 * KIB, option)
        seed(place, {"k5": bodies["k5"]})
        assert get(place, "k5") == old
        job = load(place, "", option)
        assert job["state"] == "done" and job["failed"] == 0
        assert reads(place) == (before := before + 1), "only what changed is fetched"
        for key, body in bodies.items():
            assert get(place, key) == body
        assert reads(place) == before


def test_verify_fetches_again_what_is_damaged_on_disk(own: Callable[..., Place]) -> None:
    place = own(metadata_ttl="1h")
    bodies = {f"k{n}": payload(300 * KIB, n) for n in range(4)}
    seed(place, bodies)
    load(place, "")
    assert flip_bytes(place.server, bodies["k2"], [150 * KIB]) == 1
    before = reads(place)
    job = load(place, "", "--verify")
    assert job["state"] == "done" and job["done"]["objects"] == 4
    assert (reads(place), reads(place, "k2")) == (before + 1, 2)
    assert place.server.metric("quickwater_store_damaged_records_total") == 1
    for key, body in bodies.items():
        assert get(place, key) == body
    assert reads(place) == before + 1


def test_nothing_under_no_cache_is_loaded(place: Place) -> None:
    policies(place, nc="NO_CACHE")
    seed(place, {"nc/a": b"a", "nc/b": b"b", "c": b"c"})
    refused = place.server.cli("job", "load", "--path", f"/{place.bucket}/nc/", check=False)
    assert refused.returncode == 1 and "NO_CACHE" in refused.stderr
    job = load(place, "")
    assert job["state"] == "done" and job["left"] == {"no_cache": 2}
    assert job["done"]["objects"] == 1 and reads(place, "nc/") == 0


def test_a_load_tells_what_failed(place: Place) -> None:
    seed(place, {f"d/{n}": payload(50 * KIB, n) for n in range(5)} | {"d/bad": payload(50 * KIB, "b")})
    place.sim.rule("status", operation="GetObject", key="*bad", status=403, code="AccessDenied")
    job = load(place, "/d/", code=1)
    assert job["state"] == "failed"
    assert (job["done"]["objects"], job["failed"]) == (5, 1)
    assert [error["key"] for error in job["errors"]] == ["d/bad"]
    shown = place.server.cli("job", "status", str(job["id"])).stdout
    assert f"/{place.bucket}/d/bad" in shown
    place.sim.clear_rules()
    assert load(place, "/d/", "--skip-if-exists")["done"]["objects"] == 1


def test_a_load_from_a_store_that_is_away_ends(place: Place) -> None:
    seed(place, {"a": b"a"})
    place.sim.down("refuse")
    job = load(place, "", code=1)
    assert job["state"] == "failed" and job["unlisted"]
    assert "cannot be listed" in job["errors"][0]["message"]


def test_a_load_goes_on_after_kill_9(own: Callable[..., Place]) -> None:
    place = own(jobs_concurrency="4", metadata_ttl="1h")
    keys = [f"d/{n:04}" for n in range(700)]
    seed_many(place, keys)
    place.sim.rule("latency", operation="GetObject", delay_s=0.02)
    begun = cli(place.server, "job", "load", "--path", f"/{place.bucket}/d")
    until(place, begun["id"], lambda now: now["done"]["objects"] >= 350)
    place.server.kill()
    place.server.start()
    job = ended(place, begun["id"])
    assert job["state"] == "done", job
    assert job["found"] == job["done"] == tally(700, 1)
    before = reads(place)
    assert before < 700 + 300, "it began anew"
    for key in keys[::50]:
        assert get(place, key) == b"x"
    assert reads(place) == before
    listed_jobs = cli(place.server, "job", "list")["jobs"]
    assert [(one["id"], one["state"]) for one in listed_jobs] == [(begun["id"], "done")]


def test_progress_is_told_in_lines_where_there_is_no_terminal(own: Callable[..., Place]) -> None:
    place = own(jobs_concurrency="1")
    seed_many(place, [f"d/{n:03}" for n in range(30)])
    place.sim.rule("latency", operation="GetObject", delay_s=0.1)
    done = place.server.cli("job", "load", "--path", f"/{place.bucket}/d", "--progress")
    assert "/30 objects" in done.stderr and "\r" not in done.stderr, done.stderr
    assert "loaded" in done.stdout and "30 objects (30 B)" in done.stdout


def test_a_load_of_a_path_where_nothing_is_says_so(place: Place) -> None:
    """A mistyped path must not look like a job well done."""
    load(place, "")  # an empty bucket is no mistake
    seed(place, {"d/k": b"x"})
    time.sleep(TTL_SECONDS)
    for path in ("/nosuch", "/d/nosuch", "/d/k/", "/nosuch/"):
        told = place.server.cli("job", "load", "--path", f"/{place.bucket}{path}", "--progress", check=False)
        assert told.returncode == 1 and "nothing is there" in told.stdout, f"{path} {told}"
        job = load(place, path, code=1)
        assert (job["state"], job["found"]) == ("done", {"objects": 0, "bytes": 0}), job
        status = place.server.cli("job", "status", str(job["id"]))
        assert "nothing is there" in status.stdout, status
    for path in ("/d", "/d/", "/d/k", ""):
        assert load(place, path)["found"]["objects"] == 1
    free(place, "/nosuch")  # asks nobody what is there: to free nothing is no mistake
