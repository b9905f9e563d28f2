"""Packets that others send in a client's name do not break its connection where it went."""

from __future__ import annotations

import http.client
import os
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import Iterator, cast
from urllib.parse import urlsplit

import pytest

from conftest import EXTERNAL
from harness.payload import payload
from harness.segment import CLIENT, CONTROL, PORT, SERVICE, Segment, made

pytestmark = [
    pytest.mark.root,
    pytest.mark.needs("ip"),
    pytest.mark.skipif(bool(EXTERNAL), reason="needs a cluster of its own"),
]
LONG = os.environ.get("QUICKWATER_HANDOFF") == "all"
BUCKET = "forged"
KEYS = [f"k{at}" for at in range(16)]
BODIES = {key: payload((1 << 20) + 100_000 * at, seed=at) for at, key in enumerate(KEYS)}
FIN, SYN, RST, ACK = 1, 2, 4, 16
# Longer than an entry lives after a reset.
PAUSE_SECONDS = 14


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Segment]:
    """Two workers that hand connections over."""
    cluster = made(tmp_path, (BUCKET, BODIES))
    try:
        yield cluster
    finally:
        cluster.close()


class Client:
    """Gets objects by one connection, which came to the first worker."""

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

    def ask(self, key: str) -> None:
        self.connection.request("GET", self._links[key])

    def get(self, key: str) -> None:
        self.ask(key)
        assert self.connection.getresponse().read() == BODIES[key], key

    def close(self) -> None:
        self.connection.close()


def handed_over(cluster: Segment, key: str, receive_bytes: int = 0) -> Client:
    """A client whose connection went to the owner of `key`."""

    def one() -> Client | None:
        client = Client(cluster, receive_bytes)
        before = cluster.outcomes("n1", "given")
        client.get(key)
        if cluster.outcomes("n1", "given") > before:
            return client
        client.close()
        return None

    return cast(Client, cluster.wait_for(one))


def checksum(data: bytes) -> int:
    words = struct.unpack(f"!{len(data) // 2}H", data)
    total = sum(words)
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def forged(client: Client, flags: int, sequence: int) -> bytes:
    """A packet of TCP in a client's name, with its header of IPv4."""
    host, port = client.socket.getsockname()
    tcp = struct.pack("!HHIIBBHHH", port, PORT, sequence, 1, 5 << 4, flags, 1000, 0, 0)
    ends = socket.inet_aton(host) + socket.inet_aton(SERVICE)
    total = checksum(ends + struct.pack("!HH", socket.IPPROTO_TCP, len(tcp)) + tcp)
    tcp = tcp[:16] + struct.pack("!H", total) + tcp[18:]
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 1, 0, 64, 6, 0) + ends + tcp


def looked_at(cluster: Segment) -> int:
    """Packets of connections with an entry at the first worker."""
    kinds = ["forwarded", "kept_away", "too_old", "failed"]
    name = "quickwater_ebpf_forward_packets_total"
    return sum(cluster.count("n1", f'{name}{{outcome="{kind}"}}') for kind in kinds)


def owned_by_the_second(cluster: Segment) -> str:
    found = [key for key in KEYS if cluster.owner(BUCKET, key) == "n2"]
    assert found
    cluster.go_to("n1")
    return found[0]


def test_a_connection_that_went_elsewhere_outlives_forged_ends(cluster: Segment) -> None:
    key = owned_by_the_second(cluster)
    with cluster.at(CONTROL):
        route = ["ip", "route", "replace", f"{SERVICE}/32", "via", cluster.address("n1")]
        subprocess.run(route, check=True)
        other = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    with other:
        for end in [RST, FIN | ACK]:
            client = handed_over(cluster, key)
            for flags in [end, SYN]:
                before = looked_at(cluster)
                other.sendto(forged(client, flags, 12345), (SERVICE, 0))
                cluster.wait_for(lambda: looked_at(cluster) > before)  # noqa: B023
            client.get(key)
            client.close()


@pytest.mark.skipif(not LONG, reason="waits for long: QUICKWATER_HANDOFF=all runs it")
def test_who_has_ended_its_side_may_read_slowly(cluster: Segment) -> None:
    key = owned_by_the_second(cluster)
    client = handed_over(cluster, key, receive_bytes=16_384)
    client.ask(key)
    client.socket.shutdown(socket.SHUT_WR)
    answer = client.connection.getresponse()
    time.sleep(PAUSE_SECONDS)
    assert answer.read() == BODIES[key]
    client.close()
