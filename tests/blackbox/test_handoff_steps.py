"""Workers that are killed or stand still at a step of a hand-over (decisions/0035), and clients that
leave at one: a client that tries again as clients do gets the right bytes, and no socket is left."""

from __future__ import annotations

import http.client
import itertools
import os
import select
import signal
import socket
import struct
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, NamedTuple, TypeVar
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import BotoCoreError

from conftest import EXTERNAL
from harness.payload import payload
from harness.segment import CLIENT, THREE, Segment, made
from harness.server import binary

pytestmark = [
    pytest.mark.root,
    pytest.mark.needs("ip", "ss"),
    pytest.mark.skipif(bool(EXTERNAL), reason="needs a cluster of its own"),
]
LONG = os.environ.get("QUICKWATER_HANDOFF") == "all"
VARIABLE = "QUICKWATER_TEST_STEPS"
OBEDIENT = os.environ.get("QUICKWATER_DEBUG_BIN", "")
BUCKET = "stepwise"
DEADLINE_SECONDS = 180
# Entries of connections that broke in silence stay for ten minutes.
AGE_SECONDS = 720
KEYS = [f"k{at}" for at in range(16)]
BODIES = {key: payload((1 << 20) + 100_000 * at, seed=at) for at, key in enumerate(KEYS)}
# A worker waits for another one's answer for a second, and packets are kept away for three.
HOLDS_SECONDS = [0.3, 1.5, 3.5]
# The last steps may come when the answer is on its way.
ANSWERED_SECONDS = 1.0
RETRIES = {"mode": "standard", "max_attempts": 10}


class Way(NamedTuple):
    """Whose connection goes to whom, and who sends its packets on."""

    holder: str
    next: str
    entry: str


OVER, ON, BACK = Way("n1", "n2", "n1"), Way("n2", "n3", "n1"), Way("n2", "n1", "n1")
HOLDERS = ["kept-away", "frozen", "turned", "given"]
NEXTS = ["asked", "received", "restored", "told"]
ENTRYS = ["guiding", "guided"]


class Case(NamedTuple):
    """What happens to a worker at one of its steps, `leave` being that it stands still and the
    client goes; `other` is killed meanwhile."""

    way: Way
    node: str
    step: str
    what: str
    other: str = ""


def cases() -> list[Case]:
    """All, or a few of them."""
    every = []
    for what in ["kill", "stop", "leave"]:
        for way in [OVER, ON, BACK]:
            steps = [(way.holder, step) for step in HOLDERS] + [(way.next, step) for step in NEXTS]
            steps += [(way.entry, step) for step in ENTRYS] if way == ON else []
            every += [Case(way, node, step, what) for node, step in steps]
    # Its state is sent, and nobody has it yet.
    every += [Case(way, way.next, "received", "stop", way.holder) for way in [OVER, ON, BACK]]
    few = [
        Case(OVER, "n1", "frozen", "kill"),
        Case(OVER, "n2", "received", "stop"),
        Case(OVER, "n2", "restored", "kill"),
        Case(ON, "n1", "guided", "stop"),
        Case(OVER, "n1", "frozen", "leave"),
        Case(OVER, "n2", "restored", "leave"),
    ]
    assert set(few) <= set(every)
    return every if LONG else few


class Client:
    """One connection at a time; tries again what failed, as boto3 does, and what broke in a
    body, as its users do."""

    def __init__(self, cluster: Segment) -> None:
        self._cluster = cluster
        self.broken = 0
        with cluster.at(CLIENT):
            self._s3: Any = cluster.target().client(
                retries=RETRIES, max_pool_connections=1, connect_timeout=2, read_timeout=5
            )

    def get(self, key: str) -> None:
        """Its bytes are right."""
        with self._cluster.at(CLIENT):
            for last in [False, False, False, True]:
                try:
                    body = self._s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
                    break
                except (BotoCoreError, OSError):
                    if last:
                        raise
                    self.broken += 1
        assert body == BODIES[key], f"{key}: {len(body)} of {len(BODIES[key])} bytes"

    def close(self) -> None:
        self._s3.close()


class Leaver:
    """One connection at a time, whose client may leave while it waits for an answer."""

    def __init__(self, cluster: Segment) -> None:
        self._cluster = cluster
        signer = cluster.target().client(signature_version="s3v4")

        def link(key: str) -> str:
            where = {"Bucket": BUCKET, "Key": key}
            return str(signer.generate_presigned_url("get_object", Params=where))

        self._links = {key: urlsplit(link(key)) for key in KEYS}
        self._connection = http.client.HTTPConnection(self._links[KEYS[0]].netloc, timeout=60)

    def ask(self, key: str) -> None:
        link = self._links[key]
        with self._cluster.at(CLIENT):
            self._connection.request("GET", f"{link.path}?{link.query}")

    def is_answered(self) -> bool:
        """The answer to what was asked has begun, or the connection has ended."""
        return bool(select.select([self._connection.sock], [], [], 0)[0])

    def get(self, key: str) -> None:
        """Its bytes are right; from a connection that breaks, by another one."""
        for last in [False, False, True]:
            try:
                self.ask(key)
                body = self._connection.getresponse().read()
                break
            except (http.client.HTTPException, OSError):
                if last:
                    raise
                self.close()
        assert body == BODIES[key], f"{key}: {len(body)} of {len(BODIES[key])} bytes"

    def leave(self, by_reset: bool) -> None:
        if by_reset:
            now = struct.pack("ii", 1, 0)
            self._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
        self.close()

    def close(self) -> None:
        self._connection.close()


One = TypeVar("One", Client, Leaver)


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"


