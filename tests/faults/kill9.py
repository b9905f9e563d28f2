"""kill -9 at random moments under mixed load; nothing acked may be lost.

    python -m faults.kill9 --cycles 50
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from harness.server import Server

from .cycles import FLAGS, Crash, Outcome, Plan, run


def kill9(home: Path, plan: Plan, program: Path | None = None) -> Outcome:
    """Runs the cycles on a directory of their own."""
    server = Server(home / "node", flags=FLAGS, program=program)
    try:
        return run(server, server.ufs, Crash(), plan)
    finally:
        server.close()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=2.0, help="longest load before a kill")
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--program", type=Path, help="binary, else the release build")
    options = parser.parse_args()
    plan = Plan(options.cycles, options.seconds, options.writers, options.seed)
    with tempfile.TemporaryDirectory(prefix="quickwater-kill9-") as home:
        outcome = kill9(Path(home), plan, options.program)
    print(outcome.line())
    for message in outcome.wrong:
        print("WRONG", message)
    return 1 if outcome.wrong or outcome.acks == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
