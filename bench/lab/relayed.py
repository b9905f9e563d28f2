"""The relay rows: requests through a worker that does not own their keys, beside the same
requests at the owner. A control plane and two workers on the servers' core."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.cluster import Cluster
from harness.payload import payload
from harness.server import Server

from .bench import Bench
from .clients import Connection, LoadFailed, Request, once_each, wrk
from .machine import SERVER_CORE, busy_seconds
from .rounds import Contestant, Load, Row, together
from .servers import KEPT, LARGE, MEMORY, PART, POLICY_SECONDS, SMALL, Endpoint

ENTRY, OWNER = "n1", "n2"
LEASE = "60s"
BUCKET = "bench"
KEYS, LARGE_KEYS, PART_KEYS = 256, 4, 16
KEYS_TRIED_MAX = 20 * KEYS
WARM_READS = 5
SERVED = re.compile(r'^quickwater_peer_served_total\{task="relay"\} (\S+)$', re.MULTILINE)
NOTE = (
    "direct: at the worker that owns the keys; relay: the same keys through the other worker, CPU of both; "
    "relay-entry: the same run, CPU of that other worker alone. Both workers have one thread, on one core, and "
    "speak TLS to each other; the owner counts that all of them were relayed, or none"
)


@contextmanager
def _on_servers_core() -> Iterator[None]:
    """What is started meanwhile has the servers' core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {SERVER_CORE})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Pair:
    """Two workers that share the slots, and keys that the second one owns."""

    def __init__(self, home: Path, capacity: str) -> None:
        flags = {"s3-anonymous": "true", "threads": "1", "memory": str(MEMORY), "capacity": capacity,
                 "metadata-ttl": "never"}  # fmt: skip
        with _on_servers_core():
            self.cluster = Cluster(home, LEASE, [ENTRY, OWNER], flags=flags)
            try:
                for node in (ENTRY, OWNER):
                    self.cluster.worker(node)
                self.cluster.settle([ENTRY, OWNER])
            except BaseException:
                self.close()
                raise
        self.entry, self.owner = self._endpoint(ENTRY), self._endpoint(OWNER)

    def _endpoint(self, node: str) -> Endpoint:
        server = self.server(node)
        port = int(str(server.run["s3"]).rsplit(":", 1)[1])
        return Endpoint(node, port, server.pid, " ".join(server.command()))

    def server(self, node: str) -> Server:
        """A worker's process."""
        return self.cluster.worker(node)

    def close(self) -> None:
        """Ends all."""
        self.cluster.close()

    def fill(self) -> None:
        """Buckets: one that the UFS has, and one under TRANSIENT, whose acks nothing follows."""
        with Connection(self.owner.port) as connection:
            for bucket in (BUCKET, KEPT):
                connection.exchange(Request("PUT", f"/{bucket}"))
        rules = self.cluster.home / "rules.json"
        rule = {"path": f"/{KEPT}", "policyMode": "TRANSIENT"}
        rules.write_text(json.dumps({"apiVersion": "v1.0", "pathRules": [rule]}))
        done = self.cluster.cli("pathconfig", "apply", str(rules))
        if done.returncode != 0:
            raise LoadFailed(f"pathconfig apply: {done.stdout}{done.stderr}")
        time.sleep(POLICY_SECONDS)

    def relayed(self) -> float:
        """Requests that the owner served for the other worker so far."""
        found = SERVED.search(self.server(OWNER).metrics_text())
        return float(found[1]) if found else 0.0

    def owned(self, bucket: str, name: str, count: int) -> list[str]:
        """Paths whose keys the owner has, found by asking the other worker to write them."""
        paths: list[str] = []
        before = self.relayed()
        with Connection(self.entry.port) as connection:
            for number in range(KEYS_TRIED_MAX):
                path = f"/{bucket}/{name}{number}"
                connection.exchange(Request("PUT", path, body=b"?"))
                after = self.relayed()
                if after > before:
                    paths.append(path)
                before = after
                if len(paths) == count:
                    return paths
        raise LoadFailed(f"of {KEYS_TRIED_MAX} keys {OWNER} has {len(paths)}")

    def objects(self, bucket: str, name: str, count: int, size: int) -> list[Request]:
        """GETs of hits at the owner."""
        gets = []
        with Connection(self.owner.port) as connection:
            for path in self.owned(bucket, name, count):
                connection.exchange(Request("PUT", path, body=payload(size, path)))
                gets.append(Request("GET", path))
            for get in gets:
                heads = (connection.exchange(get)[0].lower() for _ in range(WARM_READS))
                if not any(b"x-quickwater-cache: hit" in head for head in heads):
                    raise LoadFailed(f"{get.path} is no hit after {WARM_READS} reads")
        return gets

    def puts(self, name: str, count: int, size: int) -> list[Request]:
        """PUTs of keys that the owner has."""
        body = payload(size, name)
        return [Request("PUT", path, body=body) for path in self.owned(KEPT, name, count)]


