"""An S3 store as UFS: its faults, and a second Quickwater as the store."""

from __future__ import annotations

import time
from typing import Any, Iterator

import pytest

from conftest import UFS_BUCKET, ServeFactory
from harness.moto import Moto
from harness.payload import KIB, MIB, payload
from harness.proxy import Fault, FaultProxy
from harness.raw import BROKEN, Request, send
from harness.server import Server
from harness.target import Target, error_of, fresh_name

from .test_multipart import Upload

ANSWER_SECONDS = 40.0
TIMEOUTS = {"ufs-timeout-connect": "2s", "ufs-timeout-idle": "3s"}
BAD_GATEWAY = (500, 502, 503, 504)


def mount_of(store: Target, prefix: str, endpoint: str) -> tuple[str, dict[str, str]]:
    """A mount of a prefix of a store's bucket, and the environment it needs."""
    uri = (
        f"s3://{UFS_BUCKET}/{prefix},endpoint={endpoint},region=us-east-1,"
        "path_style=true,credentials=env:UNDER"
    )
    keys = {
        "UNDER_ACCESS_KEY_ID": store.access_key,
        "UNDER_SECRET_ACCESS_KEY": store.secret_key,
    }
    return uri, keys


class Faulty:
    """A service whose bucket `far` lies behind a proxy that can break."""

    def __init__(self, serve: ServeFactory, moto: Moto) -> None:
        self.store = moto.target()
        self.proxy = FaultProxy(self.store.address)
        self.prefix = fresh_name("far")
        uri, keys = mount_of(self.store, self.prefix, f"http://127.0.0.1:{self.proxy.port}")
        flags = {**TIMEOUTS, "metadata-ttl": "1s", "write-cache-fence": "3s"}
        self.server: Server = serve("faulty", flags=flags, mounts={"far": uri}, env=keys)
        self.s3 = self.server.target().client()
        self.direct = self.store.client()

    def under(self, key: str, body: bytes) -> None:
        """Writes to the store directly."""
        self.direct.put_object(Bucket=UFS_BUCKET, Key=f"{self.prefix}/{key}", Body=body)

    def timed(self, method: str, key: str, body: bytes = b"") -> int:
        """Status of a request, which must come in bounded time."""
        start = time.monotonic()
        status = send(self.server.target(), Request(method, f"/far/{key}", body=body)).status
        assert time.monotonic() - start < ANSWER_SECONDS
        return status


@pytest.fixture
def faulty(serve: ServeFactory, moto: Moto) -> Iterator[Faulty]:
    made = Faulty(serve, moto)
    yield made
    made.proxy.close()


