"""Crashes under WRITE_BACK: the store simulator comes and goes, its journal judges.

After every crash all acked objects must be readable. Every few crashes, and at
the end, the store is let be: it must end with what was acked last, and its
journal must follow the order of the acks.
"""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import metadata
from harness.server import Server
from harness.under import SCALED, STORE_BUCKET, over
from ufssim.client import Sim
from ufssim.verify import ACKED, REFUSED, History, Operation, content_of, order

from .cycles import BUCKET, Crash, Outcome, Plan, run
from .journal import Journal, Seen, Value
from .load import Load

ROOT = "root"
PREFIX = f"{ROOT}/{BUCKET}/"
CONVERGE_SECONDS = 90.0
# Crashes between two looks at the store.
LOOK_EVERY = 5
# Of the starts that are killed while they recover, and how late at most.
KILLED_STARTS = 0.4
KILL_START_SECONDS = 0.6
WRITES = "PutObject|CopyObject|DeleteObject*|*MultipartUpload|UploadPart*"
FAULTS = ("reset", "lose_reply", "status")
POLICY = """{"apiVersion": "v1.0", "pathRules": [
  {"path": "/%s/**", "policyMode": "WRITE_BACK", "properties": {"writeReplicas": 1}}]}"""


class Past(Journal):
    """A journal that also keeps the whole past of every key."""

    def __init__(self) -> None:
        super().__init__()
        self.history = History()
        self._open: dict[tuple[str, Seen], Operation] = {}

    def begin(self, key: str, seen: Seen) -> None:
        super().begin(key, seen)
        self._open[key, seen] = self.history.begin(key, _bytes(seen))

    def ack(self, key: str, seen: Seen) -> None:
        super().ack(key, seen)
        self.history.end(self._open[key, seen], ACKED)

    def refused(self, key: str, seen: Seen) -> None:
        super().refused(key, seen)
        self.history.end(self._open[key, seen], REFUSED)

    def settle(self, key: str, seen: Seen) -> None:
        """What was read after a crash is true from here on, acked or not (C5)."""
        super().settle(key, seen)
        for operation in reversed(self.history.keys[key]):
            if operation.outcome == ACKED:
                break
            if operation.outcome != REFUSED and operation.content == content_of(_bytes(seen)):
                operation.outcome = ACKED
                break

    def note(self, key: str, bodies: list[bytes | None]) -> None:
        for body in bodies:
            self.history.acked(key, body)


def _bytes(seen: Seen) -> bytes | None:
    return seen.data() if isinstance(seen, Value) else None


class Elsewhere:
    """The simulator as what lies below. Looked at now and then: in between it may be down."""

    def __init__(self, sim: Sim, journal: Past) -> None:
        self.sim, self.journal = sim, journal
        self.looks = 0

    def differences(self, bucket: str, present: dict[str, bytes]) -> list[str]:
        """Waits for the store to catch up, then holds its journal against the past."""
        self.looks += 1
        if self.looks % LOOK_EVERY:
            return []
        return self.converge(present)

    def relieve(self) -> None:
        """Good weather: dirty space gets free again."""
        calm(self.sim)

    def converge(self, present: dict[str, bytes]) -> list[str]:
        """No fault any more: how the store differs when it has had its time."""
        calm(self.sim)
        expected = {key: content_of(data) for key, data in present.items()}
        end = time.monotonic() + CONVERGE_SECONDS
        while True:
            stored = {k: v["sha256"] for k, v in self.sim.objects(STORE_BUCKET, PREFIX).items()}
            wrong = [
                f"{key}: the store has {stored.get(key, 'nothing')[:12]}, clients see "
                f"{expected.get(key, 'nothing')[:12]}"
                for key in sorted(stored.keys() | expected.keys())
                if stored.get(key) != expected.get(key)
            ]
            if not wrong or time.monotonic() > end:
                return wrong + order(self.journal.history, self.sim.journal(PREFIX), PREFIX)
            time.sleep(0.2)


