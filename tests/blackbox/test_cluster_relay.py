"""Any worker answers any key: three workers over one UFS, a random one for every
request, no redirect ever."""

from __future__ import annotations

import hashlib
import random
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Iterator

import pytest
from botocore.exceptions import ClientError

from harness.anywhere import NODES, Anywhere, answers, relays, series, three
from harness.cluster import Cluster, settled
from harness.payload import KIB, MIB, payload
from harness.raw import BROKEN, Request, connect, head_bytes, read_reply, send, sign
from harness.signing import STREAMING, STREAMING_TRAILER, UNSIGNED_TRAILER
from harness.target import Target, error_of

from .test_auth import flip, put_streaming

@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three workers that have settled who owns what."""
    with three(tmp_path_factory.mktemp("relay"), "60s") as made:
        yield made
        assert answers(made, "503") == 0, f"told to come back\n{made.logs()}"


@pytest.fixture
def s3(cluster: Cluster) -> Anywhere:
    """A client of all workers."""
    return Anywhere(cluster, 1)


@pytest.fixture
def bucket(s3: Anywhere, request: pytest.FixtureRequest) -> str:
    """A bucket for one test."""
    name = hashlib.md5(request.node.name.encode()).hexdigest()
    s3.create_bucket(Bucket=name)
    return name


def test_objects_of_any_size(cluster: Cluster, s3: Anywhere, bucket: str) -> None:
    before = relays(cluster)
    for size in [0, 1, 1000, 64 * KIB, 64 * KIB + 1, MIB, MIB + 1, 5 * MIB + 7, 64 * MIB]:
        for turn in range(1 if size > 8 * MIB else 3):
            body = payload(size, f"{size} {turn}")
            put = s3.put_object(Bucket=bucket, Key=f"k{size}", Body=body)
            got = s3.get_object(Bucket=bucket, Key=f"k{size}")
            assert got["Body"].read() == body and got["ETag"] == put["ETag"]
            head = s3.head_object(Bucket=bucket, Key=f"k{size}")
            assert head["ContentLength"] == size and head["ETag"] == put["ETag"]
    assert relays(cluster) - before > 10
    assert series(cluster, "quickwater_peer_bytes_total") > 64 * MIB
    # Connections are kept for the next request.
    assert series(cluster, "quickwater_peer_connections_total", "out") < relays(cluster) / 2


def test_a_read_after_a_write_sees_it(s3: Anywhere, bucket: str) -> None:
    keys = [f"folder{number % 3}/k{number}" for number in range(12)]

    def one(key: str) -> None:
        mine = Anywhere.__new__(Anywhere)
        mine.random, mine.targets, mine.clients = random.Random(key), s3.targets, s3.clients
        for turn in range(8):
            body = payload(100 + turn, f"{key} {turn}")
            mine.put_object(Bucket=bucket, Key=key, Body=body)
            for _ in range(3):
                assert mine.get_object(Bucket=bucket, Key=key)["Body"].read() == body
        mine.delete_object(Bucket=bucket, Key=key)
        for _ in range(3):
            assert error_of(mine.get_object, Bucket=bucket, Key=key)[0] == 404
            listed = mine.list_objects_v2(Bucket=bucket).get("Contents", [])
            assert key not in [entry["Key"] for entry in listed]

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(one, keys))


def test_ranges_and_conditions(s3: Anywhere, bucket: str) -> None:
    for number in range(6):
        key, body = f"k{number}", payload(3 * MIB + 1 + number, number)
        etag = s3.put_object(Bucket=bucket, Key=key, Body=body)["ETag"]
        for first, last in [(0, 0), (MIB - 1, MIB), (10, 2 * MIB + 5), (3 * MIB, 3 * MIB + 99)]:
            got = s3.get_object(Bucket=bucket, Key=key, Range=f"bytes={first}-{last}")
            assert got["Body"].read() == body[first : last + 1]
            assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
        assert error_of(s3.get_object, Bucket=bucket, Key=key, Range="bytes=99999999-")[0] == 416
        assert error_of(s3.get_object, Bucket=bucket, Key=key, IfNoneMatch=etag)[0] == 304
        assert error_of(s3.head_object, Bucket=bucket, Key=key, IfNoneMatch=etag)[0] == 304
        assert error_of(s3.get_object, Bucket=bucket, Key=key, IfMatch='"other"')[0] == 412
        assert error_of(s3.put_object, Bucket=bucket, Key=key, Body=b"", IfNoneMatch="*")[0] == 412
        assert error_of(s3.get_object, Bucket=bucket, Key=f"no {key}") == (404, "NoSuchKey")
        assert error_of(s3.head_object, Bucket=bucket, Key=f"no {key}")[0] == 404
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == body


@pytest.mark.parametrize("kind", [STREAMING, STREAMING_TRAILER, UNSIGNED_TRAILER])
def test_framed_bodies(s3: Anywhere, bucket: str, kind: str) -> None:
    targets = [target for target in s3.targets for _ in range(2)]
    for target, size in zip(targets, [0, 1, 64 * KIB, 200_001, 3 * MIB, 77]):
        data = payload(size, kind)
        reply = put_streaming(target, bucket, kind, data)
        assert reply.status == 200, reply.brief()
        assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == data
    data = payload(150_000, "bad")
    for target in s3.targets:
        # The key has one owner: of these three two are relayed.
        reply = put_streaming(target, bucket, kind, data, lambda body: body[:-50])
        assert 400 <= reply.status < 500, reply.brief()
        reply = put_streaming(target, bucket, kind, data, flip(100_000))
        refused = 400 if kind == UNSIGNED_TRAILER else 403
        assert reply.status == refused, reply.brief()
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == payload(77, kind)


def test_what_the_body_must_hash_to(s3: Anywhere, bucket: str) -> None:
    good = payload(2 * MIB, "good")
    for target in s3.targets:
        wrong = Request("PUT", f"/{bucket}/k", body=good, payload_hash="0" * 64)
        assert send(target, wrong).code == "XAmzContentSHA256Mismatch"
        wrong = Request("PUT", f"/{bucket}/k", headers=[("Content-MD5", "A" * 22 + "==")], body=good)
        assert send(target, wrong).code == "BadDigest"
    assert error_of(s3.head_object, Bucket=bucket, Key="k")[0] == 404


def test_expect_continue(s3: Anywhere, bucket: str) -> None:
    body = payload(100_000, "expected")
    for target in s3.targets:
        request = Request("PUT", f"/{bucket}/k", headers=[("Expect", "100-continue")], body=body)
        with connect(target) as connection:
            connection.sendall(head_bytes(request, sign(target, request)))
            assert connection.recv(25, socket.MSG_WAITALL) == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.sendall(body)
            assert read_reply(connection, "PUT").status == 200
        # A refusal comes before the body is asked for.
        headers = [("Expect", "100-continue"), ("If-None-Match", "*")]
        request = Request("PUT", f"/{bucket}/k", headers=headers, body=body)
        with connect(target) as connection:
            connection.sendall(head_bytes(request, sign(target, request)))
            assert read_reply(connection, "PUT").status == 412


def test_multipart(s3: Anywhere, bucket: str) -> None:
    parts = [payload(5 * MIB + number, number) for number in range(3)] + [b"end"]
    for key in ("a", "b", "c/d"):
        upload = s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        named = {"Bucket": bucket, "Key": key, "UploadId": upload}
        etags = [
            s3.upload_part(**named, PartNumber=number, Body=body)["ETag"]
            for number, body in enumerate(parts, 1)
        ]
        seen = s3.list_parts(**named)["Parts"]
        assert [part["ETag"] for part in seen] == etags
        uploads = s3.list_multipart_uploads(Bucket=bucket)["Uploads"]
        assert [found["UploadId"] for found in uploads] == [upload]
        listed = [{"PartNumber": n, "ETag": etag} for n, etag in enumerate(etags, 1)]
        done = s3.complete_multipart_upload(**named, MultipartUpload={"Parts": listed})
        again = s3.complete_multipart_upload(**named, MultipartUpload={"Parts": listed})
        assert done["ETag"] == again["ETag"]
        got = s3.get_object(Bucket=bucket, Key=key)
        assert got["Body"].read() == b"".join(parts) and got["ETag"] == done["ETag"]
        second = s3.get_object(Bucket=bucket, Key=key, PartNumber=2)
        assert second["Body"].read() == parts[1]
    upload = s3.create_multipart_upload(Bucket=bucket, Key="gone")["UploadId"]
    s3.upload_part(Bucket=bucket, Key="gone", UploadId=upload, PartNumber=1, Body=b"x")
    s3.abort_multipart_upload(Bucket=bucket, Key="gone", UploadId=upload)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)


def test_copies_across_workers(cluster: Cluster, s3: Anywhere, bucket: str) -> None:
    body = payload(3 * MIB + 1, "source")
    before = relays(cluster, "copy_source")
    s3.put_object(
        Bucket=bucket, Key="source", Body=body, Metadata={"a": "b"}, ContentType="text/x",
        Tagging="t=1", ChecksumAlgorithm="SHA256",
    )
    source = {"Bucket": bucket, "Key": "source"}
    for number in range(12):
        key = f"copy{number}"
        s3.copy_object(Bucket=bucket, Key=key, CopySource=source)
        got = s3.get_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        assert got["Body"].read() == body and got["Metadata"] == {"a": "b"}
        assert got["ContentType"] == "text/x" and "ChecksumSHA256" in got
        tags = s3.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]
        assert tags == [{"Key": "t", "Value": "1"}]
    missing = {"Bucket": bucket, "Key": "none"}
    for number in range(6):
        key = f"copy{number}"
        assert error_of(s3.copy_object, Bucket=bucket, Key=key, CopySource=missing) == (404, "NoSuchKey")
        wrong = error_of(
            s3.copy_object, Bucket=bucket, Key=key, CopySource=source, CopySourceIfMatch='"x"'
        )
        assert wrong[0] == 412
        named = {"Bucket": bucket, "Key": f"parts{number}"}
        named["UploadId"] = s3.create_multipart_upload(**named)["UploadId"]
        part = s3.upload_part_copy(
            **named, PartNumber=1, CopySource=source, CopySourceRange=f"bytes=5-{MIB}"
        )
        bad = error_of(
            s3.upload_part_copy, **named, PartNumber=1, CopySource=source,
            CopySourceRange=f"bytes=5-{99 * MIB}",
        )
        assert bad[0] in (400, 416)
        listed = [{"PartNumber": 1, "ETag": part["CopyPartResult"]["ETag"]}]
        s3.complete_multipart_upload(**named, MultipartUpload={"Parts": listed})
        got = s3.get_object(Bucket=bucket, Key=f"parts{number}")["Body"].read()
        assert got == body[5 : MIB + 1]
    empty = {"Bucket": bucket, "Key": "empty"}
    s3.put_object(**empty, Body=b"")
    for number in range(4):
        s3.copy_object(Bucket=bucket, Key=f"empty{number}", CopySource=empty)
        assert s3.head_object(Bucket=bucket, Key=f"empty{number}")["ContentLength"] == 0
    assert relays(cluster, "copy_source") > before


def test_batches_of_deletes(cluster: Cluster, s3: Anywhere, bucket: str) -> None:
    keys = [f"k{number}" for number in range(60)]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    before = relays(cluster, "delete_keys")
    names = [{"Key": key} for key in [*keys[:50], "never there"]]
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": names})
    assert "Errors" not in answer
    assert [found["Key"] for found in answer["Deleted"]] == [name["Key"] for name in names]
    assert relays(cluster, "delete_keys") > before
    for key in keys[:50:7]:
        assert error_of(s3.head_object, Bucket=bucket, Key=key)[0] == 404
    left = s3.list_objects_v2(Bucket=bucket)["Contents"]
    assert [entry["Key"] for entry in left] == sorted(keys[50:])
    wrong = [{"Key": key, "ETag": '"0123456789abcdef0123456789abcdef"'} for key in keys[50:]]
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": wrong})
    assert {error["Code"] for error in answer["Errors"]} == {"PreconditionFailed"}
    assert len(s3.list_objects_v2(Bucket=bucket)["Contents"]) == 10


def test_listings(cluster: Cluster, s3: Anywhere, bucket: str) -> None:
    keys = sorted(f"{folder}/{number:02}" for folder in "abc" for number in range(15))
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    for name in ("list_objects", "list_objects_v2"):
        listed = getattr(s3, name)(Bucket=bucket)["Contents"]
        assert [entry["Key"] for entry in listed] == keys
        rolled = getattr(s3, name)(Bucket=bucket, Delimiter="/")
        assert [prefix["Prefix"] for prefix in rolled["CommonPrefixes"]] == ["a/", "b/", "c/"]
        below = getattr(s3, name)(Bucket=bucket, Prefix="b/", Delimiter="/")["Contents"]
        assert [entry["Key"] for entry in below] == keys[15:30]
    seen, token = [], {}
    while True:
        page = s3.list_objects_v2(Bucket=bucket, MaxKeys=7, **token)
        seen += [entry["Key"] for entry in page["Contents"]]
        if not page["IsTruncated"]:
            break
        token = {"ContinuationToken": page["NextContinuationToken"]}
    assert seen == keys


def test_what_appears_in_the_ufs_is_judged_by_its_owner(
    cluster: Cluster, s3: Anywhere, bucket: str
) -> None:
    s3.put_object(Bucket=bucket, Key="ours", Body=b"ours")
    root = cluster.home / "ufs" / bucket
    before = relays(cluster, "look_again")
    for number in range(20):
        (root / f"theirs{number:02}").write_bytes(b"put there by somebody else %d" % number)
    (root / "ours").unlink()
    fresh = {"Bucket": bucket}

    def listed() -> list[str]:
        # `no-cache`: compare with the UFS now.
        request = Request("GET", f"/{bucket}", headers=[("Cache-Control", "no-cache")])
        reply = send(s3.target(), request)
        assert reply.status == 200, reply.brief()
        return re.findall(r"<Key>([^<]*)</Key>", reply.body.decode())

    assert listed() == [f"theirs{number:02}" for number in range(20)]
    assert relays(cluster, "look_again") > before
    for number in range(20):
        got = s3.get_object(**fresh, Key=f"theirs{number:02}")["Body"].read()
        assert got == b"put there by somebody else %d" % number
        s3.put_object(**fresh, Key=f"theirs{number:02}", Body=b"ours now")
    assert len(listed()) == 20
    assert s3.get_object(**fresh, Key="theirs07")["Body"].read() == b"ours now"
    assert error_of(s3.get_object, **fresh, Key="ours")[0] == 404


def test_buckets(cluster: Cluster, s3: Anywhere) -> None:
    s3.create_bucket(Bucket="made-anywhere")
    for client in s3.clients:
        assert "made-anywhere" in [b["Name"] for b in client.list_buckets()["Buckets"]]
        client.head_bucket(Bucket="made-anywhere")
    for number in range(6):
        s3.put_object(Bucket="made-anywhere", Key=f"k{number}", Body=b"x")
        assert error_of(s3.delete_bucket, Bucket="made-anywhere") == (409, "BucketNotEmpty")
        s3.delete_object(Bucket="made-anywhere", Key=f"k{number}")
    s3.delete_bucket(Bucket="made-anywhere")
    for client in s3.clients:
        cluster.wait_for(lambda c=client: error_of(c.head_bucket, Bucket="made-anywhere")[0] == 404)
        assert error_of(client.get_object, Bucket="made-anywhere", Key="k0") == (404, "NoSuchBucket")


def test_a_client_that_leaves_changes_nothing(cluster: Cluster, s3: Anywhere, bucket: str) -> None:
    old = payload(2 * MIB, "old")
    s3.put_object(Bucket=bucket, Key="k", Body=old)
    new = payload(8 * MIB, "new")
    for target in s3.targets:
        request = Request("PUT", f"/{bucket}/k", body=new)
        with connect(target) as connection:
            connection.sendall(head_bytes(request, sign(target, request)) + new[: 5 * MIB])
        request = Request("GET", f"/{bucket}/k")
        with connect(target) as connection:
            connection.sendall(head_bytes(request, sign(target, request)))
            assert connection.recv(1000)
    for _ in range(6):
        assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == old
    # Nothing is left under way.
    cluster.wait_for(lambda: not list((cluster.home / "ufs").glob("**/*.part")))


def test_the_workers_port_wants_a_certificate(cluster: Cluster) -> None:
    for node in NODES:
        host, port = str(cluster.worker(node).run["peers"]).rsplit(":", 1)
        for words in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"QWP1" + bytes(28), b"\x16\x03\x01\xff\xff"):
            with socket.create_connection((host, int(port)), 60) as stranger:
                stranger.sendall(words)
                stranger.settimeout(60)
                try:
                    answer = stranger.recv(4096)
                except ConnectionResetError:
                    answer = b""
                assert not answer.startswith(b"HTTP") and b"QWP1" not in answer
    cluster.wait_for(lambda: series(cluster, "quickwater_peer_connections_total", "refused") >= 9)


@pytest.fixture
def fragile(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of its own, to be broken."""
    with settled(tmp_path / "fragile", "60s", NODES) as made:
        yield made


