"""Clients whose connection went to the worker that has what they asked for."""

from __future__ import annotations

import http.client
import socket
from typing import cast
from urllib.parse import urlsplit

from .segment import CLIENT, PORT, SERVICE, Segment


class MovedClient:
    """Gets objects of a bucket by one connection, which came to the first worker."""

    def __init__(
        self, cluster: Segment, bucket: str, bodies: dict[str, bytes], receive_bytes: int = 0
    ) -> None:
        signer = cluster.target().client(signature_version="s3v4")
        self._bodies = bodies
        self._links = {}
        for key in bodies:
            where = {"Bucket": bucket, "Key": key}
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
    def to_owner_of(
        cls,
        cluster: Segment,
        bucket: str,
        bodies: dict[str, bytes],
        key: str,
        receive_bytes: int = 0,
    ) -> "MovedClient":
        """One whose connection is at the owner of a key."""

        def one() -> "MovedClient | None":
            client = cls(cluster, bucket, bodies, receive_bytes)
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
        assert self.connection.getresponse().read() == self._bodies[key], key

    def close(self) -> None:
        """Ends the connection, in order."""
        self.connection.close()
