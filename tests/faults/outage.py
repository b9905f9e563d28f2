"""A day without the store, scaled: writes, overwrites, deletes, copies and uploads go
on, the service is restarted and killed, then the store is back.

    python -m faults.outage --seconds 240

A day is `--seconds`, and so are the timers of persistence: first retry 1 s, longest
1 h, fence 15 min. A single request is given up after 2 s, not after 30 s.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

from botocore.exceptions import ClientError

from harness.payload import MIB
from harness.server import Server
from ufssim.client import Sim

from .cycles import BUCKET, home_of
from .journal import Value
from .load import Load, Mismatch, describe, fetch, match
from .write_back import PREFIX, Elsewhere, Past, WriteBack, calm, write_back

DAY_SECONDS = 86_400.0
RETRY_SECONDS, RETRY_MAX_SECONDS, FENCE_SECONDS = 1.0, 3600.0, 900.0
BEFORE_SECONDS, AFTER_SECONDS = 5.0, 5.0
WRITERS = 6
FLAGS = {
    "capacity": str(2048 * MIB),
    "segment-size": str(32 * MIB),
    "memory": str(256 * MIB),
    "s3-min-part-size": str(MIB),
}


@dataclass
class Told:
    """What a run has to show for itself."""

    acks: int = 0
    acks_while_down: int = 0
    failed_while_down: int = 0
    whys: dict[str, int] = field(default_factory=dict)
    applied: int = 0
    caught_up_seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def line(self) -> str:
        """For people."""
        return (
            f"{self.acks} acks, {self.acks_while_down} with the store down "
            f"({self.failed_while_down} without an answer: {self.whys}), "
            f"{self.applied} changes applied, "
            f"caught up in {self.caught_up_seconds:.1f} s, {len(self.wrong)} wrong"
        )


def scaled(seconds: float) -> dict[str, str]:
    """Settings under which a day takes so long."""
    scale = seconds / DAY_SECONDS
    times = {
        "write-cache-persist-retry-initial": RETRY_SECONDS * scale,
        "write-cache-persist-retry-max": RETRY_MAX_SECONDS * scale,
        "write-cache-fence": FENCE_SECONDS * scale,
    }
    return {name: f"{max(1, round(value * 1000))}ms" for name, value in times.items()}


class Day:
    """One run."""

    def __init__(self, home: Path, seconds: float, seed: str, program: Path | None) -> None:
        self.seconds, self.seed = seconds, seed
        self.back = WriteBack(home / "ufssim", seed)
        options = self.back.options({**FLAGS, **scaled(seconds)})
        self.server = Server(home / "node", program=program, **options)
        self.told = Told()
        self.loads = 0

    @property
    def sim(self) -> Sim:
        return self.back.sim

    @property
    def journal(self) -> Past:
        return self.back.journal

    def run(self, say: Callable[[str], None] = print) -> Told:
        """All of it."""
        self.server.start()
        self.server.target().client().create_bucket(Bucket=BUCKET)
        write_back(self.server)
        self.load(BEFORE_SECONDS)
        self.settle("before the outage")
        self.outage(say)
        # Back, and nobody stops writing for it.
        back = time.monotonic()
        calm(self.sim)
        self.load(AFTER_SECONDS)
        self.settle("after the outage")
        below = Elsewhere(self.sim, self.journal)
        self.told.wrong += below.converge(self.present())
        self.told.caught_up_seconds = time.monotonic() - back - AFTER_SECONDS
        self.told.acks, self.told.applied = self.journal.acks, len(self.sim.journal(PREFIX))
        say(self.told.line())
        return self.told

    def outage(self, say: Callable[[str], None]) -> None:
        """The day: gone in both ways there are, with restarts and a kill -9 in it."""
        acks, unknown = self.journal.acks, self.journal.unknown
        applied = len(self.sim.journal(PREFIX))
        events: list[tuple[str, Callable[[], object]]] = [
            ("restarted", self.server.restart),
            ("killed", self.kill),
            ("restarted", self.server.restart),
            ("", lambda: None),
        ]
        for number, (name, event) in enumerate(events):
            self.sim.down(("refuse", "black_hole")[number % 2])
            self.load(self.seconds / len(events), event)
            self.settle(f"{name} in hour {(number + 1) * 24 // len(events)}")
            say(f"hour {(number + 1) * 24 // len(events)}: {name or 'end'}, {self.journal.acks} acks")
            if self.told.wrong:
                break
        self.told.acks_while_down = self.journal.acks - acks
        self.told.failed_while_down = self.journal.unknown - unknown
        self.told.whys = dict(self.journal.whys)
        if len(self.sim.journal(PREFIX)) != applied:
            self.told.wrong.append("the store was not away")

    def load(self, seconds: float, event: Callable[[], object] = lambda: None) -> None:
        """Mixed load; the event strikes in the middle of it, and it begins again."""
        for part in range(2):
            self.loads += 1
            load = Load(
                self.server.target(), BUCKET, self.journal, WRITERS, f"{self.seed}/{self.loads}", True
            )
            load.start()
            time.sleep(seconds / 2)
            if part == 0:
                load.faulty.set()
                event()
            load.stop()

    def kill(self) -> None:
        """kill -9 and a start."""
        self.server.kill()
        self.server.start()

    def settle(self, when: str) -> None:
        """Every acked object is readable, byte for byte, whatever the store does."""
        s3 = self.server.target().client(response_checksum_validation="when_required")
        for key in self.journal.keys():
            allowed = self.journal.current(key)
            try:
                found = fetch(s3, BUCKET, key)
            except ClientError as error:
                # With the store away nobody knows of a key that was never acked here.
                if any(isinstance(seen, Value) for seen in allowed):
                    self.told.wrong.append(f"{when}: {key}: {error}, allowed {allowed}")
                continue
            seen = match(found, allowed)
            if seen is Mismatch:
                self.told.wrong.append(f"{when}: {key}: {describe(found)}, allowed {allowed}")
                continue
            self.journal.settle(key, seen if isinstance(seen, Value) else None)

    def present(self) -> dict[str, bytes]:
        """By what was read last."""
        seen = {key: self.journal.current(key)[0] for key in self.journal.keys()}
        return {key: value.data() for key, value in seen.items() if isinstance(value, Value)}

    def close(self) -> None:
        """Ends everything."""
        self.server.close()
        self.back.sim.close()


def outage(home: Path, seconds: float, seed: str = "0", program: Path | None = None) -> Told:
    """Runs a day."""
    day = Day(home, seconds, seed, program)
    try:
        return day.run()
    finally:
        day.close()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=240.0, help="length of the day")
    parser.add_argument("--seed", default=str(random.randrange(10**6)))
    parser.add_argument("--program", type=Path, help="binary, else the release build")
    options = parser.parse_args()
    print("seed", options.seed)
    with home_of("outage") as home:
        told = outage(home, options.seconds, options.seed, options.program)
        if told.wrong:
            (home / "keep").touch()
    for message in told.wrong:
        print("WRONG", message)
    return 1 if told.wrong or told.acks == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
