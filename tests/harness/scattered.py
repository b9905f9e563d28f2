"""A cluster with a host of its own for each process: control plane, workers, store, clients."""

from __future__ import annotations

import contextlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, ContextManager, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from ufssim.client import Sim

from . import apart
from .cluster import PATIENCE_SECONDS, Cluster
from .crowd import Crowd
from .netns import Network
from .server import binary
from .target import Target
from .under import IMPATIENT, SCALED, STORE_BUCKET

WORKERS = ["n1", "n2", "n3"]
CLIENT, CONTROL, STORE = "client", "control", "store"
PREFIX = "root"
BUCKET = "net"
# Half of them are in the store when they are acked, half on a worker.
KEYS_OF = {place: [f"{place}/k{number}" for number in range(4)] for place in ("through", "back")}
DURABLE = {"through": "ufs", "back": "local-1"}
T = TypeVar("T")
# How long the store may be late with a request that was given up. Shorter than what a process
# sleeps that is frozen would bring its requests back; longer and keys wait for it.
FENCE = "3s"


class Scattered(Cluster):
    """Three workers over the store simulator; clients belong to the host `client`. `own` is
    environment of single hosts."""

    def __init__(
        self, home: Path, lease: str, own: dict[str, dict[str, str]] | None = None, fence: str = FENCE
    ) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        hosts = [CLIENT, CONTROL, STORE, *WORKERS]
        self.net = Network({host: f"10.99.0.{at}" for at, host in enumerate(hosts, 1)}, home.name)
        self.workers = {}
        for node in WORKERS:
            with self.at(node):
                # What a worker gave up does not come through a partition later than the
                # fence allows: the kernel would send it again for some minutes.
                Path("/proc/sys/net/ipv4/tcp_orphan_retries").write_text("1")
        with self.at(STORE):
            self.sim = Sim(home / "sim", "--host", self.address(STORE), "--min-part-bytes", "1024")
            self.sim.create_bucket(STORE_BUCKET)
        store = self.sim.target()
        self.ufs = f"s3://{STORE_BUCKET}/{PREFIX}"
        self.flags = {
            **IMPATIENT, **SCALED,
            "write-cache-fence": fence,
            "ufs": self.ufs,
            "ufs-options": f"endpoint={store.endpoint},region=us-east-1,path_style=true,"
            "credentials=env:UNDER,min_part_size=1KiB",
        }
        self.env = {
            "UNDER_ACCESS_KEY_ID": store.access_key,
            "UNDER_SECRET_ACCESS_KEY": store.secret_key,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        flags = [f"--{name}={value}" for name, value in self.flags.items()]
        flags.append(f"--cluster-lease={lease}")
        self.control = apart.Control(home, binary(), WORKERS, flags, self.address(CONTROL))
        self.own = own or {}
        self.control.env = {**self.env, **self.own.get(CONTROL, {})}
        self.start_control()

    def at(self, host: str) -> ContextManager[None]:
        """The calling thread, and what it starts, is at a host."""
        return self.net.inside(host)

    def address(self, host: str) -> str:
        """Of a host."""
        return self.net.addresses[host]

    def environment(self, node: str) -> dict[str, str]:
        """Of a worker."""
        return {**super().environment(node), **self.own.get(node, {})}

    def start_control(self) -> None:
        """Starts the control plane (again)."""
        with self.at(CONTROL):
            self.control.start()

    def each(self, work: Callable[[str], T], hosts: list[str] | None = None) -> dict[str, T]:
        """Does something for all workers at once, each time at the worker's host."""
        hosts = hosts or WORKERS

        def there(host: str) -> T:
            with self.at(host):
                return work(host)

        with ThreadPoolExecutor(len(hosts)) as pool:
            return dict(zip(hosts, pool.map(there, hosts)))

    def start(self) -> "Scattered":
        """All workers, a bucket, and half of it under WRITE_BACK."""
        self.each(lambda node: self.worker(node))
        self.settle(WORKERS)
        rule = {"path": f"/{BUCKET}/back/**", "policyMode": "WRITE_BACK"}
        path = self.home / "rules.json"
        path.write_text(json.dumps({"apiVersion": "v1.0", "pathRules": [rule]}))
        done = self.cli("pathconfig", "apply", str(path))
        assert done.returncode == 0, done
        with self.at(CLIENT):
            s3 = [self.target(node).client() for node in WORKERS]
            self.wait(lambda: works(lambda: s3[0].create_bucket(Bucket=BUCKET)))
            for place, wanted in DURABLE.items():
                for client in s3:
                    self.wait(lambda: durability(client, f"{place}/probe") == wanted)
        return self

    def target(self, node: str) -> Target:
        """Where clients find a worker."""
        return self.workers[node].target()

    def wait(self, what: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> None:
        """Until something holds."""
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, self.logs()
            time.sleep(0.05)

    def crowd(self, seed: str) -> Crowd:
        """Clients of the bucket's keys, not started."""
        keys = [key for place in KEYS_OF.values() for key in place]
        return Crowd(lambda: self.net.enter(CLIENT), self.target, BUCKET, keys, seed)

    def is_ready(self, node: str) -> bool:
        """Whether a worker takes requests; false while it is restarted."""
        server = self.workers[node]
        with self.at(node):
            return server.alive() and "metrics" in server.run and server.http_status("/readyz") == 200

    def whole(self, crowd: Crowd, nodes: list[str] | None = None) -> float:
        """Waits until every key can be written and read at every worker; seconds until then."""
        begun = time.monotonic()
        end = begun + PATIENCE_SECONDS

        def all_keys(node: str) -> None:
            for key in crowd.keys:
                while crowd.put(node, key).status != 200 or crowd.read(node, key).status not in (200, 404):
                    assert time.monotonic() < end, f"{key} at {node}\n{crowd.summary()}\n{self.logs()}"
                    time.sleep(0.02)

        def at_client(node: str) -> None:
            with self.at(CLIENT):
                all_keys(node)

        self.each(at_client, nodes)
        return time.monotonic() - begun

    def differs(self, crowd: Crowd, nodes: list[str] | None = None) -> str:
        """What clients see and the store does not have, once all is persisted; nobody writes.
        Empty: nothing. A write whose client gave up may be on its way to its owner when the
        network heals, and be made after all: it is waited for."""
        done = self.cli("async-persist", "wait", "--path", "/", "--timeout", "2m")
        assert done.returncode == 0, f"{done}\n{self.logs()}"
        places = [(node, key) for node in nodes or WORKERS for key in crowd.keys]
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            differ = self.compare(crowd, places)
            if not differ:
                return ""
            if time.monotonic() >= end:
                said = [f"{key}: {node} shows {seen!r}, the store has {has!r}"
                        for (node, key), (seen, has) in differ.items()]
                return "\n".join([*said, *(self.applied(crowd, key) for key in crowd.keys)])
            places = list(differ)
            time.sleep(0.1)

    def compare(
        self, crowd: Crowd, places: list[tuple[str, str]]
    ) -> dict[tuple[str, str], tuple[str, str]]:
        """Of keys at workers what a read shows and what the store has, where these differ."""
        with self.at(STORE):
            stored = self.sim.objects(STORE_BUCKET, f"{PREFIX}/{BUCKET}/")
        differ = {}
        with self.at(CLIENT):
            for node, key in places:
                self.wait(lambda: crowd.read(node, key).status in (200, 404))
                seen = crowd.history.keys[key][-1].value
                has = crowd.value_of(stored[key]["etag"]) if key in stored else ""
                if seen != has:
                    differ[node, key] = (seen, has)
        return differ

    def applied(self, crowd: Crowd, key: str) -> str:
        """What the store applied of a key, for people."""
        with self.at(STORE):
            lines = self.sim.changes(f"{PREFIX}/{BUCKET}/{key}")
        return f"{key}: " + ", ".join(f"{a.at:.3f} {a.operation} {crowd.value_of(a.etag)}" for a in lines)

    def close(self) -> None:
        """Ends all, the network last."""
        with contextlib.ExitStack() as last:
            last.callback(self.net.close)
            last.callback(self.sim.close)
            last.callback(self.control.kill)
            for server in self.workers.values():
                last.callback(server.kill)
            self.net.rule()
            super().close()


def works(call: Callable[[], Any]) -> bool:
    """Whether an S3 call succeeds."""
    try:
        call()
    except (ClientError, BotoCoreError):
        return False
    return True


def durability(s3: Any, key: str) -> str | None:
    """Where the bytes of a PUT are; none: there was no answer of success."""
    try:
        answer = s3.put_object(Bucket=BUCKET, Key=key, Body=b"?")
    except (ClientError, BotoCoreError):
        return None
    return answer["ResponseMetadata"]["HTTPHeaders"].get("x-quickwater-durability")
