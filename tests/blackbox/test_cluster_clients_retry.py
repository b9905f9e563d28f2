"""Stock clients with their standard retries at a random one of three workers, which are killed
and started again one after the other: nothing that a client does fails, nobody is redirected,
every byte is compared."""

from __future__ import annotations

import contextlib
import random
import threading
from pathlib import Path
from typing import Any, Iterator

import pytest
from boto3.s3.transfer import TransferConfig

from harness.anywhere import NODES
from harness.cluster import PATIENCE_SECONDS, Cluster, settled
from harness.payload import MIB, payload
from harness.splitter import Splitter
from harness.target import Target

from .test_clients import file_system, run
from .test_cluster_clients import AWS_CONFIG, COPIES, LARGE, PART, persisted

pytestmark = [pytest.mark.slow, pytest.mark.needs("aws")]

BUCKET = "killed"
STANDARD = {"AWS_RETRY_MODE": "standard"}
SMALL = 5
# What each client does between a worker's start and the next one's end.
STEPS = 6
# For these, on a machine with much else to do.
STEPS_SECONDS = 3 * PATIENCE_SECONDS


class Client:
    """One that does one thing after the other until it is told to stop. Its own keys begin with
    its name; a round leaves one object and takes the rest away."""

    name = ""

    def __init__(self, target: Target, home: Path) -> None:
        self.target, self.home = target, home
        home.mkdir()
        self.done = 0
        self.failed: list[str] = []
        self.left: dict[str, bytes] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """After the round it is in."""
        self._stopping.set()

    def join(self) -> None:
        """Until it is at rest."""
        self._thread.join(STEPS_SECONDS)
        assert not self._thread.is_alive(), f"{self.name} does not end"

    def _run(self) -> None:
        turn = 0
        while not (self._stopping.is_set() or self.failed):
            turn += 1
            seed = (self.name, turn)
            small = {f"{self.name}/{turn}/s/{n}": payload(1000 * n, (*seed, n)) for n in range(SMALL)}
            try:
                for step in self.round(f"{self.name}/{turn}", payload(LARGE, seed), small):
                    assert step is not False, f"turn {turn}, step {self.done}"
                    self.done += 1
            except Exception as error:  # whatever it is, a client has failed
                self.failed.append(f"{self.name}, turn {turn}, step {self.done}: {error!r}")

    def round(self, place: str, large: bytes, small: dict[str, bytes]) -> Iterator[Any]:
        """Its steps; one that is false is a failure. `place`/large is left."""
        raise NotImplementedError


class AwsCli(Client):
    """aws s3, with small parts and eight requests at a time."""

    name = "aws"

    def _aws(self, *words: str) -> str:
        config = self.home / "config"
        config.write_text(AWS_CONFIG)
        return run(self.target, "aws", "s3", *words, AWS_CONFIG_FILE=str(config), **STANDARD)

    def round(self, place: str, large: bytes, small: dict[str, bytes]) -> Iterator[Any]:
        url, here, back = f"s3://{BUCKET}/{place}", self.home / place, self.home / f"{place}-back"
        (here / "s").mkdir(parents=True)
        (here / "large").write_bytes(large)
        for name, body in small.items():
            (here / "s" / name.rsplit("/", 1)[1]).write_bytes(body)
        yield self._aws("sync", str(here), url)
        yield self._aws("cp", f"{url}/large", f"{url}/copy")
        yield self._aws("mv", f"{url}/copy", f"{url}/moved")
        yield self._aws("sync", url, str(back))
        yield (back / "moved").read_bytes() == (back / "large").read_bytes() == large
        for name, body in small.items():
            yield (self.home / f"{place}-back" / name.removeprefix(f"{place}/")).read_bytes() == body
        yield self._aws("rm", "--recursive", f"{url}/s")
        yield self._aws("rm", f"{url}/moved")
        yield self._aws("ls", "--recursive", url).split()[3:] == [f"{place}/large"]
        self.left[f"{place}/large"] = large


