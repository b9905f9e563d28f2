"""Full disks: the cache's and the UFS's. The right error, then recovery."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest

from conftest import EXTERNAL, ServeFactory
from harness.loopfs import LoopFs, missing
from harness.payload import MIB, payload
from harness.raw import Request, send
from harness.server import Server
from harness.target import error_of

from .test_ufs_posix import visible

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(missing("ext4")), reason=missing("ext4") or "-"),
    pytest.mark.skipif(bool(EXTERNAL), reason="needs a service of its own"),
]
STORE = {"capacity": str(32 * MIB), "segment-size": str(4 * MIB), "memory": str(256 * MIB)}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[LoopFs]:
    disk = LoopFs(tmp_path / "disk", "ext4", 96 * MIB)
    yield disk
    disk.close()


def fill(path: Path) -> None:
    """Takes all space that is left."""
    with path.open("wb") as file:
        try:
            while True:
                file.write(b"\0" * MIB)
                file.flush()
        except OSError:
            pass  # full: that was the point


def test_ufs_full(serve: ServeFactory, small_disk: LoopFs) -> None:
    root = small_disk.mount_point / "ufs"
    root.mkdir()
    server = serve(flags={"ufs": f"file://{root}"})
    client = server.target().client()
    client.create_bucket(Bucket="full")
    client.put_object(Bucket="full", Key="kept", Body=b"kept")
    stored = 0
    for number in range(200):
        request = Request("PUT", f"/full/k{number}", body=payload(2 * MIB, number))
        reply = send(server.target(), request)
        if reply.status != 200:
            break
        stored += 1
    else:
        raise AssertionError("the disk never filled")
    assert reply.status in (507, 503, 500), reply.brief()
    assert reply.code, "an S3 error document"
    names = [e["Key"] for e in client.list_objects_v2(Bucket="full")["Contents"]]
    assert len(names) == stored + 1
    assert sorted(names) == visible(root / "full"), "nothing half-visible"
    assert error_of(client.head_object, Bucket="full", Key=f"k{stored}")[0] == 404
    for number in range(stored):
        body = client.get_object(Bucket="full", Key=f"k{number}")["Body"].read()
        assert body == payload(2 * MIB, number)
        client.delete_object(Bucket="full", Key=f"k{number}")
    client.put_object(Bucket="full", Key="again", Body=payload(2 * MIB, "again"))
    assert client.get_object(Bucket="full", Key="again")["Body"].read() == payload(2 * MIB, "again")
    assert client.get_object(Bucket="full", Key="kept")["Body"].read() == b"kept"


def test_cache_disk_full(serve: ServeFactory, small_disk: LoopFs) -> None:
    """Others fill the cache's disk: reads go on from the UFS, and it recovers."""
    server = serve(flags=STORE, directory=small_disk.mount_point / "data")
    client = server.target().client()
    client.create_bucket(Bucket="b-1")
    client.put_object(Bucket="b-1", Key="k", Body=payload(MIB, "k"))
    (server.ufs / "b-1" / "cold").write_bytes(payload(20 * MIB, "cold"))
    ballast = small_disk.mount_point / "ballast"
    fill(ballast)
    assert client.get_object(Bucket="b-1", Key="k")["Body"].read() == payload(MIB, "k")
    # Metadata may have no room: 5xx is honest, 200 must be true.
    for number in range(30):
        body = payload(500_000, number)
        reply = send(server.target(), Request("PUT", f"/b-1/n{number}", body=body))
        assert reply.status in (200, 500, 503, 507), reply.brief()
        if reply.status == 200:
            assert send(server.target(), Request("GET", f"/b-1/n{number}")).body == body
    ballast.unlink()
    if not _works(server):
        # A failed flush is fail-stop (C8), of the metadata too: an operator restarts.
        server.restart()
        assert _works(server)
    assert client_reads(server, "cold") == payload(20 * MIB, "cold")
    assert client_reads(server, "k") == payload(MIB, "k")


def _works(server: Server) -> bool:
    reply = send(server.target(), Request("PUT", "/b-1/after", body=b"after"))
    return reply.status == 200 and client_reads(server, "after") == b"after"


def client_reads(server: Server, key: str) -> bytes:
    return bytes(server.target().client().get_object(Bucket="b-1", Key=key)["Body"].read())


def test_no_room_for_the_store_at_start(serve: ServeFactory, small_disk: LoopFs) -> None:
    """A clear refusal, or a service that works without a full-size store."""
    server = serve(flags={"capacity": str(1024 * MIB)}, directory=small_disk.mount_point / "data", start=False)
    process = server.launch()
    if server.wait_ready(process, 30):
        client = server.target().client()
        client.create_bucket(Bucket="b-1")
        client.put_object(Bucket="b-1", Key="k", Body=b"x")
        assert client_reads(server, "k") == b"x"
        return
    assert process.poll() not in (None, 0), server.log_tail()
    assert "capacity" in server.log() or "space" in server.log(), server.log_tail()
