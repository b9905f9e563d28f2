"""Large objects lie in stripes on all workers: fetched once, read through any worker, never
mixed of two versions, and read without a worker that is dead."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Iterator

import pytest

from harness.cluster import PATIENCE_SECONDS, Cluster
from harness.payload import KIB, MIB, payload
from harness.raw import BROKEN, Request, send
from harness.target import error_of

NODES = ["n1", "n2", "n3"]
BUCKET = "abc"
STRIPE = MIB


def made(home: Path, lease: str, more: dict[str, str] | None = None) -> Cluster:
    """Three workers with stripes of 1 MiB, and a bucket that all know."""
    flags = {"stripe-size": "1MiB", **(more or {})}
    cluster = Cluster(home, lease, NODES, flags=flags)
    try:
        for node in NODES:
            cluster.worker(node)
        cluster.settle(NODES)
        clients(cluster)["n1"].create_bucket(Bucket=BUCKET)
        for s3 in clients(cluster).values():
            s3.list_objects_v2(Bucket=BUCKET)
    except BaseException:
        cluster.close()
        raise
    return cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Workers that stay."""
    cluster = made(tmp_path_factory.mktemp("stripes"), "60s")
    try:
        yield cluster
    finally:
        cluster.close()


def clients(cluster: Cluster) -> dict[str, Any]:
    """One for each worker that runs."""
    running = {node: server for node, server in cluster.workers.items() if server.alive()}
    return {node: server.target().client() for node, server in running.items()}


def of(cluster: Cluster, node: str, series: str) -> int:
    """One series of a worker."""
    for line in cluster.worker(node).metrics_text().splitlines():
        if line.startswith(series + " "):
            return int(float(line.rsplit(" ", 1)[1]))
    raise AssertionError(f"no {series}")


class Counts:
    """How often workers did something since."""

    def __init__(self, cluster: Cluster, series: str) -> None:
        self.cluster, self.series = cluster, series
        self.before = self.now()

    def now(self) -> dict[str, int]:
        """By worker."""
        nodes = [node for node in NODES if self.cluster.worker(node, start=False).alive()]
        return {node: of(self.cluster, node, self.series) for node in nodes}

    def since(self) -> dict[str, int]:
        """By worker."""
        return {node: now - self.before[node] for node, now in self.now().items()}

    def sum(self) -> int:
        """Over all workers."""
        return sum(self.since().values())


def fills(cluster: Cluster, outcome: str = "ok") -> Counts:
    """Chunks fetched from the UFS."""
    return Counts(cluster, f'quickwater_cache_fills_total{{outcome="{outcome}"}}')


def pieces(cluster: Cluster, outcome: str) -> Counts:
    """Pieces that workers asked each other for."""
    return Counts(cluster, f'quickwater_stripe_pieces_total{{outcome="{outcome}"}}')


def in_ufs(cluster: Cluster, key: str, body: bytes) -> None:
    """An object that somebody else stores in the UFS."""
    path = cluster.home / "ufs" / BUCKET / key
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(body)
    os.replace(fresh, path)


def cache_of(answer: dict[str, Any]) -> str:
    """Where an answer's bytes came from."""
    return str(answer["ResponseMetadata"]["HTTPHeaders"]["x-quickwater-cache"])


def job(cluster: Cluster, *words: str) -> dict[str, Any]:
    """A job that ends well."""
    done = cluster.cli("job", *words, "--progress", "--output", "json")
    assert done.returncode == 0, f"{done}\n{cluster.logs()}"
    ended: dict[str, Any] = json.loads(done.stdout)
    assert ended["state"] == "done" and ended["failed"] == 0, ended
    return ended