class Struck(Crash):
    """A crash with the store in trouble, sometimes several in a row."""

    def __init__(self, inner: Crash, sim: Sim, server: Server, seed: str) -> None:
        self.inner, self.sim, self.server = inner, sim, server
        self.random = random.Random(f"{seed}/weather")
        self.killed_starts = 0

    def ready(self, server: Server) -> None:
        write_back(server)

    def begin(self) -> None:
        storm(self.sim, self.random)

    def strike(self, server: Server, load: Load) -> None:
        self.inner.strike(server, load)

    def recover(self) -> None:
        self.inner.recover()
        # The check reads what the store has, too, but whatever is dirty stays so:
        # it must be readable from here.
        calm(self.sim)
        self.sim.rule("status", operation=WRITES, status=503, code="SlowDown")
        while self.random.random() < KILLED_STARTS:
            self.server.launch()
            time.sleep(metadata.claim_seconds() + self.random.uniform(0.0, KILL_START_SECONDS))
            self.server.kill()
            self.killed_starts += 1


def write_back(server: Server) -> None:
    """Puts the bucket under WRITE_BACK."""
    path = server.home / "policies.json"
    path.write_text(POLICY % BUCKET)
    server.cli("pathconfig", "apply", str(path))
    time.sleep(1.0)  # in force in every shard within a second


def storm(sim: Sim, choose: random.Random) -> None:
    """Other weather: there, down, flapping, or failing now and then."""
    calm(sim)
    kind = choose.randrange(5)
    if kind == 1:
        sim.down(choose.choice(["refuse", "black_hole"]))
    elif kind == 2:
        sim.flap(up_s=0.3, down_s=0.3)
    elif kind == 3:
        for seed, action in enumerate(FAULTS):
            sim.rule(action, chance=0.1, seed=seed)
        sim.rule("late", method="PUT", chance=0.05, seed=9, delay_s=0.5, jitter_s=1.0)
    elif kind == 4:
        sim.rule("latency", delay_s=0.05, jitter_s=0.3)


def calm(sim: Sim) -> None:
    """Good weather."""
    sim.clear_rules()
    sim.up()


class WriteBack:
    """The simulator and the judge of one run."""

    def __init__(self, home: Path, seed: str) -> None:
        self.sim = Sim(home, "--min-part-bytes", "1024")
        self.sim.create_bucket(STORE_BUCKET)
        self.journal = Past()
        self.seed = seed

    def __enter__(self) -> "WriteBack":
        return self

    def __exit__(self, *_: object) -> None:
        self.sim.close()

    def options(self, flags: dict[str, str]) -> dict[str, Any]:
        """Of the service."""
        made = over(self.sim, ROOT)
        made["flags"] = {**made["flags"], **SCALED, **flags}
        return made

    def crash(self, inner: Crash, server: Server) -> Struck:
        """The crash with the weather around it."""
        return Struck(inner, self.sim, server, self.seed)

    def run(self, server: Server, crash: Struck, plan: Plan) -> Outcome:
        """All cycles, then a last look at the store."""
        below = Elsewhere(self.sim, self.journal)
        outcome = run(server, below, crash, replace(plan, rough=True), self.journal)
        if not outcome.wrong:
            outcome.wrong += below.converge(_present(self.journal))
        if outcome.wrong:
            lines = [str(line) for line in self.sim.journal(PREFIX)]
            lines += [f"{key}: {past}" for key, past in self.journal.history.keys.items()]
            (server.home / "journal.txt").write_text("\n".join(lines))
        plan.say(f"{crash.killed_starts} starts killed, {self.sim.state()['applied']} changes applied")
        return outcome


def _present(journal: Journal) -> dict[str, bytes]:
    """What the last check found: settled, so exactly one value a key."""
    seen = {key: journal.current(key)[0] for key in journal.keys()}
    return {key: value.data() for key, value in seen.items() if isinstance(value, Value)}