class Stage:
    """Three workers that obey orders at steps."""

    def __init__(self, home: Path) -> None:
        self._orders = {node: home / "steps" / node for node in THREE}
        for path in self._orders.values():
            path.mkdir(parents=True)
        own = {node: {VARIABLE: str(path)} for node, path in self._orders.items()}
        self.cluster = made(home, members=THREE, own_env=own)
        self.keys: dict[str, list[str]] = {node: [] for node in THREE}
        self.broken = 0
        self._pool = ThreadPoolExecutor(1)
        self._holds = itertools.cycle(HOLDS_SECONDS if LONG else HOLDS_SECONDS[1:2])
        self._resets = itertools.cycle([True, False])

    def fill(self) -> None:
        cluster = self.cluster
        cluster.store(BUCKET, BODIES)
        for key in KEYS:
            self.keys[cluster.owner(BUCKET, key)].append(key)
        assert all(self.keys.values()), self.keys
        cluster.go_to("n1")

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self.cluster.close()

    def brought_to(self, node: str, made: Callable[[Segment], One]) -> One:
        """A client whose connection is at a worker, and free to go on."""

        def one() -> One | None:
            client = made(self.cluster)
            # Twice: the first connection of an entry is watched, others follow.
            for _ in range(2):
                taken = self.cluster.outcomes(node, "taken")
                client.get(self.keys[node][0])
                if node == "n1" or self.cluster.outcomes(node, "taken") > taken:
                    return client
            client.close()
            return None

        found: One = self.cluster.wait_for(one)
        return found

    def play(self, case: Case) -> None:
        """One case."""
        if case.what == "leave":
            return self._play_leaving(case)
        server = self.cluster.workers[case.node]
        client = self.brought_to(case.way.holder, Client)
        order = self._order(case, case.what)
        end = time.monotonic() + DEADLINE_SECONDS
        asked = self._ask(client, case.way.next)
        while order.exists():
            assert time.monotonic() < end, (case, self.cluster.logs())
            if asked.done():
                # It was relayed. Once more, with another connection.
                asked.result()
                client.close()
                self.broken += client.broken
                client = self.brought_to(case.way.holder, Client)
                asked = self._ask(client, case.way.next)
            time.sleep(0.001)
        if case.what == "kill":
            assert server.process is not None
            assert server.process.wait(DEADLINE_SECONDS) == -signal.SIGKILL, case
            self._start(case.node)
        else:
            self.cluster.wait_for(lambda: is_stopped(server.pid))
            if case.other:
                self.cluster.workers[case.other].kill()
            time.sleep(next(self._holds))
            os.kill(server.pid, signal.SIGCONT)
            if case.other:
                self._start(case.other)
        asked.result(DEADLINE_SECONDS)
        for node in THREE:
            client.get(self.keys[node][-1])
        client.close()
        self.broken += client.broken

    def _play_leaving(self, case: Case) -> None:
        pid = self.cluster.workers[case.node].pid
        wanted = self.keys[case.way.next][-1]
        client = self.brought_to(case.way.holder, Leaver)
        order = self._order(case, "stop")
        client.ask(wanted)
        end = time.monotonic() + DEADLINE_SECONDS
        answered = None
        while order.exists():
            now = time.monotonic()
            assert now < end, (case, self.cluster.logs())
            if answered is None and client.is_answered():
                answered = now
            if answered is not None and now > answered + ANSWERED_SECONDS:
                # It was relayed. Once more, with another connection.
                client.close()
                client, answered = self.brought_to(case.way.holder, Leaver), None
                client.ask(wanted)
            time.sleep(0.001)
        self.cluster.wait_for(lambda: is_stopped(pid))
        client.leave(next(self._resets))
        time.sleep(next(self._holds))
        os.kill(pid, signal.SIGCONT)
        self.cluster.wait_left()
        client = Leaver(self.cluster)
        for node in THREE:
            client.get(self.keys[node][-1])
        client.close()

    def _order(self, case: Case, what: str) -> Path:
        """What is to happen at a step; the file is gone when it does."""
        order = self._orders[case.node] / case.step
        # Whole before it can be read.
        partial = order.with_suffix(".new")
        partial.write_text(what)
        partial.rename(order)
        return order

    def _ask(self, client: Client, node: str) -> Future[None]:
        return self._pool.submit(client.get, self.keys[node][-1])

    def _start(self, node: str) -> None:
        with self.cluster.at(node):
            self.cluster.workers[node].start()


@pytest.fixture
def obedient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are of a build that looks for orders: one for release does not."""

    def obeys(program: Path) -> bool:
        return VARIABLE.encode() in program.read_bytes()

    if OBEDIENT:
        # Who names one means it: without it nothing would be tested.
        assert obeys(Path(OBEDIENT)), f"{OBEDIENT} was built without debug assertions"
        monkeypatch.setenv("QUICKWATER_BIN", OBEDIENT)
    elif not obeys(binary()):
        pytest.skip("QUICKWATER_DEBUG_BIN names no build with debug assertions")


@pytest.mark.slow
@pytest.mark.usefixtures("obedient")
def test_a_worker_that_fails_at_a_step_breaks_a_connection_at_worst(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    try:
        cluster = stage.cluster
        stage.fill()
        for case in cases():
            begun = time.monotonic()
            stage.play(case)
            print(f"{case}: {time.monotonic() - begun:.1f} s")
        cluster.wait_left()
        print(f"{len(cases())} cases, {stage.broken} bodies broken")
        if LONG:
            for node in THREE:
                entries = lambda: cluster.metric(node, "quickwater_ebpf_forward_entries")  # noqa: E731
                cluster.wait_for(lambda: entries() == 0, seconds=AGE_SECONDS)
    finally:
        stage.close()
