"""Connections of unmodified clients go to the worker that has the object."""

from __future__ import annotations

import http.client
import random
import re
import socket
import subprocess
from contextlib import ExitStack, closing
from pathlib import Path
from typing import ContextManager, Iterator
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import BotoCoreError

from conftest import EXTERNAL
from harness.cluster import KEYS
from harness.loss import SpoofFilter
from harness.payload import payload
from harness.segment import CLIENT, PORT, SERVICE, Segment, WORKERS, made
from harness.target import Target

pytestmark = [
    pytest.mark.root,
    pytest.mark.needs("ip", "ss"),
    pytest.mark.skipif(bool(EXTERNAL), reason="needs a cluster of its own"),
]
BUCKET = "handed"
DEADLINE_SECONDS = 300
IN_A_ROW = 10
SIZES = [0, 1, 100_000, (1 << 20) - 1, 1 << 20, 5_000_000, 9_000_000]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Segment]:
    """Two workers that hand connections over."""
    cluster = made(tmp_path)
    try:
        yield cluster
    finally:
        cluster.close()


def fill(cluster: Segment) -> dict[str, bytes]:
    """Two objects of each size, some of them at each worker."""
    bodies = {f"k{at}": payload(size, seed=at) for at, size in enumerate(SIZES * 2)}
    cluster.store(BUCKET, bodies)
    return bodies


def test_large_objects_come_from_their_owner_byte_for_byte(cluster: Segment) -> None:
    rand = random.Random(1)
    bodies = fill(cluster)
    for node in WORKERS:
        cluster.go_to(node)
        with cluster.at(CLIENT):
            s3 = cluster.target().client()
            keys = list(bodies) * 4
            rand.shuffle(keys)
            for key in keys:
                assert s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == bodies[key], key
            v4 = cluster.target().client(signature_version="s3v4")
            url = v4.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "k6"})
            done = subprocess.run(["curl", "-sS", url], capture_output=True, timeout=60, check=True)
            assert done.stdout == bodies["k6"], done.stdout[:600]
    given = {node: cluster.outcomes(node, "given") for node in WORKERS}
    taken = {node: cluster.outcomes(node, "taken") for node in WORKERS}
    assert min(given.values()) > 0, (given, cluster.logs())
    assert given["n1"] == taken["n2"] and given["n2"] == taken["n1"]


def test_a_client_with_a_tiny_window_gets_segments_that_fit(cluster: Segment) -> None:
    """As it does from the worker it came to: larger ones would go one by one, by a timer."""
    bodies = fill(cluster)
    of = {cluster.owner(BUCKET, key): key for key, body in bodies.items() if len(body) >= 1 << 20}
    if set(of) != set(WORKERS):
        pytest.skip("all large objects are at one worker")
    cluster.go_to("n1")
    answers, segments = {}, {}
    with ExitStack() as open_ones:
        for node, key in of.items():
            taken = cluster.outcomes("n2", "taken")
            tiny = open_ones.enter_context(tiny_client(cluster))
            tiny.request("GET", signed(cluster, key))
            answers[key] = tiny.getresponse()
            assert answers[key].read(1000) == bodies[key][:1000]
            assert cluster.outcomes("n2", "taken") - taken == (node == "n2"), cluster.logs()
            segments[node] = sent_at_a_time(cluster, node, tiny)
        assert segments["n2"] == segments["n1"]
        for key, answer in answers.items():
            assert answer.read() == bodies[key][1000:]


def tiny_client(cluster: Segment) -> ContextManager[http.client.HTTPConnection]:
    """A connection with the least room there is for what comes."""
    with cluster.at(CLIENT):
        tiny = socket.socket()
        tiny.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        tiny.settimeout(DEADLINE_SECONDS)
        tiny.connect((SERVICE, PORT))
    client = http.client.HTTPConnection(SERVICE, PORT)
    client.sock = tiny
    return closing(client)


