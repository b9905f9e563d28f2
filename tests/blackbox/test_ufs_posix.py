"""A directory as UFS: one to one, changes behind our back, mounts."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from conftest import ServeFactory
from harness.apart import one_process
from harness.payload import MIB, payload
from harness.raw import BROKEN, Request, send
from harness.server import Server
from harness.target import error_of, fresh_name

from .test_multipart import Upload

TTL_SECONDS = 2.0


@pytest.fixture(scope="module")
def node(serve_long: ServeFactory) -> Server:
    """A service with a short metadata TTL."""
    return serve_long("ttl", flags={"metadata-ttl": f"{TTL_SECONDS:.0f}s"})


@pytest.fixture(scope="module")
def client(node: Server) -> Any:
    return node.target().client()


@pytest.fixture
def place(client: Any) -> str:
    name = fresh_name("dir")
    client.create_bucket(Bucket=name)
    return name


def visible(root: Path) -> list[str]:
    """Files a user sees."""
    return sorted(
        str(p.relative_to(root))
        for p in root.rglob("*")
        if p.is_file() and ".quickwater" not in p.relative_to(root).parts
    )


def test_objects_are_files(node: Server, client: Any, place: str) -> None:
    root = node.ufs / place
    bodies = {"a": b"1", "d/e/f.bin": payload(3 * MIB), "d/ü x": b"", "d/e/g": payload(10_000)}
    for key, body in bodies.items():
        client.put_object(Bucket=place, Key=key, Body=body)
    upload = Upload(client, place, "d/multi")
    parts = [payload(5 * MIB, 1), payload(100, 2)]
    for number, part in enumerate(parts, 1):
        upload.send(number, part)
    assert visible(root) == sorted(bodies)
    upload.complete()
    bodies["d/multi"] = b"".join(parts)
    assert visible(root) == sorted(bodies)
    for key, body in bodies.items():
        assert (root / key).read_bytes() == body
    client.copy_object(Bucket=place, Key="copy", CopySource=f"{place}/a")
    assert (root / "copy").read_bytes() == b"1"
    for key in [*bodies, "copy"]:
        client.delete_object(Bucket=place, Key=key)
    assert visible(root) == []
    assert [p.name for p in root.iterdir() if p.name != ".quickwater"] == [], "empty folders stay"


def test_no_leftovers_of_refused_writes(node: Server, client: Any, place: str) -> None:
    client.put_object(Bucket=place, Key="k", Body=b"x")
    for _ in range(3):
        error_of(client.put_object, Bucket=place, Key="k", Body=payload(MIB), IfNoneMatch="*")
    upload = Upload(client, place, "m")
    upload.send(1, payload(5 * MIB))
    client.abort_multipart_upload(**upload.where)
    time.sleep(0.5)
    staged = [p for p in (node.ufs / place / ".quickwater").rglob("*") if p.is_file()]
    assert [p for p in staged if p.stat().st_size > 4096] == []
    assert visible(node.ufs / place) == ["k"]


# -- changes behind our back --------------------------------------------------


def eventually(check: Any, seconds: float = TTL_SECONDS + 3) -> None:
    """Repeats until it holds."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "not seen within the metadata TTL"
        time.sleep(0.1)


def read(client: Any, place: str, key: str) -> bytes | None:
    try:
        return bytes(client.get_object(Bucket=place, Key=key)["Body"].read())
    except client.exceptions.NoSuchKey:
        return None


def test_changed_file_is_seen_within_the_ttl(node: Server, client: Any, place: str) -> None:
    client.put_object(Bucket=place, Key="k", Body=b"old")
    assert read(client, place, "k") == b"old"
    (node.ufs / place / "k").write_bytes(b"changed")
    eventually(lambda: read(client, place, "k") == b"changed")
    assert client.head_object(Bucket=place, Key="k")["ContentLength"] == 7
    (node.ufs / place / "k").unlink()
    eventually(lambda: read(client, place, "k") is None)


def test_same_size_change_is_seen(node: Server, client: Any, place: str) -> None:
    client.put_object(Bucket=place, Key="k", Body=b"old")
    (node.ufs / place / "k").write_bytes(b"new")
    eventually(lambda: read(client, place, "k") == b"new")


def no_cache(node: Server, method: str, path: str) -> Any:
    return send(node.target(), Request(method, path, headers=[("Cache-Control", "no-cache")]))


