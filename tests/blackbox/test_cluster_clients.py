"""Stock clients at a random one of three workers for every single request: what clients do to
one service (`test_clients`), and longer flows, through a load balancer of layer 7. Nobody is
redirected, nobody has to try again, every byte is compared."""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Iterator

import pytest
from boto3.s3.transfer import TransferConfig

from harness.anywhere import NODES, answers, three
from harness.cluster import Cluster
from harness.payload import KIB, MIB, multipart_etag, payload
from harness.splitter import Splitter
from harness.target import Target, error_of

# These, and their fixtures, run here again, at the `target` of this file.
from .test_clients import TestAwsCli, files, rclone, run, same_trees, test_rclone, test_s3cmd, test_s3fs, tree

__all__ = ["TestAwsCli", "files", "rclone", "test_rclone", "test_s3cmd", "test_s3fs", "tree"]

pytestmark = pytest.mark.slow

COPIES = 2
PART = 5 * MIB
# Four parts, one of them of three bytes.
LARGE = 3 * PART + 3
# Fewer requests may leave one of three out.
MANY = 12
AWS_CONFIG = """[default]
s3 =
    signature_version = s3v4
    multipart_threshold = 5MB
    multipart_chunksize = 5MB
    max_concurrent_requests = 8
"""


@pytest.fixture(scope="module", params=["WRITE_THROUGH", "WRITE_BACK"])
def mode(request: pytest.FixtureRequest) -> str:
    """The policy of everything."""
    return str(request.param)