def signed(cluster: Segment, key: str) -> str:
    """Path and query of a GET."""
    s3 = cluster.target().client(signature_version="s3v4")
    wanted = {"Bucket": BUCKET, "Key": key}
    url = urlsplit(s3.generate_presigned_url("get_object", Params=wanted))
    return f"{url.path}?{url.query}"


def sent_at_a_time(cluster: Segment, node: str, client: http.client.HTTPConnection) -> int:
    """Bytes of the segments that a worker sends a client."""
    port = client.sock.getsockname()[1]
    with cluster.at(node):
        told = subprocess.run(
            ["ss", "-tinH", f"dport = :{port}"], check=True, capture_output=True, text=True
        ).stdout
    (segment,) = re.findall(r" mss:(\d+)", told)
    return int(segment)


def test_an_owner_that_does_not_let_the_client_in_is_relayed(tmp_path: Path) -> None:
    """Its access key is another one: it says no when it has the connection's state."""
    other = {name: value + "X" for name, value in KEYS.items()}
    cluster = made(tmp_path, own_env={"n2": other})
    try:
        bodies = fill(cluster)
        with cluster.at(CLIENT):
            s3 = cluster.target().client()
            for key in list(bodies) * 2:
                assert s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == bodies[key], key
        assert cluster.outcomes("n1", "declined") > 0, cluster.logs()
        for node in WORKERS:
            assert [cluster.outcomes(node, what) for what in ["given", "taken", "lost"]] == [0] * 3
        # Where it is let in, nothing is the other way round either.
        cluster.go_to("n2")
        with cluster.at(CLIENT):
            target = cluster.target()
            keys = (other["QUICKWATER_ACCESS_KEY_ID"], other["QUICKWATER_SECRET_ACCESS_KEY"])
            s3 = Target(target.endpoint, *keys).client()
            for key in bodies:
                assert s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == bodies[key], key
        assert cluster.outcomes("n2", "declined") > 0, cluster.logs()
    finally:
        cluster.close()


def test_a_network_that_drops_what_the_owner_says_costs_a_few_connections(cluster: Segment) -> None:
    """From some day on, and not for ever. What the owner has taken is not heard; after a few of
    these it relays, and takes connections again when it is heard again."""
    bodies = fill(cluster)
    keys = [key for key, body in bodies.items() if len(body) >= 1 << 20]
    key = next(key for key in keys if cluster.owner(BUCKET, key) == "n2")

    def get(patience: float) -> bool:
        """By a connection of its own; whether there is an answer, which is right."""
        with cluster.at(CLIENT):
            s3 = cluster.target().client(
                retries={"max_attempts": 0}, connect_timeout=60, read_timeout=patience
            )
            try:
                body = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
            except (BotoCoreError, OSError):
                return False
            assert body == bodies[key]
            return True

    def count(outcome: str) -> int:
        return cluster.outcomes("n2", outcome)

    def taken() -> int:
        get(60)
        return count("taken")

    # The trial was heard: others follow.
    cluster.wait_for(lambda: taken() >= 3)
    before = count("unheard")
    with cluster.at("n2"):
        unheard = SpoofFilter("e0", SERVICE)
    try:
        answers: list[bool] = []

        def relays() -> bool:
            # A client that gives up breaks its connection sooner than the owner does.
            answers.append(get(3.0))
            return answers[-IN_A_ROW:] == [True] * IN_A_ROW and count("unheard") > before

        cluster.wait_for(relays, lambda: answers, DEADLINE_SECONDS)
        assert "clients do not hear this worker: their" in cluster.workers["n2"].log()
        assert "and are relayed: 10.50.0.0/24 by n1" in cluster.workers["n2"].log()
    finally:
        unheard.close()
    after = count("taken")
    again = "clients hear this worker again"
    is_told = lambda: again in cluster.workers["n2"].log()  # noqa: E731
    cluster.wait_for(lambda: taken() >= after + 3 and is_told(), seconds=DEADLINE_SECONDS)