def test_no_cache_sees_it_at_once(node: Server, client: Any, place: str) -> None:
    client.put_object(Bucket=place, Key="k", Body=b"old")
    for body in (b"one", b"two!"):
        (node.ufs / place / "k").write_bytes(body)
        assert no_cache(node, "GET", f"/{place}/k").body == body
        assert read(client, place, "k") == body, "what was seen stays seen"
    (node.ufs / place / "k").unlink()
    assert no_cache(node, "GET", f"/{place}/k").status == 404
    assert read(client, place, "k") is None


def test_new_files_are_objects(node: Server, client: Any, place: str) -> None:
    folder = node.ufs / place / "new" / "deep"
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(payload(200_000, "external"))
    eventually(lambda: read(client, place, "new/deep/file") == payload(200_000, "external"))
    eventually(
        lambda: [e["Key"] for e in client.list_objects_v2(Bucket=place).get("Contents", [])]
        == ["new/deep/file"]
    )


def test_replaced_during_a_read_is_never_spliced(node: Server, client: Any, place: str) -> None:
    """C4: one body is one version, whatever happens to the file."""
    path = node.ufs / place / "k"
    versions = [bytes([65 + i]) * (3 * MIB) for i in range(2)]
    path.parent.mkdir(exist_ok=True)
    for round_number in range(10):
        path.write_bytes(versions[round_number % 2])
        body = client.get_object(Bucket=place, Key="k")["Body"]
        try:
            start = body.read(1000)
            path.write_bytes(versions[(round_number + 1) % 2])
            data = start + body.read()
        except BROKEN:
            continue  # an honest answer
        assert data in versions


# -- mounts -------------------------------------------------------------------

