"""What workers do for all together: one fetch of what many want, one search for what
nobody completes, one answer of a job."""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import pytest

from harness.anywhere import NODES, Anywhere, answers, series, three
from harness.cluster import PATIENCE_SECONDS, Cluster
from harness.payload import MIB, payload
from harness.raw import Request, connect, head_bytes, sign
from harness.target import Target
from harness.under import STORE_BUCKET, scaled
from ufssim.client import Sim


# The long form: 1,000 readers of each worker, an object of 1 GiB.
READERS = int(os.environ.get("QW_COLD_READERS", "96"))
COLD_MIB = int(os.environ.get("QW_COLD_MIB", "64"))
# Readers of the whole object; the others read a piece.
WHOLE = 12
PIECE = 2 * MIB
READ_SECONDS = 300.0
BUSY = "told to slow down"


def over_store(home: Path, store: Sim, **flags: str) -> Iterator[Cluster]:
    """Three workers over the store simulator."""
    with three(home, "10m", **scaled(store, **flags)) as made:
        yield made


@pytest.fixture
def cluster(tmp_path: Path, store: Sim) -> Iterator[Cluster]:
    """As settings are, but for the patience with the store."""
    store.reset()
    patient = {
        "ufs_timeout_connect": "60s", "ufs_timeout_idle": "120s", "ufs_timeout_request": "120s",
        "metadata_ttl": "10m",
    }
    if READERS > 500:
        patient["memory"] = "3GiB"
    yield from over_store(tmp_path / "shared", store, **patient)


@pytest.fixture
def sweeping(tmp_path: Path, store: Sim) -> Iterator[Cluster]:
    """Uploads that nobody goes on with for two seconds are abandoned."""
    store.reset()
    often = {"write_cache_orphan_timeout": "2s", "write_cache_orphan_period": "300ms"}
    yield from over_store(tmp_path / "sweeping", store, **often)


def read(target: Target, path: str, wanted: range, content: memoryview) -> str:
    """Reads a range, comparing as it comes; what is wrong with it. Who has no buffer for so
    many at a time says so, and is asked again."""
    end = time.monotonic() + READ_SECONDS
    while (wrong := read_once(target, path, wanted, content)) == BUSY and time.monotonic() < end:
        time.sleep(0.5)
    return wrong


def read_once(target: Target, path: str, wanted: range, content: memoryview) -> str:
    """One request."""
    span = f"bytes={wanted.start}-{wanted.stop - 1}"
    request = Request("GET", path, headers=[("Range", span)])
    with connect(target) as connection:
        connection.sendall(head_bytes(request, sign(target, request)))
        with connection.makefile("rb", buffering=MIB) as stream:
            status = stream.readline()
            while stream.readline().strip():
                pass
            if b" 503 " in status:
                return BUSY
            if b" 206 " not in status:
                return f"{status!r}"
            at = wanted.start
            while at < wanted.stop:
                got = stream.read1(min(MIB, wanted.stop - at))
                if not got or content[at : at + len(got)] != got:
                    return f"{len(got)} bytes at {at} of {wanted}"
                at += len(got)
    return ""