def owner_of(cluster: Cluster, target: Target, path: str) -> str:
    """The worker that a GET by another one is relayed to; that one itself if it is not."""
    before = {node: cluster.worker(node).metric("quickwater_peer_served_total") for node in NODES}
    assert send(target, Request("GET", path)).status == 200
    after = {node: cluster.worker(node).metric("quickwater_peer_served_total") for node in NODES}
    served = [node for node in NODES if after[node] > before[node]]
    return served[0] if served else ""


def test_an_owner_that_dies(fragile: Cluster) -> None:
    s3 = Anywhere(fragile, 2)
    s3.create_bucket(Bucket="abc")
    body = payload(48 * MIB, "large")
    entry = fragile.worker("n1").target()
    names = iter(f"k{number}" for number in range(100))
    key = next(names)
    s3.put_object(Bucket="abc", Key=key, Body=body)
    while not (owner := owner_of(fragile, entry, f"/abc/{key}")):
        key = next(names)
        s3.put_object(Bucket="abc", Key=key, Body=body)
    # In the middle of a GET: never a short body that looks whole.
    request = Request("GET", f"/abc/{key}")
    with connect(entry) as connection:
        connection.sendall(head_bytes(request, sign(entry, request)))
        assert connection.recv(15, socket.MSG_WAITALL) == b"HTTP/1.1 200 OK"
        fragile.worker(owner).kill()
        with pytest.raises(BROKEN):
            rest = b""
            while more := connection.recv(1 << 20):
                rest += more
            assert len(rest) < len(body)
            raise ConnectionResetError
    # While it is dead its keys are not answered for by anybody else.
    reply = send(entry, request)
    assert (reply.status, reply.code) == (503, "SlowDown"), reply.brief()
    fragile.worker(owner)
    client = entry.client()

    def whole() -> bool:
        try:
            return client.get_object(Bucket="abc", Key=key)["Body"].read() == body
        except ClientError as error:
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 503, error
            return False

    fragile.wait_for(whole)
    # In the middle of a PUT: old or new, whatever the client was told.
    new = payload(48 * MIB, "new")
    request = Request("PUT", f"/abc/{key}", body=new)
    with connect(entry) as connection:
        connection.sendall(head_bytes(request, sign(entry, request)) + new[: 10 * MIB])
        fragile.worker(owner).kill()
        try:
            connection.sendall(new[10 * MIB :])
            status = read_reply(connection, "PUT").status
        except BROKEN:
            status = 0
        assert status in (0, 503), status
    fragile.worker(owner)
    fragile.wait_for(whole)