FAULTS = {
    "refused": Fault(refuse=True),
    "silent": Fault(silent=True),
    "500": Fault(status=500),
    "503": Fault(status=503),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_store_away_and_back(faulty: Faulty, name: str) -> None:
    faulty.s3.put_object(Bucket="far", Key="k", Body=b"before")
    faulty.under("cold", b"cold")
    faulty.proxy.set(FAULTS[name])
    assert faulty.timed("GET", "cold") in BAD_GATEWAY
    assert faulty.timed("PUT", "new", b"x") in BAD_GATEWAY
    assert faulty.timed("DELETE", "k") in BAD_GATEWAY
    assert faulty.server.http_status("/healthz") == 200
    faulty.proxy.clear()
    deadline = time.monotonic() + ANSWER_SECONDS
    while faulty.timed("GET", "cold") != 200:
        assert time.monotonic() < deadline, "no recovery after the store came back"
        time.sleep(0.2)
    faulty.s3.put_object(Bucket="far", Key="new", Body=b"after")
    assert faulty.s3.get_object(Bucket="far", Key="new")["Body"].read() == b"after"
    assert faulty.s3.get_object(Bucket="far", Key="cold")["Body"].read() == b"cold"


@pytest.mark.slow
@pytest.mark.parametrize("cut", [300 * KIB, 2 * MIB])
def test_truncated_answers_are_never_served(faulty: Faulty, cut: int) -> None:
    data = payload(6 * MIB, "truncated")
    faulty.under("k", data)
    faulty.proxy.set(Fault(cut_after=cut, only_method="GET"))
    for _ in range(2):
        try:
            reply = send(faulty.server.target(), Request("GET", "/far/k"))
        except BROKEN:
            pass  # an honest answer
        else:
            # What came before the cut is cached, so a later try may get through.
            whole = reply.status == 200 and reply.body == data
            assert whole or reply.status in BAD_GATEWAY, reply.status
    faulty.proxy.clear()
    for _ in range(2):
        assert faulty.s3.get_object(Bucket="far", Key="k")["Body"].read() == data


def test_slow_store_still_answers(faulty: Faulty) -> None:
    data = payload(300 * KIB, "slow")
    faulty.under("k", data)
    faulty.proxy.set(Fault(bytes_per_second=150 * KIB))
    assert faulty.s3.get_object(Bucket="far", Key="k")["Body"].read() == data


def test_applied_but_reply_lost(faulty: Faulty) -> None:
    """5xx or success; afterwards old or new, then new for ever (C5)."""
    faulty.s3.put_object(Bucket="far", Key="k", Body=b"old")
    faulty.proxy.set(Fault(lose_reply=True, only_method="PUT"))
    status = faulty.timed("PUT", "k", b"new")
    assert status == 200 or status in BAD_GATEWAY
    faulty.proxy.clear()
    time.sleep(1.5)  # the metadata TTL
    first = faulty.s3.get_object(Bucket="far", Key="k")["Body"].read()
    assert first in (b"old", b"new")
    if status == 200:
        assert first == b"new"
    for _ in range(3):
        assert faulty.s3.get_object(Bucket="far", Key="k")["Body"].read() == first
        time.sleep(0.5)


def test_hits_do_not_need_the_store(faulty: Faulty) -> None:
    """Within the TTL a cached object is served while the store is away."""
    data = payload(2 * MIB, "hit")
    faulty.s3.put_object(Bucket="far", Key="k", Body=data)
    faulty.s3.get_object(Bucket="far", Key="k")["Body"].read()
    faulty.proxy.set(Fault(refuse=True))
    assert faulty.s3.get_object(Bucket="far", Key="k")["Body"].read() == data


def test_changes_in_the_store_are_seen(faulty: Faulty) -> None:
    faulty.under("k", b"one")
    assert faulty.s3.get_object(Bucket="far", Key="k")["Body"].read() == b"one"
    faulty.under("k", b"two")
    request = Request("GET", "/far/k", headers=[("Cache-Control", "no-cache")])
    assert send(faulty.server.target(), request).body == b"two"


def test_objects_lie_in_the_store(faulty: Faulty) -> None:
    faulty.s3.put_object(Bucket="far", Key="d/k", Body=b"abc", Metadata={"a": "1"})
    faulty.s3.put_object(Bucket="far", Key="m", Body=payload(6 * MIB), ContentType="text/x")
    listed = faulty.direct.list_objects_v2(Bucket=UFS_BUCKET, Prefix=f"{faulty.prefix}/")
    assert [e["Key"].split("/", 1)[1] for e in listed["Contents"]] == ["d/k", "m"]
    below = faulty.direct.get_object(Bucket=UFS_BUCKET, Key=f"{faulty.prefix}/d/k")
    assert (below["Body"].read(), below["Metadata"]) == (b"abc", {"a": "1"})
    below = faulty.direct.get_object(Bucket=UFS_BUCKET, Key=f"{faulty.prefix}/m")
    assert (below["Body"].read(), below["ContentType"]) == (payload(6 * MIB), "text/x")
    faulty.s3.delete_object(Bucket="far", Key="m")
    gone = error_of(faulty.direct.head_object, Bucket=UFS_BUCKET, Key=f"{faulty.prefix}/m")
    assert gone[0] == 404


def test_unreachable_mount_at_start(serve: ServeFactory, moto: Moto) -> None:
    """One dead store must not stop the buckets of the others."""
    uri, keys = mount_of(moto.target(), "p", "http://127.0.0.1:1")
    server = serve(flags=TIMEOUTS, mounts={"dead": uri}, env=keys)
    client = server.target().client()
    client.create_bucket(Bucket="alive")
    client.put_object(Bucket="alive", Key="k", Body=b"x")
    assert send(server.target(), Request("GET", "/dead/k")).status in BAD_GATEWAY
    assert client.get_object(Bucket="alive", Key="k")["Body"].read() == b"x"


def test_wrong_credentials_for_the_store(serve: ServeFactory) -> None:
    """The store's 403 is our trouble, not the client's signature."""
    below = serve("below")
    store = below.target()
    store.client().create_bucket(Bucket=UFS_BUCKET)
    uri, keys = mount_of(store, "p", store.endpoint)
    keys["UNDER_SECRET_ACCESS_KEY"] = "wrong" * 8
    above = serve("above", flags=TIMEOUTS, mounts={"far": uri}, env=keys)
    reply = send(above.target(), Request("GET", "/far/k"))
    assert reply.status in (403, *BAD_GATEWAY), reply.brief()
    assert reply.code != "SignatureDoesNotMatch"


def test_quickwater_on_quickwater(serve: ServeFactory) -> None:
    """aws-sdk-s3, the Rust SDK, as a client of our endpoint."""
    below = serve("below")
    store = below.target()
    store.client().create_bucket(Bucket=UFS_BUCKET)
    uri, keys = mount_of(store, "p q", store.endpoint)
    above = serve("above", mounts={"far": uri}, env=keys)
    client: Any = above.target().client()
    bodies = {"a": b"", "ü/b c+d%": payload(100 * KIB), "big": payload(20 * MIB, "q")}
    for key, body in bodies.items():
        client.put_object(Bucket="far", Key=key, Body=body, Metadata={"m": "1"})
    upload = Upload(client, "far", "multi")
    parts = [payload(5 * MIB, 1), payload(6 * MIB, 2)]
    for number, part in enumerate(parts, 1):
        upload.send(number, part)
    upload.complete()
    bodies["multi"] = b"".join(parts)
    for key, body in bodies.items():
        assert client.get_object(Bucket="far", Key=key)["Body"].read() == body
        assert (below.ufs / UFS_BUCKET / "p q" / key).read_bytes() == body
    keys_listed = [e["Key"] for e in client.list_objects_v2(Bucket="far")["Contents"]]
    assert keys_listed == sorted(bodies, key=str.encode)
    for key in bodies:
        client.delete_object(Bucket="far", Key=key)
    assert store.client().list_objects_v2(Bucket=UFS_BUCKET)["KeyCount"] == 0
