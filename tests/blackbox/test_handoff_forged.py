"""Packets that others send in a client's name do not break its connection where it went."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import Iterator

import pytest

from conftest import EXTERNAL
from harness.moved import BODIES, MovedClient, owned_by_the_second, two_workers
from harness.segment import CONTROL, PORT, SERVICE, Segment

pytestmark = [
    pytest.mark.root,
    pytest.mark.needs("ip"),
    pytest.mark.skipif(bool(EXTERNAL), reason="needs a cluster of its own"),
]
LONG = os.environ.get("QUICKWATER_HANDOFF") == "all"
FIN, SYN, RST, ACK = 1, 2, 4, 16
# Longer than an entry lives after a reset.
PAUSE_SECONDS = 14


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Segment]:
    yield from two_workers(tmp_path)


def checksum(data: bytes) -> int:
    words = struct.unpack(f"!{len(data) // 2}H", data)
    total = sum(words)
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def forged(client: MovedClient, flags: int, sequence: int) -> bytes:
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


def test_a_connection_that_went_elsewhere_outlives_forged_ends(cluster: Segment) -> None:
    key = owned_by_the_second(cluster)
    with cluster.at(CONTROL):
        route = ["ip", "route", "replace", f"{SERVICE}/32", "via", cluster.address("n1")]
        subprocess.run(route, check=True)
        other = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    with other:
        for end in [RST, FIN | ACK]:
            client = MovedClient.to_owner_of(cluster, key)
            for flags in [end, SYN]:
                before = looked_at(cluster)
                other.sendto(forged(client, flags, 12345), (SERVICE, 0))
                cluster.wait_for(lambda: looked_at(cluster) > before)  # noqa: B023
            client.get(key)
            client.close()


@pytest.mark.skipif(not LONG, reason="waits for long: QUICKWATER_HANDOFF=all runs it")
def test_who_has_ended_its_side_may_read_slowly(cluster: Segment) -> None:
    key = owned_by_the_second(cluster)
    client = MovedClient.to_owner_of(cluster, key, receive_bytes=16_384)
    client.ask(key)
    client.socket.shutdown(socket.SHUT_WR)
    answer = client.connection.getresponse()
    time.sleep(PAUSE_SECONDS)
    assert answer.read() == BODIES[key]
    client.close()
