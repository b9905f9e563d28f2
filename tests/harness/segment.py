"""A cluster whose hosts are on one segment of Ethernet: network namespaces on a bridge. The
service addresses are on the loopback of every worker; which worker a client gets to is its
route.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
from pathlib import Path
from typing import Any, ContextManager

import pytest

from . import apart, ebpf, netns
from .cluster import Cluster
from .netns import _namespace, inside_of
from .server import binary
from .target import Target

WORKERS = ["n1", "n2"]
THREE = [*WORKERS, "n3"]
CLIENT, CONTROL, BRIDGE = "client", "control", "bridge"
HOSTS = [CLIENT, CONTROL, *THREE]
# Where a client's end gets lost its connection ends by `s3.write_timeout`, or is idle for a minute and
# the kernel's for another one.
LEFT_SECONDS = 180.0
SERVICE, SERVICE_SIX, PORT = "10.60.0.1", "fd60::1", 9000


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


class Segment(Cluster):
    """Workers that may hand connections over, if `handoff` is not `off`."""

    def __init__(
        self,
        home: Path,
        lease: str = "10s",
        handoff: str = "auto",
        least: str = "1MiB",
        own_env: dict[str, dict[str, str]] | None = None,
        members: list[str] | None = None,
        own_flags: dict[str, dict[str, str]] | None = None,
        six: bool = False,
    ) -> None:
        """`own_env` and `own_flags`: more environment and flags for one worker. `six`: clients
        speak IPv6, workers among themselves do not."""
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        (home / "ufs").mkdir(exist_ok=True)
        self.ufs = f"file://{home / 'ufs'}"
        self.flags = {"ufs": self.ufs, "ebpf-handoff": handoff, "ebpf-handoff-min": least}
        self.own_flags = own_flags or {}
        self.members = members or WORKERS
        self.six = six
        self.service = f"[{SERVICE_SIX}]" if six else SERVICE
        self.env: dict[str, str] = {}
        self.own_env = own_env or {}
        self.workers = {}
        self.mounts: list[Path] = []
        self.namespaces = {host: _namespace() for host in [BRIDGE, CLIENT, CONTROL, *self.members]}
        try:
            self._plug()
            self.control = apart.Control(
                home, binary(), self.members,
                [f"--ufs={self.ufs}", f"--cluster-lease={lease}"], self.address(CONTROL),
            )
            with self.at(CONTROL):
                self.control.start()
        except BaseException:
            self._unplug()
            raise

    def environment(self, node: str) -> dict[str, str]:
        """Of a worker."""
        return {**super().environment(node), **self.own_env.get(node, {})}

    def at(self, host: str) -> ContextManager[None]:
        """The calling thread, and what it starts, is at a host."""
        return inside_of(self.namespaces[host])

    def address(self, host: str) -> str:
        """Of a host."""
        return f"10.50.0.{HOSTS.index(host) + 1}"

    def address_six(self, host: str) -> str:
        """Of a host, IPv6."""
        return f"fd50::{HOSTS.index(host) + 1}"

    def hosts(self) -> list[str]:
        """All of them."""
        return [CLIENT, CONTROL, *self.members]

    def _plug(self) -> None:
        with self.at(BRIDGE):
            _run("ip", "link", "add", "b0", "type", "bridge")
            _run("ip", "link", "set", "b0", "up")
            for host in self.hosts():
                there = f"/proc/{os.getpid()}/fd/{self.namespaces[host]}"
                _run("ip", "link", "add", host, "type", "veth", "peer", "name", "e0", "netns", there)
                _run("ip", "link", "set", host, "master", "b0", "up")
        for host in self.hosts():
            with self.at(host):
                _run("ip", "address", "add", f"{self.address(host)}/24", "dev", "e0")
                if self.six:
                    _run("ip", "address", "add", f"{self.address_six(host)}/64", "dev", "e0", "nodad")
                _run("ip", "link", "set", "e0", "up")
                if host in self.members:
                    Path("/proc/sys/net/ipv4/conf/all/arp_ignore").write_text("1")
                    Path("/proc/sys/net/ipv4/conf/all/arp_announce").write_text("2")
                    _run("ip", "address", "add", f"{SERVICE}/32", "dev", "lo")
                    if self.six:
                        _run("ip", "address", "add", f"{SERVICE_SIX}/128", "dev", "lo", "nodad")
        for node in self.members:
            pins = self.home / "pins" / node
            pins.mkdir(parents=True)
            _run("mount", "-t", "bpf", "bpf", str(pins))
            self.mounts.append(pins)

    def _unplug(self) -> None:
        for pins in self.mounts:
            _run("umount", str(pins))
        for namespace in self.namespaces.values():
            os.close(namespace)
        self.mounts, self.namespaces = [], {}

    def start(self) -> "Segment":
        """All workers."""
        for node in self.members:
            self.flags["ebpf-pins"] = str(self.home / "pins" / node / "quickwater")
            server = self.worker(node, start=False)
            listen = f"--s3-listen={self.service}:{PORT}"
            words = [listen if w.startswith("--s3-listen=") else w for w in server.command()]
            own = {f"--{name}": value for name, value in self.own_flags.get(node, {}).items()}
            words = [word for word in words if word.split("=")[0] not in own]
            words += [f"{name}={value}" for name, value in own.items()]
            server.command = lambda words=words: words  # type: ignore[method-assign]
            self.worker(node)
        self.settle(self.members)
        return self

    def go_to(self, node: str) -> None:
        """Clients get to this worker from now on."""
        with self.at(CLIENT):
            if self.six:
                _run("ip", "route", "replace", f"{SERVICE_SIX}/128", "via", self.address_six(node))
            else:
                _run("ip", "route", "replace", f"{SERVICE}/32", "via", self.address(node))

    def store(self, bucket: str, bodies: dict[str, bytes]) -> None:
        """Objects by key, by way of the first worker, to which clients go from now on."""
        self.go_to(self.members[0])
        with self.at(CLIENT):
            # On a busy machine a worker may miss the time in which its lease is renewed: 503.
            s3 = self.target().client(retries={"max_attempts": 9, "mode": "standard"})
            s3.create_bucket(Bucket=bucket)
            for key, body in bodies.items():
                s3.put_object(Bucket=bucket, Key=key, Body=body)

    def target(self) -> Target:
        """Where clients find the service."""
        known = self.workers[WORKERS[0]].target()
        return dataclasses.replace(known, endpoint=f"http://{self.service}:{PORT}")

    def outcomes(self, node: str, outcome: str) -> int:
        """Connections of a worker by what came of them."""
        return self.count(node, f'quickwater_ebpf_handoffs_total{{outcome="{outcome}"}}')

    def served(self, node: str, task: str) -> int:
        """Calls of other workers that one answered."""
        return self.count(node, f'quickwater_peer_served_total{{task="{task}"}}')

    def count(self, node: str, sample: str) -> int:
        """A sample with its labels."""
        with self.at(node):
            lines = self.workers[node].metrics_text().splitlines()
        (found,) = [line for line in lines if line.startswith(f"{sample} ")]
        return int(found.rsplit(" ", 1)[1])

    def owner(self, bucket: str, key: str) -> str:
        """The worker that answers for a key; nobody else may ask for anything meanwhile."""
        asked = self.members[0]
        before = {node: self.served(node, "relay") for node in self.members}
        self.go_to(asked)
        with self.at(CLIENT):
            self.target().client().head_object(Bucket=bucket, Key=key)
        grown = [node for node in self.members if self.served(node, "relay") > before[node]]
        assert len(grown) <= 1, grown
        return grown[0] if grown else asked

    def sockets(self, node: str) -> list[str]:
        """Connections of clients that the kernel of a worker's host has."""
        with self.at(node):
            done = subprocess.run(
                ["ss", "-Htan", f"sport = :{PORT}"], check=True, capture_output=True, text=True
            )
        quiet = ("LISTEN", "TIME-WAIT")
        return [line for line in done.stdout.splitlines() if not line.startswith(quiet)]

    def wait_left(self) -> None:
        """Waits until no worker's host has a connection of a client."""
        for node in self.members:
            self.wait_for(lambda: not self.sockets(node), lambda: self.sockets(node), LEFT_SECONDS)

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._unplug()


def made(
    tmp_path: Path, objects: tuple[str, dict[str, bytes]] | None = None, **how: Any
) -> Segment:
    """Workers that hand connections over, with a bucket of `objects`; skips where that cannot be."""
    if why := netns.missing():
        pytest.skip(why)
    cluster = Segment(tmp_path / "c", **how)
    try:
        cluster.start()
        for node in cluster.members:
            with cluster.at(node):
                ebpf.need(cluster.workers[node], "handoff")
        if objects:
            cluster.store(*objects)
    except BaseException:
        cluster.close()
        raise
    return cluster
