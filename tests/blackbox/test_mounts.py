"""A `file://` mount whose directory is not the one that was written to: the bare mount
point of a file system that is not mounted, or an emptied directory.

The file system is a bind mount: its device number is that of the mount point below it,
so that only the mark tells the two apart; or ext4 on a loop device.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Iterator, Protocol

import pytest

from conftest import ServeFactory
from harness.apart import one_process
from harness.loopfs import LoopFs, missing
from harness.payload import KIB, MIB, payload
from harness.server import Server
from harness.target import error_of

HEAL_SECONDS = 30.0
MARK = ".quickwater/identity"
POLICIES = {
    "apiVersion": "v1.0",
    "defaultRule": {"policyMode": "WRITE_BACK"},
    "pathRules": [{"path": "/nas/through/**", "policyMode": "WRITE_THROUGH"}],
}


class Nas(Protocol):
    """A file system at a mount point."""

    mount_point: Path

    def mount(self) -> None:
        """Mounts it."""

    def unmount(self) -> None:
        """Leaves the bare mount point, whoever has it open."""

    def close(self) -> None:
        """Unmounts and removes it."""


class Bound:
    """A directory bound to a mount point: the same device."""

    def __init__(self, home: Path) -> None:
        self.store, self.mount_point = home / "store", home / "mnt"
        self.store.mkdir()
        self.mount_point.mkdir()
        self.mounted = False

    def mount(self) -> None:
        words = ["mount", "--bind", str(self.store), str(self.mount_point)]
        subprocess.run(words, check=True)
        self.mounted = True

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", str(self.mount_point)], check=True)
        self.mounted = False

    def close(self) -> None:
        if self.mounted:
            self.unmount()


class Loop(LoopFs):
    """ext4 on a loop device."""

    def __init__(self, home: Path) -> None:
        super().__init__(home, "ext4", 64 * MIB)

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", str(self.mount_point)], check=True)
        self.mounted = False


@pytest.fixture(params=["bind", "ext4"])
def nas(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Nas]:
    """A mounted file system."""
    if request.param == "ext4" and missing("ext4"):
        pytest.skip(missing("ext4"))
    home = tmp_path / "nas"
    home.mkdir()
    made: Nas = Bound(home) if request.param == "bind" else Loop(home)
    if request.param == "bind":
        made.mount()
    yield made
    made.close()


def policies(server: Server, document: dict[str, Any] = POLICIES) -> None:
    path = server.home / "policies.json"
    path.write_text(json.dumps(document))
    server.cli("pathconfig", "apply", str(path))


def front(serve: ServeFactory, place: Path, **more: Any) -> Server:
    """A service with the directory as bucket `nas`; what failed waits for a minute."""
    flags = {"metadata-ttl": "200ms", "write-cache-persist-retry-initial": "60s", **more}
    server = serve(flags=flags, mounts={"nas": f"file://{place}"})
    policies(server)
    return server


def until(holds: Callable[[], bool], seconds: float = HEAL_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.1)


def persisted(server: Server, path: str = "/nas") -> None:
    server.cli("async-persist", "wait", "--path", path, "--timeout", "30s")


def files(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def refused(server: Server, key: str) -> bool:
    """Whether an attempt at the key's change has ended without success."""
    told = server.cli("async-persist", "stat", "--path", f"/nas/{key}").stdout
    return re.search(r"(?i)attempts?\W+[1-9]", told) is not None


def in_trouble(server: Server) -> bool:
    return server.metric("quickwater_ufs_misplaced_mounts") == 1


