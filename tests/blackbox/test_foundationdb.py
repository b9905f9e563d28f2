"""Metadata in FoundationDB: the service over the test library and its server.

Skipped, with the reason, where these are not built: see `harness.metadata`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Callable, Iterator

import pytest

from conftest import ServeFactory
from harness import metadata
from harness.freeze import freeze
from harness.payload import KIB, payload
from harness.raw import BROKEN, Request, send
from harness.server import Server
from harness.target import error_of

START_SECONDS = 20
END_SECONDS = 60
FAULTS = f"{metadata.plan(11)} page_rows=7"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[metadata.Cluster]:
    """A test server that outlives the services."""
    if not metadata.built(metadata.SERVER) or not metadata.library():
        pytest.skip(f"not built: {metadata.SERVER} and libfdb_c.so")
    made = metadata.Cluster(tmp_path)
    yield made
    made.close()


@pytest.fixture
def flags(cluster: metadata.Cluster) -> dict[str, str]:
    return cluster.flags()


@pytest.fixture
def start(serve: ServeFactory, flags: dict[str, str]) -> Callable[..., Server]:
    return lambda name="front", **more: serve(name, flags=flags, **more)


def put_policy(server: Server, mode: str) -> None:
    rule = {"path": "/data/**", "policyMode": mode}
    path = server.home / "policies.json"
    path.write_text(json.dumps({"apiVersion": "v1.0", "pathRules": [rule]}))
    server.cli("pathconfig", "apply", str(path))
    time.sleep(1.0)  # in force in every shard within a second


def test_objects_survive_restarts_and_kills(start: Callable[..., Server]) -> None:
    server = start()
    put_policy(server, "TRANSIENT")
    client = server.target().client()
    client.create_bucket(Bucket="data")
    bodies = {f"dir/{n:03}": payload(4 * KIB, seed=n) for n in range(60)}
    for key, body in bodies.items():
        client.put_object(Bucket="data", Key=key, Body=body)
    client.delete_object(Bucket="data", Key="dir/000")
    del bodies["dir/000"]
    assert server.metric("quickwater_metadata_commits_total") >= 61

    for end in (server.stop, server.kill):
        end()
        server.start()
        client = server.target().client()
        listed = client.list_objects_v2(Bucket="data")["Contents"]
        assert [entry["Key"] for entry in listed] == sorted(bodies)
        for key, body in bodies.items():
            assert client.get_object(Bucket="data", Key=key)["Body"].read() == body
    assert error_of(client.head_object, Bucket="data", Key="dir/000")[0] == 404
    assert not (server.dir / "metadata").exists(), "nothing of the metadata lies here"


def test_a_second_service_is_refused(start: Callable[..., Server], tmp_path: Path, flags: dict[str, str]) -> None:
    first = start()
    second = Server(tmp_path / "second", flags=flags)
    process = second.launch()
    assert process.wait(START_SECONDS) != 0
    assert "the metadata in FoundationDB is in use by" in second.log()
    assert first.http_status("/readyz") == 200
    # Another prefix is another store.
    other = Server(tmp_path / "other", flags={**flags, "fdb-key-prefix": "other/"})
    other.start()
    assert other.stop() == 0
    assert first.stop() == 0
    second.start()
    assert second.stop() == 0


def test_a_service_that_slept_through_a_takeover_changes_nothing(
    start: Callable[..., Server], tmp_path: Path
) -> None:
    """Frozen with a PUT on its way in; when it wakes up, the metadata is another's."""
    first = start()
    put_policy(first, "TRANSIENT")
    client = first.target().client()
    client.create_bucket(Bucket="data")
    client.put_object(Bucket="data", Key="k", Body=b"first")
    freeze(first.pid)
    ended: list[int] = []
    late = threading.Thread(target=lambda: ended.append(put_status(first, "late")))
    late.start()
    second = start("second")  # once the beat has stood still
    client = second.target().client()
    client.put_object(Bucket="data", Key="k", Body=b"second")
    os.kill(first.pid, signal.SIGCONT)
    assert first.process is not None and first.process.wait(END_SECONDS) == 1
    assert "another process has the metadata now" in first.log()
    late.join(END_SECONDS)
    assert not late.is_alive() and ended[0] in (0, 503), ended
    assert error_of(client.head_object, Bucket="data", Key="late")[0] == 404
    assert client.get_object(Bucket="data", Key="k")["Body"].read() == b"second"
    # And it stays out: the metadata has an owner who lives.
    assert first.launch().wait(END_SECONDS) != 0
    assert "is in use by" in first.log()
    assert second.stop() == 0


def put_status(server: Server, key: str) -> int:
    """How a PUT ends; 0 without an answer."""
    try:
        return send(server.target(), Request("PUT", f"/data/{key}", body=b"late")).status
    except BROKEN:
        return 0


