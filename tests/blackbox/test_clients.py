"""Real programs against the service: AWS CLI, rclone, s3cmd, s3fs.

The Rust SDK is covered elsewhere: the S3 UFS of a second Quickwater is built
on aws-sdk-s3 (`test_ufs_s3.py`).
"""

from __future__ import annotations

import filecmp
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from harness.payload import KIB, MIB, payload
from harness.target import REGION, Target

TIMEOUT_SECONDS = 180
TREE = {
    "a.txt": 10,
    "empty": 0,
    "dir/b.bin": 100 * KIB,
    "dir/sub dir/c+d %.bin": 3 * KIB,
    "dir/ü 日本.txt": 12,
    "big.bin": 20 * MIB,
}


def run(target: Target, *command: str, check: bool = True, **environment: str) -> str:
    """Runs a client; its output, or a failure that shows it. `environment`: more of it."""
    done = subprocess.run(
        command,
        env={**target.environment(), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    if check:
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Some files."""
    root = tmp_path / "tree"
    for name, size in TREE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(payload(size, name))
        # S3 tells whole seconds: a file of this second would look newer than its copy.
        os.utime(root / name, (time.time() - 60,) * 2)
    return root


def same_trees(left: Path, right: Path) -> None:
    """Fails unless both hold the same files with the same bytes."""
    names = sorted(str(p.relative_to(left)) for p in left.rglob("*") if p.is_file())
    assert names == sorted(str(p.relative_to(right)) for p in right.rglob("*") if p.is_file())
    equal, differing, errors = filecmp.cmpfiles(left, right, names, shallow=False)
    assert (sorted(equal), differing, errors) == (names, [], [])


@pytest.mark.needs("aws")
class TestAwsCli:
    """aws s3 and aws s3api."""

    def test_copy_list_remove(self, target: Target, bucket: str, tree: Path, tmp_path: Path) -> None:
        url = f"s3://{bucket}"
        run(target, "aws", "s3", "cp", str(tree / "a.txt"), f"{url}/one")
        run(target, "aws", "s3", "cp", str(tree / "big.bin"), f"{url}/big")
        run(target, "aws", "s3", "cp", f"{url}/big", str(tmp_path / "back"))
        assert filecmp.cmp(tree / "big.bin", tmp_path / "back", shallow=False)
        run(target, "aws", "s3", "cp", f"{url}/big", f"{url}/copy of big")
        listed = run(target, "aws", "s3", "ls", f"{url}/")
        assert [line.split(maxsplit=3)[3] for line in listed.splitlines()] == ["big", "copy of big", "one"]
        run(target, "aws", "s3", "mv", f"{url}/one", f"{url}/two")
        run(target, "aws", "s3", "rm", f"{url}/two")
        assert "two" not in run(target, "aws", "s3", "ls", f"{url}/")
        run(target, "aws", "s3", "rm", "--recursive", url)
        assert run(target, "aws", "s3", "ls", f"{url}/", check=False) == ""

    def test_sync(self, target: Target, bucket: str, tree: Path, tmp_path: Path) -> None:
        url = f"s3://{bucket}/pre fix"
        run(target, "aws", "s3", "sync", str(tree), url)
        assert run(target, "aws", "s3", "sync", str(tree), url).strip() == ""
        run(target, "aws", "s3", "sync", url, str(tmp_path / "back"))
        same_trees(tree, tmp_path / "back")
        (tree / "a.txt").unlink()
        run(target, "aws", "s3", "sync", "--delete", str(tree), url)
        assert "a.txt" not in run(target, "aws", "s3", "ls", "--recursive", url)

    def test_s3api(self, target: Target, bucket: str, tree: Path) -> None:
        where = ["--bucket", bucket, "--key", "k"]
        api = ["aws", "--output", "text", "s3api"]
        body = str(tree / "dir/b.bin")
        run(target, *api, "put-object", *where, "--body", body, "--metadata", "a=b")
        assert run(target, *api, "head-object", *where, "--query", "Metadata.a").strip() == "b"
        size = run(target, *api, "list-objects-v2", "--bucket", bucket, "--query", "Contents[0].Size")
        assert size.strip() == str(100 * KIB)
        run(target, *api, "delete-object", *where)
        run(target, *api, "wait", "object-not-exists", *where)

    def test_make_and_remove_bucket(self, target: Target) -> None:
        run(target, "aws", "s3", "mb", "s3://made-by-cli")
        assert "made-by-cli" in run(target, "aws", "s3", "ls")
        run(target, "aws", "s3", "rb", "s3://made-by-cli")
        assert "made-by-cli" not in run(target, "aws", "s3", "ls")


@pytest.fixture
def rclone(target: Target, tmp_path: Path) -> list[str]:
    """rclone with a remote `qw:`."""
    config = tmp_path / "rclone.conf"
    config.write_text(
        f"[qw]\ntype = s3\nprovider = Other\nenv_auth = false\n"
        f"access_key_id = {target.access_key}\nsecret_access_key = {target.secret_key}\n"
        f"endpoint = {target.endpoint}\nregion = {REGION}\nforce_path_style = true\n"
    )
    return ["rclone", "--config", str(config), "--retries", "1", "--low-level-retries", "1"]


@pytest.mark.not_on_moto("refuses its multipart uploads")
@pytest.mark.needs("rclone")
def test_rclone(
    target: Target, bucket: str, rclone: list[str], tree: Path, tmp_path: Path
) -> None:
    remote = f"qw:{bucket}/t"
    run(target, *rclone, "copy", str(tree), remote, "--s3-chunk-size", "5M", "--s3-upload-cutoff", "8M")
    run(target, *rclone, "check", str(tree), remote)
    run(target, *rclone, "check", "--download", str(tree), remote)
    listed = run(target, *rclone, "lsf", "-R", "--files-only", remote).splitlines()
    assert sorted(listed) == sorted(TREE)
    assert "dir/" in run(target, *rclone, "lsf", remote).splitlines()
    run(target, *rclone, "sync", remote, str(tmp_path / "back"))
    same_trees(tree, tmp_path / "back")
    again = run(target, *rclone, "copy", "-v", str(tree), remote)
    assert "Copied" not in again
    run(target, *rclone, "moveto", f"{remote}/a.txt", f"{remote}/moved.txt")
    run(target, *rclone, "purge", remote)
    assert run(target, *rclone, "lsf", f"qw:{bucket}") == ""


@pytest.mark.not_on_moto("fails on GET ?acl")
@pytest.mark.needs("s3cmd")
def test_s3cmd(target: Target, bucket: str, tree: Path, tmp_path: Path) -> None:
    config = tmp_path / "s3cfg"
    config.write_text(
        f"[default]\naccess_key = {target.access_key}\nsecret_key = {target.secret_key}\n"
        f"host_base = {target.host}\nhost_bucket = {target.host}\nuse_https = False\n"
        f"bucket_location = {REGION}\nsignature_v2 = False\nmultipart_chunk_size_mb = 5\nmax_retries = 1\n"
    )
    s3cmd = ["s3cmd", "-c", str(config), "--no-progress"]
    url = f"s3://{bucket}"
    run(target, *s3cmd, "put", str(tree / "big.bin"), f"{url}/big")
    run(target, *s3cmd, "put", str(tree / "dir/sub dir/c+d %.bin"), f"{url}/x/c+d %.bin")
    listed = run(target, *s3cmd, "ls", "-r", url)
    assert f"{url}/big" in listed and f"{url}/x/c+d %.bin" in listed
    assert "DIR" in run(target, *s3cmd, "ls", url)
    run(target, *s3cmd, "get", f"{url}/big", str(tmp_path / "big"))
    assert filecmp.cmp(tree / "big.bin", tmp_path / "big", shallow=False)
    run(target, *s3cmd, "info", f"{url}/big")
    run(target, *s3cmd, "del", f"{url}/big")
    assert f"{url}/big" not in run(target, *s3cmd, "ls", "-r", url)


def file_system(target: Target) -> Any:
    """s3fs, with fsspec's caches off."""
    import s3fs

    return s3fs.S3FileSystem(
        key=target.access_key,
        secret=target.secret_key,
        endpoint_url=target.endpoint,
        use_listings_cache=False,
        skip_instance_cache=True,
        client_kwargs={"region_name": REGION},
        config_kwargs={"s3": {"addressing_style": "path"}},
    )


@pytest.fixture
def files(target: Target) -> Any:
    """s3fs at the endpoint under test."""
    return file_system(target)


@pytest.mark.not_on_moto("aiobotocore and moto disagree on trailers")
def test_s3fs(bucket: str, files: Any) -> None:
    small, large = payload(1000, "small"), payload(17 * MIB, "large")
    with files.open(f"{bucket}/d/small.bin", "wb") as sink:
        sink.write(small)
    with files.open(f"{bucket}/d/e/large.bin", "wb", block_size=5 * MIB) as sink:
        sink.write(large)
    with files.open(f"{bucket}/d/e/large.bin", "rb") as source:
        source.seek(10 * MIB)
        assert source.read(1000) == large[10 * MIB : 10 * MIB + 1000]
        source.seek(0)
        assert source.read() == large
    assert files.cat(f"{bucket}/d/small.bin") == small
    assert files.ls(f"{bucket}/d", detail=False) == [f"{bucket}/d/e", f"{bucket}/d/small.bin"]
    assert files.glob(f"{bucket}/d/**/*.bin") == [f"{bucket}/d/e/large.bin", f"{bucket}/d/small.bin"]
    assert files.info(f"{bucket}/d/small.bin")["size"] == 1000
    assert files.isdir(f"{bucket}/d") and not files.exists(f"{bucket}/none")
    files.mv(f"{bucket}/d/small.bin", f"{bucket}/moved")
    files.rm(f"{bucket}/d", recursive=True)
    assert files.find(bucket) == [f"{bucket}/moved"]