class Boto3(Client):
    """Transfers by threads, batches, listings."""

    name = "boto3"

    def round(self, place: str, large: bytes, small: dict[str, bytes]) -> Iterator[Any]:
        s3 = self.target.client(retries={"mode": "standard"})
        parts = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=8)
        here, back = self.home / "here", self.home / "back"
        here.write_bytes(large)
        yield s3.upload_file(str(here), BUCKET, f"{place}/large", Config=parts)
        yield s3.copy({"Bucket": BUCKET, "Key": f"{place}/large"}, BUCKET, f"{place}/copy", Config=parts)
        for name, body in small.items():
            yield s3.put_object(Bucket=BUCKET, Key=name, Body=body)
        for name, body in [*small.items(), (f"{place}/large", large), (f"{place}/copy", large)]:
            yield s3.download_file(BUCKET, name, str(back), Config=parts)
            yield back.read_bytes() == body
        pages = s3.get_paginator("list_objects_v2").paginate(
            Bucket=BUCKET, Prefix=f"{place}/", PaginationConfig={"PageSize": 2}
        )
        listed = [entry["Key"] for page in pages for entry in page["Contents"]]
        yield listed == sorted([*small, f"{place}/large", f"{place}/copy"])
        gone = [{"Key": name} for name in [*small, f"{place}/copy"]]
        yield "Errors" not in s3.delete_objects(Bucket=BUCKET, Delete={"Objects": gone})
        rest = s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{place}/")["Contents"]
        yield [entry["Key"] for entry in rest] == [f"{place}/large"]
        self.left[f"{place}/large"] = large


class S3fs(Client):
    """Files and blocks of them."""

    name = "s3fs"

    def round(self, place: str, large: bytes, small: dict[str, bytes]) -> Iterator[Any]:
        files, path = file_system(self.target), f"{BUCKET}/{place}"
        with files.open(f"{path}/large", "wb", block_size=PART) as sink:
            yield sink.write(large)
        yield files.pipe({f"{BUCKET}/{name}": body for name, body in small.items()})
        yield files.cat([f"{BUCKET}/{name}" for name in small]) == {
            f"{BUCKET}/{name}": body for name, body in small.items()
        }
        with files.open(f"{path}/large", "rb", block_size=MIB) as source:
            for at in (LARGE - 9, 0, 7 * MIB):
                source.seek(at)
                yield source.read(3 * MIB) == large[at : at + 3 * MIB]
        yield files.copy(f"{path}/large", f"{path}/copy")
        with files.open(f"{path}/copy", "ab", block_size=PART) as sink:
            yield sink.write(b"more")
        yield files.cat(f"{path}/copy") == large + b"more"
        yield files.find(path) == sorted([f"{BUCKET}/{name}" for name in small] + [f"{path}/copy", f"{path}/large"])
        yield files.rm(f"{path}/s", recursive=True)
        yield files.mv(f"{path}/copy", f"{path}/moved")
        yield files.rm(f"{path}/moved")
        yield files.ls(path, detail=False) == [f"{path}/large"]
        self.left[f"{place}/large"] = large


@pytest.fixture(params=["WRITE_THROUGH", "WRITE_BACK"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """Three workers that keep two copies of what the UFS does not have, and whose keys stay
    theirs while they are away."""
    with settled(tmp_path / "cluster", "10m", NODES) as made:
        s3 = made.worker("n1").target().client()
        s3.create_bucket(Bucket="abc")
        made.policy_of_all(str(request.param), COPIES)
        s3.create_bucket(Bucket=BUCKET)
        yield made


def test_workers_are_killed_and_no_client_fails(
    cluster: Cluster, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    def workers() -> dict[str, tuple[str, int]]:
        return {node: server.target().address for node, server in cluster.workers.items()}

    with contextlib.closing(Splitter(workers, request.node.name)) as front:
        target = front.target(cluster.worker("n1").target())
        clients = [kind(target, tmp_path / kind.name) for kind in (AwsCli, Boto3, S3fs)]

        def go_on() -> None:
            before = {client: client.done for client in clients}

            def moved() -> bool:
                return all(client.failed or client.done >= before[client] + STEPS for client in clients)

            told = lambda: [(client.name, client.done) for client in clients]  # noqa: E731
            cluster.wait_for(moved, told, STEPS_SECONDS)
            assert not (failed := [why for client in clients for why in client.failed]), (
                f"{failed}\n{front.failures()}\n{cluster.logs()}"
            )

        try:
            go_on()
            for node in random.Random(request.node.name).sample(NODES, len(NODES)):
                cluster.workers[node].kill()
                cluster.worker(node)
                go_on()
        finally:
            for client in clients:
                client.stop()
            for client in clients:
                client.join()
        failed = [why for client in clients for why in client.failed]
        told = [(one.method, one.status) for one in front.failures()]
        print(f"{ {client.name: client.done for client in clients} } done; {dict(front.asked())}; {told}")
        assert failed == [], f"{front.failures()}\n{cluster.logs()}"
        assert front.redirects() == [] and set(front.asked()) == set(NODES)
        left = {key: body for client in clients for key, body in client.left.items()}
        s3 = target.client()
        for key, body in left.items():
            assert s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == body, key
        persisted(cluster, BUCKET, left)
