"""One crash after another on the same data, each followed by a full check."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Iterator

from harness.payload import MIB
from harness.server import Server

from .check import Below, Report, check
from .journal import Journal
from .load import Load

BUCKET = "crash"
FLAGS = {
    "capacity": str(128 * MIB),
    "segment-size": str(8 * MIB),
    "memory": str(256 * MIB),
    "s3-min-part-size": str(MIB),
}


@dataclass
class Outcome:
    """Of all cycles."""

    cycles: int = 0
    acks: int = 0
    unknown: int = 0
    keys: int = 0
    uploads: int = 0
    wrong: list[str] = field(default_factory=list)

    def line(self) -> str:
        """For people."""
        return (
            f"{self.cycles} crashes, {self.acks} acked writes, {self.unknown} without an answer, "
            f"{self.keys} keys and {self.uploads} open uploads checked, {len(self.wrong)} wrong"
        )


@dataclass
class Plan:
    """How a run goes."""

    cycles: int
    seconds: float = 2.0  # longest load before a crash
    writers: int = 8
    seed: str = "0"
    rough: bool = False  # the UFS is in trouble, too
    say: Callable[[str], None] = print


class Crash:
    """What differs between kill -9 and a power cut."""

    def ready(self, server: Server) -> None:
        """The service runs for the first time, the bucket is made."""

    def begin(self) -> None:
        """The load of a cycle is about to start."""

    def strike(self, server: Server, load: Load) -> None:
        """Ends the service while the load runs."""
        load.faulty.set()
        server.kill()

    def recover(self) -> None:
        """What a reboot does before the service starts."""


def run(
    server: Server, below: Below, crash: Crash, plan: Plan, journal: Journal | None = None
) -> Outcome:
    """All cycles; stops at the first with wrong results."""
    outcome, journal = Outcome(), journal or Journal()
    server.start()
    server.target().client().create_bucket(Bucket=BUCKET)
    crash.ready(server)
    for number in range(plan.cycles):
        report = _cycle(server, below, crash, plan, journal, number)
        outcome.cycles += 1
        outcome.acks, outcome.unknown = journal.acks, journal.unknown
        outcome.keys += report.keys
        outcome.uploads += report.uploads
        outcome.wrong += report.wrong
        plan.say(f"cycle {number + 1}/{plan.cycles}: {outcome.line()}")
        if report.wrong:
            _keep_evidence(server)
            break
    return outcome


def _keep_evidence(server: Server) -> None:
    """Beside the log: what the service says of itself, and all it had on disk."""
    said = [server.metrics_text(), server.cli("async-persist", "list", check=False).stdout]
    (server.home / "said.txt").write_text("\n".join(said))
    server.kill()
    shutil.copytree(server.dir, server.home / "evidence", dirs_exist_ok=True)


@contextmanager
def home_of(name: str) -> Iterator[Path]:
    """A directory for a run, gone afterwards unless the run says `keep`."""
    home = Path(tempfile.mkdtemp(prefix=f"quickwater-{name}-"))
    try:
        yield home
    finally:
        if (home / "keep").exists():
            print(f"kept: {home}")
        else:
            shutil.rmtree(home, ignore_errors=True)


def _cycle(
    server: Server, below: Below, crash: Crash, plan: Plan, journal: Journal, number: int
) -> Report:
    seed = f"{plan.seed}/{number}"
    load = Load(server.target(), BUCKET, journal, plan.writers, seed, plan.rough)
    crash.begin()
    load.start()
    moment = random.Random(f"{plan.seed}/{number}/moment").uniform(0.1, plan.seconds)
    time.sleep(moment)
    crash.strike(server, load)
    load.stop()
    crash.recover()
    server.start()
    return check(server.target(), BUCKET, journal, below, load.uploads)