def test_one_fetch_of_what_many_readers_of_all_workers_want(cluster: Cluster, store: Sim) -> None:
    s3 = cluster.worker("n1").target().client()
    s3.create_bucket(Bucket="abc")
    whole = b"".join(payload(MIB, number) for number in range(COLD_MIB))
    content = memoryview(whole)
    store.seed(STORE_BUCKET, "root/abc/cold", whole)
    targets = [cluster.worker(node).target() for node in NODES]
    chance, wrong = random.Random(5), list[str]()
    begin = threading.Barrier(READERS)

    def reader(number: int, wanted: range) -> None:
        begin.wait(PATIENCE_SECONDS)
        try:
            if text := read(targets[number % len(targets)], "/abc/cold", wanted, content):
                wrong.append(text)
        except OSError as error:
            wrong.append(repr(error))

    threads = []
    for number in range(READERS):
        first = chance.randrange(0, len(whole) - PIECE)
        wanted = range(len(whole)) if number < WHOLE else range(first, first + PIECE)
        threads.append(threading.Thread(target=reader, args=(number, wanted)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, f"{wrong[:5]}\n{cluster.logs()}"
    fetched = [0] * COLD_MIB
    for request in store.requests("root/abc/cold"):
        if request.operation != "GetObject":
            continue
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", request.range)
        assert span, request
        for chunk in range(int(span[1]) // MIB, int(span[2]) // MIB + 1):
            fetched[chunk] += 1
    assert fetched == [1] * COLD_MIB, fetched
    assert series(cluster, "quickwater_cache_fills_total", 'outcome="ok"') == COLD_MIB


def open_uploads(store: Sim) -> list[Any]:
    """What the store has open."""
    s3 = store.target().client()
    return list(s3.list_multipart_uploads(Bucket=STORE_BUCKET).get("Uploads", []))


@pytest.mark.parametrize("policy", ["WRITE_THROUGH", "WRITE_BACK"])
def test_every_owner_sweeps_what_nobody_completes(sweeping: Cluster, store: Sim, policy: str) -> None:
    s3 = Anywhere(sweeping, 7)
    s3.create_bucket(Bucket="abc")
    if policy == "WRITE_BACK":
        sweeping.policy_of_all(policy)
    sizes = {}
    for number in range(24):
        named = {"Bucket": "abc", "Key": f"dir{number % 5}/k{number}"}
        named["UploadId"] = s3.create_multipart_upload(**named)["UploadId"]
        sizes[number] = 1000 + number
        s3.upload_part(**named, PartNumber=1, Body=bytes(sizes[number]))
    sweeping.wait_for(lambda: "Uploads" not in s3.list_multipart_uploads(Bucket="abc"))
    sweeping.wait_for(lambda: not open_uploads(store))
    swept = series(sweeping, "quickwater_swept_uploads_total", 'where="here"')
    assert swept == 24, "each once"
    parts = [sweeping.worker(node).metric("quickwater_swept_bytes_total") for node in NODES]
    assert sum(bytes_ > 0 for bytes_ in parts) > 1, "by one worker only"
    assert sum(parts) == sum(sizes.values())
    assert answers(sweeping, "503") == 0


def job(cluster: Cluster, *words: str, code: int = 0) -> dict[str, Any]:
    """What a job came to."""
    done = cluster.cli(*words, "--output", "json")
    assert done.returncode == code, f"{done}\n{cluster.logs()}"
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_jobs_over_the_keys_of_all_workers(cluster: Cluster, store: Sim) -> None:
    s3 = Anywhere(cluster, 9)
    s3.create_bucket(Bucket="abc")
    bodies = {f"d/{number % 4}/k{number:02}": payload(3000 + number, number) for number in range(60)}
    for key, body in bodies.items():
        store.seed(STORE_BUCKET, f"root/abc/{key}", body)
    # The path itself is a key, too, whoever owns it.
    store.seed(STORE_BUCKET, "root/abc/d", b"the path itself")
    bodies["d"] = b"the path itself"
    loaded = job(cluster, "job", "load", "--path", "/abc/d", "--progress")
    assert (loaded["state"], loaded["failed"]) == ("done", 0), loaded
    assert loaded["found"]["objects"] == loaded["done"]["objects"] == 61
    for key, body in bodies.items():
        got = s3.get_object(Bucket="abc", Key=key)
        assert got["Body"].read() == body
        assert got["ResponseMetadata"]["HTTPHeaders"]["x-quickwater-cache"] == "hit"
    again = job(cluster, "job", "load", "--path", "/abc/d", "--verify", "--progress")
    assert (again["state"], again["done"]["objects"]) == ("done", 61)
    # What the UFS does not have yet is deleted as well as what it has.
    clients = [cluster.worker(node).target().client() for node in NODES]
    cluster.policy_of_all("WRITE_BACK")
    store.down()
    for number in range(30):
        s3.put_object(Bucket="abc", Key=f"d/new{number}", Body=b"dirty")
    store.up()
    removed = job(cluster, "fs", "rm", "-r", "/abc/d")
    assert (removed["state"], removed["failed"]) == ("done", 0), removed
    assert removed["done"]["objects"] == 61 + 30
    for client in clients:
        assert "Contents" not in client.list_objects_v2(Bucket="abc", Prefix="d")
    waited = cluster.cli("async-persist", "wait", "--path", "/abc", "--timeout", "2m")
    assert waited.returncode == 0, waited
    assert [key for key in store.objects(STORE_BUCKET, "root/abc/") if key.startswith("d")] == []


def test_a_job_that_cannot_see_everything_says_so(cluster: Cluster, store: Sim) -> None:
    s3 = Anywhere(cluster, 11)
    s3.create_bucket(Bucket="abc")
    store.seed_many(STORE_BUCKET, [f"root/abc/k{number}" for number in range(40)])
    cluster.worker("n3").kill()
    loaded = job(cluster, "job", "load", "--path", "/abc", "--progress", code=1)
    assert loaded["state"] == "failed" and loaded["errors"], loaded
    cluster.worker("n3")
    cluster.settle(NODES)
    loaded = job(cluster, "job", "load", "--path", "/abc", "--progress")
    assert loaded["done"]["objects"] == 40