@one_process("status and mount accept are the control plane's own look at a directory")
@pytest.mark.root
def test_started_before_the_file_system_is_mounted(serve: ServeFactory, nas: Nas) -> None:
    place = nas.mount_point
    server = front(serve, place)
    s3 = server.target().client()
    kept, late = payload(70 * KIB, "kept"), payload(10 * KIB, "late")
    s3.put_object(Bucket="nas", Key="kept", Body=kept)
    s3.put_object(Bucket="nas", Key="through/old", Body=b"old")
    persisted(server)
    assert (place / MARK).exists()
    assert server.stop() == 0
    nas.unmount()
    assert files(place) == []

    server.start()
    until(lambda: in_trouble(server))
    s3 = server.target().client()
    # Acked and read from here, as while a store is down.
    s3.put_object(Bucket="nas", Key="late", Body=late)
    s3.put_object(Bucket="nas", Key="kept", Body=b"newer")
    s3.delete_object(Bucket="nas", Key="kept")
    assert s3.get_object(Bucket="nas", Key="late")["Body"].read() == late
    # What has to be there is refused: nothing is changed, or taken for gone.
    for call, more in ((s3.put_object, {"Body": b"x"}), (s3.delete_object, {})):
        assert error_of(call, Bucket="nas", Key="through/old", **more)[0] == 503
    assert error_of(s3.get_object, Bucket="nas", Key="never-seen")[0] == 503
    time.sleep(3)
    assert files(place) == [] and os.listdir(place) == [], "the bare mount point is left alone"
    state = s3.head_object(Bucket="nas", Key="late")["ResponseMetadata"]["HTTPHeaders"]
    assert state["x-quickwater-persist-state"] != "PERSISTED"
    for told in (server.cli("status").stdout, server.cli("mount", "list").stdout, server.log()):
        assert "its mark .quickwater/identity is missing" in told
        assert "quickwater mount accept nas" in told
    shown = json.loads(server.cli("mount", "list", "--output", "json").stdout)["mounts"]
    assert "missing" in [m["trouble"] for m in shown if m["bucket"] == "nas"][0]
    doctor = server.cli("doctor", check=False)
    assert doctor.returncode == 1 and "is missing" in doctor.stdout

    nas.mount()
    until(lambda: not in_trouble(server))
    persisted(server)
    assert (place / "late").read_bytes() == late
    assert not (place / "kept").exists(), "the delete got there"
    assert (place / "through/old").read_bytes() == b"old"
    s3.put_object(Bucket="nas", Key="through/old", Body=b"new")
    assert (place / "through/old").read_bytes() == b"new"
    assert json.loads(server.cli("status", "--output", "json").stdout)["troubles"] == []


@pytest.mark.root
def test_unmounted_under_a_running_service(serve: ServeFactory, nas: Nas) -> None:
    place = nas.mount_point
    server = front(serve, place)
    s3 = server.target().client()
    s3.put_object(Bucket="nas", Key="a", Body=b"a")
    persisted(server)
    nas.unmount()
    s3.put_object(Bucket="nas", Key="b", Body=b"b")
    s3.delete_object(Bucket="nas", Key="a")
    assert error_of(s3.put_object, Bucket="nas", Key="through/c", Body=b"c")[0] == 503
    until(lambda: in_trouble(server))
    # What is on its way when the mount comes back is tried again a minute later.
    until(lambda: all(refused(server, key) for key in ("b", "a")))
    assert os.listdir(place) == []
    nas.mount()
    until(lambda: not in_trouble(server))
    persisted(server)
    assert (place / "b").read_bytes() == b"b" and not (place / "a").exists()
    assert os.listdir(place) != []


@one_process("status and mount accept are the control plane's own look at a directory")
def test_a_directory_emptied_while_we_were_away(serve: ServeFactory, tmp_path: Path) -> None:
    place = tmp_path / "dir"
    place.mkdir()
    server = front(serve, place)
    s3 = server.target().client()
    s3.put_object(Bucket="nas", Key="old", Body=b"old")
    persisted(server)
    assert server.stop() == 0
    shutil.rmtree(place)
    place.mkdir()
    server.start()
    s3 = server.target().client()
    until(lambda: in_trouble(server))
    s3.put_object(Bucket="nas", Key="new", Body=b"new")
    assert error_of(s3.put_object, Bucket="nas", Key="through/x", Body=b"x")[0] == 503
    nothing = server.cli("mount", "accept", "other", check=False)
    assert nothing.returncode != 0 and "no bucket 'other'" in nothing.stderr
    server.cli("mount", "accept", "nas")
    assert not in_trouble(server)
    persisted(server)
    assert (place / "new").read_bytes() == b"new"
    s3.put_object(Bucket="nas", Key="through/x", Body=b"x")
    assert error_of(s3.get_object, Bucket="nas", Key="old")[0] == 404
    server.restart()
    s3 = server.target().client()
    s3.put_object(Bucket="nas", Key="through/y", Body=b"y")
    assert not in_trouble(server)


def test_emptied_in_place_under_a_running_service(serve: ServeFactory, tmp_path: Path) -> None:
    """The open directory is the same one: it is marked again, and known after a start."""
    place = tmp_path / "dir"
    place.mkdir()
    server = front(serve, place)
    s3 = server.target().client()
    s3.put_object(Bucket="nas", Key="through/a", Body=b"a")
    mark = (place / MARK).read_bytes()
    for entry in place.iterdir():
        shutil.rmtree(entry)
    s3.put_object(Bucket="nas", Key="through/b", Body=b"b")
    assert (place / MARK).read_bytes() == mark
    server.restart()
    s3 = server.target().client()
    s3.put_object(Bucket="nas", Key="through/c", Body=b"c")
    assert not in_trouble(server)