@dataclass
class Work:
    """One kind of requests, sent to either worker."""

    pair: Pair
    load: Callable[[int], Load]
    words: str
    kept: dict[str, Load] = field(default_factory=dict)

    def contestants(self) -> list[Contestant]:
        """The owner; both workers; of the same run the entry worker alone."""
        owner, entry = self.pair.owner, self.pair.entry
        return [
            Contestant("direct", lambda: self._measured(owner)[0], f"{owner.command}\n{self.words}, there"),
            Contestant("relay", lambda: self._take("relay"), f"{entry.command}\n{self.words}, there"),
            Contestant("relay-entry", lambda: self._take("relay-entry"), "CPU of the entry worker in the run of relay"),
        ]

    def _take(self, name: str) -> Load:
        """Whichever of the two comes first runs the load."""
        if name not in self.kept:
            both, entry = self._measured(self.pair.entry)
            self.kept = {"relay": both, "relay-entry": replace(both, cpu_seconds=entry)}
        return self.kept.pop(name)

    def _measured(self, at: Endpoint) -> tuple[Load, float]:
        """A run with the CPU time of all workers that take part, and that of the one asked."""
        pair = self.pair
        taking_part = {one.name: one for one in (at, pair.owner)}.values()
        for one in taking_part:
            one.reset_peak()
        relayed, busy = pair.relayed(), busy_seconds()
        before = {one.name: one.cpu_seconds() for one in taking_part}
        load = self.load(at.port)
        took = {one.name: one.cpu_seconds() - before[one.name] for one in taking_part}
        load.cpu_seconds, load.machine_seconds = sum(took.values()), busy_seconds() - busy
        load.peak_rss_bytes = sum(one.peak_rss_bytes() for one in taking_part)
        self._check(at, load, pair.relayed() - relayed)
        return load, took[at.name]

    def _check(self, at: Endpoint, load: Load, relayed: float) -> None:
        # wrk does not count what was under way when it ended.
        if at is self.pair.owner and relayed or at is self.pair.entry and relayed < load.requests:
            raise LoadFailed(f"of {load.requests} requests at {at.name} {relayed:.0f} were relayed")


def relay_rows(bench: Bench) -> list[Row]:
    """GET and PUT, small and large, through another worker and at the owner."""
    pair = bench.keep(Pair(bench.home / "relay", bench.options.capacity))
    pair.fill()
    seconds = bench.options.seconds
    small = pair.objects(BUCKET, "s", KEYS, SMALL)
    large = pair.objects(BUCKET, "l", LARGE_KEYS, LARGE)
    parts = pair.puts("p", PART_KEYS, PART)

    def short(requests: list[Request], connections: int) -> Work:
        load = lambda port: wrk(port, requests, connections, seconds, keys=None, size=SMALL)  # noqa: E731
        return Work(pair, load, f"wrk, {connections} connections, {len(requests)} x {requests[0].method} in turn")

    def long(requests: list[Request], streams: int, passes: int) -> Work:
        once = lambda port: once_each(port, requests, streams, keys=None)  # noqa: E731
        load = lambda port: together([once(port) for _ in range(passes)])  # noqa: E731
        return Work(pair, load, f"{passes} times {len(requests)} x {requests[0].method}, {streams} connections (lab/clients.py)")  # fmt: skip

    puts = pair.puts("k", KEYS, SMALL)
    passes = bench.options.large_passes
    work = [
        ("relay-get-small-64", "GET 10 KiB, hit in RAM, 64 connections", short(small, 64)),
        ("relay-get-small-1", "GET 10 KiB, hit in RAM, 1 connection", short(small, 1)),
        ("relay-get-large-1", "GET 64 MiB, 1 stream", long(large, 1, passes)),
        ("relay-get-large-8", "GET 64 MiB, 8 streams", long(large * 4, 8, -(-passes // 4))),
        ("relay-put-small-64", "PUT 10 KiB durable (TRANSIENT), 64 connections", short(puts, 64)),
        ("relay-put-small-1", "PUT 10 KiB durable (TRANSIENT), 1 connection", short(puts, 1)),
        ("relay-put-large", "PUT 10 MiB durable (TRANSIENT), 8 streams", long(parts, 8, passes)),
    ]
    return [Row(name, title, one.contestants(), [NOTE], beside="direct") for name, title, one in work]
