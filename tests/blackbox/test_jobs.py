"""Jobs: load, free and recursive delete of a path, as a user of the command line
sees them, with the store's requests and journal as witness.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from conftest import ServeFactory
from harness.payload import KIB, MIB, payload
from harness.server import Server
from harness.under import STORE_BUCKET, TTL_SECONDS, Place, scaled
from ufssim.client import Sim

from .test_cache import flip_bytes

JOB_SECONDS = 180.0
ALL_KEYS = 2_500
CLIENTS = 8


@pytest.fixture(scope="module")
def front(store: Sim, serve_long: ServeFactory) -> Server:
    return serve_long("jobs", **scaled(store))


@pytest.fixture
def place(front: Server, store: Sim) -> Iterator[Place]:
    """A bucket of its own under the default policy; no rules, an empty journal."""
    store.reset()
    yield Place(front, store)
    store.clear_rules()
    store.up()
    wait_nothing_pending(front)
    store.reset()


@pytest.fixture
def own(store: Sim, serve: ServeFactory) -> Iterator[Callable[..., Place]]:
    """Makes a bucket on a service of its own."""
    store.reset()
    yield lambda **flags: Place(serve("own", **scaled(store, **flags)), store)
    store.clear_rules()
    store.up()
    store.reset()


# -- tools --------------------------------------------------------------------------


def cli(server: Server, *words: str, code: int = 0) -> dict[str, Any]:
    """The JSON answer of an admin verb that ends with this exit code."""
    done = server.cli(*words, "--output", "json", check=False)
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def load(place: Place, path: str, *options: str, code: int = 0) -> dict[str, Any]:
    words = ("--path", f"/{place.bucket}{path}", "--progress")
    return cli(place.server, "job", "load", *words, *options, code=code)


def free(place: Place, path: str, code: int = 0) -> dict[str, Any]:
    words = ("--path", f"/{place.bucket}{path}", "--progress")
    return cli(place.server, "job", "free", *words, code=code)


def remove(place: Place, path: str, *options: str, code: int = 0) -> dict[str, Any]:
    return cli(place.server, "fs", "rm", "-r", f"/{place.bucket}{path}", *options, code=code)


def status(place: Place, job: int) -> dict[str, Any]:
    return cli(place.server, "job", "status", str(job))


def until(place: Place, job: int, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    end = time.monotonic() + JOB_SECONDS
    while not wanted(now := status(place, job)):
        assert time.monotonic() < end, now
        time.sleep(0.1)
    return now


def ended(place: Place, job: int) -> dict[str, Any]:
    return until(place, job, lambda now: now["state"] not in ("waiting", "running"))


def seed(place: Place, bodies: dict[str, bytes]) -> None:
    """Somebody else writes objects into the store."""
    for key, body in bodies.items():
        place.sim.seed(STORE_BUCKET, place.prefix + key, body)


def seed_many(place: Place, keys: list[str]) -> None:
    place.sim.seed_many(STORE_BUCKET, [place.prefix + key for key in keys])


def put_many(place: Place, keys: list[str], body: bytes = b"x") -> None:
    s3 = place.s3()
    with ThreadPoolExecutor(CLIENTS) as pool:
        put = lambda key: s3.put_object(Bucket=place.bucket, Key=key, Body=body)
        for _ in pool.map(put, keys):
            pass


def get(place: Place, key: str) -> bytes:
    body: bytes = place.s3().get_object(Bucket=place.bucket, Key=key)["Body"].read()
    return body


def reads(place: Place, key: str = "") -> int:
    """Object bytes asked of the store: requests for them below a key."""
    seen = place.sim.requests(place.prefix + key)
    return sum(one.operation == "GetObject" for one in seen)


def listed(place: Place, prefix: str = "") -> list[str]:
    pages = place.s3().get_paginator("list_objects_v2").paginate(Bucket=place.bucket, Prefix=prefix)
    return [e["Key"] for page in pages for e in page.get("Contents", [])]


def wait_nothing_pending(server: Server, below: str = "") -> None:
    end = time.monotonic() + JOB_SECONDS
    where = ("--prefix", below) if below else ()
    while (left := cli(server, "async-persist", "list", "--limit", "1", *where))["changes"]:
        assert time.monotonic() < end, left
        time.sleep(0.1)


def policies(place: Place, **modes: str) -> None:
    """Puts folders of the bucket under policies; `_` is the bucket itself."""
    path = lambda name: f"/{place.bucket}/**" if name == "_" else f"/{place.bucket}/{name}/**"
    rules = [{"path": path(name), "policyMode": mode} for name, mode in modes.items()]
    file = place.server.home / "policies.json"
    file.write_text(json.dumps({"apiVersion": "v1.0", "pathRules": rules}))
    place.server.cli("pathconfig", "apply", str(file))
    time.sleep(1.0)  # in force in every shard within a second


def tally(objects: int, each: int) -> dict[str, int]:
    return {"objects": objects, "bytes": objects * each}


# -- load ---------------------------------------------------------------------------


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


# -- the life of a job ----------------------------------------------------------------


def test_stop_list_and_status(own: Callable[..., Place]) -> None:
    place = own(jobs_concurrency="2", jobs_running="1")
    seed_many(place, [f"d/{n:03}" for n in range(300)])
    seed_many(place, [f"e/{n:03}" for n in range(3)])
    place.sim.rule("latency", operation="GetObject", delay_s=0.05)
    first = cli(place.server, "job", "load", "--path", f"/{place.bucket}/d")
    same = cli(place.server, "job", "load", "--path", f"/{place.bucket}/d")
    assert (first["existing"], same["existing"]) == (False, True)
    assert same["id"] == first["id"]
    second = cli(place.server, "job", "load", "--path", f"/{place.bucket}/e")
    until(place, first["id"], lambda now: now["done"]["objects"] >= 10)
    assert status(place, second["id"])["state"] == "waiting", "one runs at a time"
    assert place.server.metric("quickwater_jobs_running") == 1
    begun = time.monotonic()
    cli(place.server, "job", "stop", str(first["id"]))
    job = ended(place, first["id"])
    assert time.monotonic() - begun < 5.0
    assert job["state"] == "stopped" and 10 <= job["done"]["objects"] < 300
    assert ended(place, second["id"])["done"]["objects"] == 3
    shown = place.server.cli("job", "list").stdout.splitlines()
    assert len(shown) == 3 and "stopped" in shown[2] and f"/{place.bucket}/e" in shown[1]
    stopped = cli(place.server, "job", "list", "--state", "stopped")["jobs"]
    assert [one["id"] for one in stopped] == [first["id"]]
    cli(place.server, "job", "status", str(first["id"]), "--progress", code=1)
    cli(place.server, "job", "status", str(second["id"]), "--progress", code=0)


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


def test_wrong_usage_is_told(place: Place) -> None:
    for words, code, text in [
        (("job", "load", "--path", "/nosuchbucket/x"), 1, "no bucket 'nosuchbucket'"),
        (("job", "load", "--path", "/"), 2, "names no bucket"),
        (("job", "status", "999999"), 1, "no job 999999"),
        (("job", "stop", "999999"), 1, "no job 999999"),
        (("fs", "rm", f"/{place.bucket}"), 2, "names no object"),
        (("fs", "rm", "-r", "/nosuchbucket"), 1, "no bucket 'nosuchbucket'"),
        (("fs", "rm", f"/{place.bucket}/x", "--detach"), 2, "--recursive"),
    ]:
        done = place.server.cli(*words, check=False)
        assert (done.returncode, text in done.stderr) == (code, True), f"{words} {done}"


def test_jobs_need_the_admin_token(place: Place, tmp_path: Path) -> None:
    wrong = tmp_path / "token"
    wrong.write_text("0" * 64)
    for words in [
        ("job", "load", "--path", f"/{place.bucket}"),
        ("job", "free", "--path", f"/{place.bucket}"),
        ("job", "list"),
        ("fs", "rm", "-r", f"/{place.bucket}"),
        ("fs", "rm", f"/{place.bucket}/k"),
    ]:
        done = place.server.cli(*words, "--token-file", str(wrong), check=False)
        assert done.returncode == 1 and "token" in done.stderr, f"{words} {done}"


# -- free ---------------------------------------------------------------------------


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


# -- rm -----------------------------------------------------------------------------


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


# -- over a directory -----------------------------------------------------------------


def test_jobs_over_a_directory(serve: ServeFactory) -> None:
    server = serve("posix", flags={"metadata-ttl": "300ms"})
    s3 = server.target().client()
    s3.create_bucket(Bucket="data")
    folder = server.ufs / "data" / "d" / "sub"
    folder.mkdir(parents=True)
    for n in range(20):
        (folder / f"{n:02}").write_bytes(payload(70 * KIB, n))
    words = ("--path", "/data/d", "--progress")
    assert cli(server, "job", "load", *words)["done"] == tally(20, 70 * KIB)
    before = server.metric("quickwater_ufs_read_bytes_total")
    for n in range(20):
        body = s3.get_object(Bucket="data", Key=f"d/sub/{n:02}")["Body"].read()
        assert body == payload(70 * KIB, n)
    assert server.metric("quickwater_ufs_read_bytes_total") == before
    assert cli(server, "job", "free", *words)["done"] == tally(20, 70 * KIB)
    s3.get_object(Bucket="data", Key="d/sub/07")["Body"].read()
    assert server.metric("quickwater_ufs_read_bytes_total") == before + 70 * KIB
    assert cli(server, "fs", "rm", "-r", "/data/d")["done"]["objects"] == 20
    assert not any(path.is_file() for path in folder.rglob("*"))
    assert "Contents" not in s3.list_objects_v2(Bucket="data")