FILES, PER_FOLDER = 10_000, 100


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of 10,000 small files in 100 folders."""
    root = tmp_path_factory.mktemp("filled")
    for folder in range(FILES // PER_FOLDER):
        path = root / f"f{folder:03}"
        path.mkdir()
        for number in range(PER_FOLDER):
            (path / f"{number:02}.txt").write_bytes(f"{folder}/{number}".encode())
    return root


@pytest.fixture(scope="module")
def mounted(node: Server, filled: Path) -> str:
    name = fresh_name("mounted")
    node.cli("mount", "add", name, f"file://{filled}")
    return name


def test_mount_lists_all_files(client: Any, mounted: str, filled: Path) -> None:
    pages = list(client.get_paginator("list_objects_v2").paginate(Bucket=mounted))
    assert [page["KeyCount"] for page in pages] == [1000] * 10
    entries = [entry for page in pages for entry in page["Contents"]]
    assert [e["Key"] for e in entries] == visible(filled)
    assert all(e["Size"] == (filled / e["Key"]).stat().st_size for e in entries)


def test_mount_lists_with_delimiter(client: Any, mounted: str) -> None:
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket=mounted, Delimiter="/", PaginationConfig={"PageSize": 30}
    )
    prefixes = [p["Prefix"] for page in pages for p in page.get("CommonPrefixes", [])]
    assert prefixes == [f"f{i:03}/" for i in range(FILES // PER_FOLDER)]
    page = client.list_objects_v2(Bucket=mounted, Prefix="f042/", Delimiter="/")
    assert [e["Key"] for e in page["Contents"]] == [f"f042/{i:02}.txt" for i in range(PER_FOLDER)]
    page = client.list_objects_v2(Bucket=mounted, Prefix="f04", Delimiter="/", MaxKeys=3)
    assert [p["Prefix"] for p in page["CommonPrefixes"]] == ["f040/", "f041/", "f042/"]
    assert page["IsTruncated"]


def test_mount_reads(client: Any, mounted: str) -> None:
    for key, body in (("f000/00.txt", b"0/0"), ("f099/99.txt", b"99/99")):
        for _ in range(2):
            assert client.get_object(Bucket=mounted, Key=key)["Body"].read() == body


def test_mount_commands(node: Server, client: Any, tmp_path: Path) -> None:
    root = tmp_path / "m"
    root.mkdir()
    (root / "x").write_bytes(b"abc")
    name = fresh_name("cli")
    node.cli("mount", "add", name, f"file://{root}")
    listed = json.loads(node.cli("mount", "list", "--output", "json").stdout)
    assert name in json.dumps(listed)
    assert client.get_object(Bucket=name, Key="x")["Body"].read() == b"abc"
    assert "x" in node.cli("fs", "ls", f"{name}/").stdout
    assert "3" in node.cli("fs", "stat", f"{name}/x").stdout
    again = node.cli("mount", "add", name, f"file://{root}", check=False)
    assert again.returncode != 0 and again.stderr.strip()
    node.cli("mount", "remove", name)
    assert error_of(client.list_objects_v2, Bucket=name) == (404, "NoSuchBucket")
    assert (root / "x").read_bytes() == b"abc", "removing a mount must not touch the UFS"
    gone = node.cli("mount", "remove", name, check=False)
    assert gone.returncode != 0


BAD_MOUNTS = ["file:///no/such/place", "ftp://host/x", "/no/scheme", "file://relative", "s3://"]


@pytest.mark.parametrize("uri", BAD_MOUNTS)
def test_bad_mounts_are_refused(node: Server, client: Any, uri: str) -> None:
    name = fresh_name("bad")
    done = node.cli("mount", "add", name, uri, check=False)
    assert done.returncode != 0
    assert done.stderr.strip(), "a refusal says why"
    assert name not in [b["Name"] for b in client.list_buckets()["Buckets"]]


def test_mount_by_flag_and_by_folder(serve: ServeFactory, tmp_path: Path) -> None:
    """`--mount` at start, and what lies in the default UFS already, are buckets."""
    extra = tmp_path / "extra"
    extra.mkdir()
    (extra / "x").write_bytes(b"flag")
    ufs = tmp_path / "ufs-root"
    (ufs / "already").mkdir(parents=True)
    (ufs / "already" / "y").write_bytes(b"found")
    server = serve(flags={"ufs": f"file://{ufs}"}, mounts={"flagged": f"file://{extra}"})
    client = server.target().client()
    assert client.get_object(Bucket="flagged", Key="x")["Body"].read() == b"flag"
    assert client.get_object(Bucket="already", Key="y")["Body"].read() == b"found"
    server.restart()
    client = server.target().client()
    names = [b["Name"] for b in client.list_buckets()["Buckets"]]
    assert names == ["already", "flagged"]


@pytest.mark.root
def test_read_only_directory(serve: ServeFactory, tmp_path: Path) -> None:
    """Reads work, writes get a clear error in bounded time."""
    import subprocess

    root = tmp_path / "ro"
    root.mkdir()
    (root / "x").write_bytes(b"abc")
    subprocess.run(["mount", "--bind", str(root), str(root)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(root)], check=True)
        server = serve(mounts={"readonly": f"file://{root}"})
        client = server.target().client()
        assert client.get_object(Bucket="readonly", Key="x")["Body"].read() == b"abc"
        for call, more in ((client.put_object, {"Body": b"y"}), (client.delete_object, {})):
            assert error_of(call, Bucket="readonly", Key="x", **more) == (403, "AccessDenied")
        assert client.get_object(Bucket="readonly", Key="x")["Body"].read() == b"abc"
        assert [e["Key"] for e in client.list_objects_v2(Bucket="readonly")["Contents"]] == ["x"]
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)


def test_symlinks_do_not_lead_out(node: Server, client: Any, place: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    root = node.ufs / place
    root.mkdir(exist_ok=True)
    os.symlink(secret, root / "link")
    os.symlink(tmp_path, root / "folder")
    time.sleep(TTL_SECONDS + 0.5)
    for key in ("link", "folder/secret"):
        assert no_cache(node, "GET", f"/{place}/{key}").status in (403, 404)
    listed = client.list_objects_v2(Bucket=place).get("Contents", [])
    assert "folder/secret" not in [e["Key"] for e in listed]


@one_process("a worker refuses metadata of another cluster")
@pytest.mark.embedded("its directory is removed")
def test_lost_metadata_is_rebuilt_from_the_files(serve: ServeFactory) -> None:
    """The UFS alone is enough: keys, bytes, ETags and headers come back."""
    server = serve()
    client = server.target().client()
    client.create_bucket(Bucket="kept")
    bodies = {f"dir/k{n}": payload(n * 10_000, n) for n in range(5)}
    tags = {}
    for key, body in bodies.items():
        meta = {"name": key}
        answer = client.put_object(
            Bucket="kept", Key=key, Body=body, Metadata=meta, ContentType="text/x-kept"
        )
        tags[key] = answer["ETag"]
    server.stop()
    shutil.rmtree(server.dir / "metadata")
    server.start()
    client = server.target().client()
    listed = client.list_objects_v2(Bucket="kept")["Contents"]
    assert {o["Key"]: o["ETag"] for o in listed} == tags
    for key, body in bodies.items():
        answer = client.get_object(Bucket="kept", Key=key)
        assert (answer["Body"].read(), answer["ETag"]) == (body, tags[key])
        assert (answer["Metadata"], answer["ContentType"]) == ({"name": key}, "text/x-kept")
