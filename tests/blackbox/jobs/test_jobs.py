"""What is the same for jobs of every kind: they are listed, stopped and refused."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Callable

from conftest import ServeFactory
from harness.jobs import cli, ended, seed_many, status, tally, until
from harness.payload import KIB, payload
from harness.under import Place


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
