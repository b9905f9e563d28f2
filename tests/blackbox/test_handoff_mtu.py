"""A router on the way to the client takes smaller packets than the workers' segment does: what
it says of larger ones goes to the service's address, so to the worker that the client asked. A
connection that was handed over goes on all the same."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from conftest import EXTERNAL
from harness.netns import _namespace
from harness.payload import payload
from harness.segment import BRIDGE, SERVICE, SERVICE_SIX, Segment, made

pytestmark = [
    pytest.mark.root,
    pytest.mark.needs("ip"),
    pytest.mark.skipif(bool(EXTERNAL), reason="needs a cluster of its own"),
]
BUCKET = "far"
SIZE = 3_000_000
MTU = 1400
FAR, ROUTER = "far", "router"
GETS = 4


def run(*words: str) -> None:
    """A command that has to succeed."""
    subprocess.run(words, check=True, capture_output=True)


def put_behind_a_router(cluster: Segment) -> None:
    """A client of the segment by way of a router, whose device towards it has a small MTU."""
    for host in (FAR, ROUTER):
        cluster.namespaces[host] = _namespace()
    link, near, away, service = ["10.50.0.100/24", "10.70.0.1/24", "10.70.0.2/24", f"{SERVICE}/32"]
    first = cluster.address(cluster.members[0])
    net, forward = "10.70.0.0/24", "net/ipv4/ip_forward"
    if cluster.six:
        link, near, away, service = ["fd50::100/64", "fd70::1/64", "fd70::2/64", f"{SERVICE_SIX}/128"]
        first = cluster.address_six(cluster.members[0])
        net, forward = "fd70::/64", "net/ipv6/conf/all/forwarding"

    def has(address: str, device: str) -> None:
        quiet = ["nodad"] if cluster.six else []
        run("ip", "address", "add", address, "dev", device, *quiet)
        run("ip", "link", "set", device, "up")

    def at(host: str) -> str:
        return f"/proc/{os.getpid()}/fd/{cluster.namespaces[host]}"

    with cluster.at(BRIDGE):
        run("ip", "link", "add", ROUTER, "type", "veth", "peer", "name", "e0", "netns", at(ROUTER))
        run("ip", "link", "set", ROUTER, "master", "b0", "up")
    with cluster.at(ROUTER):
        Path("/proc/sys", forward).write_text("1")
        run("ip", "link", "add", "e1", "type", "veth", "peer", "name", "e0", "netns", at(FAR))
        run("ip", "link", "set", "e1", "mtu", str(MTU))
        has(link, "e0")
        has(near, "e1")
        run("ip", "route", "add", service, "via", first)
    with cluster.at(FAR):
        has(away, "e0")
        run("ip", "route", "add", service, "via", near.split("/")[0])
    for node in cluster.members:
        with cluster.at(node):
            run("ip", "route", "add", net, "via", link.split("/")[0])


@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
def test_a_client_behind_a_router_with_small_packets_gets_all(tmp_path: Path, six: bool) -> None:
    bodies = {f"k{at}": payload(SIZE, seed=at) for at in range(12)}
    cluster = made(tmp_path, (BUCKET, bodies), six=six)
    try:
        entry, other = cluster.members
        put_behind_a_router(cluster)
        keys = [key for key in bodies if cluster.owner(BUCKET, key) == other][:GETS]
        assert len(keys) == GETS, "hardly one of twelve keys is the other worker's"
        before = cluster.outcomes(other, "taken")
        with cluster.at(FAR):
            s3 = cluster.target().client(retries={"max_attempts": 0}, read_timeout=30)
            for key in keys:
                assert s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == bodies[key], key
        assert cluster.outcomes(other, "taken") > before, cluster.logs()
        with cluster.at(ROUTER):
            counts = Path("/proc/net/snmp6" if six else "/proc/net/snmp").read_text()
        assert told(counts, six) > 0, counts
    finally:
        cluster.close()


def told(counts: str, six: bool) -> int:
    """How many packets the router said were too large."""
    if six:
        lines = dict(line.split() for line in counts.splitlines())
        return int(lines["Icmp6OutPktTooBigs"])
    names, values = (line.split() for line in counts.splitlines() if line.startswith("Icmp:"))
    return int(dict(zip(names, values))["OutDestUnreachs"])
