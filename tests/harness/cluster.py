"""A control plane, several workers and one directory as their UFS."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, ContextManager, Iterator

from . import apart, metadata
from .server import Server, binary

KEYS = {
    "QUICKWATER_ACCESS_KEY_ID": "AKIACLUSTERTEST00001",
    "QUICKWATER_SECRET_ACCESS_KEY": "a-secret-for-tests-of-clusters",
}
SLOTS = 16_384
NODES = ["n1", "n2"]
# Far longer than anything takes: a machine may be busy.
PATIENCE_SECONDS = 120.0


def durability(s3: Any) -> str | None:
    """What a PUT says of where its bytes are; none: in the UFS."""
    answer = s3.put_object(Bucket="abc", Key="asked", Body=b"?")
    return answer["ResponseMetadata"]["HTTPHeaders"].get("x-quickwater-durability")


def persist_state(answer: Any) -> str | None:
    """Where the bytes of an object are safe, as an answer about it says."""
    return answer["ResponseMetadata"]["HTTPHeaders"].get("x-quickwater-persist-state")


class Cluster:
    """A control plane, its workers, and one directory as their UFS."""

    # Of workers, by name; the classes that begin otherwise have it, too.
    zones: dict[str, str] = {}

    def __init__(
        self,
        home: Path,
        lease: str,
        nodes: list[str] | None = None,
        kept: tuple[dict[str, str], dict[str, str]] | None = None,
        *,
        flags: dict[str, str] | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        """`kept`: flags and environment that say where the metadata lies. `flags`, `env`: more
        of them, for control and workers; they may name another UFS."""
        home.mkdir(parents=True, exist_ok=True)
        (home / "ufs").mkdir(exist_ok=True)
        self.home = home
        self.ufs = f"file://{home / 'ufs'}"
        self.flags = {"ufs": self.ufs, **(flags or {})}
        self.env = env or {}
        words = [f"--{name}={value}" for name, value in self.flags.items()]
        words.append(f"--cluster-lease={lease}")
        where, faults = metadata.defaults(home / "control") if kept is None else kept
        words += [f"--{name}={value}" for name, value in where.items()]
        self.control = apart.Control(home, binary(), nodes or NODES, words)
        self.control.env = {**self.env, **faults}
        self.control.start()
        self.workers: dict[str, Server] = {}

    def environment(self, node: str) -> dict[str, str]:
        """Of a worker."""
        return {**self.env, **KEYS}

    def at(self, host: str) -> ContextManager[None]:
        """Where a process of this cluster is: on this machine."""
        return contextlib.nullcontext()

    def address(self, host: str) -> str:
        """Of a host."""
        return apart.LOOPBACK

    def worker(self, node: str, start: bool = True) -> Server:
        """A worker; made at the first call."""
        if node not in self.workers:
            server = Server(self.home / node, flags=self.flags, env=self.environment(node))
            server.control = None
            words = self.control.worker_flags(node, self.address(node))
            server.flags["s3-listen"] = f"{self.address(node)}:0"
            server.flags.pop("admin-listen")
            if zone := self.zones.get(node):
                server.flags["zone"] = zone
            # Tests end with a store that is away, too.
            server.flags["shutdown-persist"] = "2s"
            original = [str(server.program), "worker", "--dir", str(server.dir), *words]
            flags = [f"--{name}={value}" for name, value in server.flags.items()]
            server.command = lambda: [*original, *flags]  # type: ignore[method-assign]
            self.workers[node] = server
        server = self.workers[node]
        with self.at(node):
            return server.start() if start and not server.alive() else server

    def metric(self, node: str, name: str) -> float:
        """A metric of a worker."""
        with self.at(node):
            return self.worker(node).metric(name)

    def nodes(self) -> dict[str, dict[str, Any]]:
        """`node list`."""
        words = [str(binary()), "node", "list", "--dir", str(self.control.dir), "--output", "json"]
        with self.at("control"):
            done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
        return {node["name"]: node for node in json.loads(done.stdout)["nodes"]}

    def slots(self) -> dict[str, int]:
        """Slots by node."""
        return {name: int(node["slots"]) for name, node in self.nodes().items()}

    def wait_slots(self, wanted: Any, seconds: float = PATIENCE_SECONDS) -> dict[str, int]:
        """Waits until the slots are as wanted."""
        end = time.monotonic() + seconds
        while not wanted(self.slots()):
            assert time.monotonic() < end, f"{self.slots()}\n{self.logs()}"
            time.sleep(0.1)
        return self.slots()

    def settle(self, nodes: list[str], seconds: float = PATIENCE_SECONDS) -> None:
        """Waits until these workers own all slots, and know it."""
        self.wait_slots(
            lambda slots: sum(slots.values()) == SLOTS
            and all(slots.get(node, 0) > 0 for node in nodes)
            and all(self.metric(node, "quickwater_slots_owned") == slots[node] for node in nodes),
            seconds,
        )

    def wait_for(
        self, what: Callable[[], Any], why: Any = "", seconds: float = PATIENCE_SECONDS
    ) -> Any:
        """Waits until something holds, and gives it; `why`, or what it returns, is shown when
        it never does."""
        end = time.monotonic() + seconds
        while not (found := what()):
            shown = why() if time.monotonic() >= end and callable(why) else why
            assert time.monotonic() < end, f"{shown}\n{self.logs()}"
            time.sleep(0.1)
        return found

    def ask_once(self, node: str) -> Any:
        """A client of one worker that does not try again."""
        target = self.worker(node, start=False).target()
        return target.client(retries={"max_attempts": 0}, connect_timeout=5, read_timeout=60)

    def logs(self) -> str:
        """Of all."""
        tails = [server.log_tail() for server in self.workers.values()]
        return "\n".join([self.control.log_tail(), *tails])

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        """An admin verb, whatever it comes to."""
        line = [str(binary()), *words, "--dir", str(self.control.dir)]
        with self.at("control"):
            return subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)

    def policy(self, mode: str, s3: Any, copies: int = 1) -> None:
        """One policy for everything, in force where `s3` goes when this returns."""
        path = self.home / "rules.json"
        rule: dict[str, Any] = {"policyMode": mode}
        if copies > 1:
            rule["properties"] = {"writeReplicas": copies}
        path.write_text(json.dumps({"apiVersion": "v1.0", "defaultRule": rule}))
        done = self.cli("pathconfig", "apply", str(path))
        assert done.returncode == 0, done
        wanted = "ufs" if mode == "WRITE_THROUGH" else f"local-{copies}"
        end = time.monotonic() + PATIENCE_SECONDS
        while durability(s3) != wanted:
            assert time.monotonic() < end, self.logs()
            time.sleep(0.1)

    def policy_of_all(self, mode: str, copies: int = 1) -> None:
        """As `policy`, and in force at every worker: each is asked for a key of its own.
        Nobody else may ask for anything meanwhile."""
        running = {node: server for node, server in self.workers.items() if server.alive()}
        clients = {node: server.target().client() for node, server in running.items()}
        self.policy(mode, next(iter(clients.values())), copies)
        wanted = "ufs" if mode == "WRITE_THROUGH" else f"local-{copies}"

        def relayed() -> float:
            served = 'quickwater_peer_served_total{task="relay"} '
            texts = [one.metrics_text() for one in running.values()]
            lines = [line for text in texts for line in text.splitlines()]
            return sum(float(line.removeprefix(served)) for line in lines if line.startswith(served))

        end = time.monotonic() + PATIENCE_SECONDS
        for node, s3 in clients.items():
            number, seen = 0, ""
            while seen != wanted:
                assert time.monotonic() < end, f"{node}: {seen}\n{self.logs()}"
                before, number = relayed(), number + 1
                answer = s3.put_object(Bucket="abc", Key=f"asked{number}", Body=b"?")
                if relayed() == before:
                    seen = answer["ResponseMetadata"]["HTTPHeaders"]["x-quickwater-durability"]

    def sum(self, metric: str) -> float:
        """A metric, summed over the workers that run."""
        running = [server for server in self.workers.values() if server.alive()]
        return sum(server.metric(metric) for server in running)

    def lose(self, node: str) -> None:
        """Kills a worker, and its disk with it."""
        server = self.workers[node]
        server.kill()
        shutil.rmtree(server.dir)

    def close(self) -> None:
        """Ends all."""
        for server in self.workers.values():
            if server.alive():
                os.kill(server.pid, signal.SIGCONT)
            server.close()
        self.control.kill()
        for server in self.workers.values():
            assert "panicked" not in server.log(), server.log_tail()
        assert "panicked" not in self.control.log_path.read_text(), self.control.log_tail()


@contextlib.contextmanager
def settled(home: Path, lease: str, nodes: list[str], **options: Any) -> Iterator[Cluster]:
    """A cluster whose workers run and have settled who owns what; `options` are
    those of `Cluster`."""
    made = Cluster(home, lease, nodes, **options)
    try:
        for node in nodes:
            made.worker(node)
        made.settle(nodes)
        yield made
    finally:
        made.close()