def test_a_cold_object_is_fetched_once_by_all_workers_together(cluster: Cluster) -> None:
    body = payload(36 * STRIPE + 77, "cold")
    in_ufs(cluster, "cold", body)
    fetched, given = fills(cluster), pieces(cluster, "given")
    unwanted = [fills(cluster, "failed"), fills(cluster, "uncached"), pieces(cluster, "instead")]
    everyone = list(clients(cluster).values())

    def read(number: int) -> None:
        got = everyone[number % len(everyone)].get_object(Bucket=BUCKET, Key="cold")
        assert got["Body"].read() == body

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(read, range(12)))
    chunks = 37
    each = fetched.since()
    assert sum(each.values()) == chunks, each
    # Placement draws lots for each stripe.
    assert all(chunks // 6 <= count <= chunks * 2 // 3 for count in each.values()), each
    assert [counts.sum() for counts in unwanted] == [0, 0, 0], cluster.logs()
    assert given.sum() > 0
    for s3 in everyone:
        again = s3.get_object(Bucket=BUCKET, Key="cold")
        assert cache_of(again) == "hit" and again["Body"].read() == body
    assert fetched.sum() == chunks


def test_a_range_touches_the_stripes_it_needs(cluster: Cluster) -> None:
    body = payload(12 * STRIPE + 5, "ranges")
    in_ufs(cluster, "ranges", body)
    fetched = fills(cluster)
    everyone = list(clients(cluster).values())
    expected = 0
    for first, last, chunks in [
        (5 * STRIPE + 7, 5 * STRIPE + 17, 1),
        (2 * STRIPE - 3, 2 * STRIPE + 3, 2),
        (12 * STRIPE, 12 * STRIPE + 4, 1),
        (0, 0, 1),
    ]:
        expected += chunks
        for turn, s3 in enumerate(everyone):
            got = s3.get_object(Bucket=BUCKET, Key="ranges", Range=f"bytes={first}-{last}")
            assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
            assert got["Body"].read() == body[first : last + 1]
            assert cache_of(got) == ("miss" if turn == 0 else "hit")
            assert fetched.sum() == expected
    whole = everyone[0].get_object(Bucket=BUCKET, Key="ranges")
    assert cache_of(whole) == "partial" and whole["Body"].read() == body
    assert fetched.sum() == 13
    for s3 in everyone:
        etag = s3.head_object(Bucket=BUCKET, Key="ranges")["ETag"]
        same = {"Bucket": BUCKET, "Key": "ranges"}
        assert error_of(s3.get_object, **same, IfNoneMatch=etag)[0] == 304
        assert error_of(s3.get_object, **same, IfMatch='"other"')[0] == 412
        assert error_of(s3.get_object, **same, Range="bytes=99999999-")[0] == 416


def test_what_was_written_is_taken_over_from_its_owner(cluster: Cluster) -> None:
    everyone = list(clients(cluster).values())
    fetched = fills(cluster)
    pulled = Counts(cluster, "quickwater_stripe_pulled_total")
    for number in range(3):
        body = payload(9 * STRIPE + number, f"written {number}")
        everyone[number].put_object(Bucket=BUCKET, Key=f"written{number}", Body=body)
        for s3 in everyone:
            got = s3.get_object(Bucket=BUCKET, Key=f"written{number}")
            assert cache_of(got) == "hit" and got["Body"].read() == body
    assert fetched.sum() == 0 and pulled.sum() > 0


def test_parts_of_odd_sizes_and_copies(cluster: Cluster) -> None:
    everyone = list(clients(cluster).values())
    parts = [payload(5 * MIB + 11, "a"), payload(5 * MIB + 999, "b"), payload(77, "c")]
    place = {"Bucket": BUCKET, "Key": "parts"}
    upload = everyone[0].create_multipart_upload(**place)["UploadId"]
    done = []
    for number, part in enumerate(parts, 1):
        s3 = everyone[number % 3]
        put = s3.upload_part(**place, UploadId=upload, PartNumber=number, Body=part)
        done.append({"PartNumber": number, "ETag": put["ETag"]})
    everyone[1].complete_multipart_upload(
        **place, UploadId=upload, MultipartUpload={"Parts": done}
    )
    body = b"".join(parts)
    job(cluster, "free", "--path", f"/{BUCKET}/parts")
    first, last = 5 * MIB, 6 * MIB + 40
    for s3 in everyone:
        assert s3.get_object(**place)["Body"].read() == body
        got = s3.get_object(**place, Range=f"bytes={first}-{last}")
        assert got["Body"].read() == body[first : last + 1]
        assert s3.get_object(**place, PartNumber=2)["Body"].read() == parts[1]
    for number, s3 in enumerate(everyone):
        source = {"Bucket": BUCKET, "Key": "parts"}
        s3.copy_object(Bucket=BUCKET, Key=f"copy{number}", CopySource=source)
        assert everyone[0].get_object(Bucket=BUCKET, Key=f"copy{number}")["Body"].read() == body


def test_load_spreads_and_free_frees_all(cluster: Cluster) -> None:
    bodies = {f"jobs/{number}": payload(7 * STRIPE + number, number) for number in range(4)}
    (cluster.home / "ufs" / BUCKET / "jobs").mkdir(exist_ok=True)
    for key, body in bodies.items():
        in_ufs(cluster, key, body)
    total = sum(len(body) for body in bodies.values())
    fetched, records = fills(cluster), Counts(cluster, "quickwater_store_records")
    loaded = job(cluster, "load", "--path", f"/{BUCKET}/jobs")
    assert loaded["done"] == {"objects": 4, "bytes": total}, loaded
    # One MiB each, and what is left over of each.
    chunks = 7 * 4 + 3
    each = fetched.since()
    assert sum(each.values()) == chunks and all(count > 0 for count in each.values()), each
    everyone = list(clients(cluster).values())
    for s3 in everyone:
        for key, body in bodies.items():
            got = s3.get_object(Bucket=BUCKET, Key=key)
            assert cache_of(got) == "hit" and got["Body"].read() == body
    assert fetched.sum() == chunks
    again = job(cluster, "load", "--path", f"/{BUCKET}/jobs", "--verify")
    assert again["done"] == {"objects": 4, "bytes": total} and fetched.sum() == chunks
    skipped = job(cluster, "load", "--path", f"/{BUCKET}/jobs", "--skip-if-exists")
    assert skipped["left"] == {"cached": 4}, skipped
    freed = job(cluster, "free", "--path", f"/{BUCKET}/jobs")
    assert freed["done"] == {"objects": 4, "bytes": total}, freed
    assert all(count <= 0 for count in records.since().values()), records.since()
    for key, body in bodies.items():
        got = everyone[0].get_object(Bucket=BUCKET, Key=key)
        assert cache_of(got) == "miss" and got["Body"].read() == body
    assert fetched.sum() == 2 * chunks


def test_one_body_is_of_one_version(cluster: Cluster) -> None:
    everyone = list(clients(cluster).values())
    for number in range(3):
        key = f"versions{number}"
        place = {"Bucket": BUCKET, "Key": key}
        old, new = (payload(18 * STRIPE + 9, f"{key} {turn}") for turn in "ab")
        if number % 2:
            in_ufs(cluster, key, old)
        else:
            everyone[0].put_object(**place, Body=old)
        reader, writer = everyone[number % 3], everyone[(number + 1) % 3]
        stream = reader.get_object(**place)["Body"]
        taken = stream.read(STRIPE + 5)
        writer.put_object(**place, Body=new)
        for s3 in everyone:
            assert s3.get_object(**place)["Body"].read() == new
        try:
            taken += stream.read()
        except BROKEN:
            pass
        except Exception as error:  # botocore wraps what urllib3 raises
            assert "IncompleteRead" in repr(error) or "Connection" in repr(error), error
        assert taken == old[: len(taken)]


def test_a_change_in_the_ufs_is_seen_by_who_fetches(cluster: Cluster) -> None:
    everyone = list(clients(cluster).values())
    for number, s3 in enumerate(everyone):
        key = f"changed{number}"
        place = {"Bucket": BUCKET, "Key": key}
        in_ufs(cluster, key, payload(6 * STRIPE, f"{key} old"))
        for other in everyone:
            assert other.head_object(**place)["ContentLength"] == 6 * STRIPE
        body = payload(5 * STRIPE + 3, f"{key} new")
        in_ufs(cluster, key, body)
        # Nothing of the old one is cached: the first fetch finds another object.
        got = s3.get_object(**place)
        assert got["ContentLength"] == len(body) and got["Body"].read() == body


def test_what_the_ufs_does_not_have_lies_with_its_holder(cluster: Cluster) -> None:
    given = pieces(cluster, "given")
    done = cluster.home / "rules.json"
    rule = {"path": f"/{BUCKET}/scratch/**", "policyMode": "TRANSIENT"}
    uncached = {"path": f"/{BUCKET}/uncached/**", "policyMode": "NO_CACHE"}
    rules = {
        "apiVersion": "v1.0",
        "defaultRule": {"policyMode": "WRITE_THROUGH"},
        "pathRules": [rule, uncached],
    }
    done.write_text(json.dumps(rules))
    assert cluster.cli("pathconfig", "apply", str(done)).returncode == 0
    everyone = list(clients(cluster).values())
    end = time.monotonic() + PATIENCE_SECONDS
    for s3 in everyone:
        for number in range(20):
            key = {"Bucket": BUCKET, "Key": f"scratch/{number}"}
            while "x-quickwater-durability" not in (
                put := s3.put_object(**key, Body=b"?")["ResponseMetadata"]["HTTPHeaders"]
            ) or not put["x-quickwater-durability"].startswith("local"):
                assert time.monotonic() < end, cluster.logs()
    body = payload(6 * STRIPE + 1, "transient")
    everyone[0].put_object(Bucket=BUCKET, Key="scratch/large", Body=body)
    records = Counts(cluster, "quickwater_store_records")
    everyone[1].put_object(Bucket=BUCKET, Key="uncached/large", Body=body)
    for s3 in everyone:
        for key in ["scratch/large", "uncached/large"]:
            assert s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == body
    # Fewer: what other tests have overwritten goes in its own time.
    assert given.sum() == 0 and records.sum() <= 0
    for number in range(20):
        everyone[0].delete_object(Bucket=BUCKET, Key=f"scratch/{number}")
    everyone[0].delete_object(Bucket=BUCKET, Key="scratch/large")


def test_without_a_worker_its_stripes_are_read_all_the_same(tmp_path: Path) -> None:
    # Long enough that its slots are still its own when all is read.
    cluster = made(tmp_path / "c", "10m")
    try:
        bodies = {f"k{number}": payload(14 * STRIPE + number, number) for number in range(8)}
        for key, body in bodies.items():
            in_ufs(cluster, key, body)
        everyone = clients(cluster)
        warm = list(bodies)[:4]
        for key in warm:
            assert everyone["n2"].get_object(Bucket=BUCKET, Key=key)["Body"].read() == bodies[key]
        # Whose keys are not of the worker that dies: it passes their heads on.
        relayed = Counts(cluster, 'quickwater_peer_calls_total{task="relay"}')
        others = []
        for key in bodies:
            before = relayed.since()["n3"]
            everyone["n3"].head_object(Bucket=BUCKET, Key=key)
            if relayed.since()["n3"] > before:
                others.append(key)
        assert others and set(others) & set(warm), others
        os.kill(cluster.worker("n3").pid, signal.SIGKILL)
        cluster.worker("n3", start=False).kill()
        instead = fills(cluster)
        for key in others:
            for node in ["n1", "n2"]:
                got = everyone[node].get_object(Bucket=BUCKET, Key=key)
                assert got["Body"].read() == bodies[key], key
                part = everyone[node].get_object(
                    Bucket=BUCKET, Key=key, Range=f"bytes={3 * STRIPE}-{9 * STRIPE + 2 * KIB}"
                )
                assert part["Body"].read() == bodies[key][3 * STRIPE : 9 * STRIPE + 2 * KIB + 1]
        # What it was to have was fetched by those who read it, once each.
        assert instead.sum() > 0
        fetched = fills(cluster)
        for key in others:
            assert everyone["n1"].get_object(Bucket=BUCKET, Key=key)["Body"].read() == bodies[key]
        assert fetched.sum() == 0
        # It is back, and is asked again.
        cluster.worker("n3")
        cluster.settle(NODES)
        asked = Counts(cluster, 'quickwater_stripe_served_total{result="miss"}')
        end = time.monotonic() + PATIENCE_SECONDS
        number = 0
        while asked.since()["n3"] == 0:
            assert time.monotonic() < end, cluster.logs()
            number += 1
            body = payload(6 * STRIPE, f"fresh {number}")
            in_ufs(cluster, f"fresh{number}", body)
            got = cluster.worker("n1").target().client().get_object(
                Bucket=BUCKET, Key=f"fresh{number}"
            )
            assert got["Body"].read() == body
    finally:
        cluster.close()


def test_a_copy_of_what_is_hot_is_never_stale(tmp_path: Path) -> None:
    cluster = made(tmp_path / "c", "60s", {"hot-copies": "16MiB"})
    held = "quickwater_hot_copy_bytes"
    try:
        everyone = list(clients(cluster).values())
        hits = Counts(cluster, "quickwater_hot_copy_hits_total")
        copied = Counts(cluster, "quickwater_hot_copies_total")
        place = {"Bucket": BUCKET, "Key": "hot"}
        for turn in range(3):
            body = payload(5 * STRIPE + 9, f"hot {turn}")
            everyone[turn].put_object(**place, Body=body)
            copied.before, hits.before = copied.now(), hits.now()
            given = pieces(cluster, "given")
            for _ in range(6):
                for s3 in everyone:
                    assert s3.get_object(**place)["Body"].read() == body
            # Each worker has by now what it was asked for three times. The owner has what
            # was written there.
            assert copied.sum() > 0 and hits.sum() > 0, (copied.since(), hits.since())
            asked = given.sum()
            for s3 in everyone:
                part = s3.get_object(**place, Range=f"bytes={STRIPE}-{4 * STRIPE}")
                assert part["Body"].read() == body[STRIPE : 4 * STRIPE + 1]
            assert given.sum() == asked, "nothing is asked for any more"
        assert sum(of(cluster, node, held) for node in NODES) > 0
        # Somebody else changes it in the UFS; who looks sees it.
        body = payload(4 * STRIPE + 1, "changed")
        in_ufs(cluster, "hot", body)
        for target in [cluster.worker(node).target() for node in NODES]:
            request = Request("GET", f"/{BUCKET}/hot", headers=[("cache-control", "no-cache")])
            assert send(target, request).body == body
        # More than there is room for.
        many = {f"many{number}": payload(9 * STRIPE, number) for number in range(5)}
        for key, content in many.items():
            in_ufs(cluster, key, content)
            for _ in range(4):
                for s3 in everyone:
                    assert s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == content
            assert all(of(cluster, node, held) <= 17 * MIB for node in NODES)
        everyone[1].delete_object(**place)
        for s3 in everyone:
            assert error_of(s3.get_object, **place)[0] == 404
    finally:
        cluster.close()
