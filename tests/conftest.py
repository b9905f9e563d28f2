"""Fixtures of the whole-system tests: services under test, buckets, clients.

Against another endpoint (to check the tests themselves, on moto):
QW_ENDPOINT, QW_ACCESS_KEY_ID, QW_SECRET_ACCESS_KEY.
"""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from harness import metadata, netns
from harness.moto import Moto
from harness.payload import MIB
from harness.server import Server, binary
from harness.target import Target, empty_bucket, fresh_name
from harness.under import STORE_BUCKET, need_write_back
from ufssim.client import Sim

EXTERNAL = os.environ.get("QW_ENDPOINT", "")
OPEN_FILES = 65_536
UFS_BUCKET = "under"
_running: list[Server] = []


def pytest_configure(config: pytest.Config) -> None:
    """Room for ten thousand sockets, here and in the services we start; no proxies, no
    settings of the user's clients."""
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = "127.0.0.1,localhost"
    # What a user has set for the clients is not what is tested.
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        os.environ[name] = os.devnull
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test that takes `target` runs once per kind of UFS."""
    if "backend" in metafunc.fixturenames:
        kinds = ["external"] if EXTERNAL else ["posix", "s3"]
        metafunc.parametrize("backend", kinds, scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what cannot run here, each with its reason."""
    for item in items:
        reason = _reason_to_skip(item)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


def _reason_to_skip(item: pytest.Item) -> str:
    mark = item.get_closest_marker("not_on_moto")
    if mark and EXTERNAL:
        return f"not on moto: {mark.args[0]}"
    mark = item.get_closest_marker("embedded")
    if mark and not metadata.is_embedded():
        return f"about the embedded metadata store: {mark.args[0]}"
    own = {"hosts", "serve", "serve_long", "posix_server", "s3_server", "moto"}
    if EXTERNAL and own & set(getattr(item, "fixturenames", [])):
        return "needs a service of its own; QW_ENDPOINT is set"
    for needs in item.iter_markers("needs"):
        absent = [tool for tool in needs.args if shutil.which(tool) is None]
        if absent:
            return f"not installed: {', '.join(absent)}"
    if item.get_closest_marker("root") and os.geteuid() != 0:
        return "needs root"
    return ""


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A failed test shows the last log lines of the services that run."""
    outcome: Any = yield
    report = outcome.get_result()
    if report.failed:
        for server in _running:
            report.sections.append((f"log of {server.home.name}", server.log_tail()))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    """The simulator of a store, with a bucket for `harness.under`."""
    made = Sim(tmp_path_factory.mktemp("ufssim"), "--min-part-bytes", "1024")
    made.create_bucket(STORE_BUCKET)
    yield made
    made.close()


@pytest.fixture(scope="module")
def write_back() -> None:
    """For modules about WRITE_BACK."""
    need_write_back()


@pytest.fixture(scope="module")
def hosts() -> None:
    """For modules with hosts of their own."""
    if why := netns.missing():
        pytest.skip(why)


@pytest.fixture(autouse=True)
def still_alive() -> Iterator[None]:
    """No test may bring down a service that others use."""
    before = {server: server.process for server in _running if server.alive()}
    yield
    for server, process in before.items():
        if server in _running and server.process is process and process is not None:
            code = process.poll()
            assert code is None, f"service ended with {code}\n{server.log_tail()}"
            assert "panicked" not in server.log(), server.log_tail()


ServeFactory = Callable[..., Server]


def _factory(root: Path, made: list[Server]) -> ServeFactory:
    def make(name: str = "node", start: bool = True, **options: Any) -> Server:
        if not binary().exists():
            pytest.fail(f"no program under test: {binary()} (cargo build --release)")
        server = Server(root / f"{name}{len(made)}", **options)
        made.append(server)
        _running.append(server)
        return server.start() if start else server

    return make


def _close(made: list[Server]) -> None:
    for server in made:
        server.close()
        _running.remove(server)
    for server in made:
        assert "panicked" not in server.log(), server.log_tail()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[ServeFactory]:
    """Makes services that live as long as the test."""
    made: list[Server] = []
    yield _factory(tmp_path, made)
    _close(made)


@pytest.fixture(scope="session")
def serve_long(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeFactory]:
    """Makes services that live as long as the run."""
    made: list[Server] = []
    yield _factory(tmp_path_factory.mktemp("nodes"), made)
    _close(made)


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    """An S3 store that is not ours. Its ListParts is not S3's, so no uploads over it."""
    store = Moto(tmp_path_factory.mktemp("moto"))
    store.target().client().create_bucket(Bucket=UFS_BUCKET)
    yield store
    store.close()


def s3_ufs(store: Target) -> dict[str, Any]:
    """Options of a service whose default UFS is a prefix of a store's bucket."""
    return {
        "flags": {
            "ufs": f"s3://{UFS_BUCKET}/{fresh_name('ufs')}",
            "ufs-options": f"endpoint={store.endpoint},region=us-east-1,"
            "path_style=true,credentials=env:UNDER",
        },
        "env": {
            "UNDER_ACCESS_KEY_ID": store.access_key,
            "UNDER_SECRET_ACCESS_KEY": store.secret_key,
            "AWS_EC2_METADATA_DISABLED": "true",
        },
    }


@pytest.fixture(scope="session")
def posix_server(serve_long: ServeFactory) -> Server:
    """A service over a directory, shared by the run."""
    return serve_long("posix")


@pytest.fixture(scope="session")
def target(backend: str, request: pytest.FixtureRequest) -> Target:
    """The endpoint under test, once per kind of UFS."""
    if backend == "external":
        return Target(
            EXTERNAL,
            os.environ.get("QW_ACCESS_KEY_ID", "test"),
            os.environ.get("QW_SECRET_ACCESS_KEY", "test"),
        )
    if backend == "posix":
        return request.getfixturevalue("posix_server").target()
    return request.getfixturevalue("s3_server").target()


@pytest.fixture(scope="session")
def s3_server(serve_long: ServeFactory) -> Server:
    """A service over an S3 store (a second Quickwater), shared by the run."""
    store = serve_long("store").target()
    store.client().create_bucket(Bucket=UFS_BUCKET)
    return serve_long("s3", **s3_ufs(store))


@pytest.fixture(scope="session")
def s3(target: Target) -> Any:
    """A boto3 client with boto3's defaults."""
    return target.client()


@pytest.fixture
def bucket(s3: Any) -> Iterator[str]:
    """An empty bucket, gone after the test."""
    name = fresh_name()
    s3.create_bucket(Bucket=name)
    yield name
    empty_bucket(s3, name)


@pytest.fixture(scope="session")
def big_body() -> bytes:
    """64 MiB."""
    from harness.payload import payload

    return payload(64 * MIB, "big")