@pytest.fixture(scope="module")
def cluster(mode: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three workers that keep two copies of what the UFS does not have."""
    with three(tmp_path_factory.mktemp(f"clients-{mode.lower()}"), "10m") as made:
        made.worker("n1").target().client().create_bucket(Bucket="abc")
        made.policy_of_all(mode, COPIES)
        yield made
        assert answers(made, "5..") == 0, f"told to come back\n{made.logs()}"


@pytest.fixture
def front(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Splitter]:
    """Where clients go; what came of it is judged when they are done."""
    addresses = {node: cluster.worker(node).target().address for node in NODES}
    with contextlib.closing(Splitter(lambda: addresses, request.node.name)) as made:
        yield made
        assert made.redirects() == []
        assert made.failures() == []
        asked = made.asked()
        print(f"{request.node.name}: {dict(asked)}")
        assert asked.total() < MANY or set(asked) == set(NODES), asked


@pytest.fixture
def target(cluster: Cluster, front: Splitter) -> Target:
    """Any worker, one for each request."""
    return front.target(cluster.worker("n1").target())


@pytest.fixture
def s3(target: Target) -> Any:
    """boto3 as it comes."""
    return target.client()


@pytest.fixture
def bucket(s3: Any, request: pytest.FixtureRequest) -> str:
    """An empty one."""
    name = hashlib.md5(request.node.name.encode()).hexdigest()
    s3.create_bucket(Bucket=name)
    return name


def persisted(cluster: Cluster, bucket: str, bodies: dict[str, bytes]) -> None:
    """The UFS ends with these objects and no others."""
    done = cluster.cli("async-persist", "wait", "--path", f"/{bucket}", "--timeout", "2m")
    assert done.returncode == 0, f"{done}\n{cluster.logs()}"
    root = cluster.home / "ufs" / bucket
    found = {str(file.relative_to(root)): file for file in root.rglob("*") if file.is_file()}
    shown = {name: file for name, file in found.items() if not name.startswith(".")}
    assert sorted(shown) == sorted(bodies)
    for name, body in bodies.items():
        assert shown[name].read_bytes() == body, name


@pytest.mark.needs("aws", "curl")
class TestAwsCliInParts:
    """aws with small parts, eight requests at a time."""

    @pytest.fixture
    def config(self, tmp_path: Path) -> dict[str, str]:
        path = tmp_path / "aws-config"
        path.write_text(AWS_CONFIG)
        return {"AWS_CONFIG_FILE": str(path)}

    def test_large_files(
        self, cluster: Cluster, target: Target, bucket: str, s3: Any, config: dict[str, str], tmp_path: Path
    ) -> None:
        body, url = payload(LARGE, bucket), f"s3://{bucket}"
        etag = f'"{multipart_etag([body[at : at + PART] for at in range(0, LARGE, PART)])}"'
        (tmp_path / "file").write_bytes(body)

        def aws(*words: str) -> str:
            return run(target, "aws", "s3", *words, **config)

        aws("cp", str(tmp_path / "file"), f"{url}/d/large")
        assert s3.head_object(Bucket=bucket, Key="d/large")["ETag"] == etag
        aws("cp", f"{url}/d/large", str(tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == body
        aws("cp", f"{url}/d/large", f"{url}/d/copy")
        aws("mv", f"{url}/d/copy", f"{url}/moved/there")
        assert s3.get_object(Bucket=bucket, Key="moved/there")["Body"].read() == body
        aws("mv", "--recursive", f"{url}/moved", str(tmp_path / "moved"))
        assert (tmp_path / "moved" / "there").read_bytes() == body
        link = aws("presign", f"{url}/d/large").strip()
        get = ["curl", "--fail", "--silent", "--show-error", "--output", str(tmp_path / "curl"), link]
        run(target, *get)
        assert (tmp_path / "curl").read_bytes() == body
        run(target, *get, "--range", f"{PART - 5}-{PART + 5}")
        assert (tmp_path / "curl").read_bytes() == body[PART - 5 : PART + 6]
        assert [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["d/large"]
        persisted(cluster, bucket, {"d/large": body})

    def test_a_pipe_and_a_tree(
        self, cluster: Cluster, target: Target, bucket: str, config: dict[str, str], tree: Path, tmp_path: Path
    ) -> None:
        url, there = f"s3://{bucket}/tree", f"s3://{bucket}/there"
        run(target, "aws", "s3", "sync", str(tree), url, **config)
        run(target, "aws", "s3", "sync", url, there, **config)
        pipe = f"aws s3 cp {url}/big.bin - | aws s3 cp - {there}/big.bin.pipe"
        run(target, "bash", "-o", "pipefail", "-c", pipe, **config)
        run(target, "aws", "s3", "cp", "--recursive", there, str(tmp_path / "back"), **config)
        assert filecmp.cmp(tree / "big.bin", tmp_path / "back" / "big.bin.pipe", shallow=False)
        (tmp_path / "back" / "big.bin.pipe").unlink()
        same_trees(tree, tmp_path / "back")
        run(target, "aws", "s3", "sync", "--delete", url, there, **config)
        listed = run(target, "aws", "s3", "ls", "--recursive", "--page-size", "2", there, **config)
        assert len(listed.splitlines()) == len(list(tmp_path.glob("back/**/*.*"))) + 1  # `empty`
        run(target, "aws", "s3", "rm", "--recursive", there, **config)
        kept = {f"tree/{file.relative_to(tree)}": file.read_bytes() for file in tree.rglob("*") if file.is_file()}
        persisted(cluster, bucket, kept)
        run(target, "aws", "s3", "rb", "--force", f"s3://{bucket}", **config)
        assert bucket not in run(target, "aws", "s3", "ls", **config)

    def test_single_calls(self, cluster: Cluster, target: Target, bucket: str, tmp_path: Path) -> None:
        def api(call: str, *words: str, key: str = "k") -> Any:
            where = ["--bucket", bucket, *(["--key", key] if key else [])]
            told = run(target, "aws", "--output", "json", "s3api", call, *where, *words)
            return json.loads(told) if told.strip() else {}

        parts = [payload(PART, 1), payload(1000, 2)]
        for number, part in enumerate(parts, 1):
            (tmp_path / str(number)).write_bytes(part)
        upload = ["--upload-id", api("create-multipart-upload")["UploadId"]]
        assert [one["Key"] for one in api("list-multipart-uploads", key="")["Uploads"]] == ["k"]
        made = [
            api("upload-part", *upload, "--part-number", str(n), "--body", str(tmp_path / str(n)))["ETag"]
            for n in (1, 2)
        ]
        assert [one["ETag"] for one in api("list-parts", *upload)["Parts"]] == made
        whole = {"Parts": [{"PartNumber": n, "ETag": etag} for n, etag in enumerate(made, 1)]}
        done = api("complete-multipart-upload", *upload, "--multipart-upload", json.dumps(whole))
        assert done["ETag"] == f'"{multipart_etag(parts)}"'
        assert "Uploads" not in api("list-multipart-uploads", key="")
        api("get-object", str(tmp_path / "got"))
        assert (tmp_path / "got").read_bytes() == b"".join(parts)
        sizes = api("get-object-attributes", "--object-attributes", "ObjectSize", "ETag")
        assert sizes["ObjectSize"] == PART + 1000
        api("put-object-tagging", "--tagging", "TagSet=[{Key=a,Value=b}]")
        assert api("get-object-tagging")["TagSet"] == [{"Key": "a", "Value": "b"}]
        api("copy-object", "--copy-source", f"{bucket}/k", key="copy")
        assert api("get-object-tagging", key="copy")["TagSet"] == [{"Key": "a", "Value": "b"}]
        assert api("head-object", "--if-match", api("head-object", key="copy")["ETag"], key="copy")
        run(target, "aws", "s3api", "put-object", "--bucket", bucket, "--key", "k", "--if-none-match", "*", check=False)
        assert api("head-object")["ContentLength"] == PART + 1000
        aborted = ["--upload-id", api("create-multipart-upload")["UploadId"]]
        api("upload-part", *aborted, "--part-number", "1", "--body", str(tmp_path / "2"))
        api("abort-multipart-upload", *aborted)
        assert api("head-bucket", key="") is not None
        persisted(cluster, bucket, {"k": b"".join(parts), "copy": b"".join(parts)})
        gone = api("delete-objects", "--delete", "Objects=[{Key=k},{Key=copy}]", key="")
        assert sorted(one["Key"] for one in gone["Deleted"]) == ["copy", "k"]
        assert "Contents" not in api("list-objects-v2", key="")
        persisted(cluster, bucket, {})


def test_files_of_fsspec(cluster: Cluster, bucket: str, files: Any, tmp_path: Path) -> None:
    large, lines = payload(12 * MIB + 1, "large"), b"".join(b"%06d\n" % line for line in range(3000))
    with files.open(f"{bucket}/d/large", "wb", block_size=PART) as sink:
        for at in range(0, len(large), 700 * KIB):
            sink.write(large[at : at + 700 * KIB])
    with files.open(f"{bucket}/d/lines", "wb") as sink:
        sink.write(lines)
    # As readers of columns do: the end first, then blocks here and there.
    chosen = random.Random(bucket)
    for cache in ("readahead", "bytes", "blockcache", "none"):
        with files.open(f"{bucket}/d/large", "rb", block_size=MIB, cache_type=cache) as source:
            source.seek(-8, 2)
            assert source.read() == large[-8:]
            for _ in range(8):
                at, size = chosen.randrange(len(large)), chosen.choice([1, 1000, 300 * KIB])
                source.seek(at)
                assert source.read(size) == large[at : at + size]
    starts = [chosen.randrange(len(large) - 5000) for _ in range(20)]
    ends = [at + 5000 for at in starts]
    ranges = files.cat_ranges([f"{bucket}/d/large"] * 20, starts, ends)
    assert ranges == [large[at:end] for at, end in zip(starts, ends)]
    assert files.read_block(f"{bucket}/d/lines", 10, 30, b"\n") == lines[14:42]
    # Appending is a copy of what is there as a part, or, of what is small, all of it again.
    for name, before in (("large", large), ("lines", lines)):
        with files.open(f"{bucket}/d/{name}", "ab", block_size=PART) as sink:
            sink.write(b"more")
        assert files.cat(f"{bucket}/d/{name}") == before + b"more"
    tree = {f"t/{folder}/{number}": payload(1000 * number, folder) for folder in "ab" for number in range(6)}
    files.pipe({f"{bucket}/{name}": body for name, body in tree.items()})
    paths = [f"{bucket}/{name}" for name in sorted(tree)]
    assert files.cat(paths) == {f"{bucket}/{name}": body for name, body in tree.items()}
    assert files.find(f"{bucket}/t") == paths
    assert files.glob(f"{bucket}/t/*/[0-2]") == [path for path in paths if path[-1] in "012"]
    assert [sorted(names) for _, _, names in files.walk(f"{bucket}/t/a")] == [list("012345")]
    assert files.ls(f"{bucket}/t", detail=False) == [f"{bucket}/t/a", f"{bucket}/t/b"]
    assert files.du(f"{bucket}/t") == sum(len(body) for body in tree.values())
    assert files.info(f"{bucket}/t/a")["type"] == "directory" and files.info(paths[3])["size"] == 3000
    files.get(f"{bucket}/t", str(tmp_path / "t"), recursive=True)
    files.put(str(tmp_path / "t"), f"{bucket}/u", recursive=True)
    files.copy(f"{bucket}/d/large", f"{bucket}/copy")
    # `mv` of a folder wants a key of its name, in any store.
    files.copy(f"{bucket}/t/a", f"{bucket}/v", recursive=True)
    files.rm([f"{bucket}/t/a", f"{bucket}/u/b"], recursive=True)
    files.mv(f"{bucket}/v/5", f"{bucket}/v/moved")
    files.rm(paths[-1])
    left = {"copy": large + b"more", "d/large": large + b"more", "d/lines": lines + b"more"}
    left |= {name: body for name, body in tree.items() if name.startswith("t/b") and name != "t/b/5"}
    left |= {name.replace("t/a", "u/a"): body for name, body in tree.items() if name.startswith("t/a")}
    left |= {name.replace("t/a", "v"): body for name, body in tree.items() if name.startswith("t/a")}
    left["v/moved"] = left.pop("v/5")
    assert files.find(bucket) == sorted(f"{bucket}/{name}" for name in left)
    for name, body in left.items():
        assert files.cat(f"{bucket}/{name}") == body, name
    persisted(cluster, bucket, left)


def test_transfers_of_boto3(cluster: Cluster, s3: Any, bucket: str, tmp_path: Path) -> None:
    small_parts = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=8)
    sizes = {"empty": 0, "small": 1000, "limit": PART, "large/a": LARGE, "large/b": LARGE + PART}
    bodies = {name: payload(size, name) for name, size in sizes.items()}

    def there_and_back(name: str) -> None:
        here, back = tmp_path / name.replace("/", "-"), tmp_path / f"{name.replace('/', '-')}.back"
        here.write_bytes(bodies[name])
        s3.upload_file(str(here), bucket, name, Config=small_parts)
        s3.download_file(bucket, name, str(back), Config=small_parts)
        assert back.read_bytes() == bodies[name]
        s3.copy({"Bucket": bucket, "Key": name}, bucket, f"copies/{name}", Config=small_parts)
        assert s3.get_object(Bucket=bucket, Key=f"copies/{name}")["Body"].read() == bodies[name]

    with ThreadPoolExecutor(len(bodies)) as pool:
        list(pool.map(there_and_back, bodies))
    bodies |= {f"copies/{name}": body for name, body in bodies.items()}
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, PaginationConfig={"PageSize": 3})
    listed = {entry["Key"]: entry["Size"] for page in pages for entry in page["Contents"]}
    assert listed == {name: len(body) for name, body in bodies.items()}
    rolled = s3.list_objects_v2(Bucket=bucket, Delimiter="/")
    assert [one["Prefix"] for one in rolled["CommonPrefixes"]] == ["copies/", "large/"]
    gone = [{"Key": name} for name in bodies if name.startswith("copies/")]
    assert len(s3.delete_objects(Bucket=bucket, Delete={"Objects": gone})["Deleted"]) == len(sizes)
    persisted(cluster, bucket, {name: bodies[name] for name in sizes})


def test_conditions_and_tags_of_boto3(cluster: Cluster, s3: Any, bucket: str) -> None:
    won: list[int] = []

    def one(writer: int) -> None:
        mine, none = {"Bucket": bucket, "Key": f"own/{writer}"}, payload(2000 + writer, writer)
        for turn in range(4):
            body = payload(2000 + turn, (writer, turn))
            etag = s3.put_object(**mine, Body=body, Tagging=f"turn={turn}")["ETag"]
            assert error_of(s3.put_object, **mine, Body=none, IfNoneMatch="*")[0] == 412
            assert error_of(s3.put_object, **mine, Body=none, IfMatch='"0"')[0] == 412
            assert error_of(s3.get_object, **mine, IfNoneMatch=etag)[0] == 304
            assert s3.get_object(**mine, IfMatch=etag)["Body"].read() == body
            tags = {"TagSet": [{"Key": "turn", "Value": str(turn)}]}
            assert s3.get_object_tagging(**mine)["TagSet"] == tags["TagSet"]
            s3.put_object_tagging(**mine, Tagging={"TagSet": [*tags["TagSet"], {"Key": "more", "Value": ""}]})
            assert len(s3.get_object_tagging(**mine)["TagSet"]) == 2
            assert s3.put_object(**mine, Body=none, IfMatch=etag)["ETag"] != etag
            assert s3.get_object(**mine)["Body"].read() == none
        try:
            s3.put_object(Bucket=bucket, Key="one of all", Body=none, IfNoneMatch="*")
            won.append(writer)
        except s3.exceptions.ClientError as error:
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412), error

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(one, range(6)))
    assert len(won) == 1
    bodies = {f"own/{writer}": payload(2000 + writer, writer) for writer in range(6)}
    persisted(cluster, bucket, {**bodies, "one of all": payload(2000 + won[0], won[0])})