def test_requests_with_faults_of_the_cluster(start: Callable[..., Server]) -> None:
    server = start(env={"FDB_TEST_FAULTS": FAULTS})
    client = server.target().client()
    client.create_bucket(Bucket="data")
    kept: dict[str, bytes] = {}
    for n in range(300):
        key, body = f"k{n % 40}", payload(2 * KIB, seed=n)
        if n % 7 == 6:
            client.delete_object(Bucket="data", Key=key)
            kept.pop(key, None)
        else:
            client.put_object(Bucket="data", Key=key, Body=body)
            kept[key] = body
        if n % 20 == 0:
            listed = client.list_objects_v2(Bucket="data").get("Contents", [])
            assert {entry["Key"] for entry in listed} == set(kept)
    for key, body in kept.items():
        assert client.get_object(Bucket="data", Key=key)["Body"].read() == body
    assert server.metric("quickwater_metadata_commits_total") >= 250
    assert server.metric("quickwater_metadata_failures_total") > 10, "faults there were"
    assert server.stop() == 0


def test_a_process_that_dies_around_a_commit(start: Callable[..., Server]) -> None:
    """Killed before or after a commit is applied, again and again: what was acked is there."""
    server = start(env={"FDB_TEST_FAULTS": ""})
    put_policy(server, "TRANSIENT")
    server.target().client().create_bucket(Bucket="data")
    acked: dict[str, bytes] = {}
    for round_number, plan in enumerate(["crash_before=9", "crash_after=9", "crash_after=14"]):
        assert server.stop() == 0
        server.env["FDB_TEST_FAULTS"] = plan
        server.start()
        client = server.target().client()
        maybe = ""
        for n in range(60):
            maybe = f"r{round_number}/{n:02}"
            body = payload(2 * KIB, seed=maybe)
            try:
                client.put_object(Bucket="data", Key=maybe, Body=body)
            except Exception:
                break
            acked[maybe] = body
        assert server.process is not None and server.process.wait(START_SECONDS) == -6
        server.env["FDB_TEST_FAULTS"] = ""
        server.start()
        client = server.target().client()
        listed = {e["Key"] for e in client.list_objects_v2(Bucket="data").get("Contents", [])}
        assert set(acked) <= listed <= set(acked) | {maybe}
        for key in listed:
            body = client.get_object(Bucket="data", Key=key)["Body"].read()
            assert body == payload(2 * KIB, seed=key)
            acked[key] = body


def test_what_is_missing_is_named(serve: ServeFactory, tmp_path: Path, flags: dict[str, str]) -> None:
    cases = [
        ("fdb-client-library", "/nonexistent/libfdb_c.so"),
        ("fdb-client-library", "libc.so.6"),
        ("fdb-cluster-file", "/nonexistent/fdb.cluster"),
    ]
    for number, (flag, value) in enumerate(cases):
        server = Server(tmp_path / f"refused-{number}", flags={**flags, flag: value})
        assert server.launch().wait(START_SECONDS) not in (0, 101, -6)
        assert value in server.log(), server.log()


def test_metadata_moves_between_engines(serve: ServeFactory, flags: dict[str, str], tmp_path: Path) -> None:
    """fjall -> FoundationDB -> redb; what only the metadata knows is still there."""
    server = serve("moving", flags={"metadata-engine": "fjall"})
    put_policy(server, "TRANSIENT")
    client = server.target().client()
    client.create_bucket(Bucket="data")
    for n in range(30):
        client.put_object(Bucket="data", Key=f"k{n:02}", Body=payload(KIB, seed=n))

    def move(action: str, file: Path) -> subprocess.CompletedProcess[str]:
        words = [w for w in server.command()[2:] if w.startswith("--") and "=" in w]
        words = [str(server.program), "metadata", action, str(file), f"--dir={server.dir}", *words]
        return subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
        )

    running = move("export", tmp_path / "running")
    assert running.returncode == 1 and "in use" in running.stderr
    base = dict(server.flags)
    for number, engine in enumerate([flags, {"metadata-engine": "redb"}]):
        assert server.stop() == 0
        file = tmp_path / f"export-{number}"
        done = move("export", file)
        assert done.returncode == 0, done.stderr
        server.flags = {**base, **engine}
        if (server.dir / "metadata").exists():
            (server.dir / "metadata").rename(server.dir / f"metadata-{number}")
        done = move("import", file)
        assert done.returncode == 0 and "imported" in done.stdout, done.stderr
        again = move("import", file)
        assert again.returncode == 1 and "not empty" in again.stderr
        server.start()
        client = server.target().client()
        for n in range(30):
            body = client.get_object(Bucket="data", Key=f"k{n:02}")["Body"].read()
            assert body == payload(KIB, seed=n)
        client.put_object(Bucket="data", Key="k00", Body=payload(KIB, seed=0))


def test_doctor_looks_at_the_cluster(tmp_path: Path, flags: dict[str, str]) -> None:
    def doctor(**more: str) -> dict[str, str]:
        server = Server(tmp_path / "doctor", flags={**flags, **more})
        words = [word for word in server.command()[2:] if word.startswith("--")]
        words = [f"--dir={server.dir}", *[w for w in words if "=" in w]]
        done = subprocess.run(
            [str(server.program), "doctor", *words, "--output", "json"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        )
        checks = json.loads(done.stdout)["checks"]
        return next(check for check in checks if check["name"] == "foundationdb")

    assert doctor()["verdict"] in ("ok", "warn")
    missing = doctor(**{"fdb-client-library": "/nonexistent/libfdb_c.so"})
    assert missing["verdict"] == "fail" and "--fdb-client-library" in missing["advice"]
