"""A cluster whose hosts are on one segment of Ethernet: network namespaces on a bridge. The
service addresses are on the loopback of every worker; which worker a client gets to is its
route.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import ContextManager

from . import apart
from .cluster import Cluster
from .netns import _namespace, inside_of
from .server import binary
from .target import Target

WORKERS = ["n1", "n2"]
CLIENT, CONTROL, BRIDGE = "client", "control", "bridge"
HOSTS = [CLIENT, CONTROL, *WORKERS]
SERVICE, PORT = "10.60.0.1", 9000


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
    ) -> None:
        """`own_env`: more environment for one worker."""
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        (home / "ufs").mkdir(exist_ok=True)
        self.ufs = f"file://{home / 'ufs'}"
        self.flags = {"ufs": self.ufs, "ebpf-handoff": handoff, "ebpf-handoff-min": least}
        self.env: dict[str, str] = {}
        self.own_env = own_env or {}
        self.workers = {}
        self.mounts: list[Path] = []
        self.namespaces = {host: _namespace() for host in [BRIDGE, *HOSTS]}
        try:
            self._plug()
            self.control = apart.Control(
                home, binary(), WORKERS,
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

    def _plug(self) -> None:
        with self.at(BRIDGE):
            _run("ip", "link", "add", "b0", "type", "bridge")
            _run("ip", "link", "set", "b0", "up")
            for host in HOSTS:
                there = f"/proc/{os.getpid()}/fd/{self.namespaces[host]}"
                _run("ip", "link", "add", host, "type", "veth", "peer", "name", "e0", "netns", there)
                _run("ip", "link", "set", host, "master", "b0", "up")
        for host in HOSTS:
            with self.at(host):
                _run("ip", "address", "add", f"{self.address(host)}/24", "dev", "e0")
                _run("ip", "link", "set", "e0", "up")
                if host in WORKERS:
                    Path("/proc/sys/net/ipv4/conf/all/arp_ignore").write_text("1")
                    Path("/proc/sys/net/ipv4/conf/all/arp_announce").write_text("2")
                    _run("ip", "address", "add", f"{SERVICE}/32", "dev", "lo")
        for node in WORKERS:
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
        for node in WORKERS:
            self.flags["ebpf-pins"] = str(self.home / "pins" / node / "quickwater")
            server = self.worker(node, start=False)
            listen = f"--s3-listen={SERVICE}:{PORT}"
            words = [listen if w.startswith("--s3-listen=") else w for w in server.command()]
            server.command = lambda words=words: words  # type: ignore[method-assign]
            self.worker(node)
        self.settle(WORKERS)
        return self

    def go_to(self, node: str) -> None:
        """Clients get to this worker from now on."""
        with self.at(CLIENT):
            _run("ip", "route", "replace", f"{SERVICE}/32", "via", self.address(node))

    def target(self) -> Target:
        """Where clients find the service."""
        return self.workers[WORKERS[0]].target()

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._unplug()
