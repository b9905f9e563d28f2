"""Clients whose connection went to the worker that has what they asked for."""

from __future__ import annotations

import http.client
import socket
import time
from pathlib import Path
from typing import Callable, Iterator, cast
from urllib.parse import urlsplit

from .payload import payload
from .segment import CLIENT, PORT, SERVICE, Segment, made

DEADLINE_SECONDS = 120
BUCKET = "moved"
KEYS = [f"k{at}" for at in range(16)]
BODIES = {key: payload((1 << 20) + 100_000 * at, seed=at) for at, key in enumerate(KEYS)}


def two_workers(tmp_path: Path) -> Iterator[Segment]:
    """Two workers that hand connections over, with these objects; closed at the end."""
    cluster = made(tmp_path, (BUCKET, BODIES))
    try:
        yield cluster
    finally:
        cluster.close()


def until(holds: Callable[[], bool], cluster: Segment) -> None:
    """Waits for it, with a deadline."""
    end = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < end, cluster.logs()
        time.sleep(0.02)


def pins(cluster: Segment, node: str) -> Path:
    """Where a worker keeps what outlives it."""
    return cluster.home / "pins" / node / "quickwater" / f"handoff-e0-{PORT}"


def owned_by_the_second(cluster: Segment) -> str:
    """A key of an object of the second worker's; clients go to the first one from now on."""
    key = next(key for key in KEYS if cluster.owner(BUCKET, key) == "n2")
    cluster.go_to("n1")
    return key


class MovedClient:
    """Gets these objects by one connection, which came to the first worker."""

    def __init__(self, cluster: Segment, receive_bytes: int = 0) -> None:
        signer = cluster.target().client(signature_version="s3v4")
        self._links = {}
        for key in KEYS:
            where = {"Bucket": BUCKET, "Key": key}
            link = str(signer.generate_presigned_url("get_object", Params=where))
            netloc = urlsplit(link).netloc
            self._links[key] = link.split(netloc, 1)[1]
        with cluster.at(CLIENT):
            self.connection = http.client.HTTPConnection(netloc, timeout=60)
            self.connection.sock = self.socket = socket.socket()
            if receive_bytes:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            self.socket.settimeout(60)
            self.socket.connect((SERVICE, PORT))

    @classmethod
    def to_owner_of(cls, cluster: Segment, key: str, receive_bytes: int = 0) -> "MovedClient":
        """One whose connection is at the owner of a key."""

        def one() -> "MovedClient | None":
            client = cls(cluster, receive_bytes)
            before = cluster.outcomes("n1", "given")
            client.get(key)
            if cluster.outcomes("n1", "given") > before:
                return client
            client.close()
            return None

        return cast(MovedClient, cluster.wait_for(one))

    def ask(self, key: str) -> None:
        """Without reading the answer."""
        self.connection.request("GET", self._links[key])

    def get(self, key: str) -> None:
        """The whole object, which is right."""
        self.ask(key)
        assert self.connection.getresponse().read() == BODIES[key], key

    def close(self) -> None:
        """Ends the connection, in order."""
        self.connection.close()
