"""Any worker answers any key while writes are acked before the UFS has them: what
`test_cluster_relay` shows of WRITE_THROUGH, under WRITE_BACK and TRANSIENT."""

from __future__ import annotations

import hashlib
import random
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Iterator

import pytest

from harness.anywhere import NODES, Anywhere, answers, relays, three
from harness.cluster import Cluster, persist_state
from harness.payload import KIB, MIB, payload
from harness.raw import Request, send
from harness.target import REGION, error_of


DIRTY = {"NOT_PERSISTED", "PERSISTING", "PERSISTED"}


@pytest.fixture(scope="module", params=["WRITE_BACK", "TRANSIENT"])
def mode(request: pytest.FixtureRequest) -> str:
    """The policy of everything."""
    return str(request.param)


@pytest.fixture(scope="module")
def cluster(mode: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three workers that have settled who owns what."""
    with three(tmp_path_factory.mktemp(f"modes-{mode.lower()}"), "10m") as made:
        s3 = made.worker("n1").target().client()
        s3.create_bucket(Bucket="abc")
        made.policy_of_all(mode)
        yield made
        assert answers(made, "503") == 0, f"told to come back\n{made.logs()}"


@pytest.fixture
def s3(cluster: Cluster) -> Anywhere:
    """A client of all workers."""
    return Anywhere(cluster, 3)


@pytest.fixture
def bucket(s3: Anywhere, request: pytest.FixtureRequest) -> str:
    """A bucket for one test."""
    name = hashlib.md5(request.node.name.encode()).hexdigest()
    s3.create_bucket(Bucket=name)
    return name


def headers(answer: Any) -> dict[str, str]:
    """Of a boto3 answer."""
    return dict(answer["ResponseMetadata"]["HTTPHeaders"])


def wait_persisted(cluster: Cluster, mode: str, bucket: str) -> None:
    """The UFS has all of a bucket; of what is TRANSIENT it is told that it never will."""
    done = cluster.cli("async-persist", "wait", "--path", f"/{bucket}", "--timeout", "2m")
    assert done.returncode == (1 if mode == "TRANSIENT" else 0), done


def check_states(cluster: Cluster, mode: str, bucket: str, bodies: dict[str, bytes]) -> None:
    """Every worker says the same of where bytes are, before and after the UFS has them."""
    clients = [cluster.worker(node).target().client() for node in NODES]

    def states() -> set[str | None]:
        heads = [s3.head_object(Bucket=bucket, Key=key) for s3 in clients for key in bodies]
        return {persist_state(head) for head in heads}

    allowed = {"TRANSIENT"} if mode == "TRANSIENT" else DIRTY
    assert states() <= allowed
    wait_persisted(cluster, mode, bucket)
    assert states() == ({"TRANSIENT"} if mode == "TRANSIENT" else {"PERSISTED"})
    for key, body in bodies.items():
        file = cluster.home / "ufs" / bucket / key
        if mode == "TRANSIENT":
            assert not file.exists()
        else:
            assert file.read_bytes() == body


def test_objects_of_any_size(cluster: Cluster, mode: str, s3: Anywhere, bucket: str) -> None:
    before, bodies = relays(cluster), {}
    for size in [0, 1, 64 * KIB + 1, MIB, 5 * MIB + 7, 16 * MIB]:
        for turn in range(1 if size > 8 * MIB else 3):
            body = payload(size, f"{size} {turn}")
            put = s3.put_object(Bucket=bucket, Key=f"k{size}", Body=body)
            assert headers(put)["x-quickwater-durability"] == "local-1"
            got = s3.get_object(Bucket=bucket, Key=f"k{size}")
            assert got["Body"].read() == body and got["ETag"] == put["ETag"]
            head = s3.head_object(Bucket=bucket, Key=f"k{size}")
            assert head["ContentLength"] == size and head["ETag"] == put["ETag"]
            bodies[f"k{size}"] = body
    assert relays(cluster) - before > 10
    check_states(cluster, mode, bucket, bodies)
    for key, body in bodies.items():
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == body


def test_a_read_after_a_write_sees_it(cluster: Cluster, s3: Anywhere, bucket: str) -> None:
    keys = [f"folder{number % 3}/k{number}" for number in range(12)]

    def one(key: str) -> None:
        mine = Anywhere.__new__(Anywhere)
        mine.random, mine.targets, mine.clients = random.Random(key), s3.targets, s3.clients
        for turn in range(5):
            body = payload(100 + turn, f"{key} {turn}")
            mine.put_object(Bucket=bucket, Key=key, Body=body)
            for _ in range(3):
                assert mine.get_object(Bucket=bucket, Key=key)["Body"].read() == body
            listed = mine.list_objects_v2(Bucket=bucket)["Contents"]
            assert key in [entry["Key"] for entry in listed]
        mine.delete_object(Bucket=bucket, Key=key)
        for _ in range(3):
            assert error_of(mine.get_object, Bucket=bucket, Key=key)[0] == 404
            # Gone for every listing, though the UFS may not know of it yet.
            for words in ({}, {"Delimiter": "/", "Prefix": key.split("/")[0] + "/"}):
                listed = mine.list_objects_v2(Bucket=bucket, **words).get("Contents", [])
                assert key not in [entry["Key"] for entry in listed]

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(one, keys))
    # No folder is left, before the UFS knows of it and after.
    for _ in range(2):
        for client in s3.clients:
            shown = client.list_objects_v2(Bucket=bucket, Delimiter="/")
            assert "Contents" not in shown and "CommonPrefixes" not in shown, shown
        cluster.cli("async-persist", "wait", "--path", f"/{bucket}", "--timeout", "2m")


def test_multipart_uploads(cluster: Cluster, mode: str, s3: Anywhere, bucket: str) -> None:
    parts = [payload(5 * MIB + number, number) for number in range(2)] + [b"end"]
    for key in ("a", "b", "c/d"):
        named = {"Bucket": bucket, "Key": key}
        named["UploadId"] = s3.create_multipart_upload(**named)["UploadId"]
        etags = [
            s3.upload_part(**named, PartNumber=number, Body=body)["ETag"]
            for number, body in enumerate(parts, 1)
        ]
        assert [part["ETag"] for part in s3.list_parts(**named)["Parts"]] == etags
        listed = [{"PartNumber": n, "ETag": etag} for n, etag in enumerate(etags, 1)]
        done = s3.complete_multipart_upload(**named, MultipartUpload={"Parts": listed})
        again = s3.complete_multipart_upload(**named, MultipartUpload={"Parts": listed})
        assert done["ETag"] == again["ETag"]
        got = s3.get_object(Bucket=bucket, Key=key)
        assert got["Body"].read() == b"".join(parts) and got["ETag"] == done["ETag"]
    upload = s3.create_multipart_upload(Bucket=bucket, Key="gone")["UploadId"]
    s3.upload_part(Bucket=bucket, Key="gone", UploadId=upload, PartNumber=1, Body=b"x")
    s3.abort_multipart_upload(Bucket=bucket, Key="gone", UploadId=upload)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)
    check_states(cluster, mode, bucket, dict.fromkeys(("a", "b", "c/d"), b"".join(parts)))


def test_copies_tags_and_batches(cluster: Cluster, s3: Anywhere, bucket: str) -> None:
    body = payload(3 * MIB + 1, "source")
    before = relays(cluster, "copy_source"), relays(cluster, "delete_keys")
    s3.put_object(Bucket=bucket, Key="source", Body=body, Metadata={"a": "b"}, Tagging="t=1")
    source = {"Bucket": bucket, "Key": "source"}
    keys = [f"copy{number}" for number in range(12)]
    for key in keys:
        s3.copy_object(Bucket=bucket, Key=key, CopySource=source)
        got = s3.get_object(Bucket=bucket, Key=key)
        assert got["Body"].read() == body and got["Metadata"] == {"a": "b"}
        assert s3.get_object_tagging(Bucket=bucket, Key=key)["TagSet"] == [{"Key": "t", "Value": "1"}]
    s3.put_object_tagging(Bucket=bucket, Key="copy1", Tagging={"TagSet": [{"Key": "n", "Value": "2"}]})
    assert s3.get_object_tagging(Bucket=bucket, Key="copy1")["TagSet"] == [{"Key": "n", "Value": "2"}]
    gone = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys]})
    assert len(gone["Deleted"]) == 12 and "Errors" not in gone
    assert [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["source"]
    assert relays(cluster, "copy_source") > before[0] and relays(cluster, "delete_keys") > before[1]


def test_who_wants_it_in_the_ufs_is_told(cluster: Cluster, mode: str, s3: Anywhere, bucket: str) -> None:
    for number in range(9):
        path = f"/{bucket}/k{number}"
        wants = [("x-quickwater-wait-persisted", "120")]
        reply = send(s3.target(), Request("PUT", path, headers=wants, body=b"now"))
        if mode == "TRANSIENT":
            assert reply.status == 400, reply.brief()
            assert send(s3.target(), Request("HEAD", path)).status == 404
            continue
        assert reply.status == 200, reply.brief()
        head = s3.head_object(Bucket=bucket, Key=f"k{number}")
        assert persist_state(head) == "PERSISTED"
        assert (cluster.home / "ufs" / bucket / f"k{number}").read_bytes() == b"now"


@pytest.mark.needs("aws")
def test_aws_cli(cluster: Cluster, mode: str, s3: Anywhere, bucket: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "big.bin").write_bytes(payload(20 * MIB, "cli"))
    for number in range(3):
        (tree / "sub" / f"{number}.txt").write_text(f"text {number}")

    def aws(*words: str) -> str:
        target = s3.target()
        done = subprocess.run(
            ["aws", "--endpoint-url", target.endpoint, "s3", *words],
            env=target.environment(), capture_output=True, text=True, timeout=120, check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    url = f"s3://{bucket}"
    aws("sync", str(tree), url)
    aws("cp", f"{url}/big.bin", f"{url}/copy of big")
    aws("sync", url, str(tmp_path / "back"))
    assert (tmp_path / "back" / "copy of big").read_bytes() == payload(20 * MIB, "cli")
    assert (tmp_path / "back" / "sub" / "2.txt").read_text() == "text 2"
    wait_persisted(cluster, mode, bucket)
    aws("rm", "--recursive", url)
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)


def test_s3fs(cluster: Cluster, mode: str, s3: Anywhere, bucket: str) -> None:
    import s3fs  # pinned in requirements.txt: without it the environment is wrong

    def files() -> Any:
        target = s3.target()
        return s3fs.S3FileSystem(
            key=target.access_key, secret=target.secret_key, endpoint_url=target.endpoint,
            use_listings_cache=False, skip_instance_cache=True,
            client_kwargs={"region_name": REGION},
            config_kwargs={"s3": {"addressing_style": "path"}},
        )

    small, large = payload(1000, "small"), payload(12 * MIB, "large")
    with files().open(f"{bucket}/d/small.bin", "wb") as sink:
        sink.write(small)
    with files().open(f"{bucket}/d/e/large.bin", "wb", block_size=5 * MIB) as sink:
        sink.write(large)
    with files().open(f"{bucket}/d/e/large.bin", "rb") as source:
        source.seek(10 * MIB)
        assert source.read(1000) == large[10 * MIB : 10 * MIB + 1000]
        source.seek(0)
        assert source.read() == large
    assert files().cat(f"{bucket}/d/small.bin") == small
    assert files().ls(f"{bucket}/d", detail=False) == [f"{bucket}/d/e", f"{bucket}/d/small.bin"]
    check_states(cluster, mode, bucket, {"d/small.bin": small, "d/e/large.bin": large})
    files().mv(f"{bucket}/d/small.bin", f"{bucket}/moved")
    files().rm(f"{bucket}/d", recursive=True)
    assert files().find(bucket) == [f"{bucket}/moved"]