@one_process("status and mount accept are the control plane's own look at a directory")
def test_another_directory(serve: ServeFactory, tmp_path: Path) -> None:
    """Two buckets whose directories changed places."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    server = serve(mounts={"one": f"file://{one}", "two": f"file://{two}"})
    s3 = server.target().client()
    for name in ("one", "two"):
        s3.put_object(Bucket=name, Key="of", Body=name.encode())
    assert server.stop() == 0
    one.rename(tmp_path / "spare")
    two.rename(one)
    (tmp_path / "spare").rename(two)
    server.start()
    s3 = server.target().client()
    until(lambda: server.metric("quickwater_ufs_misplaced_mounts") == 2)
    assert "that of another directory" in server.cli("status").stdout
    for name in ("one", "two"):
        assert error_of(s3.put_object, Bucket=name, Key="of", Body=b"?")[0] == 503
    server.cli("mount", "accept", "one")
    assert s3.put_object(Bucket="one", Key="more", Body=b"1")
    assert server.metric("quickwater_ufs_misplaced_mounts") == 1
    assert (one / "of").read_bytes() == b"two", "accepted as it is"


def test_the_mark_is_no_object(serve: ServeFactory, tmp_path: Path) -> None:
    place = tmp_path / "dir"
    place.mkdir()
    server = serve(mounts={"nas": f"file://{place}"})
    s3 = server.target().client()
    assert files(place) == [], "reading marks nothing"
    s3.put_object(Bucket="nas", Key="k", Body=b"k")
    mark = (place / MARK).read_bytes()
    assert [e["Key"] for e in s3.list_objects_v2(Bucket="nas")["Contents"]] == ["k"]
    assert error_of(s3.get_object, Bucket="nas", Key=MARK)[0] == 404
    s3.put_object(Bucket="nas", Key=MARK, Body=b"of a client")
    s3.delete_object(Bucket="nas", Key=MARK)
    assert (place / MARK).read_bytes() == mark, "no client reaches it"


def test_a_directory_two_nodes_share(serve: ServeFactory, tmp_path: Path) -> None:
    place = tmp_path / "dir"
    place.mkdir()
    mounts = {"nas": f"file://{place}"}
    nodes = [serve(f"node{n}", mounts=mounts) for n in (1, 2)]
    for round_ in range(2):
        for number, node in enumerate(nodes):
            s3 = node.target().client()
            s3.put_object(Bucket="nas", Key=f"{number}-{round_}", Body=b"x")
            node.restart()
            assert node.metric("quickwater_ufs_misplaced_mounts") == 0
    # Metadata that was lost takes the mark over, and knows the directory from then on.
    assert nodes[0].stop() == 0
    shutil.rmtree(nodes[0].dir)
    nodes[0].start()
    assert nodes[0].target().client().get_object(Bucket="nas", Key="1-1")["Body"].read() == b"x"
    assert nodes[0].stop() == 0
    shutil.rmtree(place)
    place.mkdir()
    nodes[0].start()
    until(lambda: in_trouble(nodes[0]))


def test_a_bucket_made_again(serve: ServeFactory) -> None:
    server = serve()
    s3 = server.target().client()
    for _ in range(2):
        s3.create_bucket(Bucket="again")
        s3.put_object(Bucket="again", Key="k", Body=b"k")
        s3.delete_object(Bucket="again", Key="k")
        s3.delete_bucket(Bucket="again")
    assert server.metric("quickwater_ufs_misplaced_mounts") == 0


@one_process("the control plane cannot know the directories of workers")
def test_a_directory_is_mounted_once_and_never_our_own(serve: ServeFactory, tmp_path: Path) -> None:
    """Links are followed: what overlaps is refused, whatever it is called."""
    place, link = tmp_path / "dir", tmp_path / "link"
    (place / "inner").mkdir(parents=True)
    link.symlink_to(place)
    server = serve(mounts={"one": f"file://{place}"})
    for taken in (link, link / "inner"):
        done = server.cli("mount", "add", "two", f"file://{taken}", check=False)
        assert done.returncode == 1 and "bucket 'one'" in done.stderr, done
    for own in (server.dir, server.dir / "store", server.dir.parent):
        done = server.cli("mount", "add", "two", f"file://{own}", check=False)
        assert done.returncode == 1 and "own directory" in done.stderr, done
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert server.cli("mount", "add", "two", f"file://{elsewhere}").returncode == 0
