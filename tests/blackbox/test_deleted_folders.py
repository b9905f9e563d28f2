"""Folders in listings after deletes: one that has no key any more is shown by nobody, with
metadata that are trusted for an hour."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Iterator

import pytest

from harness.anywhere import NODES, three
from harness.cluster import Cluster
from harness.server import Server
from harness.target import fresh_name

TRUSTED = {"metadata-ttl": "1h"}
MODES = ["WRITE_THROUGH", "WRITE_BACK"]


class Place:
    """One service or three, as one client each sees them."""

    def __init__(self, of: Server | Cluster, clients: list[Any], ufs: Path) -> None:
        self.of, self.clients, self.ufs = of, clients, ufs
        self.bucket, self.turn = fresh_name(), 0
        self.any().create_bucket(Bucket=self.bucket)

    def any(self) -> Any:
        """One after the other."""
        self.turn += 1
        return self.clients[self.turn % len(self.clients)]

    def put(self, *keys: str) -> None:
        for key in keys:
            self.any().put_object(Bucket=self.bucket, Key=key, Body=key.encode())

    def place(self, *keys: str) -> None:
        """Behind the service's back."""
        for key in keys:
            file = self.ufs / self.bucket / key
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(key)

    def delete(self, *keys: str) -> None:
        for key in keys:
            self.any().delete_object(Bucket=self.bucket, Key=key)

    def persist(self) -> None:
        """The UFS has everything."""
        words = ("async-persist", "wait", "--path", f"/{self.bucket}", "--timeout", "2m")
        done = self.of.cli(*words)
        assert done.returncode == 0, done

    def folders(self, prefix: str) -> list[str]:
        """What every one shows."""
        shown = [
            [e["Prefix"] for e in page.get("CommonPrefixes", [])]
            for page in (
                s3.list_objects_v2(Bucket=self.bucket, Prefix=prefix, Delimiter="/")
                for s3 in self.clients
            )
        ]
        assert all(one == shown[0] for one in shown), shown
        return shown[0]


@pytest.fixture(scope="module", params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    """The policy of everything."""
    return str(request.param)


@pytest.fixture(scope="module", params=["one", "three"])
def service(
    mode: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server | Cluster, list[Any], Path]]:
    """A service alone, or three workers."""
    home = tmp_path_factory.mktemp(f"folders-{request.param}-{mode.lower()}")
    if request.param == "three":
        with three(home, "10m", flags=TRUSTED) as made:
            clients = [made.worker(node).target().client() for node in NODES]
            clients[0].create_bucket(Bucket="abc")
            made.policy_of_all(mode)
            yield made, clients, home / "ufs"
        return
    server = Server(home, flags=TRUSTED)
    try:
        server.start()
        rules = home / "rules.json"
        rules.write_text(json.dumps({"apiVersion": "v1.0", "defaultRule": {"policyMode": mode}}))
        server.cli("pathconfig", "apply", str(rules))
        yield server, [server.target().client()], home / "ufs"
    finally:
        server.close()


@pytest.fixture
def place(service: tuple[Server | Cluster, list[Any], Path]) -> Place:
    """With a bucket of its own."""
    return Place(*service)


def test_a_folder_is_gone_with_its_last_key(place: Place) -> None:
    place.put("t/one/k", "t/two/k", "t/two/l", "t/deep/er/k", "other/k")
    place.persist()
    # The UFS alone knows of these, until somebody lists the folder.
    place.place("t/found/k", "t/kept/k", "t/kept/l")
    assert place.folders("t/") == ["t/deep/", "t/found/", "t/kept/", "t/one/", "t/two/"]
    assert place.folders("t/deep/") == ["t/deep/er/"]
    assert place.folders("") == ["other/", "t/"]
    place.delete("t/one/k", "t/two/k", "t/deep/er/k", "t/found/k", "t/kept/k")
    for _ in range(2):
        assert place.folders("t/") == ["t/kept/", "t/two/"]
        assert place.folders("t/deep/") == []
        assert place.folders("") == ["other/", "t/"]
        place.persist()
    place.put("t/one/again")
    assert place.folders("t/") == ["t/kept/", "t/one/", "t/two/"]
    batch = ["t/one/again", "t/two/l", "t/kept/l"]
    words = {"Objects": [{"Key": key} for key in batch]}
    gone = place.any().delete_objects(Bucket=place.bucket, Delete=words)
    assert "Errors" not in gone
    for _ in range(2):
        assert place.folders("t/") == []
        assert place.folders("") == ["other/"]
        place.persist()


def test_deletes_one_after_the_other(place: Place) -> None:
    keys = [f"t/{number:02}/k" for number in range(12)]
    place.put(*keys)
    place.persist()
    folders = [key.removesuffix("k") for key in keys]
    assert place.folders("t/") == folders
    for turn, key in enumerate(keys, 1):
        place.delete(key)
        assert place.folders("t/") == folders[turn:]
        if turn % 4 == 0:
            place.persist()
            assert place.folders("t/") == folders[turn:]
